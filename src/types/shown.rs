//! Lists and foreign texts, for people.

use std::fmt::{self, Display, Write as _};

/// The first `most` of `items`, and how many more there are.
pub(crate) fn shown<T: Display>(items: impl ExactSizeIterator<Item = T>, most: usize) -> String {
    let more = items.len().saturating_sub(most);
    let first: Vec<_> = items.take(most).map(|item| item.to_string()).collect();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", first.join(" "))
}

/// `text`, which may come from anybody, as it can stand in a line of a log or on a terminal: what
/// would end the line, move the cursor or turn the direction of reading is escaped, and of a long
/// text only the beginning is shown, with a count of what is left out.
pub(crate) fn harmless(text: &str) -> Harmless<'_> {
    Harmless { text, bytes_max: EXCERPT_BYTES_MAX }
}

/// See [`harmless`].
#[derive(Clone, Copy)]
pub(crate) struct Harmless<'a> {
    text: &'a str,
    bytes_max: usize,
}

impl Harmless<'_> {
    /// The same with so many bytes of the text before it is cut.
    pub(crate) fn up_to(self, bytes_max: usize) -> Self {
        Self { bytes_max, ..self }
    }
}

impl Display for Harmless<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.text[..boundary(self.text, self.bytes_max)];
        for c in shown.chars() {
            match c {
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                c if is_harmful(c) => write!(f, "\\u{{{:x}}}", u32::from(c))?,
                c => f.write_char(c)?,
            }
        }
        match self.text.len() - shown.len() {
            0 => Ok(()),
            left => write!(f, "… ({left} bytes more)"),
        }
    }
}

/// The last boundary between characters of `text` that is not beyond `bytes_max`.
fn boundary(text: &str, bytes_max: usize) -> usize {
    let at_most = bytes_max.min(text.len());
    (0..=at_most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default()
}

/// Controls, and what cannot be seen but changes how the rest is seen: separators of lines and
/// paragraphs, marks of direction, characters of no width, tags.
fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// Enough for any sentence, and little enough for a line.
const EXCERPT_BYTES_MAX: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_counted() {
        assert_eq!(shown([1, 2, 3].iter(), 3), "1 2 3");
        assert_eq!(shown([1, 2, 3].iter(), 2), "1 2 and 1 more");
        assert_eq!(shown(std::iter::empty::<u8>(), 2), "");
    }

    #[test]
    fn a_foreign_text_stays_in_its_line_and_is_read_as_it_stands() {
        for (text, expected) in [
            ("no such user: \"Zoë\" in C:\\x", "no such user: \"Zoë\" in C:\\x"),
            ("a\r\nERROR forged", "a\\r\\nERROR forged"),
            ("\u{1b}[2J\u{7}\u{9b}31m\0", "\\u{1b}[2J\\u{7}\\u{9b}31m\\u{0}"),
            ("tab\there", "tab\\there"),
            ("\u{202e}gpj.exe\u{2066}", "\\u{202e}gpj.exe\\u{2066}"),
            ("line\u{2028}\u{2029}\u{85}", "line\\u{2028}\\u{2029}\\u{85}"),
            ("\u{200b}\u{feff}\u{ad}\u{e0041}", "\\u{200b}\\u{feff}\\u{ad}\\u{e0041}"),
        ] {
            assert_eq!(harmless(text).to_string(), expected);
        }
    }

    #[test]
    fn a_long_text_is_cut_between_characters_and_the_rest_counted() {
        let long = "ß".repeat(1_000);
        let shown = harmless(&long).to_string();
        assert_eq!(shown, format!("{}… (976 bytes more)", "ß".repeat(512)));
        assert_eq!(harmless(&long).up_to(3).to_string(), "ß… (1998 bytes more)");
        assert_eq!(harmless(&long).up_to(2_000).to_string(), long);
        // Escapes make a text six times as long at most, so that this is bounded as well.
        assert!(harmless(&"\u{1b}".repeat(100_000)).to_string().len() < 7_000);
    }
}

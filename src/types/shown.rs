//! Lists for people.

use std::fmt::Display;

/// The first `most` of `items`, and how many more there are.
pub(crate) fn shown<T: Display>(items: impl ExactSizeIterator<Item = T>, most: usize) -> String {
    let more = items.len().saturating_sub(most);
    let first: Vec<_> = items.take(most).map(|item| item.to_string()).collect();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", first.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_counted() {
        assert_eq!(shown([1, 2, 3].iter(), 3), "1 2 3");
        assert_eq!(shown([1, 2, 3].iter(), 2), "1 2 and 1 more");
        assert_eq!(shown(std::iter::empty::<u8>(), 2), "");
    }
}

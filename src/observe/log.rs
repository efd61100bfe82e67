//! The log of a channel: what peers bring about, told so that it can be read.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::Level;
use tracing::field::display;

use crate::types::harmless;

/// Writes the lines that a peer, or a part of the application, can bring about as often as it likes.
///
/// Each kind of line is written at most once a second for each subject, such as an address; the
/// next one says how many were left out since. A [`Trouble`] is a warning when it begins and one
/// when it is over; what repeats in between is told at DEBUG.
pub(crate) struct Log {
    channel: Option<String>,
    clock: fn() -> Instant,
    book: Mutex<Book>,
}

/// What goes wrong for a while and is over then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Trouble {
    /// A server cannot be connected to.
    Unreachable,
    /// A server says that it does not serve, or its health cannot be asked for.
    NotServing,
    /// The target cannot be resolved.
    Unresolved,
    /// The resolver gives a service config that cannot be used.
    BadConfig,
    /// Files of certificates cannot be used.
    #[cfg(feature = "_tls")]
    TlsFiles,
    /// A token for calls could not be fetched.
    NoToken,
}

impl Trouble {
    const fn begins(self) -> &'static str {
        match self {
            Self::Unreachable => "server cannot be reached",
            Self::NotServing => "server does not serve",
            Self::Unresolved => "names cannot be resolved",
            Self::BadConfig => "service config cannot be used",
            #[cfg(feature = "_tls")]
            Self::TlsFiles => "TLS cannot be set up from its files as they are now",
            Self::NoToken => "token for calls could not be fetched",
        }
    }

    const fn is_over(self) -> &'static str {
        match self {
            Self::Unreachable => "server can be reached again",
            Self::NotServing => "server serves again",
            Self::Unresolved => "names are resolved again",
            Self::BadConfig => "service config can be used again",
            #[cfg(feature = "_tls")]
            Self::TlsFiles => "TLS files can be used again",
            Self::NoToken => "token for calls is fetched again",
        }
    }
}

impl Log {
    /// The log of the channel to this target; of what several channels share, where there is none.
    pub(crate) fn new(channel: Option<String>, clock: fn() -> Instant) -> Self {
        Self { channel, clock, book: Mutex::default() }
    }

    /// Tells that something has happened to `subject`.
    pub(crate) fn tell(
        &self,
        level: Level,
        what: &'static str,
        subject: &dyn fmt::Display,
        cause: Option<&dyn fmt::Display>,
    ) {
        let subject = subject.to_string();
        let told = self.book().admit((self.clock)(), Kind::Event(what), &subject);
        if let Some(left_out) = told {
            self.write(level, what, &subject, cause, left_out);
        }
    }

    /// Tells of `trouble` with `subject`: a warning unless it is known already.
    pub(crate) fn fails(
        &self,
        trouble: Trouble,
        subject: &dyn fmt::Display,
        cause: &dyn fmt::Display,
    ) {
        let subject = subject.to_string();
        let told = self.book().fails((self.clock)(), trouble, &subject);
        if let Some((news, left_out)) = told {
            let level = if news { Level::WARN } else { Level::DEBUG };
            self.write(level, trouble.begins(), &subject, Some(cause), left_out);
        }
    }

    /// Tells that `trouble` with `subject` is over, if there was any that was told of, and returns
    /// whether there was.
    pub(crate) fn recovers(&self, trouble: Trouble, subject: &dyn fmt::Display) -> bool {
        let subject = subject.to_string();
        let told = self.book().recovers(trouble, &subject);
        if let Some(left_out) = told {
            self.write(Level::WARN, trouble.is_over(), &subject, None, left_out);
        }
        told.is_some()
    }

    fn write(
        &self,
        level: Level,
        what: &'static str,
        subject: &str,
        cause: Option<&dyn fmt::Display>,
        left_out: u64,
    ) {
        let channel = self.channel.as_ref().map(display);
        // Of whatever part or peer.
        let cause = cause.map(ToString::to_string);
        let cause = cause.as_ref().map(|cause| display(harmless(cause).up_to(CAUSE_BYTES_MAX)));
        let subject = harmless(subject);
        let left_out = (left_out > 0).then_some(left_out);
        macro_rules! write_at {
            ($level:ident) => {
                tracing::event!(target: "switchboard", Level::$level, channel, %subject, cause, left_out, "{what}")
            };
        }
        match level {
            Level::ERROR => write_at!(ERROR),
            Level::WARN => write_at!(WARN),
            Level::INFO => write_at!(INFO),
            Level::DEBUG => write_at!(DEBUG),
            Level::TRACE => write_at!(TRACE),
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When which line was written last, and what is known of each subject.
#[derive(Debug, Default)]
struct Book {
    lines: HashMap<Kind, HashMap<String, Line>>,
    /// How many events there are, and how many troubles: neither takes the other's room.
    events: usize,
    troubles: usize,
}

/// What a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Event(&'static str),
    Trouble(Trouble),
}

#[derive(Clone, Copy, Debug)]
struct Line {
    written: Instant,
    left_out: u64,
    trouble: Told,
}

/// What has been said of a trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// It is over, or was never begun with a line.
    Nothing,
    /// That it began.
    Began,
}

impl Book {
    /// Whether a line is written, and how many were left out before it.
    fn admit(&mut self, now: Instant, kind: Kind, subject: &str) -> Option<u64> {
        if let Some(line) = self.line(kind, subject) {
            if now.saturating_duration_since(line.written) < INTERVAL {
                line.left_out += 1;
                return None;
            }
            line.written = now;
            return Some(std::mem::take(&mut line.left_out));
        }
        if *self.len_of(kind) == LINES_MAX {
            self.make_room(now, kind)?;
        }
        let line = Line { written: now, left_out: 0, trouble: Told::Nothing };
        self.lines.entry(kind).or_default().insert(subject.to_owned(), line);
        *self.len_of(kind) += 1;
        Some(0)
    }

    /// As [`admit`](Self::admit), and whether it is the first line of this trouble.
    ///
    /// A trouble whose beginning is left out is begun by a later failure, so that each pair of
    /// warnings is whole.
    fn fails(&mut self, now: Instant, trouble: Trouble, subject: &str) -> Option<(bool, u64)> {
        let kind = Kind::Trouble(trouble);
        let left_out = self.admit(now, kind, subject)?;
        let line = self.line(kind, subject)?;
        let is_news = std::mem::replace(&mut line.trouble, Told::Began) == Told::Nothing;
        Some((is_news, left_out))
    }

    /// Whether the end of a trouble is told, and how many lines were left out before it. It is if
    /// its beginning was: of both there is one a second.
    fn recovers(&mut self, trouble: Trouble, subject: &str) -> Option<u64> {
        let line = self.line(Kind::Trouble(trouble), subject)?;
        match std::mem::replace(&mut line.trouble, Told::Nothing) {
            Told::Began => Some(std::mem::take(&mut line.left_out)),
            Told::Nothing => None,
        }
    }

    fn line(&mut self, kind: Kind, subject: &str) -> Option<&mut Line> {
        self.lines.get_mut(&kind)?.get_mut(subject)
    }

    fn len_of(&mut self, kind: Kind) -> &mut usize {
        match kind {
            Kind::Event(_) => &mut self.events,
            Kind::Trouble(_) => &mut self.troubles,
        }
    }

    /// Forgets the oldest line of what is like `kind`; nothing where all are too young.
    fn make_room(&mut self, now: Instant, kind: Kind) -> Option<()> {
        let is_alike = |other: &Kind| {
            matches!(
                (kind, other),
                (Kind::Event(_), Kind::Event(_)) | (Kind::Trouble(_), Kind::Trouble(_))
            )
        };
        let alike = self.lines.iter().filter(|(other, _)| is_alike(other));
        let all = alike.flat_map(|(other, lines)| {
            lines.iter().map(move |(subject, line)| (*other, subject, line))
        });
        let old =
            all.filter(|(_, _, line)| now.saturating_duration_since(line.written) >= INTERVAL);
        let (oldest, subject, _) =
            old.min_by_key(|(_, _, line)| (line.trouble == Told::Began, line.written))?;
        let subject = subject.clone();
        self.lines.get_mut(&oldest)?.remove(&subject);
        *self.len_of(kind) -= 1;
        Some(())
    }
}

/// The least time between two lines of one kind about one subject.
const INTERVAL: Duration = Duration::from_secs(1);

/// How many lines of events, and how many of troubles, are kept in mind, and so how many can be
/// written within the interval.
const LINES_MAX: usize = 256;

/// So much of a cause is shown.
const CAUSE_BYTES_MAX: usize = 4 * 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "some time to count from")]
    fn start() -> Instant {
        Instant::now()
    }

    const EVENT: Kind = Kind::Event("it happened");

    #[test]
    fn a_line_is_written_once_a_second_and_then_says_how_many_were_left_out() {
        let (mut book, begun) = (Book::default(), start());
        for (at, subject, expected) in [
            (0, "a", Some(0)),
            (0, "b", Some(0)),
            (1, "a", None),
            (999, "a", None),
            (1_000, "a", Some(2)),
            (1_001, "a", None),
            (5_000, "a", Some(1)),
            (5_000, "b", Some(0)),
        ] {
            let now = begun + Duration::from_millis(at);
            assert_eq!(book.admit(now, EVENT, subject), expected, "{subject} at {at}");
        }
    }

    #[test]
    fn trouble_is_news_once_until_it_is_over() {
        let (mut book, begun) = (Book::default(), start());
        let at = |ms| begun + Duration::from_millis(ms);
        let trouble = Trouble::Unreachable;
        assert_eq!(book.recovers(trouble, "a"), None);
        assert_eq!(book.fails(at(0), trouble, "a"), Some((true, 0)));
        assert_eq!(book.fails(at(500), trouble, "a"), None);
        assert_eq!(book.fails(at(1_500), trouble, "a"), Some((false, 1)));
        assert_eq!(book.recovers(trouble, "a"), Some(0));
        assert_eq!(book.recovers(trouble, "a"), None);
        // It flaps: what began unsaid ends unsaid.
        assert_eq!(book.fails(at(1_600), trouble, "a"), None);
        assert_eq!(book.recovers(trouble, "a"), None);
        // It lasts: what began unsaid is said later.
        assert_eq!(book.fails(at(1_700), trouble, "a"), None);
        assert_eq!(book.fails(at(2_500), trouble, "a"), Some((true, 2)));
        assert_eq!(book.fails(at(2_500), Trouble::Unresolved, "a"), Some((true, 0)));
    }

    #[test]
    fn subjects_without_end_take_bounded_room_and_bounded_lines() {
        let (mut book, begun) = (Book::default(), start());
        let lines =
            (0..10_000).filter(|nth: &u32| book.admit(begun, EVENT, &nth.to_string()).is_some());
        assert_eq!(lines.count(), LINES_MAX);
        // Trouble is kept in mind all the same.
        let later = begun + INTERVAL;
        assert_eq!(book.fails(later, Trouble::Unreachable, "a"), Some((true, 0)));
        for second in 2..10 {
            let now = begun + INTERVAL * second;
            for nth in 0..10_000 {
                book.admit(now, EVENT, &format!("{second} {nth}"));
            }
        }
        assert_eq!((book.events, book.troubles), (LINES_MAX, 1));
        assert_eq!(book.lines.values().map(HashMap::len).sum::<usize>(), LINES_MAX + 1);
        assert_eq!(book.recovers(Trouble::Unreachable, "a"), Some(0));
    }
}

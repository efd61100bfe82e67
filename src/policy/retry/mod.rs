//! What follows when an attempt failed: another one, or the end of the call.

use crate::types::Seen;

/// What to do after an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Try again at once on a fresh pick: the server application has seen nothing. Counts neither
    /// as an attempt nor for throttling (A6).
    RetryTransparently,
    /// The failure is the outcome of the call.
    Finish,
}

/// Judges a failed attempt by what the server may have seen of it.
///
/// A stream that never left the client is tried again for as long as the deadline allows; one
/// that the server refused or disowned, once in the life of the call (A6, transparent retries).
/// Once `committed` there is nothing left to send again.
pub(crate) fn verdict(seen: Seen, refused_before: bool, committed: bool) -> Verdict {
    match seen {
        Seen::Never if !committed => Verdict::RetryTransparently,
        Seen::Refused if !committed && !refused_before => Verdict::RetryTransparently,
        Seen::Never | Seen::Refused | Seen::Maybe => Verdict::Finish,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // spec: A6/transparent-retry
    #[test]
    fn only_what_the_server_cannot_have_seen_is_tried_again() {
        use Verdict::{Finish, RetryTransparently};
        let rows = [
            (Seen::Never, false, false, RetryTransparently),
            (Seen::Never, true, false, RetryTransparently),
            (Seen::Never, false, true, Finish),
            (Seen::Never, true, true, Finish),
            (Seen::Refused, false, false, RetryTransparently),
            (Seen::Refused, true, false, Finish),
            (Seen::Refused, false, true, Finish),
            (Seen::Refused, true, true, Finish),
            (Seen::Maybe, false, false, Finish),
            (Seen::Maybe, true, false, Finish),
            (Seen::Maybe, false, true, Finish),
            (Seen::Maybe, true, true, Finish),
        ];
        for (seen, refused_before, committed, expected) in rows {
            let row = (seen, refused_before, committed);
            assert_eq!(verdict(seen, refused_before, committed), expected, "{row:?}");
        }
    }
}

//! What a server may have seen.

/// What the server may have seen of a stream that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Nothing: it never left this process.
    Never,
    /// It was sent, and the server says that its application has not seen it.
    Refused,
    /// Perhaps all of it.
    Maybe,
}

//! How often a resolver may be asked.

use std::time::Duration;

/// How often a resolver may be asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refresh {
    /// Never: it gives the same answer each time.
    Never,
    /// No sooner than this after its last answer.
    AtMostEvery(Duration),
}

//! How well a connection is protected.

use std::fmt;

use serde::Serialize;

/// What a connection protects its calls from (L62). Levels are ordered: a higher one protects from
/// all that a lower one does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum SecurityLevel {
    /// Nothing: others may read and change what is sent.
    None,
    /// Nobody can change it unnoticed.
    Integrity,
    /// Nobody can read it either.
    PrivacyAndIntegrity,
}

impl fmt::Display for SecurityLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::None => "no security",
            Self::Integrity => "integrity",
            Self::PrivacyAndIntegrity => "privacy and integrity",
        })
    }
}

//! Small identifiers.

use std::fmt;

/// Names one subchannel of a channel: one address as load-balancing policies see it.
///
/// The index is dense, so that a table of subchannels is an array; it is used again after the
/// subchannel is gone, and the serial tells the two apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubchannelId {
    index: u32,
    serial: u32,
}

impl SubchannelId {
    /// The subchannel at `index`, the `serial`-th that this channel has made.
    pub const fn new(index: u32, serial: u32) -> Self {
        Self { index, serial }
    }

    /// Where in a table of subchannels this one stands.
    pub const fn index(self) -> usize {
        self.index as usize
    }

    /// How many subchannels this channel had made when it made this one.
    pub const fn serial(self) -> u32 {
        self.serial
    }
}

impl fmt::Display for SubchannelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.serial)
    }
}

/// Counts the snapshots that a channel has published. A call uses each at most once per pick.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(u64);

impl Generation {
    /// The generation after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The number itself.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

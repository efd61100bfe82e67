//! The servers that are called.

pub(crate) mod null;
pub(crate) mod tonic;

/// The window of a stream that a server grants.
const STREAM_WINDOW: u32 = 4 << 20;
/// The window of a connection that a server grants.
const CONNECTION_WINDOW: u32 = 16 << 20;

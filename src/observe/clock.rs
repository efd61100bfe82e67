//! The clocks of the machine.

#[cfg(feature = "otel")]
use std::time::Instant;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long ago 1970 began.
pub(crate) fn since_1970() -> Duration {
    now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The time of day: for people, files and tokens. What the library itself waits for goes by the
/// clock of its runtime.
#[expect(clippy::disallowed_methods, reason = "this is the one place where it is read")]
pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}

/// The time by a clock that only goes forward, for what belongs to no runtime and waits for nothing.
#[cfg(feature = "otel")]
#[expect(clippy::disallowed_methods, reason = "this is the one place where it is read")]
pub(crate) fn instant() -> Instant {
    Instant::now()
}

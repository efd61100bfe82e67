//! When a connection was last used for what.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Times that are kept where somebody wants to know them: the clock is read for each.
pub(super) struct Times {
    born: Instant,
    /// In nanoseconds since `born`, as the others; 0 for never.
    stream: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

/// How long ago it was, where it ever was.
#[derive(Clone, Copy, Default)]
pub(super) struct Ago {
    pub(super) stream: Option<Duration>,
    pub(super) sent: Option<Duration>,
    pub(super) received: Option<Duration>,
}

impl Times {
    pub(super) fn new() -> Self {
        let never = || AtomicU64::new(0);
        Self { born: Instant::now(), stream: never(), sent: never(), received: never() }
    }

    /// When a call was last given a stream.
    pub(super) fn stream(&self) -> &AtomicU64 {
        &self.stream
    }

    /// When a message was last handed over for sending.
    pub(super) fn sent(&self) -> &AtomicU64 {
        &self.sent
    }

    /// When a whole message was last read.
    pub(super) fn received(&self) -> &AtomicU64 {
        &self.received
    }

    /// That was now.
    pub(super) fn note(&self, what: &AtomicU64) {
        let nanos = u64::try_from(self.born.elapsed().as_nanos()).unwrap_or(u64::MAX);
        what.store(nanos.max(1), Ordering::Relaxed);
    }

    pub(super) fn ago(&self) -> Ago {
        let age = self.born.elapsed();
        let ago = |what: &AtomicU64| match what.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(age.saturating_sub(Duration::from_nanos(nanos))),
        };
        Ago { stream: ago(&self.stream), sent: ago(&self.sent), received: ago(&self.received) }
    }
}

//! Word that something about a channel is new, for whoever watches it being inspected.

use std::sync::Arc;

use tokio::sync::watch;

/// Says that there is something new, and nothing of what it is: whoever hears it asks.
#[derive(Clone)]
pub(crate) struct News(Arc<watch::Sender<u64>>);

impl News {
    pub(super) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }

    /// There is.
    pub(super) fn tell(&self) {
        // Without anybody who listens that is a count.
        self.0.send_modify(|news| *news += 1);
    }

    /// Hears of all that is new from now on.
    pub(crate) fn listen(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}

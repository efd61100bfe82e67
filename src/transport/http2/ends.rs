//! Which responses are over.
//!
//! The engine tells that only to whoever reads a stream, behind all that came before. A task that
//! only sends would wait for room that the server, which has answered, never gives. So the last
//! frame of each response is noted as it goes by, and who sends on its stream is woken.

use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The streams whose last frame has arrived.
#[derive(Debug, Default)]
pub(super) struct Ends {
    /// How many streams are open for sending: without any, nothing is noted.
    senders: AtomicUsize,
    arrived: Mutex<Vec<u32>>,
}

impl Ends {
    /// So many streams are open for sending. Said before the requests of new ones can leave.
    pub(super) fn set_senders(&self, senders: usize) {
        self.senders.store(senders, Ordering::Relaxed);
    }

    /// The last frame of `stream` is here.
    pub(super) fn arrived(&self, stream: u32) {
        if self.senders.load(Ordering::Relaxed) > 0 {
            self.streams().push(stream);
        }
    }

    /// Takes out the streams that have been noted.
    pub(super) fn take(&self) -> Vec<u32> {
        if self.senders.load(Ordering::Relaxed) == 0 {
            return Vec::new();
        }
        mem::take(&mut *self.streams())
    }

    fn streams(&self) -> MutexGuard<'_, Vec<u32>> {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! What a server does that those who send on a stream must hear of.
//!
//! The engine tells only whoever reads a stream that its response is over, behind all that came
//! before. A task that only sends would wait for room that the server, which has answered, never
//! gives. And it tells nobody that a server makes room, by which it is known to read. So both are
//! noted as they go by, and passed on when the engine has taken them.

use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What has gone by for streams that are open for sending.
#[derive(Debug, Default)]
pub(super) struct Signs {
    /// How many such streams there are: without any, nothing is noted.
    senders: AtomicUsize,
    noted: Mutex<Vec<(u32, Sign)>>,
}

/// What the server does on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// The whole response is here.
    Ended,
    /// The server makes room: it has read.
    MadeRoom,
}

impl Signs {
    /// So many streams are open for sending. Said before the requests of new ones can leave.
    pub(super) fn set_senders(&self, senders: usize) {
        self.senders.store(senders, Ordering::Relaxed);
    }

    /// How many streams are open for sending.
    pub(super) fn senders(&self) -> usize {
        self.senders.load(Ordering::Relaxed)
    }

    /// A sign has gone by.
    pub(super) fn note(&self, stream: u32, sign: Sign) {
        if self.senders.load(Ordering::Relaxed) > 0 {
            let mut noted = self.noted();
            if noted.last() != Some(&(stream, sign)) {
                noted.push((stream, sign));
            }
        }
    }

    /// Takes out what has been noted.
    pub(super) fn take(&self) -> Vec<(u32, Sign)> {
        if self.senders.load(Ordering::Relaxed) == 0 {
            return Vec::new();
        }
        mem::take(&mut *self.noted())
    }

    fn noted(&self) -> MutexGuard<'_, Vec<(u32, Sign)>> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

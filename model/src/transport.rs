//! A connection without anything that comes over the wire: what of it calls and actors share.

#[path = "../../src/transport/http2/members.rs"]
mod members;

use std::sync::Arc;

use crate::sync::{AtomicUsize, Ordering};
use members::Members;

#[derive(Clone)]
pub(crate) struct Connection(Arc<Shared>);

struct Shared {
    members: Arc<Members>,
    stopped: AtomicUsize,
}

impl Connection {
    pub(crate) fn first() -> Self {
        let members = Arc::new(Members::new());
        let first = Self::of(&members);
        *members.lock() = [first.clone()].into();
        first
    }

    /// A sibling, if there is still somebody to join; as `connection::new` does it.
    pub(crate) fn join(&self) -> Option<Self> {
        let mut members = self.0.members.lock();
        if members.is_empty() {
            return None;
        }
        let joined = Self::of(&self.0.members);
        *members = members.iter().cloned().chain([joined.clone()]).collect();
        Some(joined)
    }

    fn of(members: &Arc<Members>) -> Self {
        let (members, stopped) = (members.clone(), AtomicUsize::new(0));
        Self(Arc::new(Shared { members, stopped }))
    }

    /// As `Shared::stop` does it, through `Admission::leave`.
    pub(crate) fn stop(&self) {
        let stop = || self.0.stopped.store(1, Ordering::Release);
        self.0.members.leave(|member| self.is(member), stop);
    }

    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(crate) fn is_usable(&self) -> bool {
        self.0.stopped.load(Ordering::Acquire) == 0
    }

    pub(crate) fn siblings(&self) -> Arc<[Self]> {
        self.0.members.all()
    }
}

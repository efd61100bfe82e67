//! What a call tells those who observe it.

use std::mem;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::observe::{AttemptKind, CallEvent, Watching};
use crate::types::{Metadata, Status};

/// Those who observe a call: mostly nobody, which costs a branch an event.
///
/// A call that goes away without an end has been dropped, and its end is told then.
#[derive(Default)]
pub(crate) struct Events(Option<Box<Observed>>);

struct Observed {
    observers: Vec<Watching>,
    next_attempt: AtomicU32,
    under_way: Mutex<UnderWay>,
}

/// What has not been told the end of.
enum UnderWay {
    /// The call, and these of its attempts.
    Call(Vec<u32>),
    Nothing,
}

impl Events {
    /// Tells `observers` from now on.
    pub(crate) fn to(observers: Vec<Watching>) -> Self {
        if observers.is_empty() {
            return Self(None);
        }
        let under_way = Mutex::new(UnderWay::Call(Vec::new()));
        Self(Some(Box::new(Observed { observers, next_attempt: AtomicU32::new(0), under_way })))
    }

    /// Whether nobody is told.
    pub(super) fn are_unseen(&self) -> bool {
        self.0.is_none()
    }

    /// Tells of what `event` makes.
    #[inline]
    pub(super) fn tell<'a>(&self, event: impl FnOnce() -> CallEvent<'a>) {
        if let Some(observed) = &self.0 {
            observed.tell(&event());
        }
    }

    /// What observers want the server of an attempt to know.
    #[inline]
    pub(super) fn propagated(&self, attempt: u32) -> Metadata {
        self.0.as_ref().map_or_else(Metadata::new, |observed| observed.propagated(attempt))
    }

    /// Tells of an attempt that begins; gives its number.
    #[inline]
    pub(super) fn attempt_began(&self, kind: AttemptKind) -> u32 {
        self.0.as_ref().map_or(0, |observed| observed.attempt_began(kind))
    }

    /// Tells how the server ended an attempt.
    #[inline]
    pub(super) fn trailers(&self, attempt: u32, ended: Result<&Metadata, &Status>) {
        self.tell(|| {
            let metadata = ended.unwrap_or_else(Status::metadata);
            CallEvent::ResponseTrailers { attempt, metadata }
        });
    }

    /// Tells how an attempt ended.
    #[inline]
    pub(super) fn attempt_ended(&self, attempt: u32, result: Result<(), &Status>) {
        if let Some(observed) = &self.0 {
            observed.attempt_ended(attempt, result);
        }
    }

    /// Tells that the call has no more use for its attempts but this one.
    #[inline]
    pub(super) fn committed_to(&self, attempt: u32) {
        if let Some(observed) = &self.0 {
            observed.committed_to(attempt);
        }
    }

    /// Tells how the call ended, and first of its attempts that nobody waits for any more.
    #[inline]
    pub(crate) fn ended(&self, result: Result<(), &Status>) {
        if let Some(observed) = &self.0 {
            observed.ended(result);
        }
    }
}

impl Observed {
    #[cold]
    fn tell(&self, event: &CallEvent<'_>) {
        for observer in &self.observers {
            observer.tell(|observer| observer.event(event));
        }
    }

    #[cold]
    fn propagated(&self, attempt: u32) -> Metadata {
        let mut metadata = Metadata::new();
        for observer in &self.observers {
            observer.tell(|observer| observer.propagate(attempt, &mut metadata));
        }
        metadata
    }

    #[cold]
    fn attempt_began(&self, kind: AttemptKind) -> u32 {
        let attempt = self.next_attempt.fetch_add(1, Ordering::Relaxed);
        match &mut *self.under_way.lock().unwrap_or_else(PoisonError::into_inner) {
            UnderWay::Call(attempts) => attempts.push(attempt),
            UnderWay::Nothing => return attempt,
        }
        self.tell(&CallEvent::AttemptBegan { attempt, kind });
        attempt
    }

    #[cold]
    fn attempt_ended(&self, attempt: u32, result: Result<(), &Status>) {
        match &mut *self.under_way.lock().unwrap_or_else(PoisonError::into_inner) {
            UnderWay::Call(attempts) if attempts.contains(&attempt) => {
                attempts.retain(|it| *it != attempt);
            }
            UnderWay::Call(_) | UnderWay::Nothing => return,
        }
        self.tell(&CallEvent::AttemptEnded { attempt, result });
    }

    #[cold]
    fn committed_to(&self, attempt: u32) {
        let others = match &mut *self.under_way.lock().unwrap_or_else(PoisonError::into_inner) {
            UnderWay::Call(attempts) => {
                let others = attempts.iter().copied().filter(|it| *it != attempt).collect();
                attempts.retain(|it| *it == attempt);
                others
            }
            UnderWay::Nothing => Vec::new(),
        };
        let given_up = given_up();
        for attempt in others {
            self.tell(&CallEvent::AttemptEnded { attempt, result: Err(&given_up) });
        }
    }

    #[cold]
    fn ended(&self, result: Result<(), &Status>) {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let UnderWay::Call(attempts) = mem::replace(&mut *under_way, UnderWay::Nothing) else {
            return;
        };
        drop(under_way);
        let given_up = given_up();
        for attempt in attempts {
            let result = Err(result.err().unwrap_or(&given_up));
            self.tell(&CallEvent::AttemptEnded { attempt, result });
        }
        self.tell(&CallEvent::Ended { result });
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        self.ended(Err(&Status::cancelled("the application dropped the call")));
    }
}

/// How an attempt ends that the call does not wait for.
fn given_up() -> Status {
    Status::cancelled("the call has no more use for this attempt")
}

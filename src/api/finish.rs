//! What is called when a call is over.

use std::fmt;
use std::mem;
use std::sync::Arc;

use crate::types::Status;

/// Functions that are called once when a call is over; where it is dropped before, with CANCELLED.
#[expect(unnameable_types, reason = "a sealed trait has it")]
#[derive(Default)]
pub struct Finish(Hooks);

/// Functions that are to be called when a call is over.
#[derive(Clone, Default)]
pub(super) struct Hooks(Vec<Arc<Hook>>);

type Hook = dyn Fn(Result<(), &Status>) + Send + Sync;

impl Hooks {
    pub(super) fn push(&mut self, hook: impl Fn(Result<(), &Status>) + Send + Sync + 'static) {
        self.0.push(Arc::new(hook));
    }

    /// Takes them out, to be called once.
    pub(super) fn take(&mut self) -> Finish {
        Finish(mem::take(self))
    }
}

impl Finish {
    pub(super) fn is_empty(&self) -> bool {
        self.0.0.is_empty()
    }

    /// Calls those of `other` after these.
    pub(super) fn append(&mut self, mut other: Self) {
        self.0.0.append(&mut other.0.0);
    }

    /// Calls them.
    pub(super) fn run(mut self, result: Result<(), &Status>) {
        self.run_once(result);
    }

    /// Calls them, if that has not been done.
    pub(super) fn run_once(&mut self, result: Result<(), &Status>) {
        for hook in mem::take(&mut self.0.0) {
            hook(result);
        }
    }
}

impl Drop for Finish {
    fn drop(&mut self) {
        if !self.is_empty() {
            self.run_once(Err(&Status::cancelled("the application dropped the call")));
        }
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} hooks]", self.0.len())
    }
}

//! What is called when a call is over.

use std::fmt;
use std::mem;
use std::sync::Arc;

use crate::types::{Status, caught};

/// Functions that are called once when a call is over; where it is dropped before, with CANCELLED.
#[expect(unnameable_types, reason = "a sealed trait has it")]
#[derive(Default)]
pub struct Finish(Hooks);

/// Functions that are to be called when a call is over. Mostly there are none, and then it is but
/// a word to move about.
#[derive(Clone, Default)]
#[expect(clippy::box_collection, reason = "a word of its own is what it is for")]
pub(super) struct Hooks(Option<Box<Vec<Arc<Hook>>>>);

type Hook = dyn Fn(Result<(), &Status>) + Send + Sync;

impl Hooks {
    pub(super) fn push(&mut self, hook: impl Fn(Result<(), &Status>) + Send + Sync + 'static) {
        self.0.get_or_insert_default().push(Arc::new(hook));
    }

    /// Takes them out, to be called once.
    pub(super) fn take(&mut self) -> Finish {
        Finish(mem::take(self))
    }
}

impl Finish {
    pub(super) fn is_empty(&self) -> bool {
        self.0.0.is_none()
    }

    /// Calls those of `other` after these.
    pub(super) fn append(&mut self, mut other: Self) {
        if let Some(mut hooks) = other.0.0.take() {
            self.0.0.get_or_insert_default().append(&mut hooks);
        }
    }

    /// Calls them.
    #[inline]
    pub(super) fn run(mut self, result: Result<(), &Status>) {
        self.run_once(result);
    }

    /// Calls them, if that has not been done.
    fn run_once(&mut self, result: Result<(), &Status>) {
        if let Some(hooks) = self.0.0.take() {
            for hook in *hooks {
                // Its drop is the application's too.
                if let Err(panicked) = caught("an `on_finish` hook", move || hook(result)) {
                    tracing::error!(target: "switchboard", %panicked, "the call has ended all the same");
                }
            }
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
        write!(f, "[{} hooks]", self.0.as_ref().map_or(0, |hooks| hooks.len()))
    }
}

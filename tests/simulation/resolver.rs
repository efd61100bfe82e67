//! A resolver that takes its time, whose answers the simulation sets.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use switchboard::{
    BoxFuture, BuildResolver, Refresh, Resolution, Resolve, ResolveError, Target, TargetError,
};
use tokio::sync::watch;

use crate::chance::Chance;
use crate::trace::Trace;

/// A handle: clones share what is found.
#[derive(Clone)]
pub(crate) struct Names(Arc<Inner>);

struct Inner {
    found: watch::Sender<Result<Resolution, ResolveError>>,
    chance: Mutex<Chance>,
    /// Resolvers that have been built and not dropped.
    alive: AtomicUsize,
    trace: Trace,
}

impl Names {
    pub(crate) fn new(seed: u64, trace: &Trace) -> Self {
        Self(Arc::new(Inner {
            found: watch::Sender::new(Ok(Resolution::default())),
            chance: Mutex::new(Chance::of(&[seed, 3])),
            alive: AtomicUsize::new(0),
            trace: trace.clone(),
        }))
    }

    /// From now on this is found.
    pub(crate) fn set(&self, found: Result<Resolution, ResolveError>) {
        drop(self.0.found.send_replace(found));
    }

    /// How many resolvers are at work.
    pub(crate) fn alive(&self) -> usize {
        self.0.alive.load(Ordering::SeqCst)
    }
}

impl BuildResolver for Names {
    fn build(&self, _: &Target) -> Result<Box<dyn Resolve>, TargetError> {
        self.0.alive.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(Resolver { inner: self.0.clone(), found: self.0.found.subscribe() }))
    }
}

struct Resolver {
    inner: Arc<Inner>,
    found: watch::Receiver<Result<Resolution, ResolveError>>,
}

impl Resolve for Resolver {
    fn resolve(&mut self) -> BoxFuture<'_, Result<Resolution, ResolveError>> {
        Box::pin(async move {
            // What was true when it was asked; that may be over when it answers.
            let outcome = self.found.borrow_and_update().clone();
            let millis = {
                let mut chance = self.inner.chance.lock().unwrap();
                if chance.percent(70) { chance.below(20) } else { chance.below(2_000) }
            };
            tokio::time::sleep(Duration::from_millis(millis)).await;
            self.inner.trace.tell(match &outcome {
                Ok(found) => format!("resolved: {} endpoints", found.endpoints.len()),
                Err(error) => format!("resolution fails: {error}"),
            });
            outcome
        })
    }

    fn changed(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            // The sender lives as long as `inner`.
            let _ = self.found.changed().await;
            // Not seen before the look-up that follows: the future may be dropped in between.
            self.found.mark_changed();
        })
    }

    fn refresh(&self) -> Refresh {
        Refresh::AtMostEvery(Duration::from_secs(1))
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.inner.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

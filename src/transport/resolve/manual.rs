//! A resolver under the control of a test.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch;

use crate::types::{Endpoint, Refresh, Target, TargetError};

use super::super::connect::BoxFuture;
use super::{BuildResolver, Resolution, Resolve, ResolveError};

/// Gives what a test has set, and tells the channel when that changes.
///
/// A handle: clones and all resolvers built from them share one state, which outlives each
/// resolver. Lookups wait until there is a first state.
#[derive(Clone, Debug)]
pub struct ManualResolver(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: watch::Sender<Option<Result<Resolution, ResolveError>>>,
    lookups: AtomicUsize,
}

impl ManualResolver {
    /// A resolver that has no state yet.
    pub fn new() -> Self {
        Self(Arc::new(Inner { state: watch::Sender::new(None), lookups: AtomicUsize::new(0) }))
    }

    /// From now on these endpoints are found.
    pub fn set(&self, endpoints: impl IntoIterator<Item = Endpoint>) {
        self.set_resolution(Resolution::new(endpoints));
    }

    /// From now on this is found.
    pub fn set_resolution(&self, resolution: Resolution) {
        self.0.state.send_replace(Some(Ok(resolution)));
    }

    /// From now on lookups fail.
    pub fn fail(&self, error: ResolveError) {
        self.0.state.send_replace(Some(Err(error)));
    }

    /// How many lookups have begun.
    pub fn lookups(&self) -> usize {
        self.0.lookups.load(Ordering::SeqCst)
    }
}

impl Default for ManualResolver {
    fn default() -> Self {
        Self::new()
    }
}

impl BuildResolver for ManualResolver {
    fn build(&self, _target: &Target) -> Result<Box<dyn Resolve>, TargetError> {
        Ok(Box::new(Manual { inner: Arc::clone(&self.0), state: self.0.state.subscribe() }))
    }
}

struct Manual {
    inner: Arc<Inner>,
    state: watch::Receiver<Option<Result<Resolution, ResolveError>>>,
}

impl Resolve for Manual {
    fn resolve(&mut self) -> BoxFuture<'_, Result<Resolution, ResolveError>> {
        self.inner.lookups.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            loop {
                // Seen from here on: only what is set after this is a change.
                if let Some(outcome) = self.state.borrow_and_update().clone() {
                    return outcome;
                }
                if self.state.changed().await.is_err() {
                    return Err(ResolveError::new("the manual resolver is gone"));
                }
            }
        })
    }

    fn changed(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            // The sender lives as long as `inner`.
            let _ = self.state.changed().await;
            // Not seen before the lookup that follows: the future may be dropped in between.
            self.state.mark_changed();
        })
    }

    fn refresh(&self) -> Refresh {
        Refresh::AtMostEvery(std::time::Duration::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use futures_util::FutureExt as _;

    use super::*;

    fn endpoint(port: u16) -> Endpoint {
        SocketAddr::from(([127, 0, 0, 1], port)).into()
    }

    fn target() -> Target {
        Target::parse("manual:x", &["manual"], "manual").unwrap()
    }

    #[tokio::test]
    async fn a_lookup_waits_for_the_first_state_and_remembers_the_last() {
        let manual = ManualResolver::new();
        let mut resolver = manual.build(&target()).unwrap();
        assert!(resolver.resolve().now_or_never().is_none());
        manual.set([endpoint(1)]);
        let found = resolver.resolve().await.unwrap();
        assert_eq!(found.endpoints, [endpoint(1)]);
        manual.fail(ResolveError::new("no such name"));
        let mut rebuilt = manual.build(&target()).unwrap();
        let error = rebuilt.resolve().await.unwrap_err();
        assert_eq!(error.to_string(), "no such name");
        assert_eq!(manual.lookups(), 3);
    }

    #[tokio::test]
    async fn every_set_is_a_change_for_every_resolver() {
        let manual = ManualResolver::new();
        manual.set([endpoint(1)]);
        let mut resolvers = [manual.build(&target()).unwrap(), manual.build(&target()).unwrap()];
        for resolver in &mut resolvers {
            resolver.resolve().await.unwrap();
            assert!(resolver.changed().now_or_never().is_none());
        }
        manual.set([endpoint(1)]);
        for resolver in &mut resolvers {
            assert!(resolver.changed().now_or_never().is_some());
            // Not lost by who does not act on it at once.
            assert!(resolver.changed().now_or_never().is_some());
            resolver.resolve().await.unwrap();
            assert!(resolver.changed().now_or_never().is_none());
        }
    }
}

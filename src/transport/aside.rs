//! Blocking work beside the runtime: one piece of a kind at a time, and nobody waits for ever.

use std::fmt;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::watch;

/// Runs work that blocks, such as reading a file, one piece at a time.
///
/// Who asks while a piece is under way shares its outcome. The work runs on a thread of its own, as
/// a file system that hangs cannot be interrupted: neither the blocking threads of the runtime nor
/// its shutdown wait for that thread longer than the timeout. Until it ends, all who ask are told
/// at once that it is late, and no further thread is started.
pub(crate) struct Aside<T> {
    slot: Slot<T>,
    timeout: Duration,
}

/// The piece that is under way, if there is one.
type Slot<T> = Arc<Mutex<Option<Outcome<T>>>>;

/// What came of a piece of work, once that is known.
type Outcome<T> = watch::Receiver<Option<Result<T, NoOutcome>>>;

/// The work gave nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoOutcome {
    /// It has not ended within this time.
    Late(Duration),
    /// It panicked, its thread could not be started, or the runtime of who began it has ended.
    Stopped,
}

impl<T: Clone + Send + Sync + 'static> Aside<T> {
    /// Nobody waits longer than `timeout`, a time of the machine's clock.
    pub(crate) fn new(timeout: Duration) -> Self {
        Self { slot: Slot::default(), timeout }
    }

    /// Runs `work`, or waits for what is under way already.
    ///
    /// Dropping the future does not end the work. While it runs, a paused clock of tokio stands
    /// still.
    pub(crate) async fn run(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NoOutcome> {
        let (mut outcome, waiting) = self.join(work);
        if let Some(waiting) = waiting {
            tokio::task::spawn_blocking(waiting);
        }
        let told = outcome.wait_for(Option::is_some).await;
        told.ok().and_then(|told| told.clone()).unwrap_or(Err(NoOutcome::Stopped))
    }

    /// The outcome to wait for and, where nothing was under way, what must run for it to come.
    fn join(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> (Outcome<T>, Option<impl FnOnce() + Send + 'static>) {
        let mut slot = lock(&self.slot);
        if let Some(outcome) = &*slot {
            return (outcome.clone(), None);
        }
        let (tell, outcome) = watch::channel(None);
        *slot = Some(outcome.clone());
        let (place, timeout) = (Place(self.slot.clone()), self.timeout);
        let waiting = move || {
            let done = within(timeout, move || {
                let place = place;
                let done = work();
                drop(place);
                done
            });
            tell.send_replace(Some(done));
        };
        (outcome, Some(waiting))
    }
}

/// Runs `work` on a thread of its own and waits for it, but no longer than `timeout`.
pub(crate) fn within<T: Send + 'static>(
    timeout: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, NoOutcome> {
    let (tell, done) = sync_channel(1);
    let run = move || {
        // Who waited may have given up.
        let _ = tell.send(work());
    };
    let thread = thread::Builder::new().name("switchboard-aside".to_owned());
    thread.spawn(run).map_err(|_| NoOutcome::Stopped)?;
    done.recv_timeout(timeout).map_err(|error| match error {
        RecvTimeoutError::Timeout => NoOutcome::Late(timeout),
        RecvTimeoutError::Disconnected => NoOutcome::Stopped,
    })
}

/// The place of a piece of work, which is free again once this is dropped: also where the work
/// panics or is never run.
struct Place<T>(Slot<T>);

impl<T> Drop for Place<T> {
    fn drop(&mut self) {
        *lock(&self.0) = None;
    }
}

fn lock<T>(slot: &Slot<T>) -> MutexGuard<'_, Option<Outcome<T>>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Display for NoOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Late(timeout) => write!(f, "it did not end within {timeout:?}"),
            Self::Stopped => f.write_str("it panicked, or could not be run"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    /// Work that waits until the sender is dropped.
    fn hang(until: Receiver<()>) -> impl FnOnce() -> u32 + Send {
        move || {
            let _ = until.recv();
            7
        }
    }

    #[tokio::test]
    async fn who_asks_while_work_is_under_way_shares_its_outcome() {
        let aside = Arc::new(Aside::new(Duration::from_secs(600)));
        let (release, until) = channel::<()>();
        let first = tokio::spawn({
            let aside = aside.clone();
            async move { aside.run(hang(until)).await }
        });
        while lock(&aside.slot).is_none() {
            tokio::task::yield_now().await;
        }
        let (asked, begun) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let others: Vec<_> = (0..100)
            .map(|_| {
                let (aside, asked, begun) = (aside.clone(), asked.clone(), begun.clone());
                tokio::spawn(async move {
                    let work = move || {
                        begun.fetch_add(1, Ordering::Relaxed);
                        8
                    };
                    asked.fetch_add(1, Ordering::Relaxed);
                    aside.run(work).await
                })
            })
            .collect();
        while asked.load(Ordering::Relaxed) < others.len() {
            tokio::task::yield_now().await;
        }
        drop(release);
        for other in others {
            assert_eq!(other.await.unwrap(), Ok(7));
        }
        assert_eq!(first.await.unwrap(), Ok(7));
        assert_eq!(begun.load(Ordering::Relaxed), 0);
        assert_eq!(aside.run(|| 9).await, Ok(9));
    }

    #[tokio::test]
    async fn work_that_hangs_is_late_and_no_other_begins_until_it_ends() {
        let timeout = Duration::from_millis(10);
        let aside = Aside::new(timeout);
        let (release, until) = channel::<()>();
        assert_eq!(aside.run(hang(until)).await, Err(NoOutcome::Late(timeout)));
        for _ in 0..1_000 {
            let again = aside.run(|| unreachable!("the last work has not ended")).await;
            assert_eq!(again, Err(NoOutcome::Late(timeout)));
        }
        drop(release);
        while lock(&aside.slot).is_some() {
            tokio::task::yield_now().await;
        }
        assert_eq!(Aside::new(Duration::from_secs(600)).run(|| 9).await, Ok(9));
    }

    #[test]
    fn a_runtime_ends_while_work_hangs() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let aside = Aside::new(Duration::from_millis(10));
        let (_release, until) = channel::<()>();
        let late = runtime.block_on(aside.run(hang(until)));
        assert!(matches!(late, Err(NoOutcome::Late(_))));
        drop(runtime);
    }

    #[tokio::test]
    async fn work_that_panics_is_told_and_leaves_the_place_free() {
        let aside = Aside::new(Duration::from_secs(600));
        let panicked = aside.run(|| panic!("on purpose")).await;
        assert_eq!(panicked, Err(NoOutcome::Stopped));
        assert_eq!(aside.run(|| 9).await, Ok(9));
    }

    #[tokio::test]
    async fn work_of_a_runtime_that_ended_leaves_the_place_free() {
        let aside = Aside::new(Duration::from_secs(600));
        let (outcome, waiting) = aside.join(|| 1);
        drop(waiting);
        drop(outcome);
        assert_eq!(aside.run(|| 9).await, Ok(9));
    }

    #[tokio::test(start_paused = true)]
    async fn a_paused_clock_stands_still_while_work_runs() {
        let begun = tokio::time::Instant::now();
        let aside = Aside::new(Duration::from_secs(600));
        let work = || thread::current().name().map(str::to_owned);
        let run = tokio::time::timeout(Duration::from_secs(3_600), aside.run(work)).await;
        assert_eq!(run.unwrap().unwrap().as_deref(), Some("switchboard-aside"));
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}

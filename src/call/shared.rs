//! What calls and the control plane share.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, OnceLock};

use tokio::runtime::Handle;
use tokio::time::Instant;

use super::waiters::Turn;
use super::{Activity, RetryLimits, Retrying, Snapshot, SnapshotCell, StateBoard};
use crate::transport::AllCallCredentials;
#[cfg(feature = "test-util")]
use crate::transport::Faults;
use crate::types::{Address, Compression, Status};

/// The read side of a channel.
pub(crate) struct Shared {
    /// What calls pick from.
    pub(crate) cell: SnapshotCell,
    /// The channel's state.
    pub(crate) states: StateBoard,
    /// What proves who calls, for all calls.
    pub(crate) credentials: AllCallCredentials,
    /// Whether the channel is in use.
    pub(crate) activity: Activity,
    /// What attempts beyond the first have in common.
    pub(super) retrying: Arc<Retrying>,
    /// Where the channel's tasks run; set when it starts.
    pub(crate) runtime: OnceLock<Handle>,
    /// What servers may compress messages with.
    pub(super) accepted: Arc<[Compression]>,
    /// Bytes of header fields that a request may have.
    pub(super) request_fields_max: usize,
    demand: Box<dyn Fn() -> Result<(), NoRuntime> + Send + Sync>,
    /// What befalls the channel, where anything may.
    #[cfg(feature = "test-util")]
    faults: Option<Arc<Faults>>,
}

/// What the builder decided of all calls.
pub(crate) struct Conduct {
    /// What proves who calls.
    pub(crate) credentials: AllCallCredentials,
    /// How many may wait for a connection.
    pub(crate) waiting_max: usize,
    pub(crate) retry_limits: RetryLimits,
    /// Of what is left to chance.
    pub(crate) seed: u64,
    /// What servers may compress messages with.
    pub(crate) accepted: Arc<[Compression]>,
    /// Bytes of header fields that a request may have.
    pub(crate) request_fields_max: usize,
    /// What befalls them, where anything may.
    #[cfg(feature = "test-util")]
    pub(crate) faults: Option<Arc<Faults>>,
}

/// There is no runtime to start the channel on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NoRuntime {
    /// The caller is on none, and the builder was given none.
    Missing,
    /// It has no timers.
    WithoutTime,
}

impl fmt::Display for NoRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => {
                "the channel was first used outside of a tokio runtime: use it inside of one, or \
                 build it with ChannelBuilder::runtime"
            }
            Self::WithoutTime => {
                "the runtime that the channel was first used on has no timers: build it with \
                 `enable_all`, or give ChannelBuilder::runtime another"
            }
        })
    }
}

impl std::error::Error for NoRuntime {}

impl Shared {
    /// `demand` is called when a call needs the channel to leave IDLE; it must not block.
    pub(crate) fn new(
        first: Snapshot,
        conduct: Conduct,
        demand: impl Fn() -> Result<(), NoRuntime> + Send + Sync + 'static,
    ) -> Self {
        let Conduct {
            credentials,
            waiting_max,
            retry_limits,
            seed,
            accepted,
            request_fields_max,
            #[cfg(feature = "test-util")]
            faults,
        } = conduct;
        Self {
            cell: SnapshotCell::new(first),
            states: StateBoard::new(),
            credentials,
            activity: Activity::new(waiting_max),
            retrying: Arc::new(Retrying::new(retry_limits, seed)),
            accepted,
            request_fields_max,
            runtime: OnceLock::new(),
            demand: Box::new(demand),
            #[cfg(feature = "test-util")]
            faults,
        }
    }

    /// How a call of `method` ends that is about to go to `address`, or that has none yet.
    #[cfg(feature = "test-util")]
    pub(super) fn injected(&self, address: Option<&Address>, method: &str) -> Result<(), Status> {
        let injected = self.faults.as_ref().and_then(|faults| faults.call(address, method));
        injected.map_or(Ok(()), Err)
    }

    #[cfg(not(feature = "test-util"))]
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "nothing can be injected")]
    pub(super) fn injected(&self, _: Option<&Address>, _: &str) -> Result<(), Status> {
        Ok(())
    }

    /// Has calls that wait look again.
    #[cfg(feature = "test-util")]
    pub(crate) fn publish_again(&self) {
        self.see_to(self.cell.publish_again());
    }

    /// Somebody wants this channel: it starts and connects, if it has not yet.
    pub(crate) fn demand(&self) -> Result<(), NoRuntime> {
        (self.demand)()
    }

    /// Puts a snapshot before the calls, and wakes those who wait for one. Only the `ClientConn`
    /// publishes, or who stands in for it while it is dead. Nothing follows SHUTDOWN.
    pub(crate) fn publish(&self, snapshot: Snapshot) {
        self.see_to(self.cell.publish(snapshot));
    }

    /// A slot has been filled: calls that found it empty look again.
    pub(crate) fn slot_filled(&self) {
        self.see_to(self.cell.slot_filled());
    }

    /// Wakes a first slice now and leaves the rest to a task, which lets others run in between.
    /// If its runtime goes away, all of the rest are woken then.
    fn see_to(&self, turn: Option<Turn>) {
        let Some(mut turn) = turn else { return };
        if !turn.wake_slice() {
            return;
        }
        // A channel that was never started has no runtime, and nobody whose turn it might be.
        if let Some(runtime) = self.runtime.get() {
            runtime.spawn(async move {
                tokio::task::yield_now().await;
                while turn.wake_slice() {
                    tokio::task::yield_now().await;
                }
            });
        }
    }

    /// Waits for `work`, but not beyond `deadline`. For the ways in which a call waits before it
    /// has a stream; from then on the connection keeps the deadline.
    pub(crate) async fn before<T>(
        &self,
        deadline: Option<Instant>,
        work: impl Future<Output = T>,
    ) -> Result<T, Elapsed> {
        let Some(deadline) = deadline else { return Ok(work.await) };
        // The caller may be on no runtime at all: the timer belongs to the channel's.
        let Some(runtime) = self.runtime.get() else { return Ok(work.await) };
        let sleep = {
            let _context = runtime.enter();
            tokio::time::sleep_until(deadline)
        };
        tokio::select! {
            biased;
            done = work => Ok(done),
            () = sleep => Err(Elapsed),
        }
    }

    /// Rests until `time`, but not beyond `deadline`.
    pub(super) async fn rest_until(
        &self,
        deadline: Option<Instant>,
        time: Instant,
    ) -> Result<(), Elapsed> {
        let Some(runtime) = self.runtime.get() else { return Err(Elapsed) };
        let over = {
            let _context = runtime.enter();
            tokio::time::sleep_until(time)
        };
        self.before(deadline, over).await
    }
}

/// The deadline came first.
pub(crate) struct Elapsed;

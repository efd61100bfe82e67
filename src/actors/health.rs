//! The watch of a subchannel's health (A17): the task that holds the stream, and the words for what
//! came of it.
//!
//! There is one for a subchannel, however many connections it has (A105): it is the server that
//! answers, whichever of them the question goes over. It goes over the first that has room, and
//! over another once that takes no more streams.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use super::Core;
use super::registry::Health;
use super::task::spawn_told;
use crate::call::{HealthWatch, WatchEnd};
use crate::observe::OwnCall;
use crate::policy::floor::{ENDPOINT_CHANGES, Floor};
use crate::policy::health::State;
use crate::transport::{Connection, ServingStatus};
use crate::types::{Address, Status};

/// What a watch has to tell.
pub(super) enum Said {
    /// The server has said this.
    Status(ServingStatus),
    /// It is over.
    End(WatchEnd),
}

/// A watch that is under way. Dropping it ends it.
pub(super) struct Watch(AbortHandle);

impl Watch {
    /// Watches `service` on `connection`, or on one of its siblings; that is `counted`. What is said goes to `tell`,
    /// and nothing more is read before what comes along with it has been dropped: a server that
    /// talks without a pause must not fill a mailbox.
    pub(super) fn begin(
        core: &Arc<Core>,
        connection: Connection,
        service: Arc<str>,
        counted: Option<OwnCall>,
        tell: impl Fn(Said, oneshot::Sender<()>) + Send + Sync + 'static,
    ) -> Self {
        let shared = core.shared.clone();
        let tell = Arc::new(tell);
        let told = tell.clone();
        let watching = async move {
            let said = async |said| {
                let (heard, hearing) = oneshot::channel();
                told(said, heard);
                // Dropped, which is how it says so.
                let _ = hearing.await;
            };
            let end = match HealthWatch::open(&shared, &connection, &service).await {
                Ok(mut watch) => {
                    let mut floor = Floor::default();
                    loop {
                        match latest(&mut watch).await {
                            Ok(status) => said(Said::Status(status)).await,
                            Err(end) => break end,
                        }
                        // What the server says meanwhile lies there unread, and the last counts.
                        let now = Instant::now().into_std();
                        floor.note(now);
                        sleep_until(floor.next(now, ENDPOINT_CHANGES).into()).await;
                    }
                }
                Err(end) => end,
            };
            if let Some(counted) = counted {
                counted.ended(end.is_ok());
            }
            end
        };
        Self(spawn_told(&core.tasks, watching, move |end| {
            let gone = || WatchEnd::Failed(Status::internal("the task of the watch is gone"));
            let (heard, _) = oneshot::channel();
            tell(Said::End(end.unwrap_or_else(gone)), heard);
        }))
    }
}

/// The last that the server has said, or else what it says next.
async fn latest(watch: &mut HealthWatch) -> Result<ServingStatus, WatchEnd> {
    let mut status = watch.next().await?;
    loop {
        tokio::select! {
            biased;
            next = watch.next() => status = next?,
            () = std::future::ready(()) => return Ok(status),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What calls fail with while all servers say something like `status`.
pub(super) fn not_serving(address: &Address, service: &str, status: ServingStatus) -> Status {
    let asked = Asked(service);
    Status::unavailable(format!("{address}: the health check of {asked} says {status}"))
}

/// What calls fail with while all watches have ended with something like `cause`.
pub(super) fn failed(address: &Address, service: &str, cause: Status) -> Status {
    let asked = Asked(service);
    Status::unavailable(format!("{address}: the health check of {asked} failed: {cause}"))
        .with_source(cause)
}

/// How it stands, for people.
pub(super) fn fact(health: &Health) -> String {
    let why = health.error.as_ref().map(|error| format!(" ({})", error.text()));
    let why = why.unwrap_or_default();
    let since = health.since.unwrap_or_else(Instant::now).elapsed();
    match health.machine {
        State::Off => "off".to_owned(),
        State::Unconnected | State::Checking { .. } => "checking".to_owned(),
        State::Serving => "serving".to_owned(),
        State::NotServing | State::Resting { .. } => format!("not serving for {since:.1?}{why}"),
        State::Unsupported => format!("unsupported{why}"),
    }
}

/// What is asked for.
struct Asked<'a>(&'a str);

impl std::fmt::Display for Asked<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            "" => f.write_str("the server as a whole"),
            service => write!(f, "service `{service}`"),
        }
    }
}

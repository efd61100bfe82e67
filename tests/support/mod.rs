//! What the tests of whole channels share.

pub(crate) mod greeter;
pub(crate) mod mini;
pub(crate) mod name_server;
pub(crate) mod proxy;
pub(crate) mod tls;

use std::future::Future;
use std::time::Duration;

use switchboard::{
    ActorAnswer, ActorReport, Channel, ChannelBuilder, ConnectivityState, Credentials,
};

use greeter::Greeter;

/// Asks for calls in turn.
pub(crate) const ROUND_ROBIN: &str = r#"{"loadBalancingConfig":[{"round_robin":{}}]}"#;

/// A plaintext channel to `target`, whatever the environment says of proxies.
pub(crate) fn plaintext(target: impl Into<String>) -> ChannelBuilder {
    Channel::builder(target).credentials(Credentials::insecure()).no_proxy()
}

/// Looks again and again until `condition` holds; gives up with a panic after so long that
/// something must be broken.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let looking = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let patience = Duration::from_secs(30);
    assert!(
        tokio::time::timeout(patience, looking).await.is_ok(),
        "not within {patience:?}: {what}"
    );
}

/// Waits for a state of the channel.
pub(crate) async fn until_state(channel: &Channel, state: ConnectivityState) {
    let mut now = channel.state();
    let waiting = async {
        while now != state {
            now = channel.wait_for_state_change(now).await;
        }
    };
    let patience = Duration::from_secs(30);
    assert!(tokio::time::timeout(patience, waiting).await.is_ok(), "never {state}");
}

/// The reports of all actors that answered.
pub(crate) async fn reports(channel: &Channel) -> Vec<ActorReport> {
    let inspection = channel.inspect().await;
    let answered = inspection.actors.into_iter().filter_map(|actor| match actor {
        ActorAnswer::Answered(report) => Some(report),
        ActorAnswer::Silent { .. } => None,
    });
    answered.collect()
}

/// The report of the `AddrConn` to `greeter`.
pub(crate) async fn report_of(channel: &Channel, greeter: &Greeter) -> Option<ActorReport> {
    let address = greeter.address().to_string();
    let mut reports = reports(channel).await.into_iter();
    reports.find(|it| it.id.as_ref().is_some_and(|id| id.ends_with(&address)))
}

/// Waits until the channel is connected to all of `greeters`.
pub(crate) async fn until_connected(channel: &Channel, greeters: &[Greeter]) {
    for greeter in greeters {
        until("connected", async || {
            report_of(channel, greeter).await.is_some_and(|it| it.state == "READY")
        })
        .await;
    }
}

/// Closes the channel and sees that nothing is left: no actor and no task on this runtime, no
/// connection at the servers.
///
/// Tasks of the test itself must have ended before.
pub(crate) async fn close_without_leaks(channel: Channel, greeters: &[Greeter]) {
    channel.close().await;
    assert_eq!(channel.state(), ConnectivityState::Shutdown);
    drop(channel);
    no_leaks(greeters).await;
}

/// Sees that nothing of any channel is left on this runtime, nor at the servers.
pub(crate) async fn no_leaks(greeters: &[Greeter]) {
    let tasks = tokio::runtime::Handle::current();
    until("no task left", async || tasks.metrics().num_alive_tasks() == 0).await;
    for greeter in greeters {
        until("no connection left", async || greeter.connections() == 0).await;
    }
}

/// Sixty-four callers that call without a pause.
pub(crate) struct Load {
    tasks: tokio::task::JoinSet<()>,
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    calls: tokio::sync::watch::Sender<usize>,
    failures: std::sync::Arc<std::sync::Mutex<Vec<switchboard::Status>>>,
}

/// How many callers a [`Load`] has.
pub(crate) const CALLERS: usize = 64;

impl Load {
    /// Starts calling.
    pub(crate) fn start(channel: &Channel, wait_for_ready: bool) -> Self {
        use std::sync::atomic::Ordering;
        let mut load = Self {
            tasks: tokio::task::JoinSet::new(),
            stop: std::sync::Arc::default(),
            calls: tokio::sync::watch::Sender::new(0),
            failures: std::sync::Arc::default(),
        };
        for _ in 0..CALLERS {
            let channel = channel.clone();
            let (stop, calls) = (load.stop.clone(), load.calls.clone());
            let failures = load.failures.clone();
            load.tasks.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let request = greeter::ask("load")
                        .timeout(Duration::from_secs(20))
                        .wait_for_ready(wait_for_ready);
                    if let Err(status) = channel.invoke(&greeter::SAY_HELLO, request).await {
                        failures.lock().unwrap().push(status);
                    }
                    calls.send_modify(|calls| *calls += 1);
                }
            });
        }
        load
    }

    /// Waits until so many more calls have ended.
    pub(crate) async fn more_calls(&self, more: usize) {
        let mut calls = self.calls.subscribe();
        let enough = *calls.borrow() + more;
        let waiting = calls.wait_for(|calls| *calls >= enough);
        let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
        assert!(waited.is_ok(), "calls have come to a halt");
    }

    /// Stops calling; gives the calls that failed.
    pub(crate) async fn stop(mut self) -> Vec<switchboard::Status> {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        while let Some(caller) = self.tasks.join_next().await {
            caller.unwrap();
        }
        let mut failures = self.failures.lock().unwrap();
        std::mem::take(&mut *failures)
    }
}

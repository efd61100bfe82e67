//! What observers see of calls.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use switchboard::{
    Address, AttemptKind, BoxFuture, CallEvent, CallInfo, CallObserver, CallOptions, Channel,
    ChannelBuilder, ChannelEvent, ChannelInfo, Code, Connect, ConnectivityState, Io, Observer,
    Status,
};

use crate::hedging::{TWO_ATTEMPTS, answered_twice};
use crate::support::greeter::{
    BIDI_HELLO, FLAKY, Greeter, HelloReply, HelloRequest, SAY_HELLO, ask, hello, target_of,
};
use crate::support::{ROUND_ROBIN, close_without_leaks, plaintext, until};

/// Writes down what it sees.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<String>>>);

impl Notes {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    fn add(&self, note: String) {
        self.0.lock().unwrap().push(note);
    }
}

impl Observer for Notes {
    fn call_began(&self, call: &CallInfo<'_>) -> Option<Arc<dyn CallObserver>> {
        let known = if call.is_known { "known" } else { "unknown" };
        self.add(format!("{known} {}", call.method));
        Some(Arc::new(self.clone()))
    }
}

impl CallObserver for Notes {
    fn event(&self, event: &CallEvent<'_>) {
        self.add(match *event {
            CallEvent::AttemptBegan { attempt, kind } => format!("{attempt} began: {kind:?}"),
            CallEvent::NamesResolved { attempt, .. } => format!("{attempt} has names"),
            CallEvent::PickCompleted { attempt, .. } => format!("{attempt} has a connection"),
            CallEvent::SubchannelPicked { attempt, subchannel } => {
                format!("{attempt} goes to {subchannel}")
            }
            CallEvent::RequestHeaders { attempt, metadata, timeout, .. } => {
                let before = metadata.get("grpc-previous-rpc-attempts").unwrap_or("no");
                let timeout = timeout.unwrap_or_default().as_secs_f64();
                format!("{attempt} sends headers after {before} attempts, {timeout:.0} s left")
            }
            CallEvent::RequestMessage { payload } => format!("sends {}", payload.len()),
            CallEvent::RequestsEnded => "sends no more".to_owned(),
            CallEvent::MessageSent { attempt, wire_bytes } => {
                format!("{attempt} sends {wire_bytes}")
            }
            CallEvent::ResponseHeaders { attempt, .. } => format!("{attempt} gets headers"),
            CallEvent::ResponseMessage { attempt, payload, wire_bytes } => {
                let more = wire_bytes - payload.len();
                format!("{attempt} gets a message and {more}")
            }
            CallEvent::ResponseTrailers { attempt, metadata } => {
                let reason = metadata.get("reason").unwrap_or("nothing");
                format!("{attempt} gets trailers: {reason}")
            }
            CallEvent::AttemptEnded { attempt, result } => {
                format!("{attempt} ended: {}", code(result))
            }
            CallEvent::Ended { result } => format!("ended: {}", code(result)),
            _ => "?".to_owned(),
        });
    }
}

fn code(result: Result<(), &Status>) -> String {
    result.map_or_else(|status| status.code().to_string(), |()| "OK".to_owned())
}

/// A channel that is observed and connected.
async fn observed(
    change: impl FnOnce(ChannelBuilder) -> ChannelBuilder,
) -> (Channel, Notes, [Greeter; 1]) {
    let (greeter, notes) = ([Greeter::start()], Notes::default());
    let channel = change(plaintext(target_of(&greeter)).observer(notes.clone())).build().unwrap();
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    let first = notes.take();
    assert_eq!(
        first[..6],
        [
            "known /helloworld.Greeter/SayHello",
            "sends 5",
            "sends no more",
            "0 began: First",
            "0 has names",
            "0 has a connection"
        ]
    );
    (channel, notes, greeter)
}

const RETRIES: &str = r#"{"methodConfig":[{"name":[{}],"retryPolicy":{"maxAttempts":2,
    "initialBackoff":"0.001s","maxBackoff":"1s","backoffMultiplier":1,
    "retryableStatusCodes":["UNAVAILABLE"]}}]}"#;

#[tokio::test]
async fn all_of_a_unary_call_is_seen_once_and_in_order() {
    let (channel, notes, greeter) = observed(|it| it.default_service_config(RETRIES)).await;
    let request = ask("Ada").timeout(Duration::from_secs(100));
    channel.invoke(&SAY_HELLO, request).await.unwrap();
    let seen = notes.take();
    assert_eq!(
        seen[1..],
        [
            "sends 5",
            "sends no more",
            "0 began: First",
            "0 goes to #1",
            "0 sends headers after no attempts, 100 s left",
            "0 sends 10",
            "0 gets headers",
            "0 gets a message and 5",
            "0 gets trailers: nothing",
            "0 ended: OK",
            "ended: OK"
        ]
    );
    // The first attempt fails, the second does not.
    channel.invoke(&SAY_HELLO, ask(FLAKY)).await.unwrap();
    assert_eq!(
        notes.take()[3..],
        [
            "0 began: First",
            "0 goes to #1",
            "0 sends headers after no attempts, 0 s left",
            "0 sends 12",
            "0 gets trailers: nothing",
            "0 ended: UNAVAILABLE",
            "1 began: Retry",
            "1 goes to #1",
            "1 sends headers after 1 attempts, 0 s left",
            "1 sends 12",
            "1 gets headers",
            "1 gets a message and 5",
            "1 gets trailers: nothing",
            "1 ended: OK",
            "ended: OK"
        ]
    );
    // Trailers alone.
    let path = "/helloworld.Greeter/SayHello";
    let call = channel.invoke::<HelloRequest, HelloReply>(path, ask("fail:5:no"));
    assert_eq!(call.await.unwrap_err().code(), Code::NOT_FOUND);
    let seen = notes.take();
    assert_eq!(seen[0], "unknown /helloworld.Greeter/SayHello");
    assert_eq!(seen[7..], ["0 gets trailers: asked-for", "0 ended: NOT_FOUND", "ended: NOT_FOUND"]);
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn all_of_a_stream_is_seen() {
    let (channel, notes, greeter) = observed(|it| it).await;
    let mut stream = channel.new_stream(&BIDI_HELLO, CallOptions::new()).await.unwrap();
    assert_eq!(
        notes.take(),
        [
            "known /helloworld.Greeter/BidiHello",
            "0 began: First",
            "0 goes to #1",
            "0 sends headers after no attempts, 0 s left"
        ]
    );
    stream.send(hello("Ada")).await.unwrap();
    assert_eq!(notes.take(), ["sends 5", "0 sends 10"]);
    stream.recv().await.unwrap();
    assert_eq!(notes.take(), ["0 gets headers", "0 gets a message and 5"]);
    stream.close_send();
    stream.close_send();
    assert_eq!(notes.take(), ["sends no more"]);
    assert!(stream.recv().await.unwrap().is_none());
    assert!(stream.recv().await.unwrap().is_none());
    drop(stream);
    assert_eq!(notes.take(), ["0 gets trailers: nothing", "0 ended: OK", "ended: OK"]);
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn what_is_given_up_has_an_end_as_well() {
    let (channel, notes, greeter) = observed(|it| it).await;
    // A call that is dropped under way, a stream that is cancelled, one that is left.
    greeter[0].hold();
    let call = channel.invoke(&SAY_HELLO, ask("Ada"));
    assert!(tokio::time::timeout(Duration::from_millis(5), call).await.is_err());
    assert_eq!(
        notes.take()[4..],
        [
            "0 goes to #1",
            "0 sends headers after no attempts, 0 s left",
            "0 sends 10",
            "0 ended: CANCELLED",
            "ended: CANCELLED"
        ]
    );
    greeter[0].release();
    let cancelled = ["0 ended: CANCELLED", "ended: CANCELLED"];
    let mut stream = channel.new_stream(&BIDI_HELLO, CallOptions::new()).await.unwrap();
    stream.send(hello("Ada")).await.unwrap();
    stream.recv().await.unwrap();
    notes.take();
    stream.cancel();
    assert_eq!(notes.take(), cancelled);
    drop(stream);
    assert!(notes.take().is_empty());
    drop(channel.new_stream(&BIDI_HELLO, CallOptions::new()).await.unwrap());
    assert_eq!(notes.take()[4..], cancelled);
    // No connection at all.
    let mut greeter = greeter;
    greeter[0].kill();
    until("the loss is seen", async || {
        let call = channel.invoke(&SAY_HELLO, ask("Ada").timeout(Duration::from_secs(30)));
        call.await.is_err_and(|status| status.code() == Code::UNAVAILABLE)
    })
    .await;
    let seen = notes.take();
    assert_eq!(seen.last().unwrap(), "ended: UNAVAILABLE");
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn hedges_are_seen_side_by_side_and_the_loser_as_given_up() {
    let (channel, notes, greeter) = observed(|it| it.default_service_config(TWO_ATTEMPTS)).await;
    answered_twice(&channel, &greeter[0]).await;
    let seen = notes.take();
    let count = |what: &str| seen.iter().filter(|it| *it == what).count();
    assert_eq!(count(&format!("1 began: {:?}", AttemptKind::Hedge)), 1, "{seen:?}");
    let outcome = |winner, loser| {
        let won = format!("{winner} ended: OK");
        count(&won) == 1 && count(&format!("{loser} ended: CANCELLED")) == 1
    };
    assert!(outcome(0, 1) || outcome(1, 0), "{seen:?}");
    assert_eq!(seen.last().unwrap(), "ended: OK");
    assert_eq!(count("ended: OK"), 1);
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn an_observer_that_does_not_want_a_call_is_left_alone() {
    struct NotThis;
    impl Observer for NotThis {
        fn call_began(&self, _: &CallInfo<'_>) -> Option<Arc<dyn CallObserver>> {
            None
        }
    }
    let (channel, notes, greeter) = observed(|it| it.observer(NotThis)).await;
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    assert_eq!(notes.take().last().unwrap(), "ended: OK");
    close_without_leaks(channel, &greeter).await;
}

/// Writes down what it sees of a channel beside its calls.
#[derive(Clone, Default)]
struct Sights(Arc<Mutex<Vec<String>>>);

impl Sights {
    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// Those that begin so.
    fn of(&self, what: &str) -> Vec<String> {
        self.all().into_iter().filter(|it| it.starts_with(what)).collect()
    }
}

impl Observer for Sights {
    fn call_began(&self, _: &CallInfo<'_>) -> Option<Arc<dyn CallObserver>> {
        None
    }

    fn channel_event(&self, channel: &ChannelInfo<'_>, event: &ChannelEvent<'_>) {
        assert!(channel.target.starts_with("ipv4:"), "{channel:?}");
        self.0.lock().unwrap().push(match *event {
            ChannelEvent::StateChanged { state } => format!("channel {state}"),
            ChannelEvent::Resolved { endpoints } => format!("names: {endpoints}"),
            ChannelEvent::ResolutionFailed { cause } => format!("names: {}", cause.code()),
            ChannelEvent::PolicyChanged { policy } => format!("policy {policy}"),
            ChannelEvent::SubchannelCreated { subchannel, .. } => format!("new {subchannel}"),
            ChannelEvent::SubchannelStateChanged { from, to, .. } => {
                format!("subchannel {from} to {to}")
            }
            ChannelEvent::ConnectionAttemptSucceeded { .. } => "dial succeeded".to_owned(),
            ChannelEvent::ConnectionAttemptFailed { cause, .. } => format!("dial failed: {cause}"),
            ChannelEvent::ConnectionOpened { security, .. } => {
                format!("connection opened: {security}")
            }
            ChannelEvent::Disconnected { reason, .. } => {
                format!("connection disconnected: {reason:?}")
            }
            ChannelEvent::ConnectionClosed { .. } => "connection closed".to_owned(),
            _ => "something new".to_owned(),
        });
    }
}

#[tokio::test]
async fn a_connection_and_its_states_are_told_from_the_dial_to_the_end() {
    let (sights, mut greeter) = (Sights::default(), [Greeter::start()]);
    let channel = plaintext(target_of(&greeter)).observer(sights.clone()).build().unwrap();
    assert!(sights.all().is_empty());
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    greeter[0].stop_gracefully().await;
    until("its goodbye is heard", async || sights.of("connection").len() == 3).await;
    until("the channel is idle", async || channel.state() == ConnectivityState::Idle).await;
    let connection = [
        "connection opened: no security",
        "connection disconnected: Goaway { code: \"NO_ERROR\" }",
        "connection closed",
    ];
    assert_eq!(sights.of("connection"), connection);
    assert_eq!(sights.of("dial"), ["dial succeeded"]);
    let begun = [sights.of("names"), sights.of("policy"), sights.of("new")].concat();
    assert_eq!(begun, ["names: 1", "policy pick_first", "new #1"]);
    close_without_leaks(channel, &greeter).await;
    until("the subchannel is gone", async || sights.of("subchannel").len() == 4).await;
    assert_eq!(
        sights.of("subchannel"),
        [
            "subchannel IDLE to CONNECTING",
            "subchannel CONNECTING to READY",
            "subchannel READY to IDLE",
            "subchannel IDLE to SHUTDOWN"
        ]
    );
    assert_eq!(
        sights.of("channel"),
        ["channel CONNECTING", "channel READY", "channel IDLE", "channel SHUTDOWN"]
    );
    assert_eq!(sights.of("connection"), connection);
}

/// Refuses to connect to the first address, and never connects to another.
struct Stubborn;

impl Connect for Stubborn {
    fn connect<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, io::Result<Io>> {
        let refuses = address.to_string().starts_with("10.0.0.1:");
        Box::pin(async move {
            if !refuses {
                std::future::pending::<()>().await;
            }
            Err(io::ErrorKind::ConnectionRefused.into())
        })
    }
}

// spec: A94/given-up
#[tokio::test]
async fn a_dial_that_is_given_up_has_neither_succeeded_nor_failed() {
    let sights = Sights::default();
    let builder = plaintext("ipv4:10.0.0.1:1,10.0.0.2:1").connector(Stubborn);
    let builder = builder.default_service_config(ROUND_ROBIN).observer(sights.clone());
    let channel = builder.build().unwrap();
    channel.connect();
    until("one has failed and one is being made", async || {
        sights.of("dial").len() == 1 && sights.of("subchannel IDLE to CONNECTING").len() == 2
    })
    .await;
    close_without_leaks(channel, &[]).await;
    assert_eq!(sights.of("dial"), ["dial failed: 10.0.0.1:1: connection refused"]);
    until("both are gone", async || {
        sights.of("subchannel").iter().filter(|it| it.ends_with("SHUTDOWN")).count() == 2
    })
    .await;
    assert!(sights.of("connection").is_empty());
}

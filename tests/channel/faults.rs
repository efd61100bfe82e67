//! Each fault that can be injected: what it does to calls, that inspections show it, and that its
//! removal heals.

use std::time::Duration;

use bytes::Bytes;
use switchboard::{
    ActorKind, CallOptions, Channel, ChannelBuilder, Code, ConnectivityState, Endpoint, Fault,
    InjectError, Injected, Method, Raw, Status, kind, memory,
};
use tokio::time::Instant;

use crate::support::greeter::{BIDI_HELLO, Greeter, SAY_HELLO, ask, hello, target_of};
use crate::support::mini::answer_all;
use crate::support::{
    ROUND_ROBIN, close_without_leaks, no_leaks, plaintext, reports, until, until_connected,
    until_state,
};

async fn greeted() -> (Channel, [Greeter; 1]) {
    let greeter = [Greeter::start()];
    let channel = plaintext(target_of(&greeter)).allow_injection().build().unwrap();
    call(&channel).await.unwrap();
    (channel, greeter)
}

async fn call(channel: &Channel) -> Result<(), Status> {
    let request = ask("Ada").timeout(Duration::from_secs(20));
    channel.invoke(&SAY_HELLO, request).await.map(drop)
}

async fn shown(channel: &Channel) -> String {
    let inspection = channel.inspect().await;
    let faults = inspection.faults.iter().map(|it| format!("{} at {}", it.what, it.scope));
    faults.collect::<Vec<_>>().join("; ")
}

/// Injects, and sees that inspections show it.
async fn inject(channel: &Channel, fault: Fault, expected: &str) -> Injected {
    let injected = channel.inject(fault).await.unwrap();
    assert_eq!(shown(channel).await, expected);
    assert!(channel.inspect().await.to_string().contains("injected: "));
    assert!(injected.is_active());
    injected
}

/// Removes, and sees that calls are well again.
async fn heal(channel: &Channel, injected: Injected) {
    assert!(injected.remove());
    assert_eq!(shown(channel).await, "");
    channel.reset_connect_backoff();
    until("calls are well", async || call(channel).await.is_ok()).await;
}

#[tokio::test]
async fn look_ups_come_to_what_a_test_wants() {
    let greeters = [Greeter::start(), Greeter::start()];
    let channel = plaintext(target_of(&greeters[..1])).allow_injection().build().unwrap();
    call(&channel).await.unwrap();
    let there = Fault::resolution([Endpoint::from(greeters[1].address())]);
    let injected = inject(&channel, there, "look-ups find 1 endpoints at all addresses").await;
    until("the other answers", async || {
        call(&channel).await.unwrap();
        greeters[1].received() > 0
    })
    .await;
    heal(&channel, injected).await;
    let before = greeters[0].received();
    until("the first answers again", async || {
        call(&channel).await.unwrap();
        greeters[0].received() > before
    })
    .await;
    // What is known already serves on while look-ups fail or hang.
    for fault in [Fault::resolution_error("nobody knows"), Fault::resolution_hangs()] {
        let injected = channel.inject(fault).await.unwrap();
        call(&channel).await.unwrap();
        heal(&channel, injected).await;
    }
    // A channel that knows nothing says why.
    let unused = plaintext(target_of(&greeters[..1])).allow_injection().build().unwrap();
    let injected = unused.inject(Fault::resolution_error("nobody knows")).await.unwrap();
    let status = call(&unused).await.unwrap_err();
    assert_eq!(status.code(), Code::UNAVAILABLE);
    assert!(status.message().contains("nobody knows"), "{status}");
    heal(&unused, injected).await;
    unused.close().await;
    // One that hangs goes on as soon as it may.
    let waiting = plaintext(target_of(&greeters[..1])).allow_injection().build().unwrap();
    let injected = waiting.inject(Fault::resolution_hangs()).await.unwrap();
    let caller = waiting.clone();
    let mut under_way = tokio::spawn(async move { call(&caller).await });
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut under_way).await.is_err());
    assert!(injected.remove());
    under_way.await.unwrap().unwrap();
    waiting.close().await;
    close_without_leaks(channel, &greeters).await;
}

#[tokio::test]
async fn calls_fail_in_place_of_what_the_policy_says() {
    let (channel, greeter) = greeted().await;
    let status = Status::new(Code::UNAVAILABLE, "not today");
    let expected = "calls fail: UNAVAILABLE: not today at all addresses";
    let injected = inject(&channel, Fault::calls_fail(status), expected).await;
    let status = call(&channel).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::UNAVAILABLE, "not today"));
    heal(&channel, injected).await;
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn a_close_ends_calls_as_ever_where_calls_are_to_fail() {
    let (channel, greeter) = greeted().await;
    let status = Status::new(Code::UNAVAILABLE, "not today");
    channel.inject(Fault::calls_fail(status)).await.unwrap();
    let patient = channel.invoke(&SAY_HELLO, ask("Ada").wait_for_ready(true));
    assert_eq!(patient.await.unwrap_err().message(), "not today");
    channel.close().await;
    let status = call(&channel).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::CANCELLED, "the channel is closed"));
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn a_policy_that_panics_is_built_again_and_fails_no_call() {
    let (channel, greeter) = greeted().await;
    channel.inject(Fault::policy_panic()).await.unwrap();
    until("the Balancer is restarted", async || {
        call(&channel).await.unwrap();
        let all = reports(&channel).await;
        all.iter().any(|it| it.actor == ActorKind::Balancer && it.restarts == 1)
    })
    .await;
    assert_eq!(greeter[0].accepted(), 1, "its connection is kept");
    close_without_leaks(channel, &greeter).await;
}

/// A channel to servers in memory, on a paused clock.
fn in_memory(change: impl FnOnce(ChannelBuilder) -> ChannelBuilder) -> Channel {
    let (connector, mut listener) = memory::pipe();
    tokio::spawn(async move {
        while let Some(stream) = listener.accept().await {
            tokio::spawn(answer_all(stream, |_| ()));
        }
    });
    let builder = plaintext("passthrough:server").connector(connector).allow_injection();
    change(builder).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn dials_are_refused_delayed_or_hang_as_often_as_is_said() {
    let channel = in_memory(|it| it);
    let injected = inject(
        &channel,
        Fault::dial_refused().at("server").times(2),
        "dials are refused at server",
    )
    .await;
    let status = call(&channel).await.unwrap_err();
    assert!(status.message().contains("refused by an injected fault"), "{status}");
    // The second is the last.
    let since = Instant::now();
    let request = ask("Ada").wait_for_ready(true);
    channel.invoke(&SAY_HELLO, request).await.unwrap();
    assert!((2.0..5.0).contains(&since.elapsed().as_secs_f64()), "{:?}", since.elapsed());
    assert!(!injected.is_active() && !injected.remove());
    channel.close().await;

    let channel = in_memory(|it| it);
    channel.inject(Fault::dial_delayed(Duration::from_secs(3))).await.unwrap();
    channel.inject(Fault::dial_hangs().at("another")).await.unwrap();
    let since = Instant::now();
    call(&channel).await.unwrap();
    assert_eq!(since.elapsed().as_secs(), 3);
    channel.close().await;

    let channel = in_memory(|it| it.min_connect_timeout(Duration::from_secs(5)));
    let hangs = inject(&channel, Fault::dial_hangs(), "dials hang at all addresses").await;
    let since = Instant::now();
    let status = call(&channel).await.unwrap_err();
    assert_eq!((status.code(), since.elapsed().as_secs()), (Code::UNAVAILABLE, 5));
    let fails = channel.inject(Fault::handshake_fails()).await.unwrap();
    assert!(hangs.remove());
    channel.inject(Fault::backoff_skipped()).await.unwrap();
    until("the handshake has failed", async || {
        let status = call(&channel).await.unwrap_err();
        status.message().contains("the handshake was ended by an injected fault")
    })
    .await;
    heal(&channel, fails).await;
    channel.close().await;
}

#[tokio::test]
async fn a_connection_is_cut_under_its_calls() {
    let (channel, greeter) = greeted().await;
    greeter[0].hold();
    let caller = channel.clone();
    let under_way = tokio::spawn(async move { call(&caller).await });
    until("it is there", async || greeter[0].open_calls() == 1).await;
    let injected =
        inject(&channel, Fault::connection_cut(), "connections are cut at all addresses");
    let injected = injected.await;
    let status = under_way.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::UNAVAILABLE);
    assert!(status.message().contains("cut by an injected fault"), "{status}");
    greeter[0].release();
    // Connections that come later are none of its.
    until("calls are well", async || call(&channel).await.is_ok()).await;
    assert_eq!(greeter[0].accepted(), 2);
    heal(&channel, injected).await;
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn a_server_that_goes_away_costs_no_call() {
    let (channel, greeter) = greeted().await;
    let mut stream = channel.new_stream(&BIDI_HELLO, CallOptions::new()).await.unwrap();
    stream.send(hello("Ada")).await.unwrap();
    stream.recv().await.unwrap();
    // ENHANCE_YOUR_CALM.
    let expected = "servers go away with error code 11 at all addresses";
    let injected = inject(&channel, Fault::goaway(11), expected).await;
    until("there is another connection", async || {
        call(&channel).await.unwrap();
        greeter[0].accepted() == 2
    })
    .await;
    let inspection = channel.inspect().await.to_string();
    assert!(inspection.contains("ENHANCE_YOUR_CALM"), "{inspection}");
    // What is open goes on.
    stream.send(hello("Grace")).await.unwrap();
    assert!(stream.recv().await.unwrap().unwrap().message.starts_with("Hello Grace"));
    drop(stream);
    heal(&channel, injected).await;
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn refused_streams_are_tried_again_once_and_by_method() {
    let (channel, greeter) = greeted().await;
    let once = Fault::stream_refused().times(1);
    let injected = inject(&channel, once, "streams are refused at all addresses").await;
    call(&channel).await.unwrap();
    assert!(!injected.is_active());
    let other = Fault::stream_refused().of_method("/helloworld.Greeter/Other");
    let injected = channel.inject(other).await.unwrap();
    call(&channel).await.unwrap();
    assert!(injected.remove());
    let this = Fault::stream_refused().of_method("/helloworld.Greeter/SayHello");
    let injected = channel.inject(this).await.unwrap();
    let before = greeter[0].received();
    let status = call(&channel).await.unwrap_err();
    assert_eq!(status.code(), Code::UNAVAILABLE);
    assert_eq!(greeter[0].received(), before);
    heal(&channel, injected).await;
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test(start_paused = true)]
async fn what_arrives_is_held_back_delayed_or_lost_at_first() {
    let channel = in_memory(|it| it);
    call(&channel).await.unwrap();
    let stalled =
        inject(&channel, Fault::reads_stalled(), "nothing arrives at all addresses").await;
    let since = Instant::now();
    let status = call(&channel).await.unwrap_err();
    assert_eq!((status.code(), since.elapsed().as_secs()), (Code::DEADLINE_EXCEEDED, 20));
    heal(&channel, stalled).await;

    let latency = Fault::latency(Duration::from_millis(300));
    let expected = "what arrives comes 300ms later at all addresses";
    let injected = inject(&channel, latency, expected).await;
    let since = Instant::now();
    call(&channel).await.unwrap();
    let took = since.elapsed().as_millis();
    assert!((300..320).contains(&took), "{took} ms");
    heal(&channel, injected).await;
    let since = Instant::now();
    call(&channel).await.unwrap();
    assert!(since.elapsed().as_millis() < 10);

    // By the same seed the same pieces are lost.
    let mut runs = Vec::new();
    for _ in 0..2 {
        let channel = in_memory(|it| it);
        call(&channel).await.unwrap();
        let loss = Fault::loss(0.3).with_probability(1.0, 7);
        let injected = channel.inject(loss).await.unwrap();
        let mut slow = Vec::new();
        for _ in 0..40 {
            let since = Instant::now();
            call(&channel).await.unwrap();
            slow.push(since.elapsed() >= Duration::from_millis(200));
        }
        let count = slow.iter().filter(|slow| **slow).count();
        assert!((4..25).contains(&count), "{count} of 40");
        runs.push(slow);
        heal(&channel, injected).await;
        channel.close().await;
    }
    assert_eq!(runs[0], runs[1]);
    channel.close().await;
}

#[tokio::test]
async fn a_fault_is_for_one_address_where_it_says_so() {
    let greeters = [Greeter::start(), Greeter::start()];
    let builder = plaintext(target_of(&greeters)).default_service_config(ROUND_ROBIN);
    let channel = builder.allow_injection().build().unwrap();
    channel.connect();
    until_connected(&channel, &greeters).await;
    let cut = Fault::connection_cut().at(greeters[0].address());
    let refused = Fault::dial_refused().at(greeters[0].address());
    let refused = channel.inject(refused).await.unwrap();
    let cut = channel.inject(cut).await.unwrap();
    until("the other answers all", async || {
        let before = (greeters[0].received(), greeters[1].received());
        for _ in 0..4 {
            let _ = call(&channel).await;
        }
        (greeters[0].received(), greeters[1].received()) == (before.0, before.1 + 4)
    })
    .await;
    assert!(cut.remove());
    heal(&channel, refused).await;
    until_connected(&channel, &greeters).await;
    close_without_leaks(channel, &greeters).await;
}

#[tokio::test]
async fn one_actor_alone_can_be_struck_and_only_by_what_it_can_suffer() {
    let greeters = [Greeter::start(), Greeter::start()];
    let builder = plaintext(target_of(&greeters)).default_service_config(ROUND_ROBIN);
    let channel = builder.clone().allow_injection().build().unwrap();
    channel.connect();
    until_state(&channel, ConnectivityState::Ready).await;
    until_connected(&channel, &greeters).await;
    let actors = channel.actors();
    let last = actors.last().unwrap();
    last.inject(Fault::crash(ActorKind::AddrConn)).await.unwrap();
    until("it alone is restarted", async || {
        let all = reports(&channel).await;
        let restarts: Vec<_> =
            all.iter().filter(|it| it.actor == ActorKind::AddrConn).map(|it| it.restarts).collect();
        restarts == [0, 1]
    })
    .await;
    call(&channel).await.unwrap();
    let wrong = last.inject(Fault::crash(ActorKind::Balancer)).await.unwrap_err();
    assert_eq!(wrong, InjectError::NotOfThisActor(ActorKind::AddrConn));
    let wrong = last.inject(Fault::dial_refused()).await.unwrap_err();
    assert!(wrong.to_string().contains("inject all else into the channel"), "{wrong}");
    close_without_leaks(channel, &greeters).await;

    let channel = builder.build().unwrap();
    call(&channel).await.unwrap();
    let refused = channel.inject(Fault::dial_refused()).await.unwrap_err();
    assert_eq!(refused, InjectError::NotAllowed);
    let refused = channel.actors()[0].inject(Fault::crash(ActorKind::Supervisor)).await;
    assert_eq!(refused.unwrap_err(), InjectError::NotAllowed);
    close_without_leaks(channel, &greeters).await;
}

#[tokio::test]
async fn a_fault_that_is_scoped_by_what_means_nothing_to_it_is_refused() {
    let (channel, greeter) = greeted().await;
    let second = Duration::from_secs(1);
    for (fault, setter) in [
        (Fault::latency(second).times(3), "times"),
        (Fault::latency(second).with_probability(0.5, 7), "with_probability"),
        (Fault::reads_stalled().times(1), "times"),
        (Fault::loss(0.1).times(1), "times"),
        (Fault::dial_refused().of_method("/a.B/C"), "of_method"),
        (Fault::resolution_hangs().at("server"), "at"),
        (Fault::dial_delayed(second).of_method("/a.B/C"), "of_method"),
        (Fault::crash(ActorKind::Balancer).times(2), "times"),
        (Fault::backoff_skipped().at("server"), "at"),
    ] {
        let refused = channel.inject(fault.clone()).await.unwrap_err();
        assert_eq!(refused, InjectError::Meaningless(setter), "{fault:?}");
        assert!(refused.to_string().contains(&format!("`Fault::{setter}`")), "{refused}");
    }
    for path in ["", "a.B/C", "/a.B", "/a.B/", "/a.B/C D"] {
        let fault = Fault::stream_refused().of_method(path);
        let refused = channel.inject(fault).await.unwrap_err();
        assert!(matches!(refused, InjectError::Method(_)), "{path}: {refused:?}");
        assert!(refused.to_string().contains(&format!("`{path}`")), "{refused}");
    }
    let actor = &channel.actors()[0];
    let refused = actor.inject(Fault::crash(actor.kind()).times(2)).await.unwrap_err();
    assert_eq!(refused, InjectError::Meaningless("times"));
    assert_eq!(shown(&channel).await, "");
    call(&channel).await.unwrap();
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn a_server_that_goes_away_by_itself_is_not_made_to_take_that_back() {
    const MANY: Method<Bytes, Bytes, kind::ServerStreaming> =
        Method::with_codec::<Raw>("/test.Echo/Many");
    let (connector, mut listener) = memory::pipe();
    let (answer, answered) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(async move {
        let stream = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
        connection.graceful_shutdown();
        let mut response = http::Response::new(());
        let grpc = http::HeaderValue::from_static("application/grpc");
        response.headers_mut().insert("content-type", grpc);
        let mut body = respond.send_response(response, false).unwrap();
        let ended = async { while connection.accept().await.is_some() {} };
        let answering = async {
            answered.await.unwrap();
            body.send_data(Bytes::from_static(&[0; 5]), false).unwrap();
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", 0.into());
            body.send_trailers(trailers).unwrap();
        };
        tokio::join!(ended, answering);
    });
    let builder = plaintext("passthrough:server").connector(connector).allow_injection();
    let channel = builder.build().unwrap();
    let mut stream = channel.new_stream(&MANY, CallOptions::new()).await.unwrap();
    stream.header().await.unwrap();
    until("its goodbye is heard", async || channel.state() == ConnectivityState::Idle).await;
    let injected = channel.inject(Fault::goaway(0)).await.unwrap();
    answer.send(()).unwrap();
    assert_eq!(stream.recv().await.unwrap().unwrap(), "");
    assert!(stream.recv().await.unwrap().is_none());
    assert!(injected.remove());
    channel.close().await;
    server.await.unwrap();
}

/// Each kind of fault that lasts, whether it shows on a connection that is there, and what one call
/// comes to.
fn kinds(there: &Greeter) -> Vec<(Fault, Dialled, Seen)> {
    let minute = Duration::from_secs(60);
    let not_today = || Fault::calls_fail(Status::unavailable("not today"));
    vec![
        (Fault::resolution([Endpoint::from(there.address())]), Dialled::Not, Seen::Succeeds),
        (Fault::resolution_error("nobody knows"), Dialled::Not, Seen::Fails),
        (Fault::resolution_hangs(), Dialled::Not, Seen::Hangs),
        (not_today(), Dialled::Not, Seen::Fails),
        (not_today(), Dialled::Before, Seen::Fails),
        (Fault::dial_refused(), Dialled::Not, Seen::Fails),
        (Fault::dial_delayed(minute), Dialled::Not, Seen::Hangs),
        (Fault::dial_hangs(), Dialled::Not, Seen::Hangs),
        (Fault::handshake_fails(), Dialled::Not, Seen::Fails),
        (Fault::connection_cut(), Dialled::Before, Seen::NewConnection),
        (Fault::goaway(0), Dialled::Before, Seen::Succeeds),
        (Fault::stream_refused(), Dialled::Before, Seen::Fails),
        (Fault::reads_stalled(), Dialled::Before, Seen::Hangs),
        (Fault::latency(minute), Dialled::Before, Seen::Hangs),
        (Fault::loss(1.0), Dialled::Before, Seen::Succeeds),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Succeeds,
    Fails,
    Hangs,
    /// It fails, or succeeds on another connection.
    NewConnection,
}

/// Whether a channel has a connection when the fault is injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialled {
    Before,
    Not,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_fault_is_in_force_when_it_was_injected_and_over_when_it_was_removed() {
    let greeters = [Greeter::start(), Greeter::start()];
    for _ in 0..3 {
        for (fault, dialled, seen) in kinds(&greeters[1]) {
            let builder = plaintext(target_of(&greeters[..1])).allow_injection();
            let channel = builder.build().unwrap();
            if dialled == Dialled::Before {
                call(&channel).await.unwrap();
            }
            let accepted = greeters[0].accepted();
            let row = format!("{fault:?} {dialled:?}");
            let injected = channel.inject(fault).await.unwrap();
            let patience = Duration::from_millis(if seen == Seen::Hangs { 100 } else { 20_000 });
            let request = ask("Ada").timeout(patience);
            let outcome = channel.invoke(&SAY_HELLO, request).await.map(drop);
            let code = outcome.as_ref().map_err(Status::code).err();
            let is_seen = match seen {
                Seen::Succeeds => code.is_none(),
                Seen::Fails => code == Some(Code::UNAVAILABLE),
                Seen::Hangs => code == Some(Code::DEADLINE_EXCEEDED),
                Seen::NewConnection => code.is_some() || greeters[0].accepted() > accepted,
            };
            assert!(is_seen, "{row}: {outcome:?}");
            assert!(injected.remove(), "{row}");
            if row.contains("FailCalls") || row.contains("RefuseStreams") {
                call(&channel).await.unwrap();
            }
            channel.reset_connect_backoff();
            let well = format!("calls are well after {row}");
            until(&well, async || call(&channel).await.is_ok()).await;
            channel.close().await;
        }
    }
    no_leaks(&greeters).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn calls_that_fail_are_counted_and_chosen_by_method_and_address() {
    let greeters = [Greeter::start(), Greeter::start()];
    let builder = plaintext(target_of(&greeters)).default_service_config(ROUND_ROBIN);
    let channel = builder.allow_injection().build().unwrap();
    channel.connect();
    until_connected(&channel, &greeters).await;
    let count = async |calls: usize| {
        let mut under_way = tokio::task::JoinSet::new();
        for _ in 0..calls {
            let channel = channel.clone();
            under_way.spawn(async move { call(&channel).await });
        }
        let outcomes = under_way.join_all().await;
        outcomes.into_iter().filter(Result::is_err).count()
    };
    let fails = || Fault::calls_fail(Status::unavailable("not today"));
    let injected = channel.inject(fails().times(7)).await.unwrap();
    assert_eq!(count(32).await, 7);
    assert!(!injected.is_active());
    assert_eq!(count(32).await, 0);

    channel.inject(fails().of_method("/helloworld.Greeter/Other")).await.unwrap();
    assert_eq!(count(8).await, 0);
    let this = fails().of_method("/helloworld.Greeter/SayHello").times(3);
    channel.inject(this).await.unwrap();
    assert_eq!(count(8).await, 3);

    let before = greeters[1].received();
    let injected = channel.inject(fails().at(greeters[0].address())).await.unwrap();
    let failed = count(32).await;
    assert_eq!((failed, greeters[1].received() - before), (16, 16));
    assert!(injected.remove());
    assert_eq!(count(32).await, 0);
    close_without_leaks(channel, &greeters).await;
}

#[tokio::test]
async fn calls_that_wait_fail_when_that_is_injected() {
    let channel = plaintext("passthrough:server").allow_injection().build().unwrap();
    let hangs = channel.inject(Fault::dial_hangs()).await.unwrap();
    let caller = channel.clone();
    let waiting = tokio::spawn(async move { call(&caller).await });
    until_state(&channel, ConnectivityState::Connecting).await;
    channel.inject(Fault::calls_fail(Status::unavailable("not today"))).await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap_err().message(), "not today");
    assert!(hangs.remove());
    channel.close().await;
}

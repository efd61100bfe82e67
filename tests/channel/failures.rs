//! Servers that are not there, go away, or come back.

use std::net::Ipv4Addr;
use std::time::Duration;

use futures_util::FutureExt as _;
use switchboard::memory::MemoryNetwork;
use switchboard::{
    BackoffConfig, CallOptions, ChannelBuilder, Code, ConnectivityState, ManualResolver,
    StateChange,
};

use crate::support::greeter::{BIDI_HELLO, Greeter, SAY_HELLO, ask, hello, target_of};
use crate::support::mini::answer_all;
use crate::support::{
    CALLERS, Load, ROUND_ROBIN, close_without_leaks, plaintext, report_of, reports, until,
    until_connected, until_state,
};

/// A short wait between attempts, so that a server that comes back is soon taken back.
fn quickly(builder: ChannelBuilder) -> ChannelBuilder {
    let wait = Duration::from_millis(20);
    builder.backoff(BackoffConfig { base_delay: wait, max_delay: wait, ..BackoffConfig::default() })
}

fn refusing_address() -> String {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().to_string()
}

#[tokio::test]
async fn an_endpoint_that_refuses_costs_no_call_and_is_dialled_as_the_backoff_has_it() {
    let greeter = [Greeter::start()];
    let target = format!("ipv4:{},{}", greeter[0].address(), refusing_address());
    let channel = plaintext(target).default_service_config(ROUND_ROBIN).build().unwrap();
    let since = tokio::time::Instant::now();
    for _ in 0..1_000 {
        channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    }
    let elapsed = since.elapsed();
    let refused =
        reports(&channel).await.into_iter().find(|it| it.counters.contains_key("failed dials"));
    let dials = refused.unwrap().counters["dials"];
    // The first at once, the second after 1 s, the third no sooner than 1.28 s after that.
    let allowed = match elapsed.as_secs_f64() {
        ..1.0 => 1,
        1.0..2.28 => 2,
        _ => 3 + elapsed.as_secs() / 2,
    };
    assert!((1..=allowed).contains(&dials), "{dials} dials in {elapsed:?}");
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn a_caller_that_never_has_to_wait_lets_the_rest_of_its_thread_run() {
    let channel = plaintext(format!("ipv4:{}", refusing_address())).build().unwrap();
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
    let other = tokio::spawn(async {});
    // Each fails at once; nothing here waits for anything.
    for _ in 0..10_000 {
        channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
    }
    assert!(other.is_finished());
    close_without_leaks(channel, &[]).await;
}

#[tokio::test]
async fn a_call_that_does_not_wait_fails_with_the_address_and_the_cause() {
    let address = refusing_address();
    let channel = plaintext(format!("ipv4:{address}")).build().unwrap();
    let status = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
    assert_eq!(status.code(), Code::UNAVAILABLE);
    assert!(status.message().contains(&address), "{status}");
    assert!(status.message().contains("connection refused"), "{status}");
    assert!(status.cause().is_some());
    assert_eq!(channel.state(), ConnectivityState::TransientFailure);
    close_without_leaks(channel, &[]).await;
}

#[tokio::test]
async fn a_call_that_waits_for_ready_outlives_a_server_that_is_away() {
    let mut greeter = [Greeter::start()];
    let channel = quickly(plaintext(target_of(&greeter))).build().unwrap();
    greeter[0].kill();
    let waiting = tokio::spawn({
        let channel = channel.clone();
        let request = ask("Ada").wait_for_ready(true);
        async move { channel.invoke(&SAY_HELLO, request).await.map(drop) }
    });
    until_state(&channel, ConnectivityState::TransientFailure).await;
    assert!(!waiting.is_finished());
    greeter[0].start_again();
    waiting.await.unwrap().unwrap();
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_gracefully_and_starts_again_costs_no_call() {
    let mut greeters = [Greeter::start(), Greeter::start()];
    let channel = quickly(plaintext(target_of(&greeters)).default_service_config(ROUND_ROBIN))
        .build()
        .unwrap();
    let load = Load::start(&channel, false);
    for _ in 0..3 {
        until_connected(&channel, &greeters).await;
        load.more_calls(500).await;
        greeters[0].stop_gracefully().await;
        load.more_calls(500).await;
        greeters[0].start_again();
        until_connected(&channel, &greeters).await;
        load.more_calls(500).await;
    }
    assert_eq!(load.stop().await.len(), 0);
    close_without_leaks(channel, &greeters).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_server_that_stops_gracefully_costs_no_call_that_waits_for_ready() {
    let mut greeters = [Greeter::start()];
    let channel = quickly(plaintext(target_of(&greeters))).build().unwrap();
    let load = Load::start(&channel, true);
    for _ in 0..3 {
        load.more_calls(500).await;
        greeters[0].stop_gracefully().await;
        greeters[0].start_again();
    }
    load.more_calls(500).await;
    assert_eq!(load.stop().await.len(), 0);
    close_without_leaks(channel, &greeters).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_costs_the_calls_that_it_had_accepted_and_no_others() {
    let mut greeters = [Greeter::start(), Greeter::start()];
    let channel =
        plaintext(target_of(&greeters)).default_service_config(ROUND_ROBIN).build().unwrap();
    until_ready(&channel, &greeters).await;
    let load = Load::start(&channel, false);
    greeters[0].hold();
    until("every caller is held", async || greeters[0].open_calls() == CALLERS).await;
    greeters[0].kill();
    load.more_calls(CALLERS + 500).await;
    let failures = load.stop().await;
    assert_eq!(failures.len(), CALLERS);
    let address = greeters[0].address().to_string();
    for status in failures {
        assert_eq!(status.code(), Code::UNAVAILABLE);
        assert!(status.message().starts_with(&address), "{status}");
        assert!(status.message().len() > address.len() + 2, "names the cause: {status}");
    }
    close_without_leaks(channel, &greeters).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_a_killed_server_had_not_accepted_go_elsewhere() {
    // The first takes ten calls at a time, so that most of the callers wait for their turn there.
    let mut greeters = [Greeter::start_with_max_streams(10), Greeter::start()];
    let channel =
        plaintext(target_of(&greeters)).default_service_config(ROUND_ROBIN).build().unwrap();
    until_ready(&channel, &greeters).await;
    greeters[0].hold();
    let load = Load::start(&channel, true);
    until("the server has all that it takes", async || greeters[0].open_calls() == 10).await;
    until("all others wait", async || {
        let report = report_of(&channel, &greeters[0]).await.unwrap();
        report.counters.get("queued streams") == Some(&((CALLERS - 10) as u64))
    })
    .await;
    greeters[0].kill();
    load.more_calls(CALLERS + 500).await;
    let failures = load.stop().await;
    assert_eq!(failures.len(), 10, "{failures:?}");
    close_without_leaks(channel, &greeters).await;
}

// spec: A62/ready-lost
#[tokio::test]
async fn a_lost_connection_makes_pick_first_idle_and_the_next_call_connects() {
    let mut greeter = [Greeter::start()];
    let channel = quickly(plaintext(target_of(&greeter))).build().unwrap();
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    greeter[0].kill();
    until_state(&channel, ConnectivityState::Idle).await;
    greeter[0].start_again();
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    assert_eq!(channel.state(), ConnectivityState::Ready);
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn resetting_the_backoff_ends_a_wait_that_would_have_been_long() {
    let mut greeter = [Greeter::start()];
    let hour = Duration::from_secs(3_600);
    let backoff = BackoffConfig { base_delay: hour, max_delay: hour, ..BackoffConfig::default() };
    let channel = plaintext(target_of(&greeter)).backoff(backoff).build().unwrap();
    greeter[0].kill();
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
    greeter[0].start_again();
    channel.reset_connect_backoff();
    let request = ask("Ada").wait_for_ready(true).timeout(Duration::from_secs(20));
    channel.invoke(&SAY_HELLO, request).await.unwrap();
    close_without_leaks(channel, &greeter).await;
}

async fn until_ready(channel: &switchboard::Channel, greeters: &[Greeter]) {
    channel.connect();
    until_connected(channel, greeters).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_whose_stream_ids_are_used_up_is_replaced_and_costs_no_call() {
    for connections in [1, 3] {
        let greeter = [Greeter::start()];
        let channel = plaintext(target_of(&greeter))
            .stream_ids_per_connection(10)
            .connections_per_address(connections)
            .build()
            .unwrap();
        // One after the other, then many at a time.
        for _ in 0..20 {
            channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
        }
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let channel = channel.clone();
            tasks.spawn(async move {
                for _ in 0..20 {
                    let request = ask("Ada").timeout(Duration::from_secs(20));
                    channel.invoke(&SAY_HELLO, request).await.unwrap();
                }
            });
        }
        while let Some(task) = tasks.join_next().await {
            task.unwrap();
        }
        assert_eq!(greeter[0].received(), 100);
        assert!(greeter[0].accepted() >= 100 / 10, "{}", greeter[0].accepted());
        // A stream that has the last id outlives what it has used up.
        let mut streams = Vec::new();
        for _ in 0..12 {
            let options = CallOptions::new().timeout(Duration::from_secs(20));
            let mut stream = channel.new_stream(&BIDI_HELLO, options).await.unwrap();
            stream.send(hello("Ada")).await.unwrap();
            stream.recv().await.unwrap().unwrap();
            streams.push(stream);
        }
        for mut stream in streams {
            stream.send(hello("Ada")).await.unwrap();
            stream.recv().await.unwrap().unwrap();
            stream.close_send();
            assert!(stream.recv().await.unwrap().is_none());
        }
        channel.close().await;
    }
}

// spec: A62/sticky-tf
#[tokio::test(start_paused = true)]
async fn a_channel_that_fails_does_not_flicker_between_dials() {
    use ConnectivityState::{Connecting, Idle, Ready, TransientFailure};
    let network = MemoryNetwork::new();
    let channel = plaintext("passthrough:server").connector(network.connector()).build().unwrap();
    let mut states = channel.watch_state();
    channel.connect();
    // Several dials have failed by then.
    tokio::time::sleep(Duration::from_secs(20)).await;
    let mut listener = network.listen("server");
    let server = tokio::spawn(async move {
        let stream = listener.accept().await.unwrap();
        let _ = answer_all(stream, |_| ()).await;
    });
    channel.invoke(&SAY_HELLO, ask("Ada").wait_for_ready(true)).await.unwrap();
    for state in [Idle, Connecting, TransientFailure, Ready] {
        assert_eq!(states.next().await, Some(StateChange::Changed(state)));
    }
    channel.close().await;
    server.await.unwrap();
}

#[tokio::test]
async fn calls_wait_out_an_update_without_servers_only_if_they_wait_for_ready() {
    let greeter = [Greeter::start()];
    for policy in ["pick_first", "round_robin"] {
        let manual = ManualResolver::new();
        manual.set([]);
        let channel = plaintext("manual:greeter")
            .resolver("manual", manual.clone())
            .default_service_config(format!(r#"{{"loadBalancingConfig":[{{"{policy}":{{}}}}]}}"#))
            .build()
            .unwrap();
        let request = ask("Ada").timeout(Duration::from_secs(20));
        let status = channel.invoke(&SAY_HELLO, request.clone()).await.unwrap_err();
        assert_eq!(status.code(), Code::UNAVAILABLE, "{status}");
        assert!(!status.message().is_empty());
        let short = request.clone().wait_for_ready(true).timeout(Duration::from_millis(20));
        let late = channel.invoke(&SAY_HELLO, short).await.unwrap_err();
        assert_eq!(late.code(), Code::DEADLINE_EXCEEDED);
        assert!(late.message().contains(status.message()), "{late}");
        let request = request.wait_for_ready(true);
        // Also when there were servers, and are no more.
        for _ in 0..2 {
            let waiting = channel.invoke(&SAY_HELLO, request.clone());
            let mut waiting = std::pin::pin!(waiting);
            assert!(waiting.as_mut().now_or_never().is_none());
            manual.set([greeter[0].address().into()]);
            waiting.await.unwrap();
            manual.set([]);
            until_state(&channel, ConnectivityState::TransientFailure).await;
        }
        close_without_leaks(channel, &greeter).await;
    }
}

//! What an inspection tells, and how it keeps up.

use std::time::Duration;

use switchboard::{
    ActorAnswer, ActorHandle, ActorKind, ConnectivityState, Fault, Inspection, KeepaliveConfig,
};

use crate::support::greeter::{Greeter, SAY_HELLO, ask, target_of};
use crate::support::{
    ROUND_ROBIN, close_without_leaks, plaintext, report_of, reports, until, until_connected,
    until_state,
};

#[tokio::test]
async fn an_inspection_tells_what_each_actor_knows() {
    let greeters = [Greeter::start(), Greeter::start()];
    let channel = plaintext(target_of(&greeters))
        .default_service_config(ROUND_ROBIN)
        .keepalive(KeepaliveConfig::after(Duration::from_secs(60)))
        .build()
        .unwrap();
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    until_connected(&channel, &greeters).await;
    for _ in 0..4 {
        channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    }
    let all = reports(&channel).await;
    let of = |kind| all.iter().find(move |it| it.actor == kind).unwrap();
    let resolver = of(ActorKind::Resolver);
    let found = &resolver.facts["found"];
    assert!(greeters.iter().all(|it| found.contains(&it.address().to_string())), "{found}");
    assert_eq!(resolver.facts["service config"], "none");
    until("both take part", async || {
        let balancer =
            reports(&channel).await.into_iter().find(|it| it.actor == ActorKind::Balancer);
        balancer.unwrap().facts["picker"] == "calls go in turn to #1 #2"
    })
    .await;
    let mut calls = 0;
    for greeter in &greeters {
        let report = report_of(&channel, greeter).await.unwrap();
        let [connection] = &report.connections[..] else { panic!("{report}") };
        assert_eq!(
            (connection.open_streams, connection.security.to_string().as_str()),
            (0, "no security")
        );
        assert_eq!(connection.messages_sent, connection.streams);
        assert_eq!(connection.messages_received, connection.streams);
        assert!(connection.bytes_sent > 50 && connection.bytes_received > 50);
        assert!(connection.receive_window >= 65_535);
        assert_eq!(connection.keepalive_time, Some(Duration::from_secs(60)));
        assert!(connection.tls.is_none());
        calls += connection.streams;
        let states: Vec<_> = report.transitions.iter().map(|it| it.state.as_str()).collect();
        assert_eq!(states, ["started", "IDLE", "CONNECTING", "READY"]);
    }
    assert_eq!(calls, 5);
    close_without_leaks(channel, &greeters).await;
}

#[tokio::test]
async fn a_transition_says_why() {
    let mut greeter = [Greeter::start()];
    let channel = plaintext(target_of(&greeter)).build().unwrap();
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    greeter[0].kill();
    until("its dial has failed", async || {
        // Without calls nobody would dial.
        let _ = channel.invoke(&SAY_HELLO, ask("Ada")).await;
        let report = report_of(&channel, &greeter[0]).await.unwrap();
        let failed = report.transitions.iter().find(|it| it.state == "TRANSIENT_FAILURE");
        failed.is_some_and(|it| it.cause.as_ref().unwrap().contains("connection refused"))
    })
    .await;
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn one_actor_alone_can_be_asked() {
    let greeter = [Greeter::start()];
    let channel = plaintext(target_of(&greeter)).allow_injection().build().unwrap();
    assert!(channel.actors().is_empty(), "nothing has begun");
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    let actors = channel.actors();
    let kinds: Vec<_> = actors.iter().map(ActorHandle::kind).collect();
    assert_eq!(
        kinds,
        [
            ActorKind::Supervisor,
            ActorKind::ClientConn,
            ActorKind::Resolver,
            ActorKind::Balancer,
            ActorKind::AddrConn
        ]
    );
    for actor in &actors {
        let ActorAnswer::Answered(report) = actor.inspect().await else { panic!("{actor:?}") };
        assert_eq!((report.actor, report.id), (actor.kind(), actor.id()));
    }
    assert_eq!(actors[4].id(), Some(format!("#1 {}", greeter[0].address())));
    // A handle outlives a crash, and says so when nobody answers.
    channel.inject(Fault::crash(ActorKind::Balancer)).await.unwrap();
    until("it has been restarted", async || {
        matches!(actors[3].inspect().await, ActorAnswer::Answered(report) if report.restarts == 1)
    })
    .await;
    close_without_leaks(channel, &greeter).await;
    assert!(matches!(actors[3].inspect().await, ActorAnswer::Silent { .. }));
}

#[tokio::test]
async fn whoever_watches_sees_the_channel_to_its_end() {
    let greeter = [Greeter::start()];
    let channel = plaintext(target_of(&greeter)).build().unwrap();
    let mut changes = channel.watch_inspection();
    assert_eq!(changes.next().await.unwrap().state, ConnectivityState::Idle);
    channel.connect();
    let mut seen = Vec::new();
    while seen.last() != Some(&ConnectivityState::Ready) {
        seen.push(changes.next().await.unwrap().state);
    }
    // Once all is told, nothing comes.
    while tokio::time::timeout(Duration::from_millis(100), changes.next()).await.is_ok() {}
    channel.close().await;
    let mut last = None;
    while let Some(inspection) = changes.next().await {
        last = Some(inspection);
    }
    let last = last.unwrap();
    assert_eq!(last.state, ConnectivityState::Shutdown);
    assert!(last.actors.is_empty() && last.connections == 0, "{last}");
    drop(changes);
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn an_inspection_can_be_drawn() {
    let greeter = [Greeter::start()];
    let channel = plaintext(target_of(&greeter)).default_service_config(ROUND_ROBIN);
    let channel = channel.build().unwrap();
    channel.connect();
    until_state(&channel, ConnectivityState::Ready).await;
    let inspection = channel.inspect().await;
    let address = greeter[0].address();
    let mermaid = inspection.to_mermaid();
    assert!(mermaid.starts_with("flowchart TD\n    n0[\"channel ipv4:127.0.0.1"), "{mermaid}");
    let box_of = |text: &str| {
        let line = mermaid.lines().find(|line| line.contains(text)).unwrap();
        line.trim().split('[').next().unwrap().to_owned()
    };
    let addr_conn = box_of(&format!("[\"AddrConn #1 {address}<br>READY\"]"));
    let arrow = format!("{} --> {addr_conn}", box_of("[\"pick_first<br>READY\"]"));
    assert!(mermaid.contains(&arrow), "{mermaid}");
    let dot = inspection.to_dot();
    assert!(dot.starts_with("digraph channel {\n") && dot.ends_with("}\n"), "{dot}");
    assert_eq!(dot.matches(" -> ").count(), mermaid.matches(" --> ").count());
    assert!(dot.contains(&format!("[label=\"AddrConn #1 {address}\\nREADY\"];")), "{dot}");
    // Data for tools.
    let json = serde_json::to_value(&inspection).unwrap();
    assert_eq!(json["state"], "READY");
    assert_eq!(json["actors"].as_array().unwrap().len(), 5);
    close_without_leaks(channel, &greeter).await;
}

/// What must hold of an inspection, whenever it is made.
fn check(inspection: &Inspection) {
    let text = inspection.to_string();
    for answer in &inspection.actors {
        let ActorAnswer::Answered(report) = answer else { continue };
        if report.actor == ActorKind::AddrConn {
            let has_connection = !report.connections.is_empty();
            assert!(
                report.state != "READY" || has_connection,
                "READY without a connection: {text}"
            );
        }
        assert_eq!(report.transitions.last().unwrap().state, report.state, "{text}");
    }
    let open = inspection.actors.iter().filter_map(|answer| match answer {
        ActorAnswer::Answered(report) => Some(report.connections.len()),
        ActorAnswer::Silent { .. } => None,
    });
    assert!(open.sum::<usize>() <= inspection.connections, "{text}");
}

#[tokio::test]
async fn an_inspection_is_consistent_whatever_happens_meanwhile() {
    let mut greeters = [Greeter::start(), Greeter::start()];
    let channel =
        plaintext(target_of(&greeters)).default_service_config(ROUND_ROBIN).build().unwrap();
    let caller = channel.clone();
    let calls = tokio::spawn(async move {
        loop {
            let _ = caller.invoke(&SAY_HELLO, ask("Ada")).await;
        }
    });
    for round in 0..6 {
        greeters[round % 2].kill();
        for _ in 0..50 {
            check(&channel.inspect().await);
        }
        greeters[round % 2].start_again();
        channel.reset_connect_backoff();
        for _ in 0..50 {
            check(&channel.inspect().await);
        }
    }
    calls.abort();
    assert!(calls.await.unwrap_err().is_cancelled());
    close_without_leaks(channel, &greeters).await;
}

//! What is left of streams that are over while a server takes no output, or gives no window.

use crate::types::Seen;

use super::peer::*;
use super::writing::{Break, breakable};
use super::*;

#[tokio::test(start_paused = true)]
async fn a_server_that_takes_nothing_for_20_s_gets_no_more_streams_and_keeps_those_it_has() {
    let mut it = breakable().await;
    let mut kept = it.client.call(b"1").await.unwrap();
    let id = it.peer.request().await;
    settle().await;
    it.breaks(Break::Stalls);
    let begin = Instant::now();
    let mut unsent = it.client.call(b"2").await.unwrap();
    // Another connection may take it.
    let error = unsent.recv.headers().await.unwrap_err();
    assert_eq!(begin.elapsed(), Duration::from_secs(20));
    assert_eq!(error.seen(), Seen::Never, "{error}");
    let told = "server:1: the server has taken nothing of what was to be sent for 20s";
    assert_eq!(it.client.told(), [told]);
    assert!(!it.client.connection.is_usable());
    drop(unsent);

    it.peer.answer(id, b"late").await;
    assert!(kept.recv.message(100).await.unwrap().is_ok());
    assert!(kept.recv.trailers().await.unwrap().is_ok());
    drop(kept);
    let (ended, _) = it.client.ended().await;
    assert_eq!(ended.to_string(), told);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_takes_a_little_now_and_then_is_not_given_up() {
    let mut it = breakable().await;
    let mut calls = Vec::new();
    for _ in 0..10 {
        it.breaks(Break::Stalls);
        calls.push(it.client.call(b"x").await.unwrap());
        tokio::time::sleep(Duration::from_secs(15)).await;
        it.breaks(Break::Nowhere);
        // What is said from there has the client look again.
        it.peer.window_update(0, 1).await;
        it.peer.request().await;
    }
    assert!(it.client.connection.is_usable());
}

#[tokio::test(start_paused = true)]
async fn while_much_waits_to_leave_of_calls_that_are_over_others_wait_for_a_place() {
    let mut it = breakable().await;
    it.breaks(Break::Stalls);
    let big = vec![0; 60_000];
    for _ in 0..18 {
        assert_eq!(it.client.connection.queued_streams(), 0);
        drop(it.client.call(&big).await.unwrap());
    }
    let connection = it.client.connection.clone();
    let waiting = tokio::spawn(async move {
        open(&connection, Some((message(b"waits"), true)), None).await.unwrap()
    });
    settle().await;
    assert_eq!(it.client.connection.queued_streams(), 1);
    it.breaks(Break::Nowhere);
    it.peer.window_update(0, 10_000_000).await;
    let mut stream = loop {
        // All that is over leaves with its reset.
        let frame = it.peer.next().await.unwrap();
        if waiting.is_finished() {
            break waiting.await.unwrap();
        }
        assert!(matches!(frame.kind, HEADERS | DATA | RST_STREAM), "{frame:?}");
    };
    let id = stream.handle.id();
    while it.peer.request_or_reset().await != (id, true) {}
    it.peer.answer(id, b"").await;
    assert!(stream.recv.trailers().await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn calls_that_end_for_want_of_window_wear_a_connection_out_and_end_no_other() {
    let (client, mut peer) = connected(&[(INITIAL_WINDOW_SIZE, 1_000_000)]).await;
    let mut kept = client.call(b"kept").await.unwrap();
    let kept_id = peer.request().await;
    // The window of the connection is used up.
    let _fills = client.call(&vec![0; 65_535]).await.unwrap();
    let mut ended = 0;
    loop {
        let Ok(stream) = client.call(b"x").await else { break };
        while peer.expect_any().await.stream != stream.handle.id() {}
        drop(stream);
        ended += 1;
        if ended % 100 == 0 {
            settle().await;
        }
    }
    assert_eq!(ended, 2_049);
    let text = "server:1: the server gives no window: 2048 calls have ended that could not send \
                their messages";
    settle().await;
    assert_eq!(client.told(), [text]);
    peer.answer(kept_id, b"late").await;
    assert!(kept.recv.trailers().await.unwrap().is_ok());
    assert!(!client.driver.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_window_that_comes_late_makes_up_for_any_number_of_calls() {
    let (client, mut peer) = connected(&[(INITIAL_WINDOW_SIZE, 1_000_000)]).await;
    let mut before = client.call(&vec![0; 65_530]).await.unwrap();
    let first = peer.request().await;
    peer.answer(first, b"").await;
    assert!(before.recv.trailers().await.unwrap().is_ok());
    for _ in 0..3 {
        for _ in 0..1_500 {
            let stream = client.call(b"x").await.unwrap();
            while peer.expect_any().await.stream != stream.handle.id() {}
            drop(stream);
        }
        // In two pieces: a frame may come in any.
        let update = frame(WINDOW_UPDATE, 0, 0, &70_000_u32.to_be_bytes());
        peer.send_raw(&update[..11]).await;
        settle().await;
        peer.send_raw(&update[11..]).await;
        settle().await;
        let mut call = client.call(&vec![0; 70_000 - 5]).await.unwrap();
        let id = call.handle.id();
        while peer.request_or_reset().await != (id, true) {}
        peer.answer(id, b"").await;
        assert!(call.recv.trailers().await.unwrap().is_ok());
    }
    assert!(client.connection.is_usable());
}

//! What is left of streams that are over while a server takes no output, or gives no window.

use std::future::poll_fn;
use std::task::Poll;

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

#[tokio::test(start_paused = true)]
async fn streams_that_end_while_they_wait_to_send_wear_a_connection_out_as_well() {
    let (client, mut peer) = connected(&[(INITIAL_WINDOW_SIZE, 1_000_000)]).await;
    // One holds the last byte of the window, without anything to send yet.
    let idle = client.open().await.unwrap();
    idle.handle.send_ready().await.unwrap();
    let _fills = client.call(&vec![0; 65_534 - 5]).await.unwrap();
    settle().await;
    let mut ended = 0;
    while ended < 2_500 {
        let Ok(stream) = client.open().await else { break };
        while peer.expect_any().await.stream != stream.handle.id() {}
        let waits = poll_fn(|cx| Poll::Ready(stream.handle.poll_send_ready(cx).is_pending()));
        assert!(waits.await);
        drop(stream);
        ended += 1;
        if ended % 100 == 0 {
            settle().await;
        }
    }
    assert_eq!(ended, 2_049);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_to_end_does_not_wait_for_what_is_left_of_calls_that_are_over() {
    for is_reset_unsent in [false, true] {
        let (client, mut peer) = connected(&[(INITIAL_WINDOW_SIZE, 1_000_000)]).await;
        let fills = client.call(&vec![0; 65_535]).await.unwrap();
        let mut sent = 0;
        while sent < 65_535 {
            sent += peer.expect_any().await.payload.len();
        }
        let over = client.call(b"x").await.unwrap();
        let id = over.handle.id();
        if is_reset_unsent {
            drop(over);
            peer.expect(HEADERS).await;
        } else {
            peer.expect(HEADERS).await;
            drop(over);
            peer.expect(RST_STREAM).await;
        }
        peer.goaway(id, NO_ERROR, b"").await;
        settle().await;
        assert!(!client.driver.is_finished());
        drop(fills);
        let ended = tokio::time::timeout(Duration::from_millis(1), client.ended()).await;
        assert!(ended.is_ok(), "reset before it was sent: {is_reset_unsent}");
    }
}

#[tokio::test(start_paused = true)]
async fn calls_that_end_before_they_leave_wait_for_window_with_their_messages() {
    for windows in [[65_535, 0], [0, 1_000_000]] {
        let [window, more] = windows;
        let (client, mut peer) = connected(&[(INITIAL_WINDOW_SIZE, window)]).await;
        peer.window_update(0, more.max(1)).await;
        let mut kept = client.call(b"").await.unwrap();
        let id = kept.handle.id();
        let big = vec![0; 60_000];
        let begin = Instant::now();
        let mut ended = 0;
        while ended < 50 {
            let connection = client.connection.clone();
            let first = Some((message(&big), true));
            let opened =
                tokio::time::timeout(Duration::from_millis(1), open(&connection, first, None));
            let Ok(opened) = opened.await else { break };
            let stream = opened.unwrap();
            let id = stream.handle.id();
            drop(stream);
            while peer.expect_any().await.stream != id {}
            settle().await;
            ended += 1;
        }
        assert!((17..=20).contains(&ended), "{windows:?}: {ended}");
        // They may get it later: only then it is given up.
        let waits = client.call(b"waits").await;
        assert!(matches!(waits, Err(StreamError::Unsent(_))), "{windows:?}: {waits:?}");
        let after = begin.elapsed().as_secs();
        assert!((20..30).contains(&after), "{windows:?}: {after}");
        let told = client.told().concat();
        assert!(told.starts_with("server:1: the server gives no window: "), "{told}");
        peer.answer(id, b"late").await;
        assert!(kept.recv.trailers().await.unwrap().is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn calls_that_ended_before_they_left_are_reset_when_the_window_comes() {
    let (client, mut peer) = connected(&[(INITIAL_WINDOW_SIZE, 0)]).await;
    let big = vec![0; 60_000];
    for _ in 0..3 {
        for _ in 0..17 {
            let stream = client.call(&big).await.unwrap();
            let id = stream.handle.id();
            drop(stream);
            while peer.expect_any().await.stream != id {}
            peer.window_update(0, 70_000).await;
            peer.window_update(id, 70_000).await;
            while peer.request_or_reset().await != (id, false) {}
        }
        // As many again as would have been too many.
        settle().await;
        assert_eq!(client.connection.queued_streams(), 0);
    }
    // Those that the server resets are gone as well.
    for _ in 0..50 {
        let stream = client.call(&big).await.unwrap();
        let id = stream.handle.id();
        drop(stream);
        while peer.expect_any().await.stream != id {}
        peer.reset(id, CANCEL).await;
        settle().await;
    }
    assert!(client.connection.is_usable());
    drop(client.call(b"has a place").await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn many_calls_that_end_while_the_socket_is_full_do_not_wear_a_connection_out() {
    let mut it = breakable().await;
    let mut calls = Vec::new();
    for _ in 0..3_000 {
        let stream = it.client.call(b"x").await.unwrap();
        while it.peer.request_or_reset().await != (stream.handle.id(), true) {}
        calls.push(stream);
    }
    it.breaks(Break::Stalls);
    drop(it.client.call(b"blocks").await.unwrap());
    settle().await;
    drop(calls);
    settle().await;
    assert!(it.client.connection.is_usable());
    it.breaks(Break::Nowhere);
    it.peer.window_update(0, 1_000_000).await;
    // And perhaps that which was on its way.
    let mut reset = 0;
    while reset < 3_000 {
        reset += usize::from(!it.peer.request_or_reset().await.1);
    }
    settle().await;
    let stream = it.client.call(b"x").await.unwrap();
    while it.peer.request_or_reset().await != (stream.handle.id(), true) {}
    assert!(it.client.connection.is_usable());
}

//! How messages come to be DATA frames.

use std::time::Duration;

use tokio::time::Instant;

use super::peer::*;
use super::*;

/// The DATA frames of a stream up to its end.
async fn data_frames(peer: &mut Peer) -> Vec<Frame> {
    let mut frames = vec![peer.expect(DATA).await];
    while !frames.last().is_some_and(Frame::is_end) {
        frames.push(peer.expect(DATA).await);
    }
    frames
}

fn payload(frames: &[Frame]) -> Vec<u8> {
    frames.iter().flat_map(|frame| frame.payload.clone()).collect()
}

/// With windows that nothing here fills.
async fn open_stream() -> (Client, Peer, Stream) {
    let (client, mut peer) = connected(&[(INITIAL_WINDOW_SIZE, 1 << 20)]).await;
    peer.window_update(0, 1 << 20).await;
    settle().await;
    let stream = client.open().await.unwrap();
    peer.expect(HEADERS).await;
    (client, peer, stream)
}

#[tokio::test(start_paused = true)]
async fn messages_that_are_ready_go_out_in_long_frames_and_the_end_with_the_last() {
    let (_client, mut peer, stream) = open_stream().await;
    let mut expected = Vec::new();
    for nth in 0..1000 {
        let text = vec![nth as u8; 20 + nth % 160];
        assert!(stream.handle.send_if_room(&message(&text), false).unwrap());
        expected.extend(framed(&text));
    }
    stream.handle.finish().unwrap();
    let frames = data_frames(&mut peer).await;
    assert_eq!(payload(&frames), expected);
    let fewest = expected.len().div_ceil(16 * 1024);
    assert!((fewest..=fewest + 1).contains(&frames.len()), "{}", frames.len());
    assert!(frames.iter().all(|frame| frame.payload.len() > 256));
}

#[tokio::test(start_paused = true)]
async fn a_long_message_goes_out_at_once_behind_the_short_ones_before_it() {
    let (_client, mut peer, stream) = open_stream().await;
    let long = vec![7; 50_000];
    stream.handle.send(message(b"one"), false).unwrap();
    stream.handle.send(message(b"two"), false).unwrap();
    stream.handle.send(message(&long), false).unwrap();
    stream.handle.send(message(b"three"), true).unwrap();
    let frames = data_frames(&mut peer).await;
    let expected = [framed(b"one"), framed(b"two"), framed(&long), framed(b"three")].concat();
    assert_eq!(payload(&frames), expected);
    assert_eq!(frames[0].payload, [framed(b"one"), framed(b"two")].concat());
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_while_the_socket_takes_nothing_is_gathered() {
    let (_client, mut peer, stream) = open_stream().await;
    // Nobody reads from the pipe, so that it fills; then messages come one by one.
    stream.handle.send(message(&vec![1; 300_000]), false).unwrap();
    settle().await;
    for _ in 0..500 {
        stream.handle.send(message(&[2; 100]), false).unwrap();
        settle().await;
    }
    stream.handle.finish().unwrap();
    let frames = data_frames(&mut peer).await;
    let bytes: usize = frames.iter().map(|frame| frame.payload.len()).sum();
    assert_eq!(bytes, 300_005 + 500 * 105);
    let short = frames.iter().filter(|frame| frame.payload.len() < 256).count();
    assert!(short <= 1, "{short} short frames of {}", frames.len());
}

/// Sends a short message; gives how long it was under way.
async fn took(peer: &mut Peer, stream: &Stream) -> Duration {
    let sent = Instant::now();
    stream.handle.send(message(b"short"), false).unwrap();
    assert_eq!(peer.expect(DATA).await.payload, framed(b"short"));
    sent.elapsed()
}

#[tokio::test(start_paused = true)]
async fn after_many_short_frames_that_nobody_reads_further_ones_wait_for_each_other_a_while() {
    let (_client, mut peer, stream) = open_stream().await;
    for nth in 0..64 {
        assert_eq!(took(&mut peer, &stream).await, Duration::ZERO, "{nth}");
    }
    // Nothing that the peer does is waited for.
    for _ in 0..3 {
        let took = took(&mut peer, &stream).await;
        assert!((5..=7).contains(&took.as_millis()), "{took:?}");
    }
    // What is long enough goes at once.
    let sent = Instant::now();
    for _ in 0..26 {
        stream.handle.send(message(b"short"), false).unwrap();
        settle().await;
    }
    assert_eq!(peer.expect(DATA).await.payload.len(), 26 * 10);
    assert_eq!(sent.elapsed(), Duration::ZERO);
    // The peer makes room: it reads.
    let id = stream.handle.id();
    peer.window_update(id, 1000).await;
    settle().await;
    for _ in 0..64 {
        assert_eq!(took(&mut peer, &stream).await, Duration::ZERO);
    }
    assert!(took(&mut peer, &stream).await > Duration::ZERO);
    // The end waits for nothing.
    let sent = Instant::now();
    stream.handle.send(message(b"short"), false).unwrap();
    stream.handle.finish().unwrap();
    assert!(peer.expect(DATA).await.is_end());
    assert_eq!(sent.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_the_server_answers_delays_no_later_one() {
    let (_client, mut peer, mut stream) = open_stream().await;
    let id = stream.handle.id();
    peer.ok_headers(id).await;
    for nth in 0..500 {
        assert_eq!(took(&mut peer, &stream).await, Duration::ZERO, "{nth}");
        peer.data(id, 0, &framed(b"pong")).await;
        assert_eq!(stream.recv.message(100).await.unwrap().unwrap().payload, "pong");
    }
}

#[tokio::test(start_paused = true)]
async fn short_frames_of_many_streams_count_together() {
    let (client, mut peer, first) = open_stream().await;
    let mut streams = vec![first];
    for _ in 0..40 {
        streams.push(client.open().await.unwrap());
        peer.expect(HEADERS).await;
    }
    // Two of each are enough to be held back then, one is not.
    for stream in &streams {
        assert_eq!(took(&mut peer, stream).await, Duration::ZERO);
    }
    for stream in &streams[..24] {
        assert_eq!(took(&mut peer, stream).await, Duration::ZERO);
    }
    assert!(took(&mut peer, &streams[0]).await > Duration::ZERO);
    assert_eq!(took(&mut peer, &streams[40]).await, Duration::ZERO);
    assert!(took(&mut peer, &streams[40]).await > Duration::ZERO);
    // What streams that are gone had sent counts no more.
    drop(streams.drain(..40));
    for _ in 0..40 {
        peer.expect(RST_STREAM).await;
    }
    assert_eq!(took(&mut peer, &streams[0]).await, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn requests_that_end_after_the_response_are_not_reset() {
    let (_client, mut peer, mut stream) = open_stream().await;
    let id = stream.handle.id();
    peer.answer(id, b"early").await;
    settle().await;
    stream.handle.finish().unwrap();
    assert_eq!(stream.recv.message(100).await.unwrap().unwrap().payload, "early");
    assert!(stream.recv.trailers().await.unwrap().is_ok());
    let frame = peer.expect(DATA).await;
    assert!(frame.is_end() && frame.payload.is_empty());
}

//! Streams whose answers nobody reads, and what servers may do to them.

use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Waker};

use super::peer::*;
use super::*;
use crate::transport::{Reader, ReceiveBuffer, RecvHalf, StreamHandle};

/// A stream that can be told to gather what it has received, as those of messages can.
struct Held {
    _handle: StreamHandle,
    reader: Arc<Half>,
}

struct Half(Mutex<RecvHalf>);

impl Reader for Half {
    fn discard(&self) {
        self.0.lock().unwrap().discard();
    }

    fn gather(&self) {
        self.0.lock().unwrap().gather(&mut Context::from_waker(Waker::noop()));
    }
}

impl Held {
    fn new(Stream { handle, recv }: Stream) -> Self {
        let reader = Arc::new(Half(Mutex::new(recv)));
        let weak: Weak<Half> = Arc::downgrade(&reader);
        handle.read_by(weak);
        Self { _handle: handle, reader }
    }

    /// Reads to the end: the messages, and how it ended.
    async fn read(&self) -> (Vec<Vec<u8>>, Result<(), StreamError>) {
        let mut messages = Vec::new();
        loop {
            let next =
                std::future::poll_fn(|cx| self.reader.0.lock().unwrap().poll_message(cx, LIMIT));
            match next.await {
                Some(Ok(message)) => messages.push(message.payload.to_vec()),
                Some(Err(error)) => return (messages, Err(error)),
                None => break,
            }
        }
        let end = std::future::poll_fn(|cx| self.reader.0.lock().unwrap().poll_trailers(cx)).await;
        (messages, end.map(drop))
    }
}

const LIMIT: usize = 1 << 20;

fn with_buffer(bytes: usize) -> ConnectionOptions {
    let receive_buffer = ReceiveBuffer::new(bytes);
    ConnectionOptions { receive_buffer, ..ConnectionOptions::default() }
}

/// A call that must succeed.
async fn call(client: &Client, peer: &mut Peer) {
    let mut stream = client.call(b"x").await.unwrap();
    let id = peer.request().await;
    peer.answer(id, b"").await;
    assert!(stream.recv.trailers().await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn streams_of_small_messages_that_nobody_reads_leave_room_for_calls() {
    for len in [0, 1, 20, 100, 250, 300] {
        let options = ConnectionOptions {
            initial_stream_window: 100_000,
            initial_connection_window: 65_535,
            adaptive_windows: false,
            ..with_buffer(32 << 20)
        };
        let (client, mut peer) = connected_with(&[], &options).await;
        let mut unread = Vec::new();
        for number in 0..40 {
            unread.push(Held::new(client.call(b"x").await.unwrap()));
            let id = peer.request().await;
            peer.ok_headers(id).await;
            // Nearly all that its window takes, as one frame each.
            let messages = 90_000 / (5 + len);
            for _ in 0..messages {
                peer.data(id, 0, &framed(&vec![number; len])).await;
            }
            settle().await;
            call(&client, &mut peer).await;
            peer.trailers(id, "0").await;
        }
        for (number, stream) in unread.iter().enumerate() {
            let (messages, end) = stream.read().await;
            assert_eq!(end, Ok(()), "{len}");
            assert_eq!(messages.len(), 90_000 / (5 + len));
            assert!(messages.iter().all(|message| *message == vec![number as u8; len]));
        }
        call(&client, &mut peer).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_bears_any_number_of_calls_with_an_empty_frame_each() {
    let (client, mut peer) = connected(&[]).await;
    // What they send, all of them together.
    peer.window_update(0, 10 * 20_000).await;
    for _ in 0..20_000 {
        let mut stream = client.call(b"x").await.unwrap();
        let id = peer.request().await;
        peer.ok_headers(id).await;
        peer.data(id, 0, b"").await;
        peer.data(id, 0, &framed(b"y")).await;
        peer.data(id, 0, b"").await;
        peer.trailers(id, "0").await;
        assert_eq!(stream.recv.message(LIMIT).await.unwrap().unwrap().payload, "y");
        assert!(stream.recv.trailers().await.unwrap().is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_empty_frames_ends_the_connection_and_is_named() {
    let (client, mut peer) = connected(&[]).await;
    let mut stream = client.call(b"x").await.unwrap();
    let id = peer.request().await;
    peer.ok_headers(id).await;
    peer.send_raw(&frame(DATA, 0, id, &[]).repeat(10_000)).await;
    settle().await;
    assert_eq!(client.told(), [""; 0]);
    peer.send_raw(&frame(DATA, 0, id, &[]).repeat(100)).await;
    let error = stream.recv.trailers().await.unwrap_err().to_string();
    assert!(error.contains("empty DATA frames, more than 10000 beyond"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn padding_is_not_taken_for_data_however_its_frame_is_cut() {
    // Far less than what arrives, if padding counted as unread.
    let (client, mut peer) = connected_with(&[], &with_buffer(60_000)).await;
    let mut stream = client.call(b"x").await.unwrap();
    let id = peer.request().await;
    peer.ok_headers(id).await;
    let payload = [&[255][..], &framed(b"data"), &[0; 255]].concat();
    let frame = frame(DATA, PADDED, id, &payload);
    for _ in 0..1_000 {
        // Its header ends a read, so that nobody knows yet how much of it is padding.
        peer.send_raw(&frame[..9]).await;
        settle().await;
        peer.send_raw(&frame[9..]).await;
        assert_eq!(stream.recv.message(LIMIT).await.unwrap().unwrap().payload, "data");
    }
    peer.trailers(id, "0").await;
    assert!(stream.recv.trailers().await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn informational_headers_are_counted_for_each_stream_whatever_comes_between() {
    let early = |id| frame(HEADERS, END_HEADERS, id, &header_block(&[(":status", "103")]));
    // As many streams apart as a table of any usual size has places.
    for streams in [2_u32, 129, 257] {
        let (client, mut peer) = connected(&[]).await;
        let mut calls = Vec::new();
        for _ in 0..streams {
            calls.push(client.call(b"x").await.unwrap());
            peer.request().await;
        }
        let (first, last) = (1, 2 * streams - 1);
        for _ in 0..100 {
            peer.send_raw(&[early(first), early(last)].concat()).await;
        }
        settle().await;
        assert_eq!(client.told(), [""; 0]);
        peer.send_raw(&early(first)).await;
        let error = calls[0].recv.trailers().await.unwrap_err().to_string();
        assert!(error.contains("more than 100 headers"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn fields_that_nobody_reads_are_counted_as_what_they_take() {
    let (client, mut peer) = connected_with(&[], &with_buffer(2 << 20)).await;
    let mut calls = Vec::new();
    for _ in 0..100 {
        calls.push(client.call(b"x").await.unwrap());
        peer.request().await;
    }
    for number in 0..100 {
        // One byte each of a static field.
        let block = [header_block(GRPC), vec![0x80 | 16; 1_000]].concat();
        peer.send(HEADERS, END_HEADERS, 2 * number + 1, &block).await;
    }
    settle().await;
    let mut ended = 0;
    for call in &mut calls {
        let next = call.recv.message(LIMIT);
        // The others wait for their message.
        if let Ok(next) = tokio::time::timeout(Duration::from_secs(1), next).await {
            let full = StreamError::ReceiveBufferFull { limit: 2 << 20 };
            assert_eq!(next.unwrap().unwrap_err(), full);
            ended += 1;
        }
    }
    assert!((80..100).contains(&ended), "{ended}");
    assert_eq!(client.told(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn windows_that_change_for_thousands_of_streams_again_and_again_end_the_connection() {
    let (client, mut peer) = connected(&[(MAX_CONCURRENT_STREAMS, 100_000)]).await;
    let mut calls = Vec::new();
    for _ in 0..5_000 {
        calls.push(client.open().await.unwrap());
        peer.expect(HEADERS).await;
    }
    for change in 0..400 {
        peer.settings(&[(INITIAL_WINDOW_SIZE, change % 2)]).await;
    }
    settle().await;
    assert_eq!(client.told(), [""; 0]);
    for change in 0..10 {
        peer.settings(&[(INITIAL_WINDOW_SIZE, change % 2)]).await;
    }
    let error = calls[0].recv.trailers().await.unwrap_err().to_string();
    assert!(error.contains("touches all 5000 open streams"), "{error}");
}

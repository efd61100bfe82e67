use std::pin::pin;
use std::task::{Context, Poll, Waker};

use crate::transport::error::DisconnectCause;
use crate::types::Seen;

use super::peer::*;
use super::*;

/// `count` calls that wait for room, in this order; each tells when it has a stream.
struct Waiting {
    tasks: Vec<JoinHandle<Result<Stream, StreamError>>>,
}

impl Waiting {
    async fn new(client: &Client, count: usize) -> Self {
        let mut tasks = Vec::new();
        for _ in 0..count {
            let connection = client.connection.clone();
            let first = Some((message(b"x"), true));
            tasks.push(tokio::spawn(async move { open(&connection, first, None).await }));
            // So that they queue in order.
            settle().await;
        }
        assert_eq!(client.connection.queued_streams(), count);
        Self { tasks }
    }

    fn admitted(&self) -> usize {
        let admitted = self.tasks.iter().filter(|task| task.is_finished()).count();
        let in_order = self.tasks[..admitted].iter().all(JoinHandle::is_finished);
        assert!(in_order, "first in, first out");
        admitted
    }

    async fn all_fail(self) -> Vec<StreamError> {
        let mut errors = Vec::new();
        for task in self.tasks {
            errors.push(task.await.unwrap().unwrap_err());
        }
        errors
    }
}

#[tokio::test(start_paused = true)]
async fn streams_beyond_the_limit_wait_in_order_and_wake_on_room() {
    let (client, mut peer) = connected(&[(MAX_CONCURRENT_STREAMS, 2)]).await;
    let mut one = client.call(b"1").await.unwrap();
    let two = client.call(b"2").await.unwrap();
    let waiting = Waiting::new(&client, 3).await;
    let one_id = peer.request().await;
    peer.request().await;
    assert_eq!(waiting.admitted(), 0);
    assert_eq!(client.connection.open_streams(), 2);
    // Room by an end, and by a reset.
    peer.answer(one_id, b"").await;
    assert!(one.recv.trailers().await.unwrap().is_ok());
    settle().await;
    assert_eq!(waiting.admitted(), 1);
    peer.request().await;
    drop(two);
    settle().await;
    assert_eq!(waiting.admitted(), 2);
    assert_eq!(peer.expect(RST_STREAM).await.code(), CANCEL);
    peer.request().await;
    assert_eq!(client.connection.queued_streams(), 1);
}

#[tokio::test(start_paused = true)]
async fn nobody_overtakes_the_queue() {
    let (client, mut peer) = connected(&[(MAX_CONCURRENT_STREAMS, 1)]).await;
    let one = client.call(b"1").await.unwrap();
    let waiting = Waiting::new(&client, 1).await;
    drop(one);
    // Room, which is the waiter's even before it has run.
    let connection = client.connection.clone();
    let mut late = pin!(open(&connection, None, None));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(late.as_mut().poll(&mut cx).is_pending());
    settle().await;
    assert_eq!(waiting.admitted(), 1);
    peer.request().await;
}

#[tokio::test(start_paused = true)]
async fn the_limit_can_be_raised_and_lowered() {
    let (client, mut peer) = connected(&[(MAX_CONCURRENT_STREAMS, 1)]).await;
    let mut open = vec![client.call(b"0").await.unwrap()];
    let waiting = Waiting::new(&client, 4).await;
    peer.settings(&[(MAX_CONCURRENT_STREAMS, 3)]).await;
    settle().await;
    assert_eq!(waiting.admitted(), 2);
    assert_eq!(client.connection.max_concurrent_streams(), 3);
    // Lowered below what is open: two must end before the next begins.
    peer.settings(&[(MAX_CONCURRENT_STREAMS, 2)]).await;
    settle().await;
    let mut tasks = waiting.tasks.into_iter();
    for task in tasks.by_ref().take(2) {
        open.push(task.await.unwrap().unwrap());
    }
    let waiting = Waiting { tasks: tasks.collect() };
    open.pop();
    settle().await;
    assert_eq!(waiting.admitted(), 0);
    open.pop();
    settle().await;
    assert_eq!(waiting.admitted(), 1);
    // And to nothing, which only raising it ends.
    peer.settings(&[(MAX_CONCURRENT_STREAMS, 0)]).await;
    settle().await;
    drop(open);
    settle().await;
    assert_eq!(waiting.admitted(), 1);
    peer.settings(&[(MAX_CONCURRENT_STREAMS, 100)]).await;
    settle().await;
    assert_eq!(waiting.admitted(), 2);
}

#[tokio::test(start_paused = true)]
async fn goaway_wakes_who_waits() {
    let (client, mut peer) = connected(&[(MAX_CONCURRENT_STREAMS, 1)]).await;
    let mut one = client.call(b"1").await.unwrap();
    let waiting = Waiting::new(&client, 3).await;
    let id = peer.request().await;
    peer.goaway(id, NO_ERROR, b"bye").await;
    for error in waiting.all_fail().await {
        assert_eq!(error.seen(), Seen::Never);
        assert_eq!(
            error.to_string(),
            "server:1: GOAWAY NO_ERROR, debug data \"bye\"; the request was not sent"
        );
    }
    let refused = client.call(b"2").await.unwrap_err();
    assert_eq!(refused.seen(), Seen::Never);
    assert!(!client.connection.is_usable());
    peer.answer(id, b"").await;
    assert!(one.recv.trailers().await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn loss_wakes_who_waits() {
    let (client, mut peer) = connected(&[(MAX_CONCURRENT_STREAMS, 1)]).await;
    let mut one = client.call(b"1").await.unwrap();
    let waiting = Waiting::new(&client, 3).await;
    peer.request().await;
    drop(peer);
    for error in waiting.all_fail().await {
        let StreamError::Unsent(cause) = error else { panic!("{error}") };
        assert_eq!(cause.to_string(), "server:1: the server closed the connection");
    }
    assert_eq!(one.recv.headers().await.unwrap_err().seen(), Seen::Maybe);
}

#[tokio::test(start_paused = true)]
async fn draining_wakes_who_waits() {
    let (client, mut peer) = connected(&[(MAX_CONCURRENT_STREAMS, 1)]).await;
    let _one = client.call(b"1").await.unwrap();
    let waiting = Waiting::new(&client, 2).await;
    peer.request().await;
    client.connection.drain();
    for error in waiting.all_fail().await {
        let StreamError::Unsent(cause) = error else { panic!("{error}") };
        assert_eq!(cause.cause(), &DisconnectCause::Local);
    }
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_is_dropped_wakes_who_waits() {
    let (client, mut peer) = connected(&[(MAX_CONCURRENT_STREAMS, 1)]).await;
    let mut one = client.call(b"1").await.unwrap();
    let waiting = Waiting::new(&client, 2).await;
    peer.request().await;
    client.driver.abort();
    for error in waiting.all_fail().await {
        let StreamError::Unsent(cause) = error else { panic!("{error}") };
        assert_eq!(cause.cause(), &DisconnectCause::Abandoned);
    }
    let StreamError::Lost(cause) = one.recv.headers().await.unwrap_err() else { panic!("lost") };
    assert_eq!(cause.cause(), &DisconnectCause::Abandoned);
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_at_its_deadline_and_shortens_the_timeout() {
    // Without a table of earlier fields, one block of them can be read alone.
    let (client, mut peer) =
        connected(&[(HEADER_TABLE_SIZE, 0), (MAX_CONCURRENT_STREAMS, 1)]).await;
    let one = client.call(b"1").await.unwrap();
    peer.request().await;
    let begin = Instant::now();
    let outcome = client.open_with(None, Some(Duration::from_millis(300))).await;
    assert_eq!(outcome.unwrap_err(), StreamError::Overdue);
    assert_eq!(begin.elapsed(), Duration::from_millis(300));
    assert_eq!(client.connection.queued_streams(), 0);

    let connection = client.connection.clone();
    let timeout = Some(Duration::from_secs(10));
    let waiting = tokio::spawn(async move { open(&connection, None, timeout).await });
    tokio::time::sleep(Duration::from_secs(4)).await;
    drop(one);
    let _stream = waiting.await.unwrap().unwrap();
    peer.expect(RST_STREAM).await;
    let head = peer.expect(HEADERS).await;
    assert_eq!(h2_decoded(&head.payload)["grpc-timeout"], "6000m");
}

/// Decodes a header block by having an ordinary server read it.
fn h2_decoded(block: &[u8]) -> HeaderMap {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let block = block.to_vec();
    std::thread::spawn(move || {
        runtime.block_on(async move {
            use tokio::io::AsyncWriteExt as _;
            let (mut client, server) = tokio::io::duplex(1 << 20);
            client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
            let settings = frame(SETTINGS, 0, 0, &[]);
            let headers = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block);
            client.write_all(&settings).await.unwrap();
            client.write_all(&headers).await.unwrap();
            let mut server = h2::server::handshake(server).await.unwrap();
            let (request, _) = server.accept().await.unwrap().unwrap();
            request.headers().clone()
        })
    })
    .join()
    .unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_at_once() {
    let options = ConnectionOptions { queued_streams_max: 2, ..ConnectionOptions::default() };
    let (client, mut peer) = connected_with(&[(MAX_CONCURRENT_STREAMS, 1)], &options).await;
    let one = client.call(b"1").await.unwrap();
    peer.request().await;
    let waiting = Waiting::new(&client, 2).await;
    let refused = client.call(b"4").await.unwrap_err();
    assert_eq!(refused, StreamError::QueueFull { limit: 2 });
    // Who leaves the queue makes room in it.
    waiting.tasks[0].abort();
    settle().await;
    assert_eq!(client.connection.queued_streams(), 1);
    drop(one);
    settle().await;
    assert!(waiting.tasks[1].is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_is_given_up_takes_no_room() {
    let (client, mut peer) = connected(&[(MAX_CONCURRENT_STREAMS, 1)]).await;
    for _ in 0..50 {
        let one = client.call(b"1").await.unwrap();
        let waiting = Waiting::new(&client, 2).await;
        // Room is given to the first, which goes before it takes it.
        drop(one);
        waiting.tasks[0].abort();
        let mut tasks = waiting.tasks.into_iter();
        let _ = tasks.next().unwrap().await;
        drop(tasks.next().unwrap().await.unwrap().unwrap());
        assert_eq!(client.connection.open_streams(), 0);
        assert_eq!(client.connection.queued_streams(), 0);
    }
    drop(client);
    while peer.next().await.is_some_and(|frame| frame.stream < 199) {}
}

#[test]
fn a_caller_outside_of_any_runtime_can_wait() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (client, one) = runtime.block_on(async {
        let (client, mut peer) = connected(&[(MAX_CONCURRENT_STREAMS, 1)]).await;
        let one = client.call(b"1").await.unwrap();
        tokio::spawn(async move { while peer.next().await.is_some() {} });
        (client, one)
    });
    let mut waiting = pin!(open(&client.connection, None, Some(Duration::from_secs(60))));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(waiting.as_mut().poll(&mut cx).is_pending());
    drop(one);
    assert!(matches!(waiting.as_mut().poll(&mut cx), Poll::Ready(Ok(_))));
}

#[test]
fn many_callers_on_many_threads_stay_within_the_limit_and_all_get_through() {
    const LIMIT: usize = 7;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    runtime.block_on(async {
        let (connector, mut listener) = memory::pipe();
        let (dialled, server) = tokio::join!(dial_default(&connector), async {
            let io = listener.accept().await.unwrap();
            let mut builder = h2::server::Builder::new();
            builder.max_concurrent_streams(LIMIT as u32);
            builder.handshake::<_, bytes::Bytes>(io).await.unwrap()
        });
        tokio::spawn(async move {
            let mut server = server;
            while let Some(Ok((request, mut respond))) = server.accept().await {
                tokio::spawn(async move {
                    let mut body = request.into_body();
                    while let Some(Ok(chunk)) = body.data().await {
                        let _ = body.flow_control().release_capacity(chunk.len());
                    }
                    let response = http::Response::builder()
                        .header("content-type", "application/grpc")
                        .header("grpc-status", "0")
                        .body(())
                        .unwrap();
                    let _ = respond.send_response(response, true);
                });
            }
        });
        let client = Client::spawn(dialled.unwrap());
        let mut callers = Vec::new();
        for caller in 0..64 {
            let connection = client.connection.clone();
            callers.push(tokio::spawn(async move {
                for call in 0..50 {
                    let first = Some((message(&[1; 100]), true));
                    let mut stream = open(&connection, first, None).await.unwrap();
                    assert!(connection.open_streams() <= LIMIT);
                    // Some go before their end.
                    if (caller + call) % 7 != 0 {
                        assert!(stream.recv.trailers().await.unwrap().is_ok());
                    }
                }
            }));
        }
        for caller in callers {
            caller.await.unwrap();
        }
        assert_eq!(client.connection.open_streams(), 0);
        assert_eq!(client.connection.report().streams, 64 * 50);
    });
}

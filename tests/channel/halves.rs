//! What one half of a stream hears while nobody polls the other, and both halves at once.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use switchboard::{
    CallOptions, Channel, Code, Method, Raw, Receiver, Sender, Status, kind, memory,
};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::StreamExt as _;

use crate::support::plaintext;

const ECHO: Method<Bytes, Bytes, kind::BidiStreaming> =
    Method::with_codec::<Raw>("/test.Echo/Both");

/// How the server answers a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answers {
    /// With this status and nothing else, once it is told to, without reading a request or
    /// resetting the stream.
    Status(&'static str),
    /// The same, with headers before it.
    HeadersAndStatus(&'static str),
    /// The same, with headers and a message before it.
    MessageAndStatus(&'static str),
    /// By resetting the stream, once it is told to.
    Reset,
    /// By sending each piece of the requests back, as far as it is let.
    Echo,
}

/// A server that answers one call after the other so, and all further ones like the last.
fn server(answers: &'static [Answers], max_streams: u32) -> (memory::MemoryConnector, Arc<Notify>) {
    let (connector, mut listener) = memory::pipe();
    let go_on = Arc::new(Notify::new());
    let told = go_on.clone();
    tokio::spawn(async move {
        let stream = listener.accept().await.unwrap();
        let mut connection = h2::server::Builder::new()
            .initial_connection_window_size(1 << 20)
            .max_concurrent_streams(max_streams)
            .handshake::<_, Bytes>(stream)
            .await
            .unwrap();
        let mut calls = 0;
        while let Some(Ok((request, respond))) = connection.accept().await {
            let how = answers[calls.min(answers.len() - 1)];
            calls += 1;
            tokio::spawn(answer(request.into_body(), respond, how, told.clone()));
        }
    });
    (connector, go_on)
}

async fn answer(
    mut requests: h2::RecvStream,
    mut respond: h2::server::SendResponse<Bytes>,
    how: Answers,
    told: Arc<Notify>,
) {
    let mut headers = http::Response::new(());
    headers.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    let status = |status| {
        let mut fields = HeaderMap::new();
        fields.insert("grpc-status", HeaderValue::from_static(status));
        fields
    };
    if how == Answers::Echo {
        let mut body = respond.send_response(headers, false).unwrap();
        while let Some(Ok(chunk)) = requests.data().await {
            let len = chunk.len();
            let mut left = chunk;
            while !left.is_empty() {
                body.reserve_capacity(left.len());
                let room = std::future::poll_fn(|cx| body.poll_capacity(cx)).await;
                let Some(Ok(room)) = room else { return };
                body.send_data(left.split_to(room.min(left.len())), false).unwrap();
            }
            requests.flow_control().release_capacity(len).unwrap();
        }
        let _ = body.send_trailers(status("0"));
        return;
    }
    told.notified().await;
    match how {
        Answers::Status(code) => {
            headers.headers_mut().extend(status(code));
            respond.send_response(headers, true).unwrap();
        }
        Answers::HeadersAndStatus(code) => {
            let mut body = respond.send_response(headers, false).unwrap();
            body.send_trailers(status(code)).unwrap();
        }
        Answers::MessageAndStatus(code) => {
            let mut body = respond.send_response(headers, false).unwrap();
            body.send_data(Bytes::from_static(b"\0\0\0\0\x03one"), false).unwrap();
            body.send_trailers(status(code)).unwrap();
        }
        Answers::Reset => respond.send_reset(h2::Reason::INTERNAL_ERROR),
        Answers::Echo => {}
    }
    // While the requests are held, the server sends no reset of its own.
    sleep(Duration::from_secs(1_000_000)).await;
    drop(requests);
}

/// What is done with the receiving half meanwhile.
#[derive(Clone, Copy, Debug)]
enum Receiving {
    NotPolled,
    HeadersPolled,
    Polled,
    Dropped,
}

/// Sends until that fails.
fn send_on(mut requests: Sender<Bytes, Bytes>) -> (JoinHandle<Status>, watch::Receiver<usize>) {
    let (tell, sent) = watch::channel(0);
    let sending = tokio::spawn(async move {
        loop {
            tell.send_modify(|sent| *sent += 1);
            if let Err(status) = requests.send(Bytes::from(vec![7; 50_000])).await {
                return status;
            }
        }
    });
    (sending, sent)
}

/// On a paused clock: until nobody has anything to do.
async fn all_rest() {
    sleep(Duration::from_millis(1)).await;
}

async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(60), work).await.unwrap_or_else(|_| panic!("{what}: it hangs"))
}

fn channel(connector: memory::MemoryConnector, config: &str) -> Channel {
    plaintext("passthrough:server")
        .connector(connector)
        .default_service_config(config)
        .build()
        .unwrap()
}

async fn opened(channel: &Channel) -> (Sender<Bytes, Bytes>, Receiver<Bytes, Bytes>) {
    channel.new_stream(&ECHO, CallOptions::new()).await.unwrap().split()
}

#[tokio::test(start_paused = true)]
async fn a_task_that_only_sends_hears_of_the_end_whatever_is_done_with_the_receiving_half() {
    let ends: [(&'static [Answers], Code); 8] = [
        (&[Answers::Status("5")], Code::NOT_FOUND),
        (&[Answers::HeadersAndStatus("5")], Code::NOT_FOUND),
        (&[Answers::MessageAndStatus("5")], Code::NOT_FOUND),
        // There is no room for a message of an OK call that is over.
        (&[Answers::Status("0")], Code::CANCELLED),
        (&[Answers::HeadersAndStatus("0")], Code::CANCELLED),
        (&[Answers::MessageAndStatus("0")], Code::CANCELLED),
        (&[Answers::Status("1")], Code::CANCELLED),
        (&[Answers::Reset], Code::INTERNAL),
    ];
    for (answers, code) in ends {
        for receiving in
            [Receiving::NotPolled, Receiving::HeadersPolled, Receiving::Polled, Receiving::Dropped]
        {
            for is_stuck in [true, false] {
                only_sends(answers, code, receiving, is_stuck).await;
            }
        }
    }
}

async fn only_sends(answers: &'static [Answers], code: Code, receiving: Receiving, is_stuck: bool) {
    let case = format!("{answers:?} {receiving:?}, stuck {is_stuck}");
    let (connector, go_on) = server(answers, 100);
    let channel = channel(connector, "{}");
    let (mut requests, mut replies) = opened(&channel).await;
    let mut kept = None;
    match receiving {
        Receiving::NotPolled => kept = Some(replies),
        Receiving::HeadersPolled => {
            tokio::spawn(async move {
                let _ = replies.header().await;
                std::future::pending::<()>().await;
            });
        }
        Receiving::Polled => {
            tokio::spawn(async move {
                while let Ok(Some(_)) = replies.recv().await {}
                std::future::pending::<()>().await;
            });
        }
        Receiving::Dropped => drop(replies),
    }
    let status = if is_stuck {
        let (sending, sent) = send_on(requests);
        all_rest().await;
        assert!((1..10).contains(&*sent.borrow()) && !sending.is_finished(), "{case}");
        go_on.notify_one();
        within(&case, sending).await.unwrap()
    } else {
        requests.send("short".into()).await.unwrap();
        go_on.notify_one();
        all_rest().await;
        requests.send("too late".into()).await.expect_err(&case)
    };
    assert_eq!(status.code(), code, "{case}: {status}");
    // What came before the end is there all the same.
    if let Some(mut replies) = kept {
        if let [Answers::MessageAndStatus(_)] = answers {
            assert_eq!(replies.recv().await.unwrap().unwrap(), "one", "{case}");
        }
        match answers {
            [
                Answers::MessageAndStatus("0")
                | Answers::HeadersAndStatus("0")
                | Answers::Status("0"),
            ] => {
                assert!(replies.recv().await.unwrap().is_none(), "{case}");
            }
            _ => assert_eq!(replies.recv().await.unwrap_err().code(), code, "{case}"),
        }
    }
}

const RETRIES: &str = r#"{"methodConfig":[{"name":[{}],"retryPolicy":{"maxAttempts":3,
    "initialBackoff":"10s","maxBackoff":"10s","backoffMultiplier":1,
    "retryableStatusCodes":["UNAVAILABLE"]}}]}"#;

#[tokio::test(start_paused = true)]
async fn a_retry_policy_fires_for_a_task_that_only_sends() {
    for (is_stuck, is_polled) in [(true, false), (false, false), (true, true), (false, true)] {
        let (connector, go_on) = server(&[Answers::Status("14"), Answers::Echo], 100);
        let channel = channel(connector, RETRIES);
        let (mut requests, mut replies) = opened(&channel).await;
        let size = if is_stuck { 50_000 } else { 5 };
        requests.send(Bytes::from(vec![1; size])).await.unwrap();
        if is_stuck {
            requests.send(Bytes::from(vec![2; size])).await.unwrap();
        }
        let receive = async move {
            let mut bytes = 0;
            while let Some(message) = replies.recv().await.unwrap() {
                bytes += message.len();
            }
            bytes
        };
        let (mut received, mut unpolled) = (None, None);
        if is_polled {
            received = Some(tokio::spawn(receive));
        } else {
            unpolled = Some(receive);
        }
        let sending = tokio::spawn(async move {
            requests.send(Bytes::from_static(&[3; 5])).await.unwrap();
            requests.close_send();
        });
        if is_stuck {
            all_rest().await;
            assert!(!sending.is_finished());
        }
        go_on.notify_one();
        // Before the last message is sent at all, or while it waits for room.
        within("the retry", sending).await.unwrap();
        let bytes = match (received, unpolled) {
            (Some(received), _) => within("the answer", received).await.unwrap(),
            (None, Some(receive)) => within("the answer", receive).await,
            (None, None) => 0,
        };
        assert_eq!(bytes, if is_stuck { 2 * size + 5 } else { size + 5 }, "polled {is_polled}");
    }
}

/// What a half is in the middle of when the other cancels the call.
#[derive(Clone, Copy, Debug)]
enum Waits {
    /// The next attempt is not due yet.
    Backoff,
    /// The next attempt waits for the server to take another stream.
    Admission,
}

#[tokio::test(start_paused = true)]
async fn a_half_that_waits_for_another_attempt_hears_at_once_that_the_other_cancelled() {
    for waits in [Waits::Backoff, Waits::Admission] {
        for by_sender in [true, false] {
            let case = format!("{waits:?}, cancelled by the sender: {by_sender}");
            let (connector, go_on) = server(&[Answers::Status("14"), Answers::Reset], 1);
            let channel = channel(connector, RETRIES);
            let (requests, mut replies) = opened(&channel).await;
            let other = channel.clone();
            let queued = tokio::spawn(async move {
                // Takes the place of the first.
                let stream = other.new_stream(&ECHO, CallOptions::new()).await.unwrap();
                sleep(Duration::from_secs(1_000_000)).await;
                drop(stream);
            });
            all_rest().await;
            go_on.notify_one();
            let (cancel, waiting): (Box<dyn FnOnce()>, JoinHandle<Status>) = if by_sender {
                let waiting = tokio::spawn(async move { replies.recv().await.unwrap_err() });
                (Box::new(move || requests.cancel()), waiting)
            } else {
                (Box::new(move || replies.cancel()), send_on(requests).0)
            };
            sleep(Duration::from_secs(match waits {
                Waits::Backoff => 1,
                Waits::Admission => 30,
            }))
            .await;
            assert!(!waiting.is_finished() && !queued.is_finished(), "{case}");
            let cancelled = Instant::now();
            cancel();
            let status = within(&case, waiting).await.unwrap();
            assert_eq!(status.code(), Code::CANCELLED, "{case}: {status}");
            assert_eq!(cancelled.elapsed(), Duration::ZERO, "{case}");
        }
    }
}

const PIECE: usize = 64 * 1024;
const PIECES: usize = 20 * 1024 * 1024 / PIECE;

fn pieces() -> impl tokio_stream::Stream<Item = Bytes> + Send {
    tokio_stream::iter((0..PIECES).map(|nth| Bytes::from(vec![nth as u8; PIECE])))
}

#[tokio::test(start_paused = true)]
async fn who_sends_without_receiving_until_the_deadline_is_told_so() {
    let (connector, _) = server(&[Answers::Echo], 100);
    let channel = channel(connector, "{}");
    let options = CallOptions::new().timeout(Duration::from_secs(5));
    let mut stream = channel.new_stream(&ECHO, options).await.unwrap();
    let status = within("sending", stream.send_all(pieces())).await.unwrap_err();
    assert_eq!(status.code(), Code::DEADLINE_EXCEEDED);
    for part in ["passed while a message waited to be sent", "not been received", "exchange"] {
        assert!(status.message().contains(part), "{status}");
    }
    assert_eq!(stream.recv().await.unwrap_err().message(), status.message());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_slow_to_read_is_not_said_to_wait_for_this_side() {
    let (connector, _) = server(&[Answers::Reset], 100);
    let channel = channel(connector, "{}");
    let options = CallOptions::new().timeout(Duration::from_secs(5));
    let mut stream = channel.new_stream(&ECHO, options).await.unwrap();
    let status = within("sending", stream.send_all(pieces())).await.unwrap_err();
    assert_eq!(status.code(), Code::DEADLINE_EXCEEDED);
    assert!(!status.message().contains("received here"), "{status}");
}

#[tokio::test]
async fn an_exchange_sends_20_mb_to_an_echo_while_it_receives_them() {
    exchange_with_an_echo().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_exchange_does_so_on_many_threads() {
    exchange_with_an_echo().await;
}

async fn exchange_with_an_echo() {
    let (connector, _) = server(&[Answers::Echo], 100);
    let channel = channel(connector, "{}");
    let stream = channel.new_stream(&ECHO, CallOptions::new()).await.unwrap();
    let mut replies = stream.exchange(pieces());
    let mut received = 0;
    while let Some(reply) = within("the echo", replies.recv()).await.unwrap() {
        assert!(reply.iter().all(|byte| *byte == received as u8));
        received += 1;
    }
    assert_eq!(received, PIECES);
    assert!(replies.trailer().is_some() && replies.recv().await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn an_exchange_gives_what_the_server_says_when_it_ends_before_the_requests_do() {
    for (answers, expected) in [
        (&[Answers::MessageAndStatus("0")], Ok(())),
        (&[Answers::MessageAndStatus("5")], Err(Code::NOT_FOUND)),
    ] {
        let (connector, go_on) = server(answers, 100);
        let channel = channel(connector, "{}");
        let stream = channel.new_stream(&ECHO, CallOptions::new()).await.unwrap();
        let mut replies = stream.exchange(pieces());
        go_on.notify_one();
        assert_eq!(within("the message", replies.next()).await.unwrap().unwrap(), "one");
        let end = within("the end", replies.recv()).await;
        assert_eq!(end.map(|none| assert!(none.is_none())).map_err(|it| it.code()), expected);
        assert!(replies.next().await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_be_sent_ends_an_exchange_with_its_error() {
    let (connector, _) = server(&[Answers::Echo], 100);
    let channel = channel(connector, "{}");
    let options = CallOptions::new().max_send_message_bytes(PIECE - 1);
    let stream = channel.new_stream(&ECHO, options).await.unwrap();
    let requests = tokio_stream::iter([Bytes::from_static(b"short")]).chain(pieces());
    let mut replies = stream.exchange(requests);
    let status = loop {
        match within("the exchange", replies.next()).await.unwrap() {
            Ok(reply) => assert_eq!(reply, "short"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::RESOURCE_EXHAUSTED, "{status}");
    assert!(replies.next().await.is_none());
}

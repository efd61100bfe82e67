use http::{HeaderValue, Response};
use tokio::io::DuplexStream;

use crate::transport::error::{ErrorCode, NotGrpc};
use crate::types::Code;
use crate::types::Seen;

use super::peer::*;
use super::*;

const LIMIT: usize = 1024;

#[tokio::test(start_paused = true)]
async fn a_unary_call_goes_to_an_ordinary_server_and_back() {
    let (connector, mut listener) = memory::pipe();
    let server = tokio::spawn(async move { echo(listener.accept().await.unwrap(), 1).await });
    let client = Client::spawn(dial_default(&connector).await.unwrap());

    let (path, authority) = (path(), Authority::parse("other.example").unwrap());
    let mut metadata = HeaderMap::new();
    // What is passed on from another call may have fields that are the protocol's.
    let passed_on = [("host", "evil.example"), ("content-length", "7"), ("grpc-timeout", "9H")];
    for (name, value) in [("b", "1"), ("a", "2"), ("b", "3")].into_iter().chain(passed_on) {
        metadata.append(name, HeaderValue::from_static(value));
    }
    let head = RequestHead {
        path: &path,
        authority: Some(&authority),
        timeout: Some(Duration::from_secs(1)),
        content_type: "application/grpc",
        encoding: None,
        accepted: None,
        metadata: Some(&metadata),
    };
    let first = Some((message(b"hello"), true));
    let mut stream = client.connection.open(&head, first, None).await.unwrap();

    let headers = stream.recv.headers().await.unwrap();
    assert_eq!(headers.metadata.get("initial"), Some("yes"));
    assert!(!headers.trailers_only);
    let received = stream.recv.message(LIMIT).await.unwrap().unwrap();
    assert_eq!(received.payload, "hello");
    assert!(stream.recv.message(LIMIT).await.is_none());
    let trailers = stream.recv.trailers().await.unwrap();
    assert!(trailers.is_ok());
    assert_eq!(trailers.metadata.get("final"), Some("yes"));
    // It has given up its place, though it is still held.
    assert_eq!(client.connection.open_streams(), 0);

    let report = client.connection.report();
    assert_eq!(
        (report.streams_succeeded, report.messages_sent, report.messages_received),
        (1, 1, 1)
    );
    assert!(report.bytes_received > 0 && report.bytes_sent > 0);
    let [request] = server.await.unwrap().try_into().unwrap();
    assert_eq!(request.uri().to_string(), "http://other.example/test.Service/Method");
    let fields: Vec<_> = request
        .headers()
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        // What is built in differs.
        .filter(|field| !field.starts_with("grpc-accept-encoding"))
        .collect();
    assert_eq!(
        fields,
        [
            "content-type: application/grpc",
            concat!("user-agent: grpc-rust-switchboard/", env!("CARGO_PKG_VERSION")),
            "te: trailers",
            "grpc-timeout: 1000m",
            "b: 1",
            "b: 3",
            "a: 2"
        ]
    );
}

/// Echoes the messages of `calls` calls; gives their heads.
async fn echo(io: DuplexStream, calls: usize) -> Vec<http::Request<()>> {
    let mut server = h2::server::handshake(io).await.unwrap();
    let mut heads = Vec::new();
    let mut answering = Vec::new();
    while heads.len() < calls {
        let (request, mut respond) = server.accept().await.unwrap().unwrap();
        let (head, mut body) = request.into_parts();
        heads.push(http::Request::from_parts(head, ()));
        answering.push(tokio::spawn(async move {
            let response = Response::builder()
                .header("content-type", "application/grpc")
                .header("initial", "yes")
                .body(())
                .unwrap();
            let mut send = respond.send_response(response, false).unwrap();
            while let Some(chunk) = body.data().await {
                let chunk = chunk.unwrap();
                let _ = body.flow_control().release_capacity(chunk.len());
                send.send_data(chunk, false).unwrap();
            }
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            trailers.insert("final", HeaderValue::from_static("yes"));
            send.send_trailers(trailers).unwrap();
        }));
    }
    // Goes on until the client has gone.
    tokio::spawn(async move { while server.accept().await.is_some() {} });
    for task in answering {
        task.await.unwrap();
    }
    heads
}

#[tokio::test(start_paused = true)]
async fn a_response_of_trailers_only_says_so() {
    let (client, mut peer) = connected(&[]).await;
    let mut stream = client.call(b"x").await.unwrap();
    let id = peer.request().await;
    let mut fields = GRPC.to_vec();
    fields.extend([("grpc-status", "5"), ("grpc-message", "no%20such"), ("k", "v")]);
    peer.headers(id, END_STREAM, &fields).await;
    let headers = stream.recv.headers().await.unwrap();
    assert!(headers.trailers_only && headers.metadata.is_empty());
    assert!(stream.recv.message(LIMIT).await.is_none());
    let trailers = stream.recv.trailers().await.unwrap();
    assert_eq!(trailers.code, Code::NOT_FOUND);
    assert_eq!(trailers.message, "no such");
    assert_eq!(trailers.metadata.get("k"), Some("v"));
    assert_eq!(stream.recv.trailers().await.unwrap_err(), StreamError::Ended);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_followed_by_no_error_counts_also_when_it_is_read_late() {
    let (client, mut peer) = connected(&[]).await;
    let mut stream = client.open().await.unwrap();
    let id = peer.expect(HEADERS).await.stream;
    let mut fields = GRPC.to_vec();
    fields.push(("grpc-status", "5"));
    peer.headers(id, END_STREAM, &fields).await;
    peer.reset(id, NO_ERROR).await;
    // Both are in memory before anybody looks.
    settle().await;
    let headers = stream.recv.headers().await.unwrap();
    assert!(headers.trailers_only);
    assert_eq!(stream.recv.trailers().await.unwrap().code, Code::NOT_FOUND);
}

/// What a peer says on a stream, and how that reads.
struct Row {
    name: &'static str,
    frames: Vec<(u8, u8, Vec<u8>)>,
    outcome: Result<Code, StreamError>,
    messages: usize,
    /// What the client answers.
    reset: Option<u32>,
}

fn head(fields: &[(&str, &str)]) -> (u8, u8, Vec<u8>) {
    (HEADERS, END_HEADERS, header_block(fields))
}

fn last_head(fields: &[(&str, &str)]) -> (u8, u8, Vec<u8>) {
    (HEADERS, END_HEADERS | END_STREAM, header_block(fields))
}

fn data(bytes: &[u8]) -> (u8, u8, Vec<u8>) {
    (DATA, 0, bytes.to_vec())
}

fn last_data(bytes: &[u8]) -> (u8, u8, Vec<u8>) {
    (DATA, END_STREAM, bytes.to_vec())
}

fn rst(code: u32) -> (u8, u8, Vec<u8>) {
    (RST_STREAM, 0, code.to_be_bytes().to_vec())
}

fn not_grpc(http_status: u16, content_type: Option<&str>, body: &str) -> StreamError {
    StreamError::NotGrpc(Box::new(NotGrpc {
        http_status,
        content_type: content_type.map(str::to_owned),
        is_grpc: false,
        body: body.to_owned(),
    }))
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn rows() -> Vec<Row> {
    let row = |name, frames: &[(u8, u8, Vec<u8>)], outcome, messages, reset| Row {
        name,
        frames: frames.to_vec(),
        outcome,
        messages,
        reset,
    };
    let ok = last_head(&[("grpc-status", "0")]);
    let html = &[(":status", "503"), ("content-type", "text/html")];
    let malformed = |code| Err(StreamError::Malformed(code));
    vec![
        row(
            "two messages",
            &[head(GRPC), data(&framed(b"a")), data(&framed(b"")), ok.clone()],
            Ok(Code::OK),
            2,
            None,
        ),
        row(
            "a message in pieces",
            &[head(GRPC), data(&[0, 0, 0]), data(&[0, 2, 7]), data(&[7]), ok.clone()],
            Ok(Code::OK),
            1,
            None,
        ),
        row(
            "1xx first",
            &[head(&[(":status", "103")]), head(GRPC), ok.clone()],
            Ok(Code::OK),
            0,
            None,
        ),
        row(
            "another http status",
            &[head(&[(":status", "500"), GRPC[1]]), ok.clone()],
            Ok(Code::OK),
            0,
            None,
        ),
        row(
            "trailers without a status",
            &[head(GRPC), last_head(&[("k", "v")])],
            Ok(Code::UNKNOWN),
            0,
            None,
        ),
        row(
            "data at the end",
            &[head(GRPC), last_data(&framed(b"a"))],
            Err(StreamError::NoTrailers),
            1,
            None,
        ),
        row("an empty end", &[head(GRPC), last_data(b"")], Err(StreamError::NoTrailers), 0, None),
        row(
            "a cut message",
            &[head(GRPC), data(&[0, 0, 0, 0, 9, 1]), ok.clone()],
            Err(StreamError::Truncated),
            0,
            None,
        ),
        row(
            "a cut message at the end",
            &[head(GRPC), last_data(&[0])],
            Err(StreamError::Truncated),
            0,
            None,
        ),
        row(
            "a status beats a cut message",
            &[head(GRPC), data(&[0]), last_head(&[("grpc-status", "8")])],
            Ok(Code::RESOURCE_EXHAUSTED),
            0,
            None,
        ),
        row(
            "a message over the limit",
            &[head(GRPC), data(&[0, 0, 0, 4, 1])],
            Err(StreamError::TooLarge { len: LIMIT + 1, limit: LIMIT }),
            0,
            Some(CANCEL),
        ),
        row(
            "a bad flag",
            &[head(GRPC), data(&[3, 0, 0, 0, 0])],
            Err(StreamError::BadFlag(3)),
            0,
            Some(CANCEL),
        ),
        row(
            "unreadable binary headers",
            &[head(&[GRPC[0], GRPC[1], ("a-bin", "*")]), data(&framed(b"a")), ok.clone()],
            Ok(Code::OK),
            1,
            None,
        ),
        row(
            "unreadable binary trailers",
            &[head(GRPC), last_head(&[("grpc-status", "8"), ("a-bin", "*")])],
            Ok(Code::RESOURCE_EXHAUSTED),
            0,
            None,
        ),
        row(
            "html",
            &[head(html), data(b"<h1>"), last_data(b"busy")],
            Err(not_grpc(503, Some("text/html"), "<h1>busy")),
            0,
            None,
        ),
        row(
            "html without an end",
            &[head(html), data(&[b'x'; 1000]), data(&[b'y'; 1000])],
            Err(not_grpc(503, Some("text/html"), &("x".repeat(1000) + &"y".repeat(24)))),
            0,
            Some(PROTOCOL_ERROR),
        ),
        row(
            "no content type",
            &[last_head(&[(":status", "404")])],
            Err(not_grpc(404, None, "")),
            0,
            None,
        ),
        row(
            "html that is reset",
            &[head(html), data(b"hm"), rst(CANCEL)],
            Err(not_grpc(503, Some("text/html"), "hm")),
            0,
            None,
        ),
        row(
            "no http status",
            &[head(&GRPC[1..])],
            malformed(ErrorCode::PROTOCOL_ERROR),
            0,
            Some(PROTOCOL_ERROR),
        ),
        row(
            "headers again",
            &[head(GRPC), head(GRPC)],
            malformed(ErrorCode::PROTOCOL_ERROR),
            0,
            Some(PROTOCOL_ERROR),
        ),
        row(
            "reset",
            &[head(GRPC), data(&framed(b"a")), rst(2)],
            Err(StreamError::Reset(ErrorCode(2))),
            1,
            None,
        ),
        row(
            "reset in a message",
            &[head(GRPC), data(&[0, 0]), rst(ENHANCE_YOUR_CALM)],
            Err(StreamError::Reset(ErrorCode::ENHANCE_YOUR_CALM)),
            0,
            None,
        ),
        row("refused", &[rst(REFUSED_STREAM)], Err(StreamError::Refused), 0, None),
        row(
            "reset without error too early",
            &[head(GRPC), rst(NO_ERROR)],
            Err(StreamError::Reset(ErrorCode::NO_ERROR)),
            0,
            None,
        ),
        row(
            "reset after the response",
            &[head(GRPC), data(&framed(b"a")), ok, rst(NO_ERROR)],
            Ok(Code::OK),
            1,
            None,
        ),
    ]
}

// spec: grpc/responses
#[tokio::test(start_paused = true)]
async fn responses_read_as_the_protocol_has_them() {
    for row in rows() {
        // Both where the client knows the frames one by one and where they are all there.
        for is_slow in [false, true] {
            let name = row.name;
            let (client, mut peer) = connected(&[]).await;
            let mut stream = client.call(b"x").await.unwrap();
            let id = peer.request().await;
            let speaking = async {
                for (kind, flags, payload) in &row.frames {
                    peer.send(*kind, *flags, id, payload).await;
                    if is_slow {
                        settle().await;
                    }
                }
            };
            let (mut messages, mut failed) = (0, None);
            let reading = async {
                if !is_slow {
                    settle().await;
                }
                while let Some(message) = stream.recv.message(LIMIT).await {
                    match message {
                        Ok(_) => messages += 1,
                        Err(error) => failed = Some(error),
                    }
                }
                stream.recv.trailers().await.map(|trailers| trailers.code)
            };
            let ((), outcome) = tokio::join!(speaking, reading);
            assert_eq!(outcome, row.outcome, "{name}");
            assert_eq!(failed.as_ref(), outcome.as_ref().err(), "{name}");
            assert_eq!(messages, row.messages, "{name}");
            assert_eq!(client.connection.open_streams(), 0, "{name}");
            if let Err(error) = &outcome {
                assert!(!error.to_string().is_empty());
                let refused = matches!(error, StreamError::Refused);
                assert_eq!(error.seen(), if refused { Seen::Refused } else { Seen::Maybe });
            }
            // The connection outlives it, and nothing but the expected reset was sent.
            if let Some(code) = row.reset {
                let reset = peer.expect(RST_STREAM).await;
                assert_eq!((reset.stream, reset.code()), (id, code), "{name}");
            }
            let mut next = client.call(b"x").await.unwrap();
            let id = peer.request().await;
            peer.answer(id, b"y").await;
            assert!(next.recv.trailers().await.unwrap().is_ok(), "{name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn trailers_can_be_read_past_messages_that_nobody_wants() {
    let (client, mut peer) = connected(&[]).await;
    let mut stream = client.call(b"x").await.unwrap();
    let id = peer.request().await;
    peer.ok_headers(id).await;
    for _ in 0..100 {
        peer.data(id, 0, &framed(&[0; 1000])).await;
    }
    peer.trailers(id, "9").await;
    let trailers = stream.recv.trailers().await.unwrap();
    assert_eq!(trailers.code, Code::FAILED_PRECONDITION);
}

// spec: grpc/header-list-limit
#[tokio::test(start_paused = true)]
async fn header_fields_over_the_limit_are_told_with_the_limit_and_what_was_decoded() {
    let values = "x".repeat(100);
    let large: Vec<_> = ["a", "b", "c", "d", "e", "f", "g", "h", "i"].map(|k| (k, &*values)).into();
    let options = ConnectionOptions { max_header_list_size: 1_000, ..ConnectionOptions::default() };
    let status = [("grpc-status", "5"), ("grpc-message", "no%20Ada")];
    let behind = [&status[..], &large].concat();
    let before = [&large[..], &status].concat();
    let within = [&status[..], &large[..3]].concat();
    for (fields, code, text) in [
        (behind, Code::NOT_FOUND, "no Ada; the trailers exceed the limit of 1000 bytes"),
        (
            before,
            Code::INTERNAL,
            "the server's status is lost: the trailers exceed the limit of 1000",
        ),
        (within, Code::NOT_FOUND, "no Ada"),
    ] {
        let (client, mut peer) = connected_with(&[], &options).await;
        let mut stream = client.call(b"x").await.unwrap();
        let id = peer.request().await;
        peer.ok_headers(id).await;
        peer.headers(id, END_STREAM, &fields).await;
        let trailers = stream.recv.trailers().await.unwrap();
        assert_eq!(trailers.code, code);
        assert!(trailers.message.starts_with(text), "{}", trailers.message);
        assert_eq!(trailers.message.contains("1000"), text.contains("1000"));
    }
    let (client, mut peer) = connected_with(&[], &options).await;
    let mut stream = client.call(b"x").await.unwrap();
    let id = peer.request().await;
    peer.headers(id, 0, &[&GRPC[..2], &large].concat()).await;
    let error = stream.recv.headers().await.unwrap_err();
    assert_eq!(error, StreamError::HeadTooLarge { limit: 1_000 });
}

#[tokio::test(start_paused = true)]
async fn an_early_answer_ends_the_sending_half_with_no_error() {
    let (client, mut peer) = connected(&[(INITIAL_WINDOW_SIZE, 3)]).await;
    let stream = client.open().await.unwrap();
    let (handle, mut recv) = (stream.handle, stream.recv);
    let sending = tokio::spawn(async move {
        handle.send(message(b"more than three"), false).unwrap();
        (handle.send_ready().await, handle)
    });
    let id = peer.expect(HEADERS).await.stream;
    assert_eq!(peer.expect(DATA).await.payload.len(), 3);
    peer.headers(id, END_STREAM, &[GRPC[0], GRPC[1], ("grpc-status", "8")]).await;
    let trailers = recv.trailers().await.unwrap();
    assert_eq!(trailers.code, Code::RESOURCE_EXHAUSTED);
    let reset = peer.expect(RST_STREAM).await;
    assert_eq!((reset.stream, reset.code()), (id, NO_ERROR));
    let (ready, handle) = sending.await.unwrap();
    assert_eq!(ready, Err(StreamError::Ended));
    assert_eq!(handle.send(message(b"x"), true), Err(StreamError::Ended));
    assert_eq!(handle.finish(), Err(StreamError::Ended));
}

#[tokio::test(start_paused = true)]
async fn a_sender_waits_for_the_window_and_goes_on_with_it() {
    let (client, mut peer) = connected(&[(INITIAL_WINDOW_SIZE, 10)]).await;
    let stream = client.open().await.unwrap();
    let id = peer.expect(HEADERS).await.stream;
    stream.handle.send_ready().await.unwrap();
    stream.handle.send(message(&[1; 20]), false).unwrap();
    assert_eq!(peer.expect(DATA).await.payload.len(), 10);
    let sending = tokio::spawn(async move {
        stream.handle.send_ready().await.unwrap();
        stream.handle.send(message(&[2; 5]), false).unwrap();
        stream.handle.finish().unwrap();
        stream.handle.finish().unwrap();
        stream
    });
    settle().await;
    assert!(!sending.is_finished());
    // The rest of the first message: still no room for another.
    peer.window_update(id, 15).await;
    assert_eq!(peer.expect(DATA).await.payload.len(), 15);
    settle().await;
    assert!(!sending.is_finished());
    peer.window_update(id, 100).await;
    let second = peer.expect(DATA).await;
    assert_eq!(second.payload, framed(&[2; 5]));
    assert!(second.is_end());
    let mut stream = sending.await.unwrap();
    peer.answer(id, b"done").await;
    assert!(stream.recv.trailers().await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_sender_that_waits_is_woken_by_a_reset() {
    let (client, mut peer) = connected(&[(INITIAL_WINDOW_SIZE, 1)]).await;
    let mut stream = client.open().await.unwrap();
    let id = peer.expect(HEADERS).await.stream;
    stream.handle.send(message(b"xyz"), false).unwrap();
    let handle = stream.handle;
    let sending = tokio::spawn(async move {
        let ready = handle.send_ready().await;
        (ready, handle)
    });
    settle().await;
    peer.reset(id, CANCEL).await;
    let (ready, _handle) = sending.await.unwrap();
    assert_eq!(ready, Err(StreamError::Ended));
    let outcome = stream.recv.headers().await.unwrap_err();
    assert_eq!(outcome, StreamError::Reset(ErrorCode::CANCEL));
}

#[tokio::test(start_paused = true)]
async fn what_is_read_makes_room_for_more() {
    let options = ConnectionOptions {
        initial_stream_window: 10_000,
        initial_connection_window: 65_535,
        ..ConnectionOptions::default()
    };
    let (connector, mut listener) = memory::pipe();
    let server = tokio::spawn(async move { echo(listener.accept().await.unwrap(), 1).await });
    let client = Client::spawn(dial_with(&connector, &options).await.unwrap());
    let Stream { handle, mut recv } = client.open().await.unwrap();
    // Many windows in all, one message alone wider than the window.
    let sizes = [1, 9_000, 30_000, 500_000, 0, 12_345, 200_000];
    let sending = async {
        for size in sizes {
            handle.send_ready().await.unwrap();
            handle.send(message(&vec![7; size]), false).unwrap();
        }
        handle.finish().unwrap();
    };
    let receiving = async {
        let mut got = Vec::new();
        while let Some(received) = recv.message(500_000).await {
            got.push(received.unwrap().payload.len());
        }
        assert!(recv.trailers().await.unwrap().is_ok());
        got
    };
    let ((), got) = tokio::join!(sending, receiving);
    assert_eq!(got, sizes);
    server.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn thousands_of_small_messages_that_nobody_reads_harm_no_other_stream() {
    let (client, mut peer) = connected(&[]).await;
    let mut slow = client.call(b"x").await.unwrap();
    let id = peer.request().await;
    peer.ok_headers(id).await;
    for _ in 0..50_000 {
        peer.data(id, 0, &framed(&[0; 30])).await;
    }
    peer.trailers(id, "0").await;
    let mut other = client.call(b"x").await.unwrap();
    let id = peer.request().await;
    peer.answer(id, b"").await;
    assert!(other.recv.trailers().await.unwrap().is_ok());
    let mut count = 0;
    while let Some(message) = slow.recv.message(LIMIT).await {
        message.unwrap();
        count += 1;
    }
    assert_eq!(count, 50_000);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_resets_a_stream_that_nobody_polls() {
    let (client, mut peer) = connected(&[]).await;
    let begin = Instant::now();
    let timeout = Duration::from_millis(200);
    let mut late = client.open_with(None, Some(timeout * 2)).await.unwrap();
    let mut stream = client.open_with(None, Some(timeout)).await.unwrap();
    let (late_id, id) = (late.handle.id(), stream.handle.id());
    peer.expect(HEADERS).await;
    peer.expect(HEADERS).await;
    for (id, after) in [(id, 200), (late_id, 400)] {
        let reset = peer.expect(RST_STREAM).await;
        assert_eq!((reset.stream, reset.code()), (id, CANCEL));
        assert_eq!(begin.elapsed(), Duration::from_millis(after));
    }
    assert_eq!(stream.handle.send(message(b""), false), Err(StreamError::DeadlineExceeded));
    assert_eq!(stream.recv.headers().await.unwrap_err(), StreamError::DeadlineExceeded);
    let outcome = late.recv.message(LIMIT).await.unwrap();
    assert_eq!(outcome.unwrap_err(), StreamError::DeadlineExceeded);
    assert!(late.recv.message(LIMIT).await.is_none());
    assert_eq!(late.recv.trailers().await.unwrap_err(), StreamError::DeadlineExceeded);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_wakes_whoever_waits() {
    let (client, mut peer) = connected(&[(INITIAL_WINDOW_SIZE, 0)]).await;
    let begin = Instant::now();
    let timeout = Some(Duration::from_millis(200));
    let first = Some((message(b"x"), false));
    let Stream { handle, mut recv } = client.open_with(first, timeout).await.unwrap();
    peer.expect(HEADERS).await;
    let (ready, headers) = tokio::join!(handle.send_ready(), recv.headers());
    assert!(ready.is_err());
    assert_eq!(headers.unwrap_err(), StreamError::DeadlineExceeded);
    assert_eq!(begin.elapsed(), Duration::from_millis(200));
}

#[tokio::test(start_paused = true)]
async fn thousands_of_deadlines_are_all_kept() {
    let (client, mut peer) = connected(&[]).await;
    let begin = Instant::now();
    let mut streams = Vec::new();
    for n in 0..2_000_u64 {
        // Neither in order nor apart.
        let timeout = Duration::from_micros(100_000 + n * 7_919 % 300_000);
        streams.push((timeout, client.open_with(None, Some(timeout)).await.unwrap()));
        peer.expect(HEADERS).await;
    }
    for (timeout, mut stream) in streams {
        tokio::time::sleep_until(begin + timeout + Duration::from_millis(7)).await;
        settle().await;
        let outcome = stream.handle.send(message(b""), false);
        assert_eq!(outcome, Err(StreamError::DeadlineExceeded), "{timeout:?}");
        let outcome = stream.recv.headers().await.unwrap_err();
        assert_eq!(outcome, StreamError::DeadlineExceeded);
    }
    assert_eq!(client.connection.open_streams(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_has_passed_sends_nothing() {
    let (client, mut peer) = connected(&[]).await;
    let outcome = client.open_with(None, Some(Duration::ZERO)).await;
    assert_eq!(outcome.unwrap_err(), StreamError::Overdue);
    client.call(b"x").await.unwrap();
    assert_eq!(peer.expect(HEADERS).await.stream, 1);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_stream_is_reset() {
    let (client, mut peer) = connected(&[]).await;
    let stream = client.open().await.unwrap();
    let id = peer.expect(HEADERS).await.stream;
    // The handle keeps it open, whatever becomes of the receiving half.
    drop(stream.recv);
    settle().await;
    stream.handle.send(message(b"x"), false).unwrap();
    peer.expect(DATA).await;
    drop(stream.handle);
    let reset = peer.expect(RST_STREAM).await;
    assert_eq!((reset.stream, reset.code()), (id, CANCEL));
    assert_eq!(client.connection.open_streams(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_reset_here_is_over_for_both_halves() {
    let (client, mut peer) = connected(&[]).await;
    let Stream { handle, mut recv } = client.open().await.unwrap();
    peer.expect(HEADERS).await;
    let receiving = tokio::spawn(async move { recv.headers().await.unwrap_err() });
    settle().await;
    handle.reset();
    handle.reset();
    assert_eq!(receiving.await.unwrap(), StreamError::Ended);
    assert_eq!(peer.expect(RST_STREAM).await.code(), CANCEL);
    assert_eq!(handle.send_ready().await, Err(StreamError::Ended));
}

#[tokio::test(start_paused = true)]
async fn a_request_with_more_fields_than_fit_is_refused() {
    let (client, _peer) = connected(&[]).await;
    let mut metadata = HeaderMap::new();
    // As many as a map of fields holds: the four of the protocol itself find no room.
    for n in 0..24_576 {
        let name = format!("k{n}").parse::<http::HeaderName>().unwrap();
        metadata.append(name, HeaderValue::from_static(""));
    }
    let path = path();
    let head = RequestHead {
        path: &path,
        authority: None,
        timeout: None,
        content_type: "application/grpc",
        encoding: None,
        accepted: None,
        metadata: Some(&metadata),
    };
    let outcome = client.connection.open(&head, None, None).await;
    assert_eq!(outcome.unwrap_err(), StreamError::TooManyFields);
    assert_eq!(client.connection.open_streams(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_request_with_more_fields_than_the_server_takes_does_not_leave() {
    // `:method POST`, `:scheme http`, `:authority`, `:path`, `content-type`, `user-agent`, `te`, and
    // the one of the application, by their names, values and 32 bytes each.
    let (client, mut peer) = connected(&[(MAX_HEADER_LIST_SIZE, 1_000)]).await;
    let path = path();
    let open = async |len: usize| {
        let mut metadata = HeaderMap::new();
        metadata.append("key", HeaderValue::from_str(&"v".repeat(len)).unwrap());
        let head = RequestHead {
            path: &path,
            authority: None,
            timeout: None,
            content_type: "application/grpc",
            encoding: None,
            accepted: None,
            metadata: Some(&metadata),
        };
        client.connection.open(&head, None, None).await
    };
    let Err(StreamError::FieldsTooLarge { bytes, limit: 1_000 }) = open(1_000).await else {
        panic!("it is over the limit")
    };
    let others = bytes - 1_000;
    assert!((300..500).contains(&others), "{others}");
    assert!(open(1_001 - others).await.is_err());
    assert_eq!(client.connection.open_streams(), 0);
    open(1_000 - others).await.unwrap();
    peer.expect(HEADERS).await;
    // The server may change its mind.
    peer.settings(&[(MAX_HEADER_LIST_SIZE, 2_000)]).await;
    settle().await;
    open(1_000).await.unwrap();
}

#[test]
fn the_future_of_a_call_is_small() {
    fn size<F: Future>(_: impl FnOnce(&'static Connection) -> F) -> usize {
        size_of::<F>()
    }
    let path: &'static PathAndQuery = Box::leak(Box::new(path()));
    let metadata: &'static HeaderMap = Box::leak(Box::default());
    let head: &'static RequestHead<'static> = Box::leak(Box::new(RequestHead {
        path,
        authority: None,
        timeout: None,
        content_type: "application/grpc",
        encoding: None,
        accepted: None,
        metadata: Some(metadata),
    }));
    let open = size(|connection| connection.open(head, None, None));
    assert!(open <= 256, "{open} bytes");
    assert!(size_of::<Stream>() <= 640, "{} bytes", size_of::<Stream>());
}

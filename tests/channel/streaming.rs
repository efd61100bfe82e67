//! Streams of messages in all three ways.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use switchboard::{
    Address, Answer, BoxFuture, CallOptions, Channel, ChannelBuilder, ClientStream, Code,
    EncodedMessage, Interceptor, Metadata, Method, Next, OutgoingCall, Raw, SecurityLevel, Status,
    StreamWrapper, Streaming, kind, memory,
};
use tokio::sync::{Notify, mpsc};
use tokio_stream::StreamExt as _;

use crate::support::greeter::{
    BIDI_HELLO, Greeter, HelloReply, HelloRequest, LOTS_OF_GREETINGS, LOTS_OF_REPLIES, SAY_HELLO,
    ask, hello, target_of,
};
use crate::support::{close_without_leaks, plaintext, until};

fn greeted() -> (Channel, [Greeter; 1]) {
    let greeter = [Greeter::start()];
    (plaintext(target_of(&greeter)).build().unwrap(), greeter)
}

#[tokio::test]
async fn one_request_brings_many_responses() {
    let (channel, greeter) = greeted();
    let mut stream = channel.new_stream(&LOTS_OF_REPLIES, CallOptions::new()).await.unwrap();
    stream.send(hello("Ada Grace Edsger")).await.unwrap();
    let mut names = Vec::new();
    while let Some(reply) = stream.recv().await.unwrap() {
        names.push(reply.message.split(',').next().unwrap().to_owned());
    }
    assert_eq!(names, ["Hello Ada", "Hello Grace", "Hello Edsger"]);
    assert!(stream.trailer().is_some());
    assert!(stream.recv().await.unwrap().is_none(), "the end stays the end");
    stream.cancel();
    assert!(stream.recv().await.unwrap().is_none(), "what is over cannot be cancelled");
    assert_eq!(stream.peer().unwrap().to_string(), greeter[0].address().to_string());
    drop(stream);
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn many_requests_bring_one_response() {
    let (channel, greeter) = greeted();
    let mut stream = channel.new_stream(&LOTS_OF_GREETINGS, CallOptions::new()).await.unwrap();
    let names = tokio_stream::iter(["Ada", "Grace"]).map(hello);
    stream.send_all(names).await.unwrap();
    let reply = stream.recv().await.unwrap().unwrap();
    assert!(reply.message.starts_with("Hello Ada and Grace"), "{}", reply.message);
    assert!(stream.recv().await.unwrap().is_none());
    drop(stream);
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn requests_and_responses_take_turns_over_both_halves() {
    let (channel, greeter) = greeted();
    let stream = channel.new_stream(&BIDI_HELLO, CallOptions::new()).await.unwrap();
    let (mut requests, mut replies) = stream.split();
    let sending = tokio::spawn(async move {
        for nth in 0..200 {
            requests.send(hello(&nth.to_string())).await.unwrap();
        }
        requests.close_send();
    });
    let mut received = 0;
    while let Some(reply) = replies.next().await {
        assert!(reply.unwrap().message.starts_with(&format!("Hello {received},")));
        received += 1;
    }
    assert_eq!(received, 200);
    sending.await.unwrap();
    drop(replies);
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn headers_come_before_the_first_message() {
    let (channel, greeter) = greeted();
    let mut stream = channel.new_stream(&BIDI_HELLO, CallOptions::new()).await.unwrap();
    stream.header().await.unwrap();
    assert_eq!(stream.peer().unwrap().to_string(), greeter[0].address().to_string());
    stream.send(hello("Ada")).await.unwrap();
    assert!(stream.recv().await.unwrap().is_some());
    drop(stream);
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn either_half_cancels_the_call_for_both_and_the_server_is_told() {
    let (channel, greeter) = greeted();
    greeter[0].hold();
    for by_sender in [true, false] {
        let stream = channel.new_stream(&BIDI_HELLO, CallOptions::new()).await.unwrap();
        let (mut requests, mut replies) = stream.split();
        until("the call is there", async || greeter[0].open_calls() == 1).await;
        let status = if by_sender {
            let receiving = tokio::spawn(async move { replies.recv().await.unwrap_err() });
            tokio::task::yield_now().await;
            requests.cancel();
            receiving.await.unwrap()
        } else {
            // The server takes nothing, so that the sender comes to wait for room.
            let (told, mut sent) = tokio::sync::watch::channel(0);
            let sending = tokio::spawn(async move {
                loop {
                    told.send_modify(|sent| *sent += 1);
                    if let Err(status) = requests.send(hello(&"x".repeat(100_000))).await {
                        return status;
                    }
                }
            });
            sent.wait_for(|sent| *sent > 1).await.unwrap();
            replies.cancel();
            sending.await.unwrap()
        };
        assert_eq!(status.code(), Code::CANCELLED, "{status}");
        until("the server has heard", async || greeter[0].open_calls() == 0).await;
    }
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn a_dropped_stream_is_cancelled_at_the_server() {
    let (channel, greeter) = greeted();
    greeter[0].hold();
    let stream = channel.new_stream(&BIDI_HELLO, CallOptions::new()).await.unwrap();
    until("the server is at it", async || greeter[0].open_calls() == 1).await;
    drop(stream);
    until("the server has given it up", async || greeter[0].open_calls() == 0).await;
    close_without_leaks(channel, &greeter).await;
}

// spec: grpc/cardinality
#[tokio::test]
async fn a_second_request_where_one_is_due_ends_the_call() {
    let (channel, greeter) = greeted();
    greeter[0].hold();
    let mut stream = channel.new_stream(&LOTS_OF_REPLIES, CallOptions::new()).await.unwrap();
    stream.send(hello("Ada")).await.unwrap();
    let second = stream.send(hello("Grace")).await.unwrap_err();
    assert_eq!(second.code(), Code::UNIMPLEMENTED);
    assert_eq!(stream.recv().await.unwrap_err().code(), Code::UNIMPLEMENTED);
    drop(stream);
    close_without_leaks(channel, &greeter).await;
}

// spec: grpc/cardinality
#[tokio::test]
async fn a_method_with_several_responses_is_no_method_with_one() {
    const WRONG: Method<HelloRequest, HelloReply, kind::ClientStreaming> =
        Method::client_streaming("/helloworld.Greeter/LotsOfReplies");
    const UNARY: Method<HelloRequest, HelloReply> =
        Method::unary("/helloworld.Greeter/LotsOfReplies");
    let (channel, greeter) = greeted();
    let mut stream = channel.new_stream(&WRONG, CallOptions::new()).await.unwrap();
    stream.send(hello("Ada Grace")).await.unwrap();
    stream.close_send();
    let second = stream.recv().await.unwrap_err();
    assert_eq!(second.code(), Code::UNIMPLEMENTED);
    assert!(second.message().contains("cardinality"), "{second}");
    drop(stream);
    let several = channel.invoke(&UNARY, ask("Ada Grace")).await.unwrap_err();
    assert!(several.message().contains("cardinality"), "{several}");
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn sending_on_a_stream_that_the_server_has_ended_gives_its_status() {
    const NOTHING: Method<HelloRequest, HelloReply, kind::BidiStreaming> =
        Method::bidi_streaming("/helloworld.Greeter/Nothing");
    let (channel, greeter) = greeted();
    let mut stream = channel.new_stream(&NOTHING, CallOptions::new()).await.unwrap();
    let status = loop {
        if let Err(status) = stream.send(hello("Ada")).await {
            break status;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(status.code(), Code::UNIMPLEMENTED, "{status}");
    assert_eq!(stream.recv().await.unwrap_err().code(), Code::UNIMPLEMENTED);
    drop(stream);
    close_without_leaks(channel, &greeter).await;
}

const RAW: Method<Bytes, Bytes, kind::ServerStreaming> =
    Method::with_codec::<Raw>("/test.Echo/Many");

/// A stream from a server that sends `messages` in one piece, and then this status.
async fn together(
    messages: &[&[u8]],
    status: &'static str,
    builder: impl FnOnce(ChannelBuilder) -> ChannelBuilder,
) -> (Streaming<Bytes, Bytes>, Channel) {
    let mut data = Vec::new();
    for message in messages {
        data.push(0);
        data.extend((message.len() as u32).to_be_bytes());
        data.extend_from_slice(message);
    }
    let (connector, mut listener) = memory::pipe();
    tokio::spawn(async move {
        let stream = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let mut response = http::Response::new(());
            let grpc = http::HeaderValue::from_static("application/grpc");
            response.headers_mut().insert("content-type", grpc);
            let mut body = respond.send_response(response, false).unwrap();
            body.send_data(data.clone().into(), false).unwrap();
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", http::HeaderValue::from_static(status));
            body.send_trailers(trailers).unwrap();
        }
    });
    let channel = builder(plaintext("passthrough:server").connector(connector)).build().unwrap();
    // The server asks for nothing.
    let stream = channel.new_stream(&RAW, CallOptions::new()).await.unwrap();
    (stream, channel)
}

#[tokio::test]
async fn messages_that_come_together_are_received_one_by_one_and_the_status_after_them() {
    // What is longer than 4 KiB is not copied on its way.
    let long = vec![7; 5000];
    let messages = [&b"one"[..], b"", &long, b"four", &long, b"six"];
    let (mut stream, _channel) = together(&messages, "5", |it| it).await;
    for (nth, expected) in messages.iter().enumerate() {
        let message = if nth % 2 == 0 {
            stream.recv().await.unwrap().unwrap()
        } else {
            stream.next().await.unwrap().unwrap()
        };
        assert_eq!(message, *expected, "{nth}");
        assert!(stream.trailer().is_none());
    }
    assert_eq!(stream.recv().await.unwrap_err().code(), Code::NOT_FOUND);
    assert!(stream.trailer().is_some());
}

#[tokio::test]
async fn a_message_over_the_limit_ends_the_call_after_those_that_came_with_it() {
    let limited = |it: ChannelBuilder| it.max_receive_message_bytes(4);
    let (mut stream, _channel) = together(&[b"one", b"four", b"three"], "0", limited).await;
    assert_eq!(stream.recv().await.unwrap().unwrap(), "one");
    assert_eq!(stream.recv().await.unwrap().unwrap(), "four");
    let status = stream.recv().await.unwrap_err();
    assert_eq!(status.code(), Code::RESOURCE_EXHAUSTED, "{status}");
}

#[tokio::test]
async fn what_came_with_a_message_is_void_once_the_call_is_cancelled() {
    let (mut stream, _channel) = together(&[b"one", b"two", b"three"], "0", |it| it).await;
    assert_eq!(stream.recv().await.unwrap().unwrap(), "one");
    stream.cancel();
    for _ in 0..2 {
        assert_eq!(stream.recv().await.unwrap_err().code(), Code::CANCELLED);
    }
    let (mut stream, _channel) = together(&[b"one", b"two", b"three"], "0", |it| it).await;
    assert_eq!(stream.next().await.unwrap().unwrap(), "one");
    stream.cancel();
    assert_eq!(stream.next().await.unwrap().unwrap_err().code(), Code::CANCELLED);
    assert!(stream.next().await.is_none());
}

/// How messages of a method with one response are received.
#[derive(Clone, Copy, Debug)]
enum By {
    Recv,
    Next,
    HalfOfSplit,
}

/// Passes streams on in a wrapper of its own.
struct Wraps;

impl Interceptor for Wraps {
    fn stream<'a>(
        &'a self,
        call: OutgoingCall,
        next: Next<'a>,
    ) -> Answer<'a, Arc<dyn ClientStream>> {
        Answer::later(async move { Ok(Arc::new(Wrapped(next.stream(call).await?)) as _) })
    }
}

struct Wrapped(Arc<dyn ClientStream>);

impl StreamWrapper for Wrapped {
    fn inner(&self) -> &dyn ClientStream {
        &*self.0
    }
}

/// A server that answers each call with headers and a message, and with this status once it is
/// told to go on. Tells how the calls ended for it.
fn late_status(
    status: &'static str,
) -> (memory::MemoryConnector, Arc<Notify>, mpsc::UnboundedReceiver<Option<h2::Reason>>) {
    let (connector, mut listener) = memory::pipe();
    let go_on = Arc::new(Notify::new());
    let (tell, ends) = mpsc::unbounded_channel();
    let may_go_on = go_on.clone();
    tokio::spawn(async move {
        let stream = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            let (go_on, tell) = (may_go_on.clone(), tell.clone());
            tokio::spawn(async move {
                let mut response = http::Response::new(());
                let grpc = http::HeaderValue::from_static("application/grpc");
                response.headers_mut().insert("content-type", grpc);
                let mut body = respond.send_response(response, false).unwrap();
                body.send_data(Bytes::from_static(b"\0\0\0\0\x03one"), false).unwrap();
                go_on.notified().await;
                let mut trailers = http::HeaderMap::new();
                trailers.insert("grpc-status", http::HeaderValue::from_static(status));
                body.send_trailers(trailers).unwrap();
                let mut requests = request.into_body();
                let end = loop {
                    match requests.data().await {
                        Some(Ok(_)) => {}
                        Some(Err(error)) => break error.reason(),
                        None => break None,
                    }
                };
                tell.send(end).unwrap();
            });
        }
    });
    (connector, go_on, ends)
}

const ONE_OF_MANY: Method<Bytes, Bytes, kind::ClientStreaming> =
    Method::with_codec::<Raw>("/test.Echo/Many");
const ONE_OF_ONE: Method<Bytes, Bytes> = Method::with_codec::<Raw>("/test.Echo/One");

// spec: grpc/one-response-with-ok
#[tokio::test]
async fn the_only_response_is_given_once_the_server_has_said_ok_and_its_status_comes_before_it() {
    for by in [By::Recv, By::Next, By::HalfOfSplit] {
        for is_wrapped in [false, true] {
            for status in ["0", "13"] {
                only_response(ONE_OF_MANY, by, is_wrapped, status).await;
                only_response(ONE_OF_ONE, by, is_wrapped, status).await;
            }
        }
    }
}

async fn only_response<K: kind::Kind>(
    method: Method<Bytes, Bytes, K>,
    by: By,
    is_wrapped: bool,
    status: &'static str,
) {
    let case = format!("{method:?} {by:?} wrapped {is_wrapped} ends with {status}");
    let (connector, go_on, mut ends) = late_status(status);
    let calls = switchboard::Channelz::new();
    let mut builder = plaintext("passthrough:server").connector(connector).channelz(&calls);
    if is_wrapped {
        builder = builder.interceptor(Wraps);
    }
    let channel = builder.build().unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let hook = {
        let told = told.clone();
        move |result: Result<(), &Status>| {
            told.lock().unwrap().push(result.map_err(Status::code));
        }
    };
    let mut stream = channel.new_stream(method, CallOptions::new().on_finish(hook)).await.unwrap();
    stream.send("request".into()).await.unwrap();
    stream.close_send();
    stream.header().await.unwrap();
    let mut receiving = tokio::spawn(async move {
        match by {
            By::Recv => {
                let received = stream.recv().await;
                (received, stream.trailer().is_some())
            }
            By::Next => {
                let received = stream.next().await.transpose();
                (received, stream.trailer().is_some())
            }
            By::HalfOfSplit => {
                let (_requests, mut replies) = stream.split();
                let received = replies.recv().await;
                (received, replies.trailer().is_some())
            }
        }
    });
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
    assert!(!receiving.is_finished(), "{case}: it was given before its status");
    go_on.notify_one();
    // The stream is dropped as soon as it has given this.
    let (received, has_trailers) = (&mut receiving).await.unwrap();
    assert!(has_trailers, "{case}");
    let expected = if status == "0" {
        assert_eq!(received.unwrap().unwrap(), "one", "{case}");
        Ok(())
    } else {
        assert_eq!(received.unwrap_err().code(), Code::INTERNAL, "{case}");
        Err(Code::INTERNAL)
    };
    assert_eq!(*told.lock().unwrap(), [expected], "{case}");
    assert_eq!(ends.recv().await.unwrap(), None, "{case}: the server was told something else");
    let counted = calls.top_channels(0, 1).items[0].calls;
    let ended = (counted.succeeded, counted.failed);
    assert_eq!(ended, if expected.is_ok() { (1, 0) } else { (0, 1) }, "{case}");
}

/// Answers streams without a server, with so many messages.
struct Answers(usize);

impl Interceptor for Answers {
    fn stream<'a>(&'a self, _: OutgoingCall, _: Next<'a>) -> Answer<'a, Arc<dyn ClientStream>> {
        Answer::of(Ok(Arc::new(Answering(Mutex::new(self.0))) as _))
    }
}

struct Answering(Mutex<usize>);

impl ClientStream for Answering {
    fn send(&self, _: EncodedMessage) -> BoxFuture<'_, Result<(), Status>> {
        Box::pin(async { Ok(()) })
    }

    fn close_send(&self) {}

    fn recv(&self) -> BoxFuture<'_, Result<Option<Bytes>, Status>> {
        let mut left = self.0.lock().unwrap();
        let message = (*left > 0).then(|| Bytes::from_static(b"made up"));
        *left = left.saturating_sub(1);
        Box::pin(async move { Ok(message) })
    }

    fn header(&self) -> BoxFuture<'_, Result<Metadata, Status>> {
        Box::pin(async { Ok(Metadata::new()) })
    }

    fn trailer(&self) -> Option<Metadata> {
        None
    }

    fn peer(&self) -> Option<Address> {
        None
    }

    fn security_level(&self) -> Option<SecurityLevel> {
        None
    }

    fn cancel(&self) {}
}

#[tokio::test]
async fn an_interceptor_that_answers_with_no_message_or_two_where_one_is_due_is_no_success() {
    for (messages, is_ok) in [(0, false), (1, true), (2, false)] {
        let channel =
            plaintext("passthrough:server").interceptor(Answers(messages)).build().unwrap();
        let mut stream = channel.new_stream(&ONE_OF_MANY, CallOptions::new()).await.unwrap();
        match stream.recv().await {
            Ok(message) => assert!(is_ok && message.is_some(), "{messages}"),
            Err(status) => {
                assert!(!is_ok, "{messages}: {status}");
                assert_eq!(status.code(), Code::UNIMPLEMENTED, "{status}");
                assert!(status.message().contains("cardinality"), "{status}");
            }
        }
    }
}

/// Calls go on, on the one connection, while a server is slower to read 5,000 short messages than
/// they are sent.
async fn short_messages_to_a_slow_server() {
    let (channel, greeter) = greeted();
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    greeter[0].hold();
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let channel = channel.clone();
        calls.spawn(async move { channel.invoke(&SAY_HELLO, ask("Ada")).await });
    }
    until("the calls are there", async || greeter[0].open_calls() == 200).await;
    let mut stream = channel.new_stream(&LOTS_OF_GREETINGS, CallOptions::new()).await.unwrap();
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    let messages = (0..5_000).map(move |nth| {
        count.fetch_add(1, Ordering::Relaxed);
        hello(&"x".repeat(20 + nth % 160))
    });
    let sending = tokio::spawn(async move {
        stream.send_all(tokio_stream::iter(messages)).await?;
        stream.recv().await
    });
    // There is room for all of it, and the server reads none.
    until("all is on its way", async || sent.load(Ordering::Relaxed) == 5_000).await;
    for _ in 0..2_000 {
        tokio::task::yield_now().await;
    }
    greeter[0].release();
    let reply = sending.await.unwrap().unwrap().unwrap();
    assert_eq!(reply.message.matches(" and ").count() + 1, 5_000);
    while let Some(call) = calls.join_next().await {
        call.unwrap().unwrap();
    }
    assert_eq!(greeter[0].accepted(), 1, "the connection was lost");
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn short_messages_that_are_ready_cost_a_slow_server_no_connection() {
    short_messages_to_a_slow_server().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn short_messages_that_are_ready_cost_none_from_many_threads() {
    short_messages_to_a_slow_server().await;
}

//! Calls that are attempted again, and what the service config says of methods.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use switchboard::{
    ActorKind, CallOptions, Channel, ChannelBuilder, Code, ManualResolver, Resolution,
    ResolveError, Status,
};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::greeter::{
    BIDI_HELLO, FLAKY, Greeter, HelloReply, SAY_HELLO, ask, hello, target_of,
};
use crate::support::{close_without_leaks, plaintext, reports, until};

/// How a server answers an attempt.
#[derive(Clone, Copy)]
enum Answer {
    /// With a greeting for each message.
    Greets,
    /// With trailers alone, once a message has come.
    Fails(u32),
    /// The same, with word on another attempt.
    PushesBack(u32, &'static str),
    /// With headers, then so.
    FailsAfterHeaders(u32),
    /// Not at all.
    IsSilent,
}

use Answer::{Fails, FailsAfterHeaders, Greets, IsSilent, PushesBack};

/// What a server has seen of an attempt: when, and how many it is told there were before.
type Seen = (f64, Option<String>);

/// Answers attempts by a list, and the last way from then on, over pipes.
struct Scripted {
    builder: ChannelBuilder,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Scripted {
    fn new(answers: &'static [Answer]) -> Self {
        let (connector, mut listener) = switchboard::memory::pipe();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let all = seen.clone();
        let began = Instant::now();
        tokio::spawn(async move {
            while let Some(stream) = listener.accept().await {
                let all = all.clone();
                tokio::spawn(async move {
                    let mut connection = h2::server::handshake(stream).await.unwrap();
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        let mut all = all.lock().unwrap();
                        let answer = *answers.get(all.len()).or_else(|| answers.last()).unwrap();
                        let before = request.headers().get("grpc-previous-rpc-attempts");
                        let before = before.map(|it| it.to_str().unwrap().to_owned());
                        all.push((began.elapsed().as_secs_f64(), before));
                        tokio::spawn(give(answer, request.into_body(), respond));
                    }
                });
            }
        });
        let builder = plaintext("passthrough:server").connector(connector).seed(1);
        Self { builder: builder.default_service_config(config("")), seen }
    }

    fn channel(&self) -> Channel {
        self.builder.build().unwrap()
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    fn attempts(&self) -> usize {
        self.seen().len()
    }
}

/// The client may be gone at any of these steps.
async fn give(
    answer: Answer,
    mut requests: h2::RecvStream,
    mut respond: h2::server::SendResponse<Bytes>,
) -> Option<()> {
    let status = |code: u32| {
        let mut fields = http::HeaderMap::new();
        fields.insert("grpc-status", code.into());
        fields.insert("grpc-message", http::HeaderValue::from_static("scripted"));
        fields
    };
    let mut response = http::Response::new(());
    let grpc = http::HeaderValue::from_static("application/grpc");
    response.headers_mut().insert("content-type", grpc);
    match answer {
        IsSilent => std::future::pending().await,
        Fails(code) => {
            requests.data().await?.ok()?;
            response.headers_mut().extend(status(code));
            respond.send_response(response, true).ok()?;
        }
        PushesBack(code, millis) => {
            response.headers_mut().extend(status(code));
            let millis = http::HeaderValue::from_static(millis);
            response.headers_mut().insert("grpc-retry-pushback-ms", millis);
            respond.send_response(response, true).ok()?;
        }
        FailsAfterHeaders(code) => {
            let mut body = respond.send_response(response, false).ok()?;
            body.send_trailers(status(code)).ok()?;
        }
        Greets => {
            let mut body = respond.send_response(response, false).ok()?;
            while let Some(Ok(data)) = requests.data().await {
                requests.flow_control().release_capacity(data.len()).ok()?;
                if data.is_empty() {
                    continue;
                }
                let reply = HelloReply { message: "Hello".to_owned() };
                let encoded = prost::Message::encode_to_vec(&reply);
                let mut framed = vec![0, 0, 0, 0, u8::try_from(encoded.len()).unwrap()];
                framed.extend(encoded);
                body.send_data(framed.into(), false).ok()?;
            }
            body.send_trailers(status(0)).ok()?;
        }
    }
    Some(())
}

/// A service config with a retry policy for all methods, and more.
fn config(more: &str) -> String {
    format!(
        r#"{{"methodConfig":[{{"name":[{{}}],"retryPolicy":{{"maxAttempts":4,
            "initialBackoff":"1s","maxBackoff":"10s","backoffMultiplier":2,
            "retryableStatusCodes":["UNAVAILABLE",10]}}}}]{more}}}"#
    )
}

async fn call(channel: &Channel) -> Result<String, Status> {
    let reply = channel.invoke(&SAY_HELLO, ask("Ada")).await?;
    Ok(reply.into_message().message)
}

/// How a call ends whose channel is built so.
async fn outcome(
    scripted: &Scripted,
    change: impl FnOnce(ChannelBuilder) -> ChannelBuilder,
) -> Status {
    let channel = change(scripted.builder.clone()).build().unwrap();
    let status = call(&channel).await.unwrap_err();
    channel.close().await;
    status
}

#[tokio::test(start_paused = true)]
async fn failed_attempts_are_made_again_after_rests_that_grow() {
    let scripted = Scripted::new(&[Fails(14), Fails(10), Greets]);
    let channel = scripted.channel();
    assert_eq!(call(&channel).await.unwrap(), "Hello");
    let seen = scripted.seen();
    let told: Vec<_> = seen.iter().map(|(_, before)| before.as_deref()).collect();
    assert_eq!(told, [None, Some("1"), Some("2")]);
    let rests: Vec<_> = seen.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    assert!((0.8..1.21).contains(&rests[0]) && (1.6..2.41).contains(&rests[1]), "{rests:?}");
    channel.close().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_not_to_be_tried_again_is_not() {
    // Other codes, and what comes after the server has begun to answer.
    for (answers, code) in [
        (&[Fails(13), Greets][..], Code::INTERNAL),
        (&[FailsAfterHeaders(14), Greets], Code::UNAVAILABLE),
        (&[PushesBack(14, "-1"), Greets], Code::UNAVAILABLE),
        (&[PushesBack(14, "soon"), Greets], Code::UNAVAILABLE),
    ] {
        let scripted = Scripted::new(answers);
        let status = outcome(&scripted, |it| it).await;
        assert_eq!((status.code(), status.message()), (code, "scripted"));
        assert_eq!(scripted.attempts(), 1);
    }
    // Retries that the channel does not want, and messages beyond what it keeps.
    let scripted = Scripted::new(&[Fails(14)]);
    let status = outcome(&scripted, ChannelBuilder::disable_retry).await;
    assert_eq!(status.message(), "scripted");
    outcome(&scripted, |it| it.max_retry_buffer_bytes(5)).await;
    assert_eq!(scripted.attempts(), 2);
    let channel = scripted.channel();
    let request = ask("Ada").max_retry_buffer_bytes(5);
    channel.invoke(&SAY_HELLO, request).await.unwrap_err();
    assert_eq!(scripted.attempts(), 3);
    channel.close().await;
}

#[tokio::test(start_paused = true)]
async fn attempts_end_at_the_policys_number_or_the_channels() {
    for (cap, attempts) in [(5, 4), (2, 2)] {
        let scripted = Scripted::new(&[Fails(14)]);
        let status = outcome(&scripted, |it| it.max_call_attempts(cap)).await;
        assert_eq!(status.code(), Code::UNAVAILABLE);
        let expected = format!("max retries exhausted: failed after {attempts} attempts: scripted");
        assert_eq!(status.message(), expected);
        assert_eq!(scripted.attempts(), attempts);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_says_when_to_come_back() {
    let scripted = Scripted::new(&[PushesBack(14, "7000"), Greets]);
    let channel = scripted.channel();
    call(&channel).await.unwrap();
    let seen = scripted.seen();
    let rest = seen[1].0 - seen[0].0;
    assert!((7.0..7.01).contains(&rest), "{rest}");
    channel.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_deadline_does_not_wait_for_the_next_attempt() {
    let scripted = Scripted::new(&[PushesBack(14, "60000")]);
    let channel = scripted.channel();
    let began = Instant::now();
    let request = ask("Ada").timeout(Duration::from_secs(5));
    let status = channel.invoke(&SAY_HELLO, request).await.unwrap_err();
    assert_eq!(status.code(), Code::DEADLINE_EXCEEDED);
    assert!(
        status.message().contains("the last attempt ended with UNAVAILABLE from server: scripted"),
        "{status}"
    );
    assert_eq!(began.elapsed().as_secs(), 5);
    channel.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_close_does_not_wait_for_the_next_attempt() {
    let scripted = Scripted::new(&[PushesBack(14, "60000")]);
    let channel = scripted.channel();
    let began = Instant::now();
    let closing = async {
        while scripted.attempts() < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // Both calls know how long they are to rest.
        tokio::time::sleep(Duration::from_secs(1)).await;
        channel.close().await;
    };
    let streaming = async {
        let mut stream = channel.new_stream(&BIDI_HELLO, CallOptions::new()).await.unwrap();
        // Whichever half meets the failure rests.
        let _ = stream.send(hello("Ada")).await;
        stream.recv().await.unwrap_err()
    };
    let (unary, stream, ()) = tokio::join!(call(&channel), streaming, closing);
    for status in [unary.unwrap_err(), stream] {
        assert_eq!((status.code(), status.message()), (Code::CANCELLED, "the channel is closed"));
    }
    assert_eq!(began.elapsed().as_secs(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_finds_no_connection_is_tried_again_too() {
    let connector = switchboard::memory::pipe().0;
    let builder = plaintext("passthrough:server").connector(connector).seed(1);
    let channel = builder.default_service_config(config("")).build().unwrap();
    let began = Instant::now();
    let status = call(&channel).await.unwrap_err();
    let text = "max retries exhausted: failed after 4 attempts: server: connection refused";
    assert!(status.message().contains(text), "{status}");
    assert!(began.elapsed() > Duration::from_secs(5), "{:?}", began.elapsed());
    channel.close().await;
}

#[tokio::test]
async fn ten_thousand_calls_whose_first_attempts_fail_are_ten_thousand_successes() {
    let greeter = Greeter::start();
    let json = config("").replace("\"1s\"", "\"0.001s\"");
    let builder = plaintext(target_of([&greeter])).default_service_config(json);
    let channel = builder.build().unwrap();
    let callers: JoinSet<_> = (0..50)
        .map(|_| {
            let channel = channel.clone();
            async move {
                for _ in 0..200 {
                    channel.invoke(&SAY_HELLO, ask(FLAKY)).await.unwrap();
                }
            }
        })
        .collect();
    callers.join_all().await;
    assert_eq!(greeter.received(), 20_000);
    close_without_leaks(channel, &[greeter]).await;
}

#[tokio::test]
async fn a_dead_method_is_tried_again_until_the_tokens_are_half_gone() {
    let greeter = Greeter::start();
    let json = config(r#","retryThrottling":{"maxTokens":10,"tokenRatio":0.1}"#);
    let json = json.replace("\"1s\"", "\"0.001s\"");
    let builder = plaintext(target_of([&greeter])).default_service_config(json);
    let channel = builder.build().unwrap();
    let dead = async || channel.invoke(&SAY_HELLO, ask("fail:14:dead")).await.unwrap_err();
    // Four attempts take four of ten tokens; the next one leaves five, which is too few.
    let mut attempts = Vec::new();
    for _ in 0..5 {
        let before = greeter.received();
        dead().await;
        attempts.push(greeter.received() - before);
    }
    assert_eq!(attempts, [4, 1, 1, 1, 1]);
    // Two tokens are left: thirty-nine successes bring it to just under six.
    for _ in 0..39 {
        channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    }
    let before = greeter.received();
    dead().await;
    assert_eq!(greeter.received() - before, 1);
    for _ in 0..21 {
        channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    }
    let before = greeter.received();
    dead().await;
    assert_eq!(greeter.received() - before, 2);
    close_without_leaks(channel, &[greeter]).await;
}

#[tokio::test]
async fn tokens_that_are_gone_do_not_come_back_when_resolution_fails() {
    let greeter = Greeter::start();
    let json = config(r#","retryThrottling":{"maxTokens":4,"tokenRatio":0.1}"#);
    let json = json.replace("\"1s\"", "\"0.001s\"");
    let found = Resolution::new([greeter.address().into()]).with_service_config(json);
    let names = ManualResolver::new();
    names.set_resolution(found.clone());
    let channel = plaintext("names:///x").resolver("names", names.clone()).build().unwrap();
    let dead = async || {
        let before = greeter.received();
        channel.invoke(&SAY_HELLO, ask("fail:14:dead")).await.unwrap_err();
        greeter.received() - before
    };
    assert_eq!([dead().await, dead().await], [2, 1]);
    // Found again, not found, found again: the rules are the same.
    let counted = async |what: &str| {
        let reports = reports(&channel).await;
        let own = reports.into_iter().find(|it| it.actor == ActorKind::ClientConn);
        own.and_then(|it| it.counters.get(what).copied()).unwrap_or_default()
    };
    let failed = async || {
        let reports = reports(&channel).await;
        let mut own = reports.into_iter().filter(|it| it.actor == ActorKind::ClientConn);
        own.any(|it| it.last_error.is_some())
    };
    names.set_resolution(found.clone());
    until("found again", async || counted("resolutions").await == 2).await;
    names.fail(ResolveError::new("no such name"));
    until("not found", failed).await;
    let published = counted("published").await;
    names.set_resolution(found);
    until("found again", async || counted("resolutions").await == 3).await;
    until("published", async || counted("published").await > published).await;
    assert_eq!(dead().await, 1);
    close_without_leaks(channel, &[greeter]).await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_sends_what_it_has_sent_again_and_goes_on() {
    let scripted = Scripted::new(&[Fails(14), Greets]);
    let channel = scripted.channel();
    let mut stream = channel.new_stream(&BIDI_HELLO, CallOptions::new()).await.unwrap();
    stream.send(hello("Ada")).await.unwrap();
    // The rest before the next attempt goes on although nobody waits for it to the end.
    let mut tries = 0;
    let reply = loop {
        tries += 1;
        match tokio::time::timeout(Duration::from_millis(50), stream.recv()).await {
            Ok(reply) => break reply.unwrap().unwrap(),
            Err(_) => assert!(tries < 40, "it never comes to the next attempt"),
        }
    };
    assert_eq!(reply.message, "Hello");
    assert!(tries > 10, "{tries}");
    stream.send(hello("Bo")).await.unwrap();
    stream.recv().await.unwrap().unwrap();
    stream.close_send();
    assert!(stream.recv().await.unwrap().is_none());
    assert_eq!(scripted.attempts(), 2);
    channel.close().await;
}

#[tokio::test(start_paused = true)]
async fn whichever_half_of_a_stream_meets_a_failure_tries_again() {
    for by_header in [true, false] {
        let scripted = Scripted::new(&[Fails(14), Fails(14), Greets]);
        let channel = scripted.channel();
        let stream = channel.new_stream(&BIDI_HELLO, CallOptions::new()).await.unwrap();
        let (mut sender, mut receiver) = stream.split();
        if by_header {
            sender.send(hello("Ada")).await.unwrap();
            receiver.header().await.unwrap();
        } else {
            // The sender finds out by itself, in the end.
            while scripted.attempts() < 3 {
                sender.send(hello("Ada")).await.unwrap();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        assert_eq!(receiver.recv().await.unwrap().unwrap().message, "Hello");
        drop((sender, receiver));
        assert_eq!(scripted.attempts(), 3);
        channel.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_was_answered_or_has_sent_too_much_is_not_tried_again() {
    let scripted = Scripted::new(&[Fails(14)]);
    let builder = scripted.builder.clone().max_retry_buffer_bytes(100);
    let channel = builder.build().unwrap();
    let mut stream = channel.new_stream(&BIDI_HELLO, CallOptions::new()).await.unwrap();
    stream.send(hello(&"x".repeat(200))).await.unwrap();
    let status = stream.recv().await.unwrap_err();
    assert_eq!(status.message(), "scripted");
    assert_eq!(scripted.attempts(), 1);
    channel.close().await;

    let scripted = Scripted::new(&[FailsAfterHeaders(14)]);
    let channel = scripted.channel();
    let mut stream = channel.new_stream(&BIDI_HELLO, CallOptions::new()).await.unwrap();
    stream.header().await.unwrap();
    let status = stream.recv().await.unwrap_err();
    assert_eq!(status.message(), "scripted");
    assert_eq!(scripted.attempts(), 1);
    channel.close().await;
}

#[tokio::test(start_paused = true)]
async fn the_config_of_a_method_says_how_long_and_how_large() {
    let json = r#"{"methodConfig":[
        {"name":[{"service":"helloworld.Greeter"}],"timeout":"3s","maxRequestMessageBytes":100,
         "maxResponseMessageBytes":4},
        {"name":[{}],"timeout":"9s"}]}"#;
    let scripted = Scripted::new(&[IsSilent]);
    let channel = scripted.builder.clone().default_service_config(json);
    let channel = channel.default_timeout(Duration::from_secs(1)).build().unwrap();
    // The lesser of what the call and the config say; of the channel's default, nothing.
    for (timeout, expected) in [(None, 3), (Some(2), 2), (Some(8), 3)] {
        let began = Instant::now();
        let mut request = ask("Ada");
        if let Some(seconds) = timeout {
            request = request.timeout(Duration::from_secs(seconds));
        }
        let status = channel.invoke(&SAY_HELLO, request).await.unwrap_err();
        assert_eq!(status.code(), Code::DEADLINE_EXCEEDED);
        assert_eq!(began.elapsed().as_secs(), expected);
    }
    let status = channel.invoke(&SAY_HELLO, ask(&"x".repeat(200))).await.unwrap_err();
    assert_eq!(status.code(), Code::RESOURCE_EXHAUSTED);
    assert!(status.message().contains("203 bytes long, and 100 may be sent"), "{status}");
    channel.close().await;

    let greets = Scripted::new(&[Greets]);
    let channel = greets.builder.clone().default_service_config(json).build().unwrap();
    let status = call(&channel).await.unwrap_err();
    assert_eq!(status.code(), Code::RESOURCE_EXHAUSTED);
    assert!(status.message().contains("7 bytes where 4 are allowed"), "{status}");
    channel.close().await;
}

#[tokio::test(start_paused = true)]
async fn unary_calls_and_streams_have_default_timeouts_of_their_own() {
    let scripted = Scripted::new(&[IsSilent]);
    let channel = scripted.builder.clone();
    let channel = channel.default_timeout(Duration::from_secs(2));
    let channel = channel.default_stream_timeout(Duration::from_secs(5)).build().unwrap();
    let began = Instant::now();
    assert_eq!(call(&channel).await.unwrap_err().code(), Code::DEADLINE_EXCEEDED);
    assert_eq!(began.elapsed().as_secs(), 2);
    let began = Instant::now();
    let mut stream = channel.new_stream(&BIDI_HELLO, CallOptions::new()).await.unwrap();
    assert_eq!(stream.recv().await.unwrap_err().code(), Code::DEADLINE_EXCEEDED);
    assert_eq!(began.elapsed().as_secs(), 5);
    channel.close().await;
}

#[tokio::test(start_paused = true)]
async fn the_config_of_a_method_may_have_calls_wait_and_the_call_may_not() {
    let json = r#"{"methodConfig":[{"name":[{"service":"helloworld.Greeter","method":"SayHello"}],
        "waitForReady":true}]}"#;
    let connector = switchboard::memory::pipe().0;
    let builder = plaintext("passthrough:server").connector(connector);
    let channel = builder.default_service_config(json).build().unwrap();
    let limited = || ask("Ada").timeout(Duration::from_secs(9));
    let status = channel.invoke(&SAY_HELLO, limited()).await.unwrap_err();
    assert_eq!(status.code(), Code::DEADLINE_EXCEEDED);
    let impatient = limited().wait_for_ready(false);
    let status = channel.invoke(&SAY_HELLO, impatient).await.unwrap_err();
    assert_eq!(status.code(), Code::UNAVAILABLE);
    // Another method is not meant.
    let options = CallOptions::new().timeout(Duration::from_secs(9));
    let status = channel.new_stream(&BIDI_HELLO, options).await.unwrap_err();
    assert_eq!(status.code(), Code::UNAVAILABLE);
    channel.close().await;
}

/// A server that takes one stream at a time: the first it fails once a message has come, and all
/// others it leaves alone until they are reset.
async fn fail_the_first_and_hold_the_others(
    stream: tokio::io::DuplexStream,
    opened: Arc<AtomicUsize>,
) {
    let mut builder = h2::server::Builder::new();
    let mut connection = builder.max_concurrent_streams(1).handshake(stream).await.unwrap();
    while let Some(Ok((request, respond))) = connection.accept().await {
        if opened.fetch_add(1, Ordering::SeqCst) == 0 {
            tokio::spawn(give(Fails(14), request.into_body(), respond));
        } else {
            tokio::spawn(async move {
                let mut respond = respond;
                std::future::poll_fn(|cx| respond.poll_reset(cx)).await.map(|_| request)
            });
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancel_is_heard_while_a_retry_waits_for_room_or_for_its_time() {
    for waits_for_room in [true, false] {
        let (connector, mut listener) = switchboard::memory::pipe();
        let opened: Arc<AtomicUsize> = Arc::default();
        let count = opened.clone();
        tokio::spawn(async move {
            let stream = listener.accept().await.unwrap();
            fail_the_first_and_hold_the_others(stream, count).await;
        });
        let builder = plaintext("passthrough:server").connector(connector).seed(1);
        let channel = builder.default_service_config(config("")).build().unwrap();
        let stream = channel.new_stream(&BIDI_HELLO, CallOptions::new()).await.unwrap();
        let (mut requests, mut replies) = stream.split();
        requests.send(hello("Ada")).await.unwrap();
        let receiving = tokio::spawn(async move { (replies.recv().await.map(drop), replies) });
        tokio::time::sleep(Duration::from_millis(100)).await;
        // The only place is another's when the second attempt is due.
        let other = channel.new_stream(&BIDI_HELLO, CallOptions::new()).await.unwrap();
        let queued = async || {
            let reports = reports(&channel).await;
            reports.iter().filter_map(|it| it.counters.get("queued streams").copied()).sum::<u64>()
        };
        if waits_for_room {
            until("the retry waits for room", async || queued().await == 1).await;
        }
        let since = Instant::now();
        requests.cancel();
        let (received, mut replies) = receiving.await.unwrap();
        assert_eq!(received.unwrap_err().code(), Code::CANCELLED);
        assert_eq!(since.elapsed(), Duration::ZERO);
        // What is done with the call from then on says the same.
        assert_eq!(replies.recv().await.unwrap_err().code(), Code::CANCELLED);
        assert_eq!(requests.send(hello("Bob")).await.unwrap_err().code(), Code::CANCELLED);
        requests.close_send();
        assert_eq!(queued().await, 0);
        // Its place goes to the next, and nothing more of the call is sent.
        drop(other);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(opened.load(Ordering::SeqCst), 2);
        let next = channel.new_stream(&BIDI_HELLO, CallOptions::new()).await.unwrap();
        until("the next is there", async || opened.load(Ordering::SeqCst) == 3).await;
        drop(next);
        drop((requests, replies));
        channel.close().await;
    }
}

//! Calls that several servers are asked at a time.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use switchboard::{
    Address, AttemptKind, BoxFuture, CallEvent, CallInfo, CallObserver, CallOptions, Channel,
    ChannelBuilder, Code, Connect, Io, Observer,
};
use tokio::time::Instant;

use crate::support::greeter::{Greeter, LOTS_OF_REPLIES, SAY_HELLO, ask, hello};
use crate::support::{no_leaks, plaintext, until};

/// A service config by which every call has two attempts, 20 ms apart.
pub(crate) const TWO_ATTEMPTS: &str = r#"{"methodConfig":[{"name":[{}],
    "hedgingPolicy":{"maxAttempts":2,"hedgingDelay":"0.02s"}}]}"#;

/// A call that the greeter answers once it has both attempts of it.
pub(crate) async fn answered_twice(channel: &Channel, greeter: &Greeter) {
    greeter.hold();
    let caller = channel.clone();
    let call = tokio::spawn(async move { caller.invoke(&SAY_HELLO, ask("Ada")).await });
    until("two attempts", async || greeter.open_calls() == 2).await;
    greeter.release();
    call.await.unwrap().unwrap();
}

/// What a server does with every call.
#[derive(Clone, Copy)]
enum Server {
    /// Answers after so many milliseconds.
    Takes(u64),
    /// Fails at once with this code.
    Fails(u32),
    /// Fails at once, and says when another attempt may come.
    PushesBack(&'static str),
    /// Has not looked at the first, which it says after so many milliseconds; answers all others
    /// after twice as many.
    RefusesFirst(u64),
    /// Sends headers at once, and after so many milliseconds the end: an answer, or this code.
    Begins(u64, u32),
    IsSilent,
}

use Server::{Begins, Fails, IsSilent, PushesBack, RefusesFirst, Takes};

/// Servers at 10.0.0.1 and so on; each notes when it is asked, and when it is told to stop.
#[derive(Clone)]
struct Servers {
    all: Vec<Server>,
    noted: Arc<Mutex<Vec<String>>>,
}

impl Servers {
    fn new(all: &[Server]) -> Self {
        Self { all: all.to_vec(), noted: Arc::default() }
    }

    /// A channel to all of them in turn, that hedges up to so many times, 20 ms apart.
    fn channel(&self, attempts: u32) -> Channel {
        self.builder(attempts).build().unwrap()
    }

    fn builder(&self, attempts: u32) -> ChannelBuilder {
        let addresses: Vec<_> = (1..=self.all.len()).map(|nth| format!("10.0.0.{nth}:1")).collect();
        let config = format!(
            r#"{{"loadBalancingConfig":[{{"round_robin":{{}}}}],"methodConfig":[{{"name":[{{}}],
            "hedgingPolicy":{{"maxAttempts":{attempts},"hedgingDelay":"0.02s",
            "nonFatalStatusCodes":["UNAVAILABLE"]}}}}],
            "retryThrottling":{{"maxTokens":{TOKENS},"tokenRatio":0.1}}}}"#
        );
        let builder = plaintext(format!("ipv4:{}", addresses.join(","))).connector(self.clone());
        builder.default_service_config(config).seed(3)
    }

    async fn until_connected(&self, channel: &Channel) {
        channel.connect();
        until("connected to all", async || {
            let inspection = channel.inspect().await.to_string();
            inspection.matches("     connection: ").count() == self.all.len()
        })
        .await;
        self.noted.lock().unwrap().clear();
    }

    fn noted(&self) -> Vec<String> {
        self.noted.lock().unwrap().clone()
    }

    fn note(&self, what: &str) {
        self.noted.lock().unwrap().push(what.to_owned());
    }
}

impl Connect for Servers {
    fn connect<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, io::Result<Io>> {
        let Address::Socket(address) = address else { panic!("{address}") };
        let nth = address.ip().to_string().rsplit_once('.').unwrap().1.parse::<usize>().unwrap();
        let (servers, server) = (self.clone(), self.all[nth - 1]);
        let (near, far) = tokio::io::duplex(1 << 16);
        tokio::spawn(async move {
            let mut connection = h2::server::handshake(far).await.unwrap();
            while let Some(Ok((request, respond))) = connection.accept().await {
                let before = request.headers().get("grpc-previous-rpc-attempts");
                let before = before.map_or("-", |it| it.to_str().unwrap());
                let is_first = servers.noted().is_empty();
                servers.note(&format!("asked, {before} before"));
                tokio::spawn(answer(server, is_first, servers.clone(), respond));
            }
        });
        Box::pin(std::future::ready(Ok(Io::new(near))))
    }
}

async fn answer(
    server: Server,
    is_first: bool,
    servers: Servers,
    mut respond: h2::server::SendResponse<Bytes>,
) -> Option<()> {
    let mut response = http::Response::new(());
    let grpc = http::HeaderValue::from_static("application/grpc");
    response.headers_mut().insert("content-type", grpc);
    let wait = match server {
        Takes(millis) => Duration::from_millis(millis),
        Fails(code) => {
            response.headers_mut().insert("grpc-status", code.into());
            respond.send_response(response, true).ok()?;
            return Some(());
        }
        PushesBack(millis) => {
            response.headers_mut().insert("grpc-status", 14.into());
            let pushback = http::HeaderValue::from_static(millis);
            response.headers_mut().insert("grpc-retry-pushback-ms", pushback);
            respond.send_response(response, true).ok()?;
            return Some(());
        }
        RefusesFirst(millis) if is_first => {
            tokio::time::sleep(Duration::from_millis(millis)).await;
            respond.send_reset(h2::Reason::REFUSED_STREAM);
            return Some(());
        }
        RefusesFirst(millis) => Duration::from_millis(2 * millis),
        Begins(millis, code) => {
            let mut body = respond.send_response(response, false).ok()?;
            tokio::time::sleep(Duration::from_millis(millis)).await;
            if code == 0 {
                body.send_data(Bytes::from_static(&[0; 5]), false).ok()?;
            }
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", code.into());
            return body.send_trailers(trailers).ok();
        }
        IsSilent => Duration::MAX,
    };
    tokio::select! {
        () = tokio::time::sleep(wait) => {}
        reason = std::future::poll_fn(|cx| respond.poll_reset(cx)) => {
            servers.note(&format!("told {}", u32::from(reason.ok()?)));
            return None;
        }
    }
    let mut body = respond.send_response(response, false).ok()?;
    body.send_data(Bytes::from_static(&[0; 5]), false).ok()?;
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", 0.into());
    body.send_trailers(trailers).ok()
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_answer_is_made_up_for_by_the_next_and_told_to_stop() {
    let servers = Servers::new(&[IsSilent, IsSilent, Takes(5)]);
    let channel = servers.channel(3);
    servers.until_connected(&channel).await;
    for _ in 0..6 {
        let began = Instant::now();
        channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
        let took = began.elapsed().as_millis();
        assert!([5, 25, 45].contains(&took), "{took}");
    }
    channel.close().await;
    until("the losers are told", async || {
        let noted = servers.noted();
        let of = |what: &str| noted.iter().filter(|it| it.starts_with(what)).count();
        of("asked") == of("told 8") + 6
    })
    .await;
    drop(channel);
    no_leaks(&[]).await;
}

#[tokio::test(start_paused = true)]
async fn no_server_is_asked_twice_while_another_is_free() {
    let servers = Servers::new(&[IsSilent, IsSilent, IsSilent]);
    let channel = servers.channel(3);
    servers.until_connected(&channel).await;
    for call in 0..3 {
        let request = ask("Ada").timeout(Duration::from_millis(100));
        let status = channel.invoke(&SAY_HELLO, request).await.unwrap_err();
        assert_eq!(status.code(), Code::DEADLINE_EXCEEDED, "call {call}");
    }
    let noted = servers.noted();
    let asked: Vec<_> = noted.iter().filter(|it| it.starts_with("asked")).collect();
    let expected = ["asked, - before", "asked, 1 before", "asked, 2 before"];
    assert_eq!(asked, expected.repeat(3).iter().collect::<Vec<_>>());
    // Each has had its three: a connection counts the streams it had.
    let streams = crate::support::reports(&channel).await;
    let streams: Vec<_> =
        streams.iter().flat_map(|it| &it.connections).map(|it| it.streams).collect();
    assert_eq!(streams, [3, 3, 3]);
    channel.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_failure_ends_the_call_or_makes_room_for_the_next_as_the_policy_says() {
    // Not fatal: the next is asked at once.
    let servers = Servers::new(&[Fails(14), Takes(5)]);
    let channel = servers.channel(2);
    servers.until_connected(&channel).await;
    for _ in 0..4 {
        let began = Instant::now();
        channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
        assert_eq!(began.elapsed().as_millis(), 5);
    }
    channel.close().await;
    // Fatal: nobody else is waited for.
    let servers = Servers::new(&[Fails(13), Fails(13)]);
    let channel = servers.channel(2);
    servers.until_connected(&channel).await;
    let status = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
    assert_eq!(status.code(), Code::INTERNAL);
    assert_eq!(servers.noted(), ["asked, - before"]);
    channel.close().await;
    // All have failed.
    let servers = Servers::new(&[Fails(14), Fails(14)]);
    let channel = servers.channel(2);
    servers.until_connected(&channel).await;
    let status = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
    assert_eq!(status.code(), Code::UNAVAILABLE);
    assert_eq!(servers.noted().len(), 2);
    channel.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_close_does_not_wait_for_the_hedge_that_a_server_has_put_off() {
    let servers = Servers::new(&[PushesBack("60000")]);
    let channel = servers.channel(2);
    servers.until_connected(&channel).await;
    let began = Instant::now();
    let closing = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(servers.noted(), ["asked, - before"], "no attempt is under way");
        channel.close().await;
    };
    let (answer, ()) = tokio::join!(channel.invoke(&SAY_HELLO, ask("Ada")), closing);
    let status = answer.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::CANCELLED, "the channel is closed"));
    assert_eq!(began.elapsed().as_secs(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_is_under_way_at_close_has_its_grace_although_no_hedge_can_follow() {
    let servers = Servers::new(&[Takes(100)]);
    let channel = servers.channel(3);
    servers.until_connected(&channel).await;
    let closing = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        channel.close_within(Duration::from_secs(1)).await;
    };
    let began = Instant::now();
    let (answer, ()) = tokio::join!(channel.invoke(&SAY_HELLO, ask("Ada")), closing);
    answer.unwrap();
    assert_eq!(began.elapsed().as_millis(), 100);
    assert_eq!(servers.noted(), ["asked, - before"]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_rests_while_the_tokens_go_ends_with_its_last_failure() {
    let servers = Servers::new(&[PushesBack("1000")]);
    let channel = servers.channel(2);
    servers.until_connected(&channel).await;
    let began = Instant::now();
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..TOKENS {
        let channel = channel.clone();
        let request = ask("Ada").timeout(Duration::from_secs(60));
        calls.spawn(async move { channel.invoke(&SAY_HELLO, request).await.unwrap_err().code() });
    }
    assert_eq!(calls.join_all().await, [Code::UNAVAILABLE; TOKENS]);
    assert_eq!((began.elapsed().as_secs(), servers.noted().len()), (1, TOKENS));
    channel.close().await;
}

// spec: A6/hedging-commit
#[tokio::test(start_paused = true)]
async fn a_server_that_has_begun_to_answer_has_the_call_and_no_other_is_asked() {
    let servers = Servers::new(&[Begins(100, 0), Takes(1)]);
    let channel = servers.channel(3);
    servers.until_connected(&channel).await;
    let mut took = Vec::new();
    for _ in 0..2 {
        let began = Instant::now();
        channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
        took.push(began.elapsed().as_millis());
    }
    took.sort_unstable();
    assert_eq!(took, [1, 100]);
    assert_eq!(servers.noted(), ["asked, - before"; 2]);
    channel.close().await;
    // A failure that would make room for another does not, nor does the deadline's.
    for (server, timeout, code) in
        [(Begins(100, 14), 1_000, Code::UNAVAILABLE), (Begins(100, 0), 50, Code::DEADLINE_EXCEEDED)]
    {
        let servers = Servers::new(&[server]);
        let channel = servers.channel(3);
        servers.until_connected(&channel).await;
        let request = ask("Ada").timeout(Duration::from_millis(timeout));
        let status = channel.invoke(&SAY_HELLO, request).await.unwrap_err();
        assert_eq!(status.code(), code);
        assert_eq!(servers.noted(), ["asked, - before"]);
        channel.close().await;
    }
}

// spec: A6/hedging-commit
#[tokio::test(start_paused = true)]
async fn the_attempts_that_are_under_way_are_cancelled_as_soon_as_another_server_begins() {
    let servers = Servers::new(&[IsSilent, Begins(60_000, 0)]);
    let ends = Ends::default();
    let channel = servers.builder(3).observer(ends.clone()).build().unwrap();
    servers.until_connected(&channel).await;
    let mut losers = 0;
    // They are asked in turn: in one call of two the silent one is the first.
    for _ in 0..2 {
        servers.noted.lock().unwrap().clear();
        let began = Instant::now();
        let request = ask("Ada").timeout(Duration::from_secs(1));
        let watching = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let noted = servers.noted();
            losers += noted.iter().filter(|it| *it == "told 8").count();
            assert!(noted.len() < 4 && noted.len() != 2, "{noted:?}");
            // The loser's end does not wait for that of the call.
            assert_eq!(ends.take(), vec![Code::CANCELLED; noted.len() / 3]);
        };
        let (answer, ()) = tokio::join!(channel.invoke(&SAY_HELLO, request), watching);
        assert_eq!(answer.unwrap_err().code(), Code::DEADLINE_EXCEEDED);
        assert_eq!(began.elapsed().as_secs(), 1);
        assert_eq!(ends.take(), [Code::DEADLINE_EXCEEDED]);
    }
    assert_eq!(losers, 1);
    channel.close().await;
}

// spec: A6/hedging-commit
#[tokio::test(start_paused = true)]
async fn a_call_that_is_too_large_to_be_kept_is_not_hedged_and_neither_is_a_stream() {
    let servers = Servers::new(&[Takes(100)]);
    let channel = servers.channel(3);
    servers.until_connected(&channel).await;
    let request = ask("Ada").max_retry_buffer_bytes(1);
    channel.invoke(&SAY_HELLO, request).await.unwrap();
    assert_eq!(servers.noted(), ["asked, - before"]);
    let mut stream = channel.new_stream(&LOTS_OF_REPLIES, CallOptions::new()).await.unwrap();
    stream.send(hello("Ada")).await.unwrap();
    stream.recv().await.unwrap();
    assert_eq!(servers.noted(), ["asked, - before"; 2]);
    drop(stream);
    channel.close().await;
}

/// Notes how attempts end.
#[derive(Clone, Default)]
struct Ends(Arc<Mutex<Vec<Code>>>);

impl Ends {
    fn take(&self) -> Vec<Code> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl Observer for Ends {
    fn call_began(&self, _: &CallInfo<'_>) -> Option<Arc<dyn CallObserver>> {
        Some(Arc::new(self.clone()))
    }
}

impl CallObserver for Ends {
    fn event(&self, event: &CallEvent<'_>) {
        if let CallEvent::AttemptEnded { result: Err(status), .. } = event {
            self.0.lock().unwrap().push(status.code());
        }
    }
}

/// Notes why there are attempts.
#[derive(Clone, Default)]
struct Kinds(Arc<Mutex<Vec<AttemptKind>>>);

impl Observer for Kinds {
    fn call_began(&self, _: &CallInfo<'_>) -> Option<Arc<dyn CallObserver>> {
        Some(Arc::new(self.clone()))
    }
}

impl CallObserver for Kinds {
    fn event(&self, event: &CallEvent<'_>) {
        if let CallEvent::AttemptBegan { kind, .. } = event {
            self.0.lock().unwrap().push(*kind);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_no_server_has_seen_is_sent_again_as_what_it_was() {
    let servers = Servers::new(&[RefusesFirst(30)]);
    let kinds = Kinds::default();
    let channel = servers.builder(2).observer(kinds.clone()).build().unwrap();
    servers.until_connected(&channel).await;
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    let asked = ["asked, - before", "asked, 1 before", "asked, - before"];
    assert_eq!(servers.noted()[..3], asked);
    let expected = [AttemptKind::First, AttemptKind::Hedge, AttemptKind::TransparentRetry];
    assert_eq!(*kinds.0.lock().unwrap(), expected);
    channel.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_deadline_passes_says_whom_or_what_it_waited_for() {
    let ended = async |server: Server, attempts: u32, millis: u64| {
        let servers = Servers::new(&[server]);
        let channel = servers.channel(attempts);
        servers.until_connected(&channel).await;
        let began = Instant::now();
        let request = ask("Ada").timeout(Duration::from_millis(millis));
        let status = channel.invoke(&SAY_HELLO, request).await.unwrap_err();
        assert_eq!(status.code(), Code::DEADLINE_EXCEEDED);
        let late = began.elapsed().as_millis() - u128::from(millis);
        assert!(late <= 10, "{late}");
        channel.close().await;
        status.message().to_owned()
    };
    // Before the first hedge, before the second, and when there is to be no other.
    for millis in [10, 30, 90] {
        let text = ended(IsSilent, 3, millis).await;
        assert_eq!(text, "10.0.0.1:1: the deadline passed before it answered");
    }
    let text = ended(PushesBack("60000"), 3, 50).await;
    let expected = "the deadline passed before the next attempt; the last attempt ended with \
                    UNAVAILABLE: 10.0.0.1:1 gave no message for /helloworld.Greeter/SayHello";
    assert_eq!(text, expected);
    // What was sent again counts as well.
    let text = ended(RefusesFirst(5), 2, 12).await;
    let expected = "10.0.0.1:1: the deadline passed before it answered; the last attempt ended \
                    with UNAVAILABLE: 10.0.0.1:1: the server refused the stream (REFUSED_STREAM)";
    assert_eq!(text, expected);
}

/// More than the failures of any other test take.
const TOKENS: usize = 40;

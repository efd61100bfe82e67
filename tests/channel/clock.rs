//! What happens when: whole channels on a paused clock, with a dialler in the test's hand.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use switchboard::{
    ActorKind, Address, BoxFuture, Channel, Code, Connect, ConnectivityState, Endpoint, Fault, Io,
    ManualResolver, Resolution, Resolve, ResolveError, Target, TargetError,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::support::greeter::{SAY_HELLO, ask};
use crate::support::{no_leaks, plaintext, until_state};

/// What a dial to an address comes to.
#[derive(Clone, Copy)]
enum Outcome {
    Refused,
    /// Never anything.
    Hangs,
    /// A connection whose other end never speaks.
    Silent,
    /// A connection to a server that takes everything and answers nothing.
    Ready,
    /// One to a server that answers nothing, and leaves so much later.
    Leaves(Duration),
    /// One to a server that answers one call, with `NOT_FOUND`, and leaves.
    LeavesAfterAnswer,
    /// One that takes everything up to the first request, and breaks with that.
    BreaksAtRequest,
    /// One to a server that says goodbye as soon as it has a call, and answers so much later.
    AnswersAfterGoodbye(Duration),
}

/// Dials nothing, and writes down when it was asked to.
#[derive(Clone)]
struct Dialler {
    outcomes: Vec<(&'static str, Outcome)>,
    since: Instant,
    dials: Arc<Mutex<Vec<(Duration, String)>>>,
}

impl Dialler {
    fn new(outcomes: &[(&'static str, Outcome)]) -> Self {
        Self { outcomes: outcomes.to_vec(), since: Instant::now(), dials: Arc::default() }
    }

    fn channel(&self) -> Channel {
        let addresses: Vec<_> = self.outcomes.iter().map(|(address, _)| *address).collect();
        let target = format!("ipv4:{}", addresses.join(","));
        plaintext(target).connector(self.clone()).seed(7).allow_injection().build().unwrap()
    }

    fn dials(&self) -> Vec<(Duration, String)> {
        self.dials.lock().unwrap().clone()
    }

    fn times(&self) -> Vec<f64> {
        self.dials().into_iter().map(|(at, _)| at.as_secs_f64()).collect()
    }
}

impl Connect for Dialler {
    fn connect<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, io::Result<Io>> {
        let address = address.to_string();
        self.dials.lock().unwrap().push((self.since.elapsed(), address.clone()));
        let outcome = self.outcomes.iter().find(|(it, _)| **it == address).unwrap().1;
        Box::pin(async move {
            match outcome {
                Outcome::Refused => Err(io::ErrorKind::ConnectionRefused.into()),
                Outcome::Hangs => std::future::pending().await,
                Outcome::Silent => {
                    let (near, far) = tokio::io::duplex(1 << 16);
                    tokio::spawn(async move {
                        let mut far = far;
                        tokio::io::copy(&mut far, &mut tokio::io::sink()).await
                    });
                    Ok(Io::new(near))
                }
                Outcome::Ready => {
                    let (near, far) = tokio::io::duplex(1 << 16);
                    tokio::spawn(async move {
                        let mut server = h2::server::handshake(far).await.unwrap();
                        let mut open = Vec::new();
                        while let Some(Ok(request)) = server.accept().await {
                            open.push(request);
                        }
                    });
                    Ok(Io::new(near))
                }
                Outcome::Leaves(after) => {
                    let (near, far) = tokio::io::duplex(1 << 16);
                    tokio::spawn(async move {
                        let mut server = h2::server::handshake(far).await.unwrap();
                        let mut open = Vec::new();
                        let serving = async {
                            while let Some(Ok(request)) = server.accept().await {
                                open.push(request);
                            }
                        };
                        let _ = tokio::time::timeout(after, serving).await;
                    });
                    Ok(Io::new(near))
                }
                Outcome::LeavesAfterAnswer => {
                    let (near, far) = tokio::io::duplex(1 << 16);
                    tokio::spawn(async move {
                        let mut server = h2::server::handshake(far).await.unwrap();
                        let (_, mut respond) = server.accept().await.unwrap().unwrap();
                        respond.send_response(not_found(), true).unwrap();
                        let flushing = server.accept();
                        let _ = tokio::time::timeout(Duration::from_millis(5), flushing).await;
                    });
                    Ok(Io::new(near))
                }
                Outcome::BreaksAtRequest => {
                    let (near, far) = tokio::io::duplex(1 << 16);
                    tokio::spawn(async move {
                        let mut server = h2::server::handshake(far).await.unwrap();
                        while server.accept().await.is_some() {}
                    });
                    Ok(Io::new(BreaksAtRequest { io: near, written: Vec::new() }))
                }
                Outcome::AnswersAfterGoodbye(after) => {
                    let (near, far) = tokio::io::duplex(1 << 16);
                    tokio::spawn(async move {
                        let mut server = h2::server::handshake(far).await.unwrap();
                        while let Some(Ok((_, mut respond))) = server.accept().await {
                            server.graceful_shutdown();
                            tokio::spawn(async move {
                                tokio::time::sleep(after).await;
                                respond.send_response(not_found(), true).unwrap();
                            });
                        }
                    });
                    Ok(Io::new(near))
                }
            }
        })
    }
}

async fn end(channel: Channel) {
    channel.close().await;
    drop(channel);
    no_leaks(&[]).await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_address_is_dialled_on_the_backoff_schedule_whatever_calls_do() {
    let dialler = Dialler::new(&[("10.0.0.7:1", Outcome::Refused)]);
    let channel = dialler.channel();
    let calling = async {
        loop {
            let status = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
            assert_eq!(status.code(), Code::UNAVAILABLE);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let hour = Duration::from_secs(3_600);
    assert!(tokio::time::timeout(hour, calling).await.is_err());
    let times = dialler.times();
    assert!(times[0] < 0.002, "{times:?}");
    let waits: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let mut nominal = 1.0_f64;
    for (nth, wait) in waits.iter().enumerate() {
        let jitter = if nth == 0 { 0.0 } else { 0.2 };
        let (least, most) = (nominal * (1.0 - jitter), nominal * (1.0 + jitter));
        assert!((least - 0.002..most + 0.002).contains(wait), "wait {nth} of {waits:?}");
        nominal = (nominal * 1.6).min(120.0);
    }
    // 242 s until the waits are at their longest, then one about every two minutes.
    assert!((35..48).contains(&waits.len()), "{}", waits.len());
    end(channel).await;
}

/// Fails instead of writing HEADERS.
struct BreaksAtRequest {
    io: tokio::io::DuplexStream,
    written: Vec<u8>,
}

impl BreaksAtRequest {
    /// Whether a HEADERS frame begins in what is written, with these bytes behind it.
    fn has_request(&self, next: &[u8]) -> bool {
        const PREFACE_LEN: usize = 24;
        let bytes = [&self.written, next].concat();
        let mut rest = bytes.get(PREFACE_LEN..).unwrap_or_default();
        while let [l2, l1, l0, kind, ..] = *rest {
            if kind == 1 {
                return true;
            }
            let len = u32::from_be_bytes([0, l2, l1, l0]) as usize;
            rest = rest.get(9 + len..).unwrap_or_default();
        }
        false
    }
}

impl AsyncRead for BreaksAtRequest {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for BreaksAtRequest {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.has_request(buf) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, buf))?;
        self.written.extend(&buf[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// A response that is nothing but `NOT_FOUND`.
fn not_found() -> http::Response<()> {
    let head = http::Response::builder();
    let head = head.header("content-type", "application/grpc").header("grpc-status", "5");
    head.body(()).unwrap()
}

// spec: grpc/backoff-reset
#[tokio::test(start_paused = true)]
async fn a_server_that_closes_behind_its_settings_is_dialled_on_the_backoff_schedule() {
    let leaves = Outcome::Leaves(Duration::from_millis(5));
    let dialler = Dialler::new(&[("10.0.0.7:1", leaves)]);
    let channel = dialler.channel();
    let mut told = false;
    let calling = async {
        loop {
            let status = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
            assert_eq!(status.code(), Code::UNAVAILABLE);
            told |= status.message().contains("before any call was answered");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let hour = Duration::from_secs(3_600);
    assert!(tokio::time::timeout(hour, calling).await.is_err());
    assert!(told, "no call is told why");
    let times = dialler.times();
    let mut nominal = 1.0_f64;
    for (nth, pair) in times.windows(2).enumerate() {
        let wait = pair[1] - pair[0];
        let jitter = if nth == 0 { 0.0 } else { 0.2 };
        let (least, most) = (nominal * (1.0 - jitter), nominal * (1.0 + jitter));
        assert!((least - 0.02..most + 0.02).contains(&wait), "wait {nth}, {wait}, of {times:?}");
        nominal = (nominal * 1.6).min(120.0);
    }
    assert!((36..49).contains(&times.len()), "{}", times.len());
    end(channel).await;
}

// spec: grpc/backoff-reset
#[tokio::test(start_paused = true)]
async fn the_first_connection_that_is_lost_without_an_answer_fails_no_later_call() {
    let leaves = Outcome::Leaves(Duration::from_millis(5));
    let dialler = Dialler::new(&[("10.0.0.7:1", leaves)]);
    let channel = dialler.channel();
    channel.connect();
    until_state(&channel, ConnectivityState::Ready).await;
    until_state(&channel, ConnectivityState::Idle).await;
    // It waits for the next dial, and is lost with that connection.
    let status = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
    assert!(!status.message().contains("before any call was answered"), "{status}");
    let times = dialler.times();
    assert!(times.len() == 2 && (0.99..1.02).contains(&times[1]), "{times:?}");
    end(channel).await;
}

// spec: grpc/backoff-reset
#[tokio::test(start_paused = true)]
async fn a_connection_that_answers_or_lasts_is_made_anew_at_once() {
    let dialler = Dialler::new(&[("10.0.0.7:1", Outcome::LeavesAfterAnswer)]);
    let channel = dialler.channel();
    for nth in 0..20 {
        let status = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
        assert_eq!(status.code(), Code::NOT_FOUND, "{nth}: {status}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let times = dialler.times();
    assert!(times.len() == 20 && times[19] < 4.0, "{times:?}");
    end(channel).await;

    let lasting = Duration::from_secs(2);
    let dialler = Dialler::new(&[("10.0.0.7:1", Outcome::Leaves(lasting))]);
    let channel = dialler.channel();
    for _ in 0..20 {
        let status = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
        assert_eq!(status.code(), Code::UNAVAILABLE, "{status}");
    }
    let times = dialler.times();
    assert!(times.len() == 20 && times[19] < 39.0, "{times:?}");
    end(channel).await;
}

// A call that never left may be tried again without end (A6), but not without a pause.
#[tokio::test(start_paused = true)]
async fn a_call_whose_connections_break_before_it_leaves_is_tried_again_on_the_backoff_schedule() {
    let dialler = Dialler::new(&[("10.0.0.7:1", Outcome::BreaksAtRequest)]);
    let channel = dialler.channel();
    let status = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
    assert_eq!(status.code(), Code::UNAVAILABLE);
    assert!(status.message().contains("broken pipe"), "{status}");
    let times = dialler.times();
    assert!(times.len() == 2 && (0.99..1.02).contains(&times[1]), "{times:?}");
    end(channel).await;

    let dialler = Dialler::new(&[("10.0.0.7:1", Outcome::BreaksAtRequest)]);
    let channel = dialler.channel();
    let hour = Duration::from_secs(3_600);
    let waits = ask("Ada").wait_for_ready(true).timeout(hour);
    let status = channel.invoke(&SAY_HELLO, waits).await.unwrap_err();
    assert_eq!(status.code(), Code::DEADLINE_EXCEEDED, "{status}");
    assert!((36..49).contains(&dialler.times().len()), "{:?}", dialler.times());
    end(channel).await;
}

// spec: grpc/backoff-reset
#[tokio::test(start_paused = true)]
async fn a_server_that_parts_before_it_answers_is_dialled_with_its_answer_and_fails_no_call() {
    let late = Duration::from_millis(300);
    let dialler = Dialler::new(&[("10.0.0.7:1", Outcome::AnswersAfterGoodbye(late))]);
    let channel = dialler.channel();
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let channel = channel.clone();
        calls.spawn(async move { channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err() });
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    while let Some(status) = calls.join_next().await {
        let status = status.unwrap();
        assert_eq!(status.code(), Code::NOT_FOUND, "{status}");
    }
    let waits: Vec<_> = dialler.times().windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(waits.len() > 1 && waits.iter().all(|wait| (0.29..0.4).contains(wait)), "{waits:?}");
    end(channel).await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_does_not_shorten_the_backoff() {
    let dialler = Dialler::new(&[("10.0.0.7:1", Outcome::Refused)]);
    let channel = dialler.channel();
    channel.connect();
    until_state(&channel, ConnectivityState::TransientFailure).await;
    for actor in [ActorKind::AddrConn, ActorKind::Balancer, ActorKind::Supervisor] {
        channel.inject(Fault::crash(actor)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(dialler.dials().len(), 1);
    tokio::time::sleep(Duration::from_millis(1_900)).await;
    assert_eq!(dialler.dials().len(), 2);
    end(channel).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_speaks_is_given_up_after_twenty_seconds() {
    let dialler = Dialler::new(&[("10.0.0.7:1", Outcome::Silent)]);
    let channel = dialler.channel();
    let status = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
    assert_eq!(dialler.since.elapsed().as_secs(), 20);
    assert!(status.message().contains("waiting for the server's SETTINGS"), "{status}");
    end(channel).await;
}

#[tokio::test(start_paused = true)]
async fn an_address_that_hangs_holds_the_next_up_for_a_quarter_of_a_second() {
    let dialler = Dialler::new(&[("10.0.0.7:1", Outcome::Hangs), ("10.0.0.8:1", Outcome::Ready)]);
    let channel = dialler.channel();
    channel.connect();
    until_state(&channel, ConnectivityState::Ready).await;
    let expected = [(0, "10.0.0.7:1"), (250, "10.0.0.8:1")];
    let dials = dialler.dials();
    assert_eq!(dials.len(), 2);
    for ((at, address), (millis, expected)) in dials.iter().zip(expected) {
        assert_eq!(address, expected);
        assert!(at.as_millis().abs_diff(millis) <= 2, "{dials:?}");
    }
    end(channel).await;
}

#[tokio::test(start_paused = true)]
async fn a_deadline_is_kept_to_the_millisecond_with_and_without_a_connection() {
    for outcome in [Outcome::Hangs, Outcome::Ready] {
        let dialler = Dialler::new(&[("10.0.0.7:1", outcome)]);
        let channel = dialler.channel();
        let request = ask("Ada").timeout(Duration::from_millis(200));
        let status = channel.invoke(&SAY_HELLO, request).await.unwrap_err();
        assert_eq!(status.code(), Code::DEADLINE_EXCEEDED);
        let elapsed = dialler.since.elapsed();
        assert!((200..=202).contains(&elapsed.as_millis()), "{elapsed:?}");
        end(channel).await;
    }
}

/// Gives one endpoint, and counts how often it is asked.
struct Counting(Arc<AtomicU32>);

impl Resolve for Counting {
    fn resolve(&mut self) -> BoxFuture<'_, Result<Resolution, ResolveError>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        let address = SocketAddr::from(([10, 0, 0, 7], 1));
        Box::pin(async move { Ok(Resolution::new([Endpoint::from(address)])) })
    }
}

#[tokio::test(start_paused = true)]
async fn failures_ask_for_resolution_no_more_often_than_every_thirty_seconds() {
    let dialler = Dialler::new(&[("10.0.0.7:1", Outcome::Refused)]);
    let asked = Arc::new(AtomicU32::new(0));
    let count = asked.clone();
    let resolver = move |_: &Target| -> Result<Box<dyn Resolve>, TargetError> {
        Ok(Box::new(Counting(count.clone())))
    };
    let channel = plaintext("counted:///greeter")
        .resolver("counted", resolver)
        .connector(dialler.clone())
        .build()
        .unwrap();
    channel.connect();
    tokio::time::sleep(Duration::from_secs(29)).await;
    assert!(dialler.dials().len() > 4);
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    tokio::time::sleep(Duration::from_secs(269)).await;
    let asked = asked.load(Ordering::SeqCst);
    assert!((4..=10).contains(&asked), "{asked}");
    end(channel).await;
}

#[tokio::test(start_paused = true)]
async fn the_cause_of_a_failure_is_still_told_after_crashes_of_whoever_asks_for_a_connection() {
    let dialler = Dialler::new(&[("10.0.0.1:1", Outcome::Refused)]);
    let channel = dialler.channel();
    channel.connect();
    until_state(&channel, ConnectivityState::TransientFailure).await;
    for crashed in [ActorKind::Balancer, ActorKind::Balancer, ActorKind::AddrConn] {
        channel.inject(Fault::crash(crashed)).await.unwrap();
        // A new life asks an address for a connection that backs off, which changes nothing.
        let status = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
        assert!(status.message().contains("refused"), "after a crash of the {crashed}: {status}");
    }
    let dials = dialler.dials().len();
    assert_eq!(dials, 1, "it is still the first backoff");
    end(channel).await;
}

#[tokio::test(start_paused = true)]
async fn a_resolver_that_fails_is_asked_again_by_backoff() {
    let manual = ManualResolver::new();
    manual.fail(ResolveError::new("no registry"));
    let channel =
        plaintext("manual:///greeter").resolver("manual", manual.clone()).build().unwrap();
    channel.connect();
    until_state(&channel, ConnectivityState::TransientFailure).await;
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    assert_eq!(manual.lookups(), 1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(manual.lookups(), 2);
    end(channel).await;
}

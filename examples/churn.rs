//! Everything at once, for as long as you like: servers that say goodbye, vanish and refuse, names
//! and policies that change, actors that crash, slow readers; and calls that must come to their ends.
//!
//! `cargo run --release --example churn -- 60` goes on for sixty seconds. It fails if a call hangs, if
//! one is lost that no server has handled though its connection was not cut, or if anything is left
//! at the end.

#![expect(clippy::print_stdout, reason = "what an example shows, it prints")]

#[path = "../tests/support/greeter.rs"]
#[expect(dead_code, reason = "tests use more of it")]
mod greeter;

use std::collections::{BTreeMap, HashSet};
use std::error::Error;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use greeter::{HelloReply, HelloRequest, ask, hello};
use h2::Reason;
use prost::Message as _;
use switchboard::{
    ActorKind, Address, CallOptions, Channel, Credentials, Endpoint, Fault, ManualResolver, Method,
    Resolution, Status, kind,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio::time::Instant;

const UNARY: Method<HelloRequest, HelloReply> = Method::unary("/churn.Churn/Unary");
const DOWN: Method<HelloRequest, HelloReply, kind::ServerStreaming> =
    Method::server_streaming("/churn.Churn/Down");

const SERVERS: usize = 3;
const CALLERS: usize = 48;
const SLOW_READERS: usize = 4;
/// Messages of a stream that is read slowly, and their size.
const MESSAGES: usize = 20;
const MESSAGE_BYTES: usize = 8 << 10;
/// Far longer than anything here takes: what has not ended then, hangs.
const PATIENCE: Duration = Duration::from_secs(60);
/// Of the calls that have one.
const DEADLINE: Duration = Duration::from_secs(50);

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool, Box<dyn Error>> {
    let seconds = std::env::args().nth(1).map_or(Ok(3), |seconds| seconds.parse())?;
    // Two runtimes, so that what is left can be told apart.
    let (servers, clients) = (runtime()?, runtime()?);
    let seen = Arc::<Seen>::default();
    let addresses = servers.block_on(async {
        let mut addresses = Vec::new();
        for nth in 0..SERVERS {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            addresses.push(listener.local_addr()?);
            tokio::spawn(serve(listener, seen.clone(), Chance(nth as u64 + 1)));
        }
        Ok::<_, std::io::Error>(addresses)
    })?;
    let tally = Arc::<Tally>::default();
    clients.block_on(churn(&addresses, &seen, &tally, Duration::from_secs(seconds)))?;

    // Looked at from the other runtime.
    let left = |what: &dyn Fn() -> usize| {
        servers.block_on(async {
            for _ in 0..2_000 {
                if what() == 0 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            what()
        })
    };
    let tasks = left(&|| clients.metrics().num_alive_tasks());
    let connections = left(&|| seen.open.load(Ordering::SeqCst));
    let hung = tally.hung.load(Ordering::SeqCst);
    let lost = tally.lost.load(Ordering::SeqCst);
    println!(
        "{} calls and {} slow streams succeeded over {} connections, under {} crashes and {} changes",
        tally.succeeded.load(Ordering::SeqCst),
        tally.streams.load(Ordering::SeqCst),
        seen.accepted.load(Ordering::SeqCst),
        tally.crashes.load(Ordering::SeqCst),
        tally.changes.load(Ordering::SeqCst),
    );
    for (kind, count) in lock(&tally.failures).iter() {
        println!("{count} failed: {kind}");
    }
    println!(
        "{hung} calls hung, {lost} were lost that no server had handled; left over: {tasks} tasks, \
         {connections} connections"
    );
    Ok(hung + lost == 0 && tasks + connections == 0)
}

fn runtime() -> std::io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(2).enable_all().build()
}

/// What became of the calls.
#[derive(Default)]
struct Tally {
    succeeded: AtomicU64,
    streams: AtomicU64,
    hung: AtomicUsize,
    lost: AtomicUsize,
    crashes: AtomicU64,
    changes: AtomicU64,
    failures: Mutex<BTreeMap<String, u64>>,
}

impl Tally {
    /// A call has failed that a server `has_handled`, or not.
    fn fail(&self, status: &Status, has_handled: bool) {
        let text = status.message();
        let is_cut =
            text.contains("the server closed the connection") || text.contains("reset by peer");
        let kind = if has_handled {
            format!("{}, handled by a server", status.code())
        } else if text.contains("has not processed") || text.contains("REFUSED_STREAM") {
            // Sent again once, and disowned again (A6).
            "disowned by two servers in a row".to_owned()
        } else if is_cut {
            let text = text.split_once(": ").map_or(text, |(_, text)| text);
            format!("cut off, so that nobody can know whether it was handled: {text}")
        } else {
            self.lost.fetch_add(1, Ordering::SeqCst);
            format!("LOST: {status}")
        };
        *lock(&self.failures).entry(kind).or_default() += 1;
    }
}

async fn churn(
    addresses: &[SocketAddr],
    seen: &Arc<Seen>,
    tally: &Arc<Tally>,
    time: Duration,
) -> Result<(), Box<dyn Error>> {
    let manual = ManualResolver::new();
    manual.set_resolution(names(addresses, &mut Chance(1)));
    let channel = Channel::builder("manual:///churn")
        .resolver("manual", manual.clone())
        .credentials(Credentials::insecure())
        .no_proxy()
        .connections_per_address(3)
        .allow_injection()
        .build()?;
    let stop = Arc::new(AtomicBool::new(false));
    let ids = Arc::new(AtomicU64::new(0));
    let mut callers = JoinSet::new();
    for nth in 0..CALLERS {
        let (channel, stop, ids) = (channel.clone(), stop.clone(), ids.clone());
        let (seen, tally) = (seen.clone(), tally.clone());
        callers.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let id = ids.fetch_add(1, Ordering::Relaxed).to_string();
                call(&channel, id, nth % 2 == 0, &seen, &tally).await;
            }
        });
    }
    for _ in 0..SLOW_READERS {
        let (channel, stop, tally) = (channel.clone(), stop.clone(), tally.clone());
        callers.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                match tokio::time::timeout(PATIENCE, read_slowly(&channel)).await {
                    Ok(Ok(MESSAGES)) => drop(tally.streams.fetch_add(1, Ordering::SeqCst)),
                    // Streams are not repeated once they were answered.
                    Ok(_) => {}
                    Err(_) => drop(tally.hung.fetch_add(1, Ordering::SeqCst)),
                }
            }
        });
    }
    let mut chance = Chance(99);
    let until = Instant::now() + time;
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(chance.below(40))).await;
        if chance.below(2) == 0 {
            manual.set_resolution(names(addresses, &mut chance));
            tally.changes.fetch_add(1, Ordering::SeqCst);
        } else {
            let actor = ACTORS[chance.below(ACTORS.len() as u64) as usize];
            // There may be none of its kind just now.
            if channel.inject(Fault::crash(actor)).await.is_ok() {
                tally.crashes.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(caller) = callers.join_next().await {
        caller?;
    }
    channel.close().await;
    Ok(())
}

const ACTORS: [ActorKind; 5] = [
    ActorKind::ClientConn,
    ActorKind::Resolver,
    ActorKind::Balancer,
    ActorKind::AddrConn,
    ActorKind::Supervisor,
];

/// Some of the servers, in some order, under some policy.
fn names(addresses: &[SocketAddr], chance: &mut Chance) -> Resolution {
    let first = chance.below(addresses.len() as u64) as usize;
    let count = 1 + chance.below(addresses.len() as u64) as usize;
    let some = addresses.iter().cycle().skip(first).take(count);
    let endpoints: Vec<_> = some.map(|it| Endpoint::from(Address::from(*it))).collect();
    let policy = ["round_robin", "pick_first"][chance.below(2) as usize];
    let config = format!(r#"{{"loadBalancingConfig":[{{"{policy}":{{}}}}]}}"#);
    Resolution::new(endpoints).with_service_config(config)
}

async fn call(channel: &Channel, id: String, has_deadline: bool, seen: &Seen, tally: &Tally) {
    let mut request = ask(&id).wait_for_ready(true);
    if has_deadline {
        request = request.timeout(DEADLINE);
    }
    match tokio::time::timeout(PATIENCE, channel.invoke(&UNARY, request)).await {
        Ok(Ok(_)) => drop(tally.succeeded.fetch_add(1, Ordering::SeqCst)),
        Ok(Err(status)) => tally.fail(&status, lock(&seen.handled).contains(&id)),
        Err(_) => {
            tally.hung.fetch_add(1, Ordering::SeqCst);
        }
    }
    lock(&seen.handled).remove(&id);
}

/// Reads a stream with a pause after each message; gives how many came.
async fn read_slowly(channel: &Channel) -> Result<usize, Status> {
    let options = CallOptions::new().wait_for_ready(true);
    let mut stream = channel.new_stream(&DOWN, options).await?;
    stream.send(hello("slow")).await?;
    stream.close_send();
    let mut messages = 0;
    while stream.recv().await?.is_some() {
        messages += 1;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(messages)
}

/// What servers have seen.
#[derive(Default)]
struct Seen {
    accepted: AtomicUsize,
    open: AtomicUsize,
    /// Calls that were handled, until their callers have looked.
    handled: Mutex<HashSet<String>>,
}

async fn serve(listener: TcpListener, seen: Arc<Seen>, mut chance: Chance) {
    while let Ok((stream, _)) = listener.accept().await {
        seen.accepted.fetch_add(1, Ordering::SeqCst);
        seen.open.fetch_add(1, Ordering::SeqCst);
        let (seen, chance) = (seen.clone(), Chance(chance.next()));
        tokio::spawn(async move {
            // However a connection ends, the next one is served.
            let _ = serve_connection(stream, &seen, chance).await;
            seen.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

/// Serves until the connection has been said goodbye to, or is cut.
async fn serve_connection(
    stream: TcpStream,
    seen: &Arc<Seen>,
    mut chance: Chance,
) -> Result<(), h2::Error> {
    let mut connection = h2::server::handshake(stream).await?;
    let (calls_max, is_rude) = (50 + chance.below(400), chance.below(8) == 0);
    let mut calls = 0;
    while let Some(call) = connection.accept().await {
        let (request, mut respond) = call?;
        calls += 1;
        if calls == calls_max {
            if is_rude {
                return Ok(());
            }
            connection.graceful_shutdown();
        }
        match chance.below(200) {
            // No server has handled it: it is to be sent again.
            0 => respond.send_reset(Reason::REFUSED_STREAM),
            fate => drop(tokio::spawn(answer(request, respond, seen.clone(), fate == 1))),
        }
    }
    Ok(())
}

/// Answers, or resets what it has handled. Whoever called may be gone at any of these steps.
async fn answer(
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    seen: Arc<Seen>,
    is_reset: bool,
) {
    let is_stream = request.uri().path() == DOWN.path();
    let mut body = request.into_body();
    let mut message = Vec::new();
    while let Some(data) = body.data().await {
        let Ok(data) = data else { return };
        message.extend_from_slice(&data);
        let _ = body.flow_control().release_capacity(data.len());
    }
    let Some(Ok(request)) = message.get(5..).map(HelloRequest::decode) else { return };
    if !is_stream {
        lock(&seen.handled).insert(request.name);
    }
    if is_reset {
        return respond.send_reset(Reason::INTERNAL_ERROR);
    }
    let mut response = http::Response::new(());
    let grpc = http::HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(http::header::CONTENT_TYPE, grpc);
    let Ok(mut body) = respond.send_response(response, false) else { return };
    let (count, bytes) = if is_stream { (MESSAGES, MESSAGE_BYTES) } else { (1, 5) };
    let reply = HelloReply { message: "x".repeat(bytes) }.encode_to_vec();
    let mut message = vec![0];
    message.extend((reply.len() as u32).to_be_bytes());
    message.extend(reply);
    for _ in 0..count {
        if body.send_data(Bytes::from(message.clone()), false).is_err() {
            return;
        }
    }
    let ok = http::HeaderValue::from_static("0");
    let status = http::HeaderName::from_static("grpc-status");
    let _ = body.send_trailers(http::HeaderMap::from_iter([(status, ok)]));
}

/// Repeatable chance.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

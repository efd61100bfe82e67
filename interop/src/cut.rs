//! `cut_peer`: the way to a server is cut in the middle of everything: what is sent is dropped, and
//! nobody says so, as behind a NAT, a load balancer or a cable that is pulled. The server is in a
//! network namespace of its own, where this process changes the routes.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use switchboard::{
    Address, BackoffConfig, CallOptions, Channel, ChannelBuilder, Channelz, Code,
    ConnectivityState, Credentials, KeepaliveConfig, Request, Status, Streaming,
};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::cases::{expect_response, open, send};
use crate::flags::Flags;
use crate::proto::{
    FULL_DUPLEX_CALL, ResponseParameters, SimpleRequest, StreamingOutputCallRequest,
    StreamingOutputCallResponse, UNARY_CALL,
};

/// Runs all cases side by side, each against addresses of its own: most of their time is waiting.
pub(crate) async fn run(flags: &Flags) -> Result<()> {
    let far =
        Far { pid: flags.cut.pid.context("--cut_pid is missing: say whose namespace it is")? };
    let servers = flags.servers()?;
    let [silent, sent, flow, idle_flow, recovering, spread @ .., first, second] = &servers[..]
    else {
        bail!("expected 9 servers, got {}", servers.len());
    };
    let spread = spread.try_into().context("expected 9 servers")?;
    let mut cases = JoinSet::new();
    cases.spawn(named("keepalive", a_call_in_flight(far, *silent)));
    cases.spawn(named("user timeout", data_that_nobody_acknowledges(far, *sent)));
    cases.spawn(named("forgotten flow", a_forgotten_flow(far, *flow)));
    cases.spawn(named(
        "forgotten flow, asked while idle",
        a_forgotten_flow_that_is_asked(far, *idle_flow),
    ));
    cases.spawn(named("recovery", a_way_that_comes_back(far, *recovering)));
    cases.spawn(named("round_robin", a_second_server(far, "round_robin", spread)));
    cases.spawn(named("pick_first", a_second_server(far, "pick_first", [*first, *second])));
    let mut failed = 0;
    while let Some(case) = cases.join_next().await {
        let (name, outcome) = case.context("a case panicked")?;
        match outcome {
            Ok(seen) => println!("ok   cut, {name}: {seen}"),
            Err(error) => {
                println!("FAIL cut, {name}: {error:#}");
                failed += 1;
            }
        }
    }
    ensure!(failed == 0, "{failed} of the cases failed");
    Ok(())
}

/// What a case has seen, in words.
async fn named(
    name: &'static str,
    case: impl Future<Output = Result<String>>,
) -> (&'static str, Result<String>) {
    (name, case.await)
}

/// A call waits for its answer, and nothing is sent: only a PING can find out.
async fn a_call_in_flight(far: Far, server: SocketAddr) -> Result<String> {
    let channel = builder(&[server]).keepalive(KEEPALIVE).build()?;
    let mut stream = answered(&channel).await?;
    let answered_at = Instant::now();
    far.cut(server)?;
    let status = failure(&mut stream).await?;
    let after = answered_at.elapsed();
    expect(&status, server, "keepalive: ")?;
    expect_time(after, KEEPALIVE.time + KEEPALIVE.timeout)?;
    channel.close().await;
    Ok(format!("a call in flight ended {after:.1?} after the last byte with {status}"))
}

/// Data is sent into the dark: the kernel finds out, long before a PING is due.
async fn data_that_nobody_acknowledges(far: Far, server: SocketAddr) -> Result<String> {
    let keepalive = KeepaliveConfig { time: Duration::from_secs(3600), ..KEEPALIVE };
    let channel = builder(&[server]).keepalive(keepalive).build()?;
    let mut stream = answered(&channel).await?;
    far.cut(server)?;
    let cut_at = Instant::now();
    send(&mut stream, ask()).await?;
    let status = failure(&mut stream).await?;
    let after = cut_at.elapsed();
    expect(&status, server, "TCP_USER_TIMEOUT")?;
    expect_time(after, keepalive.timeout)?;
    channel.close().await;
    Ok(format!("a call that sent a message ended {after:.1?} later with {status}"))
}

/// A NAT forgets the one flow of an idle connection. New ones pass.
async fn a_forgotten_flow(far: Far, server: SocketAddr) -> Result<String> {
    let channelz = Channelz::new();
    let channel = builder(&[server]).keepalive(KEEPALIVE).channelz(&channelz).build()?;
    channel.invoke(&UNARY_CALL, ready()).await?;
    far.forget(local_port(&channelz, &channel)?)?;

    let called_at = Instant::now();
    let Err(status) = channel.invoke(&UNARY_CALL, Request::new(request())).await else {
        bail!("expected a call to be lost with the flow, and it was answered");
    };
    let after = called_at.elapsed();
    expect(&status, server, "TCP_USER_TIMEOUT")?;
    expect_time(after, KEEPALIVE.timeout)?;
    let next_at = Instant::now();
    channel.invoke(&UNARY_CALL, Request::new(request()).timeout(SLACK)).await?;
    let next = next_at.elapsed();
    channel.close().await;
    Ok(format!("the first call ended after {after:.1?} with {status}; the next took {next:.1?}"))
}

/// The same, and PINGs go out without calls: when one comes, the loss is known and mended.
async fn a_forgotten_flow_that_is_asked(far: Far, server: SocketAddr) -> Result<String> {
    let channelz = Channelz::new();
    let keepalive = KeepaliveConfig { permit_without_stream: true, ..KEEPALIVE };
    let channel = builder(&[server]).keepalive(keepalive).channelz(&channelz).build()?;
    channel.invoke(&UNARY_CALL, ready()).await?;
    let answered_at = Instant::now();
    far.forget(local_port(&channelz, &channel)?)?;

    let bound = keepalive.time + keepalive.timeout + SLACK;
    timeout(bound, channel.wait_for_state_change(ConnectivityState::Ready))
        .await
        .with_context(|| format!("the channel is READY after {bound:?}"))?;
    let after = answered_at.elapsed();
    expect_time(after, keepalive.time + keepalive.timeout)?;
    channel.invoke(&UNARY_CALL, Request::new(request()).timeout(SLACK)).await?;
    channel.close().await;
    Ok(format!("the loss was known {after:.1?} after the last byte; no call failed"))
}

/// The way is cut and comes back.
async fn a_way_that_comes_back(far: Far, server: SocketAddr) -> Result<String> {
    let channel = builder(&[server]).keepalive(KEEPALIVE).build()?;
    channel.invoke(&UNARY_CALL, ready()).await?;
    far.cut(server)?;
    let Err(lost) = channel.invoke(&UNARY_CALL, Request::new(request())).await else {
        bail!("expected a call to be lost with the way, and it was answered");
    };
    expect(&lost, server, "TCP_USER_TIMEOUT")?;
    let Err(refused) = channel.invoke(&UNARY_CALL, Request::new(request())).await else {
        bail!("expected a call to fail while the way is cut, and it was answered");
    };
    expect(&refused, server, "the connect deadline passed while connecting")?;

    let patient = {
        let channel = channel.clone();
        tokio::spawn(async move { channel.invoke(&UNARY_CALL, ready()).await })
    };
    sleep(OUTAGE).await;
    ensure!(!patient.is_finished(), "a call that waits has ended while the way was cut");
    far.heal(server)?;
    let healed_at = Instant::now();
    patient.await?.context("expected a call that waits to get through")?;
    let after = healed_at.elapsed();
    // A dial that is under way may be in vain, and what is left of the delay after it.
    let bound = CONNECT_TIMEOUT + BACKOFF.max_delay.mul_f64(1.0 + BACKOFF.jitter) + SLACK;
    ensure!(after <= bound, "a call that waits got through only {after:.1?} after recovery");
    channel.invoke(&UNARY_CALL, Request::new(request()).timeout(SLACK)).await?;
    channel.close().await;
    Ok(format!(
        "while cut, calls ended with {refused}; one that waits got through {after:.1?} after recovery"
    ))
}

/// The way to one of two servers is cut: only calls that were on it are lost.
async fn a_second_server(far: Far, policy: &str, servers: [SocketAddr; 2]) -> Result<String> {
    let [cut, kept] = servers;
    let config = format!(r#"{{"loadBalancingConfig":[{{"{policy}":{{}}}}]}}"#);
    let channel = builder(&servers).keepalive(KEEPALIVE).default_service_config(config).build()?;
    until_answered_by(&channel, cut).await?;
    if policy == "round_robin" {
        until_answered_by(&channel, kept).await?;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        callers.spawn(call_until(stop.clone(), channel.clone()));
    }
    sleep(WARM_UP).await;
    far.cut(cut)?;
    let cut_at = Instant::now();
    sleep(KEEPALIVE.timeout + SLACK + MARGIN).await;
    stop.store(true, Ordering::Relaxed);
    let mut calls = Vec::new();
    while let Some(caller) = callers.join_next().await {
        calls.extend(caller.context("a caller panicked")?);
    }

    let mut failed = 0;
    let mut last = Duration::ZERO;
    for (ended_at, outcome) in &calls {
        let Err(status) = outcome else { continue };
        expect(status, cut, "keepalive: ")?;
        let after = ended_at.duration_since(cut_at);
        ensure!(after <= KEEPALIVE.timeout + SLACK, "a call failed only {after:.1?} after the cut");
        failed += 1;
        last = last.max(after);
    }
    ensure!(failed > 0, "expected calls under way to the server that was cut off");
    ensure!(failed <= CALLERS, "{failed} calls failed, and {CALLERS} at most were under way");
    let later: Vec<_> = calls.iter().filter(|(at, _)| *at > cut_at + last).collect();
    ensure!(later.len() > CALLERS, "only {} calls ended after the loss", later.len());
    let response = channel.invoke(&UNARY_CALL, Request::new(request()).timeout(SLACK)).await?;
    ensure!(*response.peer() == Address::from(kept), "answered by {}", response.peer());
    channel.close().await;
    Ok(format!(
        "of {} calls {failed} were lost, all under way on the cut connection, the last {last:.1?} \
         after the cut; {} succeeded after that",
        calls.len(),
        later.len()
    ))
}

/// Calls until it is told to stop; says of each call when it ended, and how. Calls wait for a
/// connection, as whoever has two servers would.
async fn call_until(stop: Arc<AtomicBool>, channel: Channel) -> Vec<(Instant, Result<(), Status>)> {
    let mut outcomes = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let outcome = channel.invoke(&UNARY_CALL, ready()).await.map(drop);
        outcomes.push((Instant::now(), outcome));
        sleep(PAUSE).await;
    }
    outcomes
}

async fn until_answered_by(channel: &Channel, server: SocketAddr) -> Result<()> {
    let answered = async {
        while *channel.invoke(&UNARY_CALL, ready()).await?.peer() != Address::from(server) {}
        anyhow::Ok(())
    };
    timeout(START, answered).await.with_context(|| format!("{server} answers no call"))?
}

/// A stream whose first request was answered.
async fn answered(
    channel: &Channel,
) -> Result<Streaming<StreamingOutputCallRequest, StreamingOutputCallResponse>> {
    let mut stream =
        open(channel, &FULL_DUPLEX_CALL, CallOptions::new().wait_for_ready(true)).await?;
    send(&mut stream, ask()).await?;
    expect_response(&mut stream, 1).await?;
    Ok(stream)
}

async fn failure(
    stream: &mut Streaming<StreamingOutputCallRequest, StreamingOutputCallResponse>,
) -> Result<Status> {
    match stream.recv().await {
        Err(status) => Ok(status),
        Ok(_) => bail!("expected a call to be lost, and something arrived"),
    }
}

/// UNAVAILABLE, with whom it was about and the cause in its text.
fn expect(status: &Status, server: SocketAddr, cause: &str) -> Result<()> {
    let text = status.message();
    let is_told = status.code() == Code::UNAVAILABLE
        && text.contains(&server.to_string())
        && text.contains(cause);
    ensure!(is_told, "expected UNAVAILABLE with `{server}` and `{cause}`, got {status}");
    Ok(())
}

/// Not before it is due, and not much later.
fn expect_time(after: Duration, due: Duration) -> Result<()> {
    ensure!(
        after + ROUNDING >= due,
        "expected the end after {due:?}, and it came after {after:.2?}"
    );
    ensure!(after <= due + SLACK, "expected the end after {due:?}, and it took {after:.2?}");
    Ok(())
}

fn builder(servers: &[SocketAddr]) -> ChannelBuilder {
    let servers: Vec<_> = servers.iter().map(ToString::to_string).collect();
    Channel::builder(format!("ipv4:{}", servers.join(",")))
        .credentials(Credentials::insecure())
        .min_connect_timeout(CONNECT_TIMEOUT)
        .backoff(BACKOFF)
}

fn request() -> SimpleRequest {
    SimpleRequest { response_size: 1, ..Default::default() }
}

/// A call that waits until there is a connection.
fn ready() -> Request<SimpleRequest> {
    Request::new(request()).wait_for_ready(true).timeout(START)
}

fn ask() -> StreamingOutputCallRequest {
    let parameters = ResponseParameters { size: 1, interval_us: 0, compressed: None };
    StreamingOutputCallRequest { response_parameters: vec![parameters], ..Default::default() }
}

/// The port that the channel's only connection has on this side.
fn local_port(channelz: &Channelz, channel: &Channel) -> Result<u16> {
    let port = || {
        let top = channelz.channel(channel.channelz_id()?)?;
        let subchannel = channelz.subchannel(top.subchannels.first()?.id)?;
        let socket = channelz.socket(subchannel.sockets.first()?.id)?;
        match socket.connection.local_address {
            Some(Address::Socket(local)) => Some(local.port()),
            _ => None,
        }
    };
    port().context("the channel has no connection over TCP")
}

/// The network namespace of the servers. What its rules swallow is answered by nothing: it forwards
/// for nobody, so that no ICMP tells of it.
#[derive(Clone, Copy)]
struct Far {
    /// A process that lives there.
    pid: u32,
}

impl Far {
    /// From now on nothing gets to `server` or away from it.
    fn cut(self, server: SocketAddr) -> Result<()> {
        let host = server.ip().to_string();
        self.rule(&["add", "priority", &priority(server), "to", &host, "blackhole"])?;
        self.rule(&["add", "priority", &priority(server), "from", &host, "blackhole"])
    }

    /// From now on everything does.
    fn heal(self, server: SocketAddr) -> Result<()> {
        for _ in ["to", "from"] {
            self.rule(&["delete", "priority", &priority(server)])?;
        }
        Ok(())
    }

    /// From now on nothing arrives from this port of the client, as where a NAT has forgotten a flow.
    fn forget(self, port: u16) -> Result<()> {
        self.rule(&[
            "add",
            "priority",
            "1",
            "ipproto",
            "tcp",
            "sport",
            &port.to_string(),
            "blackhole",
        ])
    }

    fn rule(self, words: &[&str]) -> Result<()> {
        let pid = self.pid.to_string();
        let mut command = Command::new("nsenter");
        command.args(["--target", &pid, "--net", "ip", "rule"]).args(words);
        let status = command.status().with_context(|| format!("{command:?}"))?;
        ensure!(status.success(), "{command:?}: {status}");
        Ok(())
    }
}

/// The place of a server's rules among all others: before that of the local addresses, which
/// `interop/run` moves to make room.
fn priority(server: SocketAddr) -> String {
    let last = server.ip().to_string().rsplit('.').next().map(str::to_owned);
    last.unwrap_or_default()
}

/// The least time that a channel takes.
const KEEPALIVE: KeepaliveConfig = KeepaliveConfig {
    time: Duration::from_secs(10),
    timeout: Duration::from_secs(2),
    permit_without_stream: false,
};
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const BACKOFF: BackoffConfig = BackoffConfig {
    base_delay: Duration::from_millis(200),
    multiplier: 1.6,
    jitter: 0.2,
    max_delay: Duration::from_secs(1),
};

/// What a busy machine may add, and the kernel, which doubles its waits.
const SLACK: Duration = Duration::from_secs(3);
/// What clocks may differ by.
const ROUNDING: Duration = Duration::from_millis(100);
/// How long a server may take to answer first.
const START: Duration = Duration::from_secs(20);
const OUTAGE: Duration = Duration::from_secs(3);
const WARM_UP: Duration = Duration::from_millis(500);
const MARGIN: Duration = Duration::from_secs(1);

const CALLERS: usize = 16;
const PAUSE: Duration = Duration::from_millis(5);

//! A network in memory and in virtual time: links with delay and jitter, which can be cut, lost and
//! healed.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use switchboard::{Address, BoxFuture, Connect, Io};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, Sleep};

use crate::chance::Chance;
use crate::trace::Trace;

/// A handle: clones are one network.
#[derive(Clone)]
pub(crate) struct Network(Arc<Inner>);

struct Inner {
    trace: Trace,
    seed: u64,
    state: Mutex<State>,
    /// A host that was cut off can be reached again.
    healed: Notify,
}

#[derive(Default)]
struct State {
    hosts: BTreeMap<String, Host>,
    links: Vec<Arc<Mutex<Link>>>,
    dials: u64,
}

/// How a host can be reached.
#[derive(Default)]
struct Host {
    /// Who takes connections, if anybody does.
    accepting: Option<mpsc::UnboundedSender<Pipe>>,
    reach: Reach,
    /// Since when something that is sent to it, or by it, vanishes.
    cut_since: Option<Instant>,
    pace: Pace,
}

/// What becomes of what is sent to a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Reach {
    /// It arrives.
    #[default]
    Open,
    /// New connections are refused; those there are go on.
    Refusing,
    /// It vanishes, and so does what the host sends.
    Cut,
    /// It vanishes, and what the host sends arrives.
    Deaf,
    /// It arrives, and what the host sends vanishes.
    Mute,
}

impl Reach {
    /// To which sides nothing comes through.
    fn cuts(self) -> [bool; 2] {
        [matches!(self, Self::Cut | Self::Mute), matches!(self, Self::Cut | Self::Deaf)]
    }

    /// Whether a connection cannot come to be: both sides have to hear each other for that.
    fn is_cut(self) -> bool {
        self.cuts().contains(&true)
    }
}

/// How long the way to a host takes, in milliseconds.
#[derive(Clone, Copy, Default)]
pub(crate) struct Pace {
    pub(crate) delay: u64,
    /// Up to so much more.
    pub(crate) jitter: u64,
}

impl Network {
    pub(crate) fn new(seed: u64, trace: Trace) -> Self {
        let (state, healed) = (Mutex::default(), Notify::new());
        Self(Arc::new(Inner { trace, seed, state, healed }))
    }

    /// From now on connections to `host` arrive here.
    pub(crate) fn listen(&self, host: &str) -> mpsc::UnboundedReceiver<Pipe> {
        let (accepting, accepted) = mpsc::unbounded_channel();
        self.state().hosts.entry(host.to_owned()).or_default().accepting = Some(accepting);
        accepted
    }

    /// Nobody is at `host` any more: its connections are reset, and new ones refused.
    pub(crate) fn vacate(&self, host: &str) {
        self.state().hosts.entry(host.to_owned()).or_default().accepting = None;
        self.lose(host);
    }

    pub(crate) fn set_pace(&self, host: &str, pace: Pace) {
        self.state().hosts.entry(host.to_owned()).or_default().pace = pace;
    }

    /// Changes what becomes of what is sent. Connections that lost something while their host was
    /// cut off are reset when it no longer is.
    pub(crate) fn set_reach(&self, host: &str, reach: Reach) {
        {
            let mut state = self.state();
            let host = state.hosts.entry(host.to_owned()).or_default();
            host.reach = reach;
            let since = host.cut_since.unwrap_or_else(Instant::now);
            host.cut_since = reach.is_cut().then_some(since);
        }
        for link in self.links_to(host) {
            link.lock().unwrap().set_cut(reach.cuts());
        }
        self.0.healed.notify_waiters();
    }

    /// Resets all connections to `host` that are not cut off.
    pub(crate) fn lose(&self, host: &str) {
        for link in self.links_to(host) {
            link.lock().unwrap().reset();
        }
    }

    /// The hosts that do not hear or are not heard, and since when.
    pub(crate) fn cut(&self) -> Vec<(String, Instant)> {
        let state = self.state();
        let hosts = state.hosts.iter();
        hosts.filter_map(|(name, host)| Some((name.clone(), host.cut_since?))).collect()
    }

    /// How many connections to `host` the client holds open.
    pub(crate) fn open_to(&self, host: &str) -> usize {
        let links = self.links_to(host);
        links.iter().filter(|link| link.lock().unwrap().is_open[Side::Client as usize]).count()
    }

    /// How many connections the client holds open.
    pub(crate) fn open(&self) -> usize {
        let hosts: Vec<_> = self.state().hosts.keys().cloned().collect();
        hosts.iter().map(|host| self.open_to(host)).sum()
    }

    /// The links to `host`; those that nobody holds any more are forgotten.
    fn links_to(&self, host: &str) -> Vec<Arc<Mutex<Link>>> {
        let mut state = self.state();
        state.links.retain(|link| link.lock().unwrap().is_open.contains(&true));
        let links = state.links.iter();
        links.filter(|link| link.lock().unwrap().host == host).cloned().collect()
    }

    async fn dial(&self, host: String) -> io::Result<Io> {
        let (number, mut chance) = {
            let mut state = self.state();
            state.dials += 1;
            (state.dials, Chance::of(&[self.0.seed, state.dials]))
        };
        self.0.trace.tell(format_args!("dial {number} to {host}"));
        loop {
            let healed = self.0.healed.notified();
            tokio::pin!(healed);
            healed.as_mut().enable();
            let (reach, pace) =
                self.state().hosts.get(&host).map(|it| (it.reach, it.pace)).unwrap_or_default();
            if reach.is_cut() {
                healed.await;
                continue;
            }
            tokio::time::sleep(pace.draw(&mut chance)).await;
            if self.state().hosts.get(&host).is_some_and(|it| it.reach.is_cut()) {
                continue;
            }
            return self.arrive(&host, number);
        }
    }

    fn arrive(&self, host: &str, number: u64) -> io::Result<Io> {
        let mut state = self.state();
        let listed = state.hosts.get(host).filter(|it| it.reach == Reach::Open);
        let accepting = listed.and_then(|it| Some((it.accepting.clone()?, it.pace)));
        let accepted = accepting.and_then(|(accepting, pace)| {
            let link = Arc::new(Mutex::new(Link::new(host, number, pace, self.0.seed)));
            let [client, server] = [Side::Client, Side::Server].map(|side| Pipe {
                link: link.clone(),
                side,
                trace: self.0.trace.clone(),
                arrival: None,
            });
            accepting.send(server).ok()?;
            state.links.push(link);
            Some(client)
        });
        self.0.trace.tell(format_args!(
            "dial {number} to {host} {}",
            if accepted.is_some() { "connects" } else { "is refused" }
        ));
        let refused = || io::Error::new(io::ErrorKind::ConnectionRefused, "connection refused");
        accepted.map(Io::new).ok_or_else(refused)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }
}

impl Connect for Network {
    fn connect<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, io::Result<Io>> {
        Box::pin(self.dial(address.to_string()))
    }
}

impl Pace {
    fn draw(self, chance: &mut Chance) -> Duration {
        Duration::from_millis(self.delay + chance.below(self.jitter + 1))
    }
}

/// A connection, seen from neither end.
struct Link {
    host: String,
    number: u64,
    pace: Pace,
    chance: Chance,
    /// What is on its way to each side.
    wires: [Wire; 2],
    is_open: [bool; 2],
    /// Whether what is sent to each side vanishes.
    is_cut: [bool; 2],
    /// Whether something has, which that side will never know.
    has_lost: [bool; 2],
}

#[derive(Default)]
struct Wire {
    queue: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    /// When what was sent last arrives: nothing overtakes it.
    last: Option<Instant>,
    end: Option<(Instant, End)>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Eof,
    Reset,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

impl Link {
    fn new(host: &str, number: u64, pace: Pace, seed: u64) -> Self {
        Self {
            host: host.to_owned(),
            number,
            pace,
            chance: Chance::of(&[seed, number, 1]),
            wires: Default::default(),
            is_open: [true; 2],
            is_cut: [false; 2],
            has_lost: [false; 2],
        }
    }

    fn set_cut(&mut self, is_cut: [bool; 2]) {
        let now = Instant::now();
        let mut is_broken = false;
        for side in [Side::Client as usize, Side::Server as usize] {
            let before = std::mem::replace(&mut self.is_cut[side], is_cut[side]);
            if is_cut[side] && !before {
                let wire = &mut self.wires[side];
                let queued = wire.queue.len();
                wire.queue.retain(|(at, _)| *at <= now);
                wire.bytes = wire.queue.iter().map(|(_, bytes)| bytes.len()).sum();
                self.has_lost[side] |= wire.queue.len() < queued;
                if wire.end.is_some_and(|(at, _)| at > now) {
                    wire.end = None;
                    self.has_lost[side] = true;
                }
            }
            is_broken |= before && !is_cut[side] && self.has_lost[side];
        }
        if is_broken {
            self.reset();
        }
    }

    /// Both sides are told that the connection is gone, where they hear anything.
    fn reset(&mut self) {
        for (side, wire) in self.wires.iter_mut().enumerate() {
            if self.is_cut[side] {
                self.has_lost[side] = true;
                continue;
            }
            wire.queue.clear();
            wire.bytes = 0;
            wire.finish(Instant::now(), End::Reset);
        }
    }

    fn send(&mut self, to: Side, bytes: &[u8]) {
        if self.is_cut[to as usize] {
            self.has_lost[to as usize] = true;
            return;
        }
        let at = self.arrival(to);
        let wire = &mut self.wires[to as usize];
        wire.queue.push_back((at, bytes.to_vec()));
        wire.bytes += bytes.len();
        wake(&mut wire.reader);
    }

    /// The sender will say no more.
    fn finish(&mut self, to: Side) {
        if self.is_cut[to as usize] {
            self.has_lost[to as usize] = true;
            return;
        }
        let at = self.arrival(to);
        let wire = &mut self.wires[to as usize];
        if wire.end.is_none() {
            wire.finish(at, End::Eof);
        }
    }

    fn arrival(&mut self, to: Side) -> Instant {
        let at = Instant::now() + self.pace.draw(&mut self.chance);
        let wire = &mut self.wires[to as usize];
        let at = wire.last.map_or(at, |last| at.max(last));
        wire.last = Some(at);
        at
    }
}

impl Wire {
    fn finish(&mut self, at: Instant, end: End) {
        self.end = Some((at, end));
        wake(&mut self.reader);
        wake(&mut self.writer);
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

/// One end of a connection.
pub(crate) struct Pipe {
    link: Arc<Mutex<Link>>,
    side: Side,
    trace: Trace,
    /// Fires when the next bytes arrive.
    arrival: Option<Pin<Box<Sleep>>>,
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            let mut link = this.link.lock().unwrap();
            let wire = &mut link.wires[this.side as usize];
            let now = Instant::now();
            let next = match (wire.queue.front_mut(), wire.end) {
                (Some((at, bytes)), _) if *at <= now => {
                    let taken = bytes.len().min(buf.remaining());
                    buf.put_slice(&bytes[..taken]);
                    bytes.drain(..taken);
                    if bytes.is_empty() {
                        wire.queue.pop_front();
                    }
                    wire.bytes -= taken;
                    wake(&mut wire.writer);
                    return Poll::Ready(Ok(()));
                }
                (Some((at, _)), _) => *at,
                (None, Some((at, end))) if at <= now => {
                    return Poll::Ready(match end {
                        End::Eof => Ok(()),
                        End::Reset => Err(reset()),
                    });
                }
                (None, Some((at, _))) => at,
                (None, None) => {
                    wire.reader = Some(cx.waker().clone());
                    return Poll::Pending;
                }
            };
            wire.reader = Some(cx.waker().clone());
            drop(link);
            let arrival =
                this.arrival.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(next)));
            if arrival.deadline() != next {
                arrival.as_mut().reset(next);
            }
            if arrival.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            this.arrival = None;
        }
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut link = self.link.lock().unwrap();
        let to = self.side.other();
        let own = &link.wires[self.side as usize];
        if own.end.is_some_and(|(_, end)| end == End::Reset) {
            return Poll::Ready(Err(reset()));
        }
        if !link.is_open[to as usize] && link.is_cut == [false; 2] {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let wire = &mut link.wires[to as usize];
        if wire.bytes >= WIRE_BYTES {
            wire.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let taken = bytes.len().min(WIRE_BYTES);
        link.send(to, &bytes[..taken]);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.link.lock().unwrap().finish(self.side.other());
        Poll::Ready(Ok(()))
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let mut link = self.link.lock().unwrap();
        link.is_open[self.side as usize] = false;
        link.finish(self.side.other());
        wake(&mut link.wires[self.side.other() as usize].writer);
        if self.side == Side::Client {
            let (number, host) = (link.number, link.host.clone());
            drop(link);
            self.trace.tell(format_args!("connection {number} to {host} is dropped"));
        }
    }
}

fn reset() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "connection reset by peer")
}

/// What one direction of a connection holds before a writer waits: about a socket buffer.
const WIRE_BYTES: usize = 64 * 1024;

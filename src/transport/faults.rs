//! Faults that a test has a channel's network suffer; only in builds with `test-util`.

use std::collections::VecDeque;
use std::fmt;
use std::future::pending;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::connect::{BoxFuture, Io};
use super::http2::Frames;
use super::resolve::{Resolution, ResolveError};
use crate::observe::FaultReport;
use crate::types::{Address, Dice, Endpoint, Status, later};

/// What befalls a channel until it is removed, or for so many times.
#[derive(Clone, Debug)]
pub(crate) enum Trouble {
    /// Look-ups find these.
    Resolve(Vec<Endpoint>),
    FailResolution(String),
    HangResolution,
    /// Calls end so.
    FailCalls(Status),
    RefuseDials,
    DelayDials(Duration),
    HangDials,
    FailHandshakes,
    RefuseStreams,
    /// Nothing arrives any more; it comes once this is removed.
    StallReads,
    /// What arrives comes so much later.
    Latency(Duration),
    /// A piece of what arrives is lost at this rate, and comes again after a while.
    Loss(f64),
    /// Connections end.
    Cut,
    /// Servers say that they go away, with this error code of HTTP/2.
    Goaway(u32),
}

/// Whom it befalls.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scope {
    pub(crate) address: Option<String>,
    pub(crate) method: Option<String>,
    /// How often; for ever, where there is none.
    pub(crate) times: Option<u32>,
    /// At which rate, and the seed of the dice.
    pub(crate) chance: Option<(f64, u64)>,
}

/// All that befalls a channel at the moment.
#[derive(Debug)]
pub(crate) struct Faults {
    active: Mutex<Active>,
    /// Tells those who wait in the order in which they came, so that a run can be the same again.
    changed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Active {
    faults: Vec<Fault>,
    /// The numbers of those that have happened often enough and may still hold something back.
    spent: Vec<u64>,
    injected: u64,
}

#[derive(Debug)]
struct Fault {
    id: u64,
    trouble: Trouble,
    scope: Scope,
    dice: Dice,
}

impl Faults {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { active: Mutex::default(), changed: Arc::default() })
    }

    /// Gives its number.
    pub(crate) fn add(&self, trouble: Trouble, scope: Scope) -> u64 {
        let mut active = self.lock();
        active.injected += 1;
        let id = active.injected;
        let dice = Dice::new(scope.chance.map_or(0, |(_, seed)| seed));
        active.faults.push(Fault { id, trouble, scope, dice });
        drop(active);
        self.tell();
        id
    }

    /// Says whether it was there.
    pub(crate) fn remove(&self, id: u64) -> bool {
        let mut active = self.lock();
        let before = active.faults.len();
        active.faults.retain(|fault| fault.id != id);
        active.spent.retain(|spent| *spent != id);
        let was_there = active.faults.len() < before;
        drop(active);
        self.tell();
        was_there
    }

    pub(crate) fn is_active(&self, id: u64) -> bool {
        self.lock().faults.iter().any(|fault| fault.id == id)
    }

    pub(crate) fn reports(&self) -> Vec<FaultReport> {
        let active = self.lock();
        let report = |fault: &Fault| FaultReport {
            what: fault.trouble.to_string(),
            scope: fault.scope.to_string(),
            left: fault.scope.times,
        };
        active.faults.iter().map(report).collect()
    }

    /// What look-ups come to.
    pub(crate) fn resolution(
        &self,
    ) -> Option<BoxFuture<'static, Result<Resolution, ResolveError>>> {
        self.take(None, None, |trouble| {
            Some(match trouble {
                Trouble::Resolve(endpoints) => {
                    let found = Resolution::new(endpoints.iter().cloned());
                    Box::pin(async { Ok(found) }) as BoxFuture<'static, _>
                }
                Trouble::FailResolution(text) => {
                    let error = ResolveError::new(text.clone());
                    Box::pin(async { Err(error) })
                }
                Trouble::HangResolution => Box::pin(pending()),
                _ => return None,
            })
        })
    }

    /// Whether look-ups come to something else than the resolver finds.
    pub(crate) fn concern_resolution(&self) -> bool {
        let concerns = |fault: &Fault| {
            matches!(
                fault.trouble,
                Trouble::Resolve(_) | Trouble::FailResolution(_) | Trouble::HangResolution
            )
        };
        self.lock().faults.iter().any(concerns)
    }

    /// How a call of `method` ends before it is sent anywhere, or to `address`. A fault that is for
    /// one address says nothing of a call that has none yet, and one that is for all is asked then.
    pub(crate) fn call(&self, address: Option<&Address>, method: &str) -> Option<Status> {
        let mut active = self.lock();
        if active.faults.is_empty() {
            return None;
        }
        let address = address.map(ToString::to_string);
        active.take(|fault| match &fault.trouble {
            Trouble::FailCalls(status)
                if fault.scope.address.is_some() == address.is_some()
                    && fault.scope.covers(address.as_deref(), Some(method)) =>
            {
                Some(status.clone())
            }
            _ => None,
        })
    }

    /// Lets a dial to `address` suffer what it has to, before the network is asked.
    pub(super) async fn before_dial(&self, address: &Address) -> io::Result<()> {
        let address = address.to_string();
        let held = self.lock().take(|fault| {
            let held = match fault.trouble {
                Trouble::RefuseDials => Dial::Refused,
                Trouble::DelayDials(time) => Dial::Delayed(time),
                Trouble::HangDials => Dial::Hangs,
                _ => return None,
            };
            fault.scope.covers(Some(&address), None).then_some((fault.id, held))
        });
        match held {
            None => {}
            Some((_, Dial::Refused)) => {
                let text = "connection refused by an injected fault";
                return Err(io::Error::new(io::ErrorKind::ConnectionRefused, text));
            }
            Some((id, Dial::Delayed(time))) => tokio::select! {
                () = sleep(time) => {}
                () = self.removed(id) => {}
            },
            Some((id, Dial::Hangs)) => self.removed(id).await,
        }
        Ok(())
    }

    /// Returns once the fault of this number has been removed.
    async fn removed(&self, id: u64) {
        loop {
            let mut changed = pin!(self.changed.notified());
            // What is told from here on is not missed.
            changed.as_mut().enable();
            if !self.lock().holds(id) {
                return;
            }
            changed.await;
        }
    }

    /// Whether the handshake with `address` is to fail.
    pub(super) fn fails_handshake(&self, address: &Address) -> bool {
        let fails = |trouble: &Trouble| matches!(trouble, Trouble::FailHandshakes).then_some(());
        self.take(Some(address), None, fails).is_some()
    }

    /// Whether a stream of `method` to `address` is to be refused.
    pub(super) fn refuses_stream(&self, address: &Address, method: &str) -> bool {
        let refuses = |trouble: &Trouble| matches!(trouble, Trouble::RefuseStreams).then_some(());
        self.take(Some(address), Some(method), refuses).is_some()
    }

    /// Whether a piece of what arrives from `address` is lost.
    fn lose(&self, address: &str) -> bool {
        let mut active = self.lock();
        let mut is_lost = false;
        for Fault { trouble, scope, dice, .. } in &mut active.faults {
            if let Trouble::Loss(rate) = trouble
                && scope.covers(Some(address), None)
            {
                is_lost |= dice.unit() < *rate * scope.chance.map_or(1.0, |(rate, _)| rate);
            }
        }
        is_lost
    }

    /// Puts the connection `io` to `address` under what befalls it from now on.
    pub(super) fn over(self: &Arc<Self>, io: Io, address: &Address) -> Io {
        let seen = self.lock().injected;
        Io::new(Faulty {
            io,
            faults: self.clone(),
            address: address.to_string(),
            seen,
            is_over: false,
            changed: self.changed(),
            frames: Frames::default(),
            is_leaving: false,
            held: VecDeque::new(),
            inserted: VecDeque::new(),
            timer: None,
        })
    }

    /// The first trouble that `of` takes, if its turn has come.
    fn take<T>(
        &self,
        address: Option<&Address>,
        method: Option<&str>,
        of: impl Fn(&Trouble) -> Option<T>,
    ) -> Option<T> {
        let address = address.map(ToString::to_string);
        self.lock().take(|fault| {
            let is_covered = fault.scope.covers(address.as_deref(), method);
            is_covered.then(|| of(&fault.trouble)).flatten()
        })
    }

    /// Returns at the first change after it was first polled.
    fn changed(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let changed = self.changed.clone();
        Box::pin(async move { changed.notified().await })
    }

    fn tell(&self) {
        self.changed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, Active> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Active {
    /// The first that `of` takes, if its turn has come.
    fn take<T>(&mut self, of: impl Fn(&Fault) -> Option<T>) -> Option<T> {
        let (mut taken, mut used_up) = (None, None);
        for fault in &mut self.faults {
            let Some(trouble) = of(fault) else { continue };
            if fault.befalls() {
                if fault.scope.times == Some(0) {
                    used_up = Some(fault.id);
                }
                taken = Some(trouble);
                break;
            }
        }
        self.spend(used_up.as_slice());
        taken
    }

    /// These have happened often enough.
    fn spend(&mut self, used_up: &[u64]) {
        self.faults.retain(|fault| !used_up.contains(&fault.id));
        self.spent.extend(used_up);
    }

    /// Whether what the fault of this number holds back is to wait on.
    fn holds(&self, id: u64) -> bool {
        self.faults.iter().any(|fault| fault.id == id) || self.spent.contains(&id)
    }
}

enum Dial {
    Refused,
    Delayed(Duration),
    Hangs,
}

impl Fault {
    /// Whether it befalls whom it covers this time; that is one of its times then.
    fn befalls(&mut self) -> bool {
        if let Some((rate, _)) = self.scope.chance
            && self.dice.unit() >= rate
        {
            return false;
        }
        match &mut self.scope.times {
            None => true,
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
        }
    }
}

impl Scope {
    fn covers(&self, address: Option<&str>, method: Option<&str>) -> bool {
        let covers = |wanted: &Option<String>, is: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| is == Some(wanted))
        };
        covers(&self.address, address) && covers(&self.method, method)
    }
}

/// A connection that suffers what befalls it. It stands above TLS, so that it can put frames of
/// HTTP/2 between those of the server.
struct Faulty {
    io: Io,
    faults: Arc<Faults>,
    address: String,
    /// Cuts and goodbyes up to this number are none of its.
    seen: u64,
    is_over: bool,
    changed: Pin<Box<dyn Future<Output = ()> + Send>>,
    frames: Frames,
    /// Whether the server itself goes away: another goodbye could only take that back, which it must
    /// not.
    is_leaving: bool,
    /// What has arrived and is not to be seen yet.
    held: VecDeque<(Instant, Bytes)>,
    /// Frames that go in where the next of the server's would begin.
    inserted: VecDeque<Bytes>,
    timer: Option<Pin<Box<Sleep>>>,
}

/// How what arrives is delayed.
#[derive(Clone, Copy, Default)]
struct Weather {
    is_stalled: bool,
    latency: Duration,
    /// Whether some of it may be lost.
    loss: bool,
}

impl Faulty {
    /// Looks what befalls it, and has itself woken when that changes.
    fn look(&mut self, cx: &mut Context<'_>) -> Weather {
        while self.changed.as_mut().poll(cx).is_ready() {
            self.changed = self.faults.changed();
        }
        let mut active = self.faults.lock();
        let injected = active.injected;
        let mut weather = Weather::default();
        let mut used_up = Vec::new();
        for fault in &mut active.faults {
            if !fault.scope.covers(Some(&self.address), None) {
                continue;
            }
            match fault.trouble {
                Trouble::StallReads => weather.is_stalled = true,
                Trouble::Latency(latency) => {
                    weather.latency = weather.latency.saturating_add(latency);
                }
                Trouble::Loss(_) => weather.loss = true,
                Trouble::Cut if fault.id > self.seen => self.is_over |= fault.befalls(),
                Trouble::Goaway(code) if fault.id > self.seen => {
                    if !self.is_leaving && fault.befalls() {
                        self.inserted.push_back(goaway(code));
                    }
                }
                Trouble::Cut
                | Trouble::Goaway(_)
                | Trouble::Resolve(_)
                | Trouble::FailResolution(_)
                | Trouble::HangResolution
                | Trouble::FailCalls(_)
                | Trouble::RefuseDials
                | Trouble::DelayDials(_)
                | Trouble::HangDials
                | Trouble::FailHandshakes
                | Trouble::RefuseStreams => {}
            }
            if fault.scope.times == Some(0) {
                used_up.push(fault.id);
            }
        }
        active.spend(&used_up);
        self.seen = injected;
        weather
    }

    /// Follows what is given of the server's frames.
    fn follow(&mut self, bytes: &[u8]) {
        let Self { frames, is_leaving, inserted, .. } = self;
        frames.follow(bytes, |frame, _| *is_leaving |= frame.is_goaway());
        if *is_leaving {
            inserted.clear();
        }
    }

    /// Takes in what has arrived, to be seen later.
    fn take_in(&mut self, cx: &mut Context<'_>, weather: Weather) -> io::Result<()> {
        let mut chunk = [0; HELD_CHUNK];
        while self.held.len() < HELD_CHUNKS_MAX {
            let mut buf = ReadBuf::new(&mut chunk);
            match Pin::new(&mut self.io).poll_read(cx, &mut buf) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Ready(Ok(())) => {
                    let mut delay = weather.latency;
                    if weather.loss && self.faults.lose(&self.address) {
                        delay = delay.saturating_add(RESENT_AFTER);
                    }
                    let last = self.held.back().map(|(at, _)| *at);
                    // In order, as TCP has it.
                    let at = Instant::from_std(later(Instant::now().into_std(), delay))
                        .max(last.unwrap_or_else(Instant::now));
                    let is_end = buf.filled().is_empty();
                    self.held.push_back((at, Bytes::copy_from_slice(buf.filled())));
                    if is_end {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }
}

impl AsyncRead for Faulty {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let weather = this.look(cx);
        if this.is_over {
            let text = "the connection was cut by an injected fault";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionReset, text)));
        }
        if this.frames.is_between()
            && let Some(mut frame) = this.inserted.pop_front()
        {
            let taken = frame.len().min(buf.remaining());
            buf.put_slice(&frame[..taken]);
            frame.advance(taken);
            if !frame.is_empty() {
                this.inserted.push_front(frame);
            }
            return Poll::Ready(Ok(()));
        }
        if weather.is_stalled {
            return Poll::Pending;
        }
        let is_calm = weather.latency.is_zero() && !weather.loss;
        if this.held.is_empty() && is_calm {
            let before = buf.filled().len();
            let polled = Pin::new(&mut this.io).poll_read(cx, buf);
            this.follow(&buf.filled()[before..]);
            return polled;
        }
        this.take_in(cx, weather)?;
        let Some((at, bytes)) = this.held.front_mut() else { return Poll::Pending };
        // What was held back by faults that are removed goes on at once.
        if !is_calm && *at > Instant::now() {
            let at = *at;
            let timer = this.timer.insert(Box::pin(sleep_until(at)));
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
        if bytes.is_empty() {
            // The end, which stays where it is.
            return Poll::Ready(Ok(()));
        }
        let taken = bytes.len().min(buf.remaining());
        let given = bytes.split_to(taken);
        if bytes.is_empty() {
            this.held.pop_front();
        }
        buf.put_slice(&given);
        this.follow(&given);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Faulty {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        // Nothing leaves after a cut, whether its reader has heard of that or not.
        this.look(cx);
        if this.is_over {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        Pin::new(&mut this.io).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

/// GOAWAY with `code`, which leaves no stream out.
fn goaway(code: u32) -> Bytes {
    let mut frame = vec![0, 0, 8, 7, 0, 0, 0, 0, 0];
    frame.extend((u32::MAX >> 1).to_be_bytes());
    frame.extend(code.to_be_bytes());
    frame.into()
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolve(endpoints) => write!(f, "look-ups find {} endpoints", endpoints.len()),
            Self::FailResolution(text) => write!(f, "look-ups fail: {text}"),
            Self::HangResolution => f.write_str("look-ups hang"),
            Self::FailCalls(status) => write!(f, "calls fail: {status}"),
            Self::RefuseDials => f.write_str("dials are refused"),
            Self::DelayDials(time) => write!(f, "dials take {time:?} longer"),
            Self::HangDials => f.write_str("dials hang"),
            Self::FailHandshakes => f.write_str("handshakes fail"),
            Self::RefuseStreams => f.write_str("streams are refused"),
            Self::StallReads => f.write_str("nothing arrives"),
            Self::Latency(time) => write!(f, "what arrives comes {time:?} later"),
            Self::Loss(rate) => write!(f, "{rate} of what arrives is lost at first"),
            Self::Cut => f.write_str("connections are cut"),
            Self::Goaway(code) => write!(f, "servers go away with error code {code}"),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.address.as_deref().unwrap_or("all addresses"))?;
        if let Some(method) = &self.method {
            write!(f, ", {method}")?;
        }
        if let Some((rate, seed)) = self.chance {
            write!(f, ", at a rate of {rate} by seed {seed}")?;
        }
        Ok(())
    }
}

const HELD_CHUNK: usize = 4096;
/// 256 KiB on their way are enough for any test, and bounded.
const HELD_CHUNKS_MAX: usize = 64;
/// The least that TCP waits before it sends again.
const RESENT_AFTER: Duration = Duration::from_millis(200);

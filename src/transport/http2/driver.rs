//! What keeps a connection going: the one future that reads, writes and keeps deadlines.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, Sleep, sleep_until};

use super::super::ConnectionOptions;
use super::super::error::{Disconnect, DisconnectCause};
use super::connection::Shared;
use super::fault;
use super::observed::Observed;
use super::pings::Pings;
use super::unread::Window;

/// What a driver tells of its connection, each once at most.
#[derive(Clone, Copy, Debug)]
pub(crate) enum News<'a> {
    /// It takes no more streams, for this reason: a GOAWAY, the loss of the connection, a write
    /// that failed, or this side's wish. Streams that are open may still go on.
    Draining(&'a Disconnect),
    /// The server says that it is sent too many PINGs, in whichever of its GOAWAYs (A8). Told
    /// before the end of the connection that it is the cause of.
    TooManyPings,
    /// The server has answered a call, if only by a reset, and had answered none when
    /// [`News::Draining`] was told.
    Answered,
}

/// Drives one connection. Spawn [`Driver::run`]: without it nothing moves.
///
/// Dropped before its end, it ends the connection and all that waits on it.
pub(crate) struct Driver {
    engine: h2::client::Connection<Observed, Bytes>,
    shared: Arc<Shared>,
    deadlines: Deadlines,
    gathered: Gathered,
    pings: Pings,
    window: Window,
    stall: Stall,
    /// Since when only bytes that the peer does not take keep the connection from closing.
    farewell: Option<Pin<Box<Sleep>>>,
}

impl Driver {
    pub(super) fn new(
        mut engine: h2::client::Connection<Observed, Bytes>,
        shared: Arc<Shared>,
        options: &ConnectionOptions,
    ) -> Self {
        let pings = Pings::new(&mut engine, options);
        let window = Window::new(options.initial_connection_window);
        Self {
            engine,
            shared,
            deadlines: Deadlines::default(),
            gathered: Gathered::default(),
            pings,
            window,
            stall: Stall::default(),
            farewell: None,
        }
    }

    /// Drives the connection to its end, and says what that was; `tell` hears what there is to
    /// know before. Must run on a tokio runtime with timers and I/O.
    pub(crate) async fn run(mut self, mut tell: impl FnMut(News<'_>) + Send) -> Arc<Disconnect> {
        let mut told_of_pings = false;
        let mut told_of_draining = false;
        let mut wants_answer = false;
        poll_fn(|cx| {
            let polled = self.poll(cx);
            if !told_of_pings && self.shared.watch.is_sent_too_many_pings() {
                told_of_pings = true;
                tell(News::TooManyPings);
            }
            if let Some(why) = self.shared.stopped()
                && !told_of_draining
            {
                told_of_draining = true;
                wants_answer = !self.shared.watch.has_answered();
                tell(News::Draining(why));
            }
            if wants_answer && self.shared.watch.has_answered() {
                wants_answer = false;
                tell(News::Answered);
            }
            polled
        })
        .await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Arc<Disconnect>> {
        // Before everything that it tells of, so that nothing is missed in between.
        self.shared.driver.register(cx.waker());
        // Before the engine, which sends the resets of streams that expired.
        self.deadlines.poll(cx, &self.shared);
        match self.poll_engine(cx) {
            Poll::Ready(outcome) => {
                // A GOAWAY that ended the connection within one poll is known only to the engine.
                self.shared.look_at_peer();
                let error = outcome.err();
                Poll::Ready(self.end(error.as_ref()))
            }
            Poll::Pending => {
                self.shared.look_at_peer();
                self.shared.look_at_writing();
                self.shared.look_at_stale();
                self.stall.poll(cx, &self.shared);
                self.shared.look_at_unread();
                // Where output waits, so may input that has arrived.
                if !self.shared.watch.is_write_blocked() {
                    self.shared.look_at_signs();
                }
                if let Some(window) = self.window.make_up_for(self.shared.watch.unread.bytes()) {
                    self.engine.set_target_window_size(window);
                }
                let Self { shared, engine, window, .. } = self;
                if let Poll::Ready(timeout) = self.pings.poll(cx, shared, engine, window) {
                    let cause = || DisconnectCause::NoSignOfLife { timeout };
                    return Poll::Ready(self.shared.end(cause));
                }
                ready!(self.poll_farewell(cx));
                Poll::Ready(self.end(None))
            }
        }
    }

    /// Has the engine read and write, with the messages that have been gathered for it. Where it
    /// has to wait for the socket, they are gathered on.
    fn poll_engine(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        loop {
            let is_blocked = self.shared.watch.is_write_blocked();
            if !is_blocked {
                self.gathered.poll(cx, &self.shared);
            }
            let polled = Pin::new(&mut self.engine).poll(cx);
            if polled.is_ready() || !is_blocked || self.shared.watch.is_write_blocked() {
                return polled;
            }
        }
    }

    fn end(&self, error: Option<&h2::Error>) -> Arc<Disconnect> {
        let shared = &self.shared;
        let given_up = shared.stopped().filter(|stopped| stopped.cause().is_of_this_side());
        let is_over = shared.watch.has_ended();
        let is_early = shared.table().calls > 0 && is_over;
        let is_cut_short = shared.table().has_live_streams() && (is_over || error.is_some());
        shared.end(|| {
            // What this side wanted is not the peer's doing, however it went; what it waits for is.
            if let Some(why) = given_up
                && !is_cut_short
            {
                return why.cause().clone();
            }
            match (error, shared.watch.goaway()) {
                // A server that says goodbye and goes once all is done has kept its word.
                (None, Some(goaway)) if !is_early => DisconnectCause::Goaway(goaway),
                (Some(error), _) => fault::of_connection(shared, error),
                (None, _) => DisconnectCause::Lost(shared.watch.loss()),
            }
        })
    }

    /// Ready when this side ends the connection and nothing is left to do for it. The engine
    /// closes by itself once all streams are gone; here it is about those that were reset, whose
    /// owners may hold on to them for as long as they like.
    fn poll_farewell(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let is_given_up =
            self.shared.stopped().is_some_and(|stopped| stopped.cause().is_of_this_side());
        let can_write = self.shared.watch.write_failure().is_none();
        // To the engine, streams that are over and have not left are open.
        let is_done = self.shared.stopped().is_some()
            && can_write
            && self.shared.table().has_only_stale_streams();
        if !is_given_up && !is_done && (can_write || !self.shared.table().may_close()) {
            return Poll::Pending;
        }
        if self.shared.table().has_live_streams() {
            return Poll::Pending;
        }
        if !self.shared.watch.is_write_blocked() {
            return Poll::Ready(());
        }
        self.farewell
            .get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + FAREWELL_MAX)))
            .as_mut()
            .poll(cx)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Says so before the engine goes, whose going all streams see. After a regular end this
        // changes nothing.
        self.shared.end(|| DisconnectCause::Abandoned);
    }
}

/// Keeps the deadlines of all streams of a connection with one timer.
#[derive(Default)]
struct Deadlines {
    timer: Option<Pin<Box<Sleep>>>,
    /// No scan before this.
    next_scan: Option<Instant>,
}

impl Deadlines {
    fn poll(&mut self, cx: &mut Context<'_>, shared: &Shared) {
        loop {
            let Some(wake_at) = shared.table().wake_at else {
                return;
            };
            let at = self.next_scan.map_or(wake_at, |next| next.max(wake_at));
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
            if timer.deadline() != at {
                timer.as_mut().reset(at);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return;
            }
            let now = Instant::now();
            shared.expire(now);
            self.next_scan = Some(now + SCAN_INTERVAL);
        }
    }
}

/// Hands over what has been gathered for the engine, and wakes the driver for what is held back.
#[derive(Default)]
struct Gathered(Option<Pin<Box<Sleep>>>);

impl Gathered {
    fn poll(&mut self, cx: &mut Context<'_>, shared: &Shared) {
        while let Some(at) = shared.hand_over() {
            let timer = self.0.get_or_insert_with(|| Box::pin(sleep_until(at)));
            if timer.deadline() != at {
                timer.as_mut().reset(at);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return;
            }
        }
    }
}

/// Notices that the peer lets nothing leave of what is to be sent.
#[derive(Default)]
struct Stall {
    timer: Option<Pin<Box<Sleep>>>,
    /// What the outlet was when it was last looked.
    outlet: u64,
    /// How often in a row it has not changed.
    looks: u32,
}

impl Stall {
    fn poll(&mut self, cx: &mut Context<'_>, shared: &Shared) {
        loop {
            let outlet = shared.outlet();
            if outlet.is_none() && self.timer.is_none() {
                return;
            }
            let timer = self.timer.get_or_insert_with(|| {
                (self.outlet, self.looks) = (outlet.unwrap_or_default(), 0);
                Box::pin(sleep_until(Instant::now() + STALL_LOOK))
            });
            if timer.as_mut().poll(cx).is_pending() {
                return;
            }
            let Some(outlet) = outlet else {
                self.timer = None;
                return;
            };
            self.looks = if outlet == self.outlet { self.looks + 1 } else { 0 };
            self.outlet = outlet;
            if self.looks == STALL_LOOKS {
                self.timer = None;
                shared.has_stalled(STALL_LOOK * STALL_LOOKS);
                return;
            }
            timer.as_mut().reset(Instant::now() + STALL_LOOK);
        }
    }
}

/// How often a connection that cannot write is looked at.
const STALL_LOOK: Duration = Duration::from_secs(5);

/// After so many looks in a row that find nothing written the peer is taken to have stopped: after
/// 20 s, as gRPC has it for data that is not acknowledged (A18), and not after 25.
const STALL_LOOKS: u32 = 4;

/// How often at most the table is scanned for expired streams: a deadline that is late by so much
/// hurts nobody, and thousands of them cost little.
const SCAN_INTERVAL: Duration = Duration::from_millis(5);

/// How long a connection that is to close waits for a peer that does not read its last bytes.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

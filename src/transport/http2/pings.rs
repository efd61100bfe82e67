//! The one PING that the engine has, shared by keepalive and by the measure of the path.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, Sleep, sleep_until};

use super::super::ConnectionOptions;
use super::bdp::Bdp;
use super::connection::Shared;
use super::keepalive::{self, Effect, Event, KeepaliveConfig};
use super::observed::Observed;
use super::unread::Window;

type Engine = h2::client::Connection<Observed, Bytes>;

/// Sends PINGs and acts on what they bring.
pub(super) struct Pings {
    /// `None` where nothing wants a PING.
    pong: Option<h2::PingPong>,
    /// When the one that is under way left, and whether it measures the path.
    under_way: Option<(Instant, Purpose)>,
    keepalive: Option<Keepalive>,
    path: Option<Path>,
    bytes_seen: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Keepalive,
    Path,
}

struct Keepalive {
    config: KeepaliveConfig,
    state: keepalive::State,
    timer: Pin<Box<Sleep>>,
}

/// What is known of the path, and what is made of it.
struct Path {
    bdp: Bdp,
    /// A window that the engine could not take on yet.
    pending: Option<u32>,
}

impl Pings {
    pub(super) fn new(engine: &mut Engine, options: &ConnectionOptions) -> Self {
        let keepalive = options.keepalive.map(|config| {
            let now = Instant::now();
            let state = keepalive::State::Quiet { last: now };
            let at = state.wake_at(&config).unwrap_or(now);
            Keepalive { config, state, timer: Box::pin(sleep_until(at)) }
        });
        let path = options
            .adaptive_windows
            .then(|| Path { bdp: Bdp::new(options.initial_stream_window), pending: None });
        let wanted = keepalive.is_some() || path.is_some();
        let pong = if wanted { engine.ping_pong() } else { None };
        Self { pong, under_way: None, keepalive, path, bytes_seen: 0 }
    }

    /// Does what is due, after the engine has been polled. Ready when the connection is to be given
    /// up, with the timeout that has passed.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        shared: &Shared,
        engine: &mut Engine,
        window: &mut Window,
    ) -> Poll<Duration> {
        let Some(pong) = &mut self.pong else { return Poll::Pending };
        let bytes = shared.watch.bytes_read();
        let arrived = bytes - self.bytes_seen;
        self.bytes_seen = bytes;

        if let Some((since, purpose)) = self.under_way
            && pong.poll_pong(cx).is_ready()
        {
            self.under_way = None;
            let took = since.elapsed();
            shared.set_round_trip(took);
            if let (Purpose::Path, Some(path)) = (purpose, &mut self.path) {
                path.pending = path.bdp.answered(took).or(path.pending);
            }
        }
        if let Some(path) = &mut self.path {
            path.widen(engine, window, shared);
            if arrived > 0
                && path.bdp.arrived(arrived)
                && self.under_way.is_none()
                && pong.send_ping(h2::Ping::opaque()).is_ok()
            {
                self.under_way = Some((Instant::now(), Purpose::Path));
                path.bdp.asked();
            }
        }
        let Some(keepalive) = &mut self.keepalive else { return Poll::Pending };
        if arrived > 0 {
            keepalive.tell(Event::Arrived);
        }
        loop {
            match ready!(keepalive.poll(cx, shared)) {
                Effect::GiveUp => return Poll::Ready(keepalive.config.timeout),
                Effect::Ask => {
                    // The answer to one that is under way will do as well.
                    if self.under_way.is_none() && pong.send_ping(h2::Ping::opaque()).is_ok() {
                        self.under_way = Some((Instant::now(), Purpose::Keepalive));
                        shared.keepalives_sent.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        }
    }
}

impl Keepalive {
    fn tell(&mut self, event: Event) -> Option<Effect> {
        let (state, effect) = self.state.step(Instant::now(), event, &self.config);
        self.state = state;
        effect
    }

    /// Ready when something is to be done.
    fn poll(&mut self, cx: &mut Context<'_>, shared: &Shared) -> Poll<Effect> {
        loop {
            let streams = shared.table().calls > 0;
            if streams && matches!(self.state, keepalive::State::Dormant { .. }) {
                self.tell(Event::Opened);
            }
            let Some(at) = self.state.wake_at(&self.config) else { return Poll::Pending };
            if self.timer.deadline() != at {
                self.timer.as_mut().reset(at);
            }
            ready!(self.timer.as_mut().poll(cx));
            if let Some(effect) = self.tell(Event::Wake { streams }) {
                return Poll::Ready(effect);
            }
        }
    }
}

impl Path {
    /// Hands a window that has grown to the engine, which takes one at a time.
    fn widen(&mut self, engine: &mut Engine, connection: &mut Window, shared: &Shared) {
        if let Some(window) = self.pending
            && engine.set_initial_window_size(window).is_ok()
        {
            self.pending = None;
            // One stream must not fill the window of all.
            let ahead = window.saturating_mul(2);
            engine.set_target_window_size(connection.widen(ahead));
            shared.window.fetch_max(ahead, Ordering::Relaxed);
        }
    }
}

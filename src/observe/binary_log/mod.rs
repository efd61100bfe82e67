//! A log of calls in gRPC's own binary form (A16).

mod entry;
mod filter;
mod sink;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::calls::{CallEvent, CallInfo, CallObserver, Observer};
use super::clock::since_1970;
use crate::types::{Address, Code, Metadata, Status};
use entry::{Event, Payload};
pub use filter::InvalidFilter;
use filter::{Extent, Filter};
pub use sink::{BinaryLogSink, FileSink};

/// An [`Observer`] that logs headers and messages of calls in gRPC's binary form (A16), which its
/// own tools read.
///
/// Which calls, a filter says: a list with commas of `*` (all), `package.Service/*`,
/// `package.Service/Method` and `-package.Service/Method` (not that one); what names a method goes
/// before what names its service, and that before `*`. Behind a rule `{h:256;m:1024}` logs 256
/// bytes of metadata and 1024 of each message, `{h}` metadata alone and `{m}` messages alone.
///
/// ```no_run
/// # fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use switchboard::{BinaryLog, Channel, Credentials, FileSink};
///
/// let log = BinaryLog::new("*{h;m:1024}", FileSink::create("calls.binlog")?)?;
/// let channel = Channel::builder("dns:///greeter.example")
///     .credentials(Credentials::tls())
///     .observer(log)
///     .build()?;
/// # Ok(()) }
/// ```
///
/// Of a call that is attempted several times the first request and the answer that counted are
/// logged. Messages are logged as the application has them, not compressed. The log has what the
/// calls carry: who can read it can read that. Of the metadata secrets are left out: what call
/// credentials add, what is [marked](crate::Metadata::mark_sensitive), and the values of keys such
/// as `authorization` and `cookie`.
pub struct BinaryLog {
    filter: Filter,
    sink: Arc<dyn BinaryLogSink>,
    calls: AtomicU64,
}

impl BinaryLog {
    /// Logs to `sink` the calls that `filter` names. Fails where a rule makes no sense, or two say
    /// the same.
    pub fn new(filter: &str, sink: impl BinaryLogSink) -> Result<Self, InvalidFilter> {
        let filter = Filter::parse(filter)?;
        Ok(Self { filter, sink: Arc::new(sink), calls: AtomicU64::new(0) })
    }

    /// As [`new`](Self::new) with the filter in `GRPC_BINARY_LOG_FILTER`; `None` where that is not
    /// set.
    pub fn from_env(sink: impl BinaryLogSink) -> Result<Option<Self>, InvalidFilter> {
        std::env::var(FILTER).ok().map(|filter| Self::new(&filter, sink)).transpose()
    }
}

impl Observer for BinaryLog {
    fn call_began(&self, call: &CallInfo<'_>) -> Option<Arc<dyn CallObserver>> {
        let extent = self.filter.extent(call.method.as_str())?;
        Some(Arc::new(Logged {
            extent,
            sink: self.sink.clone(),
            call: self.calls.fetch_add(1, Ordering::Relaxed) + 1,
            method: call.method.as_str().to_owned(),
            state: Mutex::default(),
        }))
    }
}

/// One call that is logged.
struct Logged {
    extent: Extent,
    sink: Arc<dyn BinaryLogSink>,
    call: u64,
    method: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Entries so far.
    sequence: u64,
    request: Request,
    /// Attempts that are under way.
    live: Vec<u32>,
    /// Headers of attempts of which it is not certain that they count.
    headers: Vec<(u32, Payload)>,
    peer: Option<Address>,
    trailers: Option<(u32, Metadata)>,
    outbox: Outbox,
}

/// Entries on their way to the sink, which is the application's: it is called without any lock, by
/// one thread at a time, in the order of the entries.
#[derive(Default)]
struct Outbox {
    entries: VecDeque<Vec<u8>>,
    /// Whether somebody is at it, who takes what comes meanwhile.
    is_served: bool,
}

/// How far the request is logged.
enum Request {
    /// Its headers are not known yet; this comes after them.
    Waiting(Vec<Payload>),
    Begun,
}

impl Default for Request {
    fn default() -> Self {
        Self::Waiting(Vec::new())
    }
}

impl CallObserver for Logged {
    fn event(&self, event: &CallEvent<'_>) {
        self.note(event);
        self.send();
    }
}

impl Logged {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the sink what it has not had, unless somebody does: another thread, or this one from
    /// within the sink.
    fn send(&self) {
        let mut state = self.state();
        if state.outbox.is_served {
            return;
        }
        state.outbox.is_served = true;
        drop(state);
        let serving = Serving(self);
        loop {
            let mut state = self.state();
            let Some(entry) = state.outbox.entries.pop_front() else {
                // Under the same lock, so that what comes next finds nobody at it.
                state.outbox.is_served = false;
                std::mem::forget(serving);
                return;
            };
            drop(state);
            self.sink.write(entry);
        }
    }

    fn note(&self, event: &CallEvent<'_>) {
        let mut state = self.state();
        match *event {
            CallEvent::AttemptBegan { attempt, .. } => state.live.push(attempt),
            CallEvent::RequestHeaders { peer, authority, metadata, timeout, .. } => {
                state.peer = Some(peer.clone());
                if let Request::Waiting(waiting) =
                    std::mem::replace(&mut state.request, Request::Begun)
                {
                    let method = &self.method;
                    let header = Event::ClientHeader { method, authority, metadata, timeout };
                    self.write(&mut state, &self.payload(&header), false);
                    for payload in waiting {
                        self.write(&mut state, &payload, false);
                    }
                }
            }
            CallEvent::RequestMessage { payload } => {
                self.request(&mut state, &Event::ClientMessage(payload));
            }
            CallEvent::RequestsEnded => self.request(&mut state, &Event::HalfClose),
            CallEvent::ResponseHeaders { attempt, metadata } => {
                let header = self.payload(&Event::ServerHeader(metadata));
                if state.live == [attempt] {
                    self.write(&mut state, &header, true);
                } else {
                    state.headers.push((attempt, header));
                }
            }
            CallEvent::ResponseMessage { attempt, payload, .. } => {
                self.header_of(&mut state, attempt);
                let message = self.payload(&Event::ServerMessage(payload));
                self.write(&mut state, &message, false);
            }
            CallEvent::ResponseTrailers { attempt, metadata } => {
                state.trailers = Some((attempt, metadata.clone()));
            }
            CallEvent::AttemptEnded { attempt, .. } => state.live.retain(|it| *it != attempt),
            CallEvent::Ended { result } => self.end(&mut state, result),
            CallEvent::NamesResolved { .. }
            | CallEvent::PickCompleted { .. }
            | CallEvent::SubchannelPicked { .. }
            | CallEvent::MessageSent { .. } => {}
        }
    }

    fn payload(&self, event: &Event<'_>) -> Payload {
        Payload::new(event, self.extent, since_1970())
    }

    fn write(&self, state: &mut MutexGuard<'_, State>, payload: &Payload, with_peer: bool) {
        state.sequence += 1;
        let peer = state.peer.as_ref().filter(|_| with_peer);
        let entry = payload.entry(self.call, state.sequence, peer);
        state.outbox.entries.push_back(entry);
    }

    /// Logs a part of the request, once its headers are.
    fn request(&self, state: &mut MutexGuard<'_, State>, event: &Event<'_>) {
        let payload = self.payload(event);
        match &mut state.request {
            Request::Waiting(waiting) => waiting.push(payload),
            Request::Begun => self.write(state, &payload, false),
        }
    }

    /// Logs the headers of `attempt`, which counts, if that has not been done.
    fn header_of(&self, state: &mut MutexGuard<'_, State>, attempt: u32) {
        if let Some(at) = state.headers.iter().position(|(of, _)| *of == attempt) {
            let (_, header) = state.headers.swap_remove(at);
            self.write(state, &header, true);
        }
    }

    fn end(&self, state: &mut MutexGuard<'_, State>, result: Result<(), &Status>) {
        let trailers = state.trailers.take();
        let by_this_side = |status: &Status| {
            trailers.is_none()
                && [Code::CANCELLED, Code::DEADLINE_EXCEEDED].contains(&status.code())
        };
        if result.is_err_and(by_this_side) {
            let cancel = self.payload(&Event::Cancel);
            return self.write(state, &cancel, false);
        }
        if let Some((attempt, _)) = &trailers {
            self.header_of(state, *attempt);
        }
        let metadata = trailers.as_ref().map(|(_, metadata)| metadata);
        let trailer = self.payload(&Event::Trailer { result, metadata });
        self.write(state, &trailer, true);
    }
}

/// Whoever gives the sink its entries. Dropped where the sink panics, so that others go on.
struct Serving<'a>(&'a Logged);

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        self.0.state().outbox.is_served = false;
    }
}

const FILTER: &str = "GRPC_BINARY_LOG_FILTER";

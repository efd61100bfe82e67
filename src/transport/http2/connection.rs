//! One connection, as calls use it.

use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use atomic_waker::AtomicWaker;
use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, SendStream};
use http::HeaderMap;
use slab::Slab;
use tokio::time::Instant;

use crate::observe::{ConnectionReport, Probe};
use crate::types::{Address, Authority, SecurityLevel};

use super::super::ConnectionOptions;
use super::super::error::{Disconnect, DisconnectCause, ErrorCode, StreamError};
use super::super::message::{Message, SEND_LEN_MAX};
use super::admission::{Admission, Places, Quota, Refusal};
use super::driver::Driver;
use super::gather::{Due, Gather};
use super::observed::{Observed, Watch};
use super::request::{FieldLimits, Template, fields_len};
use super::signs::Sign;
use super::stale::{PARKED_MAX, Room, Stale};
use super::stream::Stream;
use super::times::Times;
use super::unread::{Laggard, Reader};
use super::{ById, Identity, RequestHead, fault};

/// A live HTTP/2 connection; a cheap handle.
///
/// Dropping handles does not end it: [`Connection::drain`] or [`Connection::close`] does, or the
/// server.
#[derive(Clone)]
pub(crate) struct Connection(Arc<Shared>);

impl Connection {
    /// Opens a stream, on this connection or a sibling that has room: sends `head` and, where
    /// `first` gives one, the first message in the same flush; its flag says whether it is also the
    /// last.
    ///
    /// The stream goes to a connection whose server has proved to be the authority of `head`
    /// ([`StreamError::NotProved`] otherwise).
    ///
    /// Where the server takes no more streams, this waits in the fair queue of all siblings until one
    /// does that has proved the name, none has any more, none takes any more
    /// ([`StreamError::Unsent`]) or `deadline` passes; where too many wait already, it fails at once. The stream itself is reset at `deadline`, polled or not.
    /// Cancel-safe: a dropped future has sent nothing.
    pub(crate) async fn open(
        &self,
        head: &RequestHead<'_>,
        first: Option<(Message, bool)>,
        deadline: Option<Instant>,
    ) -> Result<Stream, StreamError> {
        #[cfg(feature = "test-util")]
        if let Some(faults) = &self.0.faults
            && faults.refuses_stream(self.address(), head.path.as_str())
        {
            return Err(StreamError::Refused);
        }
        if let Some(authority) = head.authority {
            self.check(authority)?;
        }
        let admission = &self.0.admission;
        let fits = |connection: &Self| connection.has_proved(head.authority);
        if let Some(admitted) = admission.admit_now(self, fits) {
            return start(admitted, head, first, deadline, Duration::ZERO, Purpose::Call);
        }
        if let Some(metadata) = head.metadata {
            self.0.field_limits().check(fields_len(metadata))?;
        }
        // Boxed so that calls which need not wait, nearly all, have a small future.
        let since = Instant::now();
        let admitted = Box::pin(self.admit_later(head.authority, deadline)).await?;
        start(admitted, head, first, deadline, since.elapsed(), Purpose::Call)
    }

    /// Waits for a place on a connection whose server has proved to be `authority`, as long as there
    /// is such a connection.
    async fn admit_later(
        &self,
        authority: Option<&Authority>,
        deadline: Option<Instant>,
    ) -> Result<Admitted, StreamError> {
        let admission = &self.0.admission;
        loop {
            let only = authority.map(|authority| admission.only(authority)).transpose()?;
            match admission.admit_later(deadline, only).await {
                Ok(admitted) => return Ok(admitted),
                Err(Refusal::Changed) => {}
                Err(Refusal::Stopped) => return Err(self.0.unsent()),
                Err(Refusal::Failed(error)) => return Err(error),
            }
        }
    }

    /// As [`Connection::open`], for a stream that is the channel's own affair and no call: it has
    /// no deadline and keeps nothing awake. Neither does it count among the open streams, nor
    /// those that were opened, nor does the connection count as used for it. It takes a place
    /// among those that the server allows, all the same. Cancel-safe likewise.
    pub(crate) async fn open_aside(
        &self,
        head: &RequestHead<'_>,
        first: Message,
    ) -> Result<Stream, StreamError> {
        let admission = &self.0.admission;
        let since = Instant::now();
        let admitted = match admission.admit_now(self, |_| true) {
            Some(admitted) => admitted,
            None => self.admit_later(None, None).await?,
        };
        start(admitted, head, Some((first, true)), None, since.elapsed(), Purpose::Own)
    }

    /// The connections to the same address that take streams, oldest first; without this one if it
    /// does not. Once there is none, there never is again.
    pub(crate) fn siblings(&self) -> Arc<[Self]> {
        self.0.admission.members()
    }

    /// Calls `crowded` whenever a call comes to wait for room on any of the siblings. The first to
    /// say so counts.
    pub(crate) fn on_crowded(&self, crowded: impl Fn() + Send + Sync + 'static) {
        self.0.admission.on_crowded(crowded);
    }

    pub(super) fn places(&self) -> &Places {
        &self.0.places
    }

    /// No new streams; the connection closes when the open ones have ended. Idempotent.
    pub(crate) fn drain(&self) {
        let mut table = self.0.table();
        self.0.stop(&mut table, || DisconnectCause::Local);
    }

    /// Ends every open stream with [`StreamError::Closed`] and closes the connection. Idempotent.
    pub(crate) fn close(&self) {
        let mut table = self.0.table();
        self.0.stop(&mut table, || DisconnectCause::Local);
        let Table { streams, stale, .. } = &mut *table;
        for (_, entry) in streams {
            entry.end(&self.0.watch, stale, StreamError::Closed);
        }
        drop(table);
        self.0.driver.wake();
    }

    /// Whether the server has begun to answer any request on it, or has reset one.
    pub(crate) fn has_answered(&self) -> bool {
        self.0.watch.has_answered()
    }

    /// Whether the server has parted from it gracefully and keeps calls that it may still answer.
    pub(crate) fn may_yet_answer(&self) -> bool {
        let Some(goaway) = self.0.watch.goaway() else { return false };
        let is_kept = |entry: &Entry| {
            entry.purpose == Purpose::Call
                && entry.ended.is_none()
                && entry.id <= goaway.last_stream
        };
        goaway.code == ErrorCode::NO_ERROR
            && !self.0.watch.has_ended()
            && self.0.table().streams.iter().any(|(_, entry)| is_kept(entry))
    }

    /// Where it was dialled.
    pub(crate) fn address(&self) -> &Address {
        &self.0.identity.address
    }

    /// What servers are addressed by there.
    pub(crate) fn authority(&self) -> &Authority {
        &self.0.identity.authority
    }

    /// The name to ask call credentials for whose call has this authority: never one that the
    /// server has not proved. Where connections prove nothing it is the channel's.
    pub(crate) fn audience<'a>(
        &'a self,
        authority: Option<&'a Authority>,
    ) -> Result<&'a Authority, StreamError> {
        match authority {
            Some(authority) if self.0.identity.proof.is_some() => {
                self.check(authority).map(|()| authority)
            }
            Some(_) | None => Ok(self.authority()),
        }
    }

    /// Whether the server of this connection may be addressed so.
    pub(super) fn check_own(&self, authority: &Authority) -> Result<(), StreamError> {
        self.0.identity.check(authority)
    }

    /// Whether the server, be it of this connection or of a sibling, may be addressed so.
    fn check(&self, authority: &Authority) -> Result<(), StreamError> {
        let Err(error) = self.0.identity.check(authority) else { return Ok(()) };
        let is_proved = |sibling: &Self| sibling.0.identity.check(authority).is_ok();
        if self.siblings().iter().any(is_proved) { Ok(()) } else { Err(error) }
    }

    /// Whether the server of this connection may be addressed so.
    fn has_proved(&self, authority: Option<&Authority>) -> bool {
        authority.is_none_or(|authority| self.0.identity.check(authority).is_ok())
    }

    /// How it is protected.
    pub(crate) fn security_level(&self) -> SecurityLevel {
        self.0.identity.security
    }

    /// How many streams of calls are open.
    pub(crate) fn open_streams(&self) -> usize {
        self.0.table().calls
    }

    /// Since when no stream of a call is open on it; `None` while one is, or before the first.
    pub(crate) fn unused_since(&self) -> Option<Instant> {
        self.0.table().unused_since
    }

    /// How many calls wait for the server to take more streams.
    pub(crate) fn queued_streams(&self) -> usize {
        self.0.admission.queued()
    }

    /// How many streams the server takes at a time.
    pub(crate) fn max_concurrent_streams(&self) -> usize {
        self.0.places.limit()
    }

    /// After how much silence it is asked whether it lives, if it is.
    pub(crate) fn keepalive_time(&self) -> Option<Duration> {
        self.0.keepalive_time
    }

    /// Whether new streams can be opened, as far as is known.
    pub(crate) fn is_usable(&self) -> bool {
        self.0.stopped.get().is_none()
    }

    /// Whether a call has ever had a stream on it.
    pub(crate) fn has_had_calls(&self) -> bool {
        self.0.table().streams_started > 0
    }

    /// How it stands.
    pub(crate) fn report(&self) -> ConnectionReport {
        let shared = &self.0;
        let identity = &shared.identity;
        let allowed = self.max_concurrent_streams();
        let round_trip = shared.round_trip.load(Ordering::Relaxed);
        let times = shared.times.as_ref().map(Times::ago).unwrap_or_default();
        let table = shared.table();
        ConnectionReport {
            open_streams: table.calls,
            streams_allowed: Some(allowed).filter(|allowed| *allowed < NO_LIMIT),
            streams: table.streams_started,
            streams_succeeded: table.streams_succeeded,
            messages_sent: table.messages_sent,
            messages_received: shared.messages_received.load(Ordering::Relaxed),
            bytes_sent: shared.watch.bytes_written(),
            bytes_received: shared.watch.bytes_read(),
            keepalives_sent: shared.keepalives_sent.load(Ordering::Relaxed),
            last_stream: times.stream,
            last_message_sent: times.sent,
            last_message_received: times.received,
            receive_window: shared.window.load(Ordering::Relaxed),
            round_trip: (round_trip > 0).then(|| Duration::from_nanos(round_trip)),
            keepalive_time: shared.keepalive_time,
            local_address: identity.ends.local.clone(),
            remote_address: identity.ends.remote.clone(),
            socket_options: identity.ends.options.clone(),
            security: identity.security,
            tls: identity.tls.clone(),
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("address", self.address())
            .field("open_streams", &self.open_streams())
            .field("stopped", &self.0.stopped.get())
            .finish_non_exhaustive()
    }
}

impl Probe for Connection {
    fn report(&self) -> ConnectionReport {
        Self::report(self)
    }
}

/// A connection whose prefaces have been exchanged, and what drives it. `beside` is a connection to
/// the same address that it shares the calls with.
pub(super) fn new(
    engine: h2::client::Connection<Observed, Bytes>,
    send_request: SendRequest<Bytes>,
    watch: Arc<Watch>,
    identity: Identity,
    options: &ConnectionOptions,
    beside: Option<&Connection>,
) -> (Connection, Driver) {
    let limit = send_request.current_max_send_streams();
    let table = Table {
        probe: Some(send_request.clone()),
        send_request: Some(send_request),
        streams: Slab::new(),
        gathering: Vec::new(),
        ending: Vec::new(),
        short_frames: 0,
        senders: ById::default(),
        calls: 0,
        streams_started: 0,
        streams_succeeded: 0,
        messages_sent: 0,
        unused_since: None,
        is_write_over: false,
        wake_at: None,
        quota: Quota::default(),
        stale: Stale::default(),
    };
    let new_admission = Admission::new(options);
    // One that joins others must find them alive until it is among them.
    let (admission, mut members) =
        match beside.map(|beside| (beside, beside.0.admission.members_mut())) {
            Some((beside, members)) if !members.is_empty() => (&beside.0.admission, members),
            _ => (&new_admission, new_admission.members_mut()),
        };
    let shared = Arc::new(Shared {
        identity,
        template: Template::new(options.user_agent.clone(), &options.accepted),
        watch,
        table: Mutex::new(table),
        admission: admission.clone(),
        places: Places::default(),
        driver: AtomicWaker::new(),
        stopped: OnceLock::new(),
        ended: OnceLock::new(),
        messages_received: AtomicU64::new(0),
        keepalives_sent: AtomicU64::new(0),
        times: options.keeps_times.then(Times::new),
        round_trip: AtomicU64::new(0),
        keepalive_time: options.keepalive.map(|keepalive| keepalive.time()),
        request_fields_max: options.request_fields_max,
        window: AtomicU32::new(options.initial_connection_window),
        #[cfg(feature = "test-util")]
        faults: options.faults.clone(),
        #[cfg(feature = "test-util")]
        stream_ids: options.stream_ids,
    });
    options.receive_buffer.join(&shared);
    let connection = Connection(shared.clone());
    *members = members.iter().cloned().chain([connection.clone()]).collect();
    drop(members);
    Admission::set_limit(&shared.places, &mut shared.table().quota, limit);
    shared.admission.has_joined(&connection);
    shared.admission.serve_if_queued();
    let driver = Driver::new(engine, shared, options);
    (connection, driver)
}

/// What the handles of a connection, its streams and its driver share.
pub(super) struct Shared {
    identity: Identity,
    template: Template,
    pub(super) watch: Arc<Watch>,
    /// Held only for a few calls into the engine, never across an await.
    table: Mutex<Table>,
    admission: Arc<Admission>,
    places: Places,
    /// Wakes the driver.
    pub(super) driver: AtomicWaker,
    /// Why no more streams can be opened; set while `admission` is left.
    stopped: OnceLock<Arc<Disconnect>>,
    /// How the connection ended.
    ended: OnceLock<Arc<Disconnect>>,
    /// Whole messages that were read.
    pub(super) messages_received: AtomicU64,
    /// PINGs that asked whether the server lives.
    pub(super) keepalives_sent: AtomicU64,
    /// When it was last used for what, where anybody wants to know.
    pub(super) times: Option<Times>,
    /// In nanoseconds; 0 while none was measured.
    round_trip: AtomicU64,
    keepalive_time: Option<Duration>,
    /// Bytes of header fields that a request may have, whatever the server takes.
    request_fields_max: usize,
    /// What the server may send ahead over all streams, in bytes.
    pub(super) window: AtomicU32,
    #[cfg(feature = "test-util")]
    faults: Option<Arc<super::super::Faults>>,
    /// How many streams it may have.
    #[cfg(feature = "test-util")]
    stream_ids: u64,
}

/// The part of a connection under its lock.
pub(super) struct Table {
    /// Opens streams; `None` once no more can be opened.
    send_request: Option<SendRequest<Bytes>>,
    /// Sends nothing, so that asking it for the state of the connection takes no stream's place
    /// as the one to be woken. While it is there, the engine does not close by itself.
    probe: Option<SendRequest<Bytes>>,
    pub(super) streams: Slab<Entry>,
    /// The places and numbers of those for which messages are gathered.
    gathering: Vec<(usize, u32)>,
    /// The streams of `senders` whose response is here, which the engine may not have taken yet.
    ending: Vec<u32>,
    /// Short frames on all of them that the server is not known to have read.
    short_frames: u32,
    /// The places of those on which something can be sent yet, by number.
    senders: ById<usize>,
    /// How many of them are calls.
    pub(super) calls: usize,
    /// Streams opened for calls so far.
    streams_started: u64,
    /// Those of them whose server has said that it was the end.
    streams_succeeded: u64,
    /// Messages handed over for sending so far.
    pub(super) messages_sent: u64,
    /// Since when no call is open; `None` while one is, or before the first.
    unused_since: Option<Instant>,
    /// Whether the streams that have not left were ended because nothing leaves any more.
    is_write_over: bool,
    /// When the driver looks for expired streams next; no later than the earliest deadline.
    pub(super) wake_at: Option<Instant>,
    quota: Quota,
    stale: StaleStreams,
}

type StaleStreams = Stale<SendStream<Bytes>>;

/// One open stream.
pub(super) struct Entry {
    /// Its id, which tells it from later ones in the same place of the table.
    id: u32,
    purpose: Purpose,
    pub(super) send: SendStream<Bytes>,
    /// Bytes that the engine was given to send: of HEADERS, where there is metadata, and of DATA.
    given: usize,
    deadline: Option<Instant>,
    /// Why this side ended it, if it did.
    pub(super) ended: Option<StreamError>,
    /// Whether its last message has been handed over.
    pub(super) is_send_closed: bool,
    /// Whether the whole response is here: the server takes no more messages.
    pub(super) is_answered: bool,
    /// What waits to be handed to the engine.
    pub(super) gather: Gather,
    /// How many pieces of its response have been read, which its receiving half counts.
    pub(super) answers: Answers,
    /// Who waits to send.
    pub(super) sender: Option<Waker>,
    /// Who holds what it has received, where that can be given up.
    pub(super) reader: Option<Weak<dyn Reader>>,
}

impl Entry {
    /// Resets it for `reason`, unless it has been reset before.
    fn end(&mut self, watch: &Watch, stale: &mut StaleStreams, reason: StreamError) {
        if self.ended.is_none() {
            self.ended = Some(reason);
            self.reset(watch, stale, Reason::CANCEL);
            self.wake_sender();
        }
    }

    fn reset(&mut self, watch: &Watch, stale: &mut StaleStreams, reason: Reason) {
        if !watch.has_sent(self.id) {
            // Before the reset can leave, which it is to be seen doing.
            watch.resets.want(true);
            stale.is_unsent(self.id, self.given);
        }
        self.send.send_reset(reason);
    }

    /// Hands what is gathered to the engine. Gives how many short frames that makes more.
    fn hand_over(&mut self) -> u32 {
        let before = self.gather.short_frames();
        let (piece, is_last) = self.gather.take();
        // Fails only where the stream has ended, which reading it tells.
        let _ = self.give(piece, is_last);
        self.gather.short_frames() - before
    }

    /// Gives the engine DATA to send.
    fn give(&mut self, piece: Bytes, is_last: bool) -> Result<(), h2::Error> {
        self.given += piece.len();
        self.send.send_data(piece, is_last)
    }

    /// Has whoever waits to send look again.
    fn wake_sender(&mut self) {
        if let Some(sender) = self.sender.take() {
            sender.wake();
        }
    }
}

/// Counts the pieces of a response that have been read, where that tells something: of a stream that
/// is open for sending each may answer a message.
#[derive(Clone, Debug)]
pub(super) enum Answers {
    Uncounted,
    Counted(Arc<AtomicU32>),
}

impl Answers {
    fn counted() -> Self {
        Self::Counted(Arc::default())
    }

    /// One more has been read.
    pub(super) fn count(&self) {
        if let Self::Counted(count) = self {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many have been read since the last time.
    fn take(&self) -> u32 {
        match self {
            Self::Uncounted => 0,
            Self::Counted(count) => count.swap(0, Ordering::Relaxed),
        }
    }
}

/// What a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// A call.
    Call,
    /// The channel's own affairs, which are no use of it.
    Own,
}

/// What is to be reset of a stream that is given up.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reset {
    /// The peer has ended the stream as a whole.
    Nothing,
    /// The peer has sent everything: only what this side has not sent.
    SendHalf,
    /// All of it.
    Whole(Reason),
}

impl Table {
    /// Has `frame` go out, after which the requests end if it `is_last`: with what is gathered for
    /// its stream already, or by itself where it is long. Gives whether the driver has to be woken.
    pub(super) fn put(
        &mut self,
        key: usize,
        id: u32,
        frame: Bytes,
        is_last: bool,
    ) -> Result<bool, StreamError> {
        let Self { streams, gathering, short_frames, .. } = self;
        let entry =
            streams.get_mut(key).filter(|entry| entry.id == id).ok_or(StreamError::Ended)?;
        entry.is_send_closed = is_last;
        if !entry.gather.is_empty() && !entry.gather.has_room(frame.len()) {
            *short_frames += entry.hand_over();
        }
        if entry.gather.is_empty() && (is_last || !entry.gather.has_room(frame.len())) {
            // Nothing can be gathered with it.
            entry.give(frame, is_last).map_err(|_| StreamError::Ended)?;
            return Ok(false);
        }
        if is_last {
            entry.gather.end();
        }
        if frame.is_empty() {
            return Ok(true);
        }
        if entry.gather.is_empty() {
            gathering.push((key, id));
        }
        Ok(entry.gather.push(frame) || is_last)
    }

    /// The stream at `key`, if it is still the one with `id`.
    pub(super) fn stream(&mut self, key: usize, id: u32) -> Option<&mut Entry> {
        self.streams.get_mut(key).filter(|entry| entry.id == id)
    }

    /// Ends the stream at `key` for `reason`, if it is there. Gives it.
    pub(super) fn end(
        &mut self,
        watch: &Watch,
        key: usize,
        id: u32,
        reason: StreamError,
    ) -> Option<&mut Entry> {
        let Self { streams, stale, .. } = self;
        let entry = streams.get_mut(key).filter(|entry| entry.id == id)?;
        entry.end(watch, stale, reason);
        Some(entry)
    }

    /// Whether only streams are left that are over.
    pub(super) fn has_only_stale_streams(&self) -> bool {
        !self.stale.is_empty() && !self.has_live_streams()
    }

    /// Whether the connection may close once its streams have ended.
    pub(super) fn may_close(&self) -> bool {
        self.probe.is_none()
    }

    /// Whether there are streams that this side has not ended.
    pub(super) fn has_live_streams(&self) -> bool {
        self.streams.iter().any(|(_, entry)| entry.ended.is_none())
    }
}

/// A stream's place on a connection. `None` once the stream has it, which then gives it back.
pub(super) struct Admitted(Option<Arc<Shared>>);

impl Admitted {
    /// The place that was taken on `connection`.
    pub(super) fn new(connection: &Connection) -> Self {
        Self(Some(connection.0.clone()))
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if let Some(shared) = &self.0 {
            Admission::give_back(&shared.places, &mut shared.table().quota);
            shared.admission.serve_if_queued();
        }
    }
}

fn start(
    mut admitted: Admitted,
    head: &RequestHead<'_>,
    first: Option<(Message, bool)>,
    deadline: Option<Instant>,
    waited: Duration,
    purpose: Purpose,
) -> Result<Stream, StreamError> {
    if let Some((message, _)) = &first {
        check_len(message)?;
    }
    let Some(shared) = &admitted.0 else { return Err(StreamError::Ended) };
    // It may have become another connection's stream than that which was asked.
    if let Some(authority) = head.authority {
        shared.identity.check(authority)?;
    }
    let limits = shared.field_limits();
    let request = || head.to_request(&shared.identity, &shared.template, waited, limits);
    let prepared = request()?;

    let mut guard = shared.table();
    let table = &mut *guard;
    #[cfg(feature = "test-util")]
    if table.streams_started >= shared.stream_ids {
        // As below, where the engine says so.
        shared.stop(table, || DisconnectCause::StreamIdsUsedUp);
        return Err(shared.unsent());
    }
    let (Some(send_request), Some(probe)) = (&mut table.send_request, &mut table.probe) else {
        return Err(shared.unsent());
    };
    let mut opened = send_request.send_request(prepared, false);
    if opened.is_err() {
        // Either the connection is at its end, which the probe knows, or the handle must not be
        // used again before its last stream has been sent, which a fresh one need not wait for.
        let mut cx = Context::from_waker(Waker::noop());
        match probe.poll_ready(&mut cx) {
            Poll::Ready(Err(error)) => {
                shared.stop(table, || fault::of_connection(shared, &error));
                return Err(shared.unsent());
            }
            Poll::Ready(Ok(())) | Poll::Pending => {
                *send_request = probe.clone();
                opened = send_request.send_request(request()?, false);
            }
        }
    }
    // What fails on a fresh handle of a live connection is the request itself: it has a field
    // that HTTP/2 forbids. None of ours is, and metadata has none.
    let (response, mut send) = opened.map_err(|_| StreamError::TooManyFields)?;

    let id = send.stream_id().as_u32();
    shared.watch.opened(id);
    let mut is_send_closed = false;
    let mut given = head.metadata.map_or(0, bytes_of);
    if purpose == Purpose::Call {
        table.streams_started += 1;
        shared.note(Times::stream);
        table.calls += 1;
        table.unused_since = None;
    }
    if let Some((message, is_last)) = first {
        // Fails only where the connection failed a moment ago; reading the response tells how.
        let frame = message.into_frame();
        given += frame.len();
        let _ = send.send_data(frame, is_last);
        is_send_closed = is_last;
        table.messages_sent += 1;
        shared.note(Times::sent);
    }
    let answers = if is_send_closed { Answers::Uncounted } else { Answers::counted() };
    let key = table.streams.insert(Entry {
        id,
        purpose,
        send,
        given,
        deadline,
        ended: None,
        is_send_closed,
        is_answered: false,
        gather: Gather::default(),
        answers: answers.clone(),
        sender: None,
        reader: None,
    });
    if !is_send_closed {
        table.senders.insert(id, key);
        shared.watch.signs.set_senders(table.senders.len());
    }
    shared.watch.set_open_streams(table.streams.len());
    let is_earliest = match (deadline, table.wake_at) {
        (Some(deadline), Some(wake_at)) => deadline < wake_at,
        (Some(_), None) => true,
        (None, _) => false,
    };
    if is_earliest {
        table.wake_at = deadline;
    }
    drop(guard);
    if is_earliest {
        shared.driver.wake();
    }
    let shared = admitted.0.take().ok_or(StreamError::Ended)?;
    Ok(Stream::new(shared, key, id, response, answers))
}

fn bytes_of(metadata: &HeaderMap) -> usize {
    metadata.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
}

/// Refuses what the engine would: a message that its flow control cannot count.
pub(super) fn check_len(message: &Message) -> Result<(), StreamError> {
    let len = message.payload_len();
    // Room for the prefix.
    if len > SEND_LEN_MAX - 5 {
        return Err(StreamError::SendTooLarge { len });
    }
    Ok(())
}

impl Shared {
    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        // A panic under the lock is a defect of its own; the table stays usable.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why no more streams can be opened; `otherwise` where that is not known yet.
    pub(super) fn why_stopped(
        &self,
        otherwise: impl FnOnce() -> DisconnectCause,
    ) -> Arc<Disconnect> {
        match self.stopped.get() {
            Some(cause) => Arc::clone(cause),
            None => Arc::new(self.disconnect(otherwise())),
        }
    }

    /// How the connection ended; `otherwise` where that is not known yet.
    pub(super) fn how_it_ended(
        &self,
        otherwise: impl FnOnce() -> DisconnectCause,
    ) -> Arc<Disconnect> {
        match self.ended.get() {
            Some(cause) => Arc::clone(cause),
            None => Arc::new(self.disconnect(otherwise())),
        }
    }

    /// Why the server does not look at a stream that it disowns.
    pub(super) fn disowned(&self, goaway: impl FnOnce() -> DisconnectCause) -> Arc<Disconnect> {
        match self.stopped.get() {
            Some(stopped) if matches!(stopped.cause(), DisconnectCause::Goaway(_)) => {
                Arc::clone(stopped)
            }
            // It was stopped before, as by a write that failed.
            Some(_) | None => Arc::new(self.disconnect(goaway())),
        }
    }

    fn disconnect(&self, cause: DisconnectCause) -> Disconnect {
        Disconnect::new(self.identity.address.clone(), cause).after(self.watch.goaway())
    }

    /// Notes that `what` was now, where anybody wants to know.
    pub(super) fn note(&self, what: impl FnOnce(&Times) -> &AtomicU64) {
        if let Some(times) = &self.times {
            times.note(what(times));
        }
    }

    pub(super) fn set_round_trip(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.round_trip.store(nanos.max(1), Ordering::Relaxed);
    }

    /// Whether no more streams can be opened, and why.
    pub(super) fn stopped(&self) -> Option<&Arc<Disconnect>> {
        self.stopped.get()
    }

    /// Takes no more streams, for `cause` if it is the first, and wakes who waits for admission.
    pub(super) fn stop(&self, table: &mut Table, cause: impl FnOnce() -> DisconnectCause) {
        table.send_request = None;
        table.probe = None;
        // Held on to any longer, they would keep the engine from closing.
        table.stale.unpark();
        self.admission.leave(&self.places, &mut table.quota, || {
            self.stopped.get_or_init(|| Arc::new(self.disconnect(cause())));
        });
        self.driver.wake();
    }

    /// Where writing has failed: takes no more streams, and ends those whose HEADERS had not left.
    /// What becomes of the others, the server may still say.
    pub(super) fn look_at_writing(&self) {
        let Some(failure) = self.watch.write_failure() else {
            return;
        };
        let mut table = self.table();
        if table.is_write_over {
            return;
        }
        table.is_write_over = true;
        // The engine would close without a handle, and not read on.
        let probe = table.probe.take();
        self.stop(&mut table, || DisconnectCause::Lost(failure.clone()));
        table.probe = probe;
        let cause = self.why_stopped(|| DisconnectCause::Lost(failure.clone()));
        self.end_unsent(&mut table, &cause);
    }

    /// What changes when the server lets something leave; `None` where nothing waits for that.
    pub(super) fn outlet(&self) -> Option<u64> {
        if self.stopped().is_some() {
            None
        } else if self.watch.is_write_blocked() {
            Some(self.watch.bytes_written())
        } else if self.places.are_withheld() {
            Some(self.table().stale.gone())
        } else {
            None
        }
    }

    /// Nothing has left for so long: takes no more streams, and ends those whose HEADERS had not
    /// left, which another connection may take.
    pub(super) fn has_stalled(&self, after: Duration) {
        let mut table = self.table();
        let cause = if self.watch.is_write_blocked() {
            DisconnectCause::Stalled { after }
        } else {
            DisconnectCause::NoWindow { calls: table.stale.unsent() }
        };
        self.stop(&mut table, || cause.clone());
        let why = self.why_stopped(|| cause.clone());
        self.end_unsent(&mut table, &why);
    }

    fn end_unsent(&self, table: &mut Table, cause: &Arc<Disconnect>) {
        let Table { streams, stale, .. } = table;
        for (_, entry) in streams {
            if !self.watch.has_sent(entry.id) {
                entry.end(&self.watch, stale, StreamError::Unsent(Arc::clone(cause)));
            }
        }
    }

    /// Records how the connection ended.
    pub(super) fn end(&self, cause: impl FnOnce() -> DisconnectCause) -> Arc<Disconnect> {
        let ended = self.how_it_ended(cause);
        let ended = Arc::clone(self.ended.get_or_init(|| ended));
        let mut table = self.table();
        self.stop(&mut table, || ended.cause().clone());
        ended
    }

    /// Asks the engine whether more streams can be opened, and how many.
    pub(super) fn look_at_peer(&self) {
        let mut guard = self.table();
        let table = &mut *guard;
        let Some(probe) = &mut table.probe else {
            return;
        };
        let mut cx = Context::from_waker(Waker::noop());
        if let Poll::Ready(Err(error)) = probe.poll_ready(&mut cx) {
            self.stop(table, || fault::of_connection(self, &error));
            return;
        }
        let limit = probe.current_max_send_streams();
        let has_more_room = Admission::set_limit(&self.places, &mut table.quota, limit);
        drop(guard);
        if has_more_room {
            self.admission.serve_if_queued();
        }
    }

    /// Resets the streams whose deadline has passed at `now`, and finds the next deadline.
    pub(super) fn expire(&self, now: Instant) {
        let mut table = self.table();
        let mut next: Option<Instant> = None;
        let Table { streams, stale, .. } = &mut *table;
        for (_, entry) in streams {
            let Some(deadline) = entry.deadline else {
                continue;
            };
            if entry.ended.is_some() {
                continue;
            }
            if deadline <= now {
                entry.end(&self.watch, stale, StreamError::DeadlineExceeded);
            } else if next.is_none_or(|next| deadline < next) {
                next = Some(deadline);
            }
        }
        table.wake_at = next;
    }

    /// Takes the stream at `key` out of the table and gives its admission back; what is open of it
    /// is `reset`. Does nothing if it is gone.
    pub(super) fn remove(&self, key: usize, id: u32, reset: Reset) {
        let mut table = self.table();
        if table.stream(key, id).is_none() {
            return;
        }
        let mut entry = table.streams.remove(key);
        self.send_closed(&mut table, id);
        table.short_frames -= entry.gather.short_frames();
        if matches!(reset, Reset::SendHalf) && entry.is_send_closed && !entry.gather.is_empty() {
            // The server has no more use for it. Without it, the stream would have to be reset.
            let (piece, is_last) = entry.gather.take();
            let _ = entry.give(piece, is_last);
        }
        entry.wake_sender();
        self.watch.set_open_streams(table.streams.len());
        self.watch.unread.forget(id);
        match reset {
            Reset::Whole(reason) => entry.reset(&self.watch, &mut table.stale, reason),
            // A stream that is complete must not be reset: the engine would keep it for a while.
            Reset::SendHalf if !entry.is_send_closed || self.may_wait_to_leave(&entry) => {
                entry.reset(&self.watch, &mut table.stale, Reason::NO_ERROR);
            }
            Reset::SendHalf | Reset::Nothing => {}
        }
        Admission::give_back(&self.places, &mut table.quota);
        if entry.purpose == Purpose::Call {
            table.calls -= 1;
            table.streams_succeeded += u64::from(matches!(reset, Reset::SendHalf));
            // The clock is read only where the call leaves no other behind.
            if table.calls == 0 {
                table.unused_since = Some(Instant::now());
            }
        }
        let gone = self.left_behind(&mut table, entry);
        drop(table);
        drop(gone);
        self.admission.serve_if_queued();
        self.wake_if_stopped();
    }

    /// Whether something of what the engine was given of `entry` may not leave by itself, or not
    /// soon. It would keep that for as long, and the stream open.
    fn may_wait_to_leave(&self, entry: &Entry) -> bool {
        !self.watch.has_sent(entry.id)
            || self.watch.may_lack_window()
            || self.watch.may_lack_stream_window(entry.given)
    }

    /// Notes what the engine holds of `entry`, which is over, and takes no more streams where that
    /// comes to too much. Gives what is to be dropped without the lock.
    fn left_behind(&self, table: &mut Table, entry: Entry) -> Option<Entry> {
        let is_unsent = table.stale.has(entry.id);
        let is_stopped = self.stopped().is_some();
        let is_parked = !is_unsent && !is_stopped && self.watch.may_lack_window();
        if !is_unsent && !is_parked {
            return Some(entry);
        }
        let rest = if is_unsent {
            Some(entry)
        } else {
            self.watch.resets.want(true);
            table.stale.park(entry.send);
            None
        };
        self.make_room(table);
        rest
    }

    /// Forgets what has left, and takes streams again where that makes room for them. Called when
    /// the engine has written what it could.
    pub(super) fn look_at_stale(&self) {
        if !self.watch.resets.are_wanted() {
            return;
        }
        let mut table = self.table();
        let may_lack_window = self.watch.may_lack_window();
        for (stream, by) in self.watch.resets.take() {
            table.stale.is_gone(stream, by, may_lack_window);
        }
        if !may_lack_window {
            table.stale.unpark();
        }
        self.watch.resets.want(!table.stale.is_empty());
        self.make_room(&mut table);
        drop(table);
        self.admission.serve_if_queued();
    }

    fn make_room(&self, table: &mut Table) {
        match table.stale.room() {
            Room::Enough => self.places.withhold(false),
            Room::None => self.places.withhold(true),
            // Whether they lack the window shows when the socket takes something again.
            Room::Never if self.watch.is_write_blocked() => self.places.withhold(true),
            Room::Never => {
                self.stop(table, || DisconnectCause::NoWindow { calls: PARKED_MAX });
            }
        }
    }

    /// Nothing more can be sent on a stream.
    pub(super) fn send_closed(&self, table: &mut Table, id: u32) {
        if table.senders.remove(&id).is_some() {
            self.watch.signs.set_senders(table.senders.len());
        }
    }

    /// Passes on what has gone by to those who send. Called when the engine has read what there is.
    pub(super) fn look_at_signs(&self) {
        let signs = self.watch.signs.take();
        // Where output waits, so may input that has arrived.
        let has_engine_all = !self.watch.is_write_blocked();
        let mut guard = self.table();
        let Table { senders, streams, short_frames, ending, .. } = &mut *guard;
        for (id, sign) in signs {
            let Some(entry) = senders.get(&id).and_then(|key| streams.get_mut(*key)) else {
                continue;
            };
            match sign {
                Sign::Ended if ending.contains(&id) => {}
                Sign::Ended => ending.push(id),
                Sign::MadeRoom => {
                    *short_frames -= entry.gather.short_frames();
                    entry.gather.is_read();
                }
            }
        }
        if has_engine_all {
            for id in ending.drain(..) {
                if let Some(entry) = senders.get(&id).and_then(|key| streams.get_mut(*key)) {
                    entry.is_answered = true;
                    entry.wake_sender();
                }
            }
        }
    }

    /// Hands what has been gathered to the engine. Gives when to look again at what is held back.
    pub(super) fn hand_over(&self) -> Option<Instant> {
        let mut guard = self.table();
        if guard.gathering.is_empty() {
            return None;
        }
        let Table { gathering, streams, short_frames, .. } = &mut *guard;
        let mut next: Option<Instant> = None;
        gathering.retain(|(key, id)| {
            let Some(entry) = streams.get_mut(*key).filter(|entry| entry.id == *id) else {
                return false;
            };
            if entry.gather.is_empty() || entry.ended.is_some() {
                return false;
            }
            let before = entry.gather.short_frames();
            entry.gather.answered(entry.answers.take());
            *short_frames -= before - entry.gather.short_frames();
            match entry.gather.due(*short_frames, Instant::now) {
                Due::Now => {
                    *short_frames += entry.hand_over();
                    false
                }
                Due::At(at) => {
                    next = Some(next.map_or(at, |next| next.min(at)));
                    true
                }
            }
        });
        next
    }

    /// The stream that has most unread, of those that can give it up. One that was ended here, as
    /// by its deadline, has it until it is read or dropped.
    pub(super) fn laggard(&self) -> Option<Laggard> {
        let table = self.table();
        let can_give_up = |entry: &Entry| entry.ended.is_none() || entry.reader.is_some();
        let live = table.streams.iter().filter(|(_, entry)| can_give_up(entry));
        self.watch.unread.most(live.map(|(key, entry)| (key, entry.id)))
    }

    /// Ends a stream with `error`, and gives up what nobody has read of it.
    pub(super) fn give_up_reading(&self, laggard: &Laggard, error: StreamError) {
        let mut table = self.table();
        let ended = table.end(&self.watch, laggard.key, laggard.id, error);
        let reader = ended.and_then(|entry| entry.reader.take());
        drop(table);
        self.watch.unread.forget(laggard.id);
        if let Some(reader) = reader.and_then(|reader| reader.upgrade()) {
            reader.discard();
        }
    }

    /// Keeps what is unread within its bounds.
    pub(super) fn look_at_unread(&self) {
        let unread = &self.watch.unread;
        let scattered = unread.scattered();
        if !scattered.is_empty() {
            for reader in self.readers(&scattered) {
                reader.gather();
            }
        }
        if unread.is_overgrown(|| self.table().streams.len()) {
            self.laggard();
        }
        unread.channel().relieve();
    }

    /// Who holds what these streams have received.
    fn readers(&self, ids: &[u32]) -> Vec<Arc<dyn Reader>> {
        let table = self.table();
        let entries = table.streams.iter().filter(|(_, entry)| ids.contains(&entry.id));
        entries.filter_map(|(_, entry)| entry.reader.as_ref()?.upgrade()).collect()
    }

    /// Wakes the driver where the end of a stream may be the end of the connection.
    pub(super) fn wake_if_stopped(&self) {
        if self.stopped.get().is_some() {
            self.driver.wake();
        }
    }

    fn field_limits(&self) -> FieldLimits {
        FieldLimits { own: self.request_fields_max, server: self.watch.peer_max_fields() }
    }

    /// The error of a stream that comes too late.
    fn unsent(&self) -> StreamError {
        StreamError::Unsent(self.why_stopped(|| DisconnectCause::Local))
    }
}

/// What a server that sets no limit to streams amounts to.
const NO_LIMIT: usize = u32::MAX as usize;

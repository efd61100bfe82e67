//! One connection, as calls use it.

use std::fmt;
use std::mem;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use atomic_waker::AtomicWaker;
use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, SendStream};
use slab::Slab;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, TryAcquireError};
use tokio::time::{Instant, sleep_until};

use crate::types::Address;

use super::super::ConnectionOptions;
use super::super::error::{Disconnect, DisconnectCause, StreamError};
use super::super::message::{Message, SEND_LEN_MAX};
use super::driver::Driver;
use super::observed::{Observed, Watch};
use super::request::Template;
use super::stream::Stream;
use super::{Identity, RequestHead, fault};

/// A live HTTP/2 connection; a cheap handle.
///
/// Dropping handles does not end it: [`Connection::drain`] or [`Connection::close`] does, or the
/// server.
#[derive(Clone)]
pub(crate) struct Connection(Arc<Shared>);

impl Connection {
    /// Opens a stream: sends `head` and, where `first` gives one, the first message in the same
    /// flush; its flag says whether it is also the last.
    ///
    /// Where the server takes no more streams, this waits in a fair queue until it does, the
    /// connection takes no more ([`StreamError::Unsent`]) or `deadline` passes; where too many
    /// wait already, it fails at once. The stream itself is reset at `deadline`, polled or not.
    /// Cancel-safe: a dropped future has sent nothing.
    pub(crate) async fn open(
        &self,
        head: &RequestHead<'_>,
        first: Option<(Message, bool)>,
        deadline: Option<Instant>,
    ) -> Result<Stream, StreamError> {
        let waited = if self.0.admit_now()? {
            Duration::ZERO
        } else {
            Box::pin(self.0.admit_later(deadline)).await?
        };
        let admitted = Admitted(&self.0);
        let stream = start(&self.0, head, first, deadline, waited)?;
        // The stream gives it back.
        mem::forget(admitted);
        Ok(stream)
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
        for (_, entry) in &mut table.streams {
            entry.end(StreamError::Closed);
        }
        drop(table);
        self.0.driver.wake();
    }

    /// Where it was dialled.
    pub(crate) fn address(&self) -> &Address {
        &self.0.identity.address
    }

    /// How many streams are open.
    pub(crate) fn open_streams(&self) -> usize {
        self.0.table().streams.len()
    }

    /// How many calls wait for the server to take more streams.
    pub(crate) fn queued_streams(&self) -> usize {
        self.0.queued.load(Ordering::Relaxed)
    }

    /// How many streams the server takes at a time.
    pub(crate) fn max_concurrent_streams(&self) -> usize {
        self.0.table().limit
    }

    /// Whether new streams can be opened, as far as is known.
    pub(crate) fn is_usable(&self) -> bool {
        self.0.stopped.get().is_none()
    }

    /// What has gone over it so far.
    pub(crate) fn traffic(&self) -> Traffic {
        let traffic = &self.0.traffic;
        Traffic {
            streams_started: traffic.streams_started.load(Ordering::Relaxed),
            messages_sent: traffic.messages_sent.load(Ordering::Relaxed),
            messages_received: traffic.messages_received.load(Ordering::Relaxed),
            bytes_read: self.0.watch.bytes_read(),
            bytes_written: self.0.watch.bytes_written(),
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

/// What has gone over a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    /// Streams opened.
    pub(crate) streams_started: u64,
    /// Messages handed over for sending.
    pub(crate) messages_sent: u64,
    /// Whole messages that arrived and were read.
    pub(crate) messages_received: u64,
    /// Bytes that came in, all overhead of HTTP/2 included.
    pub(crate) bytes_read: u64,
    /// Bytes that went out, likewise.
    pub(crate) bytes_written: u64,
}

/// A connection whose prefaces have been exchanged, and what drives it.
pub(super) fn new(
    engine: h2::client::Connection<Observed, Bytes>,
    send_request: SendRequest<Bytes>,
    watch: Arc<Watch>,
    identity: Identity,
    options: &ConnectionOptions,
) -> (Connection, Driver) {
    let limit = send_request.current_max_send_streams().min(Semaphore::MAX_PERMITS);
    let shared = Arc::new(Shared {
        identity,
        template: Template::new(options.user_agent.clone()),
        watch,
        table: Mutex::new(Table {
            probe: Some(send_request.clone()),
            send_request: Some(send_request),
            streams: Slab::new(),
            wake_at: None,
            limit,
            deficit: 0,
        }),
        admission: Semaphore::new(limit),
        queued: AtomicUsize::new(0),
        queued_max: options.queued_streams_max,
        runtime: Handle::current(),
        driver: AtomicWaker::new(),
        stopped: OnceLock::new(),
        ended: OnceLock::new(),
        traffic: Counters::default(),
    });
    let driver = Driver::new(engine, Arc::clone(&shared));
    (Connection(shared), driver)
}

/// What the handles of a connection, its streams and its driver share.
pub(super) struct Shared {
    identity: Identity,
    template: Template,
    pub(super) watch: Arc<Watch>,
    /// Held only for a few calls into the engine, never across an await.
    table: Mutex<Table>,
    /// A permit for each stream that the peer takes. Closed when no more can be opened.
    admission: Semaphore,
    /// Calls that wait for a permit.
    queued: AtomicUsize,
    /// How many may.
    queued_max: usize,
    /// Where the connection was dialled: its timers serve callers that run elsewhere.
    runtime: Handle,
    /// Wakes the driver.
    pub(super) driver: AtomicWaker,
    /// Why no more streams can be opened; set before `admission` is closed.
    stopped: OnceLock<Arc<Disconnect>>,
    /// How the connection ended.
    ended: OnceLock<Arc<Disconnect>>,
    pub(super) traffic: Counters,
}

#[derive(Default)]
pub(super) struct Counters {
    streams_started: AtomicU64,
    pub(super) messages_sent: AtomicU64,
    pub(super) messages_received: AtomicU64,
}

/// The part of a connection under its lock.
pub(super) struct Table {
    /// Opens streams; `None` once no more can be opened.
    send_request: Option<SendRequest<Bytes>>,
    /// Sends nothing, so that asking it for the state of the connection takes no stream's place
    /// as the one to be woken.
    probe: Option<SendRequest<Bytes>>,
    pub(super) streams: Slab<Entry>,
    /// When the driver looks for expired streams next; no later than the earliest deadline.
    pub(super) wake_at: Option<Instant>,
    /// How many streams the peer takes.
    limit: usize,
    /// Permits that are out beyond `limit`, because it was lowered: swallowed when given back.
    deficit: usize,
}

/// One open stream.
pub(super) struct Entry {
    /// Its id, which tells it from later ones in the same place of the table.
    id: u32,
    pub(super) send: SendStream<Bytes>,
    deadline: Option<Instant>,
    /// Why this side ended it, if it did.
    pub(super) ended: Option<StreamError>,
    /// Whether its last message has been handed over.
    pub(super) is_send_closed: bool,
}

impl Entry {
    /// Resets it for `reason`, unless it has been reset before.
    pub(super) fn end(&mut self, reason: StreamError) {
        if self.ended.is_none() {
            self.ended = Some(reason);
            self.send.send_reset(Reason::CANCEL);
        }
    }
}

impl Table {
    /// The stream at `key`, if it is still the one with `id`.
    pub(super) fn stream(&mut self, key: usize, id: u32) -> Option<&mut Entry> {
        self.streams.get_mut(key).filter(|entry| entry.id == id)
    }
}

/// A stream's admission until the stream has it.
struct Admitted<'a>(&'a Shared);

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        self.0.give_back(&mut self.0.table());
    }
}

/// A place in the queue for admission.
struct Queued<'a>(&'a AtomicUsize);

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn start(
    shared: &Arc<Shared>,
    head: &RequestHead<'_>,
    first: Option<(Message, bool)>,
    deadline: Option<Instant>,
    waited: Duration,
) -> Result<Stream, StreamError> {
    if let Some((message, _)) = &first {
        check_len(message)?;
    }
    let request = || head.to_request(&shared.identity, &shared.template, waited);
    let prepared = request()?;

    let mut guard = shared.table();
    let table = &mut *guard;
    let stopped = || StreamError::Unsent(shared.why_stopped(|| DisconnectCause::Local));
    let (Some(send_request), Some(probe)) = (&mut table.send_request, &mut table.probe) else {
        return Err(stopped());
    };
    let mut opened = send_request.send_request(prepared, false);
    if opened.is_err() {
        // Either the connection is at its end, which the probe knows, or the handle must not be
        // used again before its last stream has been sent, which a fresh one need not wait for.
        let mut cx = Context::from_waker(Waker::noop());
        match probe.poll_ready(&mut cx) {
            Poll::Ready(Err(error)) => {
                shared.stop(table, || fault::of_connection(shared, &error));
                return Err(stopped());
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
    let mut is_send_closed = false;
    let count = &shared.traffic;
    count.streams_started.fetch_add(1, Ordering::Relaxed);
    if let Some((message, is_last)) = first {
        // Fails only where the connection failed a moment ago; reading the response tells how.
        let _ = send.send_data(message.into_frame(), is_last);
        is_send_closed = is_last;
        count.messages_sent.fetch_add(1, Ordering::Relaxed);
    }
    let key = table.streams.insert(Entry { id, send, deadline, ended: None, is_send_closed });
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
    Ok(Stream::new(Arc::clone(shared), key, id, response))
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
            None => Arc::new(Disconnect::new(self.identity.address.clone(), otherwise())),
        }
    }

    /// How the connection ended; `otherwise` where that is not known yet.
    pub(super) fn how_it_ended(
        &self,
        otherwise: impl FnOnce() -> DisconnectCause,
    ) -> Arc<Disconnect> {
        match (self.ended.get(), self.stopped.get()) {
            (Some(cause), _) => Arc::clone(cause),
            (None, stopped) => {
                let ended = Disconnect::new(self.identity.address.clone(), otherwise());
                Arc::new(match stopped {
                    Some(prior) => ended.after(prior),
                    None => ended,
                })
            }
        }
    }

    /// Whether no more streams can be opened, and why.
    pub(super) fn stopped(&self) -> Option<&Arc<Disconnect>> {
        self.stopped.get()
    }

    /// Takes no more streams, for `cause` if it is the first, and wakes who waits for admission.
    pub(super) fn stop(&self, table: &mut Table, cause: impl FnOnce() -> DisconnectCause) {
        self.stopped
            .get_or_init(|| Arc::new(Disconnect::new(self.identity.address.clone(), cause())));
        table.send_request = None;
        table.probe = None;
        self.admission.close();
        self.driver.wake();
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
        let limit = probe.current_max_send_streams().min(Semaphore::MAX_PERMITS);
        let (raised, lowered) =
            (limit.saturating_sub(table.limit), table.limit.saturating_sub(limit));
        table.limit = limit;
        if raised > 0 {
            let swallowed = raised.min(table.deficit);
            table.deficit -= swallowed;
            self.admission.add_permits(raised - swallowed);
        } else if lowered > 0 {
            table.deficit += lowered - self.admission.forget_permits(lowered);
        }
    }

    /// Resets the streams whose deadline has passed at `now`, and finds the next deadline.
    pub(super) fn expire(&self, now: Instant) {
        let mut table = self.table();
        let mut next: Option<Instant> = None;
        for (_, entry) in &mut table.streams {
            let Some(deadline) = entry.deadline else {
                continue;
            };
            if entry.ended.is_some() {
                continue;
            }
            if deadline <= now {
                entry.end(StreamError::DeadlineExceeded);
            } else if next.is_none_or(|next| deadline < next) {
                next = Some(deadline);
            }
        }
        table.wake_at = next;
    }

    /// Takes the stream at `key` out of the table, resets it with `reset` if that still means
    /// anything, and gives its admission back. Does nothing if it is gone.
    pub(super) fn remove(&self, key: usize, id: u32, reset: Option<Reason>) {
        let mut table = self.table();
        if table.stream(key, id).is_none() {
            return;
        }
        let mut entry = table.streams.remove(key);
        // A response that ended after the last message ended the whole stream: nothing is left to
        // reset, or, where that message is still on its way out, dropping the stream does it.
        let is_complete = entry.is_send_closed && reset == Some(Reason::NO_ERROR);
        if let Some(reason) = reset.filter(|_| !is_complete) {
            entry.send.send_reset(reason);
        }
        self.give_back(&mut table);
        drop(table);
        drop(entry);
        self.wake_if_stopped();
    }

    /// Wakes the driver where the end of a stream may be the end of the connection.
    pub(super) fn wake_if_stopped(&self) {
        if self.stopped.get().is_some() {
            self.driver.wake();
        }
    }

    fn give_back(&self, table: &mut Table) {
        if table.deficit > 0 {
            table.deficit -= 1;
        } else {
            self.admission.add_permits(1);
        }
    }

    /// Whether a stream is admitted without waiting.
    fn admit_now(&self) -> Result<bool, StreamError> {
        match self.admission.try_acquire() {
            Ok(permit) => {
                permit.forget();
                Ok(true)
            }
            Err(TryAcquireError::NoPermits) => Ok(false),
            Err(TryAcquireError::Closed) => Err(self.refused()),
        }
    }

    /// Waits for admission; says how long that took.
    async fn admit_later(&self, deadline: Option<Instant>) -> Result<Duration, StreamError> {
        let before = self.queued.fetch_add(1, Ordering::Relaxed);
        let _queued = Queued(&self.queued);
        if before >= self.queued_max {
            return Err(StreamError::QueueFull { limit: self.queued_max });
        }
        let since = Instant::now();
        let permit = match deadline {
            None => self.admission.acquire().await,
            Some(deadline) => {
                let expired = {
                    // The caller may run outside of any runtime.
                    let _entered = self.runtime.enter();
                    sleep_until(deadline)
                };
                tokio::select! {
                    biased;
                    permit = self.admission.acquire() => permit,
                    () = expired => return Err(StreamError::DeadlineExceeded),
                }
            }
        };
        match permit {
            Ok(permit) => {
                permit.forget();
                Ok(since.elapsed())
            }
            Err(_closed) => Err(self.refused()),
        }
    }

    fn refused(&self) -> StreamError {
        StreamError::Unsent(self.why_stopped(|| DisconnectCause::Local))
    }
}

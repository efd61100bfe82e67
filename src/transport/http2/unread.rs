//! What has arrived and nobody has read: a bound on it for a whole channel, and a window that it
//! does not close.
//!
//! The engine gives room back to a server when a stream is read, the stream's and the connection's
//! at once. A stream that nobody reads would so take the room of all others. Here the connection's
//! window grows by what is unread, so that only the stream's own ever closes; and what a channel
//! holds is bounded by ending the stream that has most of it.
//!
//! Windows count bytes of DATA, the bound counts memory. The engine keeps each frame in a place of
//! its own, and with it the whole buffer that the socket was read into, so that a message of one
//! byte may take 8 KiB. Where a stream has many small frames, its reader gathers them.

use std::fmt;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::super::error::StreamError;
use super::ById;
use super::connection::Shared;
use super::sieve::FIELDS_FREE;

/// How much of what arrives on the connections of a channel may wait to be read.
pub(crate) struct ReceiveBuffer {
    limit: usize,
    total: AtomicUsize,
    /// Locked before the table of any of them, never after.
    connections: Mutex<Vec<Weak<Shared>>>,
}

/// Holds what a stream has received. Called by no thread that holds a lock of the connection.
pub(crate) trait Reader: Send + Sync {
    /// Gives up what has been received and nobody has read.
    fn discard(&self);

    /// Takes what has arrived over from the engine, which keeps each frame by itself.
    fn gather(&self);
}

impl ReceiveBuffer {
    /// Up to `limit` bytes on all connections together.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, total: AtomicUsize::new(0), connections: Mutex::default() })
    }

    pub(super) fn join(&self, connection: &Arc<Shared>) {
        let mut connections = self.connections();
        connections.retain(|it| it.strong_count() > 0);
        connections.push(Arc::downgrade(connection));
    }

    /// Where too much is unread, ends the streams that have most of it until that is over.
    pub(super) fn relieve(&self) {
        if self.total.load(Ordering::Relaxed) <= self.limit {
            return;
        }
        // One at a time: two would each find a stream too many.
        let connections = self.connections();
        while self.total.load(Ordering::Relaxed) > self.limit {
            let alive = connections.iter().filter_map(Weak::upgrade);
            let laggards = alive.filter_map(|it| Some((it.laggard()?, it)));
            let Some((laggard, connection)) = laggards.max_by_key(|(laggard, _)| laggard.unread)
            else {
                return;
            };
            let error = StreamError::ReceiveBufferFull { limit: self.limit };
            connection.give_up_reading(&laggard, error);
        }
    }

    fn connections(&self) -> MutexGuard<'_, Vec<Weak<Shared>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for ReceiveBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceiveBuffer")
            .field("limit", &self.limit)
            .field("total", &self.total)
            .finish_non_exhaustive()
    }
}

/// The open stream of a connection that has most unread.
pub(super) struct Laggard {
    pub(super) key: usize,
    pub(super) id: u32,
    unread: usize,
}

/// What is unread on one connection.
#[derive(Debug)]
pub(super) struct Unread {
    /// A copy of what is under the lock, for those who only look.
    bytes: AtomicUsize,
    /// How many streams are counted, likewise.
    counted: AtomicUsize,
    /// Whether any stream has many small frames.
    has_scattered: AtomicBool,
    streams: Mutex<Streams>,
    channel: Arc<ReceiveBuffer>,
}

#[derive(Debug, Default)]
struct Streams {
    by_id: ById<Backlog>,
    /// Bytes of DATA of all streams, which take room in the connection's window.
    bytes: usize,
    /// What all streams take in memory, in bytes.
    cost: usize,
    /// Streams that have many small frames.
    scattered: Vec<u32>,
    /// Where the last frame ended in all that has arrived on the connection.
    position: u64,
}

/// What of one stream is unread.
#[derive(Debug, Default)]
struct Backlog {
    /// Frames in the engine.
    frames: usize,
    /// Their bytes.
    frame_bytes: usize,
    /// What they take in memory.
    frame_cost: usize,
    /// Where the last of them ended in all that has arrived on the connection.
    position: u64,
    /// From how many frames on they are to be gathered.
    gather_from: usize,
    /// Blocks that were gathered of frames.
    blocks: usize,
    /// Their bytes.
    block_bytes: usize,
    /// What the header fields of the stream take in memory, beyond what any stream may have.
    fields_cost: usize,
    /// How often it has had headers that may be informational.
    interim_heads: u8,
}

impl Backlog {
    fn bytes(&self) -> usize {
        self.frame_bytes + self.block_bytes
    }

    fn cost(&self) -> usize {
        self.frame_cost + self.block_bytes + self.blocks * BLOCK_COST + self.fields_cost
    }

    /// Whether its frames take far more memory than they have bytes.
    fn is_scattered(&self) -> bool {
        self.frame_cost > 2 * self.frame_bytes + SCATTERED_MIN && self.frames >= self.gather_from
    }

    /// Forgets so many of its frames. Which of them took how much is not known: each counts as
    /// much as the mean.
    fn take_frames(&mut self, frames: usize, bytes: usize) {
        let frames = frames.min(self.frames);
        if frames == self.frames {
            (self.frames, self.frame_bytes, self.frame_cost) = (0, 0, 0);
            return;
        }
        // Below what there is of each, so that nothing overflows.
        self.frame_cost -= self.frame_cost / self.frames * frames;
        self.frames -= frames;
        self.frame_bytes = self.frame_bytes.saturating_sub(bytes);
    }
}

/// What a reader has taken since it last said so.
#[derive(Debug, Default)]
pub(super) struct Taken {
    frames: usize,
    frame_bytes: usize,
    blocks: usize,
    block_bytes: usize,
}

impl Taken {
    /// A frame of so many bytes, from the engine. An empty one was not counted.
    pub(super) fn frame(&mut self, len: usize) {
        self.frames += usize::from(len > 0);
        self.frame_bytes += len;
    }

    /// A block of so many bytes that had been gathered.
    pub(super) fn block(&mut self, len: usize) {
        self.blocks += 1;
        self.block_bytes += len;
    }

    /// Whether there is enough to say so in between.
    pub(super) fn is_much(&self) -> bool {
        self.frames + self.blocks >= TAKEN_MAX
    }

    fn is_nothing(&self) -> bool {
        self.frames + self.blocks == 0
    }
}

impl Unread {
    pub(super) fn new(channel: Arc<ReceiveBuffer>) -> Self {
        Self {
            bytes: AtomicUsize::new(0),
            counted: AtomicUsize::new(0),
            has_scattered: AtomicBool::new(false),
            streams: Mutex::default(),
            channel,
        }
    }

    /// Bytes of DATA, which take room in the connection's window.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn channel(&self) -> &ReceiveBuffer {
        &self.channel
    }

    /// Begins to count what has arrived in one piece. The first thing that is counted takes the
    /// lock.
    pub(super) fn arrivals(&self) -> Arrivals<'_> {
        Arrivals { unread: self, streams: None, bytes: 0, cost: 0 }
    }

    /// A reader of `stream` has taken these, and begins a new account.
    pub(super) fn read(&self, stream: u32, taken: &mut Taken) {
        if taken.is_nothing() {
            return;
        }
        let taken = mem::take(taken);
        self.change(stream, |backlog| {
            backlog.take_frames(taken.frames, taken.frame_bytes);
            backlog.blocks = backlog.blocks.saturating_sub(taken.blocks);
            backlog.block_bytes = backlog.block_bytes.saturating_sub(taken.block_bytes);
        });
    }

    /// A reader of `stream` has made a block of these, and begins a new account.
    pub(super) fn gathered(&self, stream: u32, taken: &mut Taken) {
        let taken = mem::take(taken);
        self.change(stream, |backlog| {
            backlog.take_frames(taken.frames, taken.frame_bytes);
            backlog.gather_from = 0;
            backlog.blocks += 1;
            backlog.block_bytes += taken.frame_bytes;
        });
    }

    /// What is left of `stream` will not be read.
    pub(super) fn forget(&self, stream: u32) {
        if self.counted.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut streams = self.streams();
        let Some(backlog) = streams.by_id.remove(&stream) else { return };
        let (bytes, cost) = (streams.bytes - backlog.bytes(), streams.cost - backlog.cost());
        self.set_sums(&mut streams, bytes, cost);
    }

    /// The streams that have many small frames, of which each is told once.
    pub(super) fn scattered(&self) -> Vec<u32> {
        if !self.has_scattered.swap(false, Ordering::Relaxed) {
            return Vec::new();
        }
        mem::take(&mut self.streams().scattered)
    }

    /// Forgets all streams but those of `live`, and finds the one with most; `live` are the place
    /// and the number of each.
    pub(super) fn most(&self, live: impl Iterator<Item = (usize, u32)>) -> Option<Laggard> {
        let mut streams = self.streams();
        let mut kept = ById::default();
        let (mut bytes, mut cost) = (0, 0);
        let mut most: Option<Laggard> = None;
        for (key, id) in live {
            let Some(backlog) = streams.by_id.remove(&id) else { continue };
            let unread = backlog.cost();
            (bytes, cost) = (bytes + backlog.bytes(), cost + unread);
            kept.insert(id, backlog);
            if unread > most.as_ref().map_or(0, |most| most.unread) {
                most = Some(Laggard { key, id, unread });
            }
        }
        // Without what came for streams that were gone by then.
        streams.by_id = kept;
        self.set_sums(&mut streams, bytes, cost);
        most
    }

    /// Whether so many streams are counted that some of them must be gone.
    pub(super) fn is_overgrown(&self, open_streams: impl FnOnce() -> usize) -> bool {
        let counted = self.counted.load(Ordering::Relaxed);
        counted > STRAYS_MAX && counted > 2 * open_streams() + STRAYS_MAX
    }

    /// Changes what is counted of `stream`, if it is.
    fn change(&self, stream: u32, change: impl FnOnce(&mut Backlog)) {
        let mut streams = self.streams();
        let Streams { by_id, bytes, cost, .. } = &mut *streams;
        let Some(backlog) = by_id.get_mut(&stream) else { return };
        let others = (*bytes - backlog.bytes(), *cost - backlog.cost());
        change(backlog);
        let (bytes, cost) = (others.0 + backlog.bytes(), others.1 + backlog.cost());
        self.set_sums(&mut streams, bytes, cost);
    }

    /// What all streams have and take is this from now on.
    fn set_sums(&self, streams: &mut Streams, bytes: usize, cost: usize) {
        // Wraps around where it becomes less, as the sum does.
        self.channel.total.fetch_add(cost.wrapping_sub(streams.cost), Ordering::Relaxed);
        (streams.bytes, streams.cost) = (bytes, cost);
        self.bytes.store(bytes, Ordering::Relaxed);
        self.counted.store(streams.by_id.len(), Ordering::Relaxed);
    }

    fn streams(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        let streams = self.streams.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.channel.total.fetch_sub(streams.cost, Ordering::Relaxed);
    }
}

/// Counts what has arrived in one piece. The sums change before the lock is given back, so that a
/// reader cannot take from them what is not in them yet.
pub(super) struct Arrivals<'a> {
    unread: &'a Unread,
    streams: Option<MutexGuard<'a, Streams>>,
    bytes: usize,
    cost: usize,
}

impl Arrivals<'_> {
    /// Counts header fields, of which the first [`FIELDS_FREE`] bytes are free. Says whether their stream has had more informational ones than a server
    /// has to say.
    pub(super) fn fields(&mut self, stream: u32, cost: usize, is_interim: bool) -> bool {
        let unread = self.unread;
        let streams = self.streams.get_or_insert_with(|| unread.streams());
        let backlog = streams.by_id.entry(stream).or_default();
        let cost = if is_interim {
            backlog.interim_heads = backlog.interim_heads.saturating_add(1);
            cost + FRAME_COST
        } else {
            cost.saturating_sub(FIELDS_FREE)
        };
        backlog.fields_cost += cost;
        let is_too_many = backlog.interim_heads > INTERIM_HEADS_MAX;
        self.cost += cost;
        is_too_many
    }

    /// Counts a frame of DATA. Its last byte is the one before `position` in all that arrives.
    pub(super) fn data(&mut self, stream: u32, len: usize, position: u64) {
        // The engine keeps no frame that is empty, but one that ends its stream.
        if len == 0 {
            return;
        }
        let unread = self.unread;
        let streams = self.streams.get_or_insert_with(|| unread.streams());
        let Streams { by_id, scattered, position: last, .. } = &mut **streams;
        let backlog = by_id.entry(stream).or_default();
        // What came since the last frame may all be gone but for the memory that it shares with
        // this one. A stream's first frame shares it with others that are unread.
        let before = if backlog.frames == 0 { *last } else { backlog.position };
        let pinned = (position - before).min(READ_BUFFER_LEN as u64) as usize;
        let cost = FRAME_COST + len.max(pinned);
        *last = position;
        backlog.position = position;
        backlog.frames += 1;
        backlog.frame_bytes += len;
        backlog.frame_cost += cost;
        if backlog.is_scattered() {
            // Where nobody gathers them, that is tried again in a while.
            backlog.gather_from = 2 * backlog.frames;
            scattered.push(stream);
            unread.has_scattered.store(true, Ordering::Relaxed);
        }
        self.bytes += len;
        self.cost += cost;
    }

    /// What all that was counted takes in memory.
    pub(super) fn cost(&self) -> usize {
        self.cost
    }
}

impl Drop for Arrivals<'_> {
    fn drop(&mut self) {
        if let Some(streams) = &mut self.streams {
            let (bytes, cost) = (streams.bytes + self.bytes, streams.cost + self.cost);
            self.unread.set_sums(streams, bytes, cost);
        }
    }
}

/// The window of a connection: what a server may send ahead, beside what nobody has read.
#[derive(Debug)]
pub(super) struct Window {
    ahead: u32,
    /// What of the unread it makes up for.
    unread: u32,
}

impl Window {
    pub(super) fn new(ahead: u32) -> Self {
        Self { ahead, unread: 0 }
    }

    /// The server may from now on send so much ahead. Gives the window to set.
    pub(super) fn widen(&mut self, ahead: u32) -> u32 {
        self.ahead = self.ahead.max(ahead);
        self.target()
    }

    /// So much is unread. Gives the window to set, where that makes a difference.
    pub(super) fn make_up_for(&mut self, unread: usize) -> Option<u32> {
        let unread = u32::try_from(unread).unwrap_or(u32::MAX);
        if unread.abs_diff(self.unread) < self.ahead / 8 {
            return None;
        }
        self.unread = unread;
        Some(self.target())
    }

    fn target(&self) -> u32 {
        self.ahead.saturating_add(self.unread).min(super::WINDOW_MAX)
    }
}

/// What the engine spends on a frame beside its bytes: a place of 256 bytes in a table that doubles
/// when it is full.
const FRAME_COST: usize = 512;

/// What the engine reads from the socket into. It is kept until the last frame in it is gone.
pub(super) const READ_BUFFER_LEN: usize = 8 * 1024;

/// What a block of gathered frames takes beside its bytes.
const BLOCK_COST: usize = 128;

/// From which excess on frames are gathered: little for a stream that lags, and enough that
/// gathering costs far less than the arrival.
const SCATTERED_MIN: usize = 64 * 1024;

/// So many frames a reader takes before it says so.
const TAKEN_MAX: usize = 32;

/// More informational headers than any server has to send before it answers. The engine keeps them
/// until the call is polled.
pub(super) const INTERIM_HEADS_MAX: u8 = 100;

/// How many streams may be counted that are gone: DATA may still be under way to them.
const STRAYS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames of DATA, one behind the other.
    struct Wire<'a> {
        unread: &'a Unread,
        position: u64,
    }

    impl Wire<'_> {
        /// What it costs that a frame arrives behind so many other bytes.
        fn data(&mut self, stream: u32, len: usize, behind: u64) -> usize {
            self.position += behind + len as u64;
            let mut arrivals = self.unread.arrivals();
            arrivals.data(stream, len, self.position);
            arrivals.cost()
        }
    }

    fn wire(unread: &Unread) -> Wire<'_> {
        Wire { unread, position: 0 }
    }

    fn total(channel: &ReceiveBuffer) -> usize {
        channel.total.load(Ordering::Relaxed)
    }

    fn taken(frames: &[usize]) -> Taken {
        let mut taken = Taken::default();
        for len in frames {
            taken.frame(*len);
        }
        taken
    }

    #[test]
    fn what_arrives_and_is_read_or_forgotten_comes_to_nothing() {
        let channel = ReceiveBuffer::new(1_000);
        let unread = Unread::new(channel.clone());
        let mut wire = wire(&unread);
        assert_eq!(wire.data(1, 600, 9), FRAME_COST + 609);
        assert_eq!(wire.data(3, 500, 9), FRAME_COST + 509);
        // The empty ones are not kept.
        assert_eq!(wire.data(5, 0, 9), 0);
        assert_eq!((unread.bytes(), total(&channel)), (1_100, 2 * FRAME_COST + 1_118));
        unread.read(5, &mut taken(&[300]));
        let most = unread.most([(0, 1), (7, 3)].into_iter()).unwrap();
        assert_eq!((most.key, most.id, most.unread), (0, 1, FRAME_COST + 609));
        // One that is gone counts no more.
        assert_eq!(unread.most([(7, 3)].into_iter()).unwrap().id, 3);
        assert_eq!((unread.bytes(), total(&channel)), (500, FRAME_COST + 509));
        unread.read(3, &mut taken(&[500, 999]));
        assert_eq!((unread.bytes(), total(&channel)), (0, 0));
        unread.forget(3);
        wire.data(9, 700, 0);
        drop(unread);
        assert_eq!(total(&channel), 0);
    }

    #[test]
    fn a_frame_costs_the_buffer_that_it_alone_may_keep() {
        let unread = Unread::new(ReceiveBuffer::new(usize::MAX));
        let mut wire = wire(&unread);
        assert_eq!(wire.data(1, 1, 9), FRAME_COST + 10);
        // What came between belongs to a stream that is read.
        assert_eq!(wire.data(3, 4_000, 9), FRAME_COST + 4_009);
        unread.read(3, &mut taken(&[4_000]));
        assert_eq!(wire.data(1, 1, 9), FRAME_COST + 4_019);
        // Or to none.
        assert_eq!(wire.data(1, 1, 1 << 20), FRAME_COST + READ_BUFFER_LEN);
        assert_eq!(wire.data(1, 16_384, 9), FRAME_COST + 16_384);
        unread.forget(1);
        assert_eq!(unread.streams().cost, 0);
    }

    #[test]
    fn small_frames_are_told_to_be_gathered_and_cost_their_bytes_from_then_on() {
        let channel = ReceiveBuffer::new(usize::MAX);
        let unread = Unread::new(channel.clone());
        let mut wire = wire(&unread);
        let mut frames = Vec::new();
        while unread.scattered().is_empty() {
            wire.data(1, 5, 9);
            frames.push(5);
            assert!(frames.len() < 1_000);
        }
        assert!(frames.len() > 100, "{}", frames.len());
        // Nobody gathers them: that is told again, less and less often.
        let told = (0..frames.len() * 8).filter(|_| {
            wire.data(1, 5, 9);
            !unread.scattered().is_empty()
        });
        assert_eq!(told.count(), 3);
        let bytes = unread.bytes();
        unread.gathered(1, &mut taken(&vec![5; bytes / 5]));
        assert_eq!((unread.bytes(), total(&channel)), (bytes, bytes + BLOCK_COST));
        let mut rest = Taken::default();
        rest.block(bytes);
        unread.read(1, &mut rest);
        assert_eq!((unread.bytes(), total(&channel)), (0, 0));
        // Large ones are left alone.
        for _ in 0..1_000 {
            wire.data(3, 1_000, 9);
        }
        assert_eq!(unread.scattered(), [0; 0]);
    }

    #[test]
    fn fields_count_beyond_what_any_stream_has_and_informational_ones_from_the_first() {
        let channel = ReceiveBuffer::new(usize::MAX);
        let unread = Unread::new(channel.clone());
        let count = |stream, cost, is_interim| unread.arrivals().fields(stream, cost, is_interim);
        assert!(!count(3, FIELDS_FREE, false));
        assert_eq!(total(&channel), 0);
        count(1, FIELDS_FREE + 70, false);
        assert_eq!(total(&channel), 70);
        // However many streams they are spread over.
        for time in 1..=INTERIM_HEADS_MAX {
            for stream in 0..600 {
                assert!(!count(stream, 8, true), "{time}");
            }
        }
        assert!(count(512, 8, true) && count(0, 8, true));
        for stream in 0..600 {
            unread.forget(stream);
        }
        assert_eq!(total(&channel), 0);
        assert!(!count(512, 8, true));
    }

    #[test]
    fn streams_that_are_gone_are_not_counted_for_ever() {
        let unread = Unread::new(ReceiveBuffer::new(usize::MAX));
        let mut wire = wire(&unread);
        for stream in 0..=STRAYS_MAX as u32 {
            assert!(!unread.is_overgrown(|| 0));
            wire.data(stream, 1, 9);
        }
        assert!(unread.is_overgrown(|| 0) && !unread.is_overgrown(|| 1));
        assert!(unread.most(std::iter::empty()).is_none());
        assert_eq!((unread.bytes(), unread.is_overgrown(|| 0)), (0, false));
    }

    #[test]
    fn a_window_makes_up_for_what_is_unread() {
        let mut window = Window::new(800);
        assert_eq!(window.make_up_for(99), None);
        assert_eq!(window.make_up_for(100), Some(900));
        assert_eq!(window.make_up_for(150), None);
        assert_eq!(window.widen(1_000), 1_100);
        assert_eq!(window.make_up_for(0), None);
        assert_eq!(window.make_up_for(usize::MAX), Some(super::super::WINDOW_MAX));
        assert_eq!(window.make_up_for(0), Some(1_000));
    }
}

//! Where a binary log goes.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread::{self, JoinHandle};

/// Takes the entries of a [`BinaryLog`](super::BinaryLog).
pub trait BinaryLogSink: Send + Sync + 'static {
    /// Takes an entry: an encoded `grpc.binarylog.v1.GrpcLogEntry`. Called on the path of calls, so
    /// it must not block; several calls may be at it side by side.
    fn write(&self, entry: Vec<u8>);
}

/// A file in the form that gRPC's own tools read: before each entry its length, in four bytes with
/// the highest first.
///
/// A thread writes it, so that no call waits for a disk. What that has not written yet is bounded
/// to 16 MiB; an entry beyond is [counted](Self::lost) and left out. Dropping the sink waits until
/// all is written.
#[derive(Debug)]
pub struct FileSink {
    shared: Arc<Shared>,
    entries: Option<Sender<Vec<u8>>>,
    writer: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    waiting_bytes: AtomicUsize,
    lost: AtomicU64,
}

impl FileSink {
    /// Creates the file; one that is there is replaced.
    pub fn create(path: impl AsRef<Path>) -> io::Result<Self> {
        let file = File::create(path)?;
        let shared = Arc::<Shared>::default();
        let (entries, receiver) = mpsc::channel();
        let own = shared.clone();
        let writer = thread::Builder::new()
            .name("grpc-binary-log".to_owned())
            .spawn(move || write_all(&receiver, BufWriter::new(file), &own))?;
        Ok(Self { shared, entries: Some(entries), writer: Some(writer) })
    }

    /// Entries that are not in the file: the disk was too slow for them, or refused them.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }
}

impl BinaryLogSink for FileSink {
    fn write(&self, entry: Vec<u8>) {
        let length = entry.len();
        let waiting = self.shared.waiting_bytes.fetch_add(length, Ordering::Relaxed);
        let is_sent = waiting.saturating_add(length) <= WAITING_BYTES_MAX
            && self.entries.as_ref().is_some_and(|entries| entries.send(entry).is_ok());
        if !is_sent {
            self.shared.waiting_bytes.fetch_sub(length, Ordering::Relaxed);
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for FileSink {
    fn drop(&mut self) {
        drop(self.entries.take());
        if let Some(writer) = self.writer.take() {
            // It does not panic; if it did, the file would be short.
            let _ = writer.join();
        }
    }
}

fn write_all(entries: &Receiver<Vec<u8>>, mut file: BufWriter<File>, shared: &Shared) {
    let mut has_failed = false;
    while let Some(entry) = next(entries, &mut file) {
        shared.waiting_bytes.fetch_sub(entry.len(), Ordering::Relaxed);
        if let Err(error) = write_one(&mut file, &entry) {
            shared.lost.fetch_add(1, Ordering::Relaxed);
            if !has_failed {
                tracing::error!(target: "switchboard", %error, "binary log");
                has_failed = true;
            }
        }
    }
}

/// The next entry; while there is none, what was written is put into the file.
fn next(entries: &Receiver<Vec<u8>>, file: &mut BufWriter<File>) -> Option<Vec<u8>> {
    match entries.try_recv() {
        Ok(entry) => Some(entry),
        Err(TryRecvError::Empty | TryRecvError::Disconnected) => {
            // A disk that is full shows at the next entry too.
            let _ = file.flush();
            entries.recv().ok()
        }
    }
}

fn write_one(file: &mut BufWriter<File>, entry: &[u8]) -> io::Result<()> {
    let length = u32::try_from(entry.len()).map_err(io::Error::other)?;
    file.write_all(&length.to_be_bytes())?;
    file.write_all(entry)
}

/// Seconds of a disk that does not answer, and no more memory than a few large messages.
const WAITING_BYTES_MAX: usize = 16 * 1024 * 1024;

//! Files that others write and the channel reads again and again: tokens, certificates, hosts.

use std::error::Error;
use std::fmt;
use std::fs::{self, File, FileType, Metadata};
use std::io::{self, Read};
#[cfg(unix)]
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use crate::observe::now;

#[cfg(feature = "_tls")]
use super::aside::within;
use super::aside::{Aside, NoOutcome};
use super::error::in_words;

/// What a file holds, which may change at any time.
///
/// Each [`get`](Self::get) looks whether the file is another than when it was last read, or has
/// changed since, and reads and parses it only then. There is one look at a time, whoever waits for
/// it; clones share it. What comes of a look beyond the size limit, of anything but a regular file,
/// of a file that changes while it is read, or of a look that takes longer than five seconds, is an
/// error that comes with the last value that was good.
pub(crate) struct WatchedFile<T>(Arc<Watched<T>>);

struct Watched<T> {
    path: PathBuf,
    bytes_max: u64,
    parse: Parse<T>,
    known: Mutex<Known<T>>,
    looking: Aside<Result<Arc<T>, Fault>>,
}

/// Makes a value of what a file holds, or says in a sentence what is wrong with that.
pub(crate) type Parse<T> = fn(Vec<u8>) -> Result<T, String>;

/// What is known from earlier looks.
struct Known<T> {
    last_good: Option<Arc<T>>,
    /// What came of the last file that was read to its end.
    seen: Option<Seen>,
}

struct Seen {
    stamp: Stamp,
    /// Why it could not be used; [`Known::last_good`] is of this file where it could.
    fault: Option<Fault>,
}

impl<T: Send + Sync + 'static> WatchedFile<T> {
    /// The file at `path`, which nothing is read of yet.
    pub(crate) fn new(path: impl Into<PathBuf>, bytes_max: u64, parse: Parse<T>) -> Self {
        Self::within(LOOK_TIMEOUT, path.into(), bytes_max, parse)
    }

    fn within(timeout: Duration, path: PathBuf, bytes_max: u64, parse: Parse<T>) -> Self {
        Self(Arc::new(Watched {
            path,
            bytes_max,
            parse,
            known: Mutex::new(Known { last_good: None, seen: None }),
            looking: Aside::new(timeout),
        }))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0.path
    }

    /// The value of the file as it is now.
    ///
    /// Dropping the future loses nothing. Must be called on a runtime of tokio.
    pub(crate) async fn get(&self) -> Result<Arc<T>, Unread<T>> {
        let watched = self.0.clone();
        let looked = self.0.looking.run(move || watched.look(now())).await;
        self.settle(looked)
    }

    /// As [`get`](Self::get), for who cannot wait otherwise: blocks for five seconds at most.
    #[cfg(feature = "_tls")]
    pub(crate) fn get_blocking(&self) -> Result<Arc<T>, Unread<T>> {
        let watched = self.0.clone();
        self.settle(within(LOOK_TIMEOUT, move || watched.look(now())))
    }

    fn settle(
        &self,
        looked: Result<Result<Arc<T>, Fault>, NoOutcome>,
    ) -> Result<Arc<T>, Unread<T>> {
        let looked = looked.unwrap_or_else(|none| Err(Fault::NoOutcome(none)));
        looked.map_err(|fault| Unread {
            error: FileError { path: self.0.path.clone(), fault },
            last_good: self.0.known().last_good.clone(),
        })
    }
}

impl<T> Clone for WatchedFile<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Watched<T> {
    /// Looks whether the file has changed, at `now`, and reads it if it has. Blocks.
    fn look(&self, now: SystemTime) -> Result<Arc<T>, Fault> {
        // Before it is opened, as opening has effects on what is no file: a pipe waits for its
        // other end.
        let stamp = Stamp::of(&fs::metadata(&self.path)?)?;
        if let Some(outcome) = self.known().of(stamp) {
            return outcome;
        }
        let (bytes, stamp) = read_settled(|| File::open(&self.path), self.bytes_max)?;
        let parsed = (self.parse)(bytes).map(Arc::new).map_err(|text| Fault::Unusable(text.into()));
        let mut known = self.known();
        known.seen =
            stamp.has_settled(now).then(|| Seen { stamp, fault: parsed.as_ref().err().cloned() });
        if let Ok(value) = &parsed {
            known.last_good = Some(value.clone());
        }
        parsed
    }

    fn known(&self) -> MutexGuard<'_, Known<T>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Known<T> {
    /// What a file with this stamp gave, if it is the one that was read.
    fn of(&self, stamp: Stamp) -> Option<Result<Arc<T>, Fault>> {
        let seen = self.seen.as_ref().filter(|seen| seen.stamp == stamp)?;
        match &seen.fault {
            Some(fault) => Some(Err(fault.clone())),
            None => self.last_good.clone().map(Ok),
        }
    }
}

/// A file that has been opened.
trait Opened: Read {
    fn stamp(&self) -> Result<Stamp, Fault>;
}

impl Opened for File {
    fn stamp(&self) -> Result<Stamp, Fault> {
        Stamp::of(&self.metadata()?)
    }
}

/// Reads a regular file, and again if it changed meanwhile.
fn read_settled<F: Opened>(
    open: impl Fn() -> io::Result<F>,
    bytes_max: u64,
) -> Result<(Vec<u8>, Stamp), Fault> {
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            pause();
        }
        let mut file = open()?;
        // What was found at the path before may have been replaced.
        let before = file.stamp()?;
        if before.len > bytes_max {
            return Err(Fault::TooLarge(bytes_max));
        }
        let mut bytes = Vec::new();
        (&mut file).take(bytes_max + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > bytes_max {
            return Err(Fault::TooLarge(bytes_max));
        }
        let after = file.stamp()?;
        // Files of the kernel have no length.
        let is_whole = bytes.len() as u64 == before.len || before.len == 0;
        if before == after && is_whole {
            return Ok((bytes, after));
        }
    }
    Err(Fault::Changing)
}

#[expect(clippy::disallowed_methods, reason = "it is not a worker's thread that looks at a file")]
fn pause() {
    thread::sleep(PAUSE);
}

/// What tells a file, and its contents, from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    len: u64,
    modified: Option<SystemTime>,
    /// When anything of the file was last changed, the time of its modification included.
    changed: Option<SystemTime>,
    /// The device, and the number on it.
    #[cfg(unix)]
    inode: (u64, u64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Result<Self, Fault> {
        if !metadata.is_file() {
            return Err(Fault::NotAFile(kind_of(metadata.file_type())));
        }
        Ok(Self {
            len: metadata.len(),
            modified: metadata.modified().ok(),
            changed: changed_at(metadata),
            #[cfg(unix)]
            inode: (metadata.dev(), metadata.ino()),
        })
    }

    /// Whether a later change is sure to show in the stamp. Times of files are coarse: two changes
    /// in quick succession may bear the same one.
    fn has_settled(&self, now: SystemTime) -> bool {
        let last = self.modified.max(self.changed);
        let age = last.and_then(|last| now.duration_since(last).ok());
        age.is_some_and(|age| age >= COARSEST_TIMES)
    }
}

#[cfg(unix)]
fn changed_at(metadata: &Metadata) -> Option<SystemTime> {
    let (seconds, nanos) = (metadata.ctime(), metadata.ctime_nsec());
    let since = Duration::new(seconds.try_into().ok()?, nanos.try_into().ok()?);
    SystemTime::UNIX_EPOCH.checked_add(since)
}

#[cfg(not(unix))]
fn changed_at(metadata: &Metadata) -> Option<SystemTime> {
    metadata.modified().ok()
}

#[cfg(unix)]
fn kind_of(kind: FileType) -> &'static str {
    if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

#[cfg(not(unix))]
fn kind_of(kind: FileType) -> &'static str {
    if kind.is_dir() { "a directory" } else { "a device" }
}

/// The file gave nothing now.
pub(crate) struct Unread<T> {
    pub(crate) error: FileError,
    /// What it gave when it last could be used.
    #[cfg_attr(
        not(any(test, feature = "_tls", feature = "dns")),
        expect(dead_code, reason = "a token that has been replaced is none")
    )]
    pub(crate) last_good: Option<Arc<T>>,
}

/// Why a file gave nothing. The text names it.
#[derive(Clone, Debug)]
pub(crate) struct FileError {
    path: PathBuf,
    fault: Fault,
}

#[derive(Clone, Debug)]
enum Fault {
    Io(Arc<io::Error>),
    NotAFile(&'static str),
    TooLarge(u64),
    Changing,
    NoOutcome(NoOutcome),
    Unusable(Arc<str>),
}

impl FileError {
    /// Why, as a sentence that does not name the file.
    pub(crate) fn reason(&self) -> String {
        match &self.fault {
            Fault::Io(error) => in_words(error),
            Fault::NotAFile(kind) => format!("it is {kind}: expected a regular file"),
            Fault::TooLarge(bytes_max) => format!("it is larger than {bytes_max} bytes"),
            Fault::Changing => format!("it changed during each of {ATTEMPTS} readings"),
            Fault::NoOutcome(NoOutcome::Late(timeout)) => {
                format!("the file system gave no answer within {timeout:?}")
            }
            Fault::NoOutcome(NoOutcome::Stopped) => "the reading was stopped".to_owned(),
            Fault::Unusable(text) => text.to_string(),
        }
    }

    /// Whether there is no file.
    #[cfg_attr(
        not(any(test, feature = "dns")),
        expect(dead_code, reason = "it is for files that need not be there")
    )]
    pub(crate) fn is_missing(&self) -> bool {
        matches!(&self.fault, Fault::Io(error) if error.kind() == io::ErrorKind::NotFound)
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot read {}: {}", self.path.display(), self.reason())
    }
}

impl Error for FileError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.fault {
            Fault::Io(error) => Some(&**error),
            Fault::NotAFile(_)
            | Fault::TooLarge(_)
            | Fault::Changing
            | Fault::NoOutcome(_)
            | Fault::Unusable(_) => None,
        }
    }
}

/// Longer than any disk takes, and less than a call is willing to wait.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a file that changes while it is read is begun anew.
const ATTEMPTS: u32 = 5;

/// How long a writer is given to come to its end.
const PAUSE: Duration = Duration::from_millis(10);

/// The times of files on FAT count in steps of two seconds, those of others in milliseconds.
const COARSEST_TIMES: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;

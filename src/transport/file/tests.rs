use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;

/// A folder of its own, which goes with this.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("switchboard-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn text_of(path: impl Into<PathBuf>) -> WatchedFile<String> {
    WatchedFile::new(path, 64, text)
}

fn text(bytes: Vec<u8>) -> Result<String, String> {
    let text = String::from_utf8(bytes).map_err(|_| "it is not text".to_owned())?;
    if text.is_empty() { Err("it is empty".to_owned()) } else { Ok(text) }
}

async fn read(file: &WatchedFile<String>) -> Result<String, (String, Option<String>)> {
    match file.get().await {
        Ok(value) => Ok(value.to_string()),
        Err(Unread { error, last_good }) => {
            Err((error.reason(), last_good.map(|it| it.to_string())))
        }
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_read_gives_the_reason_and_the_last_good_value() {
    let folder = Folder::new("file-reasons");
    let path = folder.file("a", "sound");
    let file = text_of(&path);
    assert_eq!(read(&file).await, Ok("sound".to_owned()));
    let last = Some("sound".to_owned());

    fs::write(&path, "x".repeat(65)).unwrap();
    let too_large = "it is larger than 64 bytes".to_owned();
    assert_eq!(read(&file).await, Err((too_large, last.clone())));
    fs::write(&path, "").unwrap();
    assert_eq!(read(&file).await, Err(("it is empty".to_owned(), last.clone())));
    fs::write(&path, [0xff]).unwrap();
    assert_eq!(read(&file).await, Err(("it is not text".to_owned(), last.clone())));
    fs::remove_file(&path).unwrap();
    let Err(missing) = file.get().await else { panic!("it is gone") };
    assert!(missing.error.is_missing(), "{}", missing.error);
    assert!(missing.error.to_string().starts_with(&format!("cannot read {}: ", path.display())));
    assert!(missing.last_good.is_some());
    fs::create_dir(&path).unwrap();
    let folder_reason = "it is a directory: expected a regular file".to_owned();
    assert_eq!(read(&file).await, Err((folder_reason, last)));
    fs::remove_dir(&path).unwrap();
    fs::write(&path, "again").unwrap();
    assert_eq!(read(&file).await, Ok("again".to_owned()));
    // Nothing was good before.
    let never = text_of(folder.file("b", ""));
    assert_eq!(read(&never).await, Err(("it is empty".to_owned(), None)));
}

#[cfg(unix)]
#[tokio::test]
async fn a_pipe_a_device_and_a_socket_are_not_even_opened() {
    let folder = Folder::new("file-kinds");
    let (pipe, socket) = (folder.0.join("pipe"), folder.0.join("socket"));
    // Nobody writes to it: whoever opens it waits.
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for (path, kind) in [
        (pipe, "a pipe"),
        (PathBuf::from("/dev/zero"), "a device"),
        (PathBuf::from("/dev/tty"), "a device"),
        (socket, "a socket"),
    ] {
        let reason = format!("it is {kind}: expected a regular file");
        assert_eq!(read(&text_of(path)).await, Err((reason, None)));
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_file_of_the_kernel_without_a_length_is_read() {
    let file = WatchedFile::new("/proc/self/status", 64 * 1024, text);
    assert!(read(&file).await.is_ok_and(|text| text.starts_with("Name:")));
}

#[tokio::test]
async fn a_file_of_more_than_memory_is_refused_by_its_length() {
    let folder = Folder::new("file-huge");
    let path = folder.file("a", "");
    // It takes no room on the disk.
    File::options().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
    let huge = read(&text_of(path)).await;
    assert_eq!(huge, Err(("it is larger than 64 bytes".to_owned(), None)));
}

#[cfg(unix)]
#[tokio::test]
async fn a_file_that_is_replaced_is_read_whichever_way_it_is_done() {
    let folder = Folder::new("file-rotation");
    let path = folder.file("a", "first");
    let file = text_of(&path);
    assert_eq!(read(&file).await, Ok("first".to_owned()));
    // In place, with the same length and perhaps within one tick of the clock of files.
    fs::write(&path, "again").unwrap();
    assert_eq!(read(&file).await, Ok("again".to_owned()));
    // By rename.
    fs::rename(folder.file("b", "third"), &path).unwrap();
    assert_eq!(read(&file).await, Ok("third".to_owned()));

    // As Kubernetes does: a link to a link of a folder, which is renamed over the last.
    let link = |folder: &Path, to: &str, name: &str| {
        std::os::unix::fs::symlink(to, folder.join(name)).unwrap();
    };
    for version in ["v1", "v2"] {
        fs::create_dir(folder.0.join(version)).unwrap();
        folder.file(&format!("{version}/token"), version);
    }
    link(&folder.0, "v1", "..data");
    link(&folder.0, "..data/token", "token");
    let file = text_of(folder.0.join("token"));
    assert_eq!(read(&file).await, Ok("v1".to_owned()));
    link(&folder.0, "v2", "..data_tmp");
    fs::rename(folder.0.join("..data_tmp"), folder.0.join("..data")).unwrap();
    fs::remove_dir_all(folder.0.join("v1")).unwrap();
    assert_eq!(read(&file).await, Ok("v2".to_owned()));
}

#[test]
fn a_file_is_read_again_only_where_it_has_changed_or_may_have() {
    static PARSED: AtomicUsize = AtomicUsize::new(0);
    let count = |bytes| {
        PARSED.fetch_add(1, Ordering::Relaxed);
        text(bytes)
    };
    let folder = Folder::new("file-changes");
    let path = folder.file("a", "first");
    let file = WatchedFile::new(&path, 64, count);
    let looks = |at: u64, expected: Result<&str, &str>, parsed: usize| {
        let looked = file.0.look(now() + Duration::from_secs(at));
        let looked = looked.map_err(|fault| match fault {
            Fault::Unusable(text) => text.to_string(),
            other => panic!("{other:?}"),
        });
        let looked = looked.as_ref().map(|it| it.as_str()).map_err(String::as_str);
        assert_eq!((looked, PARSED.load(Ordering::Relaxed)), (expected, parsed));
    };
    // Just written, it may be written again without another time.
    looks(0, Ok("first"), 1);
    looks(0, Ok("first"), 2);
    // Of a file that was written an hour ago another time is sure to show.
    looks(3_600, Ok("first"), 3);
    looks(3_600, Ok("first"), 3);
    looks(7_200, Ok("first"), 3);
    // Another length, whatever the times are.
    fs::write(&path, "longer").unwrap();
    looks(3_600, Ok("longer"), 4);
    looks(3_600, Ok("longer"), 4);
    // What cannot be used is not parsed again and again either.
    fs::write(&path, "").unwrap();
    looks(3_600, Err("it is empty"), 5);
    looks(3_600, Err("it is empty"), 5);
    fs::write(&path, "sound").unwrap();
    looks(3_600, Ok("sound"), 6);
}

#[test]
fn a_stamp_is_relied_on_once_the_last_change_is_two_seconds_old() {
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let metadata = fs::metadata(file!()).or_else(|_| fs::metadata("Cargo.toml")).unwrap();
    let stamp = Stamp::of(&metadata).unwrap();
    for (modified, changed, now, expected) in [
        (Some(at(100)), Some(at(100)), 100, false),
        (Some(at(100)), Some(at(100)), 101, false),
        (Some(at(100)), Some(at(100)), 102, true),
        // Another time of modification was put on it.
        (Some(at(50)), Some(at(100)), 101, false),
        // The clock of a server of files is ahead.
        (Some(at(200)), Some(at(200)), 102, false),
        (None, None, 102, false),
    ] {
        let stamp = Stamp { modified, changed, ..stamp };
        assert_eq!(stamp.has_settled(at(now)), expected, "{stamp:?} at {now}");
    }
}

/// What a file is as it is read: the bytes, and its length before and after.
struct Scripted<'a> {
    bytes: &'a [u8],
    lengths: RefCell<Vec<u64>>,
}

impl Read for Scripted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.bytes.read(buffer)
    }
}

impl Opened for Scripted<'_> {
    fn stamp(&self) -> Result<Stamp, Fault> {
        let stamp = Stamp::of(&fs::metadata("Cargo.toml")?)?;
        Ok(Stamp { len: self.lengths.borrow_mut().pop().unwrap(), ..stamp })
    }
}

#[test]
fn a_file_that_changes_while_it_is_read_is_begun_anew_a_few_times() {
    let scripts = |all: &[(&'static str, u64, u64)]| {
        let left = RefCell::new(all.to_vec());
        let open = move || {
            let (text, before, after) = left.borrow_mut().remove(0);
            let lengths = RefCell::new(vec![after, before]);
            Ok(Scripted { bytes: text.as_bytes(), lengths })
        };
        read_settled(open, 8).map(|(bytes, _)| String::from_utf8(bytes).unwrap())
    };
    // Truncated in the middle, then written further, then whole.
    let settled = scripts(&[("ab", 6, 2), ("abcd", 4, 6), ("abcdef", 6, 6)]);
    assert_eq!(settled.unwrap(), "abcdef");
    // The lengths agree with each other and not with what was read: a write in between.
    assert_eq!(scripts(&[("ab", 6, 6), ("abcdef", 6, 6)]).unwrap(), "abcdef");
    // It grows beyond the limit as it is read.
    assert!(matches!(scripts(&[("abcdefghi", 8, 9)]), Err(Fault::TooLarge(8))));
    assert!(matches!(scripts(&[("ab", 6, 2); 5]), Err(Fault::Changing)));
}

#[tokio::test]
async fn a_hundred_that_want_a_file_that_hangs_begin_one_read() {
    static BEGUN: AtomicUsize = AtomicUsize::new(0);
    static HELD: AtomicBool = AtomicBool::new(false);
    let hang = |bytes| {
        BEGUN.fetch_add(1, Ordering::Relaxed);
        while HELD.load(Ordering::Acquire) {
            thread::yield_now();
        }
        text(bytes)
    };
    let folder = Folder::new("file-hangs");
    let path = folder.file("a", "sound");
    let file = WatchedFile::within(Duration::from_millis(10), path, 64, hang);
    assert_eq!(file.0.look(now()).unwrap().as_str(), "sound");
    HELD.store(true, Ordering::Release);
    let late = ("the file system gave no answer within 10ms".to_owned(), Some("sound".to_owned()));
    let all: Vec<_> = (0..100)
        .map(|_| {
            let file = file.clone();
            tokio::spawn(async move { read(&file).await })
        })
        .collect();
    for one in all {
        assert_eq!(one.await.unwrap(), Err(late.clone()));
    }
    // The endpoints try again, and again.
    for _ in 0..100 {
        assert_eq!(read(&file).await, Err(late.clone()));
    }
    // The one thread may not have come so far yet.
    while BEGUN.load(Ordering::Relaxed) < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(BEGUN.load(Ordering::Relaxed), 2);
    HELD.store(false, Ordering::Release);
    while read(&file).await.is_err() {
        tokio::task::yield_now().await;
    }
}

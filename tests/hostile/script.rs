//! A server that misbehaves as a script has it, then behaves.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use switchboard::{BackoffConfig, Channel, Code, Compression, Credentials, Status, TlsConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc};

use crate::frames::{
    ACK, DATA, END_STREAM, HEADERS, PING, RST_STREAM, SETTINGS, frame, good, settings,
};
use crate::memory;
use crate::support::greeter::{SAY_HELLO, ask};
use crate::support::plaintext;
use crate::support::tls::{Certificate, Issuer, TlsServer, USUAL};

/// What a stream is answered with.
type Answer = Box<dyn Fn(u32) -> Vec<u8> + Send + Sync>;

/// What a server does to its first connection, and to the first calls.
pub(crate) struct Script {
    name: &'static str,
    opening: Vec<u8>,
    acks_settings: bool,
    answer: Answer,
    /// What follows the answer, and how often.
    flood: Option<(Answer, usize)>,
    /// What follows that.
    rest: Answer,
    /// How many streams are answered so.
    times: usize,
    hangs_up: bool,
    timeout: Duration,
    outcome: Result<(), (Code, &'static [&'static str])>,
    memory_max: usize,
}

/// A script that as yet does nothing wrong.
pub(crate) fn script(name: &'static str) -> Script {
    Script {
        name,
        opening: settings(),
        acks_settings: true,
        answer: Box::new(good),
        flood: None,
        rest: Box::new(|_| Vec::new()),
        times: 1,
        hangs_up: false,
        timeout: Duration::from_secs(20),
        outcome: Ok(()),
        memory_max: MEMORY_MAX,
    }
}

impl Script {
    /// What the first connection begins with, instead of SETTINGS.
    pub(crate) fn opens(self, opening: impl Into<Vec<u8>>) -> Self {
        Self { opening: opening.into(), ..self }
    }

    /// The client's SETTINGS are not acknowledged.
    pub(crate) fn never_acks(self) -> Self {
        Self { acks_settings: false, ..self }
    }

    /// What the first call is answered with.
    pub(crate) fn answers(self, answer: impl Fn(u32) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self { answer: Box::new(answer), ..self }
    }

    /// The answer is followed by so many of this.
    pub(crate) fn floods(
        self,
        times: usize,
        flood: impl Fn(u32) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        Self { flood: Some((Box::new(flood), times)), ..self }
    }

    /// And these by this.
    pub(crate) fn then(self, rest: impl Fn(u32) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self { rest: Box::new(rest), ..self }
    }

    /// So many streams are answered so, not only the first.
    pub(crate) fn times(self, times: usize) -> Self {
        Self { times, ..self }
    }

    /// The connection is closed behind the answer, or behind the opening if that is empty.
    pub(crate) fn hangs_up(self) -> Self {
        Self { hangs_up: true, ..self }
    }

    /// The call has little time.
    pub(crate) fn within(self, millis: u64) -> Self {
        Self { timeout: Duration::from_millis(millis), ..self }
    }

    /// The script itself takes some memory: there may be so much in all.
    pub(crate) fn uses(self, memory_max: usize) -> Self {
        Self { memory_max, ..self }
    }

    /// The call fails so; its text has each of `texts`, where `@` is the server's address.
    pub(crate) fn fails(self, code: Code, texts: &'static [&'static str]) -> Self {
        Self { outcome: Err((code, texts)), ..self }
    }
}

/// Plays each script over plaintext and over TLS: the call ends as it says, in bounded memory, and
/// the next one succeeds. Tells of all that went otherwise.
pub(crate) async fn play(scripts: Vec<Script>) {
    // The count of memory is the process's.
    let _alone = ALONE.lock().await;
    let issuer = Issuer::new();
    let mut wrong = Vec::new();
    for script in scripts {
        let script = Arc::new(script);
        for is_secure in [false, true] {
            if let Err(what) = play_one(&script, is_secure.then_some(&issuer)).await {
                let wire = if is_secure { "TLS" } else { "plaintext" };
                wrong.push(format!("{}, over {wire}: {what}", script.name));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

async fn play_one(script: &Arc<Script>, issuer: Option<&Issuer>) -> Result<(), String> {
    let server = start(script.clone()).await;
    let mut address = server;
    let mut tls = None;
    let builder = match issuer {
        None => plaintext(format!("ipv4:{address}")),
        Some(issuer) => {
            let certificate = Certificate::of(&["127.0.0.1"]);
            let before = TlsServer::before(issuer, certificate, USUAL, server).await;
            address = before.address();
            tls = Some(before);
            let config = TlsConfig::new().roots_pem(issuer.root_pem()).unwrap();
            Channel::builder(address.to_string()).credentials(Credentials::tls_with(config))
        }
    };
    let wait = Duration::from_millis(20);
    let backoff = BackoffConfig { base_delay: wait, max_delay: wait, ..BackoffConfig::default() };
    let builder = builder.backoff(backoff).min_connect_timeout(CONNECT_TIMEOUT);
    let all = Compression::ALL.iter().copied();
    let channel = builder.accept_compression(all).build().unwrap();
    let before = memory::begin();
    let call = channel.invoke(&SAY_HELLO, ask("Ada").timeout(script.timeout));
    let outcome = tokio::time::timeout(PATIENCE, call).await;
    let used = memory::peak().saturating_sub(before);
    let outcome = outcome.map_err(|_| "the call hangs".to_owned())?;
    let next = ask("Bo").wait_for_ready(true).timeout(Duration::from_secs(20));
    let next = tokio::time::timeout(PATIENCE, channel.invoke(&SAY_HELLO, next)).await;
    channel.close().await;
    drop(tls);
    match (&script.outcome, outcome) {
        (Ok(()), Ok(_)) => {}
        (Ok(()), Err(status)) => return Err(format!("it fails with {status}")),
        (Err(_), Ok(_)) => return Err("it succeeds".to_owned()),
        (Err((code, texts)), Err(status)) => {
            let is_text =
                |text: &&str| status.message().contains(&text.replace('@', &address.to_string()));
            if status.code() != *code || !texts.iter().all(is_text) {
                return Err(format!("it fails with {status}"));
            }
            if !is_harmless(&status) {
                return Err(format!("it shows what must not be shown: {status:?}"));
            }
        }
    }
    match next {
        Ok(Ok(_)) => {}
        Ok(Err(status)) => return Err(format!("the next call fails with {status}")),
        Err(_) => return Err("the next call hangs".to_owned()),
    }
    if used > script.memory_max { Err(format!("{used} bytes were in use")) } else { Ok(()) }
}

/// Whether `status` can be printed: in one line of some length, in which nothing moves the cursor or
/// turns the text around.
fn is_harmless(status: &Status) -> bool {
    let acts =
        |c: char| c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}');
    let (shown, debugged) = (status.to_string(), format!("{status:?}"));
    shown.len() < SHOWN_MAX && !shown.contains(acts) && !debugged.contains(acts)
}

/// Starts a server that goes by `script`.
pub(crate) async fn start(script: Arc<Script>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answered = Arc::new(AtomicUsize::new(0));
    tokio::spawn(async move {
        let mut is_first = true;
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, script.clone(), is_first, answered.clone()));
            is_first = false;
        }
    });
    address
}

/// What a client has sent.
pub(crate) enum Heard {
    Settings,
    Ping(Vec<u8>),
    /// A request, to its end.
    Request(u32),
    /// The end of a call before its time.
    Reset(u32),
}

/// How a connection ends is up to the client.
async fn serve(
    stream: TcpStream,
    script: Arc<Script>,
    is_first: bool,
    answered: Arc<AtomicUsize>,
) -> Option<()> {
    let (read, mut write) = stream.into_split();
    let (tell, mut heard) = mpsc::unbounded_channel();
    // Beside the writing, so that neither blocks the other.
    tokio::spawn(listen(read, tell));
    let opening = if is_first { script.opening.clone() } else { settings() };
    write.write_all(&opening).await.ok()?;
    if is_first && opening.is_empty() && script.hangs_up {
        return None;
    }
    while let Some(heard) = heard.recv().await {
        let answer = match heard {
            Heard::Settings if is_first && !script.acks_settings => continue,
            Heard::Settings => frame(SETTINGS, ACK, 0, &[]),
            Heard::Ping(payload) => frame(PING, ACK, 0, &payload),
            Heard::Reset(_) => continue,
            Heard::Request(stream) => {
                if answered.fetch_add(1, Ordering::Relaxed) < script.times {
                    write.write_all(&(script.answer)(stream)).await.ok()?;
                    if let Some((flood, times)) = &script.flood {
                        // In pieces of some size: the client is to be what takes time.
                        let one = flood(stream);
                        let together = FLOOD_PIECE / one.len();
                        let piece = one.repeat(together);
                        for _ in 0..times.div_ceil(together) {
                            write.write_all(&piece).await.ok()?;
                        }
                    }
                    write.write_all(&(script.rest)(stream)).await.ok()?;
                    if script.hangs_up {
                        return None;
                    }
                    continue;
                }
                good(stream)
            }
        };
        write.write_all(&answer).await.ok()?;
    }
    None
}

/// Tells what a client sends, to the end of its connection.
pub(crate) async fn listen(
    mut read: OwnedReadHalf,
    tell: mpsc::UnboundedSender<Heard>,
) -> Option<()> {
    read.read_exact(&mut [0; PREFACE_LEN]).await.ok()?;
    loop {
        let mut header = [0; 9];
        read.read_exact(&mut header).await.ok()?;
        let number = |at: usize| {
            header[at..at + 3].iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
        };
        let (kind, flags, stream) = (header[3], header[4], number(6));
        let mut payload = vec![0; number(0) as usize];
        read.read_exact(&mut payload).await.ok()?;
        let news = match kind {
            SETTINGS if flags & ACK == 0 => Heard::Settings,
            PING if flags & ACK == 0 => Heard::Ping(payload),
            DATA | HEADERS if flags & END_STREAM != 0 => Heard::Request(stream),
            RST_STREAM => Heard::Reset(stream),
            _ => continue,
        };
        // Nobody listens where the script has hung up; reading on spares the client a reset.
        let _ = tell.send(news);
    }
}

/// How many bytes of a flood are written at a time.
const FLOOD_PIECE: usize = 64 * 1024;

/// Held by who looks at the memory of the process.
pub(crate) static ALONE: Mutex<()> = Mutex::const_new(());

const PREFACE_LEN: usize = 24;

/// Enough for a handshake on a busy machine, and short for a server that never speaks.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Bytes of a status in one line.
const SHOWN_MAX: usize = 8 * 1024;

/// What takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// Client, server and TLS between them, with their buffers.
const MEMORY_MAX: usize = 4 * 1024 * 1024;

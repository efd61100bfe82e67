//! Streams of bytes that can no longer be written to, and what the server still says on them.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

use crate::transport::connect::{BoxFuture, Connect, Io};
use crate::transport::error::DisconnectCause;
use crate::types::{Foreign, Seen};

use super::peer::*;
use super::*;

/// How a stream of bytes fails, in one direction only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Break {
    Nowhere,
    Writes,
    /// A write takes nothing.
    Zeroes,
    Flushes,
    /// Nothing is taken, and nothing fails.
    Stalls,
}

const BREAKS: [Break; 5] =
    [Break::Nowhere, Break::Writes, Break::Zeroes, Break::Flushes, Break::Stalls];

/// Breaks the writing half of what another connector opens.
struct Breaking {
    inner: memory::MemoryConnector,
    how: Arc<AtomicU8>,
}

struct Broken {
    inner: DuplexStream,
    how: Arc<AtomicU8>,
}

impl Broken {
    fn how(&self) -> Break {
        BREAKS[usize::from(self.how.load(Ordering::Relaxed))]
    }
}

impl Connect for Breaking {
    fn connect<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, io::Result<Io>> {
        Box::pin(async move {
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            let mut inner = self.inner.connect(address).await?;
            tokio::spawn(async move {
                let mut theirs = theirs;
                let _ = tokio::io::copy_bidirectional(&mut theirs, &mut inner).await;
            });
            Ok(Io::new(Broken { inner: ours, how: self.how.clone() }))
        })
    }
}

impl AsyncRead for Broken {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Broken {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.how() {
            Break::Nowhere | Break::Flushes => Pin::new(&mut self.inner).poll_write(cx, buf),
            Break::Writes => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Break::Zeroes => Poll::Ready(Ok(0)),
            Break::Stalls => Poll::Pending,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.how() {
            Break::Flushes => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            _ => Pin::new(&mut self.inner).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.how() {
            Break::Nowhere => Pin::new(&mut self.inner).poll_shutdown(cx),
            _ => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

/// A connection whose writing half breaks as soon as it is told how.
pub(super) struct Breakable {
    pub(super) client: Client,
    pub(super) peer: Peer,
    how: Arc<AtomicU8>,
}

impl Breakable {
    async fn connected(options: &ConnectionOptions) -> Self {
        let (connector, mut listener) = memory::pipe();
        let how = Arc::new(AtomicU8::new(0));
        let connector: Arc<dyn Connect> = Arc::new(Breaking { inner: connector, how: how.clone() });
        let connector = Foreign::new("the dialler", connector);
        let authority = Authority::parse("greeter.example").unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let address = address();
        let security = Security::Insecure;
        let dialling = dial(&connector, &security, &address, &authority, options, None, deadline);
        let (dialled, peer) = tokio::join!(dialling, async {
            let mut peer = accept(&mut listener).await;
            peer.settings(&[]).await;
            peer.acknowledge_settings().await;
            peer
        });
        let client = Client::spawn(dialled.unwrap());
        settle().await;
        Self { client, peer, how }
    }

    pub(super) fn breaks(&self, how: Break) {
        self.how.store(how as u8, Ordering::Relaxed);
    }
}

pub(super) async fn breakable() -> Breakable {
    Breakable::connected(&ConnectionOptions::default()).await
}

#[tokio::test(start_paused = true)]
async fn after_a_write_that_fails_each_stream_ends_as_the_server_says() {
    for how in [Break::Writes, Break::Zeroes, Break::Flushes] {
        let mut it = breakable().await;
        let mut answered = it.client.call(b"1").await.unwrap();
        let mut disowned = it.client.call(b"2").await.unwrap();
        let last = it.peer.request().await;
        it.peer.request().await;
        settle().await;
        it.breaks(how);
        let mut unsent = it.client.call(b"3").await.unwrap();
        settle().await;
        // The write has failed, and what the server says is under way.
        it.peer.answer(last, b"whole").await;
        it.peer.goaway(last, NO_ERROR, b"bye").await;
        drop(it.peer);

        assert!(answered.recv.message(100).await.unwrap().is_ok(), "{how:?}");
        assert!(answered.recv.trailers().await.unwrap().is_ok(), "{how:?}");
        let error = disowned.recv.headers().await.unwrap_err();
        assert_eq!(error.seen(), Seen::Refused, "{how:?}: {error}");
        assert!(error.to_string().contains("GOAWAY NO_ERROR, debug data \"bye\""), "{error}");
        let error = unsent.recv.headers().await.unwrap_err();
        // What a flush loses has been handed over before.
        let seen = if how == Break::Flushes { Seen::Refused } else { Seen::Never };
        assert_eq!(error.seen(), seen, "{how:?}: {error}");
        let (ended, told) = it.client.ended().await;
        assert!(ended.to_string().ends_with("GOAWAY NO_ERROR, debug data \"bye\""), "{ended}");
        assert_eq!(told.len(), 1, "{told:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn from_a_write_that_fails_on_no_stream_is_opened() {
    let mut it = breakable().await;
    let mut open = it.client.call(b"1").await.unwrap();
    it.peer.request().await;
    it.breaks(Break::Writes);
    let mut unsent = it.client.call(b"2").await.unwrap();
    settle().await;
    // Told at once, though the connection is still read.
    let error = unsent.recv.headers().await.unwrap_err();
    assert_eq!(error.seen(), Seen::Never, "{error}");
    assert!(!it.client.connection.is_usable());
    assert_eq!(it.client.told(), ["server:1: the server closed the connection (broken pipe)"]);
    assert_eq!(it.client.call(b"3").await.unwrap_err().seen(), Seen::Never);
    assert!(!it.client.driver.is_finished());
    drop(it.peer);
    let error = open.recv.headers().await.unwrap_err();
    assert_eq!(error.seen(), Seen::Maybe, "{error}");
    let (ended, _) = it.client.ended().await;
    assert_eq!(ended.to_string(), "server:1: the server closed the connection (broken pipe)");
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_messages_gets_them_all_after_a_write_that_fails() {
    let mut it = breakable().await;
    let mut stream = it.client.open().await.unwrap();
    it.peer.expect(HEADERS).await;
    let id = stream.handle.id();
    it.breaks(Break::Writes);
    stream.handle.send(message(b"lost"), false).unwrap();
    settle().await;
    it.peer.ok_headers(id).await;
    for _ in 0..50 {
        it.peer.data(id, 0, &framed(&[7; 1_000])).await;
        settle().await;
    }
    it.peer.trailers(id, "0").await;
    drop(it.peer);
    for _ in 0..50 {
        assert!(stream.recv.message(1_000).await.unwrap().is_ok());
    }
    assert!(stream.recv.message(1_000).await.is_none());
    assert!(stream.recv.trailers().await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_nothing_after_a_write_that_fails_is_given_ten_seconds() {
    let mut it = breakable().await;
    let mut open = it.client.call(b"1").await.unwrap();
    it.peer.request().await;
    it.breaks(Break::Writes);
    let begin = Instant::now();
    let _unsent = it.client.call(b"2").await.unwrap();
    let error = open.recv.headers().await.unwrap_err();
    assert_eq!(begin.elapsed(), Duration::from_secs(10));
    assert_eq!(error.seen(), Seen::Maybe);
    assert!(error.to_string().contains("went on for more than 10s"), "{error}");
    let (ended, _) = it.client.ended().await;
    assert!(matches!(ended.cause(), DisconnectCause::Lost(_)), "{ended}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_too_much_after_a_write_that_fails_is_read_no_more() {
    let mut it = breakable().await;
    let mut open = it.client.call(b"1").await.unwrap();
    it.peer.request().await;
    it.breaks(Break::Writes);
    let _unsent = it.client.call(b"2").await.unwrap();
    let peer = &mut it.peer;
    let flood = async {
        let nothing = frame(200, 0, 0, &[0; 16_000]);
        loop {
            peer.send_raw(&nothing).await;
        }
    };
    let error = tokio::select! {
        () = flood => unreachable!("it has no end"),
        headers = open.recv.headers() => headers.unwrap_err(),
    };
    assert!(error.to_string().contains("went on for more than 67108864 bytes"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_calls_whose_write_fails_is_read_to_its_end_all_the_same() {
    // What it says is why, as here: it is asked too often whether it lives.
    let keepalive = KeepaliveConfig {
        permit_without_stream: true,
        ..KeepaliveConfig::after(Duration::from_secs(10))
    };
    let options = ConnectionOptions { keepalive: Some(keepalive), ..Default::default() };
    let mut it = Breakable::connected(&options).await;
    it.breaks(Break::Writes);
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert!(!it.client.connection.is_usable());
    it.peer.goaway(0, ENHANCE_YOUR_CALM, b"too_many_pings").await;
    drop(it.peer);
    let (ended, told) = it.client.ended().await;
    assert!(told.contains(&"too many pings".to_owned()), "{told:?}");
    assert!(ended.to_string().contains("GOAWAY ENHANCE_YOUR_CALM"), "{ended}");
}

#[tokio::test(start_paused = true)]
async fn closing_after_a_write_that_failed_waits_for_nobody() {
    let mut it = breakable().await;
    let mut open = it.client.call(b"1").await.unwrap();
    it.peer.request().await;
    it.breaks(Break::Writes);
    let _unsent = it.client.call(b"2").await.unwrap();
    settle().await;
    let begin = Instant::now();
    it.client.connection.close();
    assert_eq!(open.recv.headers().await.unwrap_err(), StreamError::Closed);
    it.client.ended().await;
    assert_eq!(begin.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn what_is_unsent_when_the_server_closes_does_not_hide_its_goodbye() {
    let mut it = breakable().await;
    let mut answered = it.client.call(b"1").await.unwrap();
    let last = it.peer.request().await;
    settle().await;
    it.breaks(Break::Stalls);
    let mut unsent = it.client.call(b"2").await.unwrap();
    settle().await;
    it.peer.answer(last, b"whole").await;
    it.peer.goaway(u32::MAX >> 1, NO_ERROR, b"").await;
    drop(it.peer);
    assert!(answered.recv.trailers().await.unwrap().is_ok());
    assert_eq!(unsent.recv.headers().await.unwrap_err().seen(), Seen::Never);
    it.client.ended().await;
}

#[tokio::test(start_paused = true)]
async fn a_pong_leaves_behind_the_headers_that_were_queued_before_it() {
    let (client, mut peer) = connected(&[]).await;
    settle().await;
    // All of it before the driver runs: as if the calls had just been made.
    let streams = [client.call(b"1").await.unwrap(), client.call(b"2").await.unwrap()];
    peer.goaway(u32::MAX >> 1, NO_ERROR, b"").await;
    peer.send(PING, 0, 0, &[3; 8]).await;
    peer.send(PING, 0, 0, &[4; 8]).await;
    let mut seen = Vec::new();
    while seen.len() < 4 {
        let frame = peer.next_of_all().await.unwrap();
        match frame.kind {
            HEADERS => seen.push(frame.stream),
            PING => seen.push(100 + u32::from(frame.payload[0])),
            _ => {}
        }
    }
    assert_eq!(seen, [1, 3, 103, 104]);
    drop(streams);
}

#[tokio::test(start_paused = true)]
async fn a_pong_leaves_at_once_where_no_headers_are_queued_or_will_ever_leave() {
    let (client, mut peer) = connected(&[(MAX_CONCURRENT_STREAMS, 1)]).await;
    settle().await;
    let begin = Instant::now();
    let call = client.call(b"1").await.unwrap();
    peer.request().await;
    peer.send(PING, 0, 0, &[1; 8]).await;
    assert_eq!(peer.next_of(PING).await.unwrap().payload, [1; 8]);
    // The engine holds the HEADERS of this one back, as the server takes fewer streams by now.
    peer.settings(&[(MAX_CONCURRENT_STREAMS, 0)]).await;
    drop(call);
    settle().await;
    peer.send(PING, 0, 0, &[2; 8]).await;
    assert_eq!(peer.next_of(PING).await.unwrap().payload, [2; 8]);
    assert_eq!(begin.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn too_many_pings_counts_in_whichever_goaway_it_comes() {
    for debug_data in [&b"too_many_pings"[..], b"too_many_pings\0", b"too_many"] {
        for is_second in [false, true] {
            let (client, mut peer) = connected(&[]).await;
            let mut stream = client.call(b"1").await.unwrap();
            let id = peer.request().await;
            if is_second {
                peer.goaway(id, NO_ERROR, b"soon").await;
                settle().await;
            }
            // In pieces: frames end where they like.
            let mut bytes = id.to_be_bytes().to_vec();
            bytes.extend(ENHANCE_YOUR_CALM.to_be_bytes());
            bytes.extend(debug_data);
            for byte in frame(GOAWAY, 0, 0, &bytes) {
                peer.send_raw(&[byte]).await;
                settle().await;
            }
            let counts = debug_data == b"too_many_pings";
            let told = client.told();
            assert_eq!(told.contains(&"too many pings".to_owned()), counts, "{told:?}");
            assert_eq!(told.len(), 1 + usize::from(counts), "{told:?}");
            peer.answer(id, b"").await;
            assert!(stream.recv.trailers().await.unwrap().is_ok());
        }
    }
}

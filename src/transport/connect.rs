//! Dialling: from an address to a stream of bytes.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

#[cfg(feature = "_tls")]
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
#[cfg(feature = "_tls")]
use tokio_rustls::client::TlsStream;

use super::eyeballs;
use crate::observe::TlsReport;
use crate::types::{Address, Caught, Foreign, InvalidIp, Panicked, harmless, socket_addr};

/// A future behind a pointer, as the traits of this layer return it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Dials addresses. The default is [`SocketConnector`]; your own may go through a pipe in memory, as
/// the example `own_dialler` does, or to a virtual machine: `Io::new` takes any stream of bytes,
/// so a `VsockStream` of the crate `tokio-vsock` too, dialled to what a `passthrough:` target names.
pub trait Connect: Send + Sync + 'static {
    /// Opens one stream of bytes to `address`.
    ///
    /// The caller bounds it by the connect deadline and drops the future when that has passed, so
    /// it needs no timeout of its own. The error becomes the cause that failed calls report.
    fn connect<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, io::Result<Io>>;
}

/// Dials TCP, with Nagle's algorithm off, and Unix sockets where the system has them.
///
/// A name is `host:port`; it is looked up by the operating system. Its addresses are tried as
/// [RFC 8305] has it, families taking turns: each when the one before has failed, or has taken
/// 250 ms. The first that connects wins.
///
/// [RFC 8305]: https://www.rfc-editor.org/rfc/rfc8305
#[derive(Clone, Copy, Debug, Default)]
pub struct SocketConnector;

impl Connect for SocketConnector {
    fn connect<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, io::Result<Io>> {
        let dialling = Box::pin(async move {
            let stream = match address {
                Address::Socket(addr) => TcpStream::connect(addr).await?,
                Address::Name(name) => connect_by_name(name).await?,
                Address::Unix(path) => return unix::connect(path).await,
                Address::UnixAbstract(name) => return unix::connect_abstract(name).await,
            };
            // Small frames must leave at once: with Nagle's algorithm each waits for the
            // acknowledgement of the one before, 40 ms on most systems.
            stream.set_nodelay(true)?;
            Ok(Io::from(stream))
        });
        let dialling = Caught::of(TOKIO, dialling);
        Box::pin(async move { dialling.await.map_err(|it| io::Error::other(without_io(&it)))? })
    }
}

/// What is wrong where tokio panics over a socket: its runtime has no driver for them.
pub(super) fn without_io(panicked: &Panicked) -> String {
    format!(
        "the runtime of the channel cannot use sockets: build it with `enable_all`, or give \
         ChannelBuilder::runtime another ({panicked})"
    )
}

/// How errors name it.
pub(super) const TOKIO: &str = "tokio";

async fn connect_by_name(name: &str) -> io::Result<TcpStream> {
    let well_formed = name
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if !well_formed {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("`{}` is no address that TCP can dial: expected host:port", harmless(name)),
        ));
    }
    let addresses = match socket_addr(name) {
        Ok(addr) => vec![addr],
        Err(InvalidIp::Malformed) => tokio::net::lookup_host(name).await?.collect(),
        Err(InvalidIp::UnknownZone { zone }) => {
            let text = format!(
                "`{}`: this machine has no interface `{}`",
                harmless(name),
                harmless(&zone)
            );
            return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, text));
        }
    };
    if addresses.is_empty() {
        let text = format!("`{}` has no addresses", harmless(name));
        return Err(io::Error::new(io::ErrorKind::NotFound, text));
    }
    eyeballs::connect(addresses, TcpStream::connect).await
}

#[cfg(unix)]
mod unix {
    use std::io;
    use std::path::Path;

    use tokio::net::UnixStream;

    use super::Io;

    pub(super) async fn connect(path: &Path) -> io::Result<Io> {
        UnixStream::connect(path).await.map(Io::from)
    }

    #[cfg(target_os = "linux")]
    pub(super) async fn connect_abstract(name: &str) -> io::Result<Io> {
        // The NUL before it is what makes a name an abstract one.
        connect(Path::new(&format!("\0{name}"))).await
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) async fn connect_abstract(_name: &str) -> io::Result<Io> {
        let text = "abstract Unix sockets exist on Linux alone";
        Err(io::Error::new(io::ErrorKind::Unsupported, text))
    }
}

#[cfg(not(unix))]
mod unix {
    use std::io;
    use std::path::Path;

    use super::Io;

    pub(super) async fn connect(_path: &Path) -> io::Result<Io> {
        let text = "this system has no Unix sockets that could be dialled";
        Err(io::Error::new(io::ErrorKind::Unsupported, text))
    }

    pub(super) async fn connect_abstract(_name: &str) -> io::Result<Io> {
        connect(Path::new("")).await
    }
}

/// A stream of bytes that a [`Connect`] has opened.
pub struct Io {
    repr: Repr,
    /// Whether whom it speaks to is not whom it leads to.
    tunnel: bool,
}

enum Repr {
    /// Kept apart from the rest so that the usual case has no indirection and writes vectored.
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(tokio::net::UnixStream),
    #[cfg(feature = "_tls")]
    Tls(Box<TlsStream<Io>>),
    Other(Guarded),
}

/// A stream of bytes of the application. One that panics has failed for good: it gives an error
/// from then on, instead of unwinding through the HTTP/2 engine and its locks.
struct Guarded {
    stream: Foreign<Box<dyn ByteStream>>,
    failed: Option<Panicked>,
}

impl Guarded {
    fn poll<T>(
        &mut self,
        poll: impl FnOnce(Pin<&mut dyn ByteStream>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if let Some(panicked) = &self.failed {
            return Poll::Ready(Err(io::Error::other(panicked.clone())));
        }
        self.stream.call_mut(|stream| poll(Pin::new(&mut **stream))).unwrap_or_else(|panicked| {
            self.failed = Some(panicked.clone());
            Poll::Ready(Err(io::Error::other(panicked)))
        })
    }
}

/// The two ends of a socket. One that has no name has none here.
#[derive(Clone, Debug, Default)]
pub(super) struct SocketEnds {
    pub(super) local: Option<Address>,
    pub(super) remote: Option<Address>,
    /// The options that matter, by name.
    pub(super) options: BTreeMap<&'static str, String>,
    /// How long the kernel waits for sent data to be acknowledged, where it was told.
    pub(super) user_timeout: Option<Duration>,
}

#[cfg(target_os = "linux")]
fn user_timeout(stream: &TcpStream) -> Option<Duration> {
    // One that cannot be read is not known.
    socket2::SockRef::from(stream).tcp_user_timeout().ok().flatten()
}

#[cfg(not(target_os = "linux"))]
fn user_timeout(_stream: &TcpStream) -> Option<Duration> {
    None
}

fn options(stream: &TcpStream) -> BTreeMap<&'static str, String> {
    let socket = socket2::SockRef::from(stream);
    let mut options = BTreeMap::new();
    let mut put = |name, value: io::Result<String>| {
        // One that cannot be read is not shown.
        if let Ok(value) = value {
            options.insert(name, value);
        }
    };
    put("TCP_NODELAY", socket.tcp_nodelay().map(|on| on.to_string()));
    put("SO_KEEPALIVE", socket.keepalive().map(|on| on.to_string()));
    put("SO_RCVBUF", socket.recv_buffer_size().map(|bytes| bytes.to_string()));
    put("SO_SNDBUF", socket.send_buffer_size().map(|bytes| bytes.to_string()));
    #[cfg(target_os = "linux")]
    put(
        "TCP_USER_TIMEOUT",
        socket.tcp_user_timeout().map(|timeout| format!("{:?}", timeout.unwrap_or_default())),
    );
    options
}

trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

impl Io {
    /// Wraps any stream of bytes. For a TCP or Unix socket use `Io::from`, which costs less, and has
    /// the kernel told of a keepalive's timeout (TCP, on Linux).
    pub fn new(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let stream: Box<dyn ByteStream> = Box::new(stream);
        let stream = Foreign::new("the dialler's stream of bytes", stream);
        Self::of(Repr::Other(Guarded { stream, failed: None }))
    }

    fn of(repr: Repr) -> Self {
        Self { repr, tunnel: false }
    }

    /// The same stream, which leads to somewhere else than to whom it was opened.
    pub(super) fn into_tunnel(self) -> Self {
        Self { tunnel: true, ..self }
    }

    /// Has the kernel end a TCP connection whose data is not acknowledged for so long, where it can
    /// (A18).
    #[cfg_attr(
        not(target_os = "linux"),
        expect(unused_variables, clippy::unnecessary_wraps, reason = "Linux alone has it")
    )]
    pub(super) fn set_user_timeout(&self, timeout: Duration) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        match &self.repr {
            Repr::Tcp(stream) => {
                let timeout = timeout.clamp(USER_TIMEOUT_MIN, USER_TIMEOUT_MAX);
                socket2::SockRef::from(stream).set_tcp_user_timeout(Some(timeout))?;
            }
            // A dialler may have secured it already.
            #[cfg(feature = "_tls")]
            Repr::Tls(stream) => stream.get_ref().0.set_user_timeout(timeout)?,
            Repr::Unix(_) | Repr::Other(_) => {}
        }
        Ok(())
    }

    /// What TLS protects it with, where it is that.
    pub(super) fn tls(&self) -> Option<TlsReport> {
        match &self.repr {
            #[cfg(feature = "_tls")]
            Repr::Tls(stream) => super::tls::report(stream.get_ref().1),
            #[cfg(unix)]
            Repr::Unix(_) => None,
            Repr::Tcp(_) | Repr::Other(_) => None,
        }
    }

    /// The certificates that the server has shown, its own first; none without TLS.
    #[cfg(feature = "_tls")]
    pub(super) fn certificates(&self) -> &[CertificateDer<'static>] {
        match &self.repr {
            Repr::Tls(stream) => stream.get_ref().1.peer_certificates().unwrap_or_default(),
            #[cfg(unix)]
            Repr::Unix(_) => &[],
            Repr::Tcp(_) | Repr::Other(_) => &[],
        }
    }

    /// This end of the socket and the other, as far as they are known.
    pub(super) fn ends(&self) -> SocketEnds {
        match &self.repr {
            Repr::Tcp(stream) => SocketEnds {
                local: stream.local_addr().ok().map(Address::from),
                remote: stream.peer_addr().ok().map(Address::from),
                options: options(stream),
                user_timeout: user_timeout(stream),
            },
            #[cfg(unix)]
            Repr::Unix(stream) => {
                let address = |end: io::Result<tokio::net::unix::SocketAddr>| {
                    Some(Address::Unix(end.ok()?.as_pathname()?.into()))
                };
                SocketEnds {
                    local: address(stream.local_addr()),
                    remote: address(stream.peer_addr()),
                    ..SocketEnds::default()
                }
            }
            #[cfg(feature = "_tls")]
            Repr::Tls(stream) => stream.get_ref().0.ends(),
            Repr::Other(_) => SocketEnds::default(),
        }
    }

    /// Whether it is a Unix socket.
    pub(super) fn is_unix(&self) -> bool {
        if self.tunnel {
            return false;
        }
        match &self.repr {
            #[cfg(unix)]
            Repr::Unix(_) => true,
            #[cfg(feature = "_tls")]
            Repr::Tls(_) => false,
            Repr::Tcp(_) | Repr::Other(_) => false,
        }
    }

    /// Whether the other end is known to be on this machine.
    pub(super) fn is_local(&self) -> bool {
        if self.tunnel {
            return false;
        }
        match &self.repr {
            Repr::Tcp(stream) => stream.peer_addr().is_ok_and(|peer| peer.ip().is_loopback()),
            #[cfg(unix)]
            Repr::Unix(_) => true,
            #[cfg(feature = "_tls")]
            Repr::Tls(stream) => stream.get_ref().0.is_local(),
            Repr::Other(_) => false,
        }
    }
}

impl From<TcpStream> for Io {
    fn from(stream: TcpStream) -> Self {
        Self::of(Repr::Tcp(stream))
    }
}

#[cfg(feature = "_tls")]
impl From<TlsStream<Self>> for Io {
    fn from(stream: TlsStream<Self>) -> Self {
        Self::of(Repr::Tls(Box::new(stream)))
    }
}

#[cfg(unix)]
impl From<tokio::net::UnixStream> for Io {
    fn from(stream: tokio::net::UnixStream) -> Self {
        Self::of(Repr::Unix(stream))
    }
}

impl fmt::Debug for Io {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.repr {
            Repr::Tcp(_) => "Io(tcp)",
            #[cfg(unix)]
            Repr::Unix(_) => "Io(unix)",
            #[cfg(feature = "_tls")]
            Repr::Tls(_) => "Io(tls)",
            Repr::Other(_) => "Io(other)",
        })
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.repr {
            Repr::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            #[cfg(unix)]
            Repr::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            #[cfg(feature = "_tls")]
            Repr::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            Repr::Other(stream) => stream.poll(|stream| stream.poll_read(cx, buf)),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.repr {
            Repr::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            #[cfg(unix)]
            Repr::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            #[cfg(feature = "_tls")]
            Repr::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
            Repr::Other(stream) => stream.poll(|stream| stream.poll_write(cx, buf)),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.repr {
            Repr::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            #[cfg(unix)]
            Repr::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            #[cfg(feature = "_tls")]
            Repr::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Repr::Other(stream) => stream.poll(|stream| stream.poll_write_vectored(cx, bufs)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.repr {
            Repr::Tcp(stream) => stream.is_write_vectored(),
            #[cfg(unix)]
            Repr::Unix(stream) => stream.is_write_vectored(),
            #[cfg(feature = "_tls")]
            Repr::Tls(stream) => stream.is_write_vectored(),
            // What panics here will be asked to write, and fail then.
            Repr::Other(stream) => {
                stream.stream.call(AsyncWrite::is_write_vectored).unwrap_or(false)
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.repr {
            Repr::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            #[cfg(unix)]
            Repr::Unix(stream) => Pin::new(stream).poll_flush(cx),
            #[cfg(feature = "_tls")]
            Repr::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Repr::Other(stream) => stream.poll(|stream| stream.poll_flush(cx)),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.repr {
            Repr::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            #[cfg(unix)]
            Repr::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            #[cfg(feature = "_tls")]
            Repr::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Repr::Other(stream) => stream.poll(|stream| stream.poll_shutdown(cx)),
        }
    }
}

/// The kernel counts in milliseconds, and takes 0 for its own default.
#[cfg(target_os = "linux")]
const USER_TIMEOUT_MIN: Duration = Duration::from_millis(1);

/// More milliseconds than that are a negative number to the kernel, which it refuses.
#[cfg(target_os = "linux")]
const USER_TIMEOUT_MAX: Duration = Duration::from_millis(i32::MAX as u64);

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_socket_address_and_a_name_are_dialled() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let name = Address::Name(format!("127.0.0.1:{}", addr.port()).into());
        for address in [Address::Socket(addr), name] {
            let mut io = SocketConnector.connect(&address).await.unwrap();
            assert!(io.is_write_vectored());
            io.write_all(b"x").await.unwrap();
            let (mut peer, _) = listener.accept().await.unwrap();
            assert_eq!(peer.read_u8().await.unwrap(), b'x');
        }
    }

    /// A listener whose queue is full, and what fills it: what is sent to it is dropped, and nobody says so.
    #[cfg(target_os = "linux")]
    async fn swallowing() -> (SocketAddr, socket2::Socket, Vec<TcpStream>) {
        let listener = socket2::Socket::new(
            socket2::Domain::IPV4,
            socket2::Type::STREAM,
            Some(socket2::Protocol::TCP),
        )
        .unwrap();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let addr = listener.local_addr().unwrap().as_socket().unwrap();
        let mut queued = Vec::new();
        // The queue is of the system's making; it is full when a connection hangs.
        while let Ok(stream) = timeout(Duration::from_millis(200), TcpStream::connect(addr)).await {
            queued.push(stream.unwrap());
            assert!(queued.len() < 1_000, "the queue never fills");
        }
        (addr, listener, queued)
    }

    // spec: A61/dialled-name
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn an_address_that_swallows_packets_holds_the_next_one_up_for_a_moment_only() {
        let (swallows, _listener, _queued) = swallowing().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let answers = listener.local_addr().unwrap();
        let stream = eyeballs::connect([swallows, answers], TcpStream::connect).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), answers);
    }

    #[tokio::test]
    async fn an_address_with_a_zone_by_name_is_dialled() {
        let Ok(listener) = TcpListener::bind("[::1]:0").await else {
            return; // This machine has no IPv6.
        };
        let port = listener.local_addr().unwrap().port();
        let address = Address::Name(format!("[::1%lo]:{port}").into());
        SocketConnector.connect(&address).await.unwrap();
        let address = Address::Name(format!("[fe80::1%nosuch]:{port}").into());
        let error = SocketConnector.connect(&address).await.unwrap_err();
        assert!(error.to_string().contains("no interface `nosuch`"), "{error}");
    }

    #[tokio::test]
    async fn what_tcp_cannot_dial_is_refused_with_its_text() {
        for text in ["greeter", "unix:/run/x", ":80", "greeter:99999", ""] {
            let address = Address::Name(text.into());
            let error = SocketConnector.connect(&address).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert!(error.to_string().contains(&format!("`{text}`")), "{error}");
        }
    }
}

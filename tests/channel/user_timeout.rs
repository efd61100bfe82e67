//! `TCP_USER_TIMEOUT`, which a keepalive sets on sockets on Linux (A18): read back from each kind.

use std::io;
use std::sync::Mutex;
use std::time::Duration;

use switchboard::{
    Address, BoxFuture, ChannelBuilder, Channelz, Connect, Credentials, Io, KeepaliveConfig, Proxy,
    TlsConfig,
};
use tokio::net::TcpStream;

use crate::support::greeter::{Greeter, SAY_HELLO, ask};
use crate::support::plaintext;
use crate::support::proxy::{HttpProxy, Manner};
use crate::support::tls::{Certificate, Issuer, TlsServer, USUAL};

fn keepalive(timeout: Duration) -> KeepaliveConfig {
    KeepaliveConfig { time: Duration::from_secs(60), timeout, permit_without_stream: false }
}

/// What the kernel says of the socket of a channel's only connection, after a call.
async fn user_timeout(builder: ChannelBuilder) -> String {
    let channelz = Channelz::new();
    let channel = builder.channelz(&channelz).build().unwrap();
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    let top = channelz.channel(channel.channelz_id().unwrap()).unwrap();
    let subchannel = channelz.subchannel(top.subchannels[0].id).unwrap();
    let socket = channelz.socket(subchannel.sockets[0].id).unwrap();
    let value = socket.connection.socket_options["TCP_USER_TIMEOUT"].clone();
    channel.close().await;
    value
}

// spec: A18/user-timeout
#[tokio::test]
async fn the_timeout_of_the_keepalive_is_that_of_every_tcp_socket() {
    let greeter = Greeter::start();
    let issuer = Issuer::new();
    let name = Certificate::of(&["greeter.test"]);
    let server = TlsServer::before(&issuer, name, USUAL, greeter.address()).await;
    let tls = TlsConfig::new().roots_pem(issuer.root_pem()).unwrap().server_name("greeter.test");
    let tls = Credentials::tls_with(tls);
    let [to_greeter, to_server] = [greeter.address(), server.address()].map(Manner::LeadsTo);
    let [plain_proxy, tls_proxy] =
        [HttpProxy::start(to_greeter).await, HttpProxy::start(to_server).await];
    let through = |proxy: &HttpProxy| Proxy::http(&format!("http://{}", proxy.address())).unwrap();
    let by_name = format!("passthrough:localhost:{}", greeter.address().port());
    let encrypted = plaintext(server.address().to_string()).credentials(tls.clone());
    let rows = [
        ("an address", plaintext(greeter.address().to_string())),
        ("a name", plaintext(by_name)),
        ("a proxy", plaintext("greeter.invalid:1").proxy(through(&plain_proxy))),
        ("TLS", encrypted),
        (
            "TLS through a proxy",
            plaintext("greeter.invalid:1").credentials(tls).proxy(through(&tls_proxy)),
        ),
    ];
    for (what, builder) in rows {
        let with = builder.clone().keepalive(keepalive(Duration::from_millis(7_500)));
        assert_eq!(user_timeout(with).await, "7.5s", "{what}");
        assert_eq!(user_timeout(builder).await, "0ns", "{what}, without a keepalive");
    }
}

// spec: A18/user-timeout
#[tokio::test]
async fn a_timeout_that_the_kernel_cannot_have_is_the_nearest_one_that_it_can() {
    let greeter = Greeter::start();
    let rows = [
        (Duration::MAX, "2147483.647s"),
        (Duration::from_secs(30 * 24 * 60 * 60), "2147483.647s"),
        (Duration::from_micros(1), "1ms"),
    ];
    for (timeout, expected) in rows {
        let builder = plaintext(greeter.address().to_string()).keepalive(keepalive(timeout));
        assert_eq!(user_timeout(builder).await, expected, "{timeout:?}");
    }
}

/// Dials itself, and keeps a handle to each socket. Whether the channel is told that it is one of
/// TCP is up to whoever writes a dialler.
struct OwnDialler {
    is_told: bool,
    sockets: &'static Mutex<Vec<std::net::TcpStream>>,
}

impl Connect for OwnDialler {
    fn connect<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, io::Result<Io>> {
        Box::pin(async move {
            let stream = TcpStream::connect(address.to_string()).await?.into_std()?;
            self.sockets.lock().unwrap().push(stream.try_clone()?);
            let stream = TcpStream::from_std(stream)?;
            Ok(if self.is_told { Io::from(stream) } else { Io::new(stream) })
        })
    }
}

// spec: A18/user-timeout
#[tokio::test]
async fn the_socket_of_an_own_dialler_has_the_timeout_where_it_is_given_as_one() {
    let greeter = Greeter::start();
    for (is_told, expected) in [(true, Some(Duration::from_secs(7))), (false, None)] {
        let sockets: &'static Mutex<Vec<_>> = Box::leak(Box::default());
        let channel = plaintext(greeter.address().to_string())
            .connector(OwnDialler { is_told, sockets })
            .keepalive(keepalive(Duration::from_secs(7)))
            .build()
            .unwrap();
        channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
        let socket = sockets.lock().unwrap().pop().unwrap();
        assert_eq!(socket2::SockRef::from(&socket).tcp_user_timeout().unwrap(), expected);
        channel.close().await;
    }
}

//! The whole of the layer, against a peer that says exactly what a test tells it to, and against
//! an ordinary HTTP/2 server.

mod dialling;
mod ending;
mod gathering;
mod peer;
mod pings;
mod queueing;
mod stale;
mod streams;
mod unread;
mod writing;

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use http::HeaderMap;
use http::uri::PathAndQuery;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::transport::connect::Connect;
use crate::transport::error::{ConnectError, Disconnect, StreamError};
use crate::transport::memory::{self, MemoryListener};
use crate::transport::message::Message;
use crate::transport::{
    Connection, ConnectionOptions, Driver, KeepaliveConfig, News, RequestHead, Security, Stream,
    dial,
};
use crate::types::{Address, Authority, Foreign};

use peer::Peer;

/// A connection whose driver runs, and what became of it.
struct Client {
    connection: Connection,
    /// What the driver told.
    draining: Arc<Mutex<Vec<String>>>,
    driver: JoinHandle<Arc<Disconnect>>,
}

impl Client {
    fn spawn((connection, driver): (Connection, Driver)) -> Self {
        let draining = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&draining);
        let driver = tokio::spawn(driver.run(move |news| {
            told.lock().unwrap().push(match news {
                News::Draining(why) => why.to_string(),
                News::TooManyPings => "too many pings".to_owned(),
                News::Answered => return,
            });
        }));
        Self { connection, draining, driver }
    }

    /// Opens a stream that stays open for sending.
    async fn open(&self) -> Result<Stream, StreamError> {
        self.open_with(None, None).await
    }

    /// Opens a stream with `message` as its only one.
    async fn call(&self, payload: &[u8]) -> Result<Stream, StreamError> {
        self.open_with(Some((message(payload), true)), None).await
    }

    async fn open_with(
        &self,
        first: Option<(Message, bool)>,
        timeout: Option<Duration>,
    ) -> Result<Stream, StreamError> {
        open(&self.connection, first, timeout).await
    }

    /// Waits for the end of the connection.
    async fn ended(self) -> (Arc<Disconnect>, Vec<String>) {
        let ended = self.driver.await.unwrap();
        let draining = self.draining.lock().unwrap().clone();
        (ended, draining)
    }

    fn told(&self) -> Vec<String> {
        self.draining.lock().unwrap().clone()
    }
}

async fn open(
    connection: &Connection,
    first: Option<(Message, bool)>,
    timeout: Option<Duration>,
) -> Result<Stream, StreamError> {
    let (path, metadata) = (path(), HeaderMap::new());
    let head = RequestHead {
        path: &path,
        authority: None,
        timeout,
        content_type: "application/grpc",
        encoding: None,
        accepted: None,
        metadata: Some(&metadata),
    };
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    connection.open(&head, first, deadline).await
}

fn path() -> PathAndQuery {
    PathAndQuery::from_static("/test.Service/Method")
}

fn message(payload: &[u8]) -> Message {
    Message::encode(payload.len(), |buf| {
        buf.extend_from_slice(payload);
        Ok::<_, std::convert::Infallible>(())
    })
    .unwrap()
}

fn address() -> Address {
    Address::Name("server:1".into())
}

/// Dials whoever listens, for 20 seconds at most.
async fn dial_with(
    connector: &memory::MemoryConnector,
    options: &ConnectionOptions,
) -> Result<(Connection, Driver), ConnectError> {
    let authority = Authority::parse("greeter.example").unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let connector = Foreign::new("the dialler", Arc::new(connector.clone()) as Arc<dyn Connect>);
    dial(&connector, &Security::Insecure, &address(), &authority, options, None, deadline).await
}

async fn dial_default(
    connector: &memory::MemoryConnector,
) -> Result<(Connection, Driver), ConnectError> {
    dial_with(connector, &ConnectionOptions::default()).await
}

/// A connection to a scripted peer that has said its SETTINGS, which are these.
async fn connected(settings: &[(u16, u32)]) -> (Client, Peer) {
    connected_with(settings, &ConnectionOptions::default()).await
}

async fn connected_with(settings: &[(u16, u32)], options: &ConnectionOptions) -> (Client, Peer) {
    let (connector, mut listener) = memory::pipe();
    let (dialled, peer) = tokio::join!(dial_with(&connector, options), async {
        let mut peer = accept(&mut listener).await;
        peer.settings(settings).await;
        peer.acknowledge_settings().await;
        peer
    });
    (Client::spawn(dialled.unwrap()), peer)
}

async fn accept(listener: &mut MemoryListener) -> Peer {
    Peer::new(listener.accept().await.unwrap()).await
}

/// Lets all other tasks run until they wait for something.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

//! A network in memory, for tests: connections without sockets.
//!
//! ```
//! # use switchboard::memory::MemoryNetwork;
//! let network = MemoryNetwork::new();
//! let mut listener = network.listen("greeter:50051");
//! // Hand `network.connector()` to the channel, and what `listener.accept()` gives to the server.
//! # drop(listener.accept());
//! ```

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::DuplexStream;
use tokio::sync::mpsc;

use crate::types::Address;

use super::connect::{BoxFuture, Connect, Io};

/// One connector and one listener: whatever address the connector is given, the listener gets
/// the connection.
pub fn pipe() -> (MemoryConnector, MemoryListener) {
    let network = MemoryNetwork::new();
    let (accepting, listener) = new_listener();
    network.routes().any = Some(accepting);
    (network.connector(), listener)
}

/// Several addresses that can be listened on and dialled.
#[derive(Clone, Default)]
pub struct MemoryNetwork(Arc<Mutex<Routes>>);

#[derive(Default)]
struct Routes {
    /// Who listens, by the address as text.
    by_address: HashMap<String, mpsc::UnboundedSender<DuplexStream>>,
    /// Who gets what nobody listens on.
    any: Option<mpsc::UnboundedSender<DuplexStream>>,
}

impl MemoryNetwork {
    /// A network where nobody listens yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Listens on `address`, in its textual form, until the listener is dropped. A listener that
    /// was there before gets no further connections.
    pub fn listen(&self, address: impl fmt::Display) -> MemoryListener {
        let (accepting, listener) = new_listener();
        self.routes().by_address.insert(address.to_string(), accepting);
        listener
    }

    /// A connector that dials on this network.
    pub fn connector(&self) -> MemoryConnector {
        MemoryConnector(self.clone())
    }

    fn routes(&self) -> MutexGuard<'_, Routes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for MemoryNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.routes().by_address.keys()).finish()
    }
}

/// Dials on a [`MemoryNetwork`]. Where nobody listens, the connection is refused.
#[derive(Clone, Debug)]
pub struct MemoryConnector(MemoryNetwork);

impl Connect for MemoryConnector {
    fn connect<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, io::Result<Io>> {
        Box::pin(async move {
            let accepting = {
                let routes = self.0.routes();
                let named = routes.by_address.get(&address.to_string());
                named.or(routes.any.as_ref()).cloned()
            };
            let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
            let accepted = accepting.is_some_and(|accepting| accepting.send(theirs).is_ok());
            if accepted {
                Ok(Io::new(ours))
            } else {
                Err(io::Error::new(
                    io::ErrorKind::ConnectionRefused,
                    "connection refused: nobody listens there in memory",
                ))
            }
        })
    }
}

/// Where connections to one address arrive. Dropped, it refuses later ones.
#[derive(Debug)]
pub struct MemoryListener(mpsc::UnboundedReceiver<DuplexStream>);

impl MemoryListener {
    /// The server's end of the next connection; `None` once nobody can dial any more.
    ///
    /// Cancel-safe.
    pub async fn accept(&mut self) -> Option<DuplexStream> {
        self.0.recv().await
    }
}

fn new_listener() -> (mpsc::UnboundedSender<DuplexStream>, MemoryListener) {
    let (accepting, accepted) = mpsc::unbounded_channel();
    (accepting, MemoryListener(accepted))
}

/// What one direction of a connection holds before a writer waits: about a socket buffer.
const PIPE_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_connection_reaches_who_listens_on_its_address() {
        let network = MemoryNetwork::new();
        let mut one = network.listen("one:1");
        let _two = network.listen("two:1");
        let address = Address::Name("one:1".into());
        let mut client = network.connector().connect(&address).await.unwrap();
        client.write_all(b"hi").await.unwrap();
        let mut server = one.accept().await.unwrap();
        let mut got = [0; 2];
        server.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"hi");
    }

    #[tokio::test]
    async fn nobody_listening_refuses_the_connection() {
        let (connector, listener) = pipe();
        let address = Address::Name("any".into());
        connector.connect(&address).await.unwrap();
        drop(listener);
        let error = connector.connect(&address).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        let network = MemoryNetwork::new();
        assert!(network.connector().connect(&address).await.is_err());
    }
}

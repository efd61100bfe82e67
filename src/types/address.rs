//! Where a connection goes.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::harmless;

/// One address that a connection can be dialled to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address {
    /// An IP address and a port.
    Socket(SocketAddr),
    /// A Unix socket in the file system.
    Unix(Arc<Path>),
    /// A Unix socket in the abstract namespace of Linux; the name without the NUL before it.
    UnixAbstract(Arc<str>),
    /// A name that the dialler itself understands: `host:port` for TCP, anything for a dialler of
    /// your own. `passthrough:` targets give one of these.
    Name(Arc<str>),
}

impl From<SocketAddr> for Address {
    fn from(addr: SocketAddr) -> Self {
        Self::Socket(addr)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(addr) => addr.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", harmless(&path.to_string_lossy())),
            Self::UnixAbstract(name) => write!(f, "unix-abstract:{}", harmless(name)),
            Self::Name(name) => harmless(name).fmt(f),
        }
    }
}

/// As it is displayed.
impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One backend: one or more addresses that reach the same server (A61).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    addresses: Vec<Address>,
}

impl Endpoint {
    /// A backend that any of `addresses` reaches, best first.
    pub fn new(addresses: impl IntoIterator<Item = Address>) -> Self {
        Self { addresses: addresses.into_iter().collect() }
    }

    /// Its addresses, best first.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }
}

impl From<Address> for Endpoint {
    fn from(address: Address) -> Self {
        Self { addresses: vec![address] }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(addr: SocketAddr) -> Self {
        Address::from(addr).into()
    }
}

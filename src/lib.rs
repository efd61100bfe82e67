//! A gRPC client channel built of actors.
//!
//! A [`Channel`] finds the servers of a target, keeps connections to them and sends each call to
//! one. Name resolution, load balancing and one connection lifecycle per address are independent
//! actors; a call meets none of them. It reads a lock-free snapshot on its own task.

#![forbid(unsafe_code)]

mod actors;
mod api;
mod call;
#[cfg(feature = "_fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod observe;
mod policy;
mod sync;
mod transport;
mod types;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use api::*;
#[cfg(feature = "test-util")]
#[doc(hidden)]
pub use call::{EventRig, PickRig};
pub use call::{StateChange, StateChanges};
pub use observe::*;
pub use policy::{
    EndpointShards, LbContext, LbEvent, LbPolicy, LbPolicyBuilder, LbPolicyConfig, LbUpdate, Pick,
    PickArgs, PickResult, Picker, ReadyEndpoint, ServiceConfigError, Spread, SubchannelState,
};
#[cfg(feature = "dns")]
pub use transport::Dns;
#[cfg(feature = "_tls")]
pub use transport::TlsConfig;
pub use transport::{
    BearerToken, BoxFuture, BuildResolver, CallContext, CallCredentials, Connect, Credentials,
    CredentialsError, Io, KeepaliveConfig, Proxy, ProxyError, Resolution, Resolve, ResolveError,
    ResolverOptions, SocketConnector, SystemDns,
};
#[cfg(feature = "test-util")]
pub use transport::{ManualResolver, memory};
pub use types::*;

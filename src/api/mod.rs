//! What users hold.

mod backoff_table;
mod builder;
mod channel;
mod codec;
mod dial;
#[cfg(feature = "test-util")]
mod inject;
mod method;
mod request;
mod streaming;
mod token;

pub use builder::{BackoffConfig, BuildError, ChannelBuilder};
pub use channel::Channel;
#[cfg(feature = "prost")]
pub use codec::Prost;
pub use codec::{Codec, CodecError, Raw};
pub use dial::DialError;
#[cfg(feature = "test-util")]
pub use inject::{Fault, InjectError};
pub use method::{Cardinality, IntoMethod, Method, PreparedMethod};
pub use request::{CallOptions, Request, Response};
pub use streaming::{Receiver, Sender, Streaming};
pub use token::{AccessToken, JwtFile, OAuth2, TokenSource};

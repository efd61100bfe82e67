//! What users hold.

mod backoff_table;
mod builder;
mod channel;
mod client_stream;
mod codec;
mod dial;
mod finish;
#[cfg(feature = "test-util")]
mod inject;
mod inspect;
mod intercept;
pub mod kind;
mod method;
mod request;
mod streaming;
mod token;

pub use builder::{BackoffConfig, BuildError, ChannelBuilder};
pub use channel::Channel;
pub use client_stream::{ClientStream, StreamWrapper};
#[cfg(feature = "prost")]
pub use codec::Prost;
pub use codec::{Codec, CodecError, EncodedMessage, Raw};
pub use dial::DialError;
#[cfg(feature = "test-util")]
pub use inject::{Fault, InjectError, Injected};
pub use inspect::{ActorHandle, InspectionChanges};
pub use intercept::{Answer, Interceptor, Next, Outcome, OutgoingCall};
pub use method::{Cardinality, IntoMethod, IntoMethodOf, Method, PreparedMethod};
pub use request::{CallOptions, Request, Response};
pub use streaming::{Exchange, Receiver, Sender, Streaming};
pub use token::{AccessToken, JwtFile, OAuth2, TokenSource};

//! Dialling, as older gRPC clients did it: building a channel and waiting until it is connected.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use super::builder::{BuildError, ChannelBuilder};
use super::channel::Channel;
use crate::call::NotReady;
use crate::types::{ConnectivityState, Status, untold};

impl ChannelBuilder {
    /// Builds the channel and waits until it is READY, no longer than `timeout`: the deprecated
    /// `Dial` of grpc-go, for programs that come from there.
    ///
    /// A target without a scheme is a `dns` one, as for [`build`](Self::build). Attempts to connect
    /// go on for the whole time; the error has the cause of the last that failed.
    ///
    /// Prefer [`build`](Self::build): a channel needs no connection to be used, a call waits for
    /// one with `wait_for_ready`, and [`Channel::connect`] starts connecting ahead of the first.
    ///
    /// Cancel-safe: dropping the future ends the channel.
    pub async fn dial(&self, timeout: Duration) -> Result<Channel, DialError> {
        let channel = self.build()?;
        match channel.until_ready(timeout).await {
            Ok(()) => Ok(channel),
            Err(why) => {
                let cause = match why {
                    NotReady::Ended(status) => Some(status),
                    NotReady::TooLate(last_error) => last_error,
                };
                let (target, state) = (channel.target(), channel.state());
                Err(DialError::NotReady { target, timeout, state, cause })
            }
        }
    }
}

/// A channel could not be dialled.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum DialError {
    /// It cannot be built.
    Build(BuildError),
    /// It was built and did not become READY in time.
    NotReady {
        /// What was dialled, in its whole form.
        target: String,
        /// How long was tried.
        timeout: Duration,
        /// How far it had come.
        state: ConnectivityState,
        /// Why the last attempt to connect, or to resolve, failed; none where none had yet.
        cause: Option<Status>,
    },
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Build(error) => error.fmt(f),
            Self::NotReady { target, timeout, cause: Some(cause), .. } => {
                write!(f, "{target} was not connected within {timeout:?}: {}", cause.text())
            }
            Self::NotReady { target, timeout, state, cause: None } => write!(
                f,
                "{target} was not connected within {timeout:?}: it is {state}, and no attempt has \
                 failed yet"
            ),
        }
    }
}

impl Error for DialError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Build(error) => error.source(),
            Self::NotReady { cause, .. } => {
                untold(&self.to_string(), cause.as_ref().and_then(Status::cause))
            }
        }
    }
}

impl From<BuildError> for DialError {
    fn from(error: BuildError) -> Self {
        Self::Build(error)
    }
}

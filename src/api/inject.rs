//! Faults for tests: what does your service do when a part of its channel misbehaves?

use std::fmt;
use std::time::Duration;

use crate::actors;
use crate::observe::ActorKind;

/// Something that befalls a part of a channel; sent by [`Channel::inject`](crate::Channel::inject).
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub(super) actor: ActorKind,
    pub(super) fault: actors::Fault,
}

impl Fault {
    /// The actor panics in the middle of a message. For an `AddrConn`: all of them.
    pub const fn crash(actor: ActorKind) -> Self {
        Self { actor, fault: actors::Fault::Crash }
    }

    /// The actor handles no message for this long. For an `AddrConn`: all of them.
    pub const fn stall(actor: ActorKind, time: Duration) -> Self {
        Self { actor, fault: actors::Fault::Stall(time) }
    }
}

/// A fault was not injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InjectError {
    /// The builder did not say `allow_injection()`.
    NotAllowed,
    /// There is no such actor: the channel has not been used yet, or has ended.
    NoSuchActor(ActorKind),
}

impl fmt::Display for InjectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAllowed => f.write_str(
                "this channel takes no faults: build it with ChannelBuilder::allow_injection",
            ),
            Self::NoSuchActor(actor) => {
                write!(f, "the channel has no {actor} at the moment; use the channel first")
            }
        }
    }
}

impl std::error::Error for InjectError {}

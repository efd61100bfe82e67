//! What there is to be seen of each entity.

use std::time::SystemTime;

use serde::Serialize;

use super::super::inspection::ConnectionReport;
use crate::types::ConnectivityState;

/// Some of the entities that were asked for.
#[derive(Clone, Debug, Serialize)]
pub struct ChannelzPage<T> {
    /// They, by ascending number.
    pub items: Vec<T>,
    /// Whether there are none after them, as of now.
    pub is_last: bool,
}

/// Names an entity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChannelzRef {
    /// What it is.
    pub kind: ChannelzKind,
    /// Its number, from 1: no two entities of a [`Channelz`](crate::Channelz) ever have the same.
    pub id: u64,
    /// For people: the target of a channel, the address of a subchannel, the two ends of a socket.
    pub name: String,
}

/// What an entity is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
pub enum ChannelzKind {
    /// A channel.
    Channel,
    /// A subchannel.
    Subchannel,
    /// A connection.
    Socket,
}

/// A channel.
#[derive(Clone, Debug, Serialize)]
pub struct ChannelzChannel {
    /// Its number and name.
    pub itself: ChannelzRef,
    /// The target, in its whole form.
    pub target: String,
    /// Its state.
    pub state: ConnectivityState,
    /// Its calls; each counts once, however many attempts it has.
    pub calls: ChannelzCalls,
    /// What happened to it last.
    pub trace: ChannelzTrace,
    /// Channels that it is the parent of.
    pub channels: Vec<ChannelzRef>,
    /// Its subchannels.
    pub subchannels: Vec<ChannelzRef>,
}

/// A subchannel.
#[derive(Clone, Debug, Serialize)]
pub struct ChannelzSubchannel {
    /// Its number and name.
    pub itself: ChannelzRef,
    /// Its address.
    pub address: String,
    /// Its state.
    pub state: ConnectivityState,
    /// The attempts that it was picked for.
    pub calls: ChannelzCalls,
    /// What happened to it last.
    pub trace: ChannelzTrace,
    /// Its connections.
    pub sockets: Vec<ChannelzRef>,
}

/// A connection.
#[derive(Clone, Debug, Serialize)]
pub struct ChannelzSocket {
    /// Its number and name.
    pub itself: ChannelzRef,
    /// How it stands.
    pub connection: ConnectionReport,
}

/// How many calls, or attempts, there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ChannelzCalls {
    /// That began.
    pub started: u64,
    /// That ended with OK.
    pub succeeded: u64,
    /// That ended with anything else.
    pub failed: u64,
    /// When the last one began.
    pub last_started: Option<SystemTime>,
}

/// What happened to a channel or subchannel, as far as it is remembered: the last 30 events (A3).
#[derive(Clone, Debug, Serialize)]
pub struct ChannelzTrace {
    /// When it was made.
    pub created: SystemTime,
    /// How many events there ever were.
    pub logged: u64,
    /// The last of them, oldest first.
    pub events: Vec<ChannelzEvent>,
}

/// One event of a trace.
#[derive(Clone, Debug, Serialize)]
pub struct ChannelzEvent {
    /// What happened.
    pub description: String,
    /// How bad that is.
    pub severity: ChannelzSeverity,
    /// When.
    pub at: SystemTime,
    /// The entity below that it happened to, if it did.
    pub about: Option<ChannelzRef>,
}

/// How bad an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
pub enum ChannelzSeverity {
    /// It is as it should be.
    Info,
    /// It may be of no matter, as is one failed connection of many.
    Warning,
    /// It keeps calls from being made.
    Error,
}

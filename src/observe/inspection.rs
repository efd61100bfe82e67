//! An inspection: what each actor of a channel answered when asked how it stands.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::types::{Address, ConnectivityState, SecurityLevel, harmless};

/// The parts that a channel is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum ActorKind {
    /// Restarts the others.
    Supervisor,
    /// Publishes what calls pick from.
    ClientConn,
    /// Turns the target into endpoints.
    Resolver,
    /// Runs the load-balancing policies.
    Balancer,
    /// Keeps the connection to one address.
    AddrConn,
}

impl fmt::Display for ActorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Supervisor => "Supervisor",
            Self::ClientConn => "ClientConn",
            Self::Resolver => "Resolver",
            Self::Balancer => "Balancer",
            Self::AddrConn => "AddrConn",
        })
    }
}

/// How a channel stands, asked of every actor at once. `Display` draws the tree.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// The target, in its whole form.
    pub target: String,
    /// The channel's state.
    pub state: ConnectivityState,
    /// How many snapshots it has published.
    pub generation: u64,
    /// The load-balancing policy that the service config in force asks for.
    pub configured_policy: String,
    /// The policies at work, once there are some.
    pub policy: Option<PolicyReport>,
    /// What the actors answered: Supervisor, `ClientConn`, Resolver, Balancer, then one `AddrConn`
    /// for each address. Empty before the channel's first use and after its end.
    pub actors: Vec<ActorAnswer>,
    /// Why the last connection ended that did, whichever it was.
    pub last_disconnect: Option<ErrorReport>,
    /// Connections that are open, those that only finish their streams included.
    pub connections: usize,
    /// What a test has the channel suffer at the moment.
    pub faults: Vec<FaultReport>,
}

/// A fault that was injected and is not over.
#[derive(Clone, Debug, Serialize)]
pub struct FaultReport {
    /// What befalls the channel.
    pub what: String,
    /// Where.
    pub scope: String,
    /// How often it will yet; for ever, where there is none.
    pub left: Option<u32>,
}

/// What one actor said.
#[derive(Clone, Debug, Serialize)]
#[expect(clippy::large_enum_variant, reason = "an inspection is looked at, and hardly moved")]
pub enum ActorAnswer {
    /// It answered.
    Answered(ActorReport),
    /// It did not within the time that an inspection waits: it is busy, stalled or being restarted.
    Silent {
        /// Which kind.
        actor: ActorKind,
        /// Which of its kind.
        id: Option<String>,
        /// How long it was waited for.
        waited: Duration,
    },
}

/// How one actor stands.
#[derive(Clone, Debug, Serialize)]
pub struct ActorReport {
    /// Which kind.
    pub actor: ActorKind,
    /// Which of its kind: for an `AddrConn` its number and address.
    pub id: Option<String>,
    /// Its state.
    pub state: String,
    /// For how long it has been in this state.
    pub since: Duration,
    /// Its last transitions, oldest first.
    pub transitions: Vec<Transition>,
    /// The last error that it met, even if that is over.
    pub last_error: Option<ErrorReport>,
    /// What it waits for by the clock.
    pub next_timer: Option<TimerReport>,
    /// Messages that it has not handled yet.
    pub mailbox_depth: usize,
    /// How often it has been restarted.
    pub restarts: u64,
    /// What it has counted.
    pub counters: BTreeMap<&'static str, u64>,
    /// What else it knows, by name: the Resolver what it found last, and for how long that is said
    /// to be true; the Balancer what picks; an `AddrConn` what is known of its server.
    pub facts: BTreeMap<&'static str, String>,
    /// Of an `AddrConn`: its connections that take calls, oldest first.
    pub connections: Vec<ConnectionReport>,
}

/// How one connection stands. Numbers are of its whole life.
#[derive(Clone, Debug, Serialize)]
pub struct ConnectionReport {
    /// Calls that are on it.
    pub open_streams: usize,
    /// How many the server takes at a time, where it says so.
    pub streams_allowed: Option<usize>,
    /// Streams that were opened for calls.
    pub streams: u64,
    /// Those of them whose server has said that it was the end, with whatever status. The others
    /// are open, or were reset by either side.
    pub streams_succeeded: u64,
    /// Messages handed over for sending.
    pub messages_sent: u64,
    /// Whole messages that arrived and were read.
    pub messages_received: u64,
    /// Bytes that went out, all overhead of HTTP/2 included.
    pub bytes_sent: u64,
    /// Bytes that came in, likewise.
    pub bytes_received: u64,
    /// PINGs that asked after too much silence whether the server lives.
    pub keepalives_sent: u64,
    /// How long ago a call was last given a stream. This and the two below are known where the
    /// channel is in a [`Channelz`](crate::Channelz) alone, as each costs a look at the clock.
    pub last_stream: Option<Duration>,
    /// How long ago a message was last handed over for sending.
    pub last_message_sent: Option<Duration>,
    /// How long ago a whole message was last read.
    pub last_message_received: Option<Duration>,
    /// How many bytes the server may send ahead over all streams.
    pub receive_window: u32,
    /// How long the last PING took to be answered, if there was one.
    pub round_trip: Option<Duration>,
    /// After how much silence it is asked whether it lives, if it is.
    pub keepalive_time: Option<Duration>,
    /// This end of its socket, where it is one that has an address.
    pub local_address: Option<Address>,
    /// The other end: that of a proxy, where there is one between.
    pub remote_address: Option<Address>,
    /// Options of its socket by name, as they were when it was dialled, where it is one of TCP.
    pub socket_options: BTreeMap<&'static str, String>,
    /// How it is protected.
    pub security: SecurityLevel,
    /// What TLS protects it with, where it is that.
    pub tls: Option<TlsReport>,
}

/// What TLS protects a connection with.
#[derive(Clone, Debug, Serialize)]
pub struct TlsReport {
    /// Its version, such as `TLSv1_3`.
    pub version: String,
    /// The cipher suite, by the name that IANA has it under.
    pub cipher_suite: String,
    /// The server's own certificate. It is not serialised.
    #[serde(skip)]
    pub certificate: Option<Certificate>,
}

/// An X.509 certificate.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate(Arc<[u8]>);

impl Certificate {
    #[cfg(feature = "_tls")]
    pub(crate) fn new(der: Arc<[u8]>) -> Self {
        Self(der)
    }

    /// It, in DER.
    pub fn as_der(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({} bytes)", self.0.len())
    }
}

/// A connection that can be looked at for as long as it lives.
pub(crate) trait Probe: Send + Sync {
    /// How it stands.
    fn report(&self) -> ConnectionReport;
}

/// A change of state.
#[derive(Clone, Debug, Serialize)]
pub struct Transition {
    /// How long ago.
    pub ago: Duration,
    /// Into which state.
    pub state: String,
    /// Why, where something was wrong.
    pub cause: Option<String>,
}

/// An error and what caused it.
#[derive(Clone, Debug, Serialize)]
pub struct ErrorReport {
    /// How long ago it happened.
    pub ago: Duration,
    /// The error, then what caused it, then what caused that.
    pub chain: Vec<String>,
}

impl ErrorReport {
    pub(crate) fn new(ago: Duration, error: &(dyn Error + 'static)) -> Self {
        let chain = std::iter::successors(Some(error), |&error| error.source());
        // The errors of a user's parts and of other crates say what they like.
        let shown =
            |error: &dyn Error| harmless(&error.to_string()).up_to(TEXT_BYTES_MAX).to_string();
        Self { ago, chain: chain.take(CHAIN_MAX).map(shown).collect() }
    }
}

/// A timer that runs.
#[derive(Clone, Debug, Serialize)]
pub struct TimerReport {
    /// What happens when it fires.
    pub purpose: &'static str,
    /// How long until then.
    pub after: Duration,
}

/// What a load-balancing policy tells about itself.
#[derive(Clone, Debug, Serialize)]
pub struct PolicyReport {
    /// Its name.
    pub policy: String,
    /// How it stands.
    pub connectivity: ConnectivityState,
    /// The numbers of the subchannels that it holds itself.
    pub subchannels: Vec<u32>,
    /// Why it stands so, where that needs saying.
    pub note: Option<String>,
    /// The policies below it.
    pub children: Vec<Self>,
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "channel {} is {} (generation {}, {} open)",
            self.target,
            self.state,
            self.generation,
            Counted(self.connections, "connection"),
        )?;
        if let Some(error) = &self.last_disconnect {
            write!(
                f,
                "\n   last lost, {} ago: {}",
                Short(error.ago),
                error.chain.join(", because ")
            )?;
        }
        for fault in &self.faults {
            write!(f, "\n   injected: {}, at {}", fault.what, fault.scope)?;
            if let Some(left) = fault.left {
                write!(f, ", {left} more")?;
            }
        }
        let last = self.actors.len().saturating_sub(1);
        for (nth, answer) in self.actors.iter().enumerate() {
            let (branch, trunk) = if nth == last { ("└─", "  ") } else { ("├─", "│ ") };
            write!(f, "\n{branch} {answer}")?;
            if let ActorAnswer::Answered(report) = answer {
                report.fmt_details(f, trunk)?;
                if report.actor == ActorKind::Balancer
                    && let Some(policy) = &self.policy
                {
                    policy.fmt_tree(f, trunk, 1)?;
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for ActorAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered(report) => report.fmt(f),
            Self::Silent { actor, id, waited } => {
                write!(f, "{actor} ")?;
                if let Some(id) = id {
                    write!(f, "{id} ")?;
                }
                write!(f, "has not answered within {waited:?}")
            }
        }
    }
}

impl fmt::Display for ActorReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.actor)?;
        if let Some(id) = &self.id {
            write!(f, "{id} ")?;
        }
        write!(f, "{} for {}", self.state, Short(self.since))?;
        for (name, count) in self.counters.iter().filter(|(_, count)| **count > 0) {
            write!(f, ", {name} {count}")?;
        }
        for (name, fact) in &self.facts {
            write!(f, ", {name} {fact}")?;
        }
        if self.restarts > 0 {
            write!(f, ", restarts {}", self.restarts)?;
        }
        if self.mailbox_depth > 0 {
            write!(f, ", mailbox {}", self.mailbox_depth)?;
        }
        Ok(())
    }
}

impl ActorReport {
    fn fmt_details(&self, f: &mut fmt::Formatter<'_>, trunk: &str) -> fmt::Result {
        if let Some(timer) = &self.next_timer {
            write!(f, "\n{trunk}     next: {} in {}", timer.purpose, Short(timer.after))?;
        }
        if let Some(error) = &self.last_error {
            let ago = Short(error.ago);
            write!(f, "\n{trunk}     last error, {ago} ago: {}", error.chain.join(", because "))?;
        }
        for connection in &self.connections {
            write!(f, "\n{trunk}     connection: {connection}")?;
        }
        Ok(())
    }
}

impl fmt::Display for ConnectionReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Counted(self.open_streams, "open stream"))?;
        if let Some(allowed) = self.streams_allowed {
            write!(f, " of {allowed}")?;
        }
        write!(f, ", {} so far, ", self.streams)?;
        write!(f, "messages {} out {} in, ", self.messages_sent, self.messages_received)?;
        write!(f, "bytes {} out {} in, ", self.bytes_sent, self.bytes_received)?;
        write!(f, "window {}", self.receive_window)?;
        if let Some(round_trip) = self.round_trip {
            write!(f, ", round trip {}", Short(round_trip))?;
        }
        if let Some(time) = self.keepalive_time {
            write!(f, ", asked after {} of silence", Short(time))?;
        }
        match &self.tls {
            Some(tls) => write!(f, ", {tls}"),
            None => write!(f, ", {}", self.security),
        }
    }
}

impl fmt::Display for TlsReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.version, self.cipher_suite)
    }
}

impl PolicyReport {
    fn fmt_tree(&self, f: &mut fmt::Formatter<'_>, trunk: &str, depth: usize) -> fmt::Result {
        let indent = "  ".repeat(depth);
        write!(f, "\n{trunk}   {indent}{} is {}", self.policy, self.connectivity)?;
        for id in &self.subchannels {
            write!(f, " #{id}")?;
        }
        if let Some(note) = &self.note {
            write!(f, " ({note})")?;
        }
        self.children.iter().try_for_each(|child| child.fmt_tree(f, trunk, depth + 1))
    }
}

/// A duration for people.
struct Short(Duration);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1?}", self.0)
    }
}

struct Counted(usize, &'static str);

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}{}", self.0, self.1, if self.0 == 1 { "" } else { "s" })
    }
}

/// So much of each error is shown.
const TEXT_BYTES_MAX: usize = 4 * 1_024;

/// So many causes of an error are shown.
const CHAIN_MAX: usize = 16;

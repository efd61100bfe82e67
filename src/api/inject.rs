//! Faults for tests: what does your service do when a part of its channel misbehaves?

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::channel::Channel;
use super::inspect::ActorHandle;
use crate::actors::{Blow, Core};
use crate::observe::ActorKind;
use crate::transport::{Faults, Scope, Trouble};
use crate::types::{Endpoint, InvalidMethodPath, MethodPath, Status};

/// Something that befalls a part of a channel; sent by [`Channel::inject`].
///
/// Some happen once: a [crash](Self::crash), a [stall](Self::stall), a
/// [policy that panics](Self::policy_panic). All others last until they are
/// [removed](Injected::remove), or for [so many times](Self::times). An inspection shows those that
/// last.
///
/// ```
/// use std::time::Duration;
///
/// use switchboard::Fault;
///
/// // Every second connection to one server takes a second longer, the first three times.
/// let fault = Fault::dial_delayed(Duration::from_secs(1))
///     .at("10.0.0.7:50051")
///     .with_probability(0.5, 7)
///     .times(3);
/// ```
#[derive(Clone, Debug)]
pub struct Fault {
    what: What,
    scope: Scope,
}

#[derive(Clone, Debug)]
enum What {
    Blow(ActorKind, Blow),
    PolicyPanic,
    BackoffSkipped,
    Trouble(Trouble),
}

impl Fault {
    /// The actor panics in the middle of a message. For an `AddrConn`: all of them.
    pub fn crash(actor: ActorKind) -> Self {
        Self::of(What::Blow(actor, Blow::Crash))
    }

    /// The actor handles no message for this long. For an `AddrConn`: all of them.
    pub fn stall(actor: ActorKind, time: Duration) -> Self {
        Self::of(What::Blow(actor, Blow::Stall(time)))
    }

    /// The load-balancing policy panics, and the Balancer with it.
    pub fn policy_panic() -> Self {
        Self::of(What::PolicyPanic)
    }

    /// Every wait between attempts to connect ends.
    pub fn backoff_skipped() -> Self {
        Self::of(What::BackoffSkipped)
    }

    /// Look-ups find these endpoints, and one begins at once.
    pub fn resolution(endpoints: impl IntoIterator<Item = Endpoint>) -> Self {
        Self::lasting(Trouble::Resolve(endpoints.into_iter().collect()))
    }

    /// Look-ups fail, with this for a reason.
    pub fn resolution_error(reason: impl Into<String>) -> Self {
        Self::lasting(Trouble::FailResolution(reason.into()))
    }

    /// Look-ups do not come back: each is given up after 30 s.
    pub fn resolution_hangs() -> Self {
        Self::lasting(Trouble::HangResolution)
    }

    /// Calls end with this status, whether they wait for ready or not, and are not tried again:
    /// before they have a connection or, if the fault is for one address, as one to it is picked.
    /// [`times`](Self::times) counts calls. Those that wait are among them; each rolls the dice of
    /// [`with_probability`](Self::with_probability) whenever it looks for a connection.
    pub fn calls_fail(status: Status) -> Self {
        Self::lasting(Trouble::FailCalls(status))
    }

    /// Connections are refused.
    pub fn dial_refused() -> Self {
        Self::lasting(Trouble::RefuseDials)
    }

    /// Connecting takes so much longer.
    pub fn dial_delayed(time: Duration) -> Self {
        Self::lasting(Trouble::DelayDials(time))
    }

    /// Connecting comes to nothing, until its time is over.
    pub fn dial_hangs() -> Self {
        Self::lasting(Trouble::HangDials)
    }

    /// Connections are made, and end before HTTP/2 begins.
    pub fn handshake_fails() -> Self {
        Self::lasting(Trouble::FailHandshakes)
    }

    /// The connections that are open break: calls on them fail as when a server dies. It befalls
    /// each connection once.
    pub fn connection_cut() -> Self {
        Self::lasting(Trouble::Cut)
    }

    /// The servers of the connections that are open say GOAWAY with this error code of HTTP/2, and
    /// go on with what they are at. It befalls each connection once.
    pub fn goaway(code: u32) -> Self {
        Self::lasting(Trouble::Goaway(code))
    }

    /// Streams are refused, as by a server that has not looked at them: a call tries another once.
    pub fn stream_refused() -> Self {
        Self::lasting(Trouble::RefuseStreams)
    }

    /// Nothing that servers send arrives, as when one freezes or the network falls silent.
    pub fn reads_stalled() -> Self {
        Self::lasting(Trouble::StallReads)
    }

    /// What servers send arrives so much later.
    pub fn latency(time: Duration) -> Self {
        Self::lasting(Trouble::Latency(time))
    }

    /// A piece of what servers send is lost at this rate, from 0 to 1; TCP sends it again after
    /// 200 ms, and all that follows it waits. [`with_probability`](Self::with_probability) gives its
    /// dice their seed, and lowers the rate.
    pub fn loss(rate: f64) -> Self {
        Self::lasting(Trouble::Loss(rate))
    }

    /// Only at this address, as inspections show it. For dials, handshakes, connections, streams and
    /// calls.
    pub fn at(mut self, address: impl fmt::Display) -> Self {
        self.scope.address = Some(address.to_string());
        self
    }

    /// Only for this method, by its path: `/package.Service/Method`. For [refused
    /// streams](Self::stream_refused) and [calls that fail](Self::calls_fail).
    pub fn of_method(mut self, path: impl Into<String>) -> Self {
        self.scope.method = Some(path.into());
        self
    }

    /// So many times, and then no more. For all that lasts, but for what happens to every byte: reads
    /// that stall, latency, loss.
    pub fn times(mut self, times: u32) -> Self {
        self.scope.times = Some(times);
        self
    }

    /// Each time only at this rate, from 0 to 1, by dice of this seed. For all that lasts, but for
    /// reads that stall and latency.
    pub fn with_probability(mut self, rate: f64, seed: u64) -> Self {
        self.scope.chance = Some((rate, seed));
        self
    }

    /// Fails where something was said of it that means nothing to it.
    fn check(&self) -> Result<(), InjectError> {
        let Scope { address, method, times, chance } = &self.scope;
        let said = [
            ("at", address.is_some()),
            ("of_method", method.is_some()),
            ("times", times.is_some()),
            ("with_probability", chance.is_some()),
        ];
        let scopes = self.what.scopes();
        for (setter, is_said) in said {
            if is_said && !scopes.contains(&setter) {
                return Err(InjectError::Meaningless(setter));
            }
        }
        match method {
            Some(path) => MethodPath::parse(path).map(drop).map_err(InjectError::Method),
            None => Ok(()),
        }
    }

    fn lasting(trouble: Trouble) -> Self {
        Self::of(What::Trouble(trouble))
    }

    fn of(what: What) -> Self {
        Self { what, scope: Scope::default() }
    }
}

impl What {
    /// The methods of [`Fault`] that mean something to it.
    fn scopes(&self) -> &'static [&'static str] {
        let Self::Trouble(trouble) = self else { return &[] };
        match trouble {
            Trouble::Resolve(_) | Trouble::FailResolution(_) | Trouble::HangResolution => {
                &["times", "with_probability"]
            }
            Trouble::RefuseDials
            | Trouble::DelayDials(_)
            | Trouble::HangDials
            | Trouble::FailHandshakes
            | Trouble::Cut
            | Trouble::Goaway(_) => &["at", "times", "with_probability"],
            Trouble::RefuseStreams | Trouble::FailCalls(_) => {
                &["at", "of_method", "times", "with_probability"]
            }
            Trouble::StallReads | Trouble::Latency(_) => &["at"],
            Trouble::Loss(_) => &["at", "with_probability"],
        }
    }
}

impl Channel {
    /// Does harm to a part of the channel, for a test.
    ///
    /// The fault is in force when this returns: for every look-up, dial, handshake, stream and call
    /// that begins then, and every byte that is read or written then. An actor suffers a crash or a
    /// stall before it hears of anything that happens later. It does not wait for what follows from
    /// the fault, such as calls that fail since their connection is cut. Fails where the builder did not say
    /// [`allow_injection`](crate::ChannelBuilder::allow_injection), where there is no such actor, or
    /// where the fault is not of a kind to be scoped as it is.
    #[expect(clippy::unused_async, reason = "faults may come to be waited for")]
    pub async fn inject(&self, fault: Fault) -> Result<Injected, InjectError> {
        let core = self.core();
        let faults = core.faults().ok_or(InjectError::NotAllowed)?.clone();
        fault.check()?;
        let Fault { what, scope } = fault;
        let found = match what {
            What::Trouble(trouble) => {
                let id = Some(core.inject(&faults, trouble, scope));
                return Ok(Injected { core: core.clone(), faults, id });
            }
            What::Blow(actor, blow) => match core.strike(actor, blow) {
                0 => Err(InjectError::NoSuchActor(actor)),
                _ => Ok(()),
            },
            What::PolicyPanic if core.break_policy() => Ok(()),
            What::PolicyPanic => Err(InjectError::NoSuchActor(ActorKind::Balancer)),
            What::BackoffSkipped => {
                core.reset_connect_backoff();
                Ok(())
            }
        };
        found.map(|()| Injected { core: core.clone(), faults, id: None })
    }
}

impl ActorHandle {
    /// Has this actor alone suffer a [crash](Fault::crash) or a [stall](Fault::stall); its kind must
    /// be the fault's. All other faults are for the [channel](Channel::inject).
    #[expect(clippy::unused_async, reason = "faults may come to be waited for")]
    pub async fn inject(&self, fault: Fault) -> Result<(), InjectError> {
        if self.core.faults().is_none() {
            return Err(InjectError::NotAllowed);
        }
        fault.check()?;
        match fault.what {
            What::Blow(kind, blow) if kind == self.kind() => {
                let is_there = self.core.strike_part(&self.part, blow);
                if is_there { Ok(()) } else { Err(InjectError::NoSuchActor(kind)) }
            }
            What::Blow(..) | What::PolicyPanic | What::BackoffSkipped | What::Trouble(_) => {
                Err(InjectError::NotOfThisActor(self.kind()))
            }
        }
    }
}

/// A fault that was injected. Dropping it changes nothing: the fault stays.
pub struct Injected {
    core: Arc<Core>,
    faults: Arc<Faults>,
    /// `None` for what happened once.
    id: Option<u64>,
}

impl Injected {
    /// Ends the fault: what it held back goes on, and nothing that begins when this returns suffers
    /// it. Says whether it was not over yet.
    pub fn remove(self) -> bool {
        self.id.is_some_and(|id| self.core.remove_fault(&self.faults, id))
    }

    /// Whether the fault is not over.
    pub fn is_active(&self) -> bool {
        self.id.is_some_and(|id| self.faults.is_active(id))
    }
}

impl fmt::Debug for Injected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Injected").field("is_active", &self.is_active()).finish_non_exhaustive()
    }
}

/// A fault was not injected.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InjectError {
    /// The builder did not say `allow_injection()`.
    NotAllowed,
    /// There is no such actor: the channel has not been used yet, or has ended.
    NoSuchActor(ActorKind),
    /// The fault is none that this actor alone can suffer.
    NotOfThisActor(ActorKind),
    /// This method of [`Fault`] means nothing to faults of this kind.
    Meaningless(&'static str),
    /// What [`Fault::of_method`] was given names no method.
    Method(InvalidMethodPath),
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
            Self::NotOfThisActor(actor) => write!(
                f,
                "a {actor} alone can suffer a crash or a stall of its kind; inject all else into \
                 the channel"
            ),
            Self::Meaningless(setter) => {
                write!(f, "`Fault::{setter}` means nothing to a fault of this kind: leave it out")
            }
            Self::Method(error) => write!(f, "`Fault::of_method`: {error}"),
        }
    }
}

impl std::error::Error for InjectError {}

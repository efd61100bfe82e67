//! Faults that a test can have a channel suffer; only in builds with `test-util`.
//!
//! What happens once is a message to the actor that suffers it. What lasts lies in [`Faults`], where
//! it outlives crashes; whom it concerns looks there, and is told when it changes.

use std::sync::Arc;
use std::time::Duration;

use super::{Core, Part, addr_conn, balancer, client_conn, resolver, supervisor};
use crate::observe::ActorKind;
use crate::transport::{BoxFuture, Faults, Resolution, Resolve, ResolveError, Scope, Trouble};
use crate::types::Refresh;

/// What befalls an actor, once.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Blow {
    /// It panics.
    Crash,
    /// It does nothing for so long, and its messages wait.
    Stall(Duration),
}

impl Blow {
    pub(super) async fn suffer(self) {
        match self {
            Self::Crash => panic!("crash injected by a test"),
            Self::Stall(time) => tokio::time::sleep(time).await,
        }
    }
}

/// A resolver whose look-ups come to `outcome`, once.
pub(super) fn faulty(
    outcome: BoxFuture<'static, Result<Resolution, ResolveError>>,
) -> Box<dyn Resolve> {
    Box::new(Faulty(Some(outcome)))
}

struct Faulty(Option<BoxFuture<'static, Result<Resolution, ResolveError>>>);

impl Resolve for Faulty {
    fn resolve(&mut self) -> BoxFuture<'_, Result<Resolution, ResolveError>> {
        let hanging = || Box::pin(std::future::pending()) as BoxFuture<'static, _>;
        self.0.take().unwrap_or_else(hanging)
    }

    fn changed(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }

    fn refresh(&self) -> Refresh {
        Refresh::Never
    }
}

impl Core {
    /// What befalls the channel; none where nothing may.
    pub(crate) fn faults(&self) -> Option<&Arc<Faults>> {
        self.settings.connection.faults.as_ref()
    }

    /// Strikes every actor of this kind; says how many there were.
    pub(crate) fn strike(&self, actor: ActorKind, blow: Blow) -> usize {
        let parts = self.parts().into_iter().filter(|part| part.kind() == actor);
        parts.filter(|part| self.strike_part(part, blow)).count()
    }

    /// Strikes one actor; says whether it is there.
    pub(crate) fn strike_part(&self, part: &Part, blow: Blow) -> bool {
        match part {
            Part::Supervisor => self.supervisor.tell(supervisor::Msg::Inject(blow)),
            Part::ClientConn => self.client_conn.tell(client_conn::Msg::Inject(blow)),
            Part::Resolver => self.resolver.tell(resolver::Msg::Inject(blow)),
            Part::Balancer => self.balancer.tell(balancer::Msg::Inject(blow)),
            Part::AddrConn(subchannel) => subchannel.mailbox.tell(addr_conn::Msg::Inject(blow)),
        }
    }

    /// A policy panics in the middle of its work. Says whether there is a Balancer.
    pub(crate) fn break_policy(&self) -> bool {
        self.balancer.tell(balancer::Msg::BreakPolicy)
    }

    /// Something befalls the channel from now on; gives its number.
    pub(crate) fn inject(&self, faults: &Faults, trouble: Trouble, scope: Scope) -> u64 {
        let id = faults.add(trouble, scope);
        self.look_at_faults();
        id
    }

    /// Says whether it was still there.
    pub(crate) fn remove_fault(&self, faults: &Faults, id: u64) -> bool {
        let was_there = faults.remove(id);
        self.look_at_faults();
        was_there
    }

    fn look_at_faults(&self) {
        self.news.tell();
        self.shared.publish_again();
        self.resolver.tell(resolver::Msg::FaultsChanged);
    }
}

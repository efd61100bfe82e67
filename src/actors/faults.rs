//! Faults that a test can have an actor suffer; only in builds with `test-util`.

use std::time::Duration;

/// What befalls an actor.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// It panics.
    Crash,
    /// It does nothing for so long, and its messages wait.
    Stall(Duration),
}

impl Fault {
    pub(super) async fn suffer(self) {
        match self {
            Self::Crash => panic!("crash injected by a test"),
            Self::Stall(time) => tokio::time::sleep(time).await,
        }
    }
}

impl super::Core {
    /// Sends `fault` to every actor of this kind; says how many there were.
    pub(crate) fn inject(&self, actor: crate::observe::ActorKind, fault: Fault) -> usize {
        use super::{addr_conn, balancer, client_conn, resolver, supervisor};
        use crate::observe::ActorKind;

        let told = match actor {
            ActorKind::Supervisor => self.supervisor.tell(supervisor::Msg::Inject(fault)),
            ActorKind::ClientConn => self.client_conn.tell(client_conn::Msg::Inject(fault)),
            ActorKind::Resolver => self.resolver.tell(resolver::Msg::Inject(fault)),
            ActorKind::Balancer => self.balancer.tell(balancer::Msg::Inject(fault)),
            ActorKind::AddrConn => {
                let all = self.registry.all();
                let told = all.iter().map(|it| it.mailbox.tell(addr_conn::Msg::Inject(fault)));
                return told.filter(|told| *told).count();
            }
        };
        usize::from(told)
    }
}

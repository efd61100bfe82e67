//! Asking every actor how it stands.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::registry::Subchannel;
use super::{Core, addr_conn, balancer, client_conn, resolver, supervisor};
use crate::observe::{ActorAnswer, ActorKind, ActorReport, ErrorReport, Inspection, PolicyReport};

/// One actor of a channel, whichever life of it is at work.
#[derive(Clone)]
pub(crate) enum Part {
    Supervisor,
    ClientConn,
    Resolver,
    Balancer,
    /// That of this subchannel.
    AddrConn(Arc<Subchannel>),
}

/// An answer that is on its way.
enum Asked {
    Report(Option<oneshot::Receiver<ActorReport>>),
    WithTree(Option<oneshot::Receiver<(ActorReport, Option<PolicyReport>)>>),
}

impl Part {
    pub(crate) fn kind(&self) -> ActorKind {
        match self {
            Self::Supervisor => ActorKind::Supervisor,
            Self::ClientConn => ActorKind::ClientConn,
            Self::Resolver => ActorKind::Resolver,
            Self::Balancer => ActorKind::Balancer,
            Self::AddrConn(_) => ActorKind::AddrConn,
        }
    }

    /// Which of its kind.
    pub(crate) fn id(&self) -> Option<String> {
        match self {
            Self::AddrConn(subchannel) => Some(subchannel.name()),
            Self::Supervisor | Self::ClientConn | Self::Resolver | Self::Balancer => None,
        }
    }
}

impl Core {
    /// The actors of a channel that runs: Supervisor, `ClientConn`, Resolver, Balancer, then one
    /// `AddrConn` for each address.
    pub(crate) fn parts(&self) -> Vec<Part> {
        if self.shared.runtime.get().is_none() || self.is_ending() {
            return Vec::new();
        }
        let alone = [Part::Supervisor, Part::ClientConn, Part::Resolver, Part::Balancer];
        let addr_conns = self.registry.all().into_iter().map(Part::AddrConn);
        alone.into_iter().chain(addr_conns).collect()
    }

    /// Asks all actors at once and waits for the answers, but not long: who does not answer is
    /// shown as such. Cancel-safe.
    pub(crate) async fn inspect(&self) -> Inspection {
        let parts = self.parts();
        let asked: Vec<_> = parts.iter().map(|part| self.ask(part)).collect();
        let until = Instant::now() + PATIENCE;
        let (mut actors, mut policy) = (Vec::new(), None);
        for (part, asked) in parts.iter().zip(asked) {
            let (answer, tree) = self.answer(part, asked, until).await;
            actors.push(answer);
            policy = policy.or(tree);
        }
        let snapshot = self.shared.cell.load();
        Inspection {
            target: self.settings.target.to_string(),
            state: self.shared.states.get(),
            generation: snapshot.generation.get(),
            configured_policy: snapshot.config.lb().name().to_owned(),
            policy,
            actors,
            last_disconnect: self
                .memory()
                .disconnect
                .as_ref()
                .map(|(at, cause)| ErrorReport::new(at.elapsed(), cause)),
            connections: self.connections().len(),
            #[cfg(feature = "test-util")]
            faults: self.faults().map(|faults| faults.reports()).unwrap_or_default(),
            #[cfg(not(feature = "test-util"))]
            faults: Vec::new(),
        }
    }

    /// Asks one actor. Cancel-safe.
    pub(crate) async fn inspect_part(&self, part: &Part) -> ActorAnswer {
        let asked = self.ask(part);
        self.answer(part, asked, Instant::now() + PATIENCE).await.0
    }

    fn ask(&self, part: &Part) -> Asked {
        Asked::Report(match part {
            Part::Supervisor => self.supervisor.ask(supervisor::Msg::Inspect),
            Part::ClientConn => self.client_conn.ask(client_conn::Msg::Inspect),
            Part::Resolver => self.resolver.ask(resolver::Msg::Inspect),
            Part::Balancer => {
                return Asked::WithTree(self.balancer.ask(balancer::Msg::Inspect));
            }
            Part::AddrConn(subchannel) => subchannel.mailbox.ask(addr_conn::Msg::Inspect),
        })
    }

    async fn answer(
        &self,
        part: &Part,
        asked: Asked,
        until: Instant,
    ) -> (ActorAnswer, Option<PolicyReport>) {
        let answer = match asked {
            Asked::Report(answer) => self.wait(answer, until).await.map(|report| (report, None)),
            Asked::WithTree(answer) => self.wait(answer, until).await,
        };
        if let Some((report, tree)) = answer {
            (ActorAnswer::Answered(report), tree)
        } else {
            let (actor, id) = (part.kind(), part.id());
            (ActorAnswer::Silent { actor, id, waited: PATIENCE }, None)
        }
    }

    async fn wait<T>(&self, answer: Option<oneshot::Receiver<T>>, until: Instant) -> Option<T> {
        self.shared.before(Some(until), answer?).await.ok()?.ok()
    }
}

/// Long for an actor, short for whoever looks at a channel in trouble.
const PATIENCE: Duration = Duration::from_millis(500);

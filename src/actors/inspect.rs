//! Asking every actor how it stands.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Core, addr_conn, balancer, client_conn, resolver, supervisor};
use crate::observe::{ActorAnswer, ActorKind, ActorReport, ErrorReport, Inspection};

impl Core {
    /// Asks all actors at once and waits for the answers, but not long: who does not answer is
    /// shown as such. Cancel-safe.
    pub(crate) async fn inspect(&self) -> Inspection {
        let supervisor = self.supervisor.ask(supervisor::Msg::Inspect);
        let client_conn = self.client_conn.ask(client_conn::Msg::Inspect);
        let resolver = self.resolver.ask(resolver::Msg::Inspect);
        let balancer = self.balancer.ask(balancer::Msg::Inspect);
        let addr_conns: Vec<_> = self
            .registry
            .all()
            .into_iter()
            .map(|it| (it.name(), it.mailbox.ask(addr_conn::Msg::Inspect)))
            .collect();

        let runs = self.shared.runtime.get().is_some() && !self.is_ending();
        let until = Instant::now() + PATIENCE;
        let mut actors = Vec::new();
        let mut policy = None;
        if runs {
            actors.push(answered(ActorKind::Supervisor, None, self.wait(supervisor, until).await));
            actors.push(answered(ActorKind::ClientConn, None, self.wait(client_conn, until).await));
            actors.push(answered(ActorKind::Resolver, None, self.wait(resolver, until).await));
            let balancer = self.wait(balancer, until).await.map(|(report, tree)| {
                policy = tree;
                report
            });
            actors.push(answered(ActorKind::Balancer, None, balancer));
            for (name, answer) in addr_conns {
                let answer = self.wait(answer, until).await;
                actors.push(answered(ActorKind::AddrConn, Some(name), answer));
            }
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
        }
    }

    async fn wait<T>(&self, answer: Option<oneshot::Receiver<T>>, until: Instant) -> Option<T> {
        self.shared.before(Some(until), answer?).await.ok()?.ok()
    }
}

fn answered(actor: ActorKind, id: Option<String>, answer: Option<ActorReport>) -> ActorAnswer {
    match answer {
        Some(report) => ActorAnswer::Answered(report),
        None => ActorAnswer::Silent { actor, id, waited: PATIENCE },
    }
}

/// Long for an actor, short for whoever looks at a channel in trouble.
const PATIENCE: Duration = Duration::from_millis(500);

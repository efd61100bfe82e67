//! What every actor can tell about itself, kept in one place.

use std::collections::{BTreeMap, VecDeque};
use std::error::Error;
use std::sync::Arc;

use tokio::time::Instant;

use crate::observe::{ActorKind, ActorReport, ErrorReport, TimerReport, Transition};

/// The record of one life of an actor.
pub(super) struct Vitals {
    actor: ActorKind,
    id: Option<String>,
    /// Never empty: the newest is the state that the actor is in.
    states: VecDeque<(Instant, String)>,
    last_error: Option<(Instant, Arc<dyn Error + Send + Sync>)>,
    counters: BTreeMap<&'static str, u64>,
    restarts: u64,
}

impl Vitals {
    pub(super) fn new(actor: ActorKind, id: Option<String>, restarts: u64) -> Self {
        let states = VecDeque::from([(Instant::now(), "started".to_owned())]);
        Self { actor, id, states, last_error: None, counters: BTreeMap::new(), restarts }
    }

    /// The actor is in `state` now; nothing if it was already.
    pub(super) fn enter(&mut self, state: impl Into<String>) {
        let state = state.into();
        if self.states.back().is_some_and(|(_, current)| *current == state) {
            return;
        }
        if self.states.len() == TRANSITIONS_MAX {
            self.states.pop_front();
        }
        self.states.push_back((Instant::now(), state));
    }

    /// The actor met `error`.
    pub(super) fn fail(&mut self, error: impl Error + Send + Sync + 'static) {
        self.last_error = Some((Instant::now(), Arc::new(error)));
    }

    /// Counts one of `what`.
    pub(super) fn count(&mut self, what: &'static str) {
        *self.counters.entry(what).or_default() += 1;
    }

    /// The report of this moment, to which `timer` adds what is waited for by the clock.
    pub(super) fn report(
        &self,
        mailbox_depth: usize,
        timer: Option<(&'static str, Instant)>,
    ) -> ActorReport {
        let now = Instant::now();
        let (since, state) =
            self.states.back().map_or((now, "started"), |(since, state)| (*since, state.as_str()));
        ActorReport {
            actor: self.actor,
            id: self.id.clone(),
            state: state.to_owned(),
            since: now - since,
            transitions: self
                .states
                .iter()
                .map(|(at, state)| Transition { ago: now - *at, state: state.clone() })
                .collect(),
            last_error: self
                .last_error
                .as_ref()
                .map(|(at, error)| ErrorReport::new(now - *at, error.as_ref())),
            next_timer: timer.map(|(purpose, at)| TimerReport {
                purpose,
                after: at.saturating_duration_since(now),
            }),
            mailbox_depth,
            restarts: self.restarts,
            counters: self.counters.clone(),
            facts: BTreeMap::new(),
        }
    }
}

/// Enough to see how an actor came to where it is.
const TRANSITIONS_MAX: usize = 16;

//! What every actor can tell about itself, kept in one place.

use std::collections::{BTreeMap, VecDeque};
use std::error::Error;
use std::sync::Arc;

use tokio::time::Instant;

use super::Core;
use super::news::News;
use crate::observe::{ActorKind, ActorReport, ErrorReport, TimerReport, Transition};

/// The record of one life of an actor.
pub(super) struct Vitals {
    actor: ActorKind,
    id: Option<String>,
    /// Never empty: the newest is the state that the actor is in.
    states: VecDeque<Entered>,
    last_error: Option<(Instant, Arc<dyn Error + Send + Sync>)>,
    counters: BTreeMap<&'static str, u64>,
    restarts: u64,
    news: News,
}

/// A state that was entered.
struct Entered {
    at: Instant,
    state: String,
    cause: Option<String>,
}

impl Vitals {
    /// The record of an actor of `core` that begins.
    pub(super) fn new(core: &Core, actor: ActorKind, id: Option<String>, restarts: u64) -> Self {
        let first = Entered { at: Instant::now(), state: "started".to_owned(), cause: None };
        let states = VecDeque::from([first]);
        let news = core.news.clone();
        news.tell();
        Self { actor, id, states, last_error: None, counters: BTreeMap::new(), restarts, news }
    }

    /// The actor is in `state` now; nothing if it was already.
    pub(super) fn enter(&mut self, state: impl Into<String>) {
        self.enter_because(state, None);
    }

    /// The same, with what was wrong.
    pub(super) fn enter_because(&mut self, state: impl Into<String>, cause: Option<&str>) {
        let state = state.into();
        if self.states.back().is_some_and(|current| current.state == state) {
            return;
        }
        if self.states.len() == TRANSITIONS_MAX {
            self.states.pop_front();
        }
        self.states.push_back(Entered {
            at: Instant::now(),
            state,
            cause: cause.map(str::to_owned),
        });
        self.news.tell();
    }

    /// The actor met `error`.
    pub(super) fn fail(&mut self, error: impl Error + Send + Sync + 'static) {
        self.last_error = Some((Instant::now(), Arc::new(error)));
        self.news.tell();
    }

    /// Counts one of `what`.
    pub(super) fn count(&mut self, what: &'static str) {
        *self.counters.entry(what).or_default() += 1;
        self.news.tell();
    }

    /// The report of this moment, to which `timer` adds what is waited for by the clock.
    pub(super) fn report(
        &self,
        mailbox_depth: usize,
        timer: Option<(&'static str, Instant)>,
    ) -> ActorReport {
        let now = Instant::now();
        let (since, state) =
            self.states.back().map_or((now, "started"), |it| (it.at, it.state.as_str()));
        ActorReport {
            actor: self.actor,
            id: self.id.clone(),
            state: state.to_owned(),
            since: now - since,
            transitions: self
                .states
                .iter()
                .map(|it| Transition {
                    ago: now - it.at,
                    state: it.state.clone(),
                    cause: it.cause.clone(),
                })
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
            connections: Vec::new(),
        }
    }
}

/// Enough to see how an actor came to where it is.
const TRANSITIONS_MAX: usize = 16;

//! Trying addresses: one pass over them, and what follows when it fails.

use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{State, publish_failure, publish_ready};
use crate::policy::later;
use crate::policy::lb::{LbContext, SubchannelState, queue};
use crate::types::{Address, Code, ConnectivityState, Status, SubchannelId};

/// A subchannel; its place in the list is that of its address.
pub(super) struct Member {
    pub(super) id: SubchannelId,
    pub(super) connectivity: ConnectivityState,
    /// Its last error.
    pub(super) error: Option<Status>,
    /// Whether it has failed in this pass.
    pub(super) failed: bool,
}

pub(super) struct Pass {
    /// One per address.
    pub(super) members: Vec<Member>,
    /// Whose turn it is; the number of members when each has had its turn.
    pub(super) current: usize,
    /// When the next one gets its turn even though the current one has not failed.
    pub(super) next_at: Option<Instant>,
    pub(super) cover: Cover,
    /// The latest error in this pass.
    pub(super) error: Option<Status>,
}

/// What a pass looks like from outside.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Cover {
    Connecting,
    Failing,
}

pub(super) struct Failing {
    /// One per address.
    pub(super) members: Vec<Member>,
    /// Failures since the last report.
    pub(super) failures: usize,
    /// What was reported.
    pub(super) error: Status,
}

impl Pass {
    pub(super) fn start(
        addresses: &[Address],
        places: Vec<Option<Member>>,
        cover: Cover,
        cx: &mut LbContext<'_>,
    ) -> State {
        let mut members = Vec::with_capacity(addresses.len());
        for (address, place) in addresses.iter().zip(places) {
            members.push(match place {
                Some(member) if member.connectivity != ConnectivityState::Shutdown => {
                    Member { failed: false, ..member }
                }
                Some(_) | None => Member::new(cx.create_subchannel(address)),
            });
        }
        let pass = Self { members, current: 0, next_at: None, cover, error: None };
        pass.seek(cx)
    }

    /// Gives the turn to the next one, from the current one on, that can use it.
    pub(super) fn seek(mut self, cx: &mut LbContext<'_>) -> State {
        while let Some(member) = self.members.get_mut(self.current) {
            match member.connectivity {
                ConnectivityState::Idle => {
                    cx.connect(member.id);
                    break;
                }
                // [A61] One that is at it already counts as started.
                ConnectivityState::Connecting | ConnectivityState::Ready => break,
                // [A61] One that rests after a failure counts as failed.
                ConnectivityState::TransientFailure | ConnectivityState::Shutdown => {
                    member.failed = true;
                    self.error = member.error.clone().or(self.error);
                    self.current += 1;
                }
            }
        }
        let more = self.current + 1 < self.members.len();
        self.next_at = more.then(|| later(cx.now(), CONNECTION_ATTEMPT_DELAY));
        self.finish_if_over(cx)
    }

    pub(super) fn changed(
        mut self,
        at: usize,
        now: SubchannelState,
        cx: &mut LbContext<'_>,
    ) -> State {
        let member = &mut self.members[at];
        let before = mem::replace(&mut member.connectivity, now.connectivity);
        match now.connectivity {
            ConnectivityState::Ready => choose(&self.members, at, cx),
            ConnectivityState::Idle if before == ConnectivityState::Connecting => {
                came_and_went(self.members, at, cx)
            }
            // SHUTDOWN though nobody has retired it: it will not connect any more.
            ConnectivityState::TransientFailure | ConnectivityState::Shutdown => {
                member.failed = true;
                member.error.clone_from(&now.error);
                self.error = now.error.or(self.error);
                if at == self.current {
                    self.current += 1;
                    return self.seek(cx);
                }
                self.finish_if_over(cx)
            }
            // It is at work, or waits until the pass is over.
            ConnectivityState::Idle | ConnectivityState::Connecting => State::Pass(self),
        }
    }

    /// (A61) A pass is over when each has had its turn and has failed.
    fn finish_if_over(self, cx: &mut LbContext<'_>) -> State {
        let waiting = self.current < self.members.len();
        if waiting || self.members.iter().any(|member| !member.failed) {
            return State::Pass(self);
        }
        let error = failure(self.error);
        publish_failure(&error, cx);
        // From here on, each tries again as soon as its own backoff lets it.
        for member in &self.members {
            if member.connectivity == ConnectivityState::Idle {
                cx.connect(member.id);
            }
        }
        State::Failing(Failing { members: self.members, failures: 0, error })
    }
}

impl Failing {
    pub(super) fn changed(
        mut self,
        at: usize,
        now: SubchannelState,
        cx: &mut LbContext<'_>,
    ) -> State {
        let member = &mut self.members[at];
        let before = mem::replace(&mut member.connectivity, now.connectivity);
        match now.connectivity {
            ConnectivityState::Ready => return choose(&self.members, at, cx),
            ConnectivityState::Idle if before == ConnectivityState::Connecting => {
                return came_and_went(self.members, at, cx);
            }
            ConnectivityState::Idle => cx.connect(member.id),
            ConnectivityState::TransientFailure => {
                member.error.clone_from(&now.error);
                if before != ConnectivityState::TransientFailure {
                    self.failures += 1;
                }
                // [A61] As many failures as there are subchannels make a round.
                if self.failures == self.members.len() {
                    self.failures = 0;
                    self.error = failure(now.error);
                    publish_failure(&self.error, cx);
                    cx.resolve_now();
                }
            }
            ConnectivityState::Connecting | ConnectivityState::Shutdown => {}
        }
        State::Failing(self)
    }
}

impl Member {
    /// A subchannel just made. One that was taken over may stand otherwise; that is told soon.
    pub(super) fn new(id: SubchannelId) -> Self {
        Self { id, connectivity: ConnectivityState::Idle, error: None, failed: false }
    }
}

/// (A61) The first that is READY wins; the others are dropped.
fn choose(members: &[Member], at: usize, cx: &mut LbContext<'_>) -> State {
    let id = members[at].id;
    retire_others(members, at, cx);
    publish_ready(id, cx);
    State::Ready { at, id }
}

/// A connection that was up and lost before we were told that it was up: as if we had been told.
fn came_and_went(mut members: Vec<Member>, at: usize, cx: &mut LbContext<'_>) -> State {
    retire_others(&members, at, cx);
    cx.publish(ConnectivityState::Idle, queue());
    let kept = Some((at, members.swap_remove(at)));
    State::Idle { kept }
}

fn retire_others(members: &[Member], at: usize, cx: &mut LbContext<'_>) {
    for (place, member) in members.iter().enumerate() {
        if place != at {
            cx.retire(member.id);
        }
    }
}

pub(super) fn place_of(members: &[Member], id: SubchannelId) -> Option<usize> {
    members.iter().position(|member| member.id == id)
}

/// What calls fail with: the subchannel's own words, which name the address and the cause.
fn failure(error: Option<Status>) -> Status {
    match error {
        Some(error) if error.code() == Code::UNAVAILABLE => error,
        Some(error) => Status::unavailable(error.message()).with_source(Arc::new(error) as Arc<_>),
        None => Status::unavailable("no address could be connected to"),
    }
}

/// (A61) How long an address may take before the next one is tried beside it.
const CONNECTION_ATTEMPT_DELAY: Duration = Duration::from_millis(250);

//! `pick_first`: every call goes to the first address that answers.
//!
//! It is the leaf under every other policy too: they run one of these per endpoint.

mod addresses;
mod pass;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;
use std::time::Instant;

use serde_json::Value;

use super::{
    FailPicker, LbContext, LbEvent, LbPolicy, LbPolicyBuilder, LbPolicyConfig, LbUpdate, Pick,
    PickArgs, PickResult, Picker, PolicyReport, SubchannelState, queue,
};
use crate::policy::service_config::{ServiceConfigError, optional_bool};
use crate::types::{Address, ConnectivityState, Status, SubchannelId};
use pass::{Cover, Failing, Member, Pass, place_of};

/// Connects to the addresses of all endpoints in turn, and stays with the first that is READY.
///
/// ```text
///     ┌─────┐ Update  ┌──────┐ any READY   ┌───────┐
///     │ New │ ──────► │ Pass │ ──────────► │ Ready │
///     └─────┘         └──────┘ ◄──┐        └───────┘
///        │ no addresses,  │   ▲   │ ExitIdle    │ lost
///        │ ResolverFailed │   │   └─ ┌──────┐ ◄─┘
///        ▼                │   │      │ Idle │
///     ┌───────┐ Update    │   │      └──────┘
///     │ Empty │ ──────────│───┘          ▲
///     └───────┘           │ every one    │ up and lost again before we knew
///                         │ has failed   │
///                         ▼              │
///                     ┌─────────┐ ───────┘
///                     │ Failing │ ── any READY: Ready; Update: a new, silent Pass
///                     └─────────┘
///
///     Update without addresses, from anywhere: Empty
/// ```
///
/// New, Pass: CONNECTING. Empty, Failing: `TRANSIENT_FAILURE`. (A62) Once failing, the policy
/// stays `TRANSIENT_FAILURE` until it is READY: a pass that a new list starts meanwhile is silent.
#[derive(Default)]
pub(crate) struct PickFirst {
    /// What is tried, in this order.
    addresses: Vec<Address>,
    state: State,
}

#[derive(Default)]
enum State {
    /// Not told of anything yet.
    #[default]
    New,
    /// There is nothing to connect to.
    Empty { error: Status },
    /// Not connecting until somebody asks. The subchannel that was up last is kept.
    Idle { kept: Option<(usize, Member)> },
    /// Trying one address after the other.
    Pass(Pass),
    /// All have failed; each goes on by itself.
    Failing(Failing),
    /// One is up, the others are gone.
    Ready { at: usize, id: SubchannelId },
}

impl LbPolicy for PickFirst {
    fn handle(&mut self, event: LbEvent, cx: &mut LbContext<'_>) {
        match event {
            LbEvent::Update(update) => self.update(&update, cx),
            LbEvent::ResolverFailed(status) => self.resolver_failed(&status, cx),
            LbEvent::SubchannelChanged { id, state } => self.subchannel_changed(id, state, cx),
            LbEvent::ExitIdle => self.exit_idle(cx),
            LbEvent::Wake => self.wake(cx),
            // It does not ask (A17): one that gives up a server that says no has none to go to.
            LbEvent::HealthChanged { .. } | LbEvent::Flush => {}
        }
    }

    fn wake_at(&self) -> Option<Instant> {
        match &self.state {
            State::Pass(pass) => pass.next_at,
            State::New
            | State::Empty { .. }
            | State::Idle { .. }
            | State::Failing(_)
            | State::Ready { .. } => None,
        }
    }

    fn inspect(&self) -> PolicyReport {
        let (connectivity, note) = match &self.state {
            State::New => (ConnectivityState::Connecting, None),
            State::Empty { error } => {
                let note = error.text().to_string();
                (ConnectivityState::TransientFailure, Some(note))
            }
            State::Idle { .. } => (ConnectivityState::Idle, None),
            State::Pass(pass) => {
                let tried = (pass.current + 1).min(pass.members.len());
                let note = format!("trying {tried} of {}", pass.members.len());
                let connectivity = match pass.cover {
                    Cover::Connecting => ConnectivityState::Connecting,
                    Cover::Failing => ConnectivityState::TransientFailure,
                };
                (connectivity, Some(note))
            }
            State::Failing(failing) => {
                let note = failing.error.text().to_string();
                (ConnectivityState::TransientFailure, Some(note))
            }
            State::Ready { at, .. } => {
                (ConnectivityState::Ready, Some(self.addresses[*at].to_string()))
            }
        };
        PolicyReport {
            policy: NAME.to_owned(),
            connectivity,
            subchannels: self.subchannels().map(SubchannelId::serial).collect(),
            note,
            children: Vec::new(),
        }
    }
}

impl PickFirst {
    /// The subchannels that it holds, in the order of their addresses.
    pub(crate) fn subchannels(&self) -> impl Iterator<Item = SubchannelId> {
        let (one, many): (Option<SubchannelId>, &[Member]) = match &self.state {
            State::New | State::Empty { .. } => (None, &[]),
            State::Idle { kept } => (kept.as_ref().map(|(_, member)| member.id), &[]),
            State::Pass(pass) => (None, &pass.members),
            State::Failing(failing) => (None, &failing.members),
            State::Ready { id, .. } => (Some(*id), &[]),
        };
        one.into_iter().chain(many.iter().map(|member| member.id))
    }

    /// The subchannel that calls go to.
    pub(crate) fn chosen(&self) -> Option<SubchannelId> {
        match self.state {
            State::Ready { id, .. } => Some(id),
            State::New
            | State::Empty { .. }
            | State::Idle { .. }
            | State::Pass(_)
            | State::Failing(_) => None,
        }
    }

    fn update(&mut self, update: &LbUpdate, cx: &mut LbContext<'_>) {
        let addresses = attempts(update, cx);
        if addresses.is_empty() {
            return self.give_up(cx);
        }
        let previous = mem::replace(&mut self.addresses, addresses);
        let (cover, members) = match mem::take(&mut self.state) {
            State::Ready { at, id } => {
                if let Some(at) = self.position(&previous[at]) {
                    self.state = State::Ready { at, id };
                    return;
                }
                cx.retire(id);
                announce(cx);
                (Cover::Connecting, Vec::new())
            }
            State::Idle { kept } => {
                let kept = kept.and_then(|(at, member)| {
                    let place = self.position(&previous[at]);
                    if place.is_none() {
                        cx.retire(member.id);
                    }
                    Some((place?, member))
                });
                self.state = State::Idle { kept };
                return;
            }
            State::New | State::Empty { .. } => {
                announce(cx);
                (Cover::Connecting, Vec::new())
            }
            State::Pass(pass) => (pass.cover, pass.members),
            State::Failing(failing) => (Cover::Failing, failing.members),
        };
        // Subchannels whose address is still there go on as they are, in their new places.
        let mut places: Vec<Option<Member>> = Vec::new();
        places.resize_with(self.addresses.len(), || None);
        let index: HashMap<_, usize> = self.addresses.iter().zip(0..).collect();
        for (address, member) in previous.iter().zip(members) {
            match index.get(address) {
                Some(&at) => places[at] = Some(member),
                None => cx.retire(member.id),
            }
        }
        self.state = Pass::start(&self.addresses, places, cover, cx);
    }

    fn give_up(&mut self, cx: &mut LbContext<'_>) {
        for id in self.subchannels() {
            cx.retire(id);
        }
        self.addresses = Vec::new();
        let error = Status::unavailable("name resolver error: produced zero addresses");
        publish_failure(&error, cx);
        self.state = State::Empty { error };
        cx.reject_update("produced zero addresses");
    }

    fn resolver_failed(&mut self, status: &Status, cx: &mut LbContext<'_>) {
        let error = resolver_error(status);
        match &mut self.state {
            State::New | State::Empty { .. } => {
                publish_failure(&error, cx);
                self.state = State::Empty { error };
            }
            State::Failing(failing) => {
                publish_failure(&error, cx);
                failing.error = error;
            }
            State::Pass(pass) => match pass.cover {
                Cover::Failing => publish_failure(&error, cx),
                Cover::Connecting => {}
            },
            // The list that there is may do.
            State::Idle { .. } | State::Ready { .. } => {}
        }
    }

    fn subchannel_changed(
        &mut self,
        id: SubchannelId,
        now: SubchannelState,
        cx: &mut LbContext<'_>,
    ) {
        self.state = match mem::take(&mut self.state) {
            State::Ready { at, id: chosen } if chosen == id => match now.connectivity {
                ConnectivityState::Ready => State::Ready { at, id },
                ConnectivityState::Idle
                | ConnectivityState::Connecting
                | ConnectivityState::TransientFailure => {
                    cx.publish(ConnectivityState::Idle, queue());
                    let member = Member {
                        connectivity: now.connectivity,
                        error: now.error,
                        ..Member::new(id)
                    };
                    State::Idle { kept: Some((at, member)) }
                }
                ConnectivityState::Shutdown => {
                    cx.publish(ConnectivityState::Idle, queue());
                    State::Idle { kept: None }
                }
            },
            State::Idle { kept: Some((at, mut member)) } if member.id == id => {
                member.connectivity = now.connectivity;
                member.error = now.error;
                if member.connectivity == ConnectivityState::Ready {
                    publish_ready(id, cx);
                    State::Ready { at, id }
                } else {
                    let kept = Some((at, member));
                    State::Idle { kept }
                }
            }
            State::Pass(pass) => match place_of(&pass.members, id) {
                Some(at) => pass.changed(at, now, cx),
                None => State::Pass(pass),
            },
            State::Failing(failing) => match place_of(&failing.members, id) {
                Some(at) => failing.changed(at, now, cx),
                None => State::Failing(failing),
            },
            // News of a subchannel that has been given up.
            state @ (State::New
            | State::Empty { .. }
            | State::Idle { .. }
            | State::Ready { .. }) => state,
        };
    }

    fn exit_idle(&mut self, cx: &mut LbContext<'_>) {
        self.state = match mem::take(&mut self.state) {
            State::Idle { kept } => {
                // At once, and not when a subchannel says so: an update in between must not find
                // an idle policy and leave it so.
                announce(cx);
                let mut places: Vec<Option<Member>> = Vec::new();
                places.resize_with(self.addresses.len(), || None);
                if let Some((at, member)) = kept {
                    places[at] = Some(member);
                }
                Pass::start(&self.addresses, places, Cover::Connecting, cx)
            }
            state @ (State::New
            | State::Empty { .. }
            | State::Pass(_)
            | State::Failing(_)
            | State::Ready { .. }) => state,
        };
    }

    fn wake(&mut self, cx: &mut LbContext<'_>) {
        self.state = match mem::take(&mut self.state) {
            State::Pass(mut pass) if pass.next_at.is_some_and(|at| at <= cx.now()) => {
                pass.current += 1;
                pass.seek(cx)
            }
            state @ (State::New
            | State::Empty { .. }
            | State::Idle { .. }
            | State::Pass(_)
            | State::Failing(_)
            | State::Ready { .. }) => state,
        };
    }

    fn position(&self, address: &Address) -> Option<usize> {
        self.addresses.iter().position(|known| known == address)
    }
}

/// What to try, in this order.
fn attempts(update: &LbUpdate, cx: &mut LbContext<'_>) -> Vec<Address> {
    let config = update.config.get::<Config>().copied().unwrap_or_default();
    if !config.shuffle_address_list {
        return addresses::in_order_of_attempts(&update.endpoints);
    }
    // [A62] Endpoints are shuffled; the addresses of each stay together and in order.
    let mut endpoints = update.endpoints.to_vec();
    cx.dice.shuffle(&mut endpoints);
    addresses::in_order_of_attempts(&endpoints)
}

fn announce(cx: &mut LbContext<'_>) {
    cx.publish(ConnectivityState::Connecting, queue());
}

fn publish_ready(id: SubchannelId, cx: &mut LbContext<'_>) {
    cx.publish(ConnectivityState::Ready, Arc::new(ReadyPicker(id)));
}

fn publish_failure(error: &Status, cx: &mut LbContext<'_>) {
    let picker = Arc::new(FailPicker(error.clone()));
    cx.publish(ConnectivityState::TransientFailure, picker);
}

/// What calls fail with when there is no name resolution to go by.
pub(super) fn resolver_error(status: &Status) -> Status {
    Status::unavailable(format!("name resolver error: {}", status.message()))
        .with_source(Arc::new(status.clone()) as Arc<_>)
}

/// Calls go to this subchannel.
#[derive(Debug)]
struct ReadyPicker(SubchannelId);

impl Picker for ReadyPicker {
    fn pick(&self, _: &PickArgs<'_>) -> PickResult {
        PickResult::Complete(Pick::new(self.0))
    }

    fn inspect(&self) -> String {
        format!("calls go to {}", self.0)
    }
}

/// Makes `pick_first` policies.
#[derive(Debug)]
pub(crate) struct Builder;

impl LbPolicyBuilder for Builder {
    fn name(&self) -> &str {
        NAME
    }

    fn parse_config(&self, json: &Value) -> Result<LbPolicyConfig, ServiceConfigError> {
        let fields =
            json.as_object().ok_or_else(|| ServiceConfigError::new("", "must be an object"))?;
        let shuffle = optional_bool(fields, "shuffleAddressList")?;
        Ok(LbPolicyConfig::new(Config { shuffle_address_list: shuffle.unwrap_or_default() }))
    }

    fn build(&self) -> Box<dyn LbPolicy> {
        Box::<PickFirst>::default()
    }
}

/// The config of `pick_first`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Config {
    /// Whether endpoints are shuffled before they are tried, so that clients spread.
    pub(crate) shuffle_address_list: bool,
}

/// By which service configs know it.
pub(crate) const NAME: &str = "pick_first";

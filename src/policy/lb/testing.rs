//! A stage for policies: made-up subchannels, a clock that the test moves, effects as text.

use std::time::{Duration, Instant};

use super::{
    LbContext, LbEffect, LbEvent, LbPolicy, LbPolicyConfig, LbUpdate, SubchannelState, Subchannels,
};
use crate::policy::testing::{picked, start};
use crate::types::Dice;
use crate::types::{Address, ConnectivityState, Endpoint, Status, SubchannelId};

/// Runs a policy `P`. Subchannels are numbered as they are made: `#0`, `#1`.
pub(crate) struct Stage<P> {
    pub(crate) policy: P,
    pub(crate) now: Instant,
    dice: Dice,
    factory: Factory,
    /// The subchannels whose health is to be watched, in this order.
    pub(crate) watched: Vec<SubchannelId>,
    /// The picker that was published last.
    pub(crate) picker: Option<std::sync::Arc<dyn super::Picker>>,
}

#[derive(Default)]
struct Factory {
    made: u32,
    log: Vec<String>,
}

impl Subchannels for Factory {
    fn create(&mut self, address: &Address) -> SubchannelId {
        let id = id(self.made);
        self.made += 1;
        self.log.push(format!("create {id} {address}"));
        id
    }
}

impl<P> Stage<P> {
    pub(crate) fn new(policy: P) -> Self {
        Self::seeded(policy, 1)
    }

    pub(crate) fn seeded(policy: P, seed: u64) -> Self {
        Self {
            policy,
            now: start(),
            dice: Dice::new(seed),
            factory: Factory::default(),
            watched: Vec::new(),
            picker: None,
        }
    }

    pub(crate) fn pass(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
    }

    /// What `act` makes the policy do: subchannels made, then effects in order.
    pub(crate) fn act(&mut self, act: impl FnOnce(&mut P, &mut LbContext<'_>)) -> Vec<String> {
        let mut cx = LbContext::new(self.now, &mut self.dice, &mut self.factory);
        act(&mut self.policy, &mut cx);
        let effects = cx.take_effects();
        let mut lines = std::mem::take(&mut self.factory.log);
        for effect in effects {
            lines.push(match effect {
                LbEffect::Connect(id) => format!("connect {id}"),
                LbEffect::WatchHealth(id) => {
                    self.watched.push(id);
                    continue;
                }
                LbEffect::Retire(id) => format!("retire {id}"),
                LbEffect::Publish { connectivity, picker } => {
                    let line = format!("{connectivity} {}", picked(&*picker));
                    self.picker = Some(picker);
                    line
                }
                LbEffect::ResolveNow => "resolve now".to_owned(),
                LbEffect::RejectUpdate(reason) => format!("reject {reason}"),
            });
        }
        lines
    }

    /// Where the next `calls` calls go.
    pub(crate) fn picks(&self, calls: usize) -> Vec<String> {
        let picker = self.picker.as_ref().unwrap();
        (0..calls).map(|_| picked(&**picker)).collect()
    }
}

impl<P: LbPolicy> Stage<P> {
    pub(crate) fn run(&mut self, event: LbEvent) -> Vec<String> {
        self.act(|policy, cx| policy.handle(event, cx))
    }

    pub(crate) fn update(&mut self, endpoints: &[&[&str]]) -> Vec<String> {
        self.update_with(endpoints, LbPolicyConfig::new(()))
    }

    pub(crate) fn update_with(
        &mut self,
        endpoints: &[&[&str]],
        config: LbPolicyConfig,
    ) -> Vec<String> {
        let endpoints = self::endpoints(endpoints).into();
        self.run(LbEvent::Update(LbUpdate { endpoints, config }))
    }

    pub(crate) fn idle(&mut self, number: u32) -> Vec<String> {
        self.run(changed(number, ConnectivityState::Idle))
    }

    pub(crate) fn connecting(&mut self, number: u32) -> Vec<String> {
        self.run(changed(number, ConnectivityState::Connecting))
    }

    pub(crate) fn ready(&mut self, number: u32) -> Vec<String> {
        self.run(changed(number, ConnectivityState::Ready))
    }

    /// The subchannel fails with the error `e<number>`.
    pub(crate) fn fails(&mut self, number: u32) -> Vec<String> {
        self.fails_with(number, Status::unavailable(format!("e{number}")))
    }

    pub(crate) fn fails_with(&mut self, number: u32, error: Status) -> Vec<String> {
        self.run(LbEvent::SubchannelChanged {
            id: id(number),
            state: SubchannelState {
                connectivity: ConnectivityState::TransientFailure,
                error: Some(error),
            },
        })
    }

    /// The server of the subchannel serves, or does not, with the error `h<number>`, or has yet to
    /// say.
    pub(crate) fn says(&mut self, number: u32, connectivity: ConnectivityState) -> Vec<String> {
        let error = (connectivity == ConnectivityState::TransientFailure)
            .then(|| Status::unavailable(format!("h{number}")));
        let state = SubchannelState { connectivity, error };
        self.run(LbEvent::HealthChanged { id: id(number), state })
    }

    /// Moves the clock to when the policy wants to be woken, and wakes it.
    pub(crate) fn wake(&mut self) -> Vec<String> {
        self.now = self.policy.wake_at().unwrap();
        self.run(LbEvent::Wake)
    }
}

pub(crate) fn id(number: u32) -> SubchannelId {
    SubchannelId::new(number, number)
}

pub(crate) fn changed(number: u32, connectivity: ConnectivityState) -> LbEvent {
    LbEvent::SubchannelChanged {
        id: id(number),
        state: SubchannelState { connectivity, error: None },
    }
}

/// Endpoints of addresses by these names.
pub(crate) fn endpoints(lists: &[&[&str]]) -> Vec<Endpoint> {
    lists
        .iter()
        .map(|list| Endpoint::new(list.iter().map(|text| Address::Name((*text).into()))))
        .collect()
}

use serde_json::Value;

use super::super::testing::{Stage, changed, endpoints, id};
use super::super::{LbPolicyBuilder, LbPolicyConfig, Pick, PickArgs, PickResult};
use super::*;
use crate::policy::service_config::ServiceConfigError;
use crate::types::ConnectivityState::{Connecting, Idle, Ready, TransientFailure};

/// A policy that publishes whatever state its subchannels are in, with a picker that tells whose
/// it is, and asks for resolution when one fails.
struct Puppet(&'static str);

struct PuppetPicker(&'static str);

impl Picker for PuppetPicker {
    fn pick(&self, _: &PickArgs<'_>) -> PickResult {
        let number = ["old", "new", "third"].iter().position(|name| *name == self.0);
        PickResult::Complete(Pick::new(id(100 * (1 + number.unwrap() as u32))))
    }
}

impl LbPolicy for Puppet {
    fn handle(&mut self, event: LbEvent, cx: &mut LbContext<'_>) {
        let name = self.0;
        match event {
            LbEvent::Update(update) => {
                for address in update.endpoints.iter().flat_map(Endpoint::addresses) {
                    cx.create_subchannel(address);
                }
                cx.publish(Connecting, Arc::new(PuppetPicker(name)));
            }
            LbEvent::SubchannelChanged { id, state }
                if state.connectivity == ConnectivityState::Shutdown =>
            {
                cx.retire(id);
            }
            LbEvent::SubchannelChanged { id, state } => {
                if state.connectivity == TransientFailure {
                    cx.resolve_now();
                }
                cx.publish(state.connectivity, Arc::new(PuppetPicker(name)));
                if state.connectivity == Idle {
                    cx.connect(id);
                }
            }
            LbEvent::HealthChanged { id, .. } => cx.reject_update(format!("{name} told of {id}")),
            LbEvent::ResolverFailed(status) => {
                cx.reject_update(format!("{name} told {}", status.message()));
            }
            LbEvent::ExitIdle => cx.reject_update(format!("{name} told to exit idle")),
            LbEvent::Wake => cx.reject_update(format!("{name} woken")),
            LbEvent::Flush => cx.reject_update(format!("{name} flushed")),
        }
    }

    fn inspect(&self) -> PolicyReport {
        PolicyReport {
            policy: self.0.to_owned(),
            connectivity: Connecting,
            subchannels: Vec::new(),
            note: None,
            children: Vec::new(),
        }
    }
}

impl LbPolicyBuilder for Puppet {
    fn name(&self) -> &str {
        self.0
    }

    fn parse_config(&self, _: &Value) -> Result<LbPolicyConfig, ServiceConfigError> {
        Ok(LbPolicyConfig::new(()))
    }

    fn build(&self) -> Box<dyn LbPolicy> {
        Box::new(Self(self.0))
    }
}

impl Stage<GracefulSwitch> {
    fn switch_to(&mut self, policy: &'static str, addresses: &[&str]) -> Vec<String> {
        let config = LbConfig::new(Arc::new(Puppet(policy)), LbPolicyConfig::new(()));
        let endpoints = endpoints(&[addresses]).into();
        self.act(|switch, cx| switch.update(&config, endpoints, cx))
    }

    fn becomes(&mut self, number: u32, connectivity: ConnectivityState) -> Vec<String> {
        let LbEvent::SubchannelChanged { id, state } = changed(number, connectivity) else {
            unreachable!()
        };
        self.act(|switch, cx| switch.subchannel_changed(id, state, cx))
    }
}

fn stage() -> Stage<GracefulSwitch> {
    Stage::new(GracefulSwitch::new())
}

/// `old` serves with #0 and #1, `new` is pending with #2.
fn switching() -> Stage<GracefulSwitch> {
    let mut stage = stage();
    assert_eq!(
        stage.switch_to("old", &["a", "b"]),
        ["create #0 a", "create #1 b", "CONNECTING pick #100"]
    );
    assert_eq!(stage.becomes(0, Ready), ["READY pick #100"]);
    assert_eq!(stage.switch_to("new", &["a"]), ["create #2 a"]);
    stage
}

#[test]
fn the_old_policy_serves_until_the_new_one_can() {
    let mut stage = switching();
    assert_eq!(stage.becomes(2, Connecting), Vec::<String>::new());
    assert_eq!(stage.becomes(1, Ready), ["READY pick #100"]);
    assert_eq!(stage.becomes(2, Ready), ["READY pick #200", "retire #0", "retire #1"]);
    assert_eq!(stage.becomes(0, Idle), Vec::<String>::new(), "gone");
    assert_eq!(stage.becomes(2, Idle), ["IDLE pick #200", "connect #2"]);
}

#[test]
fn anything_but_connecting_of_the_new_policy_makes_it_current() {
    for state in [TransientFailure, Idle] {
        let mut stage = switching();
        let effects = stage.becomes(2, state);
        let published = format!("{state} pick #200");
        assert!(effects.contains(&published), "{effects:?}");
        assert!(effects.contains(&"retire #0".to_owned()), "{effects:?}");
    }
}

#[test]
fn an_old_policy_that_can_no_longer_serve_makes_way_at_once() {
    for state in [Connecting, Idle, TransientFailure] {
        let mut stage = switching();
        assert_eq!(
            stage.becomes(0, state),
            ["CONNECTING pick #200", "retire #0", "retire #1"],
            "what it asked for beside that counts no more"
        );
    }
}

#[test]
fn a_policy_that_does_not_serve_yet_is_replaced_at_once() {
    let mut stage = stage();
    stage.switch_to("old", &["a"]);
    assert_eq!(
        stage.switch_to("new", &["a"]),
        ["create #1 a", "CONNECTING pick #200", "retire #0"]
    );
}

#[test]
fn a_third_policy_replaces_the_pending_one() {
    let mut stage = switching();
    assert_eq!(stage.switch_to("third", &["c"]), ["create #3 c", "retire #2"]);
    assert_eq!(stage.becomes(2, Ready), Vec::<String>::new(), "gone");
    assert_eq!(stage.becomes(3, Ready), ["READY pick #300", "retire #0", "retire #1"]);
}

#[test]
fn the_same_name_is_the_same_policy() {
    let mut stage = switching();
    assert_eq!(
        stage.switch_to("new", &["c"]),
        ["create #3 c"],
        "the pending one is updated, not made anew"
    );
    stage.becomes(3, Ready);
    assert_eq!(stage.switch_to("new", &["d"]), ["create #4 d", "CONNECTING pick #200"]);
}

#[test]
fn the_latest_policy_hears_of_resolution_and_demand() {
    let mut stage = switching();
    let status = Status::unavailable("down");
    assert_eq!(
        stage.act(|switch, cx| switch.resolver_failed(status, cx)),
        ["reject new told down"]
    );
    assert_eq!(stage.act(GracefulSwitch::exit_idle), ["reject new told to exit idle"]);
    assert_eq!(stage.act(GracefulSwitch::flush), ["reject new flushed", "reject old flushed"]);
    assert_eq!(stage.act(GracefulSwitch::wake), ["reject new woken", "reject old woken"]);
}

#[test]
fn only_the_latest_policy_asks_for_resolution() {
    let mut alone = stage();
    alone.switch_to("old", &["a"]);
    let effects = alone.becomes(0, TransientFailure);
    assert_eq!(effects, ["resolve now", "TRANSIENT_FAILURE pick #100"]);

    let mut stage = switching();
    let effects = stage.becomes(1, TransientFailure);
    assert!(!effects.contains(&"resolve now".to_owned()), "{effects:?}");
}

#[test]
fn a_resolver_error_before_any_policy_is_shown_as_it_is() {
    let mut stage = stage();
    let status = Status::internal("no such name");
    assert_eq!(
        stage.act(|switch, cx| switch.resolver_failed(status, cx)),
        ["TRANSIENT_FAILURE fail INTERNAL: no such name"]
    );
    assert_eq!(stage.act(GracefulSwitch::exit_idle), Vec::<String>::new());
    assert_eq!(stage.policy.wake_at(), None);
    assert!(stage.policy.inspect().children.is_empty());
}

#[test]
fn what_a_policy_has_given_up_itself_is_not_retired_again() {
    let mut stage = switching();
    assert_eq!(stage.becomes(0, ConnectivityState::Shutdown), ["retire #0"]);
    assert_eq!(stage.becomes(2, Ready), ["READY pick #200", "retire #1"]);
}

#[test]
fn an_inspection_shows_both_policies_while_there_are_two() {
    let mut stage = switching();
    let seen = stage.policy.inspect();
    assert_eq!(seen.note.as_deref(), Some("changing from old to new"));
    let names: Vec<_> = seen.children.iter().map(|child| &child.policy).collect();
    assert_eq!(names, ["old", "new"]);
    assert_eq!(seen.connectivity, Ready);
    stage.becomes(2, Ready);
    let seen = stage.policy.inspect();
    assert_eq!((seen.children.len(), seen.note), (1, None));
}

#[test]
fn health_is_told_to_the_owner_of_the_subchannel() {
    let mut stage = switching();
    let failing = SubchannelState { connectivity: TransientFailure, error: None };
    for (number, told) in [(0, "reject old told of #0"), (2, "reject new told of #2")] {
        let failing = failing.clone();
        let effects = stage.act(|switch, cx| switch.health_changed(id(number), failing, cx));
        assert_eq!(effects, [told]);
    }
    let nobody = stage.act(|switch, cx| switch.health_changed(id(7), failing, cx));
    assert!(nobody.is_empty());
}

use std::time::Duration;

use super::*;
use crate::policy::lb::testing::{self, Stage};

fn stage() -> Stage<PickFirst> {
    Stage::new(PickFirst::default())
}

/// A policy all of whose `n` addresses, at most five, have failed and rest.
fn failing(n: usize) -> Stage<PickFirst> {
    let mut stage = stage();
    stage.update(&[&["a", "b", "c", "d", "e"][..n]]);
    for number in 0..n as u32 {
        stage.connecting(number);
        stage.fails(number);
    }
    stage
}

fn nothing() -> Vec<String> {
    Vec::new()
}

#[test]
fn the_first_update_connects_at_once() {
    let mut stage = stage();
    assert_eq!(
        stage.update(&[&["a"], &["b"]]),
        ["create #0 a", "create #1 b", "CONNECTING queue", "connect #0"]
    );
    assert_eq!(stage.connecting(0), nothing());
    assert_eq!(stage.ready(0), ["retire #1", "READY pick #0"]);
    assert_eq!(stage.policy.wake_at(), None);
}

// spec: A61/connection-attempt-delay
#[test]
fn the_next_address_gets_its_turn_after_a_delay_or_at_once_after_a_failure() {
    let mut stage = stage();
    let began = stage.now;
    let after = |millis| Some(began + Duration::from_millis(millis));
    stage.update(&[&["a", "b", "c", "d"]]);
    stage.connecting(0);
    assert_eq!(stage.policy.wake_at(), after(250));
    stage.pass(249);
    assert_eq!(stage.run(LbEvent::Wake), nothing(), "too early");
    assert_eq!(stage.wake(), ["connect #1"]);
    stage.connecting(1);
    stage.pass(100);
    assert_eq!(stage.fails(1), ["connect #2"]);
    assert_eq!(stage.policy.wake_at(), after(600), "the delay starts over");
    stage.connecting(2);
    assert_eq!(stage.fails(0), nothing(), "not its turn any more");
    assert_eq!(stage.policy.wake_at(), after(600));
    assert_eq!(stage.wake(), ["connect #3"]);
    assert_eq!(stage.policy.wake_at(), None, "no one is left to wait for");
    stage.connecting(3);
    assert_eq!(stage.ready(2), ["retire #0", "retire #1", "retire #3", "READY pick #2"]);
}

// spec: A61/pass-over
#[test]
fn a_pass_ends_in_one_failure_when_every_address_has_failed() {
    let mut stage = stage();
    stage.update(&[&["a", "b", "c"]]);
    stage.connecting(0);
    stage.wake();
    stage.connecting(1);
    stage.wake();
    stage.connecting(2);
    assert_eq!(stage.fails(2), nothing(), "the others may still make it");
    assert_eq!(stage.fails(0), nothing());
    assert_eq!(stage.fails(1), ["TRANSIENT_FAILURE fail UNAVAILABLE: e1"], "the latest error");
}

#[test]
fn one_that_left_its_backoff_during_the_pass_connects_when_the_pass_is_over() {
    let mut stage = stage();
    stage.update(&[&["a", "b"]]);
    stage.connecting(0);
    stage.fails(0);
    stage.connecting(1);
    assert_eq!(stage.idle(0), nothing());
    assert_eq!(stage.fails(1), ["TRANSIENT_FAILURE fail UNAVAILABLE: e1", "connect #0"]);
}

// spec: A62/sticky-tf
#[test]
fn a_failing_policy_does_not_flicker_while_it_tries_again() {
    let mut stage = failing(1);
    for _ in 0..3 {
        assert_eq!(stage.idle(0), ["connect #0"]);
        assert_eq!(stage.connecting(0), nothing());
        assert_eq!(stage.fails(0), ["TRANSIENT_FAILURE fail UNAVAILABLE: e0", "resolve now"]);
    }
    stage.idle(0);
    stage.connecting(0);
    assert_eq!(stage.ready(0), ["READY pick #0"]);
}

// spec: A61/re-resolution
#[test]
fn as_many_failures_as_addresses_report_again_and_ask_for_resolution() {
    let mut stage = failing(3);
    let reported = ["TRANSIENT_FAILURE fail UNAVAILABLE: e1", "resolve now"];
    for round in 0..2 {
        for number in [0, 0, 1] {
            stage.idle(number);
            stage.connecting(number);
            let effects = stage.fails(number);
            if number == 1 {
                assert_eq!(effects, reported, "round {round}");
            } else {
                assert_eq!(effects, nothing(), "round {round}");
            }
        }
    }
}

#[test]
fn a_failure_that_is_told_twice_counts_once() {
    let mut stage = failing(2);
    assert_eq!(stage.fails(0), nothing());
    assert_eq!(stage.fails(1), nothing());
}

#[test]
fn the_error_of_a_call_is_that_of_the_subchannel_as_unavailable() {
    let mut stage = stage();
    stage.update(&[&["a"]]);
    stage.connecting(0);
    let error = Status::internal("a: TLS handshake: certificate expired");
    assert_eq!(
        stage.fails_with(0, error),
        ["TRANSIENT_FAILURE fail UNAVAILABLE: a: TLS handshake: certificate expired"]
    );
}

// spec: A62/ready-lost
#[test]
fn a_lost_connection_goes_idle_until_somebody_asks() {
    let mut stage = stage();
    stage.update(&[&["a", "b"]]);
    stage.connecting(0);
    stage.fails(0);
    stage.connecting(1);
    stage.ready(1);
    assert_eq!(stage.idle(1), ["IDLE queue"]);
    assert_eq!(
        stage.run(LbEvent::ExitIdle),
        ["create #2 a", "CONNECTING queue", "connect #2"],
        "from the first address, keeping the subchannel that was up"
    );
    assert_eq!(stage.run(LbEvent::ExitIdle), nothing(), "already at it");
    stage.connecting(2);
    assert_eq!(stage.fails(2), ["connect #1"]);
    assert_eq!(stage.ready(1), ["retire #2", "READY pick #1"]);
}

#[test]
fn a_connection_that_came_and_went_counts_as_lost() {
    let mut stage = stage();
    stage.update(&[&["a", "b"]]);
    stage.connecting(0);
    assert_eq!(stage.idle(0), ["retire #1", "IDLE queue"]);
    let mut stage = failing(2);
    stage.idle(1);
    stage.connecting(1);
    assert_eq!(stage.idle(1), ["retire #0", "IDLE queue"]);
}

#[test]
fn an_update_right_after_exit_idle_leaves_it_connecting() {
    let mut stage = stage();
    stage.update(&[&["a"]]);
    stage.connecting(0);
    stage.ready(0);
    stage.idle(0);
    stage.run(LbEvent::ExitIdle);
    assert_eq!(stage.update(&[&["b"]]), ["create #1 b", "retire #0", "connect #1"]);
}

#[test]
fn an_update_that_still_has_the_ready_address_changes_nothing() {
    let mut stage = stage();
    stage.update(&[&["a", "b"]]);
    stage.connecting(0);
    stage.ready(0);
    assert_eq!(stage.update(&[&["c"], &["a"], &["b"]]), nothing());
    assert_eq!(stage.idle(0), ["IDLE queue"]);
    assert_eq!(
        stage.run(LbEvent::ExitIdle),
        ["create #2 c", "create #3 b", "CONNECTING queue", "connect #2"],
        "the new list is in force"
    );
}

#[test]
fn an_update_without_the_ready_address_connects_anew() {
    let mut stage = stage();
    stage.update(&[&["a", "b"]]);
    stage.connecting(0);
    stage.ready(0);
    assert_eq!(
        stage.update(&[&["b"]]),
        ["create #2 b", "retire #0", "CONNECTING queue", "connect #2"]
    );
    assert_eq!(stage.idle(0), nothing(), "news of one that is gone");
}

// spec: A61/new-list-new-pass
#[test]
fn an_update_during_a_pass_starts_another_and_keeps_what_is_at_work() {
    let mut stage = stage();
    stage.update(&[&["a", "b", "c"]]);
    stage.connecting(0);
    stage.fails(0);
    stage.connecting(1);
    stage.pass(100);
    assert_eq!(
        stage.update(&[&["a", "d", "b"]]),
        ["create #3 d", "retire #2", "connect #3"],
        "a rests and is skipped, silently"
    );
    stage.connecting(3);
    assert_eq!(stage.fails(3), nothing(), "b is at it already");
    assert_eq!(stage.fails(1), ["TRANSIENT_FAILURE fail UNAVAILABLE: e1"]);
}

// spec: A62/sticky-tf
#[test]
fn an_update_while_failing_starts_a_silent_pass() {
    let mut stage = failing(2);
    assert_eq!(stage.update(&[&["c", "a"]]), ["create #2 c", "retire #1", "connect #2"]);
    assert_eq!(stage.connecting(2), nothing());
    assert_eq!(stage.fails(2), ["TRANSIENT_FAILURE fail UNAVAILABLE: e0"]);
}

#[test]
fn an_update_while_idle_leaves_it_idle() {
    let mut stage = stage();
    stage.update(&[&["a"]]);
    stage.connecting(0);
    stage.ready(0);
    stage.idle(0);
    assert_eq!(stage.update(&[&["b"], &["a"]]), nothing());
    assert_eq!(stage.update(&[&["b"]]), ["retire #0"]);
    assert_eq!(stage.run(LbEvent::ExitIdle), ["create #1 b", "CONNECTING queue", "connect #1"]);
}

#[test]
fn no_addresses_end_everything_and_refuse_the_update() {
    let failed = "TRANSIENT_FAILURE fail UNAVAILABLE: name resolver error: produced zero addresses";
    let refused = "reject produced zero addresses";
    let mut stage = stage();
    assert_eq!(stage.update(&[]), [failed, refused]);
    assert_eq!(stage.update(&[&[]]), [failed, refused]);
    assert_eq!(
        stage.update(&[&["a", "b"]]),
        ["create #0 a", "create #1 b", "CONNECTING queue", "connect #0"],
        "failing for want of addresses is not sticky"
    );
    stage.connecting(0);
    assert_eq!(stage.update(&[]), ["retire #0", "retire #1", failed, refused]);
}

#[test]
fn a_resolver_error_counts_only_where_there_is_nothing_better() {
    let down = || LbEvent::ResolverFailed(Status::internal("no such name"));
    let failed = ["TRANSIENT_FAILURE fail UNAVAILABLE: name resolver error: no such name"];
    let mut stage = stage();
    assert_eq!(stage.run(down()), failed);
    stage.update(&[&["a"]]);
    assert_eq!(stage.run(down()), nothing(), "connecting");
    stage.connecting(0);
    stage.ready(0);
    assert_eq!(stage.run(down()), nothing(), "ready");
    stage.idle(0);
    assert_eq!(stage.run(down()), nothing(), "idle");
    assert_eq!(failing(2).run(down()), failed, "failing");
    let mut covered = failing(2);
    covered.update(&[&["c"]]);
    assert_eq!(covered.run(down()), failed, "in a silent pass");
}

#[test]
fn one_that_was_taken_over_ready_is_chosen() {
    let mut stage = stage();
    stage.update(&[&["a", "b", "c"]]);
    assert_eq!(stage.ready(2), ["retire #0", "retire #1", "READY pick #2"]);
}

#[test]
fn one_that_was_taken_over_failing_is_passed_by() {
    let mut stage = stage();
    stage.update(&[&["a", "b"]]);
    assert_eq!(stage.fails(0), ["connect #1"]);
}

#[test]
fn one_that_is_shut_down_by_others_does_not_hold_up_the_pass() {
    let mut stage = stage();
    stage.update(&[&["a", "b"]]);
    let gone = testing::changed(0, ConnectivityState::Shutdown);
    assert_eq!(stage.run(gone), ["connect #1"]);
    assert_eq!(
        stage.update(&[&["a", "b"]]),
        ["create #2 a", "connect #2"],
        "it is made anew when its turn comes again"
    );
}

// spec: A62/shuffle
#[test]
fn shuffling_moves_endpoints_and_keeps_their_addresses_together() {
    let mut orders = std::collections::BTreeSet::new();
    for seed in 0..50 {
        let mut stage = Stage::seeded(PickFirst::default(), seed);
        let config = LbPolicyConfig::new(Config { shuffle_address_list: true });
        let effects = stage.update_with(&[&["a1", "a2"], &["b1", "b2"]], config);
        let order: Vec<_> = effects
            .iter()
            .filter_map(|line| line.strip_prefix("create"))
            .map(|line| line.rsplit(' ').next().unwrap().to_owned())
            .collect();
        orders.insert(order.join(" "));
    }
    assert_eq!(orders.into_iter().collect::<Vec<_>>(), ["a1 a2 b1 b2", "b1 b2 a1 a2"]);
}

#[test]
fn an_inspection_says_what_it_is_doing() {
    let mut stage = failing(2);
    let seen = stage.policy.inspect();
    assert_eq!(seen.connectivity, ConnectivityState::TransientFailure);
    assert_eq!(seen.note.as_deref(), Some("e1"));
    assert_eq!(seen.subchannels, [0, 1]);
    stage.ready(1);
    let seen = stage.policy.inspect();
    assert_eq!(seen.connectivity, ConnectivityState::Ready);
    assert_eq!(seen.note.as_deref(), Some("b"));
    assert_eq!(seen.subchannels, [1]);
}

/// Subchannels that connect, fail and get lost at random, as a channel's do.
mod storm {
    use std::collections::BTreeMap;

    use super::*;
    use crate::types::Dice;
    use ConnectivityState::{Connecting, Idle, Ready, TransientFailure};

    struct World {
        stage: Stage<PickFirst>,
        live: BTreeMap<u32, ConnectivityState>,
        published: Option<ConnectivityState>,
        seen: [usize; 4],
    }

    impl World {
        fn perform(&mut self, effects: Vec<String>) {
            for line in effects {
                let number = line.split(['#', ' ']).find_map(|word| word.parse::<u32>().ok());
                match line.split(' ').next().unwrap() {
                    "create" => {
                        assert_eq!(self.live.insert(number.unwrap(), Idle), None, "{line}");
                    }
                    "retire" => assert!(self.live.remove(&number.unwrap()).is_some(), "{line}"),
                    "connect" => {
                        let state = self.live.get_mut(&number.unwrap()).expect("it is live");
                        if *state == Idle {
                            *state = Connecting;
                            let effects = self.stage.connecting(number.unwrap());
                            assert_eq!(effects, nothing(), "{line}");
                        }
                    }
                    "READY" => self.publish(Ready),
                    "CONNECTING" => self.publish(Connecting),
                    "IDLE" => self.publish(Idle),
                    "TRANSIENT_FAILURE" => self.publish(TransientFailure),
                    "resolve" => {}
                    other => panic!("{other}"),
                }
            }
        }

        fn publish(&mut self, state: ConnectivityState) {
            let before = self.published.replace(state);
            assert!(before != Some(state) || state == TransientFailure, "{state} again");
            // [A62] A lost race with READY counts as READY.
            let flickers = before == Some(TransientFailure) && state == Connecting;
            assert!(!flickers, "left TRANSIENT_FAILURE without being READY");
            self.seen[state as usize] += 1;
        }

        fn change(&mut self, number: u32, state: ConnectivityState) {
            self.live.insert(number, state);
            let effects = match state {
                Idle => self.stage.idle(number),
                Ready => self.stage.ready(number),
                TransientFailure => self.stage.fails(number),
                Connecting | ConnectivityState::Shutdown => unreachable!(),
            };
            self.perform(effects);
        }

        fn step(&mut self, dice: &mut Dice) {
            let lists: [&[&str]; 4] = [&["a"], &["a", "b", "c"], &["c", "b"], &["d", "e", "a"]];
            let subchannels: Vec<_> = self.live.iter().map(|(&n, &state)| (n, state)).collect();
            let effects = match dice.below(10) {
                0 => self.stage.update(&[lists[dice.below(4)]]),
                1 => self.stage.run(LbEvent::ExitIdle),
                2 if self.stage.policy.wake_at().is_some() => self.stage.wake(),
                2.. => {
                    if let Some(&subchannel) = subchannels.get(dice.below(subchannels.len())) {
                        self.nudge(subchannel, dice);
                    }
                    return;
                }
            };
            self.perform(effects);
        }

        fn nudge(&mut self, (number, state): (u32, ConnectivityState), dice: &mut Dice) {
            match state {
                Connecting => match dice.below(20) {
                    0 => self.change(number, Idle),
                    1 => self.change(number, Ready),
                    2.. => self.change(number, TransientFailure),
                },
                TransientFailure | Ready => self.change(number, Idle),
                Idle | ConnectivityState::Shutdown => {}
            }
        }

        /// Whatever has happened, it is going somewhere, or says that it waits to be asked.
        fn check(&self) {
            let any = |state| self.live.values().any(|&live| live == state);
            match self.published.unwrap() {
                Ready => assert!(self.live.len() == 1 && any(Ready)),
                Connecting => assert!(any(Connecting)),
                TransientFailure => assert!(any(Connecting) || any(TransientFailure)),
                Idle => assert!(self.live.len() <= 1 && !any(Connecting)),
                ConnectivityState::Shutdown => unreachable!(),
            }
        }
    }

    #[test]
    fn it_never_flickers_leaks_or_gets_stuck() {
        let mut seen = [0; 4];
        for seed in 0..200 {
            let mut dice = Dice::new(seed);
            let mut world = World {
                stage: Stage::seeded(PickFirst::default(), seed),
                live: BTreeMap::new(),
                published: None,
                seen: [0; 4],
            };
            let effects = world.stage.update(&[&["a", "b"]]);
            world.perform(effects);
            for _ in 0..300 {
                world.step(&mut dice);
                world.check();
            }
            for (total, count) in seen.iter_mut().zip(world.seen) {
                *total += count;
            }
        }
        assert!(seen.iter().all(|&count| count > 500), "{seen:?}");
    }
}

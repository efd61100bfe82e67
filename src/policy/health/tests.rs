use std::time::Duration;

use super::*;
use crate::policy::testing::{assert_table, start};

const EVENTS: [Event; 11] = [
    Event::Enabled,
    Event::Disabled,
    Event::Connected,
    Event::Moved,
    Event::Lost,
    Event::Answered { serving: true },
    Event::Answered { serving: false },
    Event::Unimplemented,
    Event::WatchEnded,
    Event::Wake,
    Event::ResetBackoff,
];

const SERVES: Event = Event::Answered { serving: true };
const SERVES_NOT: Event = Event::Answered { serving: false };

/// A machine with its times, which are written as seconds since it began.
struct Rig {
    began: Instant,
    now: Instant,
    backoff: Backoff,
    dice: Dice,
}

impl Rig {
    fn new() -> Self {
        let began = start();
        Self {
            began,
            now: began,
            backoff: Backoff::new([1, 2, 40].map(Duration::from_secs), 0.0),
            dice: Dice::new(1),
        }
    }

    fn at(&self, seconds: u64) -> Instant {
        self.began + Duration::from_secs(seconds)
    }

    fn step(&mut self, state: State, event: Event) -> (State, Vec<Effect>) {
        let mut fx = Vec::new();
        let mut pace = Pace { backoff: &self.backoff, dice: &mut self.dice };
        let state = state.step(self.now, event, &mut pace, &mut fx);
        (state, fx)
    }

    /// What each of `events` leads to: effects, and the state as policies see it.
    fn run(&mut self, mut state: State, events: &[Event]) -> Vec<String> {
        let mut lines = Vec::new();
        for &event in events {
            let (next, fx) = self.step(state, event);
            state = next;
            let fx: Vec<_> = fx.into_iter().map(text).collect();
            lines.push(format!("{}: {}", state.connectivity(), fx.join(", ")));
        }
        lines
    }

    fn name(&self, state: State) -> String {
        match state {
            State::Checking { attempt } => format!("Checking({attempt})"),
            State::Resting { attempt, until } => {
                format!("Resting({attempt}, until {})", (until - self.began).as_secs())
            }
            State::Off
            | State::Unconnected
            | State::Serving
            | State::NotServing
            | State::Unsupported => format!("{state:?}"),
        }
    }
}

fn text(effect: Effect) -> String {
    match effect {
        Effect::Watch => "watch".to_owned(),
        Effect::StopWatch => "stop watch".to_owned(),
        Effect::Complain => "complain".to_owned(),
        Effect::Report(state) => format!("report {state}"),
    }
}

#[test]
fn every_state_has_an_answer_to_every_event() {
    let mut rig = Rig::new();
    rig.now = rig.at(100);
    let states = [
        State::Off,
        State::Unconnected,
        State::Checking { attempt: 1 },
        State::Serving,
        State::NotServing,
        State::Resting { attempt: 1, until: rig.at(110) },
        State::Resting { attempt: 1, until: rig.at(100) },
        State::Unsupported,
    ];
    let mut table = Vec::new();
    for state in states {
        for event in EVENTS {
            let (next, fx) = rig.step(state, event);
            let fx: Vec<_> = fx.into_iter().map(text).collect();
            let (from, to) = (rig.name(state), rig.name(next));
            table.push(format!("{from} + {event:?} = {to}: {}", fx.join(", ")));
        }
    }
    assert_table(&table, TABLE);
}

// spec: A17/first-answer
#[test]
fn a_server_is_ready_once_it_has_said_that_it_serves_and_not_before() {
    let mut rig = Rig::new();
    let lines = rig.run(State::Off, &[Event::Enabled, Event::Connected, SERVES]);
    assert_eq!(
        lines,
        ["CONNECTING: report CONNECTING", "CONNECTING: watch", "READY: report READY"]
    );
}

// spec: A17/not-serving
#[test]
fn anything_but_serving_is_a_failure_until_it_serves_again() {
    let mut rig = Rig::new();
    let failing = "TRANSIENT_FAILURE: report TRANSIENT_FAILURE";
    let lines = rig.run(State::Checking { attempt: 0 }, &[SERVES_NOT, SERVES, SERVES_NOT]);
    assert_eq!(lines, [failing, "READY: report READY", failing]);
}

// spec: A17/unimplemented
#[test]
fn a_server_without_health_checks_is_healthy_and_not_asked_again_on_this_connection() {
    let mut rig = Rig::new();
    let lines = rig.run(
        State::Checking { attempt: 0 },
        &[Event::Unimplemented, Event::WatchEnded, Event::Wake, Event::Lost, Event::Connected],
    );
    assert_eq!(
        lines,
        [
            "READY: complain, stop watch, report READY",
            "READY: ",
            "READY: ",
            "CONNECTING: report CONNECTING",
            "CONNECTING: watch",
        ]
    );
}

// spec: A17/backoff
#[test]
fn watches_that_say_nothing_are_repeated_after_rests_that_grow() {
    let mut rig = Rig::new();
    let mut state = State::Checking { attempt: 0 };
    for rest in [1, 2, 40, 40] {
        let (resting, fx) = rig.step(state, Event::WatchEnded);
        assert_eq!(fx, [Effect::Report(ConnectivityState::TransientFailure)]);
        let until = resting.wake_at().unwrap();
        assert_eq!(until - rig.now, Duration::from_secs(rest));
        rig.now = until;
        let (checking, fx) = rig.step(resting, Event::Wake);
        assert_eq!(fx, [Effect::Watch, Effect::Report(ConnectivityState::Connecting)]);
        state = checking;
    }
}

// spec: A17/backoff
#[test]
fn a_watch_that_said_something_is_repeated_after_a_rest_and_the_rests_start_over() {
    for said in [SERVES, SERVES_NOT] {
        let mut rig = Rig::new();
        let (state, _) = rig.step(State::Checking { attempt: 7 }, said);
        let (state, fx) = rig.step(state, Event::WatchEnded);
        assert_eq!(fx, [Effect::Report(ConnectivityState::TransientFailure)]);
        assert_eq!(state, State::Resting { attempt: 0, until: rig.at(1) });
    }
}

#[test]
fn a_server_that_ends_each_watch_after_a_word_is_asked_once_a_rest() {
    let mut rig = Rig::new();
    let (mut state, mut watches, begun) = (State::Checking { attempt: 0 }, 0, rig.now);
    while rig.now < begun + Duration::from_secs(60) {
        for event in [SERVES, Event::WatchEnded] {
            state = rig.step(state, event).0;
        }
        rig.now = state.wake_at().expect("it rests");
        let (next, fx) = rig.step(state, Event::Wake);
        watches += fx.iter().filter(|it| **it == Effect::Watch).count();
        state = next;
    }
    assert!(watches <= 60, "{watches} in a minute");
}

#[test]
fn a_change_of_the_config_ends_the_watch_and_shows_at_once() {
    let mut rig = Rig::new();
    // Another service.
    let lines = rig.run(State::Serving, &[Event::Enabled, Event::Connected, SERVES_NOT]);
    assert_eq!(
        lines,
        [
            "CONNECTING: stop watch, report CONNECTING",
            "CONNECTING: watch",
            "TRANSIENT_FAILURE: report TRANSIENT_FAILURE",
        ]
    );
    // None any more.
    let lines = rig.run(State::NotServing, &[Event::Disabled, SERVES_NOT]);
    assert_eq!(lines, ["READY: stop watch, report READY", "READY: "]);
}

const TABLE: &str = "
    Off + Enabled                                       = Unconnected: report CONNECTING
    Off + Disabled                                      = Off:
    Off + Connected                                     = Off:
    Off + Moved                                         = Off:
    Off + Lost                                          = Off:
    Off + Answered { serving: true }                    = Off:
    Off + Answered { serving: false }                   = Off:
    Off + Unimplemented                                 = Off:
    Off + WatchEnded                                    = Off:
    Off + Wake                                          = Off:
    Off + ResetBackoff                                  = Off:
    Unconnected + Enabled                               = Unconnected:
    Unconnected + Disabled                              = Off: report READY
    Unconnected + Connected                             = Checking(0): watch
    Unconnected + Moved                                 = Unconnected:
    Unconnected + Lost                                  = Unconnected:
    Unconnected + Answered { serving: true }            = Unconnected:
    Unconnected + Answered { serving: false }           = Unconnected:
    Unconnected + Unimplemented                         = Unconnected:
    Unconnected + WatchEnded                            = Unconnected:
    Unconnected + Wake                                  = Unconnected:
    Unconnected + ResetBackoff                          = Unconnected:
    Checking(1) + Enabled                               = Unconnected: stop watch
    Checking(1) + Disabled                              = Off: stop watch, report READY
    Checking(1) + Connected                             = Checking(0): watch
    Checking(1) + Moved                                 = Checking(1): watch
    Checking(1) + Lost                                  = Unconnected: stop watch
    Checking(1) + Answered { serving: true }            = Serving: report READY
    Checking(1) + Answered { serving: false }           = NotServing: report TRANSIENT_FAILURE
    Checking(1) + Unimplemented                         = Unsupported: complain, stop watch, report READY
    Checking(1) + WatchEnded                            = Resting(1, until 102): report TRANSIENT_FAILURE
    Checking(1) + Wake                                  = Checking(1):
    Checking(1) + ResetBackoff                          = Checking(0):
    Serving + Enabled                                   = Unconnected: stop watch, report CONNECTING
    Serving + Disabled                                  = Off: stop watch
    Serving + Connected                                 = Checking(0): watch, report CONNECTING
    Serving + Moved                                     = Serving: watch
    Serving + Lost                                      = Unconnected: stop watch, report CONNECTING
    Serving + Answered { serving: true }                = Serving:
    Serving + Answered { serving: false }               = NotServing: report TRANSIENT_FAILURE
    Serving + Unimplemented                             = Unsupported: complain, stop watch
    Serving + WatchEnded                                = Resting(0, until 101): report TRANSIENT_FAILURE
    Serving + Wake                                      = Serving:
    Serving + ResetBackoff                              = Serving:
    NotServing + Enabled                                = Unconnected: stop watch, report CONNECTING
    NotServing + Disabled                               = Off: stop watch, report READY
    NotServing + Connected                              = Checking(0): watch, report CONNECTING
    NotServing + Moved                                  = NotServing: watch
    NotServing + Lost                                   = Unconnected: stop watch, report CONNECTING
    NotServing + Answered { serving: true }             = Serving: report READY
    NotServing + Answered { serving: false }            = NotServing: report TRANSIENT_FAILURE
    NotServing + Unimplemented                          = Unsupported: complain, stop watch, report READY
    NotServing + WatchEnded                             = Resting(0, until 101): report TRANSIENT_FAILURE
    NotServing + Wake                                   = NotServing:
    NotServing + ResetBackoff                           = NotServing:
    Resting(1, until 110) + Enabled                     = Unconnected: report CONNECTING
    Resting(1, until 110) + Disabled                    = Off: report READY
    Resting(1, until 110) + Connected                   = Checking(0): watch, report CONNECTING
    Resting(1, until 110) + Moved                       = Resting(1, until 110):
    Resting(1, until 110) + Lost                        = Unconnected: report CONNECTING
    Resting(1, until 110) + Answered { serving: true }  = Resting(1, until 110):
    Resting(1, until 110) + Answered { serving: false } = Resting(1, until 110):
    Resting(1, until 110) + Unimplemented               = Resting(1, until 110):
    Resting(1, until 110) + WatchEnded                  = Resting(1, until 110):
    Resting(1, until 110) + Wake                        = Resting(1, until 110):
    Resting(1, until 110) + ResetBackoff                = Checking(0): watch, report CONNECTING
    Resting(1, until 100) + Enabled                     = Unconnected: report CONNECTING
    Resting(1, until 100) + Disabled                    = Off: report READY
    Resting(1, until 100) + Connected                   = Checking(0): watch, report CONNECTING
    Resting(1, until 100) + Moved                       = Resting(1, until 100):
    Resting(1, until 100) + Lost                        = Unconnected: report CONNECTING
    Resting(1, until 100) + Answered { serving: true }  = Resting(1, until 100):
    Resting(1, until 100) + Answered { serving: false } = Resting(1, until 100):
    Resting(1, until 100) + Unimplemented               = Resting(1, until 100):
    Resting(1, until 100) + WatchEnded                  = Resting(1, until 100):
    Resting(1, until 100) + Wake                        = Checking(2): watch, report CONNECTING
    Resting(1, until 100) + ResetBackoff                = Checking(0): watch, report CONNECTING
    Unsupported + Enabled                               = Unconnected: report CONNECTING
    Unsupported + Disabled                              = Off:
    Unsupported + Connected                             = Checking(0): watch, report CONNECTING
    Unsupported + Moved                                 = Unsupported:
    Unsupported + Lost                                  = Unconnected: report CONNECTING
    Unsupported + Answered { serving: true }            = Unsupported:
    Unsupported + Answered { serving: false }           = Unsupported:
    Unsupported + Unimplemented                         = Unsupported:
    Unsupported + WatchEnded                            = Unsupported:
    Unsupported + Wake                                  = Unsupported:
    Unsupported + ResetBackoff                          = Unsupported:
";

use super::*;
use crate::policy::testing::{assert_table, start};

fn events(rig: &Rig) -> [Event; 9] {
    [
        Event::Connect,
        Event::Dialed,
        failed(),
        Event::Lost(Growth::None),
        Event::Lost(Growth::Dialing { attempt: 1, deadline: rig.at(120) }),
        Event::Lost(Growth::Backoff { attempt: 1, until: rig.at(105), cause: cause("growth") }),
        Event::Wake,
        Event::ResetBackoff,
        Event::Retire,
    ]
}

fn failed() -> Event {
    Event::DialFailed(cause("refused"))
}

fn cause(text: &str) -> Status {
    Status::unavailable(text)
}

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
        let mut timing = Timing {
            backoff: &self.backoff,
            min_connect_timeout: Duration::from_secs(20),
            dice: &mut self.dice,
        };
        let state = state.step(self.now, event, &mut timing, &mut fx);
        (state, fx)
    }

    fn run(&mut self, state: State, events: &[Event]) -> State {
        events.iter().fold(state, |state, event| self.step(state, event.clone()).0)
    }

    fn name(&self, state: &State) -> String {
        match state {
            State::Idle { attempt } => format!("Idle({attempt})"),
            State::Connecting { attempt, deadline } => {
                format!("Connecting({attempt}, until {})", self.seconds(*deadline))
            }
            State::Ready => "Ready".to_owned(),
            State::Backoff { attempt, until, cause } => {
                format!("Backoff({attempt}, until {}, {})", self.seconds(*until), cause.message())
            }
            State::Retired => "Retired".to_owned(),
        }
    }

    fn event_name(event: &Event) -> String {
        match event {
            Event::DialFailed(_) => "DialFailed".to_owned(),
            Event::Lost(growth) => match growth {
                Growth::None => "Lost".to_owned(),
                Growth::Dialing { .. } => "Lost(dialing)".to_owned(),
                Growth::Backoff { .. } => "Lost(backoff)".to_owned(),
            },
            Event::Connect | Event::Dialed | Event::Wake | Event::ResetBackoff | Event::Retire => {
                format!("{event:?}")
            }
        }
    }

    fn text(&self, effect: Effect) -> String {
        match effect {
            Effect::Dial { deadline } => format!("dial until {}", self.seconds(deadline)),
            Effect::AbandonDial => "abandon dial".to_owned(),
            Effect::Report(state) => format!("report {state}"),
            Effect::ResolveNow => "resolve now".to_owned(),
            Effect::Drain => "drain".to_owned(),
        }
    }

    fn seconds(&self, instant: Instant) -> u64 {
        (instant - self.began).as_secs()
    }
}

#[test]
fn every_state_has_an_answer_to_every_event() {
    let mut rig = Rig::new();
    rig.now = rig.at(100);
    let states = [
        State::Idle { attempt: 2 },
        State::Connecting { attempt: 2, deadline: rig.at(130) },
        State::Ready,
        State::Backoff { attempt: 2, until: rig.at(110), cause: cause("before") },
        State::Backoff { attempt: 2, until: rig.at(100), cause: cause("before") },
        State::Retired,
    ];
    let mut table = Vec::new();
    for state in states {
        for event in events(&rig) {
            let name = Rig::event_name(&event);
            let (next, fx) = rig.step(state.clone(), event);
            let fx: Vec<_> = fx.into_iter().map(|effect| rig.text(effect)).collect();
            let (from, to) = (rig.name(&state), rig.name(&next));
            table.push(format!("{from} + {name} = {to}: {}", fx.join(", ")));
        }
    }
    assert_table(&table, TABLE);
}

#[test]
fn a_lost_connection_goes_idle_and_asks_for_resolution() {
    let mut rig = Rig::new();
    let (state, fx) = rig.step(State::Ready, Event::Lost(Growth::None));
    assert!(matches!(state, State::Idle { attempt: 0 }), "{state:?}");
    assert_eq!(fx, [Effect::ResolveNow, Effect::Report(ConnectivityState::Idle)]);
}

// spec: A105/lost-while-growing
#[test]
fn a_subchannel_that_loses_its_last_connection_goes_on_with_the_dial_that_was_under_way() {
    let mut rig = Rig::new();
    let dialing = Growth::Dialing { attempt: 0, deadline: rig.at(20) };
    let (state, fx) = rig.step(State::Ready, Event::Lost(dialing));
    // Without an order to dial: that has been done.
    assert_eq!(fx, [Effect::ResolveNow, Effect::Report(ConnectivityState::Connecting)]);
    let state = rig.run(state, &[Event::Dialed]);
    assert!(matches!(state, State::Ready), "{state:?}");

    let backoff = Growth::Backoff { attempt: 1, until: rig.at(2), cause: cause("refused") };
    let (state, fx) = rig.step(State::Ready, Event::Lost(backoff));
    assert_eq!(fx, [Effect::ResolveNow, Effect::Report(ConnectivityState::TransientFailure)]);
    assert_eq!(state.reported().error.unwrap().message(), "refused");
    assert_eq!(state.wake_at(), Some(rig.at(2)));
    rig.now = rig.at(2);
    let state = rig.run(state, &[Event::Wake, Event::Connect, failed()]);
    assert_eq!(state.wake_at(), Some(rig.at(42)), "the backoff grows on");
}

#[test]
fn the_cause_of_a_failure_survives_every_event_that_leaves_the_state_as_it_is() {
    let mut rig = Rig::new();
    let resting = rig.run(State::default(), &[Event::Connect, failed()]);
    for event in events(&rig) {
        let name = Rig::event_name(&event);
        let (state, _) = rig.step(resting.clone(), event);
        let SubchannelState { connectivity, error } = state.reported();
        let is_failing = connectivity == ConnectivityState::TransientFailure;
        assert_eq!(error.is_some(), is_failing, "{name}");
    }
}

#[test]
fn resolution_is_asked_for_before_a_failure_is_reported() {
    let mut rig = Rig::new();
    let connecting = rig.run(State::default(), &[Event::Connect]);
    let (_, fx) = rig.step(connecting, failed());
    assert_eq!(fx, [Effect::ResolveNow, Effect::Report(ConnectivityState::TransientFailure)]);
}

#[test]
fn rests_grow_with_each_failure_and_start_over_after_a_connection() {
    let mut rig = Rig::new();
    let mut state = State::default();
    let mut rests = Vec::new();
    for _ in 0..4 {
        state = rig.run(state, &[Event::Connect, failed()]);
        let until = state.wake_at().unwrap();
        rests.push((until - rig.now).as_secs());
        rig.now = until;
        state = rig.run(state, &[Event::Wake]);
    }
    assert_eq!(rests, [1, 2, 40, 40]);
    state = rig.run(state, &[Event::Connect, Event::Dialed, Event::Lost(Growth::None)]);
    state = rig.run(state, &[Event::Connect, failed()]);
    assert_eq!(state.wake_at().unwrap() - rig.now, Duration::from_secs(1));
}

#[test]
fn a_dial_has_the_longer_of_the_least_timeout_and_the_backoff() {
    let mut rig = Rig::new();
    for (attempt, seconds) in [(0, 20), (1, 20), (2, 40), (9, 40)] {
        let (_, fx) = rig.step(State::Idle { attempt }, Event::Connect);
        let deadline = rig.at(seconds);
        assert!(fx.contains(&Effect::Dial { deadline }), "{attempt}: {fx:?}");
    }
}

#[test]
fn resetting_the_backoff_ends_a_rest_at_once() {
    let mut rig = Rig::new();
    rig.backoff = Backoff::new([Duration::MAX], 0.0);
    let resting = rig.run(State::default(), &[Event::Connect, failed()]);
    let (state, fx) = rig.step(resting, Event::ResetBackoff);
    assert!(matches!(state, State::Idle { attempt: 0 }), "{state:?}");
    assert_eq!(fx, [Effect::Report(ConnectivityState::Idle)]);
}

#[test]
fn what_is_reported_is_what_the_state_says() {
    let mut rig = Rig::new();
    let mut state = State::default();
    for event in [
        Event::Connect,
        failed(),
        Event::ResetBackoff,
        Event::Connect,
        Event::Dialed,
        Event::Lost(Growth::None),
        Event::Retire,
    ] {
        let name = Rig::event_name(&event);
        let (next, fx) = rig.step(state, event);
        state = next;
        let report = Effect::Report(state.connectivity());
        assert!(fx.contains(&report), "{name}: {fx:?}");
    }
}

const TABLE: &str = "
Idle(2) + Connect = Connecting(2, until 140): report CONNECTING, dial until 140
Idle(2) + Dialed = Idle(2):
Idle(2) + DialFailed = Idle(2):
Idle(2) + Lost = Idle(2):
Idle(2) + Lost(dialing) = Idle(2):
Idle(2) + Lost(backoff) = Idle(2):
Idle(2) + Wake = Idle(2):
Idle(2) + ResetBackoff = Idle(0):
Idle(2) + Retire = Retired: report SHUTDOWN
Connecting(2, until 130) + Connect = Connecting(2, until 130):
Connecting(2, until 130) + Dialed = Ready: report READY
Connecting(2, until 130) + DialFailed = Backoff(2, until 140, refused): resolve now, report TRANSIENT_FAILURE
Connecting(2, until 130) + Lost = Connecting(2, until 130):
Connecting(2, until 130) + Lost(dialing) = Connecting(2, until 130):
Connecting(2, until 130) + Lost(backoff) = Connecting(2, until 130):
Connecting(2, until 130) + Wake = Connecting(2, until 130):
Connecting(2, until 130) + ResetBackoff = Connecting(0, until 130):
Connecting(2, until 130) + Retire = Retired: abandon dial, report SHUTDOWN
Ready + Connect = Ready:
Ready + Dialed = Ready:
Ready + DialFailed = Ready:
Ready + Lost = Idle(0): resolve now, report IDLE
Ready + Lost(dialing) = Connecting(1, until 120): resolve now, report CONNECTING
Ready + Lost(backoff) = Backoff(1, until 105, growth): resolve now, report TRANSIENT_FAILURE
Ready + Wake = Ready:
Ready + ResetBackoff = Ready:
Ready + Retire = Retired: drain, report SHUTDOWN
Backoff(2, until 110, before) + Connect = Backoff(2, until 110, before):
Backoff(2, until 110, before) + Dialed = Backoff(2, until 110, before):
Backoff(2, until 110, before) + DialFailed = Backoff(2, until 110, before):
Backoff(2, until 110, before) + Lost = Backoff(2, until 110, before):
Backoff(2, until 110, before) + Lost(dialing) = Backoff(2, until 110, before):
Backoff(2, until 110, before) + Lost(backoff) = Backoff(2, until 110, before):
Backoff(2, until 110, before) + Wake = Backoff(2, until 110, before):
Backoff(2, until 110, before) + ResetBackoff = Idle(0): report IDLE
Backoff(2, until 110, before) + Retire = Retired: report SHUTDOWN
Backoff(2, until 100, before) + Connect = Backoff(2, until 100, before):
Backoff(2, until 100, before) + Dialed = Backoff(2, until 100, before):
Backoff(2, until 100, before) + DialFailed = Backoff(2, until 100, before):
Backoff(2, until 100, before) + Lost = Backoff(2, until 100, before):
Backoff(2, until 100, before) + Lost(dialing) = Backoff(2, until 100, before):
Backoff(2, until 100, before) + Lost(backoff) = Backoff(2, until 100, before):
Backoff(2, until 100, before) + Wake = Idle(3): report IDLE
Backoff(2, until 100, before) + ResetBackoff = Idle(0): report IDLE
Backoff(2, until 100, before) + Retire = Retired: report SHUTDOWN
Retired + Connect = Retired:
Retired + Dialed = Retired:
Retired + DialFailed = Retired:
Retired + Lost = Retired:
Retired + Lost(dialing) = Retired:
Retired + Lost(backoff) = Retired:
Retired + Wake = Retired:
Retired + ResetBackoff = Retired:
Retired + Retire = Retired:
";

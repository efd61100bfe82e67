use super::{Backoff, ConnectivityState, Dice, Duration, Effect, Instant, Timing};
use crate::policy::testing::{assert_table, start};

type State = super::State<&'static str>;
type Event = super::Event<&'static str>;

const EVENTS: [Event; 7] = [
    Event::Connect,
    Event::Dialed,
    Event::DialFailed("refused"),
    Event::Lost,
    Event::Wake,
    Event::ResetBackoff,
    Event::Retire,
];

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
        events.iter().fold(state, |state, &event| self.step(state, event).0)
    }

    fn name(&self, state: State) -> String {
        match state {
            State::Idle { attempt } => format!("Idle({attempt})"),
            State::Connecting { attempt, deadline } => {
                format!("Connecting({attempt}, until {})", self.seconds(deadline))
            }
            State::Ready => "Ready".to_owned(),
            State::Backoff { attempt, until, cause } => {
                format!("Backoff({attempt}, until {}, {cause})", self.seconds(until))
            }
            State::Retired => "Retired".to_owned(),
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
        State::Backoff { attempt: 2, until: rig.at(110), cause: "timed out" },
        State::Backoff { attempt: 2, until: rig.at(100), cause: "timed out" },
        State::Retired,
    ];
    let mut table = Vec::new();
    for state in states {
        for event in EVENTS {
            let (next, fx) = rig.step(state, event);
            let fx: Vec<_> = fx.into_iter().map(|effect| rig.text(effect)).collect();
            let (from, to) = (rig.name(state), rig.name(next));
            table.push(format!("{from} + {event:?} = {to}: {}", fx.join(", ")));
        }
    }
    assert_table(&table, TABLE);
}

#[test]
fn a_lost_connection_goes_idle_and_asks_for_resolution() {
    let mut rig = Rig::new();
    let (state, fx) = rig.step(State::Ready, Event::Lost);
    assert_eq!(state, State::Idle { attempt: 0 });
    assert_eq!(fx, [Effect::ResolveNow, Effect::Report(ConnectivityState::Idle)]);
}

#[test]
fn resolution_is_asked_for_before_a_failure_is_reported() {
    let mut rig = Rig::new();
    let connecting = rig.run(State::default(), &[Event::Connect]);
    let (_, fx) = rig.step(connecting, Event::DialFailed("refused"));
    assert_eq!(fx, [Effect::ResolveNow, Effect::Report(ConnectivityState::TransientFailure)]);
}

#[test]
fn rests_grow_with_each_failure_and_start_over_after_a_connection() {
    let mut rig = Rig::new();
    let mut state = State::default();
    let mut rests = Vec::new();
    for _ in 0..4 {
        state = rig.run(state, &[Event::Connect, Event::DialFailed("refused")]);
        let until = state.wake_at().unwrap();
        rests.push((until - rig.now).as_secs());
        rig.now = until;
        state = rig.run(state, &[Event::Wake]);
    }
    assert_eq!(rests, [1, 2, 40, 40]);
    state = rig.run(state, &[Event::Connect, Event::Dialed, Event::Lost]);
    state = rig.run(state, &[Event::Connect, Event::DialFailed("refused")]);
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
    let resting = rig.run(State::default(), &[Event::Connect, Event::DialFailed("refused")]);
    let (state, fx) = rig.step(resting, Event::ResetBackoff);
    assert_eq!(state, State::Idle { attempt: 0 });
    assert_eq!(fx, [Effect::Report(ConnectivityState::Idle)]);
}

#[test]
fn what_is_reported_is_what_the_state_says() {
    let mut rig = Rig::new();
    let mut state = State::default();
    for event in [
        Event::Connect,
        Event::DialFailed("refused"),
        Event::ResetBackoff,
        Event::Connect,
        Event::Dialed,
        Event::Lost,
        Event::Retire,
    ] {
        let (next, fx) = rig.step(state, event);
        state = next;
        let report = Effect::Report(state.connectivity());
        assert!(fx.contains(&report), "{event:?}: {fx:?}");
    }
}

const TABLE: &str = r#"
Idle(2) + Connect = Connecting(2, until 140): report CONNECTING, dial until 140
Idle(2) + Dialed = Idle(2):
Idle(2) + DialFailed("refused") = Idle(2):
Idle(2) + Lost = Idle(2):
Idle(2) + Wake = Idle(2):
Idle(2) + ResetBackoff = Idle(0):
Idle(2) + Retire = Retired: report SHUTDOWN
Connecting(2, until 130) + Connect = Connecting(2, until 130):
Connecting(2, until 130) + Dialed = Ready: report READY
Connecting(2, until 130) + DialFailed("refused") = Backoff(2, until 140, refused): resolve now, report TRANSIENT_FAILURE
Connecting(2, until 130) + Lost = Connecting(2, until 130):
Connecting(2, until 130) + Wake = Connecting(2, until 130):
Connecting(2, until 130) + ResetBackoff = Connecting(0, until 130):
Connecting(2, until 130) + Retire = Retired: abandon dial, report SHUTDOWN
Ready + Connect = Ready:
Ready + Dialed = Ready:
Ready + DialFailed("refused") = Ready:
Ready + Lost = Idle(0): resolve now, report IDLE
Ready + Wake = Ready:
Ready + ResetBackoff = Ready:
Ready + Retire = Retired: drain, report SHUTDOWN
Backoff(2, until 110, timed out) + Connect = Backoff(2, until 110, timed out):
Backoff(2, until 110, timed out) + Dialed = Backoff(2, until 110, timed out):
Backoff(2, until 110, timed out) + DialFailed("refused") = Backoff(2, until 110, timed out):
Backoff(2, until 110, timed out) + Lost = Backoff(2, until 110, timed out):
Backoff(2, until 110, timed out) + Wake = Backoff(2, until 110, timed out):
Backoff(2, until 110, timed out) + ResetBackoff = Idle(0): report IDLE
Backoff(2, until 110, timed out) + Retire = Retired: report SHUTDOWN
Backoff(2, until 100, timed out) + Connect = Backoff(2, until 100, timed out):
Backoff(2, until 100, timed out) + Dialed = Backoff(2, until 100, timed out):
Backoff(2, until 100, timed out) + DialFailed("refused") = Backoff(2, until 100, timed out):
Backoff(2, until 100, timed out) + Lost = Backoff(2, until 100, timed out):
Backoff(2, until 100, timed out) + Wake = Idle(3): report IDLE
Backoff(2, until 100, timed out) + ResetBackoff = Idle(0): report IDLE
Backoff(2, until 100, timed out) + Retire = Retired: report SHUTDOWN
Retired + Connect = Retired:
Retired + Dialed = Retired:
Retired + DialFailed("refused") = Retired:
Retired + Lost = Retired:
Retired + Wake = Retired:
Retired + ResetBackoff = Retired:
Retired + Retire = Retired:
"#;

use super::*;
use crate::policy::testing::{assert_table, start};

fn events(rig: &Rig) -> [Event; 12] {
    [
        Event::Connect,
        Event::Dialed,
        failed(),
        proven(Growth::None),
        unproven(Growth::None),
        expected(Growth::None),
        unproven(Growth::Dialing { attempt: 1, deadline: rig.at(120) }),
        proven(Growth::Backoff { attempt: 1, until: rig.at(105), cause: cause("growth") }),
        Event::Wake,
        Event::ResetBackoff,
        Event::Retire,
        Event::Answered,
    ]
}

fn failed() -> Event {
    Event::DialFailed(cause("refused"))
}

/// A connection that has carried an answer is lost.
fn proven(growth: Growth) -> Event {
    Event::Lost(Loss { proof: Proof::Answered, cause: cause("gone"), growth })
}

/// One whose server may yet answer.
fn expected(growth: Growth) -> Event {
    Event::Lost(Loss { proof: Proof::Expected, cause: cause("gone"), growth })
}

/// One that has not.
fn unproven(growth: Growth) -> Event {
    Event::Lost(Loss { proof: Proof::None, cause: cause("gone"), growth })
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
            State::Idle { attempt, not_before: None } => format!("Idle({attempt})"),
            State::Idle { attempt, not_before: Some(at) } => {
                format!("Idle({attempt}, not before {})", self.seconds(*at))
            }
            State::Pausing { attempt, until } => {
                format!("Pausing({attempt}, until {})", self.seconds(*until))
            }
            State::Connecting { attempt, deadline } => {
                format!("Connecting({attempt}, until {})", self.seconds(*deadline))
            }
            State::Ready { attempt, since } => {
                format!("Ready({attempt}, since {})", self.seconds(*since))
            }
            State::Backoff { attempt, until, cause } => {
                format!("Backoff({attempt}, until {}, {})", self.seconds(*until), cause.message())
            }
            State::Retired => "Retired".to_owned(),
        }
    }

    fn event_name(event: &Event) -> String {
        match event {
            Event::DialFailed(_) => "DialFailed".to_owned(),
            Event::Lost(Loss { proof, growth, .. }) => {
                let growth = match growth {
                    Growth::None => "",
                    Growth::Dialing { .. } => ", dialing",
                    Growth::Backoff { .. } => ", backoff",
                };
                let proof = match proof {
                    Proof::None => "unproven",
                    Proof::Expected => "expected",
                    Proof::Answered => "proven",
                };
                format!("Lost({proof}{growth})")
            }
            Event::Connect
            | Event::Dialed
            | Event::Wake
            | Event::ResetBackoff
            | Event::Retire
            | Event::Answered => format!("{event:?}"),
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

fn ready(rig: &Rig) -> State {
    State::Ready { attempt: 0, since: rig.now }
}

#[test]
fn every_state_has_an_answer_to_every_event() {
    let mut rig = Rig::new();
    rig.now = rig.at(100);
    let states = [
        State::Idle { attempt: 2, not_before: None },
        State::Idle { attempt: 1, not_before: Some(rig.at(101)) },
        State::Idle { attempt: 1, not_before: Some(rig.at(100)) },
        State::Pausing { attempt: 1, until: rig.at(101) },
        State::Pausing { attempt: 1, until: rig.at(100) },
        State::Connecting { attempt: 2, deadline: rig.at(130) },
        State::Ready { attempt: 0, since: rig.at(100) },
        State::Ready { attempt: 2, since: rig.at(100) },
        // Longer than the delay that would follow.
        State::Ready { attempt: 2, since: rig.at(60) },
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
    let (state, fx) = rig.step(ready(&rig), proven(Growth::None));
    assert!(matches!(state, State::Idle { attempt: 0, not_before: None }), "{state:?}");
    assert_eq!(fx, [Effect::ResolveNow, Effect::Report(ConnectivityState::Idle)]);
}

// spec: A105/lost-while-growing
#[test]
fn a_subchannel_that_loses_its_last_connection_goes_on_with_the_dial_that_was_under_way() {
    let mut rig = Rig::new();
    let dialing = Growth::Dialing { attempt: 0, deadline: rig.at(20) };
    let (state, fx) = rig.step(ready(&rig), proven(dialing));
    // Without an order to dial: that has been done.
    assert_eq!(fx, [Effect::ResolveNow, Effect::Report(ConnectivityState::Connecting)]);
    let state = rig.run(state, &[Event::Dialed]);
    assert!(matches!(state, State::Ready { .. }), "{state:?}");

    let backoff = Growth::Backoff { attempt: 1, until: rig.at(2), cause: cause("refused") };
    let (state, fx) = rig.step(ready(&rig), proven(backoff));
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
    state = rig.run(state, &[Event::Connect, Event::Dialed, proven(Growth::None)]);
    state = rig.run(state, &[Event::Connect, failed()]);
    assert_eq!(state.wake_at().unwrap() - rig.now, Duration::from_secs(1));
}

// spec: grpc/backoff-reset
#[test]
fn a_connection_that_proves_nothing_counts_as_a_failure() {
    let mut rig = Rig::new();
    // When each dial begins, and what the loss of its connection is reported as.
    let mut seen = Vec::new();
    let mut state = State::default();
    for _ in 0..5 {
        state = rig.run(state, &[Event::Connect]);
        if let State::Pausing { until, .. } = state {
            rig.now = until;
            state = rig.run(state, &[Event::Wake]);
        }
        let dialled_at = rig.seconds(rig.now);
        state = rig.run(state, &[Event::Dialed, unproven(Growth::None)]);
        seen.push((dialled_at, state.connectivity().to_string()));
        if let State::Backoff { until, .. } = state {
            assert_eq!(state.reported().error.unwrap().message(), "gone");
            rig.now = until;
            state = rig.run(state, &[Event::Wake]);
        }
    }
    let failing = |at| (at, "TRANSIENT_FAILURE".to_owned());
    let expected = [(0, "IDLE".to_owned()), failing(1), failing(3), failing(43), failing(83)];
    assert_eq!(seen, expected);
    // A failed dial in between changes nothing about that.
    state = rig.run(state, &[Event::Connect, failed()]);
    assert_eq!(rig.name(&state), "Backoff(5, until 163, refused)");
}

// spec: grpc/backoff-reset
#[test]
fn an_answer_or_a_life_beyond_the_delay_starts_the_backoff_over() {
    let rows = [
        (0, Proof::None, 0, "Idle(1, not before 1)"),
        (0, Proof::None, 1, "Idle(0)"),
        (0, Proof::Expected, 0, "Idle(1, not before 1)"),
        (0, Proof::Answered, 0, "Idle(0)"),
        (1, Proof::None, 1, "Backoff(1, until 2, gone)"),
        (1, Proof::None, 2, "Idle(0)"),
        (1, Proof::Expected, 1, "Idle(2, not before 2)"),
        (1, Proof::Expected, 2, "Idle(0)"),
        (1, Proof::Answered, 1, "Idle(0)"),
        (9, Proof::None, 39, "Backoff(9, until 40, gone)"),
        (9, Proof::None, 40, "Idle(0)"),
        (9, Proof::Answered, 0, "Idle(0)"),
    ];
    for (attempt, proof, lived, expected) in rows {
        let mut rig = Rig::new();
        let ready = State::Ready { attempt, since: rig.now };
        rig.now = rig.at(lived);
        let loss = Loss { proof, cause: cause("gone"), growth: Growth::None };
        let (state, _) = rig.step(ready, Event::Lost(loss));
        assert_eq!(rig.name(&state), expected, "{attempt} {proof:?} {lived}");
    }
}

// spec: grpc/backoff-reset
#[test]
fn an_answer_that_comes_after_the_goodbye_ends_the_pause_before_the_next_dial() {
    let mut rig = Rig::new();
    let ready = State::Ready { attempt: 3, since: rig.now };
    let (state, fx) = rig.step(ready, expected(Growth::None));
    assert_eq!(fx, [Effect::ResolveNow, Effect::Report(ConnectivityState::Idle)]);
    let paused = rig.run(state.clone(), &[Event::Connect]);
    assert_eq!(rig.name(&paused), "Pausing(4, until 40)");
    let (state, fx) = rig.step(paused, Event::Answered);
    assert_eq!(
        (rig.name(&state), fx),
        ("Connecting(0, until 20)".to_owned(), vec![Effect::Dial { deadline: rig.at(20) }])
    );
    // Whatever comes of that dial, earlier failures are forgotten.
    let state = rig.run(state, &[failed()]);
    assert_eq!(rig.name(&state), "Backoff(0, until 1, refused)");
}

#[test]
fn a_dial_has_the_longer_of_the_least_timeout_and_the_backoff() {
    let mut rig = Rig::new();
    for (attempt, seconds) in [(0, 20), (1, 20), (2, 40), (9, 40)] {
        let (_, fx) = rig.step(State::Idle { attempt, not_before: None }, Event::Connect);
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
    assert!(matches!(state, State::Idle { attempt: 0, not_before: None }), "{state:?}");
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
        proven(Growth::None),
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
Idle(2) + Lost(proven) = Idle(2):
Idle(2) + Lost(unproven) = Idle(2):
Idle(2) + Lost(expected) = Idle(2):
Idle(2) + Lost(unproven, dialing) = Idle(2):
Idle(2) + Lost(proven, backoff) = Idle(2):
Idle(2) + Wake = Idle(2):
Idle(2) + ResetBackoff = Idle(0):
Idle(2) + Retire = Retired: report SHUTDOWN
Idle(2) + Answered = Idle(0):
Idle(1, not before 101) + Connect = Pausing(1, until 101): report CONNECTING
Idle(1, not before 101) + Dialed = Idle(1, not before 101):
Idle(1, not before 101) + DialFailed = Idle(1, not before 101):
Idle(1, not before 101) + Lost(proven) = Idle(1, not before 101):
Idle(1, not before 101) + Lost(unproven) = Idle(1, not before 101):
Idle(1, not before 101) + Lost(expected) = Idle(1, not before 101):
Idle(1, not before 101) + Lost(unproven, dialing) = Idle(1, not before 101):
Idle(1, not before 101) + Lost(proven, backoff) = Idle(1, not before 101):
Idle(1, not before 101) + Wake = Idle(1, not before 101):
Idle(1, not before 101) + ResetBackoff = Idle(0):
Idle(1, not before 101) + Retire = Retired: report SHUTDOWN
Idle(1, not before 101) + Answered = Idle(0):
Idle(1, not before 100) + Connect = Connecting(1, until 120): report CONNECTING, dial until 120
Idle(1, not before 100) + Dialed = Idle(1, not before 100):
Idle(1, not before 100) + DialFailed = Idle(1, not before 100):
Idle(1, not before 100) + Lost(proven) = Idle(1, not before 100):
Idle(1, not before 100) + Lost(unproven) = Idle(1, not before 100):
Idle(1, not before 100) + Lost(expected) = Idle(1, not before 100):
Idle(1, not before 100) + Lost(unproven, dialing) = Idle(1, not before 100):
Idle(1, not before 100) + Lost(proven, backoff) = Idle(1, not before 100):
Idle(1, not before 100) + Wake = Idle(1, not before 100):
Idle(1, not before 100) + ResetBackoff = Idle(0):
Idle(1, not before 100) + Retire = Retired: report SHUTDOWN
Idle(1, not before 100) + Answered = Idle(0):
Pausing(1, until 101) + Connect = Pausing(1, until 101):
Pausing(1, until 101) + Dialed = Pausing(1, until 101):
Pausing(1, until 101) + DialFailed = Pausing(1, until 101):
Pausing(1, until 101) + Lost(proven) = Pausing(1, until 101):
Pausing(1, until 101) + Lost(unproven) = Pausing(1, until 101):
Pausing(1, until 101) + Lost(expected) = Pausing(1, until 101):
Pausing(1, until 101) + Lost(unproven, dialing) = Pausing(1, until 101):
Pausing(1, until 101) + Lost(proven, backoff) = Pausing(1, until 101):
Pausing(1, until 101) + Wake = Pausing(1, until 101):
Pausing(1, until 101) + ResetBackoff = Connecting(0, until 120): dial until 120
Pausing(1, until 101) + Retire = Retired: report SHUTDOWN
Pausing(1, until 101) + Answered = Connecting(0, until 120): dial until 120
Pausing(1, until 100) + Connect = Pausing(1, until 100):
Pausing(1, until 100) + Dialed = Pausing(1, until 100):
Pausing(1, until 100) + DialFailed = Pausing(1, until 100):
Pausing(1, until 100) + Lost(proven) = Pausing(1, until 100):
Pausing(1, until 100) + Lost(unproven) = Pausing(1, until 100):
Pausing(1, until 100) + Lost(expected) = Pausing(1, until 100):
Pausing(1, until 100) + Lost(unproven, dialing) = Pausing(1, until 100):
Pausing(1, until 100) + Lost(proven, backoff) = Pausing(1, until 100):
Pausing(1, until 100) + Wake = Connecting(1, until 120): dial until 120
Pausing(1, until 100) + ResetBackoff = Connecting(0, until 120): dial until 120
Pausing(1, until 100) + Retire = Retired: report SHUTDOWN
Pausing(1, until 100) + Answered = Connecting(0, until 120): dial until 120
Connecting(2, until 130) + Connect = Connecting(2, until 130):
Connecting(2, until 130) + Dialed = Ready(2, since 100): report READY
Connecting(2, until 130) + DialFailed = Backoff(2, until 140, refused): resolve now, report TRANSIENT_FAILURE
Connecting(2, until 130) + Lost(proven) = Connecting(2, until 130):
Connecting(2, until 130) + Lost(unproven) = Connecting(2, until 130):
Connecting(2, until 130) + Lost(expected) = Connecting(2, until 130):
Connecting(2, until 130) + Lost(unproven, dialing) = Connecting(2, until 130):
Connecting(2, until 130) + Lost(proven, backoff) = Connecting(2, until 130):
Connecting(2, until 130) + Wake = Connecting(2, until 130):
Connecting(2, until 130) + ResetBackoff = Connecting(0, until 130):
Connecting(2, until 130) + Retire = Retired: abandon dial, report SHUTDOWN
Connecting(2, until 130) + Answered = Connecting(0, until 130):
Ready(0, since 100) + Connect = Ready(0, since 100):
Ready(0, since 100) + Dialed = Ready(0, since 100):
Ready(0, since 100) + DialFailed = Ready(0, since 100):
Ready(0, since 100) + Lost(proven) = Idle(0): resolve now, report IDLE
Ready(0, since 100) + Lost(unproven) = Idle(1, not before 101): resolve now, report IDLE
Ready(0, since 100) + Lost(expected) = Idle(1, not before 101): resolve now, report IDLE
Ready(0, since 100) + Lost(unproven, dialing) = Connecting(1, until 120): resolve now, report CONNECTING
Ready(0, since 100) + Lost(proven, backoff) = Backoff(1, until 105, growth): resolve now, report TRANSIENT_FAILURE
Ready(0, since 100) + Wake = Ready(0, since 100):
Ready(0, since 100) + ResetBackoff = Ready(0, since 100):
Ready(0, since 100) + Retire = Retired: drain, report SHUTDOWN
Ready(0, since 100) + Answered = Ready(0, since 100):
Ready(2, since 100) + Connect = Ready(2, since 100):
Ready(2, since 100) + Dialed = Ready(2, since 100):
Ready(2, since 100) + DialFailed = Ready(2, since 100):
Ready(2, since 100) + Lost(proven) = Idle(0): resolve now, report IDLE
Ready(2, since 100) + Lost(unproven) = Backoff(2, until 140, gone): resolve now, report TRANSIENT_FAILURE
Ready(2, since 100) + Lost(expected) = Idle(3, not before 140): resolve now, report IDLE
Ready(2, since 100) + Lost(unproven, dialing) = Connecting(3, until 120): resolve now, report CONNECTING
Ready(2, since 100) + Lost(proven, backoff) = Backoff(1, until 105, growth): resolve now, report TRANSIENT_FAILURE
Ready(2, since 100) + Wake = Ready(2, since 100):
Ready(2, since 100) + ResetBackoff = Ready(0, since 100):
Ready(2, since 100) + Retire = Retired: drain, report SHUTDOWN
Ready(2, since 100) + Answered = Ready(0, since 100):
Ready(2, since 60) + Connect = Ready(2, since 60):
Ready(2, since 60) + Dialed = Ready(2, since 60):
Ready(2, since 60) + DialFailed = Ready(2, since 60):
Ready(2, since 60) + Lost(proven) = Idle(0): resolve now, report IDLE
Ready(2, since 60) + Lost(unproven) = Idle(0): resolve now, report IDLE
Ready(2, since 60) + Lost(expected) = Idle(0): resolve now, report IDLE
Ready(2, since 60) + Lost(unproven, dialing) = Connecting(1, until 120): resolve now, report CONNECTING
Ready(2, since 60) + Lost(proven, backoff) = Backoff(1, until 105, growth): resolve now, report TRANSIENT_FAILURE
Ready(2, since 60) + Wake = Ready(2, since 60):
Ready(2, since 60) + ResetBackoff = Ready(0, since 60):
Ready(2, since 60) + Retire = Retired: drain, report SHUTDOWN
Ready(2, since 60) + Answered = Ready(0, since 60):
Backoff(2, until 110, before) + Connect = Backoff(2, until 110, before):
Backoff(2, until 110, before) + Dialed = Backoff(2, until 110, before):
Backoff(2, until 110, before) + DialFailed = Backoff(2, until 110, before):
Backoff(2, until 110, before) + Lost(proven) = Backoff(2, until 110, before):
Backoff(2, until 110, before) + Lost(unproven) = Backoff(2, until 110, before):
Backoff(2, until 110, before) + Lost(expected) = Backoff(2, until 110, before):
Backoff(2, until 110, before) + Lost(unproven, dialing) = Backoff(2, until 110, before):
Backoff(2, until 110, before) + Lost(proven, backoff) = Backoff(2, until 110, before):
Backoff(2, until 110, before) + Wake = Backoff(2, until 110, before):
Backoff(2, until 110, before) + ResetBackoff = Idle(0): report IDLE
Backoff(2, until 110, before) + Retire = Retired: report SHUTDOWN
Backoff(2, until 110, before) + Answered = Backoff(2, until 110, before):
Backoff(2, until 100, before) + Connect = Backoff(2, until 100, before):
Backoff(2, until 100, before) + Dialed = Backoff(2, until 100, before):
Backoff(2, until 100, before) + DialFailed = Backoff(2, until 100, before):
Backoff(2, until 100, before) + Lost(proven) = Backoff(2, until 100, before):
Backoff(2, until 100, before) + Lost(unproven) = Backoff(2, until 100, before):
Backoff(2, until 100, before) + Lost(expected) = Backoff(2, until 100, before):
Backoff(2, until 100, before) + Lost(unproven, dialing) = Backoff(2, until 100, before):
Backoff(2, until 100, before) + Lost(proven, backoff) = Backoff(2, until 100, before):
Backoff(2, until 100, before) + Wake = Idle(3): report IDLE
Backoff(2, until 100, before) + ResetBackoff = Idle(0): report IDLE
Backoff(2, until 100, before) + Retire = Retired: report SHUTDOWN
Backoff(2, until 100, before) + Answered = Backoff(2, until 100, before):
Retired + Connect = Retired:
Retired + Dialed = Retired:
Retired + DialFailed = Retired:
Retired + Lost(proven) = Retired:
Retired + Lost(unproven) = Retired:
Retired + Lost(expected) = Retired:
Retired + Lost(unproven, dialing) = Retired:
Retired + Lost(proven, backoff) = Retired:
Retired + Wake = Retired:
Retired + ResetBackoff = Retired:
Retired + Retire = Retired:
Retired + Answered = Retired:
";

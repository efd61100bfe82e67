use super::*;
use crate::policy::testing::{assert_table, start};

const EVENTS: [Event; 10] = [
    Event::Start,
    Event::Resolved,
    Event::Failed,
    Event::Accepted,
    Event::Rejected,
    Event::ResolveNow,
    Event::Changed,
    Event::Wake,
    Event::ResetBackoff,
    Event::Stop,
];

const FLOOR: Duration = Duration::from_secs(30);

/// A machine with its times, which are written as seconds since it began.
struct Rig {
    began: Instant,
    now: Instant,
    refresh: Refresh,
    expiry: Option<Duration>,
    dice: Dice,
}

impl Rig {
    fn new(refresh: Refresh) -> Self {
        let began = start();
        Self { began, now: began, refresh, expiry: None, dice: Dice::new(1) }
    }

    fn at(&self, seconds: u64) -> Instant {
        self.began + Duration::from_secs(seconds)
    }

    fn step(&mut self, state: State, event: Event) -> (State, Vec<Effect>) {
        let mut fx = Vec::new();
        let mut pace = Pace {
            backoff: &Backoff::new([1, 2, 4, 8].map(Duration::from_secs), 0.0),
            lookup_timeout: Duration::from_secs(20),
            refresh: self.refresh,
            expiry: self.expiry,
            dice: &mut self.dice,
        };
        let state = state.step(self.now, event, &mut pace, &mut fx);
        (state, fx)
    }

    fn run(&mut self, state: State, events: &[Event]) -> (State, Vec<Effect>) {
        let mut all = Vec::new();
        let mut state = state;
        for &event in events {
            let (next, fx) = self.step(state, event);
            state = next;
            all.extend(fx);
        }
        (state, all)
    }

    fn name(&self, state: State) -> String {
        match state {
            State::Idle => "Idle".to_owned(),
            State::Looking(lookup) => {
                let then = match lookup.then {
                    Then::Rest => "rest",
                    Then::Refresh { .. } => "refresh",
                    Then::Repeat => "repeat",
                };
                let deadline = self.seconds(lookup.deadline);
                format!("Looking({}, until {deadline}, then {then})", lookup.attempt)
            }
            State::Settled(settled) => {
                let due = settled.due.map(|due| self.seconds(due));
                let looked_at = self.seconds(settled.looked_at);
                format!("Settled({}, at {looked_at}, due {due:?})", settled.attempt)
            }
            State::Backoff { attempt, until } => {
                format!("Backoff({attempt}, until {})", self.seconds(until))
            }
        }
    }

    fn seconds(&self, instant: Instant) -> u64 {
        (instant - self.began).as_secs()
    }
}

#[test]
fn every_state_has_an_answer_to_every_event() {
    let mut rig = Rig::new(Refresh::AtMostEvery(FLOOR));
    rig.now = rig.at(100);
    let looking = |deadline, then| State::Looking(Lookup { attempt: 1, deadline, then });
    let settled = |looked_at, due| State::Settled(Settled { attempt: 1, looked_at, due });
    let states = [
        State::Idle,
        looking(rig.at(110), Then::Rest),
        looking(rig.at(110), Then::Refresh { floor: FLOOR }),
        looking(rig.at(110), Then::Repeat),
        looking(rig.at(100), Then::Rest),
        looking(rig.at(100), Then::Repeat),
        settled(rig.at(90), None),
        settled(rig.at(90), Some(rig.at(120))),
        settled(rig.at(70), None),
        settled(rig.at(70), Some(rig.at(100))),
        State::Backoff { attempt: 1, until: rig.at(110) },
        State::Backoff { attempt: 1, until: rig.at(100) },
    ];
    let mut table = Vec::new();
    for state in states {
        for event in EVENTS {
            let (next, fx) = rig.step(state, event);
            let (from, to) = (rig.name(state), rig.name(next));
            table.push(format!("{from} + {event:?} = {to}: {fx:?}"));
        }
    }
    assert_table(&table, TABLE);
}

#[test]
fn a_hundred_requests_make_one_lookup_when_the_floor_has_passed() {
    let mut rig = Rig::new(Refresh::AtMostEvery(FLOOR));
    let events = [Event::Start, Event::Resolved, Event::Accepted];
    let (mut state, _) = rig.run(State::Idle, &events);
    rig.now = rig.at(1);
    for _ in 0..100 {
        let (next, fx) = rig.step(state, Event::ResolveNow);
        assert_eq!(fx, []);
        state = next;
    }
    assert_eq!(state.wake_at(), Some(rig.at(30)));
    rig.now = rig.at(30);
    let (state, fx) = rig.step(state, Event::Wake);
    assert_eq!(fx, [Effect::Look]);
    let (state, _) = rig.run(state, &[Event::Resolved, Event::Accepted]);
    assert_eq!(state.wake_at(), None);
}

#[test]
fn a_request_after_the_floor_is_honoured_at_once() {
    let mut rig = Rig::new(Refresh::AtMostEvery(FLOOR));
    let events = [Event::Start, Event::Resolved, Event::Accepted];
    let (state, _) = rig.run(State::Idle, &events);
    rig.now = rig.at(31);
    assert_eq!(rig.step(state, Event::ResolveNow).1, [Effect::Look]);
}

#[test]
fn a_result_that_is_out_of_date_is_looked_up_again_within_a_tenth_of_its_life() {
    let mut dues = Vec::new();
    for seed in 0..100 {
        let mut rig = Rig::new(Refresh::AtMostEvery(FLOOR));
        rig.dice = Dice::new(seed);
        rig.expiry = Some(Duration::from_secs(100));
        let events = [Event::Start, Event::Resolved, Event::Accepted];
        let (state, _) = rig.run(State::Idle, &events);
        let due = state.wake_at().unwrap();
        assert!((rig.at(100)..=rig.at(110)).contains(&due));
        dues.push(due);
        rig.now = due;
        let (state, fx) = rig.step(state, Event::Wake);
        assert_eq!(fx, [Effect::Look]);
        // A failure backs off, and then the same begins anew.
        let (state, _) = rig.run(state, &[Event::Failed]);
        rig.now = state.wake_at().unwrap();
        assert!(rig.now < due + Duration::from_secs(5));
        let (state, fx) = rig.run(state, &[Event::Wake, Event::Resolved, Event::Accepted]);
        assert_eq!(fx, [Effect::Look]);
        assert!(state.wake_at().unwrap() >= rig.now + Duration::from_secs(100));
        // Nobody asks for a channel that is idle.
        assert_eq!(rig.step(state, Event::Stop).0.wake_at(), None);
    }
    dues.sort();
    dues.dedup();
    assert!(dues.len() > 50, "clients that began together ask together");
}

#[test]
fn whoever_asks_for_a_lookup_hastens_the_next_and_puts_none_off() {
    let mut rig = Rig::new(Refresh::AtMostEvery(FLOOR));
    let events = [Event::Start, Event::Resolved, Event::Accepted, Event::ResolveNow];
    for (expiry, due) in [(100, 30), (10, 11), (30, 30)] {
        rig.expiry = Some(Duration::from_secs(expiry));
        let (state, _) = rig.run(State::Idle, &events);
        assert!(state.wake_at().unwrap() <= rig.at(due), "{expiry}");
        // During the lookup too.
        let events = [Event::Start, Event::ResolveNow, Event::Resolved];
        let (state, _) = rig.run(State::Idle, &events);
        assert!(state.wake_at().unwrap() <= rig.at(due), "{expiry}");
    }
    rig.expiry = Some(Duration::MAX);
    let (state, _) = rig.run(State::Idle, &[Event::Start, Event::Resolved]);
    assert!(state.wake_at().unwrap() > rig.at(1_000_000));
}

#[test]
fn a_list_that_never_changes_is_never_looked_up_again() {
    let mut rig = Rig::new(Refresh::Never);
    let events =
        [Event::Start, Event::ResolveNow, Event::Resolved, Event::Accepted, Event::ResolveNow];
    let (state, fx) = rig.run(State::Idle, &events);
    assert_eq!(fx, [Effect::Look]);
    assert_eq!(state.wake_at(), None);
}

#[test]
fn refused_results_back_off_from_index_one_until_one_is_accepted() {
    let mut rig = Rig::new(Refresh::AtMostEvery(FLOOR));
    let (mut state, _) = rig.step(State::Idle, Event::Start);
    let mut rests = Vec::new();
    for _ in 0..4 {
        let events = [Event::Resolved, Event::Rejected, Event::ResolveNow];
        state = rig.run(state, &events).0;
        let until = state.wake_at().unwrap();
        rests.push((until - rig.now).as_secs());
        rig.now = until;
        let (next, fx) = rig.step(state, Event::Wake);
        assert_eq!(fx, [Effect::Look]);
        state = next;
    }
    assert_eq!(rests, [2, 4, 8, 8]);
    let events = [Event::Resolved, Event::Accepted, Event::Changed, Event::Failed];
    state = rig.run(state, &events).0;
    assert_eq!(state.wake_at().unwrap() - rig.now, Duration::from_secs(2));
}

#[test]
fn news_during_a_lookup_are_looked_up_right_after_it() {
    let mut rig = Rig::new(Refresh::Never);
    for outcome in [Event::Resolved, Event::Failed] {
        let events = [Event::Start, Event::Changed, outcome];
        let (state, fx) = rig.run(State::Idle, &events);
        assert_eq!(fx, [Effect::Look, Effect::Look], "{outcome:?}");
        assert!(matches!(state, State::Looking(_)), "{outcome:?}");
    }
}

#[test]
fn a_lookup_that_takes_too_long_has_failed() {
    let mut rig = Rig::new(Refresh::Never);
    let (state, _) = rig.step(State::Idle, Event::Start);
    assert_eq!(state.wake_at(), Some(rig.at(20)));
    rig.now = rig.at(20);
    let (state, fx) = rig.step(state, Event::Wake);
    assert_eq!(fx, [Effect::Abandon, Effect::TimedOut]);
    assert_eq!(state.wake_at(), Some(rig.at(22)));
}

const TABLE: &str = "
Idle + Start = Looking(0, until 120, then rest): [Look]
Idle + Resolved = Idle: []
Idle + Failed = Idle: []
Idle + Accepted = Idle: []
Idle + Rejected = Idle: []
Idle + ResolveNow = Idle: []
Idle + Changed = Idle: []
Idle + Wake = Idle: []
Idle + ResetBackoff = Idle: []
Idle + Stop = Idle: []
Looking(1, until 110, then rest) + Start = Looking(1, until 110, then rest): []
Looking(1, until 110, then rest) + Resolved = Settled(1, at 100, due None): []
Looking(1, until 110, then rest) + Failed = Backoff(2, until 104): []
Looking(1, until 110, then rest) + Accepted = Looking(0, until 110, then rest): []
Looking(1, until 110, then rest) + Rejected = Looking(1, until 110, then rest): []
Looking(1, until 110, then rest) + ResolveNow = Looking(1, until 110, then refresh): []
Looking(1, until 110, then rest) + Changed = Looking(1, until 110, then repeat): []
Looking(1, until 110, then rest) + Wake = Looking(1, until 110, then rest): []
Looking(1, until 110, then rest) + ResetBackoff = Looking(0, until 110, then rest): []
Looking(1, until 110, then rest) + Stop = Idle: [Abandon]
Looking(1, until 110, then refresh) + Start = Looking(1, until 110, then refresh): []
Looking(1, until 110, then refresh) + Resolved = Settled(1, at 100, due Some(130)): []
Looking(1, until 110, then refresh) + Failed = Backoff(2, until 104): []
Looking(1, until 110, then refresh) + Accepted = Looking(0, until 110, then refresh): []
Looking(1, until 110, then refresh) + Rejected = Looking(1, until 110, then refresh): []
Looking(1, until 110, then refresh) + ResolveNow = Looking(1, until 110, then refresh): []
Looking(1, until 110, then refresh) + Changed = Looking(1, until 110, then repeat): []
Looking(1, until 110, then refresh) + Wake = Looking(1, until 110, then refresh): []
Looking(1, until 110, then refresh) + ResetBackoff = Looking(0, until 110, then refresh): []
Looking(1, until 110, then refresh) + Stop = Idle: [Abandon]
Looking(1, until 110, then repeat) + Start = Looking(1, until 110, then repeat): []
Looking(1, until 110, then repeat) + Resolved = Looking(1, until 120, then rest): [Look]
Looking(1, until 110, then repeat) + Failed = Looking(2, until 120, then rest): [Look]
Looking(1, until 110, then repeat) + Accepted = Looking(0, until 110, then repeat): []
Looking(1, until 110, then repeat) + Rejected = Looking(1, until 110, then repeat): []
Looking(1, until 110, then repeat) + ResolveNow = Looking(1, until 110, then repeat): []
Looking(1, until 110, then repeat) + Changed = Looking(1, until 110, then repeat): []
Looking(1, until 110, then repeat) + Wake = Looking(1, until 110, then repeat): []
Looking(1, until 110, then repeat) + ResetBackoff = Looking(0, until 110, then repeat): []
Looking(1, until 110, then repeat) + Stop = Idle: [Abandon]
Looking(1, until 100, then rest) + Start = Looking(1, until 100, then rest): []
Looking(1, until 100, then rest) + Resolved = Settled(1, at 100, due None): []
Looking(1, until 100, then rest) + Failed = Backoff(2, until 104): []
Looking(1, until 100, then rest) + Accepted = Looking(0, until 100, then rest): []
Looking(1, until 100, then rest) + Rejected = Looking(1, until 100, then rest): []
Looking(1, until 100, then rest) + ResolveNow = Looking(1, until 100, then refresh): []
Looking(1, until 100, then rest) + Changed = Looking(1, until 100, then repeat): []
Looking(1, until 100, then rest) + Wake = Backoff(2, until 104): [Abandon, TimedOut]
Looking(1, until 100, then rest) + ResetBackoff = Looking(0, until 100, then rest): []
Looking(1, until 100, then rest) + Stop = Idle: [Abandon]
Looking(1, until 100, then repeat) + Start = Looking(1, until 100, then repeat): []
Looking(1, until 100, then repeat) + Resolved = Looking(1, until 120, then rest): [Look]
Looking(1, until 100, then repeat) + Failed = Looking(2, until 120, then rest): [Look]
Looking(1, until 100, then repeat) + Accepted = Looking(0, until 100, then repeat): []
Looking(1, until 100, then repeat) + Rejected = Looking(1, until 100, then repeat): []
Looking(1, until 100, then repeat) + ResolveNow = Looking(1, until 100, then repeat): []
Looking(1, until 100, then repeat) + Changed = Looking(1, until 100, then repeat): []
Looking(1, until 100, then repeat) + Wake = Looking(2, until 120, then rest): [Abandon, TimedOut, Look]
Looking(1, until 100, then repeat) + ResetBackoff = Looking(0, until 100, then repeat): []
Looking(1, until 100, then repeat) + Stop = Idle: [Abandon]
Settled(1, at 90, due None) + Start = Settled(1, at 90, due None): []
Settled(1, at 90, due None) + Resolved = Settled(1, at 90, due None): []
Settled(1, at 90, due None) + Failed = Backoff(2, until 104): []
Settled(1, at 90, due None) + Accepted = Settled(0, at 90, due None): []
Settled(1, at 90, due None) + Rejected = Backoff(2, until 104): []
Settled(1, at 90, due None) + ResolveNow = Settled(1, at 90, due Some(120)): []
Settled(1, at 90, due None) + Changed = Looking(1, until 120, then rest): [Look]
Settled(1, at 90, due None) + Wake = Settled(1, at 90, due None): []
Settled(1, at 90, due None) + ResetBackoff = Settled(0, at 90, due None): []
Settled(1, at 90, due None) + Stop = Idle: [Abandon]
Settled(1, at 90, due Some(120)) + Start = Settled(1, at 90, due Some(120)): []
Settled(1, at 90, due Some(120)) + Resolved = Settled(1, at 90, due Some(120)): []
Settled(1, at 90, due Some(120)) + Failed = Backoff(2, until 104): []
Settled(1, at 90, due Some(120)) + Accepted = Settled(0, at 90, due Some(120)): []
Settled(1, at 90, due Some(120)) + Rejected = Backoff(2, until 104): []
Settled(1, at 90, due Some(120)) + ResolveNow = Settled(1, at 90, due Some(120)): []
Settled(1, at 90, due Some(120)) + Changed = Looking(1, until 120, then rest): [Look]
Settled(1, at 90, due Some(120)) + Wake = Settled(1, at 90, due Some(120)): []
Settled(1, at 90, due Some(120)) + ResetBackoff = Settled(0, at 90, due Some(120)): []
Settled(1, at 90, due Some(120)) + Stop = Idle: [Abandon]
Settled(1, at 70, due None) + Start = Settled(1, at 70, due None): []
Settled(1, at 70, due None) + Resolved = Settled(1, at 70, due None): []
Settled(1, at 70, due None) + Failed = Backoff(2, until 104): []
Settled(1, at 70, due None) + Accepted = Settled(0, at 70, due None): []
Settled(1, at 70, due None) + Rejected = Backoff(2, until 104): []
Settled(1, at 70, due None) + ResolveNow = Looking(1, until 120, then rest): [Look]
Settled(1, at 70, due None) + Changed = Looking(1, until 120, then rest): [Look]
Settled(1, at 70, due None) + Wake = Settled(1, at 70, due None): []
Settled(1, at 70, due None) + ResetBackoff = Settled(0, at 70, due None): []
Settled(1, at 70, due None) + Stop = Idle: [Abandon]
Settled(1, at 70, due Some(100)) + Start = Settled(1, at 70, due Some(100)): []
Settled(1, at 70, due Some(100)) + Resolved = Settled(1, at 70, due Some(100)): []
Settled(1, at 70, due Some(100)) + Failed = Backoff(2, until 104): []
Settled(1, at 70, due Some(100)) + Accepted = Settled(0, at 70, due Some(100)): []
Settled(1, at 70, due Some(100)) + Rejected = Backoff(2, until 104): []
Settled(1, at 70, due Some(100)) + ResolveNow = Looking(1, until 120, then rest): [Look]
Settled(1, at 70, due Some(100)) + Changed = Looking(1, until 120, then rest): [Look]
Settled(1, at 70, due Some(100)) + Wake = Looking(1, until 120, then rest): [Look]
Settled(1, at 70, due Some(100)) + ResetBackoff = Settled(0, at 70, due Some(100)): []
Settled(1, at 70, due Some(100)) + Stop = Idle: [Abandon]
Backoff(1, until 110) + Start = Backoff(1, until 110): []
Backoff(1, until 110) + Resolved = Backoff(1, until 110): []
Backoff(1, until 110) + Failed = Backoff(1, until 110): []
Backoff(1, until 110) + Accepted = Backoff(1, until 110): []
Backoff(1, until 110) + Rejected = Backoff(1, until 110): []
Backoff(1, until 110) + ResolveNow = Backoff(1, until 110): []
Backoff(1, until 110) + Changed = Looking(1, until 120, then rest): [Look]
Backoff(1, until 110) + Wake = Backoff(1, until 110): []
Backoff(1, until 110) + ResetBackoff = Looking(0, until 120, then rest): [Look]
Backoff(1, until 110) + Stop = Idle: [Abandon]
Backoff(1, until 100) + Start = Backoff(1, until 100): []
Backoff(1, until 100) + Resolved = Backoff(1, until 100): []
Backoff(1, until 100) + Failed = Backoff(1, until 100): []
Backoff(1, until 100) + Accepted = Backoff(1, until 100): []
Backoff(1, until 100) + Rejected = Backoff(1, until 100): []
Backoff(1, until 100) + ResolveNow = Backoff(1, until 100): []
Backoff(1, until 100) + Changed = Looking(1, until 120, then rest): [Look]
Backoff(1, until 100) + Wake = Looking(1, until 120, then rest): [Look]
Backoff(1, until 100) + ResetBackoff = Looking(0, until 120, then rest): [Look]
Backoff(1, until 100) + Stop = Idle: [Abandon]
";

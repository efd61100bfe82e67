use std::time::Duration;

use super::*;
use crate::policy::backoff::Backoff;
use crate::policy::testing::{assert_table, start};
use crate::types::Dice;

const ALONE: View = View { open: 0, waiting: 3 };
const CALM: View = View { open: 2, waiting: 0 };
const CROWDED: View = View { open: 2, waiting: 3 };
const GOAL: Goal = Goal { warm: 1, max: 3 };

fn step(now: Instant, state: State, event: Event, view: View, goal: Goal) -> (State, Option<Dial>) {
    let mut timing = Timing {
        backoff: &Backoff::new([1, 2, 4].map(Duration::from_secs), 0.0),
        min_connect_timeout: Duration::from_secs(20),
        dice: &mut Dice::new(1),
    };
    state.step(now, event, view, goal, &mut timing)
}

fn name(began: Instant, state: &State) -> String {
    let seconds = |at: &Instant| (*at - began).as_secs();
    match state {
        State::Steady => "Steady".to_owned(),
        State::Dialing { attempt, deadline } => {
            format!("Dialing({attempt}, until {})", seconds(deadline))
        }
        State::Backoff { attempt, until, .. } => {
            format!("Backoff({attempt}, until {})", seconds(until))
        }
    }
}

fn failed() -> Event {
    Event::Failed(Status::unavailable("refused"))
}

#[test]
fn every_state_has_an_answer_to_every_event() {
    let began = start();
    let now = began + Duration::from_secs(100);
    let cause = Status::unavailable("refused");
    let dialing = State::Dialing { attempt: 1, deadline: now + Duration::from_secs(9) };
    let due = State::Backoff { attempt: 1, until: now, cause: cause.clone() };
    let not_due = State::Backoff { attempt: 1, until: now + Duration::from_secs(5), cause };
    let mut table = Vec::new();
    for state in [State::Steady, dialing, due, not_due] {
        let events = [
            ("Looked", Event::Looked),
            ("Dialed", Event::Dialed),
            ("Failed", failed()),
            ("Wake", Event::Wake),
            ("ResetBackoff", Event::ResetBackoff),
        ];
        for (event_name, event) in events {
            for (view, view_name) in [(ALONE, "alone"), (CALM, "calm"), (CROWDED, "crowded")] {
                let (next, dial) = step(now, state.clone(), event.clone(), view, GOAL);
                let dial =
                    dial.map(|dial| format!("dial until {}", (dial.deadline - began).as_secs()));
                let (from, to) = (name(began, &state), name(began, &next));
                let dial = dial.unwrap_or_default();
                table.push(format!("{from} + {event_name}, {view_name} = {to}: {dial}"));
            }
        }
    }
    assert_table(&table, TABLE);
}

// spec: A105/growth
#[test]
fn connections_are_added_one_by_one_while_calls_wait_up_to_the_limit() {
    let now = start();
    let mut state = State::Steady;
    let mut open = 1;
    for _ in 0..10 {
        let view = View { open, waiting: 500 };
        let (next, dial) = step(now, state, Event::Looked, view, GOAL);
        // Many look at once, one dial is under way.
        let (again, none) = step(now, next.clone(), Event::Looked, view, GOAL);
        assert_eq!((name(now, &again), none), (name(now, &next), None));
        state = next;
        if dial.is_some() {
            open += 1;
            let view = View { open, waiting: 0 };
            (state, _) = step(now, state, Event::Dialed, view, GOAL);
        }
    }
    assert_eq!(open, 3);
}

// spec: A105/lost-while-growing
#[test]
fn what_is_under_way_when_the_last_connection_is_lost_is_handed_over() {
    let now = start();
    let mut state = State::Steady;
    assert!(matches!(state.hand_over(), Growth::None));
    let (mut state, dial) = step(now, state, Event::Looked, CROWDED, GOAL);
    let (failed, _) = step(now, state.clone(), failed(), CROWDED, GOAL);
    // A look meanwhile does not give it up.
    (state, _) = step(now, state, Event::Looked, ALONE, GOAL);
    let deadline = dial.unwrap().deadline;
    let given = state.hand_over();
    assert!(matches!(given, Growth::Dialing { attempt: 0, deadline: at } if at == deadline));
    assert!(matches!(state, State::Steady));

    let (mut state, _) = step(now, failed, Event::Looked, ALONE, GOAL);
    let wake_at = state.wake_at();
    let Growth::Backoff { attempt: 0, until, cause } = state.hand_over() else {
        panic!("the backoff is handed over")
    };
    assert_eq!((Some(until), cause.message()), (wake_at, "refused"));
    assert!(matches!(state, State::Steady));
}

#[test]
fn connections_that_are_to_be_warm_come_without_a_call_that_waits() {
    let goal = Goal { warm: 3, max: 1 };
    let now = start();
    let mut state = State::Steady;
    let mut event = Event::Looked;
    for (open, waiting, dials) in [(1, 0, true), (2, 0, true), (3, 9, false)] {
        let (next, dial) = step(now, state, event, View { open, waiting }, goal);
        assert_eq!(dial.is_some(), dials, "{open} open");
        (state, event) = (next, Event::Dialed);
    }
    assert!(matches!(state, State::Steady));
}

const TABLE: &str = "
Steady + Looked, alone = Steady:
Steady + Looked, calm = Steady:
Steady + Looked, crowded = Dialing(0, until 120): dial until 120
Steady + Dialed, alone = Steady:
Steady + Dialed, calm = Steady:
Steady + Dialed, crowded = Steady:
Steady + Failed, alone = Steady:
Steady + Failed, calm = Steady:
Steady + Failed, crowded = Steady:
Steady + Wake, alone = Steady:
Steady + Wake, calm = Steady:
Steady + Wake, crowded = Steady:
Steady + ResetBackoff, alone = Steady:
Steady + ResetBackoff, calm = Steady:
Steady + ResetBackoff, crowded = Steady:
Dialing(1, until 109) + Looked, alone = Dialing(1, until 109):
Dialing(1, until 109) + Looked, calm = Dialing(1, until 109):
Dialing(1, until 109) + Looked, crowded = Dialing(1, until 109):
Dialing(1, until 109) + Dialed, alone = Steady:
Dialing(1, until 109) + Dialed, calm = Steady:
Dialing(1, until 109) + Dialed, crowded = Dialing(0, until 120): dial until 120
Dialing(1, until 109) + Failed, alone = Backoff(1, until 102):
Dialing(1, until 109) + Failed, calm = Backoff(1, until 102):
Dialing(1, until 109) + Failed, crowded = Backoff(1, until 102):
Dialing(1, until 109) + Wake, alone = Dialing(1, until 109):
Dialing(1, until 109) + Wake, calm = Dialing(1, until 109):
Dialing(1, until 109) + Wake, crowded = Dialing(1, until 109):
Dialing(1, until 109) + ResetBackoff, alone = Dialing(0, until 109):
Dialing(1, until 109) + ResetBackoff, calm = Dialing(0, until 109):
Dialing(1, until 109) + ResetBackoff, crowded = Dialing(0, until 109):
Backoff(1, until 100) + Looked, alone = Backoff(1, until 100):
Backoff(1, until 100) + Looked, calm = Backoff(1, until 100):
Backoff(1, until 100) + Looked, crowded = Backoff(1, until 100):
Backoff(1, until 100) + Dialed, alone = Backoff(1, until 100):
Backoff(1, until 100) + Dialed, calm = Backoff(1, until 100):
Backoff(1, until 100) + Dialed, crowded = Backoff(1, until 100):
Backoff(1, until 100) + Failed, alone = Backoff(1, until 100):
Backoff(1, until 100) + Failed, calm = Backoff(1, until 100):
Backoff(1, until 100) + Failed, crowded = Backoff(1, until 100):
Backoff(1, until 100) + Wake, alone = Steady:
Backoff(1, until 100) + Wake, calm = Steady:
Backoff(1, until 100) + Wake, crowded = Dialing(2, until 120): dial until 120
Backoff(1, until 100) + ResetBackoff, alone = Steady:
Backoff(1, until 100) + ResetBackoff, calm = Steady:
Backoff(1, until 100) + ResetBackoff, crowded = Dialing(0, until 120): dial until 120
Backoff(1, until 105) + Looked, alone = Backoff(1, until 105):
Backoff(1, until 105) + Looked, calm = Backoff(1, until 105):
Backoff(1, until 105) + Looked, crowded = Backoff(1, until 105):
Backoff(1, until 105) + Dialed, alone = Backoff(1, until 105):
Backoff(1, until 105) + Dialed, calm = Backoff(1, until 105):
Backoff(1, until 105) + Dialed, crowded = Backoff(1, until 105):
Backoff(1, until 105) + Failed, alone = Backoff(1, until 105):
Backoff(1, until 105) + Failed, calm = Backoff(1, until 105):
Backoff(1, until 105) + Failed, crowded = Backoff(1, until 105):
Backoff(1, until 105) + Wake, alone = Backoff(1, until 105):
Backoff(1, until 105) + Wake, calm = Backoff(1, until 105):
Backoff(1, until 105) + Wake, crowded = Backoff(1, until 105):
Backoff(1, until 105) + ResetBackoff, alone = Steady:
Backoff(1, until 105) + ResetBackoff, calm = Steady:
Backoff(1, until 105) + ResetBackoff, crowded = Dialing(0, until 120): dial until 120
";

use std::time::Duration;

use super::*;
use crate::policy::backoff::Backoff;
use crate::policy::testing::{assert_table, start};
use crate::types::Dice;

const ALONE: View = View { open: 0, waiting: 3 };
const CALM: View = View { open: 2, waiting: 0 };
const CROWDED: View = View { open: 2, waiting: 3 };
const GOAL: Goal = Goal { warm: 1, max: 3 };

fn step(now: Instant, state: State, event: Event, view: View, goal: Goal) -> (State, Vec<Effect>) {
    let mut fx = Vec::new();
    let mut timing = Timing {
        backoff: &Backoff::new([1, 2, 4].map(Duration::from_secs), 0.0),
        min_connect_timeout: Duration::from_secs(20),
        dice: &mut Dice::new(1),
    };
    let state = state.step(now, event, view, goal, &mut timing, &mut fx);
    (state, fx)
}

fn name(began: Instant, state: State) -> String {
    match state {
        State::Steady => "Steady".to_owned(),
        State::Dialing { attempt } => format!("Dialing({attempt})"),
        State::Resting { attempt, until } => {
            format!("Resting({attempt}, until {})", (until - began).as_secs())
        }
    }
}

#[test]
fn every_state_has_an_answer_to_every_event() {
    let began = start();
    let now = began + Duration::from_secs(100);
    let due = State::Resting { attempt: 1, until: now };
    let not_due = State::Resting { attempt: 1, until: now + Duration::from_secs(5) };
    let mut table = Vec::new();
    for state in [State::Steady, State::Dialing { attempt: 1 }, due, not_due] {
        for event in [Event::Looked, Event::Dialed, Event::Failed, Event::Wake] {
            for (view, view_name) in [(ALONE, "alone"), (CALM, "calm"), (CROWDED, "crowded")] {
                let (next, fx) = step(now, state, event, view, GOAL);
                let fx: Vec<_> = fx
                    .into_iter()
                    .map(|effect| match effect {
                        Effect::Dial { deadline } => {
                            format!("dial until {}", (deadline - began).as_secs())
                        }
                        Effect::AbandonDial => "abandon".to_owned(),
                    })
                    .collect();
                let (from, to) = (name(began, state), name(began, next));
                table.push(format!("{from} + {event:?}, {view_name} = {to}: {}", fx.join(", ")));
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
        let (next, fx) = step(now, state, Event::Looked, view, GOAL);
        // Many look at once, one dial is under way.
        assert_eq!(step(now, next, Event::Looked, view, GOAL), (next, Vec::new()));
        state = next;
        if !fx.is_empty() {
            open += 1;
            let view = View { open, waiting: 0 };
            (state, _) = step(now, state, Event::Dialed, view, GOAL);
        }
    }
    assert_eq!(open, 3);
}

#[test]
fn connections_that_are_to_be_warm_come_without_a_call_that_waits() {
    let goal = Goal { warm: 3, max: 1 };
    let (state, fx) =
        step(start(), State::Steady, Event::Looked, View { open: 1, waiting: 0 }, goal);
    assert_eq!((state, fx.len()), (State::Dialing { attempt: 0 }, 1));
    let (state, fx) = step(start(), state, Event::Dialed, View { open: 2, waiting: 0 }, goal);
    assert_eq!((state, fx.len()), (State::Dialing { attempt: 0 }, 1));
    let (state, fx) = step(start(), state, Event::Dialed, View { open: 3, waiting: 9 }, goal);
    assert_eq!((state, fx.len()), (State::Steady, 0));
}

const TABLE: &str = "
Steady + Looked, alone = Steady:
Steady + Looked, calm = Steady:
Steady + Looked, crowded = Dialing(0): dial until 120
Steady + Dialed, alone = Steady:
Steady + Dialed, calm = Steady:
Steady + Dialed, crowded = Steady:
Steady + Failed, alone = Steady:
Steady + Failed, calm = Steady:
Steady + Failed, crowded = Steady:
Steady + Wake, alone = Steady:
Steady + Wake, calm = Steady:
Steady + Wake, crowded = Steady:
Dialing(1) + Looked, alone = Steady: abandon
Dialing(1) + Looked, calm = Dialing(1):
Dialing(1) + Looked, crowded = Dialing(1):
Dialing(1) + Dialed, alone = Steady:
Dialing(1) + Dialed, calm = Steady:
Dialing(1) + Dialed, crowded = Dialing(0): dial until 120
Dialing(1) + Failed, alone = Resting(1, until 102):
Dialing(1) + Failed, calm = Resting(1, until 102):
Dialing(1) + Failed, crowded = Resting(1, until 102):
Dialing(1) + Wake, alone = Dialing(1):
Dialing(1) + Wake, calm = Dialing(1):
Dialing(1) + Wake, crowded = Dialing(1):
Resting(1, until 100) + Looked, alone = Steady:
Resting(1, until 100) + Looked, calm = Resting(1, until 100):
Resting(1, until 100) + Looked, crowded = Resting(1, until 100):
Resting(1, until 100) + Dialed, alone = Resting(1, until 100):
Resting(1, until 100) + Dialed, calm = Resting(1, until 100):
Resting(1, until 100) + Dialed, crowded = Resting(1, until 100):
Resting(1, until 100) + Failed, alone = Resting(1, until 100):
Resting(1, until 100) + Failed, calm = Resting(1, until 100):
Resting(1, until 100) + Failed, crowded = Resting(1, until 100):
Resting(1, until 100) + Wake, alone = Steady:
Resting(1, until 100) + Wake, calm = Steady:
Resting(1, until 100) + Wake, crowded = Dialing(2): dial until 120
Resting(1, until 105) + Looked, alone = Steady:
Resting(1, until 105) + Looked, calm = Resting(1, until 105):
Resting(1, until 105) + Looked, crowded = Resting(1, until 105):
Resting(1, until 105) + Dialed, alone = Resting(1, until 105):
Resting(1, until 105) + Dialed, calm = Resting(1, until 105):
Resting(1, until 105) + Dialed, crowded = Resting(1, until 105):
Resting(1, until 105) + Failed, alone = Resting(1, until 105):
Resting(1, until 105) + Failed, calm = Resting(1, until 105):
Resting(1, until 105) + Failed, crowded = Resting(1, until 105):
Resting(1, until 105) + Wake, alone = Resting(1, until 105):
Resting(1, until 105) + Wake, calm = Resting(1, until 105):
Resting(1, until 105) + Wake, crowded = Resting(1, until 105):
";

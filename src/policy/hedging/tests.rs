use std::time::Duration;

use super::*;
use crate::policy::testing::start;
use crate::types::{Code, CodeSet};

/// What happens at a millisecond.
enum Then {
    Begin,
    Wake,
    Failed(Code, Pushback),
    Unseen(Seen),
    /// A server has begun to answer.
    Commits,
    /// With so many attempts under way.
    Closed(u32),
    /// An attempt of another call fails.
    OtherFailed,
}

use Then::{Begin, Closed, Commits, Failed, OtherFailed, Unseen, Wake};

const UNAVAILABLE: Then = Failed(Code::UNAVAILABLE, Pushback::None);

/// Each row has a millisecond, what happens then, and what is done, with when the next is due. There
/// are three attempts 20 ms apart.
fn run(throttle: Option<&Throttle>, script: &[(u64, Then, &str)]) {
    let mut non_fatal = CodeSet::default();
    non_fatal.insert(Code::UNAVAILABLE);
    let delay = Duration::from_millis(20);
    let policy = HedgingPolicy { max_attempts: 3, delay, non_fatal };
    let rules = Rules { policy: &policy, attempts_cap: 5, throttle };
    let began = start();
    let mut state = State::default();
    for (millis, then, expected) in script {
        let failure = |seen, code, pushback| Event::Failed(Failure { seen, code, pushback });
        let event = match then {
            Begin => Event::Begin,
            Wake => Event::Wake,
            Failed(code, pushback) => failure(Seen::Maybe, *code, *pushback),
            Unseen(seen) => failure(*seen, Code::UNAVAILABLE, Pushback::None),
            Commits => Event::Committed,
            Closed(live) => Event::Closed { live: *live },
            OtherFailed => {
                let _ = throttle.map(Throttle::failed);
                continue;
            }
        };
        let (next, action) = state.step(began + Duration::from_millis(*millis), event, rules);
        state = next;
        let due = state.wake_at().map(|at| (at - began).as_millis());
        let told = match (action, due) {
            (Action::End, _) => "end".to_owned(),
            (Action::Send, Some(due)) => format!("send, {due}"),
            (Action::Send, None) => "send".to_owned(),
            (Action::SendAgain, Some(due)) => format!("again, {due}"),
            (Action::SendAgain, None) => "again".to_owned(),
            (Action::Wait, Some(due)) => format!("wait, {due}"),
            (Action::Wait, None) => "wait".to_owned(),
        };
        assert_eq!(told, *expected, "at {millis}");
    }
}

// spec: A6/hedging
#[test]
fn an_attempt_joins_the_others_after_each_delay() {
    run(
        None,
        &[
            (0, Begin, "send, 20"),
            (19, Wake, "wait, 20"),
            (20, Wake, "send, 40"),
            (45, Wake, "send"),
            (99, Wake, "wait"),
            // Those that are under way may still answer.
            (100, UNAVAILABLE, "wait"),
            (110, UNAVAILABLE, "wait"),
            (120, UNAVAILABLE, "end"),
        ],
    );
}

#[test]
fn a_failure_that_is_not_fatal_makes_room_for_the_next_at_once_and_others_end_the_call() {
    run(
        None,
        &[
            (0, Begin, "send, 20"),
            (5, UNAVAILABLE, "wait, 5"),
            (5, Wake, "send, 25"),
            (9, Failed(Code::INTERNAL, Pushback::None), "end"),
        ],
    );
}

#[test]
fn a_server_says_when_the_next_may_come_or_that_none_may() {
    let after = Pushback::After(Duration::from_millis(300));
    run(
        None,
        &[
            (0, Begin, "send, 20"),
            (5, Failed(Code::UNAVAILABLE, after), "wait, 305"),
            (20, Wake, "wait, 305"),
            (305, Wake, "send, 325"),
            (310, Failed(Code::UNAVAILABLE, Pushback::Never), "end"),
        ],
    );
    run(
        None,
        &[
            (0, Begin, "send, 20"),
            (20, Wake, "send, 40"),
            (25, Failed(Code::UNAVAILABLE, Pushback::Never), "wait"),
            (40, Wake, "wait"),
        ],
    );
}

#[test]
fn what_no_server_has_seen_is_made_up_for_and_does_not_count() {
    run(
        None,
        &[
            (0, Begin, "send, 20"),
            (1, Unseen(Seen::Never), "again, 20"),
            (2, Unseen(Seen::Refused), "again, 20"),
            (3, Unseen(Seen::Refused), "wait, 3"),
            (3, Wake, "send, 23"),
            (23, Wake, "send"),
        ],
    );
}

// spec: A6/hedging-commit
#[test]
fn once_a_server_has_begun_to_answer_no_attempt_follows_and_a_failure_ends_the_call() {
    let script = |then: Then, expected| {
        run(
            None,
            &[
                (0, Begin, "send, 20"),
                (5, Commits, "wait"),
                // It was due.
                (20, Wake, "wait"),
                (25, then, expected),
            ],
        );
    };
    script(UNAVAILABLE, "end");
    script(Failed(Code::UNAVAILABLE, Pushback::After(Duration::ZERO)), "end");
    script(Failed(Code::INTERNAL, Pushback::None), "end");
    script(Unseen(Seen::Never), "end");
    script(Unseen(Seen::Refused), "end");
    script(Closed(1), "wait");
    script(Begin, "wait");
    script(Commits, "wait");
    // The others have no say any more.
    run(
        None,
        &[
            (0, Begin, "send, 20"),
            (20, Wake, "send, 40"),
            (25, UNAVAILABLE, "wait, 25"),
            (25, Commits, "wait"),
            (40, Wake, "wait"),
        ],
    );
}

#[test]
fn once_the_channel_is_closed_no_attempt_joins_the_others() {
    run(
        None,
        &[
            (0, Begin, "send, 20"),
            (20, Wake, "send, 40"),
            // One of them had no connection.
            (30, Closed(1), "wait"),
            (40, Wake, "wait"),
            (50, UNAVAILABLE, "end"),
        ],
    );
}

#[test]
fn without_tokens_no_attempt_joins_the_others() {
    let throttle = Throttle::new(2, 1.0);
    run(Some(&throttle), &[(0, Begin, "send, 20"), (5, UNAVAILABLE, "end")]);
    run(Some(&throttle), &[(0, Begin, "send, 20"), (20, Wake, "wait"), (30, UNAVAILABLE, "end")]);
    // They go while it rests, and there is nothing else to wait for.
    let throttle = Throttle::new(3, 1.0);
    let after = Pushback::After(Duration::from_millis(300));
    run(
        Some(&throttle),
        &[
            (0, Begin, "send, 20"),
            (5, Failed(Code::UNAVAILABLE, after), "wait, 305"),
            (99, OtherFailed, ""),
            (305, Wake, "end"),
        ],
    );
}

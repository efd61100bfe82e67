use super::*;
use crate::policy::testing::start;

/// What happens at a second, and what a call that then asks goes on with.
enum Then {
    /// A call asks.
    Asked,
    /// A token of this name arrives, which expires at this second.
    Got(&'static str, Option<u64>),
    /// The fetch fails with this text.
    Failed(&'static str),
}

use Then::{Asked, Failed, Got};

/// Each row has a second, what happens then, and the answer, with a `+` where a fetch begins. The
/// rest after failure n is 2^n seconds.
fn run(script: &[(u64, Then, &str)]) {
    let began = start();
    let at = |seconds| began + Duration::from_secs(seconds);
    let mut state = State::<&'static str>::default();
    for (seconds, then, expected) in script {
        let event = match then {
            Asked => Event::Asked,
            Got(token, end) => Event::Fetched(Ok((*token, end.map(at)))),
            Failed(text) => Event::Fetched(Err(Status::unavailable(*text))),
        };
        let rest = |failures| Duration::from_secs(1_u64 << failures);
        let (next, fetch) = state.step(at(*seconds), event, rest);
        state = next;
        let answer = match state.answer(at(*seconds)) {
            Answer::Send(token) => format!("send {token}"),
            Answer::Wait => "wait".to_owned(),
            Answer::Fail(status) => format!("fail {}", status.message()),
        };
        let begins = if fetch.is_some() { " +" } else { "" };
        assert_eq!(format!("{answer}{begins}"), *expected, "at {seconds}");
    }
}

// spec: A97/cached-until-its-end
#[test]
fn a_token_is_fetched_once_and_sent_until_its_end() {
    run(&[
        (0, Asked, "wait +"),
        (0, Asked, "wait"),
        (1, Got("a", Some(1_000)), "send a"),
        (2, Asked, "send a"),
        (939, Asked, "send a"),
        // Nobody asked in the last minute: the next call waits.
        (1_000, Asked, "wait +"),
        (1_001, Got("b", None), "send b"),
        (9_999_999, Asked, "send b"),
    ]);
}

// spec: A97/refreshed-ahead
#[test]
fn the_next_token_is_fetched_a_minute_ahead_while_the_last_one_serves() {
    run(&[
        (0, Asked, "wait +"),
        (0, Got("a", Some(1_000)), "send a"),
        (940, Asked, "send a +"),
        (941, Asked, "send a"),
        (942, Got("b", Some(2_000)), "send b"),
        (943, Asked, "send b"),
        // One that takes longer than the last token lives makes calls wait.
        (1_990, Asked, "send b +"),
        (2_000, Asked, "wait"),
        (2_001, Got("c", Some(3_000)), "send c"),
    ]);
}

#[test]
fn a_token_that_does_not_live_long_is_fetched_again_half_way() {
    run(&[
        (0, Asked, "wait +"),
        (0, Got("a", Some(20)), "send a"),
        (9, Asked, "send a"),
        (10, Asked, "send a +"),
        // One that is over when it comes is sent for a second, and not fetched again before.
        (11, Got("b", Some(11)), "send b"),
        (11, Asked, "send b"),
        (12, Asked, "wait +"),
    ]);
}

#[test]
fn a_token_that_lives_a_nanosecond_is_fetched_once_a_second() {
    let (begun, mut state, mut count) = (start(), State::default(), 0);
    for milliseconds in 0..10_000 {
        let now = begun + Duration::from_millis(milliseconds);
        let (next, fetch) = state.step(now, Event::Asked, |_| Duration::ZERO);
        state = next;
        if fetch.is_some() {
            count += 1;
            let got = Event::Fetched(Ok(("a", Some(now + Duration::from_nanos(1)))));
            state = state.step(now, got, |_| Duration::ZERO).0;
        }
        assert!(matches!(state.answer(now), Answer::Send("a")));
    }
    assert_eq!(count, 10);
}

// spec: A97/backoff
#[test]
fn after_a_failure_calls_fail_until_it_is_tried_again() {
    run(&[
        (0, Asked, "wait +"),
        (0, Failed("no file"), "fail no file"),
        (0, Asked, "fail no file"),
        (1, Asked, "wait +"),
        (1, Failed("still none"), "fail still none"),
        (2, Asked, "fail still none"),
        (3, Asked, "wait +"),
        (3, Failed("none"), "fail none"),
        (7, Asked, "wait +"),
        (7, Got("a", Some(1_000)), "send a"),
        // What came before is forgotten.
        (1_000, Asked, "wait +"),
        (1_000, Failed("gone"), "fail gone"),
        (1_001, Asked, "wait +"),
    ]);
}

#[test]
fn a_failure_ahead_of_time_leaves_the_last_token_in_use() {
    run(&[
        (0, Asked, "wait +"),
        (0, Got("a", Some(100)), "send a"),
        (50, Asked, "send a +"),
        (50, Failed("busy"), "send a"),
        (50, Asked, "send a"),
        (51, Asked, "send a +"),
        (51, Failed("busy"), "send a"),
        (52, Asked, "send a"),
        (53, Asked, "send a +"),
        (99, Failed("still busy"), "send a"),
        (100, Asked, "fail still busy"),
        (103, Asked, "wait +"),
    ]);
}

#[test]
fn an_answer_that_nobody_waits_for_is_not_taken() {
    run(&[
        (0, Got("a", None), "wait"),
        (0, Asked, "wait +"),
        (1, Got("b", None), "send b"),
        (2, Got("c", None), "send b"),
        (3, Failed("late"), "send b"),
    ]);
}

use super::*;
use crate::policy::testing::start;

const TIMEOUT: Duration = Duration::from_secs(60);

/// What happens at a second.
enum Then {
    Woken,
    /// A look, with so many calls and the second in which the last one ended.
    Look(usize, Option<u64>),
}

use Then::{Look, Woken};

/// Each row has a second, what happens then, and when it wants to look again or that it goes idle.
fn run(timeout: Option<Duration>, script: &[(u64, Then, &str)]) {
    let began = start();
    let at = |seconds| began + Duration::from_secs(seconds);
    let mut state = State::default();
    for (seconds, then, expected) in script {
        let event = match then {
            Woken => Event::Woken,
            Look(calls, last_end) => {
                Event::Wake(Usage { calls: *calls, last_end: last_end.map(at) })
            }
        };
        let (next, idle) = state.step(at(*seconds), event, timeout);
        state = next;
        let told = match (idle, state.wake_at()) {
            (Some(GoIdle), None) => "idle".to_owned(),
            (None, Some(wake_at)) => (wake_at - began).as_secs().to_string(),
            (None, None) => "never".to_owned(),
            (Some(GoIdle), Some(_)) => panic!("idle, and yet {state:?}"),
        };
        assert_eq!(told, *expected, "at {seconds}");
    }
}

// spec: A62/idle-timeout
#[test]
fn a_channel_goes_idle_one_timeout_after_its_last_call_or_its_waking() {
    let timeout = Some(TIMEOUT);
    // Woken by hand, and never used.
    run(timeout, &[(10, Woken, "70"), (70, Look(0, None), "idle"), (90, Woken, "150")]);
    // Used in between: the timeout runs from the end of the last call.
    run(
        timeout,
        &[(0, Woken, "60"), (60, Look(0, Some(25)), "85"), (85, Look(0, Some(25)), "idle")],
    );
    // In use: as if the last call might end right now.
    run(
        timeout,
        &[(0, Woken, "60"), (60, Look(1, Some(30)), "120"), (120, Look(0, Some(61)), "121")],
    );
    // The last call ended before the channel went idle the last time.
    run(timeout, &[(500, Woken, "560"), (560, Look(0, Some(3)), "idle")]);
}

#[test]
fn a_look_that_comes_early_late_or_twice_does_no_harm() {
    let timeout = Some(TIMEOUT);
    run(timeout, &[(0, Woken, "60"), (59, Look(0, None), "60"), (200, Look(0, Some(1)), "idle")]);
    run(timeout, &[(0, Woken, "60"), (30, Woken, "60"), (60, Look(0, None), "idle")]);
    run(timeout, &[(5, Look(0, None), "never")]);
}

#[test]
fn without_a_timeout_it_never_goes_idle() {
    run(None, &[(0, Woken, "never"), (999, Look(0, None), "never")]);
}

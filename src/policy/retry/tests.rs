use super::*;
use crate::types::CodeSet;

const ALL: Pushback = Pushback::None;

fn policy() -> RetryPolicy {
    let mut codes = CodeSet::default();
    codes.insert(Code::UNAVAILABLE);
    codes.insert(Code::ABORTED);
    RetryPolicy {
        max_attempts: 4,
        initial_backoff: Duration::from_secs(1),
        max_backoff: Duration::from_secs(5),
        multiplier: 2.0,
        codes,
    }
}

fn failure(code: Code, pushback: Pushback) -> Failure {
    Failure { seen: Seen::Maybe, code, pushback }
}

/// Where a rest is meant, its length without jitter.
fn judged(progress: &mut Progress, failure: Failure, rules: Rules<'_>) -> String {
    let mut dice = Dice::new(7);
    match progress.judge(failure, false, rules, &mut dice) {
        Verdict::RetryAfter(rest) => {
            let nominal = rest.as_secs_f64() / (0.8 + 0.4 * Dice::new(7).unit());
            let exact = rest.as_secs_f64();
            match failure.pushback {
                Pushback::None => format!("after {nominal:.1}"),
                Pushback::After(_) | Pushback::Never => format!("after exactly {exact:.1}"),
            }
        }
        verdict => format!("{verdict:?}"),
    }
}

// spec: A6/transparent-retry
#[test]
fn only_what_the_server_cannot_have_seen_is_tried_again() {
    use Verdict::{Finish, RetryTransparently};
    let rows = [
        (Seen::Never, false, false, RetryTransparently),
        (Seen::Never, true, false, RetryTransparently),
        (Seen::Never, false, true, Finish),
        (Seen::Never, true, true, Finish),
        (Seen::Refused, false, false, RetryTransparently),
        (Seen::Refused, true, false, Finish),
        (Seen::Refused, false, true, Finish),
        (Seen::Refused, true, true, Finish),
        (Seen::Maybe, false, false, Finish),
        (Seen::Maybe, true, false, Finish),
        (Seen::Maybe, false, true, Finish),
        (Seen::Maybe, true, true, Finish),
    ];
    for (seen, refused, committed, expected) in rows {
        let mut progress = Progress { refused, ..Progress::default() };
        let failure = Failure { seen, ..failure(Code::UNAVAILABLE, ALL) };
        let rules = Rules { attempts_cap: 5, ..Rules::default() };
        let verdict = progress.judge(failure, committed, rules, &mut Dice::new(1));
        assert_eq!(verdict, expected, "{:?}", (seen, refused, committed));
    }
}

// spec: A6/retry-policy
#[test]
fn a_policy_is_followed_until_its_attempts_are_used_up() {
    let policy = policy();
    let rules = Rules { policy: Some(&policy), attempts_cap: 5, throttle: None };
    let unavailable = failure(Code::UNAVAILABLE, ALL);
    let mut progress = Progress::default();
    let told: Vec<_> = (0..4).map(|_| judged(&mut progress, unavailable, rules)).collect();
    assert_eq!(told, ["after 1.0", "after 2.0", "after 4.0", "Exhausted(4)"]);
    // The client's own cap is lower.
    let mut progress = Progress::default();
    let capped = Rules { attempts_cap: 2, ..rules };
    let told: Vec<_> = (0..2).map(|_| judged(&mut progress, unavailable, capped)).collect();
    assert_eq!(told, ["after 1.0", "Exhausted(2)"]);
    // Other codes, and a call that is committed.
    let mut progress = Progress::default();
    assert_eq!(judged(&mut progress, failure(Code::INTERNAL, ALL), rules), "Finish");
    let verdict = progress.judge(unavailable, true, rules, &mut Dice::new(1));
    assert_eq!(verdict, Verdict::Finish);
    // What is tried again transparently does not count.
    let mut progress = Progress::default();
    let refused = Failure { seen: Seen::Refused, ..unavailable };
    let told: Vec<_> = (0..3).map(|_| judged(&mut progress, refused, rules)).collect();
    assert_eq!(told, ["RetryTransparently", "after 1.0", "after 2.0"]);
    assert_eq!(progress.failed, 2);
}

// spec: A6/backoff
#[test]
fn a_rest_grows_to_its_bound_and_lies_a_fifth_around_that() {
    let policy = RetryPolicy { max_attempts: 99, ..policy() };
    let mut dice = Dice::new(3);
    for (nth, nominal) in [(0, 1.0), (1, 2.0), (2, 4.0), (3, 5.0), (4, 5.0), (5_000, 5.0)] {
        let rests: Vec<_> = (0..500).map(|_| policy.rest(nth, &mut dice).as_secs_f64()).collect();
        let least = rests.iter().copied().fold(f64::MAX, f64::min);
        let most = rests.iter().copied().fold(0.0, f64::max);
        assert!((0.8..0.82).contains(&(least / nominal)), "{nth}: {least}");
        assert!((1.18..1.2).contains(&(most / nominal)), "{nth}: {most}");
    }
}

// spec: A6/pushback
#[test]
fn a_server_may_say_when_to_try_again_or_not_at_all() {
    for (values, pushback) in [
        (&[][..], Pushback::None),
        (&["0"], Pushback::After(Duration::ZERO)),
        (&["1000"], Pushback::After(Duration::from_secs(1))),
        (&["-1"], Pushback::Never),
        (&["+1"], Pushback::Never),
        (&["xxx"], Pushback::Never),
        (&[""], Pushback::Never),
        (&["99999999999"], Pushback::Never),
        (&["1", "1"], Pushback::Never),
    ] {
        assert_eq!(Pushback::of(values.iter().copied()), pushback, "{values:?}");
    }
    let policy = policy();
    let throttle = Throttle::new(10, 1.0);
    let rules = Rules { policy: Some(&policy), attempts_cap: 9, throttle: Some(&throttle) };
    let mut progress = Progress::default();
    let after = Pushback::After(Duration::from_secs(9));
    let told: Vec<_> = [
        (Code::UNAVAILABLE, ALL),
        (Code::UNAVAILABLE, after),
        // From the beginning again.
        (Code::UNAVAILABLE, ALL),
    ]
    .map(|(code, pushback)| judged(&mut progress, failure(code, pushback), rules))
    .into();
    assert_eq!(told, ["after 1.0", "after exactly 9.0", "after 1.0"]);
    // A code that is not on the list is not made one by a time.
    let mut progress = Progress::default();
    assert_eq!(judged(&mut progress, failure(Code::INTERNAL, after), rules), "Finish");
    // No is no, and takes a token whatever the code.
    for _ in 0..2 {
        let mut progress = Progress::default();
        assert_eq!(judged(&mut progress, failure(Code::OK, Pushback::Never), rules), "Finish");
    }
    assert!(!throttle.failed(), "three, two and this one are six");
}

#[test]
fn without_tokens_nothing_is_tried_again() {
    let policy = RetryPolicy { max_attempts: 99, ..policy() };
    let throttle = Throttle::new(4, 0.5);
    let rules = Rules { policy: Some(&policy), attempts_cap: 99, throttle: Some(&throttle) };
    let mut progress = Progress::default();
    let unavailable = failure(Code::UNAVAILABLE, ALL);
    let told: Vec<_> = (0..3).map(|_| judged(&mut progress, unavailable, rules)).collect();
    assert_eq!(told, ["after 1.0", "Finish", "Finish"]);
    // A code that is not on the list costs nothing.
    let other = Throttle::new(4, 0.5);
    let rules = Rules { throttle: Some(&other), ..rules };
    judged(&mut Progress::default(), failure(Code::INTERNAL, ALL), rules);
    assert!(other.failed());
}

#[test]
fn a_set_of_codes_has_what_was_put_into_it() {
    let set = policy().codes;
    assert!(set.contains(Code::UNAVAILABLE) && set.contains(Code::ABORTED));
    assert!(!set.contains(Code::OK) && !set.contains(Code::from_number(14 + 32)));
    assert!(CodeSet::default().is_empty() && !set.is_empty());
}

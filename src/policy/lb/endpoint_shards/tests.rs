use super::super::round_robin::RoundRobin;
use super::super::testing::{Stage, changed};
use super::*;

type Shards = EndpointShards<RoundRobin>;

fn stage() -> Stage<Shards> {
    Stage::new(EndpointShards::new(RoundRobin))
}

/// One subchannel each for `n` endpoints, READY and published.
fn ready(n: u32) -> Stage<Shards> {
    let mut stage = stage();
    let names: Vec<String> = (0..n).map(|number| format!("e{number}")).collect();
    let lists: Vec<[&str; 1]> = names.iter().map(|name| [name.as_str()]).collect();
    let lists: Vec<&[&str]> = lists.iter().map(|list| &list[..]).collect();
    stage.update(&lists);
    for number in 0..n {
        stage.connecting(number);
        stage.ready(number);
    }
    stage.run(LbEvent::Flush);
    stage
}

fn nothing() -> Vec<String> {
    Vec::new()
}

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

#[test]
fn an_update_publishes_once_after_all_children_have_had_it() {
    let mut stage = stage();
    let effects = stage.update(&[&["a"], &["b"], &["c"]]);
    let published: Vec<_> = effects.iter().filter(|line| line.contains("queue")).collect();
    assert_eq!(published, ["CONNECTING queue"]);
    assert_eq!(effects.last().unwrap(), "CONNECTING queue");
    assert_eq!(effects.len(), 3 + 3 + 1);
}

#[test]
fn the_list_begins_at_a_random_endpoint_and_keeps_its_order() {
    let mut firsts = BTreeSet::new();
    for seed in 0..50 {
        let mut stage = Stage::seeded(EndpointShards::new(RoundRobin), seed);
        let effects = stage.update(&[&["a"], &["b"], &["c"]]);
        let order: String = effects[..3].iter().filter_map(|line| line.chars().last()).collect();
        assert!(["abc", "bca", "cab"].contains(&order.as_str()), "{order}");
        firsts.insert(order);
    }
    assert_eq!(firsts.len(), 3);
}

#[test]
fn calls_go_to_those_that_are_ready_whatever_the_others_do() {
    let mut stage = stage();
    stage.update(&[&["a"], &["b"], &["c"]]);
    stage.connecting(0);
    assert_eq!(stage.fails(0), nothing(), "the others are connecting");
    stage.connecting(1);
    assert_eq!(stage.ready(1), ["READY pick #1"]);
    stage.connecting(2);
    assert_eq!(stage.ready(2), nothing(), "put off");
    assert_eq!(stage.run(LbEvent::Flush).len(), 1);
    assert_eq!(sorted(stage.picks(4)), ["pick #1", "pick #1", "pick #2", "pick #2"]);
    assert_eq!(stage.run(LbEvent::Flush), nothing(), "nothing was put off");
}

#[test]
fn a_child_that_goes_idle_connects_again_at_once() {
    let mut stage = ready(1);
    assert_eq!(stage.idle(0), ["connect #0", "CONNECTING queue"]);
    let mut stage = ready(2);
    assert_eq!(stage.idle(0), ["connect #0"]);
    assert_eq!(stage.run(LbEvent::Flush), ["READY pick #1"]);
}

#[test]
fn the_whole_fails_when_every_child_does_and_shows_each_error_in_turn() {
    let mut stage = stage();
    stage.update(&[&["a"], &["b"]]);
    stage.connecting(0);
    stage.connecting(1);
    assert_eq!(stage.fails(0), nothing());
    assert_eq!(stage.fails(1).len(), 1);
    assert_eq!(sorted(stage.picks(2)), ["fail UNAVAILABLE: e0", "fail UNAVAILABLE: e1"]);
    stage.idle(0);
    assert_eq!(stage.connecting(0), nothing(), "[A62] sticky");
    assert_eq!(stage.ready(0), ["READY pick #0"]);
}

#[test]
fn a_new_error_of_a_failing_child_is_shown_at_the_end_of_the_batch() {
    let mut stage = stage();
    stage.update(&[&["a"]]);
    stage.connecting(0);
    stage.fails(0);
    stage.idle(0);
    stage.connecting(0);
    let error = Status::unavailable("newer");
    assert_eq!(stage.fails_with(0, error), ["resolve now"]);
    assert_eq!(stage.run(LbEvent::Flush), ["TRANSIENT_FAILURE fail UNAVAILABLE: newer"]);
}

#[test]
fn what_calls_would_not_notice_is_not_published() {
    let mut stage = stage();
    stage.update(&[&["a"], &["b"], &["c"]]);
    stage.connecting(0);
    stage.ready(0);
    stage.connecting(1);
    stage.fails(1);
    assert_eq!(stage.run(LbEvent::Flush), nothing());
}

#[test]
fn subchannels_that_are_given_up_are_forgotten() {
    let mut stage = stage();
    stage.update(&[&["a1", "a2", "a3"]]);
    assert_eq!(stage.policy.routes.len(), 3);
    stage.ready(1);
    assert_eq!(stage.policy.routes.len(), 1);
    stage.update(&[]);
    assert_eq!(stage.policy.routes.len(), 0);
}

// Whatever the number of subchannels, what is published follows the batches.
#[test]
fn ten_thousand_subchannels_that_become_ready_publish_a_handful_of_pickers() {
    const MANY: u32 = 10_000;
    let mut stage = stage();
    let names: Vec<String> = (0..MANY).map(|number| format!("e{number}")).collect();
    let lists: Vec<[&str; 1]> = names.iter().map(|name| [name.as_str()]).collect();
    let lists: Vec<&[&str]> = lists.iter().map(|list| &list[..]).collect();
    stage.update(&lists);
    let mut published = 0;
    for number in 0..MANY {
        published += stage.connecting(number).len();
        published += stage.ready(number).len();
    }
    assert_eq!(published, 1, "the change of state");
    assert_eq!(stage.run(LbEvent::Flush).len(), 1);
    let picks: HashSet<_> = stage.picks(MANY as usize).into_iter().collect();
    assert_eq!(picks.len(), MANY as usize);
}

#[test]
fn endpoints_are_the_same_whatever_the_order_of_their_addresses() {
    let mut stage = stage();
    stage.update(&[&["a", "b"]]);
    stage.connecting(0);
    stage.ready(0);
    assert_eq!(stage.update(&[&["b", "a"]]), ["READY pick #0"]);
    let effects = stage.update(&[&["b", "a"], &["a", "b"], &["a", "b", "a"]]);
    assert_eq!(effects, ["READY pick #0"], "one child for all three");
    let effects = stage.update(&[&["b"]]);
    assert_eq!(effects, ["create #2 b", "retire #0", "connect #2", "CONNECTING queue"]);
}

#[test]
fn an_update_keeps_children_that_stay_and_ends_those_that_go() {
    let mut stage = ready(3);
    let gone = stage.update(&[&["e0"], &["new"]]);
    assert_eq!(gone.iter().filter(|line| line.starts_with("create")).count(), 1);
    assert_eq!(gone.iter().filter(|line| line.starts_with("retire")).count(), 2);
    assert!(gone.last().unwrap().starts_with("READY pick"), "{gone:?}");
    // Events still find their children in the new places.
    stage.connecting(3);
    stage.ready(3);
    stage.run(LbEvent::Flush);
    assert_eq!(sorted(stage.picks(2)).last().unwrap(), "pick #3");
    let retired: Vec<_> = gone.iter().filter(|line| line.starts_with("retire")).collect();
    for number in 0..3 {
        if retired.iter().any(|line| **line == format!("retire #{number}")) {
            assert_eq!(stage.run(changed(number, ConnectivityState::Idle)), nothing());
        }
    }
}

#[test]
fn no_endpoints_fail_and_refuse_the_update() {
    let failed = "TRANSIENT_FAILURE fail UNAVAILABLE: no children to pick from";
    let mut stage = ready(1);
    let refused = "reject no children to pick from";
    assert_eq!(stage.update(&[]), ["retire #0", refused, failed]);
    assert_eq!(stage.update(&[&[], &[]]), [refused, failed], "none has addresses");
    let effects = stage.update(&[&["a"]]);
    assert_eq!(effects, ["create #1 a", "connect #1", "CONNECTING queue"]);
}

#[test]
fn a_resolver_error_counts_only_where_there_is_nothing_better() {
    let down = || LbEvent::ResolverFailed(Status::unavailable("down"));
    let failed = ["TRANSIENT_FAILURE fail UNAVAILABLE: name resolver error: down"];
    let mut stage = stage();
    assert_eq!(stage.run(down()), failed);
    stage.update(&[&["a"], &["b"]]);
    assert_eq!(stage.run(down()), nothing());
    for number in 0..2 {
        stage.connecting(number);
        stage.fails(number);
    }
    assert_eq!(stage.run(down()), nothing());
    assert_eq!(stage.run(LbEvent::Flush), failed);
}

#[test]
fn the_attempts_of_all_children_go_on_by_one_timer() {
    let mut stage = stage();
    let began = stage.now;
    stage.update(&[&["a1", "a2", "a3"]]);
    stage.pass(100);
    stage.update(&[&["a1", "a2", "a3"], &["b1", "b2"]]);
    // The update began new passes for both.
    let due = began + std::time::Duration::from_millis(350);
    assert_eq!(stage.policy.wake_at(), Some(due));
    for number in 0..5 {
        if number == 0 || number == 3 {
            stage.connecting(number);
        }
    }
    assert_eq!(sorted(stage.wake()), ["connect #1", "connect #4"]);
    assert_eq!(stage.policy.wake_at(), Some(due + std::time::Duration::from_millis(250)));
    assert_eq!(stage.wake(), ["connect #2"]);
    assert_eq!(stage.policy.wake_at(), None);
}

#[test]
fn a_seed_reproduces_what_it_does() {
    let run = |seed| {
        let mut stage = Stage::seeded(EndpointShards::new(RoundRobin), seed);
        let names: Vec<String> = (0..50).map(|number| format!("e{number}")).collect();
        let lists: Vec<[&str; 1]> = names.iter().map(|name| [name.as_str()]).collect();
        let lists: Vec<&[&str]> = lists.iter().map(|list| &list[..]).collect();
        let mut lines = stage.update(&lists);
        for number in 0..50 {
            lines.extend(stage.ready(number));
        }
        lines.extend(stage.run(LbEvent::Flush));
        lines.extend(stage.update(&lists[10..20]));
        lines
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}

#[test]
fn an_inspection_shows_every_child() {
    let stage = ready(2);
    let seen = stage.policy.inspect();
    assert_eq!(seen.policy, "round_robin");
    assert_eq!(seen.connectivity, ConnectivityState::Ready);
    assert_eq!(seen.children.len(), 2);
    assert_eq!(seen.children[1].subchannels, [1]);
}

// spec: A17/round-robin
#[test]
fn calls_go_to_those_that_are_connected_and_serve() {
    let mut stage = ready(3);
    let watched: BTreeSet<_> = stage.watched.iter().copied().collect();
    assert_eq!(watched.len(), 3);
    assert_eq!(stage.says(1, ConnectivityState::TransientFailure), nothing(), "put off");
    assert_eq!(stage.run(LbEvent::Flush).len(), 1);
    assert_eq!(sorted(stage.picks(4)), ["pick #0", "pick #0", "pick #2", "pick #2"]);
    assert_eq!(stage.says(1, ConnectivityState::Ready), nothing(), "put off");
    stage.run(LbEvent::Flush);
    assert_eq!(sorted(stage.picks(3)), ["pick #0", "pick #1", "pick #2"]);
}

#[test]
fn no_call_goes_to_a_server_before_it_has_said_that_it_serves() {
    let mut stage = stage();
    stage.update(&[&["a"]]);
    assert_eq!(stage.says(0, ConnectivityState::Connecting), nothing());
    stage.connecting(0);
    assert_eq!(stage.ready(0), nothing(), "connected, and yet to say anything");
    assert_eq!(stage.run(LbEvent::Flush), nothing());
    assert_eq!(stage.says(0, ConnectivityState::Ready), ["READY pick #0"]);
}

// spec: A17/all-unhealthy
#[test]
fn where_no_server_serves_calls_fail_with_what_each_says() {
    let mut stage = ready(2);
    stage.says(0, ConnectivityState::TransientFailure);
    let effects = stage.says(1, ConnectivityState::TransientFailure);
    assert_eq!(effects.len(), 1);
    assert!(effects[0].starts_with("TRANSIENT_FAILURE fail UNAVAILABLE: h"), "{effects:?}");
    let failures = sorted(stage.picks(2));
    assert_eq!(failures, ["fail UNAVAILABLE: h0", "fail UNAVAILABLE: h1"]);
    // One that asks again is no failure.
    assert_eq!(stage.says(1, ConnectivityState::Connecting), ["CONNECTING queue"]);
    assert_eq!(stage.says(0, ConnectivityState::Ready), ["READY pick #0"]);
}

// spec: A61/health-beside-connectivity
#[test]
fn a_server_that_does_not_serve_keeps_its_connection() {
    let mut stage = ready(1);
    let effects = stage.says(0, ConnectivityState::TransientFailure);
    assert_eq!(effects, ["TRANSIENT_FAILURE fail UNAVAILABLE: h0"], "neither given up nor dialled");
    let report = stage.policy.inspect();
    assert_eq!(report.children[0].connectivity, ConnectivityState::TransientFailure);
    assert_eq!(report.children[0].note.as_deref(), Some("h0"));
    // What it says of one that is not connected does not show.
    assert_eq!(stage.idle(0), ["connect #0", "CONNECTING queue"]);
    stage.connecting(0);
    assert_eq!(stage.fails(0), ["TRANSIENT_FAILURE fail UNAVAILABLE: e0"]);
}

#[test]
fn what_a_server_said_is_forgotten_with_its_subchannel() {
    let mut stage = ready(1);
    stage.says(0, ConnectivityState::TransientFailure);
    stage.update(&[&["other"]]);
    assert!(stage.policy.unhealthy.is_empty());
    assert_eq!(stage.says(0, ConnectivityState::TransientFailure), nothing(), "it is nobody's");
    assert!(stage.policy.unhealthy.is_empty());
}

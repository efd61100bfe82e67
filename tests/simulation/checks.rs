//! What must hold of every run.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use switchboard::ConnectivityState::{self, Connecting, Idle, Ready, Shutdown, TransientFailure};
use switchboard::{
    ActorAnswer, ActorKind, ActorReport, Code, Inspection, PolicyReport, StateChange,
};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::attempts::Allowed;
use crate::calls::{Call, Calls, End, WRONG, Wanted};
use crate::network::Network;
use crate::resolver::Names;
use crate::server::Fleet;
use crate::trace::Trace;
use crate::world::{HOSTS, World};

/// After every step.
pub(crate) async fn step(world: &mut World) {
    settle().await;
    let now = Instant::now();
    for (number, call) in world.calls.pending() {
        if call.wanted.timeout.is_some_and(|timeout| call.begun + timeout + LATENESS < now) {
            let text = format_args!("call {number} outlives its deadline: {call}");
            world.trace.violated("deadlines", text);
        }
    }
    if world.faults.hold_reads() {
        world.reads_since = now;
    }
    for (host, since) in world.network.cut() {
        let open = world.network.open_to(&host);
        let since = since.max(world.reads_since);
        if world.notices_silence && since + SILENCE_MAX < now && open > 0 {
            let text = format_args!("{open} connections to {host} are kept, which is silent");
            world.trace.violated("keepalive", text);
        }
    }
    let pending = world.calls.pending().len();
    let state = world.channel.state();
    world.trace.tell(format_args!("channel {state}, {pending} calls pending"));
    if let Some(inspection) = inspect(world).await {
        stands(world, &inspection);
    }
}

/// When all has been well for long: the channel is READY, with these hosts and no others.
pub(crate) async fn rest(world: &mut World, hosts: &[&str]) {
    let Some(inspection) = inspect(world).await else {
        return world.trace.violated("rest", "the channel does not come to rest");
    };
    if inspection.state != Ready {
        let text = format_args!("the channel is {}:\n{inspection}", inspection.state);
        world.trace.violated("rest", text);
    }
    let expected: BTreeSet<&str> = hosts.iter().copied().collect();
    let subchannels = subchannels(&inspection);
    let found: BTreeSet<&str> = subchannels.values().map(|it| address(it)).collect();
    let is_right = if inspection.configured_policy == "round_robin" {
        found == expected && subchannels.values().all(|it| it.state == READY)
    } else {
        found.is_subset(&expected) && found.len() == 1
    };
    if !is_right {
        let text = format_args!("not connected to {expected:?} as it ought to be:\n{inspection}");
        world.trace.violated("rest", text);
    }
    idle_servers(world);
    if world.names.alive() != 1 {
        let text = format_args!("{} resolvers are at work", world.names.alive());
        world.trace.violated("rest", text);
    }
    let streams = subchannels.values().flat_map(|it| &it.connections).map(|it| it.open_streams);
    let (streams, pending) = (streams.sum::<usize>(), world.calls.pending().len());
    if streams != pending {
        let text = format_args!("{streams} streams for {pending} calls:\n{inspection}");
        world.trace.violated("losers", text);
    }
    let timers = reports(&inspection).filter(|it| it.next_timer.is_some()).count();
    let watches = subchannels.values().filter(|it| is_asked(it)).count();
    // The root, a resolver's worker; each actor, its timer, its watch, and each connection's driver.
    let expected = 2 + inspection.actors.len() + timers + watches + inspection.connections;
    let tasks = world.trace.foreign_tasks();
    if tasks != expected {
        let text = format_args!("{tasks} tasks where {expected} are due:\n{inspection}");
        world.trace.violated("tasks", text);
    }
}

/// Servers have been told of every call that is over, whoever answered it.
fn idle_servers(world: &World) {
    for (server, call) in world.fleet.at_work() {
        if world.calls.get(call).is_some_and(|call| call.end.is_some()) {
            let text = format_args!("{server} is at work on call {call}, which is over");
            world.trace.violated("losers", text);
        }
    }
}

/// When the channel has been closed, which began at `closed_at`.
pub(crate) async fn closed(world: &mut World, closed_at: Instant) {
    settle().await;
    let state = world.channel.state();
    if state != Shutdown {
        world.trace.violated("close", format_args!("the channel is {state}"));
    }
    tokio::time::sleep(Duration::from_millis(10)).await;
    for (number, call) in world.calls.pending() {
        world.trace.violated("close", format_args!("call {number} goes on: {call}"));
    }
    let wanted = Wanted { wait_for_ready: true, ..Wanted::default() };
    let late = world.calls.begin(&world.channel, wanted, NO_POLICY);
    tokio::time::sleep(Duration::from_millis(10)).await;
    match world.calls.get(late).and_then(|call| call.end) {
        Some((_, End::Failed(status))) if status.code() == Code::CANCELLED => {}
        end => {
            world.trace.violated("close", format_args!("a call after it ends so: {end:?}"));
            world.calls.drop_call(late);
        }
    }
    let inspection = world.channel.inspect().await;
    if !inspection.actors.is_empty() || inspection.connections > 0 {
        world.trace.violated("close", format_args!("something is left:\n{inspection}"));
    }
    nothing_left(&mut world.fleet, &world.network, &world.names, &world.trace).await;
    judge_all(&world.fleet, &world.calls, &world.trace, Some(closed_at));
}

/// When the channel has ended, however it was: nothing of it is left.
pub(crate) async fn nothing_left(
    fleet: &mut Fleet,
    network: &Network,
    names: &Names,
    trace: &Trace,
) {
    fleet.crash_all();
    settle().await;
    let connections = network.open();
    if connections > 0 {
        trace.violated("end", format_args!("{connections} connections are left open"));
    }
    if names.alive() > 0 {
        trace.violated("end", "a resolver is left");
    }
    let tasks = trace.foreign_tasks();
    if tasks > 0 {
        trace.violated("end", format_args!("{tasks} tasks are left"));
    }
}

/// Sees whether every call went as it may, now that all are over.
/// `closed_at` is when the channel was closed, if it was.
pub(crate) fn judge_all(fleet: &Fleet, calls: &Calls, trace: &Trace, closed_at: Option<Instant>) {
    for (number, call) in calls.all() {
        judge(fleet, trace, closed_at, number, &call);
    }
}

/// Sees each change of the channel's state.
pub(crate) fn watch_edges(world: &World) -> AbortHandle {
    let mut changes = world.channel.watch_state();
    let trace = world.trace.clone();
    let watching = async move {
        let mut last = None;
        while let Some(change) = changes.next().await {
            let StateChange::Changed(state) = change else {
                trace.violated("edges", format_args!("{change:?}"));
                continue;
            };
            trace.tell(format_args!("channel is {state}"));
            if last.is_some_and(|last| !is_legal_edge(last, state)) {
                trace.violated("edges", format_args!("from {last:?} to {state}"));
            }
            last = Some(state);
        }
        if last != Some(Shutdown) {
            trace.violated("edges", format_args!("the last is {last:?}"));
        }
    };
    tokio::spawn(world.trace.counted(watching)).abort_handle()
}

/// Whether a channel may go from one state to the other.
fn is_legal_edge(from: ConnectivityState, to: ConnectivityState) -> bool {
    match (from, to) {
        (Shutdown, _) => false,
        (_, Shutdown) => true,
        // The latter where there turns out to be nothing to connect to.
        (Idle, to) => matches!(to, Connecting | TransientFailure),
        (from, to) => from != to,
    }
}

/// How the channel stands, if it stands still.
async fn inspect(world: &World) -> Option<Inspection> {
    settle().await;
    let first = world.channel.inspect().await;
    settle().await;
    let second = world.channel.inspect().await;
    world.faults.judge(&second, &world.trace);
    let is_whole = second.actors.iter().all(|it| matches!(it, ActorAnswer::Answered(_)));
    let is_still = first.to_string() == second.to_string();
    (is_whole && is_still && !second.actors.is_empty()).then_some(second)
}

/// Sees whether the parts of a channel that stands still agree.
fn stands(world: &World, inspection: &Inspection) {
    let wrong = |what: &str| {
        world.trace.violated("inspection", format_args!("{what}:\n{inspection}"));
    };
    let subchannels = subchannels(inspection);
    for report in subchannels.values() {
        if report.state == READY && world.network.open_to(address(report)) == 0 {
            wrong("a READY subchannel has no connection");
        }
        if report.state != READY && !report.connections.is_empty() {
            wrong("a subchannel has a connection and is not READY");
        }
        // One of them has the watch of the server's health.
        let more = usize::from(is_asked(report));
        let has_room = report
            .connections
            .iter()
            .any(|it| it.streams_allowed.is_none_or(|allowed| it.open_streams + more < allowed));
        if has_room && report.counters.get("queued streams").is_some_and(|queued| *queued > 0) {
            wrong("a call waits for a stream, and there is room for it");
        }
        if !HOSTS.contains(&address(report)) {
            wrong("a subchannel leads nowhere");
        }
        let states = report.transitions.iter().map(|it| it.state.as_str());
        let states: Vec<_> = states.filter(|state| *state != "started").collect();
        if !states.windows(2).all(|edge| is_legal_step(edge[0], edge[1])) {
            wrong("a subchannel goes a way that is none");
        }
    }
    let queued = subchannels.values().filter_map(|it| it.counters.get("queued streams"));
    // A call that has been picked for may wait for a stream, whatever becomes of the channel.
    let none_queued = queued.sum::<u64>() == 0;
    for (number, call) in world.calls.pending() {
        let goes = inspection.state == Ready;
        let fails = inspection.state == TransientFailure && !call.wanted.wait_for_ready;
        let waits = call.waits_for_pick() && !world.faults.fail_calls();
        if waits && none_queued && (goes || fails) {
            wrong(&format!("call {number} waits for nothing: {call}"));
        }
    }
    let held: BTreeSet<u32> = inspection.policy.iter().flat_map(held).collect();
    let alive: BTreeSet<u32> = subchannels.keys().copied().collect();
    if held != alive {
        wrong("the policies hold other subchannels than there are");
    }
    let Some(client_conn) = reports(inspection).find(|it| it.actor == ActorKind::ClientConn) else {
        return wrong("there is no ClientConn");
    };
    if client_conn.state != "started" && client_conn.state != inspection.state.to_string() {
        wrong("the ClientConn is in another state than the channel");
    }
    if let Some(root) = &inspection.policy {
        if root.connectivity != inspection.state {
            wrong("the channel is in another state than its policy");
        }
        agree(root, &subchannels, &wrong);
    }
}

/// Sees whether a policy and what is below it agree.
fn agree(policy: &PolicyReport, subchannels: &BTreeMap<u32, &ActorReport>, wrong: &impl Fn(&str)) {
    if policy.policy == "round_robin" && !policy.children.is_empty() {
        let children = policy.children.iter().map(|child| child.connectivity);
        if ConnectivityState::aggregate(children) != policy.connectivity {
            wrong("round_robin is not the aggregate of its endpoints");
        }
    }
    if policy.policy == "pick_first" {
        let own = policy.subchannels.iter().filter_map(|id| subchannels.get(id));
        let ready = own.filter(|it| it.state == READY && is_healthy(it)).count();
        if (policy.connectivity == Ready) != (ready > 0) {
            wrong("pick_first is READY or not, and its subchannels are otherwise");
        }
    }
    policy.children.iter().for_each(|child| agree(child, subchannels, wrong));
}

/// Whether a subchannel may go from one state to the other.
fn is_legal_step(from: &str, to: &str) -> bool {
    matches!(
        (from, to),
        ("IDLE", "CONNECTING")
            | ("CONNECTING", "READY" | "TRANSIENT_FAILURE")
            | ("READY" | "TRANSIENT_FAILURE", "IDLE")
            // A further connection was being made when the last one was lost (A105).
            | ("READY", "CONNECTING" | "TRANSIENT_FAILURE")
            | (_, "SHUTDOWN")
    )
}

/// Sees whether a call went as it may, now that it is over.
fn judge(fleet: &Fleet, trace: &Trace, closed_at: Option<Instant>, number: u64, call: &Call) {
    let wrong = |checker: &str, what: &str| {
        let processed = fleet.processed(number);
        let text = format_args!("call {number} {what}: {call}, processed by {processed:?}");
        trace.violated(checker, text);
    };
    let Some((at, end)) = &call.end else { return wrong("ends", "has not ended") };
    let processed = fleet.processed(number);
    let is_closed = closed_at.is_some_and(|closed_at| *at >= closed_at);
    if call.seen.counted > 0 && call.seen.ended.is_none() {
        wrong("ends", "ended unobserved");
    }
    let deadline = call.wanted.timeout.map(|timeout| call.begun + timeout);
    if deadline.is_some_and(|deadline| *at > deadline + LATENESS) {
        wrong("deadlines", "outlived its deadline");
    }
    match end {
        End::Answered(server) => {
            // A stream without a message has only an end.
            if !processed.iter().any(|it| server.is_empty() || it.server == *server) {
                wrong("answers", "was answered by a server that has not seen it");
            }
            if call.seen.ended != Some(Ok(())) {
                wrong("ends", "was answered, and observed otherwise");
            }
        }
        End::Failed(status) => {
            if status.message().starts_with(WRONG) {
                wrong("answers", "was answered with something else");
            } else if call.seen.counted > 0 && call.seen.ended != Some(Err(status.code())) {
                wrong("ends", "failed, and observed otherwise");
            }
            // A deadline names the last attempt, which the loss of a connection may have ended.
            let is_deadline = status.code() == Code::DEADLINE_EXCEEDED;
            if status.message().contains("closed by this side") && !is_closed && !is_deadline {
                wrong("causes", "failed by what nobody did");
            }
            let is_early = deadline.is_none_or(|deadline| *at + EARLINESS < deadline);
            if status.code() == Code::DEADLINE_EXCEEDED && is_early {
                wrong("deadlines", "gave up before its deadline");
            }
        }
        End::Dropped => {}
    }
    for (reset_at, reason) in fleet.resets(number) {
        if reason != h2::Reason::CANCEL {
            wrong("losers", &format!("was reset with {reason}"));
        }
        if reset_at < *at {
            wrong("losers", "had an attempt reset while it went on");
        }
        if reset_at > *at + RESET_LATENESS {
            let late = reset_at - *at;
            wrong("losers", &format!("had an attempt reset {late:?} after its end"));
        }
    }
    let allowed = call.attempts_max;
    if call.seen.counted > allowed {
        wrong("attempts", &format!("had more attempts than {allowed}"));
    }
    if processed.len() > allowed as usize {
        wrong("attempts", &format!("was processed more often than {allowed}"));
    }
    // One refusal in the life of a call counts as no attempt.
    if fleet.requests(number) > u64::from(allowed) + 1 {
        let requests = fleet.requests(number);
        wrong("attempts", &format!("came to servers {requests} times"));
    }
    let befores: BTreeSet<u32> = processed.iter().map(|it| it.before).collect();
    if befores.len() < processed.len() {
        wrong("attempts", "was processed twice as the same attempt");
    }
}

/// The reports of the actors that answered.
fn reports(inspection: &Inspection) -> impl Iterator<Item = &ActorReport> {
    inspection.actors.iter().filter_map(|actor| match actor {
        ActorAnswer::Answered(report) => Some(report),
        ActorAnswer::Silent { .. } => None,
    })
}

/// The reports of the subchannels, by number.
fn subchannels(inspection: &Inspection) -> BTreeMap<u32, &ActorReport> {
    let named = reports(inspection).filter_map(|report| {
        let (number, _) = report.id.as_ref()?.strip_prefix('#')?.split_once(' ')?;
        Some((number.parse().ok()?, report))
    });
    named.collect()
}

fn address(report: &ActorReport) -> &str {
    report.id.as_deref().and_then(|id| id.split_once(' ')).map_or("", |(_, address)| address)
}

/// Whether a server is asked for its health, as far as is known.
fn is_asked(subchannel: &ActorReport) -> bool {
    let health = subchannel.facts.get("health").map_or("off", String::as_str);
    !(health == "off" || health.starts_with("unsupported"))
}

/// Whether a server serves, or is not asked.
fn is_healthy(subchannel: &ActorReport) -> bool {
    !is_asked(subchannel) || subchannel.facts["health"] == "serving"
}

/// The subchannels of a policy and of all below it.
fn held(policy: &PolicyReport) -> Vec<u32> {
    let below = policy.children.iter().flat_map(held);
    policy.subchannels.iter().copied().chain(below).collect()
}

/// Lets everything happen that happens at this moment.
async fn settle() {
    for _ in 0..SETTLING_TURNS {
        tokio::task::yield_now().await;
    }
}

const READY: &str = "READY";

/// How long a connection may be silent: the keepalive's times, what the server had begun to say, and
/// a bit.
const SILENCE_MAX: Duration = Duration::from_secs(20);

const NO_POLICY: Allowed = Allowed { retried: 1, hedged: 1 };

/// How much later than its deadline a call may end: connections look for it this often, and timers
/// go by milliseconds.
const LATENESS: Duration = Duration::from_millis(10);

/// How long after the end of a call its servers may hear of it: the slowest way, and a bit.
const RESET_LATENESS: Duration = Duration::from_millis(650);

/// Timers go by milliseconds.
const EARLINESS: Duration = Duration::from_millis(2);

/// More than any chain of messages between actors is long.
const SETTLING_TURNS: usize = 40;

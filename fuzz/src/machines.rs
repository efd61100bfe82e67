//! The machines and the tree of policies, on a clock that the input moves.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use switchboard::fuzzing::{Action, Connection, Did, Machines, Policies};
use switchboard::{
    Address, ConnectivityState, Endpoint, Metadata, MethodPath, PickArgs, PickResult, Picker,
    PolicyReport, Status, SubchannelId, SubchannelState,
};

use super::input::Input;

/// What happens to a channel, in any order: its policies pick no subchannel that they have given
/// up, give up each once and know all others; no timer stays in the past; no machine begins what it
/// is at already; and once everything can be reached, calls are sent there.
pub fn machines(input: &[u8]) {
    let mut input = Input::new(input);
    let mut world = World::new(input.byte().into());
    while !input.is_empty() {
        let what = input.byte();
        match what % 16 {
            0 => world.update(&mut input),
            1 => world.act(|it, now| it.resolver_failed(now, Status::unavailable("no names"))),
            2 => world.act(Policies::exit_idle),
            3 => world.act(Policies::flush),
            4 | 5 => world.pass(Duration::from_millis(input.short().into())),
            6 => world.pass(Duration::from_secs(u64::from(input.byte()))),
            7..=10 => world.subchannel_steps(input.byte(), input.byte()),
            11 => world.deliver(),
            12 => world.resolution(input.byte()),
            13 => world.idle(&mut input),
            14 => world.scaling(&mut input),
            _ => world.token(&mut input),
        }
        world.check();
    }
    world.recovers();
}

struct World {
    now: Instant,
    policies: Policies,
    machines: Machines,
    /// Those that have not been given up.
    live: BTreeMap<SubchannelId, Connection>,
    retired: BTreeSet<SubchannelId>,
    /// What connections have reported and nobody has read.
    reports: VecDeque<(SubchannelId, ConnectivityState)>,
    published: Option<(ConnectivityState, Arc<dyn Picker>)>,
    /// Whether the last update had an address.
    has_addresses: bool,
    under_way: UnderWay,
}

/// What the machines are at.
#[derive(Default)]
struct UnderWay {
    looking: bool,
    dialing: bool,
    fetching: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            now: tokio::time::Instant::now().into_std(),
            policies: Policies::new(seed),
            machines: Machines::new(seed),
            live: BTreeMap::new(),
            retired: BTreeSet::new(),
            reports: VecDeque::new(),
            published: None,
            has_addresses: false,
            under_way: UnderWay::default(),
        }
    }

    /// Endpoints of up to three addresses out of sixteen, and one of the policies.
    fn update(&mut self, input: &mut Input<'_>) {
        let config = [
            r#"{"loadBalancingConfig":[{"pick_first":{}}]}"#,
            r#"{"loadBalancingConfig":[{"round_robin":{}}]}"#,
            r#"{"loadBalancingConfig":[{"pick_first":{"shuffleAddressList":true}}]}"#,
        ][usize::from(input.below(3))];
        let count = input.below(7);
        let endpoints: Vec<_> = (0..count)
            .map(|_| {
                let addresses = input.below(4);
                Endpoint::new((0..addresses).map(|_| address(input.byte())))
            })
            .collect();
        self.has_addresses = endpoints.iter().any(|it| !it.addresses().is_empty());
        let actions = self.policies.update(self.now, config, endpoints);
        self.take(actions.expect("the config is good"));
    }

    fn act(&mut self, act: impl FnOnce(&mut Policies, Instant) -> Vec<Action>) {
        let actions = act(&mut self.policies, self.now);
        self.take(actions);
    }

    fn take(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Create(id) => {
                    assert!(!self.retired.contains(&id), "{id} is used again");
                    assert!(self.live.insert(id, Connection::default()).is_none());
                }
                Action::Connect(id) => {
                    assert!(self.live.contains_key(&id), "{id} is told to connect");
                    self.step(id, CONNECT);
                }
                Action::Retire(id) => {
                    self.step(id, RETIRE);
                    assert!(self.live.remove(&id).is_some(), "{id} is given up");
                    assert!(self.retired.insert(id), "{id} is given up twice");
                }
                Action::Publish(connectivity, picker) => {
                    self.published = Some((connectivity, picker));
                }
                Action::RejectUpdate(reason) => {
                    assert!(!reason.is_empty());
                    assert!(!self.has_addresses, "{reason}");
                }
                Action::ResolveNow => {}
            }
        }
    }

    /// One thing happens to one connection.
    fn step(&mut self, id: SubchannelId, event: usize) {
        let Some(connection) = self.live.get_mut(&id) else { return };
        let before = connection.connectivity();
        let did = connection.step(self.now, event, &mut self.machines);
        let after = connection.connectivity();
        let mut reported = None;
        for did in did {
            match did {
                Did::Dial(deadline) => {
                    // A pause before the dial is a part of connecting.
                    let is_after_pause = before == ConnectivityState::Connecting
                        && matches!(event, WAKE | RESET_BACKOFF);
                    assert!(before == ConnectivityState::Idle || is_after_pause, "{before:?}");
                    assert!(deadline > self.now);
                }
                Did::AbandonDial => assert_eq!(before, ConnectivityState::Connecting),
                Did::Drain => assert_eq!(before, ConnectivityState::Ready),
                Did::ResolveNow => assert!(matches!(event, DIAL_FAILED | LOST)),
                Did::Report(connectivity) => {
                    assert_eq!(reported.replace(connectivity), None);
                    self.reports.push_back((id, connectivity));
                }
            }
        }
        // Each change is told, and told once.
        assert_eq!(reported, (before != after).then_some(after), "{before} by {event}");
    }

    fn subchannel_steps(&mut self, which: u8, event: u8) {
        // Connections are not retired but by policies, and woken by the clock.
        let event = [DIALED, DIAL_FAILED, LOST, RESET_BACKOFF][usize::from(event % 4)];
        let id = self.live.keys().copied().nth(usize::from(which) % self.live.len().max(1));
        if let Some(id) = id {
            self.step(id, event);
            if which < 128 {
                self.deliver();
            }
        }
    }

    /// The policies hear what there is to hear, but of those that they gave up.
    fn deliver(&mut self) {
        while let Some((id, connectivity)) = self.reports.pop_front() {
            if self.live.contains_key(&id) {
                let failed = connectivity == ConnectivityState::TransientFailure;
                let error = failed.then(|| Status::unavailable("refused"));
                let state = SubchannelState { connectivity, error };
                self.act(|policies, now| policies.subchannel_changed(now, id, state));
                self.check();
            }
        }
        self.act(Policies::flush);
    }

    /// Time goes by; whoever wanted to be woken meanwhile is.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        for _ in 0..WAKES_MAX {
            let due = self.next_wake().filter(|due| *due <= until);
            self.now = due.unwrap_or(until).max(self.now);
            if due.is_none() {
                return;
            }
            self.wake();
        }
        panic!("a timer stays in the past");
    }

    fn next_wake(&self) -> Option<Instant> {
        let of_machines = [
            self.policies.wake_at(),
            self.machines.resolution_wake_at(),
            self.machines.idle_wake_at(),
            self.machines.scaling_wake_at(),
        ];
        let of_connections = self.live.values().map(Connection::wake_at);
        of_machines.into_iter().chain(of_connections).flatten().min()
    }

    fn wake(&mut self) {
        let is_due = |at: Option<Instant>, now| at.is_some_and(|at| at <= now);
        if is_due(self.policies.wake_at(), self.now) {
            self.act(Policies::wake);
            assert!(!is_due(self.policies.wake_at(), self.now), "the policies' timer");
        }
        let due = self.live.iter().filter(|(_, it)| is_due(it.wake_at(), self.now));
        let due: Vec<_> = due.map(|(id, _)| *id).collect();
        for id in due {
            self.step(id, WAKE);
        }
        if is_due(self.machines.resolution_wake_at(), self.now) {
            self.resolution(RESOLUTION_WAKE);
        }
        if is_due(self.machines.idle_wake_at(), self.now) {
            self.machines.idle(self.now, Some((0, None)), IDLE_TIMEOUT);
        }
        if is_due(self.machines.scaling_wake_at(), self.now) {
            let dials = self.machines.scaling(self.now, 3, (1, 1), (1, 3));
            self.scaled(dials, 3);
        }
    }

    fn resolution(&mut self, event: u8) {
        let event = event % 10;
        let was_looking = self.under_way.looking;
        if matches!(event, 1 | 2) {
            self.under_way.looking = false;
        }
        for effect in self.machines.resolution(self.now, event.into()) {
            match &*effect {
                "Look" => {
                    assert!(!self.under_way.looking, "two lookups at a time, by {event}");
                    self.under_way.looking = true;
                }
                "Abandon" => self.under_way.looking = false,
                "TimedOut" => assert!(was_looking),
                other => panic!("{other}"),
            }
        }
    }

    fn idle(&mut self, input: &mut Input<'_>) {
        let calls = usize::from(input.below(3));
        let ago = Duration::from_secs(input.byte().into());
        let last_end = self.now.checked_sub(ago).filter(|_| calls != 2);
        let usage = (calls < 2).then_some((calls, last_end));
        let goes = self.machines.idle(self.now, usage, IDLE_TIMEOUT);
        let in_use = calls > 0 || last_end.is_some_and(|_| ago < IDLE_TIMEOUT);
        assert!(!(goes && in_use), "idle with {calls} calls, the last {ago:?} ago");
        let wakes = self.machines.idle_wake_at();
        assert!(wakes.is_none_or(|at| at > self.now || usage.is_none()), "it looks all the time");
    }

    fn scaling(&mut self, input: &mut Input<'_>) {
        let event = usize::from(input.below(5));
        let (open, waiting) = (input.below(5).into(), input.below(3).into());
        let (warm, max) = (input.below(4).into(), input.below(6).into());
        let dials = self.machines.scaling(self.now, event, (open, waiting), (warm, max));
        let wanted = if waiting > 0 { max.max(warm) } else { warm };
        if dials {
            assert!(open > 0 && open < wanted, "{open} of {wanted}");
        }
        self.scaled(dials, event);
    }

    fn scaled(&mut self, dials: bool, event: usize) {
        if matches!(event, 1 | 2) {
            self.under_way.dialing = false;
        }
        if dials {
            assert!(!self.under_way.dialing, "two dials at once, by {event}");
            self.under_way.dialing = true;
        }
    }

    fn token(&mut self, input: &mut Input<'_>) {
        let expires = Duration::from_secs(input.short().into());
        let fetched = match input.below(4) {
            0 => Some(Ok(Some(self.now + expires))),
            1 => Some(Ok(None)),
            2 => Some(Err(Status::unavailable("no token"))),
            _ => None,
        };
        if fetched.is_some() {
            self.under_way.fetching = false;
        }
        let asked = fetched.is_none();
        if self.machines.token(self.now, fetched) {
            assert!(asked && !self.under_way.fetching, "two fetches at a time");
            self.under_way.fetching = true;
        }
        // Whoever has asked and waits, waits for something.
        if asked && self.machines.token_answer(self.now) == "wait" {
            assert!(self.under_way.fetching);
        }
    }

    fn check(&self) {
        let mut known = BTreeSet::new();
        serials(&self.policies.inspect(), &mut known);
        let live: BTreeSet<_> = self.live.keys().map(|id| id.serial()).collect();
        assert_eq!(known, live, "what the policies know, and what there is");
        let Some((connectivity, picker)) = &self.published else { return };
        let method = MethodPath::parse_static("/fuzz.Service/Unary").expect("a path");
        let metadata = Metadata::new();
        for _ in 0..8 {
            match (connectivity, picker.pick(&PickArgs::new(&method, &metadata))) {
                (ConnectivityState::Ready, PickResult::Complete(pick)) => {
                    let id = pick.subchannel();
                    assert!(self.live.contains_key(&id), "{id} is picked and gone");
                }
                (ConnectivityState::Connecting | ConnectivityState::Idle, PickResult::Queue)
                | (ConnectivityState::TransientFailure, PickResult::Fail(_)) => {}
                (connectivity, result) => panic!("{connectivity} with {result:?}"),
            }
        }
    }

    /// Everything can be reached from now on: the channel is READY before long.
    fn recovers(&mut self) {
        if !self.has_addresses {
            return;
        }
        for _ in 0..100 {
            self.deliver();
            self.act(Policies::exit_idle);
            for id in self.live.keys().copied().collect::<Vec<_>>() {
                self.step(id, DIALED);
            }
            self.deliver();
            self.check();
            let state = self.published.as_ref().map(|(connectivity, _)| *connectivity);
            if state == Some(ConnectivityState::Ready) {
                return;
            }
            self.pass(Duration::from_secs(1));
        }
        panic!("never READY: {:?}", self.policies.inspect());
    }
}

fn address(number: u8) -> Address {
    let ip = if number & 16 == 0 { [10, 0, 0, number & 15].into() } else { v6(number & 15) };
    Address::Socket(SocketAddr::new(ip, 1))
}

fn v6(last: u8) -> std::net::IpAddr {
    std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last.into()).into()
}

fn serials(report: &PolicyReport, into: &mut BTreeSet<u32>) {
    for serial in &report.subchannels {
        assert!(into.insert(*serial), "#{serial} belongs to two");
    }
    for child in &report.children {
        serials(child, into);
    }
}

// In the order of `Connection::step`.
const CONNECT: usize = 0;
const DIALED: usize = 1;
const DIAL_FAILED: usize = 2;
const LOST: usize = 3;
const WAKE: usize = 4;
const RESET_BACKOFF: usize = 5;
const RETIRE: usize = 6;

/// In the order of `Machines::resolution`.
const RESOLUTION_WAKE: u8 = 7;

const IDLE_TIMEOUT: Duration = Duration::from_secs(100);

/// More than any machine wakes in the longest time that passes at once.
const WAKES_MAX: usize = 10_000;

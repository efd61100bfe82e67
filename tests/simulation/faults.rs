//! Faults that a run injects, and takes back.

use std::time::Duration;

use switchboard::{Channel, Code, Endpoint, Fault, Injected, Inspection, Status};

use crate::chance::Chance;
use crate::trace::Trace;

/// Those that were injected and not taken back, the oldest first.
#[derive(Default)]
pub(crate) struct Faults(Vec<Active>);

struct Active {
    kind: Kind,
    injected: Injected,
    /// As inspections show it.
    what: String,
    scope: String,
    times: Option<u32>,
}

/// What a fault does, as far as it matters for what may be expected.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Calls fail for no other reason.
    Calls,
    /// What servers send is kept back.
    Reads,
    Other,
}

/// To what a fault can be confined.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    Channel,
    Address,
    AddressAndMethod,
}

impl Faults {
    /// Injects any fault, which befalls `host` if it befalls one; look-ups that are to find something
    /// find `endpoints`.
    pub(crate) async fn inject(
        &mut self,
        channel: &Channel,
        host: &str,
        endpoints: Vec<Endpoint>,
        chance: &mut Chance,
        trace: &Trace,
    ) {
        let Drawn { mut fault, what, reach, kind } = Drawn::any(endpoints, chance);
        let mut scope = "all addresses".to_owned();
        if reach != Reach::Channel && chance.percent(60) {
            fault = fault.at(host);
            scope = host.to_owned();
        }
        if reach == Reach::AddressAndMethod && chance.percent(40) {
            fault = fault.of_method(METHOD);
            scope = format!("{scope}, {METHOD}");
        }
        let mut times = None;
        if kind != Kind::Reads {
            if chance.percent(30) {
                let rate = *chance.one_of(&[0.25, 0.75]);
                let seed = chance.below(1_000);
                fault = fault.with_probability(rate, seed);
                scope = format!("{scope}, at a rate of {rate} by seed {seed}");
            }
            times = chance.percent(40).then(|| chance.between(1, 3) as u32);
            if let Some(times) = times {
                fault = fault.times(times);
            }
        }
        trace.tell(format_args!("injected: {what}, at {scope}, {times:?} times"));
        match channel.inject(fault).await {
            Ok(injected) => self.0.push(Active { kind, injected, what, scope, times }),
            Err(error) => trace.violated("faults", error),
        }
    }

    /// Takes one back, if there is any.
    pub(crate) fn remove_one(&mut self, chance: &mut Chance, trace: &Trace) {
        if !self.0.is_empty() {
            let at = chance.below(self.0.len() as u64) as usize;
            self.remove(at, trace);
        }
    }

    /// Takes all back.
    pub(crate) fn remove_all(&mut self, trace: &Trace) {
        while !self.0.is_empty() {
            self.remove(0, trace);
        }
    }

    fn remove(&mut self, at: usize, trace: &Trace) {
        let Active { injected, what, scope, .. } = self.0.remove(at);
        let was_active = injected.is_active();
        trace.tell(format_args!("no longer: {what}, at {scope}; was active: {was_active}"));
        if injected.remove() != was_active {
            trace.violated("faults", format_args!("{what} was active, or was not, to its removal"));
        }
    }

    /// Sees that an inspection shows those that are not over, and no others.
    pub(crate) fn judge(&self, inspection: &Inspection, trace: &Trace) {
        let active: Vec<_> = self.0.iter().filter(|it| it.injected.is_active()).collect();
        let is_shown = active.len() == inspection.faults.len()
            && active.iter().zip(&inspection.faults).all(|(active, shown)| {
                let is_left = match (active.times, shown.left) {
                    (None, None) => true,
                    (Some(times), Some(left)) => (1..=times).contains(&left),
                    _ => false,
                };
                is_left && active.what == shown.what && active.scope == shown.scope
            });
        if !is_shown {
            let active: Vec<_> = active.iter().map(|it| (&it.what, &it.scope, it.times)).collect();
            let text = format_args!("{active:?} are active, not {:?}", inspection.faults);
            trace.violated("faults", text);
        }
    }

    /// Whether calls may fail for no other reason. One that is over may have left its mark.
    pub(crate) fn fail_calls(&self) -> bool {
        self.0.iter().any(|it| it.kind == Kind::Calls)
    }

    /// Whether what servers send may be kept back.
    pub(crate) fn hold_reads(&self) -> bool {
        self.0.iter().any(|it| it.kind == Kind::Reads)
    }
}

/// A fault that may be confined yet.
struct Drawn {
    fault: Fault,
    what: String,
    reach: Reach,
    kind: Kind,
}

impl Drawn {
    fn any(endpoints: Vec<Endpoint>, chance: &mut Chance) -> Self {
        let millis = Duration::from_millis(chance.between(1, LATER_MILLIS_MAX));
        let found = format!("look-ups find {} endpoints", endpoints.len());
        let not_today = Status::new(Code::UNAVAILABLE, "not today");
        let code = *chance.one_of(&[0, 2, 11]);
        let nth = chance.below(14);
        let (fault, what) = match nth {
            0 => (Fault::resolution(endpoints), found),
            1 => {
                let fault = Fault::resolution_error("not to be found");
                (fault, "look-ups fail: not to be found".to_owned())
            }
            2 => (Fault::resolution_hangs(), "look-ups hang".to_owned()),
            3 => (Fault::calls_fail(not_today), "calls fail: UNAVAILABLE: not today".to_owned()),
            4 => (Fault::dial_refused(), "dials are refused".to_owned()),
            5 => (Fault::dial_delayed(millis), format!("dials take {millis:?} longer")),
            6 => (Fault::dial_hangs(), "dials hang".to_owned()),
            7 => (Fault::handshake_fails(), "handshakes fail".to_owned()),
            8 => (Fault::connection_cut(), "connections are cut".to_owned()),
            9 => (Fault::goaway(code), format!("servers go away with error code {code}")),
            10 => (Fault::stream_refused(), "streams are refused".to_owned()),
            11 => (Fault::reads_stalled(), "nothing arrives".to_owned()),
            12 => (Fault::latency(millis), format!("what arrives comes {millis:?} later")),
            _ => (Fault::loss(0.3), "0.3 of what arrives is lost at first".to_owned()),
        };
        let reach = match nth {
            0..4 => Reach::Channel,
            10 => Reach::AddressAndMethod,
            _ => Reach::Address,
        };
        let kind = match nth {
            3 => Kind::Calls,
            11.. => Kind::Reads,
            _ => Kind::Other,
        };
        Self { fault, what, reach, kind }
    }
}

/// The one method that streams are refused of, where it is not all.
const METHOD: &str = "/sim.Sim/Retried";

const LATER_MILLIS_MAX: u64 = 1_000;

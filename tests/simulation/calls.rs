//! The calls of a run: what was asked, what an observer saw of it, and how it ended.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use switchboard::{
    AttemptKind, CallEvent, CallInfo, CallObserver, CallOptions, Channel, Code, Method, Observer,
    Raw, Request, Status, kind,
};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::attempts::{Allowed, Attempts, Policy, Rules};
use crate::trace::Trace;

/// A handle: clones share the calls.
#[derive(Clone)]
pub(crate) struct Calls(Arc<Inner>);

struct Inner {
    trace: Trace,
    calls: Mutex<BTreeMap<u64, Call>>,
    rules: Mutex<Rules>,
    /// Whether all service configs have the same policies.
    are_policies_certain: bool,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted {
    /// How many messages there are to be answered; none for a unary call.
    pub(crate) stream_messages: Option<u64>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) wait_for_ready: bool,
    pub(crate) policy: Policy,
}

/// A call, as far as it has come.
#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) wanted: Wanted,
    pub(crate) begun: Instant,
    pub(crate) end: Option<(Instant, End)>,
    /// What the observer saw.
    pub(crate) seen: Seen,
    /// How many attempts the service configs allowed at most.
    pub(crate) attempts_max: u32,
    attempts: Attempts,
    abort: Option<AbortHandle>,
}

/// How a call ended, as its caller sees it.
#[derive(Clone, Debug)]
pub(crate) enum End {
    /// Answered, by this server.
    Answered(String),
    Failed(Status),
    /// The caller has let go of it.
    Dropped,
}

/// What the observer saw of a call.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// First attempts, retries and hedges: those that a policy counts.
    pub(crate) counted: u32,
    pub(crate) transparent: u32,
    /// Attempts that have begun and not ended.
    pub(crate) open: BTreeSet<u32>,
    /// Attempts whose headers are on their way.
    pub(crate) sent: BTreeSet<u32>,
    pub(crate) ended: Option<Result<(), Code>>,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // No instants: they differ from run to run.
        let end = self.end.as_ref().map(|(at, end)| (at.duration_since(self.begun), end));
        write!(f, "{:?}, ended: {end:?}, {:?}", self.wanted, self.seen)
    }
}

impl Call {
    /// Whether no server has it, and it does not rest.
    pub(crate) fn only_waits(&self) -> bool {
        self.waits_for_pick() && self.seen.open.is_disjoint(&self.seen.sent)
    }

    /// Whether an attempt of it has not found a connection.
    pub(crate) fn waits_for_pick(&self) -> bool {
        self.end.is_none() && self.seen.open.iter().any(|attempt| !self.seen.sent.contains(attempt))
    }
}

impl Calls {
    pub(crate) fn new(trace: &Trace, rules: Rules, are_policies_certain: bool) -> Self {
        let (calls, rules) = (Mutex::default(), Mutex::new(rules));
        Self(Arc::new(Inner { trace: trace.clone(), calls, rules, are_policies_certain }))
    }

    /// The channel is closed from now on.
    pub(crate) fn close(&self) {
        self.0.rules.lock().unwrap().is_closing = true;
    }

    /// Makes a call, in a task of its own.
    pub(crate) fn begin(&self, channel: &Channel, wanted: Wanted, allowed: Allowed) -> u64 {
        let number = self.calls(|calls| calls.len() as u64);
        let call = Call {
            wanted,
            begun: Instant::now(),
            end: None,
            seen: Seen::default(),
            attempts_max: allowed.of(wanted.policy),
            attempts: Attempts::default(),
            abort: None,
        };
        self.0.trace.tell(format_args!("call {number} begins: {wanted:?}"));
        self.calls(|calls| calls.insert(number, call));
        let (calls, channel) = (self.clone(), channel.clone());
        let calling = async move {
            let outcome = make(&channel, number, wanted).await;
            calls.ended(number, outcome);
        };
        let task = tokio::spawn(self.0.trace.counted(NUMBER.scope(number, calling)));
        self.change(number, |call| call.abort = Some(task.abort_handle()));
        number
    }

    /// The caller of this call loses interest, if it has not ended.
    pub(crate) fn drop_call(&self, number: u64) {
        let abort = self.change(number, |call| {
            if call.end.is_some() {
                return None;
            }
            call.end = Some((Instant::now(), End::Dropped));
            call.abort.take()
        });
        if let Some(abort) = abort.flatten() {
            self.0.trace.tell(format_args!("call {number} is dropped"));
            abort.abort();
        }
    }

    /// All calls, by number.
    pub(crate) fn all(&self) -> BTreeMap<u64, Call> {
        self.calls(|calls| calls.clone())
    }

    /// Those that have not ended.
    pub(crate) fn pending(&self) -> Vec<(u64, Call)> {
        self.calls(|calls| {
            let pending = calls.iter().filter(|(_, call)| call.end.is_none());
            pending.map(|(number, call)| (*number, call.clone())).collect()
        })
    }

    pub(crate) fn get(&self, number: u64) -> Option<Call> {
        self.calls(|calls| calls.get(&number).cloned())
    }

    /// Calls that have not ended may have so many attempts from now on.
    pub(crate) fn allow(&self, allowed: Allowed) {
        self.calls(|calls| {
            for call in calls.values_mut().filter(|call| call.end.is_none()) {
                call.attempts_max = call.attempts_max.max(allowed.of(call.wanted.policy));
            }
        });
    }

    fn ended(&self, number: u64, outcome: Result<String, Status>) {
        self.0.trace.tell(match &outcome {
            Ok(server) => format!("call {number} is answered by {server}"),
            Err(status) => format!("call {number} fails: {status}"),
        });
        let end = match outcome {
            Ok(server) => End::Answered(server),
            Err(status) => End::Failed(status),
        };
        let second = self.change(number, |call| call.end.replace((Instant::now(), end)));
        if let Some(Some((_, first))) = second {
            self.0.trace.violated("ends", format_args!("call {number} ends again after {first:?}"));
        }
    }

    fn change<T>(&self, number: u64, change: impl FnOnce(&mut Call) -> T) -> Option<T> {
        self.calls(|calls| calls.get_mut(&number).map(change))
    }

    fn calls<T>(&self, look: impl FnOnce(&mut BTreeMap<u64, Call>) -> T) -> T {
        look(&mut self.0.calls.lock().unwrap())
    }
}

impl Observer for Calls {
    fn call_began(&self, _: &CallInfo<'_>) -> Option<Arc<dyn CallObserver>> {
        let number = NUMBER.try_with(|number| *number).ok()?;
        Some(Arc::new(Watch { number, calls: self.clone() }))
    }
}

/// Watches one call.
struct Watch {
    number: u64,
    calls: Calls,
}

impl CallObserver for Watch {
    fn event(&self, event: &CallEvent<'_>) {
        let inner = &self.calls.0;
        let is_certain = inner.are_policies_certain;
        let mut rules = inner.rules.lock().unwrap();
        let wrong = self.calls.change(self.number, |call| {
            let out_of_turn = call.order(event).map(|wrong| ("events", wrong.to_owned()));
            out_of_turn.or_else(|| call.attempt(event, is_certain, &mut rules))
        });
        if let Some(Some((checker, wrong))) = wrong {
            let text = format_args!("call {}: {wrong} ({event:?})", self.number);
            inner.trace.violated(checker, text);
        }
    }
}

impl Call {
    /// Sees that events come in turn.
    fn order(&mut self, event: &CallEvent<'_>) -> Option<&'static str> {
        let seen = &mut self.seen;
        if seen.ended.is_some() {
            return Some("something happens after its end");
        }
        match *event {
            CallEvent::AttemptBegan { attempt, kind } => {
                match kind {
                    AttemptKind::TransparentRetry => seen.transparent += 1,
                    _ => seen.counted += 1,
                }
                let together =
                    if self.wanted.policy == Policy::Hedged { self.attempts_max } else { 1 };
                if seen.open.len() >= together as usize {
                    return Some("too many attempts are under way together");
                }
                if seen.counted > self.attempts_max {
                    return Some("there are more attempts than may be");
                }
                seen.open.insert(attempt);
            }
            CallEvent::RequestHeaders { attempt, .. } if !seen.sent.insert(attempt) => {
                return Some("the headers of one attempt are sent twice");
            }
            CallEvent::AttemptEnded { attempt, .. } if !seen.open.remove(&attempt) => {
                return Some("an attempt ends that is not under way");
            }
            CallEvent::Ended { result } => {
                seen.ended = Some(result.map_err(Status::code));
                if !seen.open.is_empty() {
                    return Some("it ends before its attempt");
                }
            }
            _ => {}
        }
        None
    }

    /// Sees that attempts are made when the policies and servers say.
    fn attempt(
        &mut self,
        event: &CallEvent<'_>,
        is_certain: bool,
        rules: &mut Rules,
    ) -> Option<(&'static str, String)> {
        let policy = self.wanted.policy;
        match *event {
            CallEvent::AttemptBegan { kind, .. } => {
                return self.attempts.began(kind, rules).map(|wrong| ("policies", wrong));
            }
            CallEvent::PickCompleted { attempt, .. } => self.attempts.picked(attempt, rules),
            CallEvent::ResponseHeaders { attempt, .. } => self.attempts.headers(attempt),
            CallEvent::ResponseTrailers { attempt, metadata } => {
                self.attempts.trailers(attempt, metadata);
            }
            CallEvent::AttemptEnded { attempt, result } => {
                let certain =
                    if is_certain && self.attempts_max > 1 { policy } else { Policy::None };
                let result = result.map_err(Status::code);
                self.attempts.ended(attempt, result, certain, rules);
            }
            _ => {}
        }
        None
    }
}

/// Makes the call, and sees that each answer is of its own question. Gives who answered.
async fn make(channel: &Channel, number: u64, wanted: Wanted) -> Result<String, Status> {
    let Some(messages) = wanted.stream_messages else {
        let method = match wanted.policy {
            Policy::None => &PLAIN,
            Policy::Retried => &RETRIED,
            Policy::Hedged => &HEDGED,
        };
        let mut request = Request::new(question(number, 0)).wait_for_ready(wanted.wait_for_ready);
        if let Some(timeout) = wanted.timeout {
            request = request.timeout(timeout);
        }
        request.metadata_mut().insert("call", number.to_string()).unwrap();
        let reply = channel.invoke(method, request).await?;
        return answerer(number, 0, reply.message());
    };
    let is_retried = wanted.policy == Policy::Retried;
    let method = if is_retried { &RETRIED_STREAM } else { &PLAIN_STREAM };
    let mut options = CallOptions::new().wait_for_ready(wanted.wait_for_ready);
    if let Some(timeout) = wanted.timeout {
        options = options.timeout(timeout);
    }
    options.metadata_mut().insert("call", number.to_string()).unwrap();
    let mut stream = channel.new_stream(method, options).await?;
    let mut server = None;
    for nth in 0..messages {
        // Where sending fails, what is received says why.
        let _ = stream.send(question(number, nth)).await;
        let Some(reply) = stream.recv().await? else {
            return Err(Status::new(Code::UNKNOWN, format!("{WRONG}: answer {nth} is missing")));
        };
        let answerer = answerer(number, nth, &reply)?;
        if server.get_or_insert_with(|| answerer.clone()) != &answerer {
            let text = format!("{WRONG}: two servers answer, {server:?} and {answerer}");
            return Err(Status::new(Code::UNKNOWN, text));
        }
    }
    stream.close_send();
    match stream.recv().await? {
        None => Ok(server.unwrap_or_default()),
        Some(_) => Err(Status::new(Code::UNKNOWN, format!("{WRONG}: one answer too many"))),
    }
}

fn question(number: u64, nth: u64) -> Bytes {
    format!("call {number} message {nth}").into()
}

/// Who gave this answer; an error where it is the answer to something else.
fn answerer(number: u64, nth: u64, reply: &Bytes) -> Result<String, Status> {
    let text = String::from_utf8_lossy(reply).into_owned();
    let expected = format!("call {number} message {nth} from ");
    let server = text.strip_prefix(&expected).and_then(|rest| rest.split(' ').next());
    let wrong = || Status::new(Code::UNKNOWN, format!("{WRONG}: {text}, expected {expected}…"));
    server.map(str::to_owned).ok_or_else(wrong)
}

tokio::task_local! {
    /// The call that a task makes.
    static NUMBER: u64;
}

/// How the message of a call begins that was answered as it must not be.
pub(crate) const WRONG: &str = "wrong answer";

const PLAIN: Method<Bytes, Bytes> = Method::with_codec::<Raw>("/sim.Sim/Plain");
const RETRIED: Method<Bytes, Bytes> = Method::with_codec::<Raw>("/sim.Sim/Retried");
const HEDGED: Method<Bytes, Bytes> = Method::with_codec::<Raw>("/sim.Sim/Hedged");
const PLAIN_STREAM: Method<Bytes, Bytes, kind::BidiStreaming> =
    Method::with_codec::<Raw>("/sim.Sim/PlainStream");
const RETRIED_STREAM: Method<Bytes, Bytes, kind::BidiStreaming> =
    Method::with_codec::<Raw>("/sim.Sim/RetriedStream");

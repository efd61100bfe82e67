//! Model servers: h2 over the simulated network, with faults by chance, and a memory of every request
//! that they have taken on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::chance::Chance;
use crate::network::{Network, Pipe};
use crate::trace::Trace;

/// All servers of a run.
pub(crate) struct Fleet {
    network: Network,
    trace: Trace,
    seed: u64,
    servers: BTreeMap<String, Server>,
    book: Arc<Mutex<Book>>,
}

struct Server {
    manner: Arc<Mutex<Manner>>,
    health: Arc<Mutex<HealthBoard>>,
    lives: u64,
    running: Option<Running>,
}

struct Running {
    accepting: AbortHandle,
    /// Where each connection takes orders; in a list, as a channel for all of them would tell them
    /// in any order.
    orders: Orders,
}

type Orders = Arc<Mutex<Vec<mpsc::UnboundedSender<Order>>>>;

#[derive(Clone, Copy)]
enum Order {
    /// Take no new streams, and finish those there are.
    Leave,
    /// Disown the streams that nobody has begun with.
    Quit,
}

/// How a server treats requests.
#[derive(Clone, Copy, Default)]
pub(crate) struct Manner {
    /// How many of a hundred go wrong.
    pub(crate) faults_percent: u64,
    /// How long an answer takes at most, in milliseconds.
    pub(crate) service_millis_max: u64,
    /// How many streams a connection may have, where there is a limit.
    pub(crate) streams_max: Option<u32>,
}

/// What a server says to those who ask whether it serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Health {
    /// This number: 1 is SERVING.
    Says(u8),
    /// That it does not know the question.
    Unimplemented,
    /// That the watch is over, with this code.
    Ends(u32),
    /// Nothing.
    #[default]
    Silence,
}

impl Health {
    pub(crate) const SERVING: Self = Self::Says(1);
    pub(crate) const NOT_SERVING: Self = Self::Says(2);
}

/// The health of a server, and those who watch it, in a list: they are told in its order.
#[derive(Default)]
struct HealthBoard {
    now: Health,
    watching: Vec<mpsc::UnboundedSender<Health>>,
    /// It has told somebody that it does not know the question: it is not asked again on that
    /// connection.
    has_declined: bool,
}

/// What all servers have seen, by call.
#[derive(Default)]
struct Book {
    /// All of them, those that were refused included.
    requests: BTreeMap<u64, u64>,
    processed: BTreeMap<u64, Vec<Processed>>,
    /// When clients took requests back that nobody answers, and why.
    resets: BTreeMap<u64, Vec<(Instant, Reason)>>,
    /// Requests that are at work, by server, and how many of each call.
    at_work: BTreeMap<(String, u64), usize>,
}

/// A request that a server has taken on: the application has seen it.
#[derive(Clone, Debug)]
pub(crate) struct Processed {
    /// Which server, and which life of it.
    pub(crate) server: String,
    /// How many attempts there were before, as the request says.
    pub(crate) before: u32,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    Answer,
    /// Never seen by the application.
    Refuse,
    /// Ends with this code, and nothing else.
    Fail(u32),
    /// The same, and says this about another attempt.
    PushBack(u32, &'static [&'static str]),
    /// Ends so, after the headers and for streams after some messages.
    FailLate(u32),
    Reset(Reason),
    Silence,
    /// Is answered, and the server takes no further ones on this connection.
    AnswerAndLeave,
}

impl Fleet {
    pub(crate) fn new(network: &Network, trace: &Trace, seed: u64) -> Self {
        let (network, trace) = (network.clone(), trace.clone());
        Self { network, trace, seed, servers: BTreeMap::new(), book: Arc::default() }
    }

    /// Starts the server, again if it has been stopped.
    pub(crate) fn start(&mut self, name: &str) {
        let server = self.servers.entry(name.to_owned()).or_insert_with(|| Server {
            manner: Arc::default(),
            health: Arc::default(),
            lives: 0,
            running: None,
        });
        if server.running.is_some() {
            return;
        }
        server.lives += 1;
        let orders = Orders::default();
        let shop = Shop {
            name: format!("{name}#{}", server.lives),
            seed: self.seed,
            manner: server.manner.clone(),
            health: server.health.clone(),
            book: self.book.clone(),
            trace: self.trace.clone(),
        };
        self.trace.tell(format_args!("server {} starts", shop.name));
        let (mut accepted, all_orders) = (self.network.listen(name), orders.clone());
        let serving = async move {
            let mut connections = JoinSet::new();
            while let Some(pipe) = accepted.recv().await {
                while connections.try_join_next().is_some() {}
                let (ordering, orders) = mpsc::unbounded_channel();
                let mut all_orders = all_orders.lock().unwrap();
                all_orders.retain(|one| !one.is_closed());
                all_orders.push(ordering);
                let shop = shop.clone();
                let trace = shop.trace.clone();
                connections.spawn(trace.counted(async move {
                    // However the connection ends, it is over.
                    let _ = shop.serve(pipe, orders).await;
                }));
            }
            // Nobody can dial any more; what is open goes on until somebody ends it.
            while connections.join_next().await.is_some() {}
        };
        let accepting = tokio::spawn(self.trace.counted(serving)).abort_handle();
        server.running = Some(Running { accepting, orders });
    }

    /// The server is gone, and its connections with it.
    pub(crate) fn crash(&mut self, name: &str) {
        if let Some(server) = self.servers.get_mut(name)
            && let Some(running) = server.running.take()
        {
            self.trace.tell(format_args!("server {name}#{} crashes", server.lives));
            self.network.vacate(name);
            running.accepting.abort();
        }
    }

    pub(crate) fn crash_all(&mut self) {
        let names: Vec<_> = self.servers.keys().cloned().collect();
        for name in &names {
            self.crash(name);
        }
    }

    /// The server's connections take no further streams; those that are not begun with are
    /// disowned where it is `abrupt`.
    pub(crate) fn go_away(&self, name: &str, abrupt: bool) {
        if let Some(running) = self.servers.get(name).and_then(|it| it.running.as_ref()) {
            let order = if abrupt { Order::Quit } else { Order::Leave };
            for connection in running.orders.lock().unwrap().iter() {
                // It may have ended.
                let _ = connection.send(order);
            }
        }
    }

    pub(crate) fn set_manner(&self, name: &str, manner: Manner) {
        if let Some(server) = self.servers.get(name) {
            *server.manner.lock().unwrap() = manner;
        }
    }

    /// From now on this is said, also to those who have asked.
    pub(crate) fn set_health(&self, name: &str, health: Health) {
        if let Some(server) = self.servers.get(name) {
            let mut board = server.health.lock().unwrap();
            if board.now != health {
                self.trace.tell(format_args!("{name} says of its health: {health:?}"));
            }
            board.now = health;
            board.watching.retain(|watching| watching.send(health).is_ok());
        }
    }

    /// Whether a connection to it may be one on which it is not asked again; from now on there is
    /// none.
    pub(crate) fn forget_declined(&self, name: &str) -> bool {
        let board = self.servers.get(name).map(|server| server.health.lock().unwrap());
        board.is_some_and(|mut board| std::mem::take(&mut board.has_declined))
    }

    pub(crate) fn health(&self, name: &str) -> Option<Health> {
        self.servers.get(name).map(|server| server.health.lock().unwrap().now)
    }

    /// How often a call has come to a server, be it to be refused.
    pub(crate) fn requests(&self, call: u64) -> u64 {
        self.book.lock().unwrap().requests.get(&call).copied().unwrap_or_default()
    }

    /// When a call was taken back that nobody answered, and why.
    pub(crate) fn resets(&self, call: u64) -> Vec<(Instant, Reason)> {
        self.book.lock().unwrap().resets.get(&call).cloned().unwrap_or_default()
    }

    /// Which servers are at work on which calls.
    pub(crate) fn at_work(&self) -> Vec<(String, u64)> {
        self.book.lock().unwrap().at_work.keys().cloned().collect()
    }

    /// Where a call was taken on, in order.
    pub(crate) fn processed(&self, call: u64) -> Vec<Processed> {
        self.book.lock().unwrap().processed.get(&call).cloned().unwrap_or_default()
    }
}

/// What every task of a server has.
#[derive(Clone)]
struct Shop {
    name: String,
    seed: u64,
    manner: Arc<Mutex<Manner>>,
    health: Arc<Mutex<HealthBoard>>,
    book: Arc<Mutex<Book>>,
    trace: Trace,
}

impl Shop {
    async fn serve(
        self,
        pipe: Pipe,
        mut orders: mpsc::UnboundedReceiver<Order>,
    ) -> Result<(), h2::Error> {
        let mut builder = h2::server::Builder::new();
        if let Some(max) = self.manner.lock().unwrap().streams_max {
            builder.max_concurrent_streams(max);
        }
        let mut connection = builder.handshake::<_, Bytes>(pipe).await?;
        let mut requests = JoinSet::new();
        let (leave, mut leaves) = mpsc::unbounded_channel();
        loop {
            tokio::select! {
                biased;
                Some(order) = orders.recv() => match order {
                    Order::Leave => connection.graceful_shutdown(),
                    Order::Quit => connection.abrupt_shutdown(Reason::NO_ERROR),
                },
                Some(()) = leaves.recv() => connection.graceful_shutdown(),
                Some(_) = requests.join_next() => {}
                request = connection.accept() => {
                    let Some(request) = request else { break };
                    let (request, respond) = request?;
                    let (shop, leave) = (self.clone(), leave.clone());
                    requests.spawn(self.trace.counted(async move {
                        // The client may be gone at any step, which is its affair.
                        let _ = shop.answer(request, respond, leave).await;
                    }));
                }
            }
        }
        // Streams that are still at work answer nobody.
        Ok(())
    }

    async fn answer(
        self,
        request: http::Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
        leave: mpsc::UnboundedSender<()>,
    ) -> Result<(), h2::Error> {
        if request.uri().path() == "/grpc.health.v1.Health/Watch" {
            return self.watch(request.into_body(), respond).await;
        }
        let number = |name| {
            let value = request.headers().get(name)?;
            value.to_str().ok()?.parse::<u64>().ok()
        };
        let call = number("call").unwrap_or(u64::MAX);
        let before = number("grpc-previous-rpc-attempts").unwrap_or(0) as u32;
        let is_stream = request.uri().path().ends_with("Stream");
        let (mut chance, plan) = self.plan(call);
        let late = chance.below(3);
        if plan == Plan::Refuse {
            self.trace.tell(format_args!("{} refuses call {call}", self.name));
            respond.send_reset(Reason::REFUSED_STREAM);
            return Ok(());
        }
        self.trace.tell(format_args!("{} takes call {call}, {before} before: {plan:?}", self.name));
        let processed = Processed { server: self.name.clone(), before };
        self.book.lock().unwrap().processed.entry(call).or_default().push(processed);
        let _working = Working::on(&self, call);
        let most = self.manner.lock().unwrap().service_millis_max;
        let mut work = async || {
            tokio::time::sleep(Duration::from_millis(chance.below(most + 1))).await;
        };
        let mut messages = Messages { body: request.into_body(), read: BytesMut::new() };
        let mut body: Option<SendStream<Bytes>> = None;
        // A stream may have had an answer when it goes wrong.
        let answers_before = if is_stream { late } else { 0 };
        let mut answered = 0_u64;
        if plan == Plan::Silence {
            let reason = std::future::poll_fn(|cx| respond.poll_reset(cx)).await?;
            self.trace.tell(format_args!("{} hears no more of call {call}: {reason}", self.name));
            let reset = (Instant::now(), reason);
            self.book.lock().unwrap().resets.entry(call).or_default().push(reset);
            return Ok(());
        }
        while let Some(message) = messages.next().await? {
            work().await;
            let body = match plan {
                Plan::Fail(code) => {
                    respond.send_response(trailers_only(code), true)?;
                    return Ok(());
                }
                Plan::PushBack(code, said) => {
                    let mut response = trailers_only(code);
                    for said in said {
                        let said = http::HeaderValue::from_static(said);
                        response.headers_mut().append("grpc-retry-pushback-ms", said);
                    }
                    respond.send_response(response, true)?;
                    return Ok(());
                }
                Plan::Reset(reason) => {
                    respond.send_reset(reason);
                    return Ok(());
                }
                Plan::AnswerAndLeave => {
                    let _ = leave.send(());
                    body.insert_if_none(&mut respond)?
                }
                Plan::Answer | Plan::Refuse | Plan::FailLate(_) | Plan::Silence => {
                    body.insert_if_none(&mut respond)?
                }
            };
            if let Plan::FailLate(code) = plan
                && answered >= answers_before
            {
                body.send_trailers(status(code))?;
                return Ok(());
            }
            let text = String::from_utf8_lossy(&message).into_owned();
            let reply = format!("{text} from {} attempt {before}", self.name);
            body.send_data(framed(reply.as_bytes()), false)?;
            answered += 1;
        }
        match body {
            Some(mut body) => body.send_trailers(status(0))?,
            None => drop(respond.send_response(trailers_only(0), true)?),
        }
        Ok(())
    }

    /// Says how it stands, and whenever that changes.
    async fn watch(
        self,
        body: RecvStream,
        mut respond: SendResponse<Bytes>,
    ) -> Result<(), h2::Error> {
        let asked = Messages { body, read: BytesMut::new() }.next().await?.unwrap_or_default();
        if asked != HEALTH_REQUEST {
            self.trace.violated("health", format_args!("a server is asked {asked:?}"));
        }
        let (watching, mut said) = mpsc::unbounded_channel();
        let mut health = {
            let mut board = self.health.lock().unwrap();
            board.watching.push(watching);
            board.now
        };
        let mut body: Option<SendStream<Bytes>> = None;
        loop {
            let code = match health {
                Health::Says(status) => {
                    let body = body.insert_if_none(&mut respond)?;
                    body.send_data(framed(&[8, status]), false)?;
                    None
                }
                Health::Unimplemented => {
                    self.health.lock().unwrap().has_declined = true;
                    Some(12)
                }
                Health::Ends(code) => Some(code),
                Health::Silence => None,
            };
            match (code, &mut body) {
                (None, _) => {}
                (Some(code), Some(body)) => return body.send_trailers(status(code)),
                (Some(code), None) => {
                    respond.send_response(trailers_only(code), true)?;
                    return Ok(());
                }
            }
            let gone = std::future::poll_fn(|cx| match &mut body {
                Some(body) => body.poll_reset(cx),
                None => respond.poll_reset(cx),
            });
            health = tokio::select! {
                biased;
                Some(health) = said.recv() => health,
                _ = gone => return Ok(()),
            };
            while let Ok(newer) = said.try_recv() {
                health = newer;
            }
        }
    }

    /// What becomes of the next request of `call`; the same whoever gets it.
    fn plan(&self, call: u64) -> (Chance, Plan) {
        let nth = {
            let mut book = self.book.lock().unwrap();
            let requests = book.requests.entry(call).or_default();
            *requests += 1;
            *requests
        };
        let mut chance = Chance::of(&[self.seed, call, nth, 2]);
        let percent = self.manner.lock().unwrap().faults_percent;
        if !chance.percent(percent) {
            return (chance, Plan::Answer);
        }
        let never = *chance.one_of(&NEVER);
        let plan = *chance.one_of(&[
            Plan::Refuse,
            Plan::Refuse,
            Plan::Fail(14),
            Plan::Fail(14),
            Plan::Fail(14),
            Plan::Fail(5),
            Plan::PushBack(14, &["0"]),
            Plan::PushBack(14, &["35"]),
            Plan::PushBack(14, &["700"]),
            Plan::PushBack(14, &["9000"]),
            Plan::PushBack(14, &["9000"]),
            Plan::PushBack(5, &["35"]),
            Plan::PushBack(14, never),
            Plan::FailLate(14),
            Plan::Reset(Reason::INTERNAL_ERROR),
            Plan::Reset(Reason::CANCEL),
            Plan::Silence,
            Plan::Silence,
            Plan::Silence,
            Plan::AnswerAndLeave,
        ]);
        (chance, plan)
    }
}

/// A request that is at work, for as long as this is there.
struct Working {
    book: Arc<Mutex<Book>>,
    what: (String, u64),
}

impl Working {
    fn on(shop: &Shop, call: u64) -> Self {
        let (book, what) = (shop.book.clone(), (shop.name.clone(), call));
        *book.lock().unwrap().at_work.entry(what.clone()).or_default() += 1;
        Self { book, what }
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        let mut book = self.book.lock().unwrap();
        let left = book.at_work.get_mut(&self.what).map(|many| {
            *many -= 1;
            *many
        });
        if left == Some(0) {
            book.at_work.remove(&self.what);
        }
    }
}

/// The body of a response, whose headers are sent when it is first needed.
trait Begin {
    fn insert_if_none(
        &mut self,
        respond: &mut SendResponse<Bytes>,
    ) -> Result<&mut SendStream<Bytes>, h2::Error>;
}

impl Begin for Option<SendStream<Bytes>> {
    fn insert_if_none(
        &mut self,
        respond: &mut SendResponse<Bytes>,
    ) -> Result<&mut SendStream<Bytes>, h2::Error> {
        match self {
            Some(body) => Ok(body),
            None => Ok(self.insert(respond.send_response(headers(), false)?)),
        }
    }
}

/// The messages of a request.
struct Messages {
    body: RecvStream,
    read: BytesMut,
}

impl Messages {
    async fn next(&mut self) -> Result<Option<Bytes>, h2::Error> {
        loop {
            if self.read.len() >= PREFIX_BYTES {
                let length = u32::from_be_bytes(self.read[1..PREFIX_BYTES].try_into().unwrap());
                if self.read.len() >= PREFIX_BYTES + length as usize {
                    self.read.advance(PREFIX_BYTES);
                    return Ok(Some(self.read.split_to(length as usize).freeze()));
                }
            }
            match self.body.data().await {
                None => return Ok(None),
                Some(data) => {
                    let data = data?;
                    self.body.flow_control().release_capacity(data.len())?;
                    self.read.extend_from_slice(&data);
                }
            }
        }
    }
}

fn headers() -> http::Response<()> {
    let mut response = http::Response::new(());
    let grpc = http::HeaderValue::from_static("application/grpc");
    response.headers_mut().insert("content-type", grpc);
    response
}

fn trailers_only(code: u32) -> http::Response<()> {
    let mut response = headers();
    response.headers_mut().extend(status(code));
    response
}

fn status(code: u32) -> http::HeaderMap {
    let mut fields = http::HeaderMap::new();
    fields.insert("grpc-status", code.into());
    if code != 0 {
        fields.insert("grpc-message", http::HeaderValue::from_static("as planned"));
    }
    fields
}

fn framed(payload: &[u8]) -> Bytes {
    let mut framed = vec![0];
    framed.extend((payload.len() as u32).to_be_bytes());
    framed.extend(payload);
    framed.into()
}

/// What servers say who want no other attempt, or cannot be understood.
const NEVER: [&[&str]; 6] = [&["-1"], &["1.5"], &["soon"], &[""], &["+5"], &["5", "5"]];

/// What servers are asked for, as service configs have it.
pub(crate) const HEALTH_SERVICE: &str = "sim.Sim";
const HEALTH_REQUEST: &[u8] = b"\x0a\x07sim.Sim";

/// The flag and the length before each message.
const PREFIX_BYTES: usize = 5;

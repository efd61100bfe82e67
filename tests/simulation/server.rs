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

/// What all servers have seen, by call.
#[derive(Default)]
struct Book {
    /// All of them, those that were refused included.
    requests: BTreeMap<u64, u64>,
    processed: BTreeMap<u64, Vec<Processed>>,
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

    /// How often a call has come to a server, be it to be refused.
    pub(crate) fn requests(&self, call: u64) -> u64 {
        self.book.lock().unwrap().requests.get(&call).copied().unwrap_or_default()
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
            let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
            return Ok(());
        }
        while let Some(message) = messages.next().await? {
            work().await;
            let body = match plan {
                Plan::Fail(code) => {
                    respond.send_response(trailers_only(code), true)?;
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
        let plan = *chance.one_of(&[
            Plan::Refuse,
            Plan::Refuse,
            Plan::Fail(14),
            Plan::Fail(14),
            Plan::Fail(14),
            Plan::Fail(5),
            Plan::FailLate(14),
            Plan::Reset(Reason::INTERNAL_ERROR),
            Plan::Reset(Reason::CANCEL),
            Plan::Silence,
            Plan::AnswerAndLeave,
        ]);
        (chance, plan)
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

/// The flag and the length before each message.
const PREFIX_BYTES: usize = 5;

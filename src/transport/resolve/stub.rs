//! Asks name servers, each in its turn.
//!
//! The messages are hickory's; whom to ask and what counts as an answer is decided here, as glibc
//! and Go do it. hickory's own resolver asks several servers at once and prefers those that were
//! fast, so that a server which knows less than the first of the list may be believed.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::super::error::in_words;
use super::resolv_conf::{ResolvConf, Transport};

/// The name servers of one look-up.
#[derive(Clone, Debug)]
pub(super) struct Stub {
    /// In the order in which they are asked.
    servers: Vec<SocketAddr>,
    timeout: Duration,
    attempts: u32,
    transport: Transport,
    edns: bool,
}

/// What a name server says of a name. This is final: no other is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// Records of the kind that was asked for.
    Records {
        /// What is in them; never empty.
        data: Vec<RData>,
        /// The shortest of their lives, aliases included.
        ttl: Duration,
    },
    /// The name exists, without such records.
    NoData,
    /// There is no such name.
    NoName,
}

impl Stub {
    /// Each look-up makes one. With `rotate` it begins with the server after that of the last,
    /// which `turn` counts.
    pub(super) fn new(conf: &ResolvConf, turn: &AtomicUsize) -> Self {
        let mut servers = conf.servers.clone();
        if conf.rotate {
            let first = turn.fetch_add(1, Ordering::Relaxed) % servers.len();
            servers.rotate_left(first);
        }
        Self {
            servers,
            timeout: conf.timeout,
            attempts: conf.attempts,
            transport: conf.transport,
            edns: conf.edns,
        }
    }

    /// Asks one server after the other until one has an answer, as often as there are attempts.
    pub(super) async fn ask(&self, name: &Name, kind: RecordType) -> Result<Said, NoAnswer> {
        let mut faults = Vec::new();
        for _ in 0..self.attempts {
            faults.clear();
            for server in &self.servers {
                match self.ask_one(*server, name, kind).await {
                    Ok(said) => return Ok(said),
                    Err(fault) => faults.push((*server, fault)),
                }
            }
        }
        Err(NoAnswer { faults })
    }

    async fn ask_one(
        &self,
        server: SocketAddr,
        name: &Name,
        kind: RecordType,
    ) -> Result<Said, Fault> {
        let reply = self.exchange(server, &question(name, kind, self.edns)).await?;
        // Old servers do not know EDNS, and say so in this way.
        if self.edns && reply.metadata.response_code == ResponseCode::FormErr {
            let reply = self.exchange(server, &question(name, kind, false)).await?;
            return said(&reply);
        }
        said(&reply)
    }

    async fn exchange(&self, server: SocketAddr, question: &Message) -> Result<Message, Fault> {
        let bytes = question.to_vec().map_err(|error| Fault::Io(io::Error::other(error)))?;
        let silent = |_| Fault::Silence(self.timeout);
        if self.transport == Transport::Udp {
            let reply = timeout(self.timeout, over_udp(server, question, &bytes)).await;
            let reply = reply.map_err(silent)??;
            if !reply.metadata.truncation {
                return Ok(reply);
            }
        }
        timeout(self.timeout, over_tcp(server, question, &bytes)).await.map_err(silent)?
    }
}

fn question(name: &Name, kind: RecordType, edns: bool) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name.clone(), kind));
    if edns {
        let mut edns = Edns::new();
        edns.set_max_payload(EDNS_PAYLOAD);
        message.set_edns(edns);
    }
    message
}

async fn over_udp(server: SocketAddr, question: &Message, bytes: &[u8]) -> Result<Message, Fault> {
    let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    // A port of its own for each question makes answers hard to forge.
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    // A connected socket hears that nobody listens there, and takes nothing from others.
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // What answers something else is late, or forged; the answer may come behind it.
        if let Some(reply) = reply_to(question, &buffer[..length]) {
            return reply;
        }
    }
}

async fn over_tcp(server: SocketAddr, question: &Message, bytes: &[u8]) -> Result<Message, Fault> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(|_| Fault::Garbled)?;
    stream.write_all(&[&length.to_be_bytes()[..], bytes].concat()).await?;
    let mut buffer = Vec::new();
    loop {
        let length = stream.read_u16().await?;
        buffer.resize(usize::from(length), 0);
        stream.read_exact(&mut buffer).await?;
        if let Some(reply) = reply_to(question, &buffer) {
            return reply;
        }
    }
}

/// What `bytes` are, unless they answer another question.
fn reply_to(question: &Message, bytes: &[u8]) -> Option<Result<Message, Fault>> {
    let id = question.metadata.id.to_be_bytes();
    let is_response = bytes.get(2).is_some_and(|flags| flags & 0x80 != 0);
    if !bytes.starts_with(&id) || !is_response {
        return None;
    }
    let Ok(reply) = Message::from_vec(bytes) else { return Some(Err(Fault::Garbled)) };
    let repeats = reply.queries == question.queries;
    // A server that cannot read the question need not repeat it.
    let is_failure =
        !matches!(reply.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain);
    let is_ours = reply.metadata.message_type == MessageType::Response
        && reply.metadata.op_code == OpCode::Query
        && (repeats || (is_failure && reply.queries.is_empty()));
    is_ours.then_some(Ok(reply))
}

/// Whether `reply` is an answer, after which no other server is asked, or a fault.
fn said(reply: &Message) -> Result<Said, Fault> {
    match reply.metadata.response_code {
        ResponseCode::NoError => {}
        ResponseCode::NXDomain => return Ok(Said::NoName),
        code => return Err(Fault::Refusal(code)),
    }
    let Some(query) = reply.queries.first() else { return Err(Fault::Garbled) };
    let mut ttl = u32::MAX;
    let mut name = query.name();
    // Aliases, in whatever order they stand.
    for _ in 0..ALIASES_MAX {
        let alias = reply.answers.iter().find_map(|record| match &record.data {
            RData::CNAME(alias) if record.name == *name => Some((&alias.0, record.ttl)),
            _ => None,
        });
        let Some((next, life)) = alias else { break };
        name = next;
        ttl = ttl.min(life);
    }
    let kind = query.query_type();
    let records = reply.answers.iter().filter(|it| it.record_type() == kind && it.name == *name);
    let mut data = Vec::new();
    for record in records {
        ttl = ttl.min(record.ttl);
        data.push(record.data.clone());
    }
    if !data.is_empty() {
        // A life with the highest bit set is over (RFC 2181, section 8).
        let seconds = if ttl > i32::MAX.unsigned_abs() { 0 } else { ttl };
        return Ok(Said::Records { data, ttl: Duration::from_secs(seconds.into()) });
    }
    let is_referral = reply.answers.is_empty()
        && !reply.metadata.authoritative
        && !reply.metadata.recursion_available
        && reply.authorities.iter().any(|record| record.record_type() == RecordType::NS);
    if is_referral { Err(Fault::Referral) } else { Ok(Said::NoData) }
}

/// No name server had an answer.
#[derive(Debug, Default)]
pub(super) struct NoAnswer {
    /// What came of each, the last time that it was asked.
    faults: Vec<(SocketAddr, Fault)>,
}

impl NoAnswer {
    /// Whether a server was there and could not tell.
    pub(super) fn is_server_failure(&self) -> bool {
        let failed = |fault: &Fault| matches!(fault, Fault::Refusal(ResponseCode::ServFail));
        self.faults.iter().any(|(_, fault)| failed(fault))
    }
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [(_, fault)] = &*self.faults {
            return fault.fmt(f);
        }
        let faults: Vec<_> =
            self.faults.iter().map(|(server, fault)| format!("{server}: {fault}")).collect();
        f.write_str(&faults.join("; "))
    }
}

impl Error for NoAnswer {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.faults.iter().find_map(|(_, fault)| match fault {
            Fault::Io(error) => Some(error as &(dyn Error + 'static)),
            Fault::Silence(_) | Fault::Refusal(_) | Fault::Garbled | Fault::Referral => None,
        })
    }
}

/// What is no answer: the next server is asked.
#[derive(Debug)]
enum Fault {
    /// The system could not send or receive: most of all, nobody listens there.
    Io(io::Error),
    /// Nothing within this time.
    Silence(Duration),
    /// An error of the server.
    Refusal(ResponseCode),
    /// A reply that is not a message of DNS.
    Garbled,
    /// The server knows only who else might know, and does not ask there.
    Referral,
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => f.write_str(&in_words(error)),
            Self::Silence(timeout) => write!(f, "timed out after {timeout:?}"),
            Self::Refusal(code) => {
                let name = match *code {
                    ResponseCode::FormErr => "FORMERR",
                    ResponseCode::ServFail => "SERVFAIL",
                    ResponseCode::NotImp => "NOTIMP",
                    ResponseCode::Refused => "REFUSED",
                    code => return write!(f, "{} (code {})", code.to_str(), u16::from(code)),
                };
                write!(f, "{} ({name})", code.to_str().to_ascii_lowercase())
            }
            Self::Garbled => f.write_str("the reply is not a DNS message"),
            Self::Referral => f.write_str("the server does not resolve names for others"),
        }
    }
}

/// What fits into a packet on every path; Go and most other resolvers say the same.
const EDNS_PAYLOAD: u16 = 1_232;

/// More than any chain of aliases that somebody keeps up.
const ALIASES_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use hickory_proto::rr::rdata::{A, CNAME, NS};
    use hickory_proto::rr::{Record, RecordType};
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    use super::*;

    /// What a name server does with a question.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Does {
        Nothing,
        /// Nobody listens on its port: the system answers with an ICMP message.
        BeClosed,
        Refuse(ResponseCode),
        /// As a server that could not read the question.
        RefuseWithoutQuestion,
        Answer,
        /// Over UDP too little, over TCP all.
        Truncate,
        /// Over UDP too little, over TCP nothing.
        TruncateOnly,
        NoName,
        NoData,
        Refer,
        /// Bytes that are no message.
        Garbage,
        /// The right number before bytes that are no message.
        GarbageWithId,
        WrongId,
        WrongQuestion,
        /// A message for something else, then the answer.
        StrayThenAnswer,
    }

    struct Server {
        address: SocketAddr,
        asked: Arc<Mutex<Vec<&'static str>>>,
        _tasks: JoinSet<()>,
    }

    impl Server {
        async fn start(does: Does, answer: [u8; 4]) -> Self {
            let (udp, tcp) = loop {
                let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
                if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                    break (udp, tcp);
                }
            };
            let address = udp.local_addr().unwrap();
            let asked = Arc::<Mutex<Vec<_>>>::default();
            let mut tasks = JoinSet::new();
            if does != Does::BeClosed {
                let told = asked.clone();
                tasks.spawn(async move {
                    let mut buffer = [0; 512];
                    loop {
                        let (length, peer) = udp.recv_from(&mut buffer).await.unwrap();
                        told.lock().unwrap().push("udp");
                        for reply in replies(does, answer, &buffer[..length]) {
                            udp.send_to(&reply, peer).await.unwrap();
                        }
                    }
                });
                let told = asked.clone();
                tasks.spawn(async move {
                    loop {
                        let (mut stream, _) = tcp.accept().await.unwrap();
                        told.lock().unwrap().push("tcp");
                        if does != Does::Truncate {
                            continue;
                        }
                        let mut buffer = vec![0; stream.read_u16().await.unwrap().into()];
                        stream.read_exact(&mut buffer).await.unwrap();
                        for reply in replies(Does::Answer, answer, &buffer) {
                            let length = u16::try_from(reply.len()).unwrap();
                            stream.write_u16(length).await.unwrap();
                            stream.write_all(&reply).await.unwrap();
                        }
                    }
                });
            }
            Self { address, asked, _tasks: tasks }
        }
    }

    fn replies(does: Does, ip: [u8; 4], question: &[u8]) -> Vec<Vec<u8>> {
        let asked = Message::from_vec(question).unwrap();
        let name = asked.queries[0].name().clone();
        let mut reply = Message::response(asked.metadata.id, OpCode::Query);
        reply.metadata.recursion_available = true;
        reply.add_queries(asked.queries.clone());
        let address = Record::from_rdata(name.clone(), 60, RData::A(A(ip.into())));
        match does {
            Does::Nothing | Does::BeClosed => return Vec::new(),
            Does::Refuse(code) => reply.metadata.response_code = code,
            Does::RefuseWithoutQuestion => {
                reply.metadata.response_code = ResponseCode::FormErr;
                reply.queries.clear();
            }
            Does::Answer => {
                reply.add_answer(address);
            }
            Does::Truncate | Does::TruncateOnly => reply.metadata.truncation = true,
            Does::NoName => reply.metadata.response_code = ResponseCode::NXDomain,
            Does::NoData => {}
            Does::Refer => {
                reply.metadata.recursion_available = false;
                let server = Name::from_ascii("ns.example.").unwrap();
                reply.add_authority(Record::from_rdata(name, 60, RData::NS(NS(server))));
            }
            Does::Garbage => return vec![b"x".to_vec(), vec![0xff; 40]],
            Does::GarbageWithId => {
                return vec![[&asked.metadata.id.to_be_bytes()[..], &[0xff; 40]].concat()];
            }
            Does::WrongId => {
                reply.metadata.id = !reply.metadata.id;
                reply.add_answer(address);
            }
            Does::WrongQuestion => {
                let other = Name::from_ascii("other.example.").unwrap();
                reply.queries = vec![Query::query(other, RecordType::A)];
                reply.add_answer(address);
            }
            Does::StrayThenAnswer => {
                let [stray] = &replies(Does::WrongId, [9; 4], question)[..] else { unreachable!() };
                let [answer] = &replies(Does::Answer, ip, question)[..] else { unreachable!() };
                return vec![b"x".to_vec(), stray.clone(), answer.clone()];
            }
        }
        vec![reply.to_vec().unwrap()]
    }

    const FIRST: [u8; 4] = [10, 0, 0, 1];
    const SECOND: [u8; 4] = [10, 0, 0, 2];

    /// Whether it takes a timeout to see that `does` is no answer.
    fn keeps_waiting(does: Does) -> bool {
        use Does::{Garbage, Nothing, TruncateOnly, WrongId, WrongQuestion};
        matches!(does, Nothing | TruncateOnly | Garbage | WrongId | WrongQuestion)
    }

    async fn ask(servers: &[&Server], does: &[Does], attempts: u32) -> Result<Said, NoAnswer> {
        // Only where nothing comes is it short: a busy machine must not make an answer late.
        let waits = does.iter().any(|does| keeps_waiting(*does));
        let timeout = if waits { Duration::from_millis(150) } else { Duration::from_secs(20) };
        let servers = servers.iter().map(|server| server.address).collect();
        let conf = ResolvConf { servers, timeout, attempts, ..ResolvConf::default() };
        let stub = Stub::new(&conf, &AtomicUsize::new(0));
        stub.ask(&Name::from_ascii("greeter.example.").unwrap(), RecordType::A).await
    }

    fn address(ip: [u8; 4]) -> Said {
        let data = vec![RData::A(A(ip.into()))];
        Said::Records { data, ttl: Duration::from_secs(60) }
    }

    #[tokio::test]
    async fn what_a_server_does_decides_whether_the_next_is_asked() {
        use Does::{
            Answer, BeClosed, Garbage, GarbageWithId, NoData, NoName, Nothing, Refer, Refuse,
            RefuseWithoutQuestion, StrayThenAnswer, Truncate, TruncateOnly, WrongId, WrongQuestion,
        };
        // What is final, wherever the server stands; `None` has the next server asked.
        let rows = [
            (Nothing, None, "timed out after 150ms"),
            (BeClosed, None, "connection refused"),
            (Refuse(ResponseCode::ServFail), None, "server failure (SERVFAIL)"),
            (Refuse(ResponseCode::Refused), None, "query refused (REFUSED)"),
            (Refuse(ResponseCode::NotImp), None, "not implemented (NOTIMP)"),
            (Refuse(ResponseCode::FormErr), None, "form error (FORMERR)"),
            (Refuse(ResponseCode::YXDomain), None, "(code 6)"),
            (RefuseWithoutQuestion, None, "form error (FORMERR)"),
            (Refer, None, "does not resolve names for others"),
            (Garbage, None, "timed out after 150ms"),
            (GarbageWithId, None, "not a DNS message"),
            (WrongId, None, "timed out after 150ms"),
            (WrongQuestion, None, "timed out after 150ms"),
            (TruncateOnly, None, ""),
            (Answer, Some(address(FIRST)), ""),
            (StrayThenAnswer, Some(address(FIRST)), ""),
            (Truncate, Some(address(FIRST)), ""),
            (NoName, Some(Said::NoName), ""),
            (NoData, Some(Said::NoData), ""),
        ];
        for (does, says, text) in rows {
            // First of two.
            let [first, second] =
                [Server::start(does, FIRST).await, Server::start(Answer, SECOND).await];
            let found = ask(&[&first, &second], &[does], 20).await.unwrap();
            assert_eq!(found, says.clone().unwrap_or_else(|| address(SECOND)), "{does:?} first");
            let asked_second = !second.asked.lock().unwrap().is_empty();
            assert_eq!(asked_second, says.is_none(), "{does:?} first");
            // Second of two, behind one that fails.
            let failing = Server::start(Refuse(ResponseCode::ServFail), FIRST).await;
            let found = ask(&[&failing, &first], &[does], 1).await;
            let (found, error) = (found.as_ref().ok(), found.as_ref().err());
            assert_eq!(found, says.as_ref(), "{does:?} second");
            if let Some(error) = error {
                let error = error.to_string();
                assert!(error.contains("SERVFAIL") && error.contains(text), "{does:?}: {error}");
            }
            // The only one.
            let found = ask(&[&first], &[does], 1).await;
            assert_eq!(found.as_ref().ok(), says.as_ref(), "{does:?} alone");
            if let Err(error) = found {
                assert!(error.to_string().contains(text), "{does:?}: {error}");
            }
        }
    }

    #[tokio::test]
    async fn each_server_is_asked_in_its_turn_as_often_as_there_are_attempts() {
        let does = Does::Refuse(ResponseCode::ServFail);
        let [one, two] = [Server::start(does, FIRST).await, Server::start(does, SECOND).await];
        let error = ask(&[&one, &two], &[], 3).await.unwrap_err();
        assert!(error.is_server_failure());
        for server in [&one, &two] {
            assert_eq!(*server.asked.lock().unwrap(), ["udp"; 3]);
        }
    }

    #[tokio::test]
    async fn an_answer_that_is_cut_short_is_fetched_over_tcp_from_the_same_server() {
        let server = Server::start(Does::Truncate, FIRST).await;
        assert_eq!(ask(&[&server], &[], 1).await.unwrap(), address(FIRST));
        assert_eq!(*server.asked.lock().unwrap(), ["udp", "tcp"]);
    }

    #[test]
    fn rotation_begins_each_look_up_with_another_server() {
        let servers = [1, 2, 3].map(|last| SocketAddr::from(([10, 0, 0, last], 53)));
        let conf = ResolvConf { servers: servers.into(), ..ResolvConf::default() };
        let firsts = |conf: &ResolvConf| {
            let turn = AtomicUsize::new(0);
            [(); 4].map(|()| Stub::new(conf, &turn).servers[0])
        };
        assert_eq!(firsts(&conf), [servers[0]; 4]);
        let rotating = ResolvConf { rotate: true, ..conf };
        assert_eq!(firsts(&rotating), [servers[0], servers[1], servers[2], servers[0]]);
        let turn = AtomicUsize::new(1);
        assert_eq!(Stub::new(&rotating, &turn).servers, [servers[1], servers[2], servers[0]]);
    }

    #[test]
    fn aliases_are_followed_in_any_order_and_records_of_others_are_left_out() {
        let name = |text| Name::from_ascii(text).unwrap();
        let alias =
            |from, to, ttl| Record::from_rdata(name(from), ttl, RData::CNAME(CNAME(name(to))));
        let a = |owner, ip: [u8; 4]| Record::from_rdata(name(owner), 60, RData::A(A(ip.into())));
        let rows = [
            (vec![a("x.", FIRST), a("y.", SECOND)], "10.0.0.1 60"),
            (vec![a("z.", FIRST), alias("y.", "Z.", 5), alias("x.", "y.", 90)], "10.0.0.1 5"),
            (vec![alias("x.", "y.", 5)], "NoData"),
            (vec![alias("x.", "x.", 5), a("x.", FIRST)], "10.0.0.1 5"),
            (vec![alias("x.", "y.", 5), alias("y.", "x.", 5)], "NoData"),
        ];
        for (answers, expected) in rows {
            let mut reply = Message::response(1, OpCode::Query);
            reply.add_query(Query::query(name("x."), RecordType::A));
            reply.add_answers(answers.clone());
            let found = match said(&reply).unwrap() {
                Said::Records { data, ttl } => {
                    let data: Vec<_> = data.iter().map(ToString::to_string).collect();
                    format!("{} {}", data.join(" "), ttl.as_secs())
                }
                other => format!("{other:?}"),
            };
            assert_eq!(found, expected, "{answers:?}");
        }
    }
}

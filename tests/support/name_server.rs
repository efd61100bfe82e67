//! A name server whose records a test changes.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::net::xfer::Protocol;
use hickory_server::proto::op::{Metadata, ResponseCode};
use hickory_server::proto::rr::rdata::{A, AAAA, TXT};
use hickory_server::proto::rr::{Name, RData, Record, RecordType};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::net::{TcpListener, UdpSocket};

/// Answers over UDP and TCP on one port of 127.0.0.1 until it is dropped. What it does not know
/// does not exist.
pub(crate) struct NameServer {
    address: SocketAddr,
    zone: Zone,
    _server: Server<Zone>,
}

/// What is answered to a question.
#[derive(Clone)]
pub(crate) enum Answer {
    /// These, to live for a minute.
    Addresses(Vec<IpAddr>),
    /// These, to live for so many seconds.
    Lasting(Vec<IpAddr>, u32),
    /// TXT records, each of some strings.
    Texts(Vec<Vec<String>>),
    /// SERVFAIL.
    Failure,
    /// REFUSED.
    Refusal,
    /// Nothing at all.
    Silence,
    /// These after a while.
    Late(Vec<IpAddr>, Duration),
}

#[derive(Clone, Default)]
struct Zone(Arc<Mutex<Records>>);

#[derive(Default)]
struct Records {
    answers: HashMap<String, Answer>,
    /// Answers to questions of one kind, which go before the others.
    by_kind: HashMap<(String, RecordType), Answer>,
    questions: Vec<Question>,
}

/// A question that was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) name: String,
    pub(crate) kind: RecordType,
    pub(crate) over_tcp: bool,
}

impl NameServer {
    pub(crate) async fn start() -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            // The same port may be taken for TCP; then another will do.
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let (address, zone) = (udp.local_addr().unwrap(), Zone::default());
        let mut server = Server::new(zone.clone());
        server.register_socket(udp);
        server.register_listener(tcp, Duration::from_secs(10), 64);
        Self { address, zone, _server: server }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on this is the answer for `name`, which is written with its last dot.
    pub(crate) fn set(&self, name: &str, answer: Answer) {
        self.zone.0.lock().unwrap().answers.insert(name.to_owned(), answer);
    }

    /// From now on this is the answer for `name` where the question is of this kind.
    pub(crate) fn set_kind(&self, name: &str, kind: RecordType, answer: Answer) {
        self.zone.0.lock().unwrap().by_kind.insert((name.to_owned(), kind), answer);
    }

    /// From now on there is no such name.
    pub(crate) fn remove(&self, name: &str) {
        self.zone.0.lock().unwrap().answers.remove(name);
    }

    /// The questions so far.
    pub(crate) fn questions(&self) -> Vec<Question> {
        self.zone.0.lock().unwrap().questions.clone()
    }
}

#[async_trait::async_trait]
impl RequestHandler for Zone {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut response: R,
    ) -> ResponseInfo {
        let asked = request.request_info().unwrap();
        let (name, kind) = (asked.query.name().to_string(), asked.query.query_type());
        let question =
            Question { name: name.clone(), kind, over_tcp: request.protocol() == Protocol::Tcp };
        let answer = {
            let mut records = self.0.lock().unwrap();
            records.questions.push(question);
            let by_kind = records.by_kind.get(&(name.clone(), kind));
            by_kind.or_else(|| records.answers.get(&name)).cloned()
        };
        let addresses = |ips: Vec<IpAddr>| ips.into_iter().map(of_ip).collect();
        let (code, data, ttl): (_, Vec<RData>, _) = match answer {
            Some(Answer::Addresses(ips)) => (ResponseCode::NoError, addresses(ips), 60),
            Some(Answer::Lasting(ips, ttl)) => (ResponseCode::NoError, addresses(ips), ttl),
            Some(Answer::Texts(texts)) => {
                let texts = texts.into_iter().map(|strings| RData::TXT(TXT::new(strings)));
                (ResponseCode::NoError, texts.collect(), 60)
            }
            Some(Answer::Failure) => (ResponseCode::ServFail, Vec::new(), 0),
            Some(Answer::Refusal) => (ResponseCode::Refused, Vec::new(), 0),
            Some(Answer::Silence) => std::future::pending().await,
            Some(Answer::Late(ips, wait)) => {
                tokio::time::sleep(wait).await;
                (ResponseCode::NoError, addresses(ips), 60)
            }
            None => (ResponseCode::NXDomain, Vec::new(), 0),
        };
        let name = Name::from_ascii(&name).unwrap();
        let data = data.into_iter().filter(|data| data.record_type() == kind);
        let records: Vec<_> =
            data.map(|data| Record::from_rdata(name.clone(), ttl, data)).collect();
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = code;
        let message = MessageResponseBuilder::from_message_request(request).build(
            metadata,
            &records,
            [],
            [],
            [],
        );
        // Whoever asked may be gone.
        response.send_response(message).await.unwrap()
    }
}

fn of_ip(ip: IpAddr) -> RData {
    match ip {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    }
}

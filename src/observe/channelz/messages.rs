//! The messages of `grpc.channelz.v1`, as far as a channel has something to say in them. Fields that
//! it has nothing for are left out, and a client finds them unset.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost::{Enumeration, Message, Oneof};

use super::super::inspection::ConnectionReport;
use super::data::{
    ChannelzCalls, ChannelzChannel, ChannelzEvent, ChannelzKind, ChannelzRef, ChannelzSeverity,
    ChannelzSocket, ChannelzSubchannel, ChannelzTrace,
};
use crate::types::{self, ConnectivityState, SecurityLevel};

#[derive(Clone, PartialEq, Message)]
pub(super) struct GetTopChannelsRequest {
    #[prost(int64, tag = "1")]
    pub(super) start_channel_id: i64,
    #[prost(int64, tag = "2")]
    pub(super) max_results: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct GetTopChannelsResponse {
    #[prost(message, repeated, tag = "1")]
    pub(super) channel: Vec<Channel>,
    #[prost(bool, tag = "2")]
    pub(super) end: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct GetServersRequest {}

/// Without servers: a client has none.
#[derive(Clone, PartialEq, Message)]
pub(super) struct GetServersResponse {
    #[prost(bool, tag = "2")]
    pub(super) end: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct GetServerRequest {
    #[prost(int64, tag = "1")]
    pub(super) server_id: i64,
}

/// Of that one server, or of its sockets.
#[derive(Clone, PartialEq, Message)]
pub(super) struct NothingOfServer {}

#[derive(Clone, PartialEq, Message)]
pub(super) struct GetChannelRequest {
    #[prost(int64, tag = "1")]
    pub(super) channel_id: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct GetChannelResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) channel: Option<Channel>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct GetSubchannelRequest {
    #[prost(int64, tag = "1")]
    pub(super) subchannel_id: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct GetSubchannelResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) subchannel: Option<Subchannel>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct GetSocketRequest {
    #[prost(int64, tag = "1")]
    pub(super) socket_id: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct GetSocketResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) socket: Option<Socket>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Channel {
    #[prost(message, optional, tag = "1")]
    itself: Option<ChannelRef>,
    #[prost(message, optional, tag = "2")]
    data: Option<ChannelData>,
    #[prost(message, repeated, tag = "3")]
    channels: Vec<ChannelRef>,
    #[prost(message, repeated, tag = "4")]
    subchannels: Vec<SubchannelRef>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Subchannel {
    #[prost(message, optional, tag = "1")]
    itself: Option<SubchannelRef>,
    #[prost(message, optional, tag = "2")]
    data: Option<ChannelData>,
    #[prost(message, repeated, tag = "5")]
    sockets: Vec<SocketRef>,
}

#[derive(Clone, PartialEq, Message)]
struct ChannelData {
    #[prost(message, optional, tag = "1")]
    state: Option<State>,
    #[prost(string, tag = "2")]
    target: String,
    #[prost(message, optional, tag = "3")]
    trace: Option<Trace>,
    #[prost(int64, tag = "4")]
    calls_started: i64,
    #[prost(int64, tag = "5")]
    calls_succeeded: i64,
    #[prost(int64, tag = "6")]
    calls_failed: i64,
    #[prost(message, optional, tag = "7")]
    last_call_started: Option<Timestamp>,
}

#[derive(Clone, PartialEq, Message)]
struct State {
    #[prost(enumeration = "StateNumber", tag = "1")]
    state: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
enum StateNumber {
    Unknown = 0,
    Idle = 1,
    Connecting = 2,
    Ready = 3,
    TransientFailure = 4,
    Shutdown = 5,
}

#[derive(Clone, PartialEq, Message)]
struct Trace {
    #[prost(int64, tag = "1")]
    logged: i64,
    #[prost(message, optional, tag = "2")]
    created: Option<Timestamp>,
    #[prost(message, repeated, tag = "3")]
    events: Vec<Event>,
}

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(string, tag = "1")]
    description: String,
    #[prost(enumeration = "Severity", tag = "2")]
    severity: i32,
    #[prost(message, optional, tag = "3")]
    at: Option<Timestamp>,
    #[prost(oneof = "About", tags = "4, 5")]
    about: Option<About>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
enum Severity {
    Unknown = 0,
    Info = 1,
    Warning = 2,
    Error = 3,
}

#[derive(Clone, PartialEq, Oneof)]
enum About {
    #[prost(message, tag = "4")]
    Channel(ChannelRef),
    #[prost(message, tag = "5")]
    Subchannel(SubchannelRef),
}

#[derive(Clone, PartialEq, Message)]
struct ChannelRef {
    #[prost(int64, tag = "1")]
    id: i64,
    #[prost(string, tag = "2")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct SubchannelRef {
    #[prost(int64, tag = "7")]
    id: i64,
    #[prost(string, tag = "8")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct SocketRef {
    #[prost(int64, tag = "3")]
    id: i64,
    #[prost(string, tag = "4")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Socket {
    #[prost(message, optional, tag = "1")]
    itself: Option<SocketRef>,
    #[prost(message, optional, tag = "2")]
    data: Option<SocketData>,
    #[prost(message, optional, tag = "3")]
    local: Option<Address>,
    #[prost(message, optional, tag = "4")]
    remote: Option<Address>,
    #[prost(message, optional, tag = "5")]
    security: Option<Security>,
}

#[derive(Clone, PartialEq, Message)]
struct SocketData {
    #[prost(int64, tag = "1")]
    streams_started: i64,
    #[prost(int64, tag = "2")]
    streams_succeeded: i64,
    #[prost(int64, tag = "3")]
    streams_failed: i64,
    #[prost(int64, tag = "4")]
    messages_sent: i64,
    #[prost(int64, tag = "5")]
    messages_received: i64,
    #[prost(int64, tag = "6")]
    keep_alives_sent: i64,
    #[prost(message, optional, tag = "7")]
    last_local_stream_created: Option<Timestamp>,
    #[prost(message, optional, tag = "9")]
    last_message_sent: Option<Timestamp>,
    #[prost(message, optional, tag = "10")]
    last_message_received: Option<Timestamp>,
    /// What this side grants the server. What the server grants the engine does not tell.
    #[prost(message, optional, tag = "12")]
    remote_flow_control_window: Option<i64>,
    #[prost(message, repeated, tag = "13")]
    option: Vec<SocketOption>,
}

#[derive(Clone, PartialEq, Message)]
struct SocketOption {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, Message)]
struct Address {
    #[prost(oneof = "AnyAddress", tags = "1, 2, 3")]
    address: Option<AnyAddress>,
}

#[derive(Clone, PartialEq, Oneof)]
enum AnyAddress {
    #[prost(message, tag = "1")]
    TcpIp(TcpIpAddress),
    #[prost(message, tag = "2")]
    Uds(UdsAddress),
    #[prost(message, tag = "3")]
    Other(OtherAddress),
}

#[derive(Clone, PartialEq, Message)]
struct TcpIpAddress {
    #[prost(bytes = "vec", tag = "1")]
    ip_address: Vec<u8>,
    #[prost(int32, tag = "2")]
    port: i32,
}

#[derive(Clone, PartialEq, Message)]
struct UdsAddress {
    #[prost(string, tag = "1")]
    filename: String,
}

#[derive(Clone, PartialEq, Message)]
struct OtherAddress {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct Security {
    #[prost(oneof = "Model", tags = "1, 2")]
    model: Option<Model>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Model {
    #[prost(message, tag = "1")]
    Tls(Tls),
    #[prost(message, tag = "2")]
    Other(OtherSecurity),
}

#[derive(Clone, PartialEq, Message)]
struct Tls {
    #[prost(string, tag = "1")]
    standard_name: String,
    #[prost(bytes = "vec", tag = "4")]
    remote_certificate: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct OtherSecurity {
    #[prost(string, tag = "1")]
    name: String,
}

/// `google.protobuf.Timestamp`.
#[derive(Clone, Copy, PartialEq, Message)]
struct Timestamp {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

impl From<ChannelzChannel> for Channel {
    fn from(channel: ChannelzChannel) -> Self {
        let ChannelzChannel { itself, target, state, calls, trace, channels, subchannels } =
            channel;
        Self {
            itself: Some(itself.into()),
            data: Some(ChannelData::new(target, state, &calls, trace)),
            channels: channels.into_iter().map(Into::into).collect(),
            subchannels: subchannels.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<ChannelzSubchannel> for Subchannel {
    fn from(subchannel: ChannelzSubchannel) -> Self {
        let ChannelzSubchannel { itself, address, state, calls, trace, sockets } = subchannel;
        Self {
            itself: Some(itself.into()),
            data: Some(ChannelData::new(address, state, &calls, trace)),
            sockets: sockets.into_iter().map(Into::into).collect(),
        }
    }
}

impl ChannelData {
    fn new(
        target: String,
        state: ConnectivityState,
        calls: &ChannelzCalls,
        trace: ChannelzTrace,
    ) -> Self {
        Self {
            state: Some(state.into()),
            target,
            trace: Some(trace.into()),
            calls_started: count(calls.started),
            calls_succeeded: count(calls.succeeded),
            calls_failed: count(calls.failed),
            last_call_started: calls.last_started.map(Into::into),
        }
    }
}

impl From<ConnectivityState> for State {
    fn from(state: ConnectivityState) -> Self {
        let number = match state {
            ConnectivityState::Idle => StateNumber::Idle,
            ConnectivityState::Connecting => StateNumber::Connecting,
            ConnectivityState::Ready => StateNumber::Ready,
            ConnectivityState::TransientFailure => StateNumber::TransientFailure,
            ConnectivityState::Shutdown => StateNumber::Shutdown,
        };
        Self { state: number.into() }
    }
}

impl From<ChannelzTrace> for Trace {
    fn from(trace: ChannelzTrace) -> Self {
        let ChannelzTrace { created, logged, events } = trace;
        Self {
            logged: count(logged),
            created: Some(created.into()),
            events: events.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<ChannelzEvent> for Event {
    fn from(event: ChannelzEvent) -> Self {
        let ChannelzEvent { description, severity, at, about } = event;
        let severity = match severity {
            ChannelzSeverity::Info => Severity::Info,
            ChannelzSeverity::Warning => Severity::Warning,
            ChannelzSeverity::Error => Severity::Error,
        };
        let about = about.and_then(|about| match about.kind {
            ChannelzKind::Channel => Some(About::Channel(about.into())),
            ChannelzKind::Subchannel => Some(About::Subchannel(about.into())),
            ChannelzKind::Socket => None,
        });
        Self { description, severity: severity.into(), at: Some(at.into()), about }
    }
}

impl From<ChannelzRef> for ChannelRef {
    fn from(reference: ChannelzRef) -> Self {
        Self { id: count(reference.id), name: reference.name }
    }
}

impl From<ChannelzRef> for SubchannelRef {
    fn from(reference: ChannelzRef) -> Self {
        Self { id: count(reference.id), name: reference.name }
    }
}

impl From<ChannelzRef> for SocketRef {
    fn from(reference: ChannelzRef) -> Self {
        Self { id: count(reference.id), name: reference.name }
    }
}

impl Socket {
    /// What is known of it at `now`.
    pub(super) fn new(socket: ChannelzSocket, now: SystemTime) -> Self {
        let ChannelzSocket { itself, connection } = socket;
        Self {
            itself: Some(itself.into()),
            data: Some(SocketData::new(&connection, now)),
            local: connection.local_address.map(Into::into),
            remote: connection.remote_address.map(Into::into),
            security: match (connection.tls, connection.security) {
                (Some(tls), _) => Some(Model::Tls(Tls {
                    standard_name: tls.cipher_suite,
                    remote_certificate: tls
                        .certificate
                        .map(|certificate| certificate.as_der().to_vec())
                        .unwrap_or_default(),
                })),
                (None, SecurityLevel::None) => None,
                (None, level) => Some(Model::Other(OtherSecurity { name: level.to_string() })),
            }
            .map(|model| Security { model: Some(model) }),
        }
    }
}

impl SocketData {
    fn new(connection: &ConnectionReport, now: SystemTime) -> Self {
        let open = connection.open_streams as u64;
        let ended = connection.streams.saturating_sub(open);
        let time = |ago: Option<Duration>| Some(now.checked_sub(ago?)?.into());
        Self {
            streams_started: count(connection.streams),
            streams_succeeded: count(connection.streams_succeeded),
            streams_failed: count(ended.saturating_sub(connection.streams_succeeded)),
            messages_sent: count(connection.messages_sent),
            messages_received: count(connection.messages_received),
            keep_alives_sent: count(connection.keepalives_sent),
            last_local_stream_created: time(connection.last_stream),
            last_message_sent: time(connection.last_message_sent),
            last_message_received: time(connection.last_message_received),
            remote_flow_control_window: Some(connection.receive_window.into()),
            option: connection.socket_options.iter().map(SocketOption::new).collect(),
        }
    }
}

impl SocketOption {
    fn new((name, value): (&&'static str, &String)) -> Self {
        Self { name: (*name).to_owned(), value: value.clone() }
    }
}

impl From<types::Address> for Address {
    fn from(address: types::Address) -> Self {
        let address = match address {
            types::Address::Socket(address) => AnyAddress::TcpIp(TcpIpAddress {
                ip_address: match address.ip() {
                    std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
                    std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
                },
                port: address.port().into(),
            }),
            types::Address::Unix(path) => {
                AnyAddress::Uds(UdsAddress { filename: path.display().to_string() })
            }
            other @ (types::Address::UnixAbstract(_) | types::Address::Name(_)) => {
                AnyAddress::Other(OtherAddress { name: other.to_string() })
            }
        };
        Self { address: Some(address) }
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let time = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            seconds: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            // Below a thousand million.
            nanos: time.subsec_nanos().try_into().unwrap_or_default(),
        }
    }
}

/// Numbers and counts are signed there.
fn count(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

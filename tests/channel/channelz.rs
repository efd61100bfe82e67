//! What channelz shows of channels (A14), and what a tool is answered.

use std::net::SocketAddr;
use std::time::Duration;

use switchboard::{
    ActorKind, Address, Channel, Channelz, ChannelzChannel, ChannelzKind, ChannelzSeverity,
    ChannelzSubchannel, Code, ConnectivityState, Credentials, Fault, KeepaliveConfig, Method,
    Request, TlsConfig,
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;

use crate::support::greeter::health_service::Serving;
use crate::support::greeter::{Greeter, SAY_HELLO, ask, target_of};
use crate::support::tls::{Certificate, Issuer, TlsServer, USUAL};
use crate::support::{ROUND_ROBIN, plaintext, until, until_connected, until_state};

/// A channel to `greeters` that is in `channelz` and connected to all of them.
async fn seen(channelz: &Channelz, greeters: &[Greeter], config: &str) -> Channel {
    let channel = plaintext(target_of(greeters))
        .default_service_config(config)
        .channelz(channelz)
        .allow_injection()
        .build()
        .unwrap();
    channel.connect();
    until_connected(&channel, greeters).await;
    until_sockets(channelz, &channel).await;
    channel
}

/// A connection is put in by the task that drives it.
async fn until_sockets(channelz: &Channelz, channel: &Channel) {
    until("all are connected", async || {
        subchannels(channelz, channel).iter().all(|it| it.sockets.len() == 1)
    })
    .await;
}

fn entity(channelz: &Channelz, channel: &Channel) -> ChannelzChannel {
    channelz.channel(channel.channelz_id().unwrap()).unwrap()
}

fn subchannels(channelz: &Channelz, channel: &Channel) -> Vec<ChannelzSubchannel> {
    let channel = entity(channelz, channel);
    channel.subchannels.iter().map(|it| channelz.subchannel(it.id).unwrap()).collect()
}

fn descriptions(trace: &switchboard::ChannelzTrace) -> Vec<&str> {
    trace.events.iter().map(|event| event.description.as_str()).collect()
}

async fn until_empty(channelz: &Channelz) {
    until("all is gone", async || channelz.top_channels(0, 1).items.is_empty()).await;
}

// spec: A14/entities
#[tokio::test]
async fn a_channel_is_shown_with_its_subchannels_and_sockets_and_what_they_count() {
    let greeters = [Greeter::start(), Greeter::start()];
    let channelz = Channelz::new();
    let channel = seen(&channelz, &greeters, ROUND_ROBIN).await;
    for _ in 0..9 {
        channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    }
    channel.invoke(&SAY_HELLO, ask("fail:5:nobody")).await.unwrap_err();

    let shown = entity(&channelz, &channel);
    assert_eq!(shown.target, target_of(&greeters));
    assert_eq!(shown.state, ConnectivityState::Ready);
    assert_eq!((shown.calls.started, shown.calls.succeeded, shown.calls.failed), (10, 9, 1));
    assert!(shown.calls.last_started.unwrap() >= shown.trace.created);
    let trace = descriptions(&shown.trace);
    assert_eq!(trace[0], "channel created");
    assert!(trace.contains(&"names resolved, endpoints: 2"), "{trace:?}");
    assert!(trace.contains(&"load-balancing policy is round_robin"), "{trace:?}");
    assert_eq!(trace.last(), Some(&"channel is READY"));

    let (mut calls, mut streams) = (0, 0);
    let below = subchannels(&channelz, &channel);
    for greeter in &greeters {
        let address = greeter.address().to_string();
        let subchannel = below.iter().find(|it| it.address == address).unwrap();
        assert_eq!(subchannel.state, ConnectivityState::Ready);
        assert_eq!(
            descriptions(&subchannel.trace),
            ["subchannel created", "subchannel is CONNECTING", "subchannel is READY"]
        );
        calls += subchannel.calls.started;
        assert_eq!(subchannel.calls.started, subchannel.calls.succeeded + subchannel.calls.failed);
        let [socket] = &subchannel.sockets[..] else { panic!("{subchannel:?}") };
        assert_eq!(socket.kind, ChannelzKind::Socket);
        let socket = channelz.socket(socket.id).unwrap().connection;
        assert_eq!(socket.remote_address, Some(Address::Socket(greeter.address())));
        assert!(matches!(socket.local_address, Some(Address::Socket(local)) if local.port() > 0));
        assert_eq!(socket.socket_options["TCP_NODELAY"], "true");
        assert_eq!((socket.open_streams, socket.streams), (0, socket.streams_succeeded));
        for ago in [socket.last_stream, socket.last_message_sent, socket.last_message_received] {
            assert!(ago.unwrap() < Duration::from_secs(60));
        }
        streams += socket.streams;
    }
    assert_eq!((calls, streams), (10, 10));

    channel.close().await;
    until_empty(&channelz).await;
    assert!(channelz.channel(shown.itself.id).is_none());
    assert!(shown.subchannels.iter().all(|it| channelz.subchannel(it.id).is_none()));
}

// spec: A14/calls
#[tokio::test]
async fn a_retried_call_counts_once_and_each_of_its_attempts_with_a_subchannel() {
    let greeters = [Greeter::start()];
    let channelz = Channelz::new();
    let config = r#"{"methodConfig":[{"name":[{}],"retryPolicy":{"maxAttempts":3,
        "initialBackoff":"0.001s","maxBackoff":"0.001s","backoffMultiplier":1,
        "retryableStatusCodes":["UNAVAILABLE"]}}]}"#;
    let channel = seen(&channelz, &greeters, config).await;
    channel.invoke(&SAY_HELLO, ask("fail:14:no")).await.unwrap_err();
    let calls = entity(&channelz, &channel).calls;
    assert_eq!((calls.started, calls.succeeded, calls.failed), (1, 0, 1));
    let calls = subchannels(&channelz, &channel)[0].calls;
    assert_eq!((calls.started, calls.succeeded, calls.failed), (3, 0, 3));
    channel.close().await;
}

#[tokio::test]
async fn a_call_that_is_dropped_has_failed() {
    let greeters = [Greeter::start()];
    let channelz = Channelz::new();
    let channel = seen(&channelz, &greeters, "{}").await;
    greeters[0].hold();
    let call = tokio::spawn({
        let channel = channel.clone();
        async move { channel.invoke(&SAY_HELLO, ask("Ada")).await }
    });
    until("the call is with the server", async || greeters[0].received() == 1).await;
    let open = entity(&channelz, &channel).calls;
    assert_eq!((open.started, open.succeeded, open.failed), (1, 0, 0));
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    let calls = entity(&channelz, &channel).calls;
    assert_eq!((calls.started, calls.succeeded, calls.failed), (1, 0, 1));
    let calls = subchannels(&channelz, &channel)[0].calls;
    assert_eq!((calls.started, calls.succeeded, calls.failed), (1, 0, 1));
    greeters[0].release();
    channel.close().await;
}

#[tokio::test]
async fn what_fails_is_in_the_trace_of_the_subchannel_with_its_cause() {
    let mut greeters = [Greeter::start()];
    let channelz = Channelz::new();
    let channel = seen(&channelz, &greeters, "{}").await;
    greeters[0].kill();
    until_state(&channel, ConnectivityState::Idle).await;
    channel.connect();
    until_state(&channel, ConnectivityState::TransientFailure).await;
    let [subchannel] = &subchannels(&channelz, &channel)[..] else { panic!() };
    let address = greeters[0].address().to_string();
    let events: Vec<_> = subchannel.trace.events.iter().rev().collect();
    let failed = events.iter().find(|it| it.description.starts_with("cannot connect")).unwrap();
    assert_eq!(failed.severity, ChannelzSeverity::Warning);
    assert!(failed.description.contains(&address), "{failed:?}");
    assert!(failed.description.contains("refused"), "{failed:?}");
    let state = events.iter().find(|it| it.description.contains("TRANSIENT_FAILURE: ")).unwrap();
    assert_eq!(state.severity, ChannelzSeverity::Warning);
    assert!(events.iter().any(|it| it.description.starts_with("disconnected: ")), "{events:?}");
    assert!(subchannel.sockets.is_empty());
    channel.close().await;
}

#[tokio::test]
async fn an_actor_that_crashes_leaves_subchannel_and_socket_what_they_are() {
    let greeters = [Greeter::start()];
    let channelz = Channelz::new();
    let channel = seen(&channelz, &greeters, "{}").await;
    let before = subchannels(&channelz, &channel);
    for kind in [ActorKind::AddrConn, ActorKind::Balancer, ActorKind::ClientConn] {
        channel.inject(Fault::crash(kind)).await.unwrap();
        channel.invoke(&SAY_HELLO, ask("Ada").wait_for_ready(true)).await.unwrap();
    }
    let after = subchannels(&channelz, &channel);
    assert_eq!(after[0].itself, before[0].itself);
    assert_eq!(after[0].sockets, before[0].sockets);
    assert_eq!((after.len(), after[0].calls.succeeded), (1, 3));
    channel.close().await;
    until_empty(&channelz).await;
}

/// As grpc-go has it: a watch that the server ends with OK has succeeded.
// spec: A14/health-watch
#[tokio::test]
async fn watches_of_the_health_count_with_the_subchannel_alone() {
    let greeters = [Greeter::start_with_health()];
    greeters[0].health().say("", Serving::Yes);
    let channelz = Channelz::new();
    let config = r#"{"loadBalancingConfig":[{"round_robin":{}}],
        "healthCheckConfig":{"serviceName":""}}"#;
    let channel = seen(&channelz, &greeters, config).await;
    until("the watch is open", async || greeters[0].health().open_watches() == 1).await;
    greeters[0].health().end_watches(tonic::Status::ok("over"));
    until("there is another", async || greeters[0].health().watches() == 2).await;
    until("both are counted", async || {
        let calls = subchannels(&channelz, &channel)[0].calls;
        (calls.started, calls.succeeded, calls.failed) == (2, 1, 0)
    })
    .await;
    assert_eq!(entity(&channelz, &channel).calls.started, 0);
    channel.close().await;
    until_empty(&channelz).await;
}

// spec: A14/nested
#[tokio::test]
async fn a_nested_channel_is_below_its_parent_and_one_that_is_not_built_is_nowhere() {
    let greeter = Greeter::start();
    let channelz = Channelz::new();
    let outside = plaintext(target_of([&greeter])).build().unwrap();
    assert_eq!(outside.channelz_id(), None);
    let parent = plaintext(target_of([&greeter])).channelz(&channelz).build().unwrap();
    let builder = plaintext(target_of([&greeter]));
    let nested = builder.clone().channelz_parent(&parent).build().unwrap();
    assert_eq!(builder.clone().channelz_parent(&outside).build().unwrap().channelz_id(), None);
    let broken = builder.clone().channelz(&channelz).default_service_config("{").build();
    broken.unwrap_err();
    let backoff = switchboard::BackoffConfig { multiplier: 0.0, ..Default::default() };
    builder.channelz(&channelz).backoff(backoff).build().unwrap_err();

    let page = channelz.top_channels(0, 10);
    assert_eq!((page.items.len(), page.is_last), (1, true));
    let shown = &page.items[0];
    assert_eq!(Some(shown.itself.id), parent.channelz_id());
    let [below] = &shown.channels[..] else { panic!("{shown:?}") };
    assert_eq!(Some(below.id), nested.channelz_id());
    nested.close().await;
    assert!(entity(&channelz, &parent).channels.is_empty());
    drop(parent);
    until_empty(&channelz).await;
}

#[tokio::test]
async fn a_socket_tells_of_tls_and_of_keepalive() {
    let issuer = Issuer::new();
    let server = TlsServer::start(&issuer, Certificate::of(&["greeter.example"]), USUAL).await;
    let channelz = Channelz::new();
    let tls = TlsConfig::new().roots_pem(issuer.root_pem()).unwrap().server_name("greeter.example");
    let channel = Channel::builder(format!("ipv4:{}", server.address()))
        .credentials(Credentials::tls_with(tls))
        .keepalive(KeepaliveConfig::after(Duration::from_secs(60)))
        .channelz(&channelz)
        .build()
        .unwrap();
    channel.connect();
    until_state(&channel, ConnectivityState::Ready).await;
    until_sockets(&channelz, &channel).await;
    let [subchannel] = &subchannels(&channelz, &channel)[..] else { panic!() };
    let socket = channelz.socket(subchannel.sockets[0].id).unwrap().connection;
    let tls = socket.tls.unwrap();
    assert!(tls.cipher_suite.starts_with("TLS_AES_"), "{tls:?}");
    assert_eq!(tls.certificate.unwrap().as_der(), server.certificate());
    assert_eq!(socket.keepalives_sent, 0);
    channel.close().await;
}

#[derive(Clone, PartialEq, prost::Message)]
struct Page {
    #[prost(int64, tag = "1")]
    start: i64,
    #[prost(int64, tag = "2")]
    max: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Channels {
    #[prost(message, repeated, tag = "1")]
    channel: Vec<ChannelMessage>,
    #[prost(bool, tag = "2")]
    end: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ChannelMessage {
    #[prost(message, optional, tag = "2")]
    data: Option<Data>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Data {
    #[prost(string, tag = "2")]
    target: String,
    #[prost(int64, tag = "4")]
    calls_started: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Id {
    #[prost(int64, tag = "1")]
    id: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Anything {}

const GET_TOP_CHANNELS: Method<Page, Channels> =
    Method::unary("/grpc.channelz.v1.Channelz/GetTopChannels");

/// A server with the service of `channelz`.
async fn serve(channelz: &Channelz) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tonic::transport::Server::builder().add_service(channelz.service());
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}

// spec: A14/service
#[tokio::test]
async fn the_service_answers_with_pages_and_says_what_it_has_not() {
    let greeter = Greeter::start();
    let channelz = Channelz::new();
    let builder = plaintext(target_of([&greeter])).channelz(&channelz);
    let all: Vec<_> = (0..60).map(|_| builder.build().unwrap()).collect();
    all[0].invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    let tool = plaintext(format!("ipv4:{}", serve(&channelz).await)).build().unwrap();
    let page = async |start, max| {
        let reply = tool.invoke(&GET_TOP_CHANNELS, Request::new(Page { start, max })).await;
        reply.unwrap().into_message()
    };

    let whole = page(0, 0).await;
    assert_eq!((whole.channel.len(), whole.end), (50, false));
    let first = whole.channel[0].data.as_ref().unwrap();
    assert_eq!((first.target.as_str(), first.calls_started), (&*target_of([&greeter]), 1));
    assert_eq!(page(0, -1).await.channel.len(), 50);
    let rest = page(0, i64::MAX).await;
    assert_eq!((rest.channel.len(), rest.end), (60, true));
    assert_eq!(page(-7, 1).await.channel, whole.channel[..1]);

    for (method, code) in [
        ("GetChannel", Code::NOT_FOUND),
        ("GetSubchannel", Code::NOT_FOUND),
        ("GetSocket", Code::NOT_FOUND),
        ("GetServer", Code::NOT_FOUND),
        ("GetServerSockets", Code::NOT_FOUND),
        ("GetServers", Code::OK),
        ("GetNothing", Code::UNIMPLEMENTED),
    ] {
        for id in [-1, 0, 1_000_000] {
            let path = format!("/grpc.channelz.v1.Channelz/{method}");
            let reply = tool.invoke::<Id, Anything>(path.as_str(), Request::new(Id { id })).await;
            let seen = reply.map_or_else(|status| status.code(), |_| Code::OK);
            assert_eq!(seen, code, "{method} {id}");
        }
    }
}

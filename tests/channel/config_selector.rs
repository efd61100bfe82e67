//! Configs that a resolver chooses call by call.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use switchboard::{
    CallConfig, CallOptions, Channel, ChannelBuilder, Code, ConfigSelector, ConnectivityState,
    Endpoint, EndpointShards, LbContext, LbPolicy, LbPolicyBuilder, LbPolicyConfig, ManualResolver,
    Metadata, MethodConfig, Pick, PickArgs, PickResult, Picker, ReadyEndpoint, Resolution,
    ResolveError, SelectArgs, ServiceConfigError, Spread, Status,
};

use crate::support::greeter::{BIDI_HELLO, FLAKY, Greeter, SAY_HELLO, ask, hello};
use crate::support::mini::answer_all;
use crate::support::{
    ROUND_ROBIN, close_without_leaks, plaintext, reports, until, until_connected, until_state,
};

/// A selector that is this function.
fn selector<F>(select: F) -> Arc<dyn ConfigSelector>
where
    F: Fn(&SelectArgs<'_>) -> Result<CallConfig, Status> + Send + Sync + 'static,
{
    Arc::new(select)
}

/// A selector by whose config calls go.
fn chooses(config: MethodConfig) -> Arc<dyn ConfigSelector> {
    let config = Arc::new(config);
    selector(move |_| Ok(CallConfig::new(config.clone())))
}

/// A selector that says nothing of calls, and adds this under `echo`.
fn adds(text: &'static str) -> Arc<dyn ConfigSelector> {
    selector(move |_| {
        let mut metadata = Metadata::new();
        metadata.append("echo", text).unwrap();
        Ok(CallConfig::new(MethodConfig::new()).with_metadata(metadata))
    })
}

/// A resolver that finds `greeter` and gives `selector` with it.
fn finds(greeter: &Greeter, selector: Arc<dyn ConfigSelector>) -> ManualResolver {
    let manual = ManualResolver::new();
    manual.set_resolution(found(greeter).with_config_selector(selector));
    manual
}

fn found(greeter: &Greeter) -> Resolution {
    Resolution::new([Endpoint::from(greeter.address())])
}

fn builder(manual: &ManualResolver) -> ChannelBuilder {
    plaintext("manual:///greeter").resolver("manual", manual.clone())
}

/// What the greeter was sent under `echo` with a call that says `app` there.
async fn echoed(channel: &Channel, name: &str) -> Result<Vec<String>, Status> {
    let mut request = ask(name);
    request.metadata_mut().insert("echo", "app").unwrap();
    let reply = channel.invoke(&SAY_HELLO, request).await?;
    Ok(reply.metadata().get_all("echo").map(str::to_owned).collect())
}

/// Counts how often calls are committed or over.
#[derive(Clone, Default)]
struct Commits(Arc<AtomicUsize>);

impl Commits {
    fn selector(&self, config: MethodConfig) -> Arc<dyn ConfigSelector> {
        let (count, config) = (self.0.clone(), Arc::new(config));
        selector(move |_| {
            let count = count.clone();
            Ok(CallConfig::new(config.clone()).on_commit(move || {
                count.fetch_add(1, Ordering::SeqCst);
            }))
        })
    }

    /// How often since it was last asked.
    fn take(&self) -> usize {
        self.0.swap(0, Ordering::SeqCst)
    }
}

fn config(json: &str) -> MethodConfig {
    MethodConfig::from_json(json).unwrap()
}

// spec: A31/method-config
#[tokio::test]
async fn what_the_selector_chooses_takes_the_place_of_what_the_service_config_says_of_methods() {
    let greeter = [Greeter::start()];
    let none = r#"{"methodConfig":[{"name":[{}],"maxRequestMessageBytes":0}]}"#;
    let manual = ManualResolver::new();
    let by_metadata = selector(|call| {
        assert_eq!(call.method.as_str(), "/helloworld.Greeter/SayHello");
        let config = match call.metadata.get("tenant") {
            Some("small") => MethodConfig::new().max_request_message_bytes(1),
            _ => MethodConfig::new(),
        };
        Ok(CallConfig::new(config))
    });
    let resolution = found(&greeter[0]).with_service_config(none);
    manual.set_resolution(resolution.clone().with_config_selector(by_metadata));
    let channel = builder(&manual).build().unwrap();
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    let mut small = ask("Ada");
    small.metadata_mut().insert("tenant", "small").unwrap();
    let status = channel.invoke(&SAY_HELLO, small).await.unwrap_err();
    assert_eq!(status.code(), Code::RESOURCE_EXHAUSTED, "{status}");
    // Without a selector the service config says it again.
    manual.set_resolution(resolution);
    until("the selector is gone", async || {
        let reply = channel.invoke(&SAY_HELLO, ask("Ada")).await;
        reply.is_err_and(|status| status.code() == Code::RESOURCE_EXHAUSTED)
    })
    .await;
    close_without_leaks(channel, &greeter).await;
}

// spec: A31/method-config
#[tokio::test]
async fn a_timeout_and_waiting_for_ready_may_be_chosen() {
    let greeter = [Greeter::start()];
    greeter[0].hold();
    let short = MethodConfig::new().timeout(Duration::from_millis(50));
    let manual = finds(&greeter[0], chooses(short.clone().wait_for_ready(true)));
    let channel = builder(&manual).build().unwrap();
    let status = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
    assert_eq!(status.code(), Code::DEADLINE_EXCEEDED, "{status}");
    // It covers the opening of a stream as well.
    let status = match channel.new_stream(&BIDI_HELLO, CallOptions::new()).await {
        Ok(mut stream) => stream.recv().await.unwrap_err(),
        Err(status) => status,
    };
    assert_eq!(status.code(), Code::DEADLINE_EXCEEDED, "{status}");
    channel.close().await;
    // Nobody listens there: a call that waits does so to its deadline.
    let nowhere = Endpoint::from(std::net::SocketAddr::from(([127, 0, 0, 1], 1)));
    let manual = ManualResolver::new();
    let waits = chooses(short.wait_for_ready(true));
    manual.set_resolution(Resolution::new([nowhere]).with_config_selector(waits));
    let channel = builder(&manual).build().unwrap();
    let status = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
    assert_eq!(status.code(), Code::DEADLINE_EXCEEDED, "{status}");
    channel.close().await;
    greeter[0].release();
}

// spec: A31/metadata
#[tokio::test]
async fn metadata_is_added_to_every_attempt() {
    let greeter = [Greeter::start()];
    let retries = r#"{"retryPolicy": {"maxAttempts": 2, "initialBackoff": "0.001s",
        "maxBackoff": "0.001s", "backoffMultiplier": 1, "retryableStatusCodes": ["UNAVAILABLE"]}}"#;
    let retries = Arc::new(config(retries));
    let adding = selector(move |_| {
        let mut metadata = Metadata::new();
        metadata.append("echo", "added").unwrap();
        Ok(CallConfig::new(retries.clone()).with_metadata(metadata))
    });
    let manual = finds(&greeter[0], adding);
    let channel = builder(&manual).build().unwrap();
    assert_eq!(echoed(&channel, "Ada").await.unwrap(), ["app", "added"]);
    assert_eq!(echoed(&channel, FLAKY).await.unwrap(), ["app", "added"]);
    assert_eq!(greeter[0].received(), 3);
    close_without_leaks(channel, &greeter).await;
}

// spec: A31/metadata
#[tokio::test]
async fn metadata_is_added_to_streams_and_beside_that_of_credentials() {
    struct Token;
    impl switchboard::CallCredentials for Token {
        fn metadata<'a>(
            &'a self,
            _: &'a switchboard::CallContext<'_>,
        ) -> switchboard::BoxFuture<'a, Result<Metadata, Status>> {
            let mut metadata = Metadata::new();
            metadata.append("echo", "proof").unwrap();
            Box::pin(std::future::ready(Ok(metadata)))
        }
        fn min_security_level(&self) -> switchboard::SecurityLevel {
            switchboard::SecurityLevel::None
        }
    }
    let (connector, mut listener) = switchboard::memory::pipe();
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let all = seen.clone();
    tokio::spawn(async move {
        while let Some(stream) = listener.accept().await {
            let all = all.clone();
            tokio::spawn(answer_all(stream, move |head| {
                let values = head.headers.get_all("echo").into_iter();
                all.lock().unwrap().extend(values.map(|it| it.to_str().unwrap().to_owned()));
            }));
        }
    });
    let manual = ManualResolver::new();
    let anywhere = Endpoint::from(switchboard::Address::Name("server".into()));
    manual.set_resolution(Resolution::new([anywhere]).with_config_selector(adds("added")));
    let channel = builder(&manual).connector(connector).build().unwrap();
    let rows: [(CallOptions, &[&str]); 2] = [
        (CallOptions::new(), &["added"]),
        (CallOptions::new().credentials(Token), &["proof", "added"]),
    ];
    for (options, expected) in rows {
        let mut stream = channel.new_stream(&BIDI_HELLO, options).await.unwrap();
        stream.close_send();
        stream.recv().await.unwrap();
        assert_eq!(std::mem::take(&mut *seen.lock().unwrap()), expected);
    }
    channel.close().await;
}

// spec: A31/status
// spec: A54/config-selector
// spec: A54/restricted-codes
#[tokio::test]
async fn a_selector_that_fails_ends_the_call_before_any_attempt_and_cannot_speak_for_the_server() {
    let greeter = [Greeter::start()];
    let rows = [
        (Code::NOT_FOUND, Code::INTERNAL),
        (Code::OK, Code::INTERNAL),
        (Code::UNAVAILABLE, Code::UNAVAILABLE),
        (Code::PERMISSION_DENIED, Code::PERMISSION_DENIED),
    ];
    for (said, expected) in rows {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let failing = selector(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            Err(Status::new(said, "there is no route"))
        });
        let manual = finds(&greeter[0], failing);
        // Which a selector's word does not wait for, nor is it tried again.
        let retries = r#"{"methodConfig":[{"name":[{}],"retryPolicy":{"maxAttempts":3,
            "initialBackoff":"0.001s","maxBackoff":"0.001s","backoffMultiplier":1,
            "retryableStatusCodes":["UNAVAILABLE","INTERNAL"]}}]}"#;
        let channel =
            builder(&manual).default_service_config(retries).wait_for_ready(true).build().unwrap();
        let status = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
        assert_eq!(status.code(), expected);
        assert!(status.message().contains("there is no route"), "{status}");
        let opened = channel.new_stream(&BIDI_HELLO, CallOptions::new()).await;
        assert_eq!(opened.err().map(|status| status.code()), Some(expected));
        assert_eq!(asked.load(Ordering::SeqCst), 2);
        close_without_leaks(channel, &greeter).await;
    }
    assert_eq!(greeter[0].received(), 0);
}

// spec: A31/commit
#[tokio::test]
async fn the_hook_of_a_unary_call_is_called_once_however_the_call_ends() {
    let greeter = [Greeter::start()];
    let commits = Commits::default();
    let manual = finds(&greeter[0], commits.selector(MethodConfig::new()));
    let channel = builder(&manual).build().unwrap();
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    assert_eq!(commits.take(), 1);
    channel.invoke(&SAY_HELLO, ask("fail:5:no such name")).await.unwrap_err();
    assert_eq!(commits.take(), 1);
    // It is dropped while the server is at it.
    greeter[0].hold();
    {
        let call = channel.invoke(&SAY_HELLO, ask("Ada"));
        let mut call = std::pin::pin!(call);
        assert!(call.as_mut().now_or_never().is_none());
        assert_eq!(commits.take(), 0);
    }
    assert_eq!(commits.take(), 1);
    greeter[0].release();
    // It has more to send than it may.
    let small = commits.selector(MethodConfig::new().max_request_message_bytes(0));
    manual.set_resolution(found(&greeter[0]).with_config_selector(small));
    until("the call is refused", async || {
        let outcome = channel.invoke(&SAY_HELLO, ask("Ada")).await;
        assert_eq!(commits.take(), 1);
        outcome.is_err()
    })
    .await;
    close_without_leaks(channel, &greeter).await;
}

// spec: A31/commit
#[tokio::test]
async fn the_hook_is_called_for_a_call_that_fails_before_any_attempt() {
    let commits = Commits::default();
    let nowhere = Endpoint::from(std::net::SocketAddr::from(([127, 0, 0, 1], 1)));
    let manual = ManualResolver::new();
    let selector = commits.selector(MethodConfig::new());
    manual.set_resolution(Resolution::new([nowhere]).with_config_selector(selector));
    let channel = builder(&manual).build().unwrap();
    channel.connect();
    until_state(&channel, ConnectivityState::TransientFailure).await;
    let status = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
    assert_eq!((status.code(), commits.take()), (Code::UNAVAILABLE, 1));
    let opened = channel.new_stream(&BIDI_HELLO, CallOptions::new()).await;
    assert_eq!((opened.is_err(), commits.take()), (true, 1));
    // While it waits for a connection that never comes.
    let request = ask("Ada").wait_for_ready(true).timeout(Duration::from_millis(20));
    let status = channel.invoke(&SAY_HELLO, request).await.unwrap_err();
    assert_eq!((status.code(), commits.take()), (Code::DEADLINE_EXCEEDED, 1));
    channel.close().await;
    let status = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
    assert_eq!((status.code(), commits.take()), (Code::CANCELLED, 1));
}

// spec: A31/commit
#[tokio::test]
async fn a_unary_call_is_committed_when_the_server_begins_to_answer() {
    let (connector, mut listener) = switchboard::memory::pipe();
    let (go_on, told) = tokio::sync::oneshot::channel::<()>();
    tokio::spawn(async move {
        let stream = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let (_, mut respond) = connection.accept().await.unwrap().unwrap();
        let mut response = http::Response::new(());
        let grpc = http::HeaderValue::from_static("application/grpc");
        response.headers_mut().insert("content-type", grpc);
        let mut body = respond.send_response(response, false).unwrap();
        tokio::spawn(async move { connection.accept().await.is_none() });
        told.await.unwrap();
        body.send_data(Bytes::from_static(&[0, 0, 0, 0, 0]), false).unwrap();
        let ok = (http::HeaderName::from_static("grpc-status"), http::HeaderValue::from(0));
        body.send_trailers(http::HeaderMap::from_iter([ok])).unwrap();
    });
    let commits = Commits::default();
    let manual = ManualResolver::new();
    let anywhere = Endpoint::from(switchboard::Address::Name("server".into()));
    let selector = commits.selector(MethodConfig::new());
    manual.set_resolution(Resolution::new([anywhere]).with_config_selector(selector));
    let channel = builder(&manual).connector(connector).build().unwrap();
    let call = tokio::spawn({
        let channel = channel.clone();
        async move { channel.invoke(&SAY_HELLO, ask("Ada")).await }
    });
    until("committed", async || commits.0.load(Ordering::SeqCst) == 1).await;
    assert!(!call.is_finished());
    go_on.send(()).unwrap();
    call.await.unwrap().unwrap();
    assert_eq!(commits.take(), 1);
    channel.close().await;
}

// spec: A31/commit
#[tokio::test]
async fn the_hook_of_a_stream_is_called_once_when_the_server_answers_or_the_stream_is_over() {
    let greeter = [Greeter::start()];
    let commits = Commits::default();
    let manual = finds(&greeter[0], commits.selector(MethodConfig::new()));
    let channel = builder(&manual).build().unwrap();
    let open = || channel.new_stream(&BIDI_HELLO, CallOptions::new());
    // The server answers.
    let mut stream = open().await.unwrap();
    stream.send(hello("Ada")).await.unwrap();
    assert_eq!(commits.take(), 0);
    stream.recv().await.unwrap();
    assert_eq!(commits.take(), 1);
    stream.close_send();
    assert!(stream.recv().await.unwrap().is_none());
    drop(stream);
    assert_eq!(commits.take(), 0);
    // This side cancels it, and keeps it.
    greeter[0].hold();
    let mut stream = open().await.unwrap();
    stream.cancel();
    assert_eq!(commits.take(), 1);
    stream.recv().await.unwrap_err();
    drop(stream);
    assert_eq!(commits.take(), 0);
    // It is dropped.
    drop(open().await.unwrap());
    assert_eq!(commits.take(), 1);
    greeter[0].release();
    close_without_leaks(channel, &greeter).await;
    // More was sent than is kept for another attempt.
    let greeter = [Greeter::start()];
    greeter[0].hold();
    let manual = finds(&greeter[0], commits.selector(MethodConfig::new()));
    let channel = builder(&manual).max_retry_buffer_bytes(5).build().unwrap();
    let mut stream = channel.new_stream(&BIDI_HELLO, CallOptions::new()).await.unwrap();
    assert_eq!(commits.take(), 0);
    stream.send(hello("Ada")).await.unwrap();
    assert_eq!(commits.take(), 1);
    drop(stream);
    greeter[0].release();
    close_without_leaks(channel, &greeter).await;
    assert_eq!(commits.take(), 0);
}

// spec: A31/commit
#[tokio::test]
async fn the_hook_of_a_call_with_several_attempts_is_called_once() {
    let greeters = [Greeter::start(), Greeter::start()];
    let commits = Commits::default();
    let manual = ManualResolver::new();
    let endpoints = || greeters.iter().map(|it| Endpoint::from(it.address()));
    let hedges = config(r#"{"hedgingPolicy": {"maxAttempts": 2, "hedgingDelay": "0s"}}"#);
    let resolution = Resolution::new(endpoints()).with_service_config(ROUND_ROBIN);
    let selector = commits.selector(hedges);
    manual.set_resolution(resolution.clone().with_config_selector(selector));
    let channel = builder(&manual).build().unwrap();
    channel.connect();
    until_connected(&channel, &greeters).await;
    greeters.iter().for_each(Greeter::hold);
    let call = tokio::spawn({
        let channel = channel.clone();
        async move { channel.invoke(&SAY_HELLO, ask("Ada")).await }
    });
    until("both are asked", async || greeters.iter().all(|it| it.received() == 1)).await;
    assert_eq!(commits.take(), 0);
    greeters.iter().for_each(Greeter::release);
    call.await.unwrap().unwrap();
    assert_eq!(commits.take(), 1);
    let retries = config(
        r#"{"retryPolicy": {"maxAttempts": 2, "initialBackoff": "0.001s", "maxBackoff": "0.001s",
            "backoffMultiplier": 1, "retryableStatusCodes": ["UNAVAILABLE"]}}"#,
    );
    manual.set_resolution(resolution.with_config_selector(commits.selector(retries)));
    until("calls are retried", async || {
        let outcome = channel.invoke(&SAY_HELLO, ask(FLAKY)).await;
        assert_eq!(commits.take(), 1);
        outcome.is_ok()
    })
    .await;
    channel.invoke(&SAY_HELLO, ask("fail:14:never")).await.unwrap_err();
    assert_eq!(commits.take(), 1);
    close_without_leaks(channel, &greeters).await;
}

// spec: A31/commit
// spec: A6/hedging-commit
#[tokio::test]
async fn no_pick_follows_the_hook_of_a_hedged_call() {
    let (connector, mut listener) = switchboard::memory::pipe();
    let asked = Arc::new(AtomicUsize::new(0));
    let (go_on, told) = tokio::sync::watch::channel(false);
    let count = asked.clone();
    tokio::spawn(async move {
        let stream = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            let mut told = told.clone();
            tokio::spawn(async move {
                let mut response = http::Response::new(());
                let grpc = http::HeaderValue::from_static("application/grpc");
                response.headers_mut().insert("content-type", grpc);
                let mut body = respond.send_response(response, false).unwrap();
                told.wait_for(|is_told| *is_told).await.unwrap();
                body.send_data(Bytes::from_static(&[0; 5]), false).unwrap();
                let ok = (http::HeaderName::from_static("grpc-status"), http::HeaderValue::from(0));
                body.send_trailers(http::HeaderMap::from_iter([ok])).unwrap();
            });
        }
    });
    let commits = Commits::default();
    let hedges = config(r#"{"hedgingPolicy": {"maxAttempts": 5, "hedgingDelay": "0.02s"}}"#);
    let manual = ManualResolver::new();
    let anywhere = Endpoint::from(switchboard::Address::Name("server".into()));
    let selector = commits.selector(hedges);
    manual.set_resolution(Resolution::new([anywhere]).with_config_selector(selector));
    let channel = builder(&manual).connector(connector).build().unwrap();
    let call = tokio::spawn({
        let channel = channel.clone();
        async move { channel.invoke(&SAY_HELLO, ask("Ada")).await }
    });
    until("committed", async || commits.0.load(Ordering::SeqCst) == 1).await;
    let attempts = asked.load(Ordering::SeqCst);
    // Several hedges would be due by then.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(asked.load(Ordering::SeqCst), attempts);
    go_on.send(true).unwrap();
    call.await.unwrap().unwrap();
    assert_eq!(commits.take(), 1);
    channel.close().await;
}

// spec: A31/once
#[tokio::test]
async fn a_call_that_was_chosen_for_stays_with_that_and_a_new_selector_serves_new_calls() {
    let greeter = [Greeter::start()];
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let first = selector(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        let mut metadata = Metadata::new();
        metadata.append("echo", "first").unwrap();
        Ok(CallConfig::new(MethodConfig::new().wait_for_ready(true)).with_metadata(metadata))
    });
    let manual = ManualResolver::new();
    // Nobody listens here, so calls of the first selector wait.
    let nowhere = Endpoint::from(std::net::SocketAddr::from(([127, 0, 0, 1], 1)));
    manual.set_resolution(Resolution::new([nowhere]).with_config_selector(first));
    let channel = builder(&manual).build().unwrap();
    let waiting = tokio::spawn({
        let channel = channel.clone();
        async move { echoed(&channel, "Ada").await }
    });
    until_state(&channel, ConnectivityState::TransientFailure).await;
    until("the call is chosen for", async || asked.load(Ordering::SeqCst) == 1).await;
    manual.set_resolution(found(&greeter[0]).with_config_selector(adds("second")));
    assert_eq!(waiting.await.unwrap().unwrap(), ["app", "first"]);
    assert_eq!(echoed(&channel, "Ada").await.unwrap(), ["app", "second"]);
    // A resolver that fails takes nothing away.
    manual.fail(ResolveError::new("the registry is on fire"));
    manual.set_resolution(found(&greeter[0]).with_service_config("{bad"));
    until("the bad config is seen", async || {
        channel.inspect().await.to_string().contains("error parsing service config")
    })
    .await;
    assert_eq!(echoed(&channel, "Ada").await.unwrap(), ["app", "second"]);
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn a_channel_with_service_configs_disabled_has_no_selector() {
    let greeter = [Greeter::start()];
    let manual = finds(&greeter[0], adds("added"));
    let channel = builder(&manual).disable_service_config().build().unwrap();
    assert_eq!(echoed(&channel, "Ada").await.unwrap(), ["app"]);
    close_without_leaks(channel, &greeter).await;
}

/// Sends calls to the server whose place in the list is attached to them.
struct ByPlace;

struct Place(usize);

impl LbPolicyBuilder for ByPlace {
    fn name(&self) -> &'static str {
        "by_place"
    }

    fn parse_config(&self, _: &serde_json::Value) -> Result<LbPolicyConfig, ServiceConfigError> {
        Ok(LbPolicyConfig::new(()))
    }

    fn build(&self) -> Box<dyn LbPolicy> {
        Box::new(EndpointShards::new(Self))
    }
}

impl Spread for ByPlace {
    fn name(&self) -> &'static str {
        "by_place"
    }

    fn picker(&mut self, ready: &[ReadyEndpoint<'_>], _: &mut LbContext<'_>) -> Arc<dyn Picker> {
        struct Places(Vec<switchboard::SubchannelId>);
        impl Picker for Places {
            fn pick(&self, call: &PickArgs<'_>) -> PickResult {
                // What is attached is found by its type alone.
                assert!(call.attribute::<usize>().is_none());
                match call.attribute::<Place>().and_then(|Place(place)| self.0.get(*place)) {
                    Some(id) => PickResult::Complete(Pick::new(*id)),
                    None => PickResult::Drop(Status::internal("nothing is attached")),
                }
            }
        }
        Arc::new(Places(ready.iter().map(ReadyEndpoint::subchannel).collect()))
    }
}

// spec: A31/attributes
#[tokio::test]
async fn a_policy_reads_what_the_selector_attaches() {
    let greeters = [Greeter::start(), Greeter::start()];
    let manual = ManualResolver::new();
    let places = [Arc::new(Place(0)), Arc::new(Place(1))];
    let routes = selector(move |call| {
        let config = CallConfig::new(MethodConfig::new());
        Ok(match call.metadata.get("place").map(|it| it.parse::<usize>().unwrap()) {
            Some(place) => config.with_attribute(places[place].clone()),
            None => config,
        })
    });
    let resolution = Resolution::new(greeters.iter().map(|it| Endpoint::from(it.address())));
    manual.set_resolution(resolution.with_config_selector(routes));
    let channel = builder(&manual)
        .lb_policy(ByPlace)
        .default_service_config(r#"{"loadBalancingConfig":[{"by_place":{}}]}"#)
        .build()
        .unwrap();
    channel.connect();
    until_connected(&channel, &greeters).await;
    let mut peers = Vec::new();
    for place in ["0", "1", "1", "0"] {
        let mut request = ask("Ada");
        request.metadata_mut().insert("place", place).unwrap();
        let reply = channel.invoke(&SAY_HELLO, request).await.unwrap();
        peers.push(reply.peer().clone());
    }
    assert_ne!(peers[0], peers[1]);
    assert_eq!((&peers[1], &peers[0]), (&peers[2], &peers[3]));
    let status = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
    assert!(status.message().contains("nothing is attached"), "{status}");
    close_without_leaks(channel, &greeters).await;
}

#[tokio::test]
async fn a_channel_that_was_idle_lets_its_resolver_choose_again() {
    let greeter = [Greeter::start()];
    let manual = finds(&greeter[0], adds("first"));
    let builder = builder(&manual).idle_timeout(Duration::from_millis(20));
    let channel = builder.build().unwrap();
    assert_eq!(echoed(&channel, "Ada").await.unwrap(), ["app", "first"]);
    until_state(&channel, ConnectivityState::Idle).await;
    manual.set_resolution(found(&greeter[0]).with_config_selector(adds("second")));
    assert_eq!(echoed(&channel, "Ada").await.unwrap(), ["app", "second"]);
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn a_selector_outlives_the_actors_that_brought_it() {
    use switchboard::{ActorKind, Fault};
    let greeter = [Greeter::start()];
    for actor in
        [ActorKind::ClientConn, ActorKind::Resolver, ActorKind::Balancer, ActorKind::Supervisor]
    {
        let manual = finds(&greeter[0], adds("added"));
        let channel = builder(&manual).allow_injection().build().unwrap();
        assert_eq!(echoed(&channel, "Ada").await.unwrap(), ["app", "added"]);
        channel.inject(Fault::crash(actor)).await.unwrap();
        until("the restart shows", async || {
            let reports = reports(&channel).await;
            // While it is dead every call is chosen for as well.
            assert_eq!(echoed(&channel, "Ada").await.unwrap(), ["app", "added"], "{actor}");
            reports.iter().any(|it| it.actor == actor && it.restarts > 0)
        })
        .await;
        assert_eq!(echoed(&channel, "Ada").await.unwrap(), ["app", "added"], "{actor}");
        close_without_leaks(channel, &greeter).await;
    }
}

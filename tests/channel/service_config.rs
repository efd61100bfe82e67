//! Where service configs come from, and which of them counts.

use std::net::Ipv6Addr;
use std::time::Duration;

use hickory_server::proto::rr::RecordType;
use switchboard::{
    ActorKind, Address, BackoffConfig, Channel, ChannelBuilder, Code, ConnectivityState, Dns,
    Endpoint, Fault, ManualResolver, Resolution, ResolveError, Status,
};

use crate::support::greeter::{Greeter, SAY_HELLO, ask};
use crate::support::name_server::{Answer, NameServer};
use crate::support::{ROUND_ROBIN, close_without_leaks, plaintext, reports, until, until_state};

const NAME: &str = "greeter.example.";
const CONFIG_NAME: &str = "_grpc_config.greeter.example.";

/// A name server that knows a greeter, and what it says of its service config.
struct Names {
    server: NameServer,
    greeter: Greeter,
}

impl Names {
    async fn start() -> Self {
        let names = Self { server: NameServer::start().await, greeter: Greeter::start() };
        let ip = names.greeter.address().ip();
        names.server.set(NAME, Answer::Addresses(vec![ip]));
        names
    }

    /// From now on there is one TXT record, with this list of choices.
    fn set(&self, choices: &str) {
        self.server.set(CONFIG_NAME, txt(choices));
    }

    /// A channel that asks for addresses and for the service config.
    fn builder(&self) -> ChannelBuilder {
        self.builder_for(NAME, Dns::new())
    }

    fn builder_for(&self, name: &str, dns: Dns) -> ChannelBuilder {
        let (server, port) = (self.server.address(), self.greeter.address().port());
        plaintext(format!("dns://{server}/{name}:{port}"))
            .resolver("dns", dns)
            .dns_service_config(true)
    }

    /// How often TXT records were asked for.
    fn asked_for_config(&self) -> usize {
        let questions = self.server.questions();
        questions.iter().filter(|question| question.kind == RecordType::TXT).count()
    }
}

/// `choices` behind what a record begins with, cut into strings.
fn txt(choices: &str) -> Answer {
    let text = format!("grpc_config={choices}");
    let strings = text.as_bytes().chunks(200);
    let strings = strings.map(|part| String::from_utf8(part.to_vec()).unwrap()).collect();
    Answer::Texts(vec![vec!["v=spf1 -all".to_owned()], strings])
}

/// The choice of `round_robin` under a condition, such as `"percentage": 5,`.
fn choice(condition: &str) -> String {
    format!(r#"{{{condition} "serviceConfig": {ROUND_ROBIN}}}"#)
}

/// Calls, and tells the policy that is in force then.
async fn policy(builder: &ChannelBuilder) -> Result<String, Status> {
    let channel = builder.build().unwrap();
    let reply = channel.invoke(&SAY_HELLO, ask("Ada")).await;
    let policy = configured(&channel).await;
    channel.close().await;
    reply.map(|_| policy)
}

async fn configured(channel: &Channel) -> String {
    channel.inspect().await.configured_policy
}

#[tokio::test]
async fn a_channel_with_service_configs_disabled_goes_by_its_default_whatever_the_resolver_says() {
    let greeter = [Greeter::start()];
    let found = || Resolution::new([Endpoint::from(greeter[0].address())]);
    for config in [r#"{"loadBalancingConfig":[{"pick_first":{}}]}"#, "{not json"] {
        let manual = ManualResolver::new();
        manual.set_resolution(found().with_service_config(config));
        let channel = plaintext("manual:///greeter")
            .resolver("manual", manual.clone())
            .default_service_config(ROUND_ROBIN)
            .disable_service_config()
            .build()
            .unwrap();
        channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
        assert_eq!(configured(&channel).await, "round_robin", "{config}");
        close_without_leaks(channel, &greeter).await;
    }
}

#[tokio::test]
async fn a_config_that_says_something_new_of_methods_alone_reaches_calls() {
    let greeter = [Greeter::start()];
    let found = || Resolution::new([Endpoint::from(greeter[0].address())]);
    let manual = ManualResolver::new();
    manual.set_resolution(found());
    let channel =
        plaintext("manual:///greeter").resolver("manual", manual.clone()).build().unwrap();
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    // The policy, pick_first, has nothing to do for that: its server stays.
    let none = r#"{"methodConfig":[{"name":[{}],"maxRequestMessageBytes":0}]}"#;
    manual.set_resolution(found().with_service_config(none));
    until("a call is refused", async || {
        let reply = channel.invoke(&SAY_HELLO, ask("Ada")).await;
        reply.is_err_and(|status| status.code() == Code::RESOURCE_EXHAUSTED)
    })
    .await;
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn dns_is_asked_for_a_service_config_only_where_that_is_asked_for_and_applies() {
    let names = Names::start().await;
    names.set(&format!("[{}]", choice("")));
    let off = names.builder().dns_service_config(false);
    assert_eq!(policy(&off).await.unwrap(), "pick_first");
    assert_eq!(policy(&names.builder().disable_service_config()).await.unwrap(), "pick_first");
    assert_eq!(names.asked_for_config(), 0);
    assert_eq!(policy(&names.builder()).await.unwrap(), "round_robin");
    assert!(names.asked_for_config() > 0);
}

// spec: A10/localhost-and-literals
#[tokio::test]
async fn the_config_of_localhost_or_an_address_is_not_asked_for() {
    let names = Names::start().await;
    for host in ["localhost", "127.0.0.1"] {
        let builder = names.builder_for(host, Dns::new());
        assert_eq!(policy(&builder).await.unwrap(), "pick_first");
    }
    assert_eq!(names.server.questions(), []);
}

// spec: A2/txt-record
#[tokio::test]
async fn a_service_config_in_dns_comes_with_the_addresses_and_before_the_default() {
    let names = Names::start().await;
    // Too long for a string, and for UDP.
    let filling =
        format!(r#"{{"clientHostname": ["{}"], "serviceConfig": {{}}}}"#, "x".repeat(9_000));
    names.set(&format!("[{filling}, {}]", choice(r#""clientLanguage": ["Go", "Rust"],"#)));
    let default = r#"{"loadBalancingConfig":[{"pick_first":{}}]}"#;
    let builder = names.builder().default_service_config(default);
    assert_eq!(policy(&builder).await.unwrap(), "round_robin");
    let over_tcp = |it: &crate::support::name_server::Question| it.over_tcp;
    assert!(names.server.questions().iter().any(over_tcp));
}

#[tokio::test]
async fn the_config_of_a_short_name_is_looked_for_in_the_search_domains() {
    let names = Names::start().await;
    let ip = names.greeter.address().ip();
    names.server.set("short.prod.example.", Answer::Addresses(vec![ip]));
    names.server.set("_grpc_config.short.prod.example.", txt(&format!("[{}]", choice(""))));
    let dns = Dns::new().search_domains(["test.example", "prod.example"]);
    assert_eq!(policy(&names.builder_for("short", dns)).await.unwrap(), "round_robin");
}

#[tokio::test]
async fn the_default_is_in_force_where_dns_has_no_choice_for_this_client() {
    let names = Names::start().await;
    let builder = names.builder().default_service_config(ROUND_ROBIN);
    let other = r#"{"loadBalancingConfig":[{"pick_first":{}}]}"#;
    let go = format!(r#"[{{"clientLanguage": ["go"], "serviceConfig": {other}}}]"#);
    let rows =
        [Answer::Texts(Vec::new()), Answer::Texts(vec![vec!["no config".to_owned()]]), txt(&go)];
    for answer in rows {
        names.server.set(CONFIG_NAME, answer);
        assert_eq!(policy(&builder).await.unwrap(), "round_robin");
    }
    names.server.remove(CONFIG_NAME);
    assert_eq!(policy(&builder).await.unwrap(), "round_robin");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_choice_may_be_meant_for_this_machine_alone() {
    let names = Names::start().await;
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let list = |name: &str| format!("[{}]", choice(&format!(r#""clientHostname": ["{name}"],"#)));
    names.set(&list(hostname.trim()));
    assert_eq!(policy(&names.builder()).await.unwrap(), "round_robin");
    names.set(&list(&format!("{}x", hostname.trim())));
    assert_eq!(policy(&names.builder()).await.unwrap(), "pick_first");
}

// spec: A2/percentage
#[tokio::test]
async fn a_percentage_is_drawn_from_the_seed_of_the_channel() {
    let names = Names::start().await;
    names.set(&format!("[{}]", choice(r#""percentage": 50,"#)));
    let mut policies = Vec::new();
    for seed in 0..10 {
        let builder = names.builder().seed(seed);
        let drawn = policy(&builder).await.unwrap();
        assert_eq!(policy(&builder).await.unwrap(), drawn, "seed {seed}");
        policies.push(drawn);
    }
    // The seeds being what they are, this is the same in every run.
    assert!(["pick_first", "round_robin"].iter().all(|it| policies.iter().any(|one| one == it)));
}

// spec: A2/strict
#[tokio::test]
async fn a_list_with_a_fault_is_a_bad_service_config_which_is_named_and_left_once_it_is_right() {
    let names = Names::start().await;
    names.set(&format!("[{}, {}]", choice(""), choice(r#""percentage": "5","#)));
    let wait = Duration::from_millis(20);
    let backoff = BackoffConfig { base_delay: wait, max_delay: wait, ..BackoffConfig::default() };
    let channel = names.builder().default_service_config("{}").backoff(backoff).build().unwrap();
    let status = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
    assert_eq!(status.code(), Code::UNAVAILABLE);
    let part = "service config: [1].percentage: must be a whole number from 0 to 100";
    assert!(status.message().contains(part), "{status}");
    let config = r#"[{"serviceConfig": {"loadBalancingConfig": 1}}]"#;
    names.set(config);
    let status = policy(&names.builder()).await.unwrap_err();
    let part = "[0].serviceConfig.loadBalancingConfig: must be a list";
    assert!(status.message().contains(part), "{status}");
    names.set(&format!("[{}]", choice("")));
    until_state(&channel, ConnectivityState::Ready).await;
    assert_eq!(configured(&channel).await, "round_robin");
    channel.close().await;
}

// spec: A2/lookup-fails
#[tokio::test]
async fn a_config_that_cannot_be_looked_up_costs_no_call() {
    let names = Names::start().await;
    let dns = Dns::new().query_timeout(Duration::from_millis(20));
    for answer in [Answer::Failure, Answer::Silence] {
        names.server.set(CONFIG_NAME, answer);
        let builder = names.builder_for(NAME, dns.clone()).default_service_config(ROUND_ROBIN);
        assert_eq!(policy(&builder).await.unwrap(), "round_robin");
    }
    assert!(names.asked_for_config() > 0);
}

#[tokio::test]
async fn a_config_that_nobody_answers_for_is_given_up_and_the_inspection_says_so() {
    let names = Names::start().await;
    names.server.set(CONFIG_NAME, Answer::Silence);
    // No timeout of the name server helps here.
    let dns = Dns::new().query_timeout(Duration::from_secs(3_600));
    let builder = names.builder_for(NAME, dns).default_service_config(ROUND_ROBIN);
    let channel = builder.build().unwrap();
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    let reports = reports(&channel).await;
    let resolver = reports.iter().find(|report| report.actor == ActorKind::Resolver).unwrap();
    let said = &resolver.facts["given up"];
    assert!(said.contains(CONFIG_NAME.trim_end_matches('.')), "{said}");
    assert!(said.contains("no answer within 1s"), "{said}");
    channel.close().await;
}

#[tokio::test]
async fn a_config_that_was_found_stays_while_nobody_answers_for_it() {
    let names = Names::start().await;
    names.set(&format!("[{}]", choice("")));
    // An address on which nobody listens has the channel ask again, and again.
    let ips = vec![names.greeter.address().ip(), Ipv6Addr::LOCALHOST.into()];
    names.server.set(NAME, Answer::Addresses(ips));
    let wait = Duration::from_millis(20);
    let backoff = BackoffConfig { base_delay: wait, max_delay: wait, ..BackoffConfig::default() };
    let dns = Dns::new().min_interval(wait);
    let channel = names.builder_for(NAME, dns).backoff(backoff).build().unwrap();
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    assert_eq!(configured(&channel).await, "round_robin");
    names.server.set(CONFIG_NAME, Answer::Failure);
    until("the config is given up", async || {
        let reports = reports(&channel).await;
        let resolver = reports.iter().find(|report| report.actor == ActorKind::Resolver).unwrap();
        resolver.facts.contains_key("given up")
    })
    .await;
    assert_eq!(configured(&channel).await, "round_robin");
    channel.close().await;
}

#[tokio::test]
async fn addresses_that_cannot_be_looked_up_do_not_wait_for_the_config() {
    let names = Names::start().await;
    names.server.remove(NAME);
    // By the system's times this takes longer than the test.
    names.server.set(CONFIG_NAME, Answer::Silence);
    let status = policy(&names.builder()).await.unwrap_err();
    assert!(status.message().contains("there is no such name"), "{status}");
}

// spec: A21/first-config-bad
#[tokio::test(start_paused = true)]
async fn a_bad_first_config_is_not_replaced_by_the_default_after_a_failed_lookup_nor_a_crash() {
    let resolver = ManualResolver::new();
    let bad = Resolution::new([Endpoint::from(Address::Name("server".into()))]);
    resolver.set_resolution(bad.clone().with_service_config("{"));
    let channel = plaintext("manual:greeter")
        .resolver("manual", resolver.clone())
        .connector(switchboard::memory::MemoryNetwork::new().connector())
        .default_service_config(ROUND_ROBIN)
        .allow_injection()
        .build()
        .unwrap();
    let fails_with_its_error = async || {
        let status = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
        assert!(status.message().contains("error parsing service config"), "{status}");
    };
    fails_with_its_error().await;
    let lookups = resolver.lookups();
    resolver.fail(ResolveError::new("no such name"));
    until("the failure is known", async || resolver.lookups() > lookups + 2).await;
    fails_with_its_error().await;
    channel.inject(Fault::crash(ActorKind::ClientConn)).await.unwrap();
    until("it is there again", async || reports(&channel).await.iter().any(|it| it.restarts > 0))
        .await;
    fails_with_its_error().await;
    channel.close().await;
}

/// Finds the same servers again and again, with another service config each time, and says each time
/// that there is something new.
struct Restless(std::sync::Arc<std::sync::atomic::AtomicUsize>);

impl switchboard::Resolve for Restless {
    fn resolve(&mut self) -> switchboard::BoxFuture<'_, Result<Resolution, ResolveError>> {
        let nth = self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
        let config = format!(r#"{{"methodConfig":[{{"name":[{{}}],"timeout":"{nth}s"}}]}}"#);
        let found = Resolution::new([Endpoint::from(Address::Name("server".into()))]);
        Box::pin(std::future::ready(Ok(found.with_service_config(config))))
    }

    fn changed(&mut self) -> switchboard::BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

#[tokio::test(start_paused = true)]
async fn a_resolver_that_never_stops_changing_is_asked_ten_times_a_second() {
    let lookups = std::sync::Arc::<std::sync::atomic::AtomicUsize>::default();
    let counted = lookups.clone();
    let restless = move |_: &switchboard::Target| -> Result<
        Box<dyn switchboard::Resolve>,
        switchboard::TargetError,
    > { Ok(Box::new(Restless(counted.clone()))) };
    let channel = plaintext("restless:greeter")
        .resolver("restless", restless)
        .connector(switchboard::memory::MemoryNetwork::new().connector())
        .build()
        .unwrap();
    channel.connect();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let lookups = lookups.load(std::sync::atomic::Ordering::SeqCst);
    assert!((90..=110).contains(&lookups), "{lookups} in ten seconds");
    // Each config reaches the calls, and with it little else.
    let snapshots = channel.inspect().await.generation;
    assert!((90..=230).contains(&snapshots), "{snapshots} in ten seconds");
    channel.close().await;
}

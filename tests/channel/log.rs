//! The log of a channel, as a person reads it: on tokio's paused clock.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use switchboard::{
    AccessToken, Address, BoxFuture, Channel, Connect, Credentials, Io, ManualResolver, OAuth2,
    ResolveError, Status,
};
use tracing::field::{Field, Visit};
use tracing::subscriber::{DefaultGuard, NoSubscriber, set_default};
use tracing::{Dispatch, Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

use crate::support::greeter::{SAY_HELLO, ask};

/// One line.
#[derive(Clone, Debug)]
struct Line {
    level: Level,
    text: String,
}

/// What the library logs from now on, on this thread.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<Line>>>);

impl Lines {
    fn capture() -> (Self, (DefaultGuard, Dispatch)) {
        let lines = Self::default();
        let of_the_channel = Targets::new().with_target("switchboard", LevelFilter::TRACE);
        let layer = lines.clone().with_filter(of_the_channel);
        let guard = set_default(tracing_subscriber::registry().with(layer));
        // Where there is one subscriber, whether a line is of interest is asked of the thread that
        // comes to it first, which may be another test's.
        (lines, (guard, Dispatch::new(NoSubscriber::default())))
    }

    fn containing(&self, level: Level, what: &str) -> Vec<String> {
        let lines = self.0.lock().unwrap();
        let found = lines.iter().filter(|it| it.level == level && it.text.contains(what));
        found.map(|it| it.text.clone()).collect()
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().unwrap().push(Line { level: *event.metadata().level(), text: text.0 });
    }
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        use fmt::Write as _;
        write!(self.0, "{field}={value:?} ").unwrap();
    }
}

const MINUTE: Duration = Duration::from_secs(60);

/// Connects where `is_up` says so.
struct Switch<C> {
    connector: C,
    is_up: Arc<AtomicBool>,
}

impl<C: Connect> Connect for Switch<C> {
    fn connect<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, std::io::Result<Io>> {
        if self.is_up.load(Ordering::Relaxed) {
            return self.connector.connect(address);
        }
        Box::pin(async { Err(std::io::ErrorKind::ConnectionRefused.into()) })
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_cannot_be_reached_is_a_warning_and_one_that_is_back_another() {
    let (lines, _guard) = Lines::capture();
    let (connector, mut listener) = switchboard::memory::pipe();
    tokio::spawn(async move {
        while let Some(stream) = listener.accept().await {
            tokio::spawn(crate::support::mini::answer_all(stream, |_: &http::request::Parts| {}));
        }
    });
    let is_up = Arc::new(AtomicBool::new(false));
    let channel = Channel::builder("passthrough:greeter")
        .credentials(Credentials::insecure())
        .connector(Switch { connector, is_up: is_up.clone() })
        .build()
        .unwrap();
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < 10 * MINUTE {
        let _ = channel.invoke(&SAY_HELLO, ask("Ada").timeout(MINUTE)).await.unwrap_err();
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    let warnings = lines.containing(Level::WARN, "");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    for part in ["server cannot be reached", "channel=passthrough:greeter", "subject=greeter"] {
        assert!(warnings[0].contains(part), "{part}: {}", warnings[0]);
    }
    let again = lines.containing(Level::DEBUG, "server cannot be reached");
    assert!(again.len() > 3, "{again:?}");
    is_up.store(true, Ordering::Relaxed);
    channel.invoke(&SAY_HELLO, ask("Ada").wait_for_ready(true).timeout(10 * MINUTE)).await.unwrap();
    let warnings = lines.containing(Level::WARN, "");
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    for part in ["can be reached again", "channel=passthrough:greeter", "subject=greeter"] {
        assert!(warnings[1].contains(part), "{part}: {}", warnings[1]);
    }
    channel.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_flaps_is_a_line_a_second_of_each_kind() {
    let (lines, _guard) = Lines::capture();
    let (connector, mut listener) = switchboard::memory::pipe();
    let accepted = Arc::new(AtomicUsize::new(0));
    let counted = accepted.clone();
    tokio::spawn(async move {
        while let Some(stream) = listener.accept().await {
            // Every second one is gone before its SETTINGS, the others are right behind them.
            if counted.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
                let _ = h2::server::handshake(stream).await;
            }
        }
    });
    let channel = Channel::builder("passthrough:greeter")
        .credentials(Credentials::insecure())
        .connector(connector)
        .backoff(switchboard::BackoffConfig {
            base_delay: Duration::from_millis(1),
            max_delay: Duration::from_millis(1),
            ..switchboard::BackoffConfig::default()
        })
        .build()
        .unwrap();
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(10) {
        let call = ask("Ada").wait_for_ready(true).timeout(Duration::from_millis(50));
        let _ = channel.invoke(&SAY_HELLO, call).await;
    }
    assert!(accepted.load(Ordering::Relaxed) > 50, "{accepted:?}");
    let mut kinds = std::collections::BTreeMap::new();
    for line in lines.0.lock().unwrap().iter() {
        let kind = line.text.split("cause=").next().unwrap().split("left_out=").next().unwrap();
        *kinds.entry(kind.to_owned()).or_insert(0) += 1;
    }
    assert!(kinds.len() < 15 && kinds.values().all(|lines| *lines <= 11), "{kinds:#?}");
    channel.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_resolver_that_fails_and_then_does_not_is_two_warnings() {
    let (lines, _guard) = Lines::capture();
    let names = ManualResolver::new();
    names.fail(ResolveError::new("the registry is away"));
    let channel = Channel::builder("manual:greeter")
        .credentials(Credentials::insecure())
        .resolver("manual", names.clone())
        .build()
        .unwrap();
    for _ in 0..1_000 {
        let call = channel.invoke(&SAY_HELLO, ask("Ada").timeout(Duration::from_millis(500)));
        let _ = call.await.unwrap_err();
        names.fail(ResolveError::new("the registry is away"));
    }
    let warnings = lines.containing(Level::WARN, "");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("names cannot be resolved"), "{warnings:?}");
    assert!(warnings[0].contains("channel=manual:"), "{warnings:?}");
    names.set([std::net::SocketAddr::from(([127, 0, 0, 1], 1)).into()]);
    tokio::time::sleep(MINUTE).await;
    assert_eq!(lines.containing(Level::WARN, "names are resolved again").len(), 1);
    channel.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_bad_service_config_that_is_pushed_without_end_is_a_line_a_second() {
    let (lines, _guard) = Lines::capture();
    let names = ManualResolver::new();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
    let channel = Channel::builder("manual:greeter")
        .credentials(Credentials::insecure())
        .resolver("manual", names.clone())
        .build()
        .unwrap();
    channel.connect();
    let begun = tokio::time::Instant::now();
    let bad = || switchboard::Resolution::new([address.into()]).with_service_config("[");
    let mut pushed = 0;
    while begun.elapsed() < Duration::from_secs(10) {
        names.set_resolution(bad());
        pushed += 1;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(pushed, 10_000);
    assert_eq!(lines.containing(Level::WARN, "service config cannot be used").len(), 1);
    let again = lines.containing(Level::DEBUG, "service config cannot be used");
    assert!((5..=10).contains(&again.len()), "{again:?}");
    assert!(again.iter().all(|line| line.contains("left_out=")), "{again:?}");
    channel.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_token_that_cannot_be_fetched_is_a_warning_and_one_that_can_another() {
    struct Source(Mutex<u32>);
    impl switchboard::TokenSource for Source {
        fn fetch(&self) -> BoxFuture<'_, Result<AccessToken, Status>> {
            let mut left = self.0.lock().unwrap();
            let failed = left.checked_sub(1).map(|it| *left = it);
            Box::pin(async move {
                match failed {
                    Some(()) => Err(Status::unavailable("the server of tokens is away")),
                    None => Ok(AccessToken::new("token")),
                }
            })
        }
    }
    let (lines, _guard) = Lines::capture();
    let (connector, mut listener) = switchboard::memory::pipe();
    tokio::spawn(async move {
        while let Some(stream) = listener.accept().await {
            tokio::spawn(crate::support::mini::answer_all(stream, |_: &http::request::Parts| {}));
        }
    });
    let tokens = OAuth2::new(Source(Mutex::new(5)));
    let tokens = tokens.min_security_level(switchboard::SecurityLevel::None);
    let channel = Channel::builder("passthrough:greeter")
        .credentials(Credentials::insecure().with_call_credentials(tokens))
        .connector(connector)
        .build()
        .unwrap();
    while channel.invoke(&SAY_HELLO, ask("Ada").timeout(MINUTE)).await.is_err() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let warnings = lines.containing(Level::WARN, "token for calls");
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].contains("could not be fetched"), "{warnings:?}");
    assert!(warnings[1].contains("is fetched again"), "{warnings:?}");
    channel.close().await;
}

#[tokio::test(start_paused = true)]
async fn an_observer_that_panics_without_end_is_a_line_a_second() {
    struct Panics;
    impl switchboard::Observer for Panics {
        fn call_began(
            &self,
            _: &switchboard::CallInfo<'_>,
        ) -> Option<Arc<dyn switchboard::CallObserver>> {
            panic!("on purpose")
        }
    }
    let (lines, _guard) = Lines::capture();
    let (connector, mut listener) = switchboard::memory::pipe();
    tokio::spawn(async move {
        while let Some(stream) = listener.accept().await {
            tokio::spawn(crate::support::mini::answer_all(stream, |_: &http::request::Parts| {}));
        }
    });
    let channel = Channel::builder("passthrough:greeter")
        .credentials(Credentials::insecure())
        .connector(connector)
        .observer(Panics)
        .build()
        .unwrap();
    for _ in 0..100 {
        channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    let told = lines.containing(Level::ERROR, "an observer goes without");
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[1].contains("left_out=99") && told[1].contains("on purpose"), "{told:?}");
    channel.close().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_service_config_says_in_vain_is_a_warning_or_an_error_where_that_is_wanted() {
    let (lines, _guard) = Lines::capture();
    let config = r#"{"methodConfig":[{"name":[{"service":"/a.B"}],"time_out":"1s"}],
        "healthCheckConfig":{"serviceName":"a.B"}}"#;
    let builder = Channel::builder("ipv4:127.0.0.1:1")
        .credentials(Credentials::insecure())
        .default_service_config(config);
    builder.build().unwrap();
    let told = lines.containing(Level::WARN, "part without effect");
    assert_eq!(told.len(), 3, "{told:?}");
    for (place, reason) in [
        ("methodConfig[0].time_out", "`timeout` is"),
        ("methodConfig[0].name[0].service", "expected package.Service"),
        ("healthCheckConfig", "round_robin does"),
    ] {
        let is_told = |line: &String| {
            line.contains(place) && line.contains(reason) && line.contains("ipv4:127.0.0.1:1")
        };
        assert!(told.iter().any(is_told), "{place}: {told:?}");
    }
    let refused = builder.strict().build().unwrap_err().to_string();
    let expected = "healthCheckConfig: pick_first does not go by health; round_robin does";
    assert!(refused.contains(expected), "{refused}");
    let good = Channel::builder("ipv4:127.0.0.1:1")
        .credentials(Credentials::insecure())
        .default_service_config(r#"{"loadBalancingConfig":[{"round_robin":{}}]}"#);
    good.strict().build().unwrap();
    assert_eq!(lines.containing(Level::WARN, "part without effect").len(), 3);
}

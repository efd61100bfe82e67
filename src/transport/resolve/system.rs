//! `dns:` targets, over the operating system's resolver.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::types::{Refresh, Target, TargetError};

use super::super::aside::Aside;
use super::super::connect::BoxFuture;
use super::super::error::in_words;
use super::endpoint::{LOOPBACK, Named, is_localhost, named};
use super::{BuildResolver, FixedResolver, REFRESH_INTERVAL, Resolution, Resolve, ResolveError};

/// The resolver of `dns` targets that asks the operating system: `dns:host`, `dns:host:port`.
///
/// It finds what `getaddrinfo` finds, in its order, for names that only the system knows: those of
/// `nsswitch.conf`, mDNS or a directory. The default where the feature `dns` is off; otherwise
/// [`Dns::system`](crate::Dns::system) makes one. IP addresses, `localhost` and the names below it
/// are not looked up. The system asks name servers of its own, so `dns://server/host` is an error.
///
/// The system does not tell how long addresses live, so a channel looks again every 30 s
/// ([`refresh_every`](Self::refresh_every)), with up to a tenth added by chance, unless it is idle. It
/// finds no service configs.
///
/// A look-up cannot be interrupted. It runs on a thread of its own, one at a time for each name, and
/// clones of one value wait for 16 at a time; after 25 s it has failed, and no further one begins
/// until the system has given the last one up.
#[derive(Clone)]
pub struct SystemDns {
    min_interval: Duration,
    refresh_every: Option<Duration>,
    lookups: Arc<Lookups>,
}

/// What the system says of one name.
type Found = Result<Vec<SocketAddr>, Arc<io::Error>>;

/// How the system is asked.
type Ask = fn(&str, u16) -> io::Result<Vec<SocketAddr>>;

/// The look-ups that are under way, by the host and the port.
struct Lookups {
    ask: Ask,
    turns: Semaphore,
    /// A look-up keeps its own alive, so that whoever wants the same name finds it.
    by_name: Mutex<BTreeMap<Key, Weak<Lookup>>>,
}

type Key = (String, u16);

type Lookup = Aside<Found>;

impl SystemDns {
    /// A resolver that asks the operating system.
    pub fn new() -> Self {
        Self::asking(|host, port| Ok((host, port).to_socket_addrs()?.collect()))
    }

    fn asking(ask: Ask) -> Self {
        let (turns, by_name) = (Semaphore::new(AT_ONCE_MAX), Mutex::default());
        Self {
            min_interval: REFRESH_INTERVAL,
            refresh_every: Some(REFRESH_INTERVAL),
            lookups: Arc::new(Lookups { ask, turns, by_name }),
        }
    }

    /// How long the system is left alone after an answer, whatever happens to connections.
    /// Default: 30 s.
    pub fn min_interval(mut self, interval: Duration) -> Self {
        self.min_interval = interval;
        self
    }

    /// After what time a channel looks again by itself. `None` turns that off. Default: 30 s.
    pub fn refresh_every(mut self, interval: impl Into<Option<Duration>>) -> Self {
        self.refresh_every = interval.into();
        self
    }
}

impl Default for SystemDns {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for SystemDns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SystemDns")
            .field("min_interval", &self.min_interval)
            .field("refresh_every", &self.refresh_every)
            .finish_non_exhaustive()
    }
}

impl BuildResolver for SystemDns {
    fn build(&self, target: &Target) -> Result<Box<dyn Resolve>, TargetError> {
        if !target.authority().is_empty() {
            return Err(target.invalid(format!(
                "the operating system's resolver asks name servers of its own and not `{}`; expected \
                 dns:host, or the resolver `Dns` of the feature `dns`",
                target.authority()
            )));
        }
        let (host, port) = match named(target)? {
            Named::Address(address) => return Ok(FixedResolver::boxed(vec![address.into()])),
            Named::Host(host, port) => (host, port),
        };
        if is_localhost(host) {
            let addresses = LOOPBACK.map(|ip| SocketAddr::new(ip, port).into());
            return Ok(FixedResolver::boxed(addresses.into()));
        }
        if host.contains(|c: char| c.is_ascii() && !is_plain(c)) {
            return Err(target.invalid(format!("`{host}` is not a DNS name")));
        }
        Ok(Box::new(SystemResolver { host: host.to_owned(), port, settings: self.clone() }))
    }
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

/// Looks one host up.
struct SystemResolver {
    host: String,
    port: u16,
    settings: SystemDns,
}

impl Resolve for SystemResolver {
    fn resolve(&mut self) -> BoxFuture<'_, Result<Resolution, ResolveError>> {
        Box::pin(self.look_up())
    }

    fn refresh(&self) -> Refresh {
        Refresh::AtMostEvery(self.settings.min_interval)
    }
}

impl SystemResolver {
    async fn look_up(&self) -> Result<Resolution, ResolveError> {
        let fail = |cause: String| {
            ResolveError::new(format!("look-up of `{}` by the system: {cause}", self.host))
        };
        match self.settings.lookups.find(&self.host, self.port).await {
            Ok(Ok(addresses)) if addresses.is_empty() => {
                Err(fail("it has no addresses".to_owned()))
            }
            Ok(Ok(addresses)) => Ok(Resolution {
                refresh_after: self.settings.refresh_every,
                ..Resolution::new(addresses.into_iter().map(Into::into))
            }),
            Ok(Err(error)) => Err(fail(in_words(&error)).with_source(error)),
            Err(late) => Err(fail(late)),
        }
    }
}

impl Lookups {
    async fn find(&self, host: &str, port: u16) -> Result<Found, String> {
        // It is never closed.
        let _turn = self.turns.acquire().await.map_err(|closed| closed.to_string())?;
        let lookup = self.of(host, port);
        let (ask, kept, name) = (self.ask, lookup.clone(), host.to_owned());
        let work = move || {
            let found = ask(&name, port).map_err(Arc::new);
            drop(kept);
            found
        };
        lookup.run(work).await.map_err(|none| none.to_string())
    }

    fn of(&self, host: &str, port: u16) -> Arc<Lookup> {
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        by_name.retain(|_, lookup| lookup.strong_count() > 0);
        let key = (host.to_owned(), port);
        let known = by_name.get(&key).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let lookup = Arc::new(Lookup::new(LOOKUP_TIMEOUT));
            by_name.insert(key, Arc::downgrade(&lookup));
            lookup
        })
    }
}

/// A small part of the blocking threads that a runtime has, 512.
const AT_ONCE_MAX: usize = 16;

/// Less than the 30 s after which the channel gives a look-up up without knowing why.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(25);

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;
    use crate::types::Endpoint;

    fn target(text: &str) -> Target {
        Target::parse(text, &["dns"], "dns").unwrap()
    }

    fn addresses(resolution: &Resolution) -> Vec<String> {
        let all = resolution.endpoints.iter().flat_map(Endpoint::addresses);
        all.map(ToString::to_string).collect()
    }

    #[tokio::test]
    async fn addresses_and_localhost_are_known_and_never_asked_for() {
        let dns = SystemDns::asking(|_, _| unreachable!("nobody is asked"));
        let rows: [(&str, &[&str]); 5] = [
            ("dns:127.0.0.1:5", &["127.0.0.1:5"]),
            ("[fe80::1%3]:5", &["[fe80::1%3]:5"]),
            ("localhost:5", &["127.0.0.1:5", "[::1]:5"]),
            (":5", &["127.0.0.1:5", "[::1]:5"]),
            ("dns:a.LocalHost.", &["127.0.0.1:443", "[::1]:443"]),
        ];
        for (text, expected) in rows {
            let mut resolver = dns.build(&target(text)).unwrap();
            assert_eq!(addresses(&resolver.resolve().await.unwrap()), expected, "{text}");
            assert_eq!(resolver.refresh(), Refresh::Never);
        }
    }

    #[tokio::test]
    async fn the_system_is_asked_and_asked_again_every_30_seconds() {
        let dns = SystemDns::asking(|host, port| {
            assert_eq!(host, "greeter.example");
            Ok(vec![([10, 0, 0, 2], port).into(), ([10, 0, 0, 1], port).into()])
        });
        let mut resolver = dns.build(&target("dns:greeter.example:5")).unwrap();
        let found = resolver.resolve().await.unwrap();
        assert_eq!(addresses(&found), ["10.0.0.2:5", "10.0.0.1:5"]);
        assert_eq!(found.refresh_after, Some(Duration::from_secs(30)));
        assert_eq!(found.ttl, None);
    }

    #[tokio::test]
    async fn a_failure_of_the_system_names_the_host_and_the_cause() {
        let dns = SystemDns::asking(|_, _| Err(io::Error::other("Nobody knows")));
        let error = dns.build(&target("dns:x")).unwrap().resolve().await.unwrap_err();
        assert_eq!(error.to_string(), "look-up of `x` by the system: nobody knows");
        let dns = SystemDns::asking(|_, _| Ok(Vec::new()));
        let error = dns.build(&target("dns:x")).unwrap().resolve().await.unwrap_err();
        assert!(error.to_string().contains("no addresses"), "{error}");
    }

    #[tokio::test]
    async fn a_name_is_asked_for_once_at_a_time_by_all_its_channels() {
        static ASKED: AtomicUsize = AtomicUsize::new(0);
        static MAY_END: AtomicBool = AtomicBool::new(false);
        let dns = SystemDns::asking(|_, port| {
            ASKED.fetch_add(1, Ordering::SeqCst);
            while !MAY_END.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            Ok(vec![([10, 0, 0, 1], port).into()])
        });
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..10 {
            let mut resolver = dns.build(&target("dns:x")).unwrap();
            all.spawn(async move { resolver.resolve().await.map(|found| found.endpoints.len()) });
        }
        while ASKED.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        // One that is given up leaves its look-up to those who come after it.
        let mut given_up = dns.build(&target("dns:x")).unwrap();
        assert!(futures_util::FutureExt::now_or_never(given_up.resolve()).is_none());
        drop(given_up);
        tokio::task::yield_now().await;
        MAY_END.store(true, Ordering::SeqCst);
        while let Some(found) = all.join_next().await {
            assert_eq!(found.unwrap().unwrap(), 1);
        }
        assert_eq!(ASKED.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_target_that_names_a_server_or_no_host_is_refused() {
        let rows = [
            ("dns://8.8.8.8/greeter", "name servers of its own and not `8.8.8.8`"),
            ("dns:a/b", "`a/b` is not a DNS name"),
            ("dns:greeter:x", "port `x` is not"),
        ];
        for (text, part) in rows {
            let error = SystemDns::new().build(&target(text)).err().unwrap().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}

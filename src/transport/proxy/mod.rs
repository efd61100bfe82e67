//! Proxies that tunnel connections by HTTP CONNECT.

mod bypass;
mod exchange;

use std::error::Error;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, Uri};
use percent_encoding::percent_decode_str;

use crate::types::{Address, harmless, shown, socket_addr};

use super::connect::{BoxFuture, Connect, Io};
use bypass::Bypass;

/// A proxy that connections to servers are tunnelled through by HTTP CONNECT (A1), and the servers
/// that are reached without it.
///
/// A channel takes the one that its environment names, unless
/// [`ChannelBuilder::proxy`](crate::ChannelBuilder::proxy) or
/// [`ChannelBuilder::no_proxy`](crate::ChannelBuilder::no_proxy) say otherwise. TLS goes through the
/// tunnel: the proxy sees no more than the server's name and port.
///
/// ```
/// use switchboard::{Channel, Credentials, Proxy};
///
/// let proxy = Proxy::http("http://user:password@proxy.example:3128")?.bypass(".internal.example")?;
/// let channel = Channel::builder("greeter.example").credentials(Credentials::tls()).proxy(proxy);
/// # Ok::<_, switchboard::ProxyError>(())
/// ```
#[derive(Clone)]
pub struct Proxy {
    way: Result<Way, ProxyError>,
    bypass: Bypass,
}

/// Where a proxy is, and who asks.
#[derive(Clone)]
struct Way {
    /// `host:port`, as it is dialled.
    address: Arc<str>,
    /// `Proxy-Authorization`.
    authorization: Option<HeaderValue>,
}

impl Proxy {
    /// The proxy at `url`: `http://[user:password@]host[:port]`, where characters of the user and
    /// the password may be percent-encoded. The port is 80 by default. Names of proxies are looked
    /// up by the operating system, for each connection anew.
    pub fn http(url: &str) -> Result<Self, ProxyError> {
        // A bare `host:port` is one too, as everywhere in such variables.
        let whole = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let uri: Uri = whole.parse().map_err(|_| ProxyError::NoUrl)?;
        match uri.scheme_str() {
            Some("http") => {}
            scheme => {
                let scheme = scheme.unwrap_or_default().to_owned();
                return Err(ProxyError::UnsupportedScheme { scheme });
            }
        }
        let authority = uri.authority().ok_or(ProxyError::NoUrl)?.as_str();
        let (userinfo, place) = authority.rsplit_once('@').unwrap_or(("", authority));
        let has_port = place.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
        let address = if has_port { place.to_owned() } else { format!("{place}:{HTTP_PORT}") };
        match host_and_port(&address) {
            Some((host, port)) if !host.is_empty() && port != 0 => {}
            _ => return Err(ProxyError::NoUrl),
        }
        let way = Way {
            address: address.into(),
            authorization: (!userinfo.is_empty()).then(|| basic(userinfo)).transpose()?,
        };
        Ok(Self { way: Ok(way), bypass: Bypass::default() })
    }

    /// The proxy that the environment names: that of `HTTPS_PROXY`, or else `https_proxy`, except
    /// for the servers in `NO_PROXY`, or else `no_proxy`, and those on this machine. `None` where
    /// it names none.
    ///
    /// The environment speaks to all programs, so it is taken as far as it is understood. Entries of
    /// the list that mean nothing here, such as `192.168.*`, are passed over, with one warning in
    /// the log for all of them. A proxy that cannot be used, such as one of SOCKS, fails the
    /// connections that were to go through it, with an error that names the variable: no server is
    /// reached without the proxy in silence.
    pub fn from_env() -> Option<Self> {
        Self::from_variables(std::env::var_os)
    }

    fn from_variables(value: impl Fn(&'static str) -> Option<OsString>) -> Option<Self> {
        let first = |names: [&'static str; 2]| {
            let said = |name| value(name).filter(|text| !text.is_empty()).map(|text| (name, text));
            names.into_iter().find_map(said)
        };
        let (name, url) = first(["HTTPS_PROXY", "https_proxy"])?;
        let named = url.to_str().ok_or(ProxyError::NoUrl).and_then(Self::http);
        let way = named
            .and_then(|proxy| proxy.way)
            .map_err(|error| ProxyError::Environment { name, error: Box::new(error) });
        let bypass = match first(["NO_PROXY", "no_proxy"]) {
            Some((name, list)) => {
                let (bypass, unknown) = Bypass::understood(&list.to_string_lossy());
                if !unknown.is_empty() {
                    let entries = shown(unknown.iter().map(|entry| harmless(entry)), ENTRIES_SHOWN);
                    tracing::warn!(target: "switchboard", variable = name, %entries, "entries that name no servers are passed over: expected *, an IP address, a range such as 10.0.0.0/8, or a domain");
                }
                bypass
            }
            None => Bypass::default(),
        };
        Some(Self { way, bypass: bypass.with_this_machine() })
    }

    /// Reaches the servers in `list` without the proxy, beside those that were given before.
    ///
    /// The list has commas in between. Each entry is `*` for all, an IP address, a range of them
    /// such as `10.0.0.0/8`, a domain such as `example.com`, which stands for its subdomains too, or
    /// `.example.com`, which stands for these alone; all but ranges may end in a `:port`. Names are
    /// not looked up, so an address does not match a name. Unix sockets never go through a proxy.
    pub fn bypass(mut self, list: &str) -> Result<Self, ProxyError> {
        self.bypass = self.bypass.with(list)?;
        Ok(self)
    }

    /// Whether connections to `host` are to go through it.
    pub(crate) fn is_for(&self, host: &str, port: u16) -> bool {
        !self.bypass.covers(host, port)
    }

    /// A connector that goes through this proxy, which `inner` dials.
    pub(crate) fn over(self, inner: Arc<dyn Connect>, user_agent: HeaderValue) -> impl Connect {
        Tunnels { proxy: self, inner, user_agent }
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("address", &self.way.as_ref().map(|way| &way.address))
            .field("bypass", &self.bypass)
            .finish_non_exhaustive()
    }
}

fn basic(userinfo: &str) -> Result<HeaderValue, ProxyError> {
    let decoded: Vec<u8> = percent_decode_str(userinfo).collect();
    // A user without a password has an empty one.
    let pair = if userinfo.contains(':') { decoded } else { [decoded, b":".to_vec()].concat() };
    let text = format!("Basic {}", STANDARD.encode(pair));
    let mut value = HeaderValue::try_from(text).map_err(|_| ProxyError::NoUrl)?;
    value.set_sensitive(true);
    Ok(value)
}

/// Dials through a proxy.
struct Tunnels {
    proxy: Proxy,
    inner: Arc<dyn Connect>,
    user_agent: HeaderValue,
}

impl Connect for Tunnels {
    fn connect<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, io::Result<Io>> {
        let through = match address {
            Address::Unix(_) | Address::UnixAbstract(_) => None,
            Address::Socket(addr) => Some((addr.ip().to_string(), addr.port())),
            Address::Name(name) => host_and_port(name),
        };
        match through {
            Some((host, port)) if self.proxy.is_for(&host, port) => {
                Box::pin(self.tunnel(target_of(address)))
            }
            _ => self.inner.connect(address),
        }
    }
}

impl Tunnels {
    async fn tunnel(&self, target: String) -> io::Result<Io> {
        let way = self.proxy.way.as_ref();
        let way =
            way.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error.clone()))?;
        let at_proxy = |error: io::Error| {
            let told = super::error::in_words(&error);
            let fault = ProxyFault { proxy: way.address.clone(), told };
            io::Error::new(error.kind(), fault)
        };
        let request = exchange::request(&target, &self.user_agent, way.authorization.as_ref());
        let request = request.map_err(at_proxy)?;
        let proxy = match socket_addr(&way.address) {
            Ok(addr) => Address::Socket(addr),
            Err(_) => Address::Name(way.address.clone()),
        };
        let mut io = self.inner.connect(&proxy).await.map_err(at_proxy)?;
        exchange::exchange(&mut io, &request).await.map_err(at_proxy)?;
        Ok(io.into_tunnel())
    }
}

/// `address` as a proxy is asked for it.
fn target_of(address: &Address) -> String {
    match address {
        // A zone means something on this machine alone (RFC 6874).
        Address::Socket(SocketAddr::V6(addr)) => format!("[{}]:{}", addr.ip(), addr.port()),
        Address::Socket(SocketAddr::V4(addr)) => addr.to_string(),
        // As it was given, not as it would be shown: what is wrong with it is found before it is
        // asked for.
        Address::Name(name) => name.to_string(),
        // Not reached: these are dialled, whatever the proxy.
        Address::Unix(_) | Address::UnixAbstract(_) => address.to_string(),
    }
}

/// What a dial through a proxy failed of.
#[derive(Debug)]
struct ProxyFault {
    proxy: Arc<str>,
    told: String,
}

impl fmt::Display for ProxyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "through the proxy {}: {}", self.proxy, self.told)
    }
}

impl Error for ProxyFault {}

fn host_and_port(name: &str) -> Option<(String, u16)> {
    let (host, port) = name.rsplit_once(':')?;
    Some((host.trim_start_matches('[').trim_end_matches(']').to_owned(), port.parse().ok()?))
}

/// A proxy cannot be used. Neither the user nor the password is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProxyError {
    /// The text is no URL of a proxy.
    NoUrl,
    /// There are proxies of this kind, but channels do not speak to them.
    UnsupportedScheme {
        /// Which.
        scheme: String,
    },
    /// An entry in the list of servers to reach without the proxy cannot be understood.
    InvalidBypass {
        /// Which.
        entry: String,
    },
    /// A variable of the environment is wrong.
    Environment {
        /// Which.
        name: &'static str,
        /// What is wrong with it.
        error: Box<Self>,
    },
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoUrl => f.write_str(
                "this is no URL of a proxy: expected http://host:port, or with a user and a \
                 password http://user:password@host:port",
            ),
            Self::UnsupportedScheme { scheme } => write!(
                f,
                "there is no support for proxies of `{scheme}://`: expected http://host:port, or \
                 ChannelBuilder::no_proxy() to go without"
            ),
            Self::InvalidBypass { entry } => write!(
                f,
                "`{entry}` names no servers to reach without the proxy: expected *, an IP address, \
                 a range such as 10.0.0.0/8, or a domain"
            ),
            Self::Environment { name, error } => {
                write!(f, "the variable {name} of the environment: {error}")
            }
        }
    }
}

impl Error for ProxyError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Environment { error, .. } => Some(error),
            Self::NoUrl | Self::UnsupportedScheme { .. } | Self::InvalidBypass { .. } => None,
        }
    }
}

const HTTP_PORT: u16 = 80;

/// So many entries that are passed over are shown.
const ENTRIES_SHOWN: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_where_the_proxy_is_and_who_asks() {
        for (url, address, authorization) in [
            ("http://proxy.example:3128", "proxy.example:3128", None),
            ("http://proxy.example/", "proxy.example:80", None),
            ("proxy.example:3128", "proxy.example:3128", None),
            ("10.0.0.7", "10.0.0.7:80", None),
            ("http://[::1]:8080", "[::1]:8080", None),
            ("http://user:word@p:1", "p:1", Some("user:word")),
            ("http://user@p:1", "p:1", Some("user:")),
            ("http://us%40er:p%3Aa%20ss@p:1", "p:1", Some("us@er:p:a ss")),
        ] {
            let proxy = Proxy::http(url).unwrap();
            let way = proxy.way.as_ref().unwrap();
            assert_eq!(&*way.address, address, "{url}");
            let expected = authorization.map(|pair| format!("Basic {}", STANDARD.encode(pair)));
            let actual = way.authorization.as_ref().map(|value| value.to_str().unwrap());
            assert_eq!(actual, expected.as_deref(), "{url}");
            assert!(!format!("{proxy:?}").contains("word"));
        }
    }

    #[test]
    fn what_is_no_proxy_is_refused_and_its_password_not_shown() {
        for (url, reason) in [
            ("", "no URL"),
            ("http://", "no URL"),
            ("http://user:secret@", "no URL"),
            ("http://p:99999", "no URL"),
            ("http://p:0", "no URL"),
            ("http://p:", "no URL"),
            ("http://user:secret@p q:1", "no URL"),
            ("http://user:secret@:80", "no URL"),
            ("https://user:secret@p:1", "proxies of `https://`"),
            ("socks5://user:secret@p:1", "proxies of `socks5://`"),
        ] {
            let error = Proxy::http(url).unwrap_err().to_string();
            assert!(error.contains(reason), "{url}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    /// What the environment of these variables means.
    fn environment(pairs: &'static [(&'static str, &'static str)]) -> Option<Proxy> {
        Proxy::from_variables(move |name| {
            let found = pairs.iter().find(|(it, _)| *it == name);
            found.map(|(_, value)| (*value).into())
        })
    }

    #[test]
    fn the_environment_names_a_proxy_and_what_goes_without() {
        assert!(environment(&[]).is_none());
        assert!(environment(&[("HTTPS_PROXY", ""), ("NO_PROXY", "a")]).is_none());
        for (pairs, address) in [
            (&[("https_proxy", "http://lower:1")][..], "lower:1"),
            (&[("HTTPS_PROXY", "http://upper:1"), ("https_proxy", "http://lower:1")], "upper:1"),
        ] {
            assert_eq!(&*environment(pairs).unwrap().way.unwrap().address, address);
        }
        let proxy = environment(&[("HTTPS_PROXY", "p:1"), ("no_proxy", "greeter.example")]);
        let proxy = proxy.unwrap();
        for direct in ["greeter.example", "localhost", "127.0.0.1", "::1", "127.1.2.3"] {
            assert!(!proxy.is_for(direct, 443), "{direct}");
        }
        assert!(proxy.is_for("other.example", 443));
        // Said by the builder, the machine itself may be behind the proxy too.
        assert!(Proxy::http("p:1").unwrap().is_for("localhost", 443));
    }

    #[test]
    fn what_the_environment_lists_is_taken_as_far_as_it_is_understood() {
        const LIST: &str = "192.168.*, greeter.example,10.0.0.0/99, a b,[::1,10.1.0.0/16";
        let proxy = environment(&[("HTTPS_PROXY", "p:1"), ("NO_PROXY", LIST)]).unwrap();
        assert!(!proxy.is_for("greeter.example", 1) && !proxy.is_for("10.1.2.3", 1));
        // An entry that is not understood lets nothing past the proxy.
        assert!(proxy.is_for("192.168.0.1", 1) && proxy.is_for("10.0.0.1", 1));
        // Said by code, the same is an error.
        let error = Proxy::http("p:1").unwrap().bypass(LIST).unwrap_err();
        assert_eq!(error, ProxyError::InvalidBypass { entry: "192.168.*".to_owned() });
    }

    #[tokio::test]
    async fn a_proxy_of_the_environment_that_cannot_be_used_fails_what_was_to_go_through_it() {
        for (pairs, part) in [
            (&[("HTTPS_PROXY", "socks5://ada:secret@p:1")][..], "`socks5://`"),
            (&[("https_proxy", "http://p q:1")], "no URL of a proxy"),
            (&[("HTTPS_PROXY", "p:0"), ("https_proxy", "p:1")], "no URL of a proxy"),
        ] {
            let proxy = environment(pairs).unwrap();
            assert!(!proxy.is_for("127.0.0.1", 443) && !proxy.is_for("localhost", 443));
            let nowhere: Arc<dyn Connect> = Arc::new(Nowhere);
            let tunnels = proxy.over(nowhere, HeaderValue::from_static("tester/1"));
            let address = Address::Name("greeter.example:443".into());
            let error = tunnels.connect(&address).await.unwrap_err().to_string();
            assert!(error.contains(pairs[0].0) && error.contains(part), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_proxy_that_is_no_text_is_not_bypassed() {
        use std::os::unix::ffi::OsStringExt as _;
        let said = |name| (name == "HTTPS_PROXY").then(|| OsString::from_vec(vec![b'p', 0xff]));
        let proxy = Proxy::from_variables(said).unwrap();
        assert!(proxy.is_for("greeter.example", 443));
        let error = proxy.way.err().unwrap().to_string();
        assert!(error.contains("HTTPS_PROXY"), "{error}");
    }

    // A resolver of the application's may give any text.
    #[tokio::test]
    async fn a_name_that_would_begin_a_header_never_reaches_the_proxy() {
        let nowhere: Arc<dyn Connect> = Arc::new(Nowhere);
        let tunnels =
            Proxy::http("p:1").unwrap().over(nowhere, HeaderValue::from_static("tester/1"));
        for name in ["greeter\r\nX-Forged: 1\r\n:443", "greeter :443"] {
            let error = tunnels.connect(&Address::Name(name.into())).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn a_zone_is_not_told_to_a_proxy() {
        let address: SocketAddr = "[fe80::7%3]:443".parse().unwrap();
        assert_eq!(target_of(&Address::Socket(address)), "[fe80::7]:443");
    }

    /// Dials nothing.
    struct Nowhere;

    impl Connect for Nowhere {
        fn connect<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, io::Result<Io>> {
            panic!("dialled {address}")
        }
    }
}

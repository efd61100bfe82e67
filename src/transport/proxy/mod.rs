//! Proxies that tunnel connections by HTTP CONNECT.

mod bypass;
mod exchange;

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, Uri};
use percent_encoding::percent_decode_str;

use crate::types::Address;

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
    /// `host:port`, as it is dialled.
    address: Arc<str>,
    /// `Proxy-Authorization`.
    authorization: Option<HeaderValue>,
    bypass: Bypass,
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
        Ok(Self {
            address: address.into(),
            authorization: (!userinfo.is_empty()).then(|| basic(userinfo)).transpose()?,
            bypass: Bypass::default(),
        })
    }

    /// The proxy that the environment names: that of `HTTPS_PROXY`, or else `https_proxy`, except
    /// for the servers in `NO_PROXY`, or else `no_proxy`, and those on this machine. `None` where
    /// it names none.
    pub fn from_env() -> Result<Option<Self>, ProxyError> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    fn from_variables(
        value: impl Fn(&'static str) -> Option<String>,
    ) -> Result<Option<Self>, ProxyError> {
        let first = |names: [&'static str; 2]| {
            let said = |name| value(name).filter(|text| !text.is_empty()).map(|text| (name, text));
            names.into_iter().find_map(said)
        };
        let Some((name, url)) = first(["HTTPS_PROXY", "https_proxy"]) else { return Ok(None) };
        let within = |name| move |error| ProxyError::Environment { name, error: Box::new(error) };
        let mut proxy = Self::http(&url).map_err(within(name))?;
        if let Some((name, list)) = first(["NO_PROXY", "no_proxy"]) {
            proxy = proxy.bypass(&list).map_err(within(name))?;
        }
        proxy.bypass = proxy.bypass.with_this_machine();
        Ok(Some(proxy))
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
            .field("address", &self.address)
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
            Some((host, port)) if self.proxy.is_for(&host, port) => Box::pin(self.tunnel(address)),
            _ => self.inner.connect(address),
        }
    }
}

impl Tunnels {
    async fn tunnel(&self, address: &Address) -> io::Result<Io> {
        let at_proxy = |error: io::Error| {
            let told = super::error::in_words(&error);
            let fault = ProxyFault { proxy: self.proxy.address.clone(), told };
            io::Error::new(error.kind(), fault)
        };
        let proxy = match self.proxy.address.parse() {
            Ok(addr) => Address::Socket(addr),
            Err(_) => Address::Name(self.proxy.address.clone()),
        };
        let mut io = self.inner.connect(&proxy).await.map_err(at_proxy)?;
        let target = address.to_string();
        let request =
            exchange::request(&target, &self.user_agent, self.proxy.authorization.as_ref());
        exchange::exchange(&mut io, &request).await.map_err(at_proxy)?;
        Ok(io.into_tunnel())
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
            assert_eq!(&*proxy.address, address, "{url}");
            let expected = authorization.map(|pair| format!("Basic {}", STANDARD.encode(pair)));
            let actual = proxy.authorization.as_ref().map(|value| value.to_str().unwrap());
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

    #[test]
    fn the_environment_names_a_proxy_and_what_goes_without() {
        let environment = |pairs: &'static [(&'static str, &'static str)]| {
            Proxy::from_variables(move |name| {
                let found = pairs.iter().find(|(it, _)| *it == name);
                found.map(|(_, value)| (*value).to_owned())
            })
        };
        assert!(environment(&[]).unwrap().is_none());
        assert!(environment(&[("HTTPS_PROXY", ""), ("NO_PROXY", "a")]).unwrap().is_none());
        for (pairs, address) in [
            (&[("https_proxy", "http://lower:1")][..], "lower:1"),
            (&[("HTTPS_PROXY", "http://upper:1"), ("https_proxy", "http://lower:1")], "upper:1"),
        ] {
            assert_eq!(&*environment(pairs).unwrap().unwrap().address, address);
        }
        let proxy = environment(&[("HTTPS_PROXY", "p:1"), ("no_proxy", "greeter.example")]);
        let proxy = proxy.unwrap().unwrap();
        for direct in ["greeter.example", "localhost", "127.0.0.1", "::1", "127.1.2.3"] {
            assert!(!proxy.is_for(direct, 443), "{direct}");
        }
        assert!(proxy.is_for("other.example", 443));
        // Said by the builder, the machine itself may be behind the proxy too.
        assert!(Proxy::http("p:1").unwrap().is_for("localhost", 443));

        let error = environment(&[("HTTPS_PROXY", "socks5://p:1")]).unwrap_err().to_string();
        assert!(error.contains("HTTPS_PROXY") && error.contains("socks5"), "{error}");
        let error = environment(&[("HTTPS_PROXY", "p:1"), ("NO_PROXY", "10.0.0.0/99")]);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("NO_PROXY") && error.contains("10.0.0.0/99"), "{error}");
    }
}

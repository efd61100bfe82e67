//! Credentials that end, and are renewed before they do.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::backoff_table;
use super::builder::{BackoffConfig, fresh_seed, runtime_clock};
use crate::observe::{Log, Trouble, since_1970};
use crate::policy::backoff::Backoff;
use crate::policy::token::{Answer, Event, Fetch, State};
use crate::transport::{BearerToken, BoxFuture, CallContext, CallCredentials, WatchedFile};
use crate::types::{Dice, Foreign, Metadata, Panicked, SecurityLevel, Status};

/// Access tokens of OAuth 2.0 as call credentials: `authorization: Bearer …`.
///
/// The first call has one fetched from the [`TokenSource`] and waits for it. It is kept until 30 s
/// before it expires, and fetched again a minute ahead of that by whichever call comes then, which
/// goes on with the old one. A fetch that fails fails the calls that wait for it; it is tried again
/// after a rest that grows from one second to two minutes, and until then calls fail with the same
/// status, unless the last token is still good. There is one fetch at a time; one that takes longer
/// than a minute has failed, and no two begin within a second: a token that lives less than that is
/// sent for as long. Clones share one token.
#[derive(Clone, Debug)]
pub struct OAuth2 {
    tokens: Tokens,
    level: SecurityLevel,
}

/// Where access tokens come from: usually the token endpoint of an authorisation server, asked
/// with the HTTP client of your choice.
pub trait TokenSource: Send + Sync + 'static {
    /// Fetches a token.
    ///
    /// It runs as a task on the channel's runtime, so no call that is dropped or ends takes it
    /// along. The status reaches the calls: UNAVAILABLE says that trying again may help,
    /// UNAUTHENTICATED that it will not. Codes that are for servers alone become INTERNAL (A54).
    fn fetch(&self) -> BoxFuture<'_, Result<AccessToken, Status>>;
}

/// A token that lets its bearer call.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessToken {
    text: String,
    expires_in: Option<Duration>,
}

/// A JSON Web Token in a file, such as an orchestrator mounts and renews, as call credentials
/// (A97): `authorization: Bearer …`.
///
/// The first call has it read and waits for that. It is kept until 30 s before the time in its
/// `exp` claim, and read again a minute ahead of that, by whichever call comes then. Calls end with
/// UNAVAILABLE where the file cannot be read, is not a regular file of at most 64 KiB, or does not
/// answer within five seconds, and with UNAUTHENTICATED where what it holds is no token, has no
/// `exp`, or has expired; it is read again after a rest that grows from one second to
/// two minutes. The signature is for the server to check. Clones share one token.
#[derive(Clone, Debug)]
pub struct JwtFile {
    tokens: Tokens,
    level: SecurityLevel,
}

impl OAuth2 {
    /// Sends the tokens of `source`.
    pub fn new(source: impl TokenSource) -> Self {
        Self {
            tokens: Tokens::new("a token source".to_owned(), source),
            level: SecurityLevel::PrivacyAndIntegrity,
        }
    }

    /// Sends them on connections that are protected so or better, as
    /// [`BearerToken::min_security_level`] has it.
    #[must_use]
    pub fn min_security_level(mut self, level: SecurityLevel) -> Self {
        self.level = level;
        self
    }
}

impl AccessToken {
    /// A token, without the word `Bearer`, that is good until further notice.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), expires_in: None }
    }

    /// The same token, which expires so long after it was fetched.
    pub fn expires_in(mut self, life: Duration) -> Self {
        self.expires_in = Some(life);
        self
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessToken").field("expires_in", &self.expires_in).finish_non_exhaustive()
    }
}

impl JwtFile {
    /// Sends what the file at `path` holds. Nothing is read before the first call.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let tokens = Tokens::new(path.display().to_string(), JwtSource::new(path));
        Self { tokens, level: SecurityLevel::PrivacyAndIntegrity }
    }

    /// Sends it on connections that are protected so or better, as
    /// [`BearerToken::min_security_level`] has it.
    #[must_use]
    pub fn min_security_level(mut self, level: SecurityLevel) -> Self {
        self.level = level;
        self
    }
}

impl CallCredentials for OAuth2 {
    fn metadata<'a>(
        &'a self,
        call: &'a CallContext<'_>,
    ) -> BoxFuture<'a, Result<Metadata, Status>> {
        Box::pin(self.tokens.metadata(call.runtime()))
    }

    fn min_security_level(&self) -> SecurityLevel {
        self.level
    }
}

impl CallCredentials for JwtFile {
    fn metadata<'a>(
        &'a self,
        call: &'a CallContext<'_>,
    ) -> BoxFuture<'a, Result<Metadata, Status>> {
        Box::pin(self.tokens.metadata(call.runtime()))
    }

    fn min_security_level(&self) -> SecurityLevel {
        self.level
    }
}

/// The token of a source, as the metadata that it is sent as.
#[derive(Clone)]
struct Tokens(Arc<Shared>);

struct Shared {
    source: Foreign<Box<dyn TokenSource>>,
    /// For the log.
    name: String,
    cached: Mutex<Cached>,
    fetched: Notify,
    log: Log,
}

/// What a fetch ends with: what to send, and when that expires.
type Outcome = Result<(Metadata, Option<std::time::Instant>), Status>;

struct Cached {
    state: State<Metadata>,
    backoff: Backoff,
    dice: Dice,
}

impl Tokens {
    fn new(name: String, source: impl TokenSource) -> Self {
        let rest = BackoffConfig::default();
        let intervals = backoff_table::intervals(rest.base_delay, rest.multiplier, rest.max_delay);
        let cached = Cached {
            state: State::default(),
            backoff: Backoff::new(intervals, rest.jitter),
            dice: Dice::new(fresh_seed()),
        };
        Self(Arc::new(Shared {
            source: Foreign::new("the token source", Box::new(source)),
            name,
            cached: Mutex::new(cached),
            fetched: Notify::new(),
            log: Log::new(None, runtime_clock),
        }))
    }

    async fn metadata(&self, runtime: &Handle) -> Result<Metadata, Status> {
        loop {
            // Listens before it asks, so that no end of a fetch is missed.
            let fetched = self.0.fetched.notified();
            match self.ask(runtime) {
                Answer::Send(metadata) => return Ok(metadata),
                Answer::Fail(status) => return Err(status),
                Answer::Wait => fetched.await,
            }
        }
    }

    fn ask(&self, runtime: &Handle) -> Answer<Metadata> {
        let now = Instant::now().into_std();
        let mut cached = self.0.cached();
        let fetch = cached.step(now, Event::Asked);
        let answer = cached.state.answer(now);
        drop(cached);
        if let Some(Fetch) = fetch {
            let (shared, fetching) = (self.0.clone(), Fetching(Some(self.0.clone())));
            runtime.spawn(async move { fetching.end(shared.fetch().await) });
        }
        answer
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(..)")
    }
}

impl Shared {
    async fn fetch(&self) -> Outcome {
        let began = Instant::now();
        let fetching = self.source.future(|source| source.fetch());
        let fetched = tokio::time::timeout(FETCH_TIMEOUT, fetching).await;
        let token = fetched.map_err(|_| {
            let seconds = FETCH_TIMEOUT.as_secs();
            Status::unavailable(format!("no token was fetched within {seconds} s"))
        })?;
        let unavailable = |it: Panicked| Status::unavailable(it.to_string()).with_source(it);
        let token = token.map_err(unavailable)?;
        let token = token.map_err(|status| status.of_control_part("the token source"))?;
        let end = match token.expires_in {
            None => None,
            Some(Duration::ZERO) => {
                return Err(unauthenticated("the token that was fetched has expired"));
            }
            // Not all of a short life goes for the clocks' sake.
            Some(life) => began.checked_add(life.saturating_sub(CLOCKS_DIFFER_BY.min(life / 2))),
        };
        let bearer = BearerToken::new(&token.text).map_err(|status| {
            unauthenticated(format!("what was fetched is no token: {}", status.message()))
        })?;
        Ok((bearer.into_metadata(), end.map(Instant::into_std)))
    }

    fn settle(&self, outcome: Outcome) {
        match &outcome {
            Err(error) => self.log.fails(Trouble::NoToken, &self.name, error),
            Ok(_) => {
                self.log.recovers(Trouble::NoToken, &self.name);
            }
        }
        self.cached().step(Instant::now().into_std(), Event::Fetched(outcome));
        self.fetched.notify_waiters();
    }

    fn cached(&self) -> std::sync::MutexGuard<'_, Cached> {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cached {
    fn step(&mut self, now: std::time::Instant, event: Event<Metadata>) -> Option<Fetch> {
        let Self { state, backoff, dice } = self;
        let (next, fetch) =
            std::mem::take(state).step(now, event, |failures| backoff.delay(failures, dice));
        *state = next;
        fetch
    }
}

/// A fetch that is under way: should its task end before it, by a panic or with its runtime,
/// nobody waits for it any more.
struct Fetching(Option<Arc<Shared>>);

impl Fetching {
    fn end(mut self, outcome: Outcome) {
        if let Some(shared) = self.0.take() {
            shared.settle(outcome);
        }
    }
}

impl Drop for Fetching {
    fn drop(&mut self) {
        if let Some(shared) = self.0.take() {
            let text = "the fetch of a token panicked, or its runtime ended";
            shared.settle(Err(Status::unavailable(text)));
        }
    }
}

struct JwtSource(WatchedFile<String>);

impl JwtSource {
    fn new(path: PathBuf) -> Self {
        let parse = |bytes| String::from_utf8(bytes).map_err(|_| "it is not text".to_owned());
        Self(WatchedFile::new(path, JWT_BYTES_MAX, parse))
    }
}

impl TokenSource for JwtSource {
    fn fetch(&self) -> BoxFuture<'_, Result<AccessToken, Status>> {
        Box::pin(async move {
            let text = self.0.get().await.map_err(|unread| {
                Status::unavailable(unread.error.to_string()).with_source(unread.error)
            })?;
            parse(text.trim(), since_1970()).map_err(|fault| {
                unauthenticated(format!("{} cannot be used: {fault}", self.0.path().display()))
            })
        })
    }
}

/// The token, and what its claims say of its end; or what is wrong with it, without showing it.
fn parse(text: &str, now: Duration) -> Result<AccessToken, String> {
    let mut parts = text.split('.');
    let (Some(_), Some(claims), Some(_), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err("a JSON Web Token has three parts with dots between them".to_owned());
    };
    let claims = URL_SAFE_NO_PAD
        .decode(claims)
        .ok()
        .and_then(|claims| serde_json::from_slice::<serde_json::Value>(&claims).ok())
        .ok_or("the second part of a JSON Web Token is JSON in base64url")?;
    let end = claims
        .get("exp")
        .and_then(serde_json::Value::as_f64)
        .and_then(|end| Duration::try_from_secs_f64(end).ok())
        .ok_or("its claims have no `exp`, the time of its end in seconds")?;
    match end.checked_sub(now) {
        Some(life) if !life.is_zero() => Ok(AccessToken::new(text).expires_in(life)),
        _ => Err(format!("it expired {} s ago", now.saturating_sub(end).as_secs())),
    }
}

fn unauthenticated(text: impl Into<String>) -> Status {
    Status::unauthenticated(text)
}

/// How long before its end a token is not sent any more, as clocks differ and calls take time
/// (A97).
const CLOCKS_DIFFER_BY: Duration = Duration::from_secs(30);

/// Longer than any server takes that will answer.
const FETCH_TIMEOUT: Duration = Duration::from_secs(60);

/// Far beyond what a server takes in its headers.
const JWT_BYTES_MAX: u64 = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn jwt(claims: &str) -> String {
        format!("eyJhbGciOiJub25lIn0.{}.c2ln", URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn a_token_is_good_for_as_long_as_its_claims_say() {
        let now = Duration::from_secs(1_000);
        for (claims, life) in [(r#"{"exp":1500}"#, 500.0), (r#"{"exp":1000.5,"sub":"x"}"#, 0.5)] {
            let text = jwt(claims);
            let expected = AccessToken::new(&text).expires_in(Duration::from_secs_f64(life));
            assert_eq!(parse(&text, now), Ok(expected));
        }
    }

    #[test]
    fn what_is_no_token_is_refused_with_the_reason_and_not_shown() {
        let now = Duration::from_secs(1_000);
        for (text, reason) in [
            (String::new(), "three parts"),
            ("secret".to_owned(), "three parts"),
            ("secret.secret.secret.secret".to_owned(), "three parts"),
            ("secret.secret!.secret".to_owned(), "JSON in base64url"),
            (format!("secret.{}.secret", URL_SAFE_NO_PAD.encode("{")), "JSON in base64url"),
            (jwt("{}"), "no `exp`"),
            (jwt("[]"), "no `exp`"),
            (jwt(r#"{"exp":"tomorrow"}"#), "no `exp`"),
            (jwt(r#"{"exp":-1}"#), "no `exp`"),
            (jwt(r#"{"exp":1e300}"#), "no `exp`"),
            (jwt(r#"{"exp":1000}"#), "expired 0 s ago"),
            (jwt(r#"{"exp":990}"#), "expired 10 s ago"),
        ] {
            let fault = parse(&text, now).unwrap_err();
            assert!(fault.contains(reason) && !fault.contains("secret"), "{text}: {fault}");
        }
    }

    #[test]
    fn no_token_is_shown() {
        let token = AccessToken::new("secret");
        assert!(!format!("{token:?} {:?}", JwtFile::new("/run/token")).contains("secret"));
    }
}

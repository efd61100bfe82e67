//! What policies allow of attempts, as a model that goes by what observers see.
//!
//! It never asks for more than is certain: of an attempt that ended without a word of its server it
//! is not known what the server can have seen.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use switchboard::{AttemptKind, Code, Metadata};
use tokio::time::Instant;

/// What the service configs may have for the method of a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Policy {
    #[default]
    None,
    Retried,
    Hedged,
}

/// How many attempts a call may have, by its policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allowed {
    pub(crate) retried: u32,
    pub(crate) hedged: u32,
}

impl Allowed {
    pub(crate) fn of(self, policy: Policy) -> u32 {
        match policy {
            Policy::None => 1,
            Policy::Retried => self.retried,
            Policy::Hedged => self.hedged,
        }
    }

    /// Whatever either allows.
    pub(crate) fn or(self, other: Self) -> Self {
        let (retried, hedged) = (self.retried.max(other.retried), self.hedged.max(other.hedged));
        Self { retried, hedged }
    }
}

/// The tokens of `retryThrottling`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tokens {
    pub(crate) max: u32,
    /// What a success brings, in thousandths of a token.
    pub(crate) ratio: u32,
}

/// What is the same in all service configs of a run, and how many tokens there are.
pub(crate) struct Rules {
    pub(crate) hedging_delay: Duration,
    tokens: Option<Tokens>,
    /// At most: failures that may have been none, or may have had no policy, take nothing here. In
    /// thousandths.
    left: u32,
    /// The channel is being closed: who rests need not rest any longer.
    pub(crate) is_closing: bool,
}

impl Rules {
    pub(crate) fn new(hedging_delay: Duration, tokens: Option<Tokens>) -> Self {
        let left = tokens.map_or(0, |tokens| tokens.max * TOKEN);
        Self { hedging_delay, tokens, left, is_closing: false }
    }

    fn succeeded(&mut self) {
        if let Some(Tokens { max, ratio }) = self.tokens {
            self.left = (self.left + ratio).min(max * TOKEN);
        }
    }

    fn failed(&mut self) {
        self.left = self.left.saturating_sub(TOKEN);
    }

    /// Whether there is to be no other attempt.
    fn is_throttled(&self) -> bool {
        self.tokens.is_some_and(|tokens| self.left <= tokens.max * TOKEN / 2)
    }
}

/// The attempts of one call.
#[derive(Clone, Default)]
pub(crate) struct Attempts {
    /// What servers said about another, of those that they ended themselves.
    told: BTreeMap<u32, Pushback>,
    /// Those that servers have begun to answer.
    committed: BTreeSet<u32>,
    /// When the last one failed, and what its server said, if it did.
    failed: Option<(Instant, Option<Pushback>)>,
    /// Rests of a retry policy, since a server last said how long to rest.
    rests: u32,
    /// The first and the last time at which the next hedge may begin.
    hedge: Option<[Instant; 2]>,
    /// Why no policy may have another attempt.
    over: Option<&'static str>,
}

/// What a server says about another attempt.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pushback {
    None,
    After(Duration),
    Never,
}

impl Attempts {
    /// An attempt begins. Says what is wrong with that.
    pub(crate) fn began(&mut self, kind: AttemptKind, rules: &Rules) -> Option<String> {
        let now = Instant::now();
        let wrong = match kind {
            AttemptKind::Retry | AttemptKind::Hedge if self.over.is_some() => {
                self.over.map(Into::into)
            }
            AttemptKind::Retry => self.retried(now, rules),
            AttemptKind::Hedge => self.hedged(now, rules),
            AttemptKind::TransparentRetry => {
                let is_late = self.failed.is_none_or(|(at, _)| at != now);
                is_late.then(|| "what no server has seen is not sent again at once".to_owned())
            }
            _ => None,
        };
        if kind != AttemptKind::TransparentRetry {
            self.hedge = Some([now + rules.hedging_delay; 2]);
        }
        wrong
    }

    fn retried(&mut self, now: Instant, rules: &Rules) -> Option<String> {
        let Some((at, said)) = self.failed else { return Some("it retries nothing".to_owned()) };
        let rest = now - at;
        let [least, most] = if let Some(Pushback::After(time)) = said {
            self.rests = 0;
            [time; 2]
        } else {
            let nominal = (BACKOFF * 2_u32.pow(self.rests.min(8))).min(BACKOFF_MAX);
            self.rests += 1;
            [nominal.mul_f64(0.8), nominal.mul_f64(1.2) + TICK]
        };
        let is_early = rest < least && !rules.is_closing;
        let wrong = || format!("it rests for {rest:?}, and not for {least:?} to {most:?}");
        (is_early || rest > most).then(wrong)
    }

    fn hedged(&mut self, now: Instant, rules: &Rules) -> Option<String> {
        if rules.is_throttled() && !rules.is_closing {
            return Some("a hedge is sent without tokens".to_owned());
        }
        let [least, most] = self.hedge?;
        let off = |at: Instant| format!("a hedge is off by {:?}", at.max(now) - at.min(now));
        if now < least && !rules.is_closing {
            return Some(format!("{}, too early", off(least)));
        }
        (now > most).then(|| format!("{}, too late", off(most)))
    }

    /// The first attempt has waited for a connection, and goes.
    pub(crate) fn picked(&mut self, attempt: u32, rules: &Rules) {
        if attempt == 0 {
            self.hedge = Some([Instant::now() + rules.hedging_delay; 2]);
        }
    }

    pub(crate) fn headers(&mut self, attempt: u32) {
        self.committed.insert(attempt);
    }

    pub(crate) fn trailers(&mut self, attempt: u32, trailers: &Metadata) {
        let mut values = trailers.get_all("grpc-retry-pushback-ms");
        let said = match (values.next(), values.next()) {
            (None, _) => Pushback::None,
            (Some(one), None) if one.starts_with(|first: char| first.is_ascii_digit()) => {
                let millis = one.parse().ok().map(Duration::from_millis);
                millis.map_or(Pushback::Never, Pushback::After)
            }
            _ => Pushback::Never,
        };
        self.told.insert(attempt, said);
    }

    /// An attempt has ended. `policy` is that of the call, if it is certain to have one.
    pub(crate) fn ended(
        &mut self,
        attempt: u32,
        result: Result<(), Code>,
        policy: Policy,
        rules: &mut Rules,
    ) {
        let Err(code) = result else { return rules.succeeded() };
        let now = Instant::now();
        let said = self.told.get(&attempt).copied();
        self.failed = Some((now, said));
        if self.committed.contains(&attempt) {
            self.over = Some("there is another attempt of a call that is committed");
        }
        let (Some(said), None) = (said, self.over) else {
            // It may have been one that does not count, or one that makes room for the next.
            if let Some([least, _]) = &mut self.hedge {
                *least = now.min(*least);
            }
            return;
        };
        let is_fatal = code != Code::UNAVAILABLE;
        if is_fatal && said != Pushback::Never {
            self.over = Some("there is another attempt after a code that is fatal");
            return;
        }
        if policy != Policy::None {
            rules.failed();
        }
        if said == Pushback::Never {
            self.over = Some("there is another attempt, which a server has asked not to make");
        } else if rules.is_throttled() {
            self.over = Some("there is another attempt without tokens");
        }
        let rest = if let Pushback::After(rest) = said { rest } else { Duration::ZERO };
        self.hedge = self.hedge.map(|_| [now + rest; 2]);
    }
}

/// As the service configs have it.
pub(crate) const BACKOFF: Duration = Duration::from_millis(50);
pub(crate) const BACKOFF_MAX: Duration = Duration::from_millis(400);

/// What timers go by.
const TICK: Duration = Duration::from_millis(1);

/// Tokens are counted in thousandths.
const TOKEN: u32 = 1_000;

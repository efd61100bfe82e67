//! One look-up of a name: in which domains, and of which families.

use std::error::Error;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::rr::{Name, RData, RecordType};
use tokio::time::timeout;

use super::super::connect::BoxFuture;
use super::resolv_conf::ResolvConf;
use super::stub::{NoAnswer, Said, Stub};

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

/// A name that was found.
pub(super) struct Found {
    /// As it was found: in one of the search domains, perhaps.
    pub(super) name: Name,
    /// What the families came to that were not late. One of them has addresses.
    pub(super) said: Vec<(Family, Result<Said, NoAnswer>)>,
    /// The family that the others did not wait for.
    pub(super) late: Option<Late>,
}

/// A question that is still out.
pub(super) struct Late {
    pub(super) family: Family,
    pub(super) answer: BoxFuture<'static, Result<Said, NoAnswer>>,
}

/// There are no addresses.
#[derive(Debug)]
pub(super) enum NotFound {
    /// None of these names exists.
    Missing(Vec<Name>),
    /// The name exists.
    Empty,
    /// Nobody could say.
    Unanswered(NoAnswer),
}

/// Looks `name` up: in each of the domains that it may be in, until it is found.
///
/// As in glibc the search goes on behind a name that does not exist, that has no addresses, or that
/// a server fails to look up; where no server answers at all it ends.
pub(super) async fn look_up(
    stub: &Arc<Stub>,
    conf: &ResolvConf,
    name: &Name,
) -> Result<Found, NotFound> {
    let names = conf.candidates(name);
    let mut exists = false;
    let mut failure = None;
    for name in &names {
        let (said, late) = both(stub, name, conf.no_aaaa).await;
        match verdict(said) {
            Verdict::Found(said) => return Ok(Found { name: name.clone(), said, late }),
            Verdict::NoName => {}
            Verdict::NoData => exists = true,
            Verdict::Failed(error) if error.is_server_failure() => failure = Some(error),
            Verdict::Failed(error) => return Err(NotFound::Unanswered(error)),
        }
    }
    Err(match failure {
        Some(error) => NotFound::Unanswered(error),
        None if exists => NotFound::Empty,
        None => NotFound::Missing(names),
    })
}

type Answers = Vec<(Family, Result<Said, NoAnswer>)>;

/// Asks for both families at once. When one has addresses, or the name does not exist, the other is
/// waited for a moment only ([RFC 8305](https://www.rfc-editor.org/rfc/rfc8305#section-3)).
async fn both(stub: &Arc<Stub>, name: &Name, no_aaaa: bool) -> (Answers, Option<Late>) {
    let mut v4 = asking(stub, name, Family::V4);
    if no_aaaa {
        return (vec![(Family::V4, v4.await)], None);
    }
    let mut v6 = asking(stub, name, Family::V6);
    let (first, family, mut answer) = tokio::select! {
        said = &mut v4 => ((Family::V4, said), Family::V6, v6),
        said = &mut v6 => ((Family::V6, said), Family::V4, v4),
    };
    let delay = match &first.1 {
        Ok(Said::Records { .. } | Said::NoName) => RESOLUTION_DELAY,
        // Only the other can tell.
        Ok(Said::NoData) | Err(_) => Duration::MAX,
    };
    match timeout(delay, &mut answer).await {
        Ok(second) => (vec![first, (family, second)], None),
        Err(_) => (vec![first], Some(Late { family, answer })),
    }
}

fn asking(
    stub: &Arc<Stub>,
    name: &Name,
    family: Family,
) -> BoxFuture<'static, Result<Said, NoAnswer>> {
    let (stub, name) = (stub.clone(), name.clone());
    let kind = match family {
        Family::V4 => RecordType::A,
        Family::V6 => RecordType::AAAA,
    };
    Box::pin(async move { stub.ask(&name, kind).await })
}

/// What the families say of one name together.
#[derive(Debug)]
enum Verdict {
    Found(Answers),
    NoName,
    NoData,
    Failed(NoAnswer),
}

fn verdict(answers: Answers) -> Verdict {
    let any =
        |wanted: fn(&Said) -> bool| answers.iter().any(|(_, said)| said.as_ref().is_ok_and(wanted));
    if any(|said| matches!(said, Said::Records { .. })) {
        return Verdict::Found(answers);
    }
    if any(|said| matches!(said, Said::NoName)) {
        return Verdict::NoName;
    }
    let failure = answers.into_iter().find_map(|(_, said)| said.err());
    failure.map_or(Verdict::NoData, Verdict::Failed)
}

/// The addresses that records hold.
pub(super) fn addresses(data: &[RData]) -> Vec<IpAddr> {
    let mut all = Vec::with_capacity(data.len());
    for record in data {
        match record {
            RData::A(ip) => all.push(IpAddr::V4(ip.0)),
            RData::AAAA(ip) => all.push(IpAddr::V6(ip.0)),
            _ => {}
        }
    }
    all
}

impl fmt::Display for NotFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(names) => {
                f.write_str("there is no such name")?;
                if names.len() > 1 {
                    let names: Vec<_> = names.iter().map(Name::to_ascii).collect();
                    write!(f, " (asked for {})", names.join(" "))?;
                }
                Ok(())
            }
            Self::Empty => f.write_str("the name has no addresses"),
            Self::Unanswered(error) => error.fmt(f),
        }
    }
}

impl Error for NotFound {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Unanswered(error) => error.source(),
            Self::Missing(_) | Self::Empty => None,
        }
    }
}

/// How long addresses of one family wait for the other's: the Resolution Delay of RFC 8305, section 8.
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_either_family_will_do_and_what_does_not_exist_has_none() {
        type Row = (fn() -> [Result<Said, NoAnswer>; 2], &'static str);
        fn records() -> Said {
            Said::Records { data: Vec::new(), ttl: Duration::ZERO }
        }
        fn failure() -> NoAnswer {
            NoAnswer::default()
        }
        let rows: [Row; 9] = [
            (|| [Ok(Said::NoData), Ok(Said::NoData)], "NoData"),
            (|| [Ok(Said::NoData), Ok(Said::NoName)], "NoName"),
            (|| [Ok(Said::NoName), Ok(Said::NoName)], "NoName"),
            (|| [Err(failure()), Ok(Said::NoName)], "NoName"),
            (|| [Err(failure()), Ok(Said::NoData)], "Failed"),
            (|| [Err(failure()), Err(failure())], "Failed"),
            (|| [Ok(records()), Ok(Said::NoName)], "Found"),
            (|| [Ok(records()), Ok(Said::NoData)], "Found"),
            (|| [Ok(records()), Err(failure())], "Found"),
        ];
        for (row, expected) in rows {
            for is_reversed in [false, true] {
                let mut answers = Vec::from(row());
                if is_reversed {
                    answers.reverse();
                }
                let families = [Family::V4, Family::V6];
                let found = verdict(families.into_iter().zip(answers).collect());
                let text = format!("{found:?}");
                assert!(text.starts_with(expected), "{:?}: {text}", row());
            }
        }
    }
}

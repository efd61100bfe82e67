//! Families of addresses, and how they take turns.

use std::collections::{HashSet, VecDeque};
use std::hash::Hash;
use std::net::IpAddr;

/// What an address is reached over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
    /// Unix sockets, and whatever the dialler knows.
    Other,
}

impl Family {
    pub(crate) fn of_ip(ip: IpAddr) -> Self {
        // `::ffff:10.0.0.7` goes out over IPv4.
        match ip.to_canonical() {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// Each of `addresses` once, families taking turns (RFC 8305, A61).
///
/// An address family that does not work here then costs one attempt, not half of them. The family
/// that comes first keeps its place; within a family, order stays.
pub(crate) fn interleaved<T: Clone + Eq + Hash>(
    addresses: impl IntoIterator<Item = T>,
    family: impl Fn(&T) -> Family,
) -> Vec<T> {
    let mut seen = HashSet::new();
    let mut families: Vec<(Family, VecDeque<T>)> = Vec::new();
    for address in addresses {
        if !seen.insert(address.clone()) {
            continue;
        }
        let family = family(&address);
        if let Some((_, members)) = families.iter_mut().find(|(known, _)| *known == family) {
            members.push_back(address);
        } else {
            families.push((family, VecDeque::from([address])));
        }
    }
    let mut ordered = Vec::with_capacity(seen.len());
    while ordered.len() < seen.len() {
        let round = families.iter_mut().filter_map(|(_, members)| members.pop_front());
        ordered.extend(round);
    }
    ordered
}

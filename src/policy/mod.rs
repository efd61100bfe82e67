//! Decisions: what a channel does next, and nothing of how it is done.
//!
//! Everything that a channel decides is a value here: when to resolve, which subchannels there
//! are and which of them a call goes to, when an address is dialled and how long it rests after a
//! failure. None of it does I/O, reads a clock or draws from global randomness; time and chance
//! are arguments, so each decision can be tested as a table and replayed from a seed. Whoever runs
//! these machines carries out their effects and tells them what came of it.
//!
//! # The shape of a machine
//!
//! ```text
//! fn step(self, now, event, .., fx: &mut Vec<Effect>) -> Self
//! fn wake_at(&self) -> Option<Instant>
//! ```
//!
//! `step` consumes the state and answers with the next one; what is to be done is pushed onto
//! `fx`, in the order in which it is to be done. A state owns exactly its own data. The match over
//! state and event is total: the pairs in which nothing happens are listed by name, so that a new
//! event does not compile until each state has an answer to it.
//!
//! `wake_at` is the one deadline of the machine. Whoever runs it arms one timer for that and sends
//! `Wake` when it fires; a `Wake` that comes early or late does no harm.
//!
//! Load-balancing policies are the exception in form, not in kind: users write them too, so they
//! are trait objects, take `&mut self` and act through a context ([`lb`]).

pub(crate) mod backoff;
pub(crate) mod channel;
pub(crate) mod connection;
pub(crate) mod floor;
pub(crate) mod health;
pub(crate) mod hedging;
pub(crate) mod idle;
pub(crate) mod lb;
pub(crate) mod resolution;
pub(crate) mod restart;
pub(crate) mod retry;
pub(crate) mod scaling;
pub(crate) mod service_config;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod token;

pub use lb::{
    EndpointShards, LbContext, LbEvent, LbPolicy, LbPolicyBuilder, LbPolicyConfig, LbUpdate, Pick,
    PickArgs, PickResult, Picker, ReadyEndpoint, Spread, SubchannelState,
};
pub use service_config::ServiceConfigError;

pub(crate) use crate::types::later;

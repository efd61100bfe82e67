//! The control plane: the actors that keep a channel alive.
//!
//! ```text
//!                       root (a task: starts and ends the channel)
//!                         │
//!                     Supervisor ── restarts what fails, knows nothing else
//!        ┌───────────────┼───────────────┬──────────────────┐
//!    ClientConn       Resolver        Balancer          AddrConn × n
//!        │                │               │                  │
//!        └── Start ──────▶│               │                  │
//!        │◀── Resolved ───┤               │                  │
//!        ├── Updated, ResolverFailed ────▶│── Connect ──────▶│
//!        │                │◀─ Accepted ───┤                  │ dials; fills the slot
//!        │                │   Rejected    │◀ Subchannel- ────┤
//!        │                │   ResolveNow  │   Changed,       │
//!        │                │               │   HealthChanged  │
//!        │◀── Published ──────────────────┤                  │
//!        ▼
//!   snapshot (what calls read)
//! ```
//!
//! The actors are siblings: one that fails takes no other along. What must outlive them lies in
//! [`Core`]. Every fact is written there before it is told, and a new life of an actor first takes
//! over the mailbox, then reads: so nothing is missed in between. Orders are in the imperative,
//! facts in the past tense; an actor's own completions are private to its file and carry a number
//! that tells late ones apart. No handler waits for I/O.
//!
//! An actor is a thin shell: what it decides is decided in [`policy`](crate::policy).

mod addr_conn;
mod balancer;
mod client_conn;
mod core;
#[cfg(feature = "test-util")]
mod faults;
mod health;
mod inspect;
mod mailbox;
mod news;
mod open;
mod registry;
mod resolver;
mod root;
mod supervisor;
mod task;
mod timer;
mod vitals;

pub(crate) use self::core::{Core, HealthChecks, Settings};
#[cfg(feature = "test-util")]
pub(crate) use self::faults::Blow;
pub(crate) use self::inspect::Part;

#[path = "../../src/call/activity.rs"]
pub(crate) mod activity;
#[path = "../../src/call/slot.rs"]
pub(crate) mod slot;
#[path = "../../src/call/snapshot.rs"]
pub(crate) mod snapshot;
#[path = "../../src/call/waiters.rs"]
pub(crate) mod waiters;

#[cfg(test)]
mod checks;

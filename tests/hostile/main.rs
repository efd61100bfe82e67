//! Servers that break the rules, by the frame: each call ends with a status that says what was
//! wrong, in bounded memory, and the channel goes on.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[expect(dead_code, reason = "other tests use the rest")]
#[path = "../support/mod.rs"]
mod support;

mod connections;
mod floods;
mod frames;
mod kept;
mod memory;
mod messages;
mod responses;
mod script;
mod secure;
mod stalls;

#[global_allocator]
static MEMORY: memory::Counting = memory::Counting;

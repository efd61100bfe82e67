//! What each fuzz target does with its input. `cargo fuzz` runs these functions, and so does
//! `tests/corpus.rs` with the inputs that are kept.
//!
//! A function panics where something that must always hold does not.

mod channel;
mod input;
mod machines;
mod memory;
mod responses;
mod server_bytes;
mod texts;

pub use machines::machines;
pub use responses::{framing, status};
pub use server_bytes::server_bytes;
pub use texts::{metadata, service_config, target};

#[global_allocator]
static MEMORY: memory::Counting = memory::Counting;

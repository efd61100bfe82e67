//! Model checks: the files by which calls and actors hand connections to one another, in every
//! order in which threads can run. `model/check` runs them.
//!
//! The files are those of the package itself. What they import from the rest of it is stood in for
//! here, as little of it as they need.

#![allow(dead_code, reason = "the files have more callers in their own package")]

#[cfg(not(loom))]
compile_error!("this is compiled with `--cfg loom` only: run `model/check`");

#[path = "../../src/sync.rs"]
mod sync;

mod types;

mod policy {
    pub(crate) mod lb {
        pub(crate) trait Picker: Send + Sync {}

        /// A picker that nobody asks.
        pub(crate) struct Mute;

        impl Picker for Mute {}
    }

    pub(crate) mod service_config {
        pub(crate) struct ServiceConfig;
    }
}

mod transport;

mod call;

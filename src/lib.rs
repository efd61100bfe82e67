//! lib
#![allow(dead_code)]
mod types;
pub use types::*;

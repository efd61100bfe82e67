//! Whole channels over loopback, against tonic's server and against scripted ones.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../support/mod.rs"]
mod support;

mod authority;
mod balancing;
mod binary_log;
mod calls;
mod channelz;
mod clock;
mod compression;
mod config_selector;
mod credentials;
mod deadlines;
mod dial;
mod dns;
mod failures;
mod faults;
mod goodbyes;
mod halves;
mod health;
mod hedging;
mod idleness;
mod inspection;
mod interceptors;
mod keepalive;
mod lifecycle;
mod limits;
mod log;
mod names;
mod observers;
mod panics;
mod picks;
mod proxy;
mod reentrance;
mod retries;
mod scaling;
mod service_config;
mod statuses;
mod streaming;
mod supervision;
mod telemetry;
mod tls;
mod typed;
mod unread;
#[cfg(target_os = "linux")]
mod user_timeout;
mod wordless;
mod wrong_input;

//! The inputs that fuzzing has kept, through the functions that it calls: see `fuzz/README.md`.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

#[expect(unreachable_pub, reason = "in its own package it is a library")]
#[path = "../fuzz/src/lib.rs"]
mod harness;

#[test]
fn no_bytes_of_a_server_hang_a_call_or_leave_something_behind() {
    replay("server_bytes", harness::server_bytes);
}

#[test]
fn every_target_is_taken_or_refused_with_a_reason() {
    replay("target", harness::target);
}

#[test]
fn every_service_config_is_taken_or_refused_with_a_field() {
    replay("service_config", harness::service_config);
}

#[test]
fn metadata_comes_back_as_it_was_set() {
    replay("metadata", harness::metadata);
}

#[test]
fn messages_are_found_wherever_their_data_is_cut() {
    replay("framing", harness::framing);
}

#[test]
fn every_end_of_a_response_is_a_status() {
    replay("status", harness::status);
}

#[test]
fn machines_and_policies_keep_their_promises_in_any_order_of_events() {
    replay("machines", harness::machines);
}

/// Runs all inputs of a target; tells which ones failed.
fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut inputs: Vec<PathBuf> = fs::read_dir(&folder)
        .expect("there are inputs")
        .map(|entry| entry.expect("the folder can be read").path())
        .collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "{}", folder.display());
    // Whatever the input, also none at all.
    run(&[]);
    let failed = inputs.into_iter().filter(|path| {
        let input = fs::read(path).expect("an input can be read");
        catch_unwind(AssertUnwindSafe(|| run(&input))).is_err()
    });
    let failed: Vec<_> = failed.collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

//! What tests of this layer share.

use std::time::Instant;

use super::lb::{PickArgs, PickResult, Picker};
use crate::types::{Metadata, MethodPath};

/// An instant to count from.
pub(crate) fn start() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// What a call that asks `picker` is told, as text.
pub(crate) fn picked(picker: &dyn Picker) -> String {
    let method = MethodPath::parse("/test.Service/Method").unwrap();
    let metadata = Metadata::new();
    match picker.pick(&PickArgs::new(&method, &metadata)) {
        PickResult::Complete(pick) => format!("pick {}", pick.subchannel()),
        PickResult::Queue => "queue".to_owned(),
        PickResult::Fail(status) => format!("fail {}: {}", status.code(), status.message()),
        PickResult::Drop(status) => format!("drop {}: {}", status.code(), status.message()),
    }
}

/// Compares a machine's whole table with the committed one, and prints the actual table where
/// they differ.
pub(crate) fn assert_table(rows: &[String], committed: &str) {
    let actual = rows.join("\n");
    let lines = |text: &str| -> Vec<String> {
        text.lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .filter(|line| !line.is_empty())
            .collect()
    };
    assert!(lines(&actual) == lines(committed), "the table is now:\n{actual}");
}

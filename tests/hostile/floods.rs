//! More than anybody asked for.

use switchboard::Code;

use crate::frames::*;
use crate::script::{play, script};

#[tokio::test]
async fn floods_end_in_bounded_memory() {
    let broke: &[&str] = &["@"];
    let pings = frame(PING, 0, 0, &[7; 8]).repeat(1_000);
    let empty = data(1, 0, b"").repeat(1_000);
    let more = frame(CONTINUATION, 0, 1, &block(&[("k", &"v".repeat(8_000))]));
    play(vec![
        script("PING")
            .floods(pings, 500)
            .answers(|id| [head(id)].concat())
            .within(600)
            .fails(Code::DEADLINE_EXCEEDED, broke),
        script("SETTINGS")
            .floods(settings().repeat(1_000), 500)
            .answers(head)
            .within(600)
            .fails(Code::DEADLINE_EXCEEDED, broke),
        script("empty DATA")
            .floods(empty, 500)
            .answers(head)
            .within(600)
            .fails(Code::UNAVAILABLE, broke),
        script("CONTINUATION")
            .floods(more, 2_000)
            .answers(|id| frame(HEADERS, 0, id, &block(GRPC)))
            .within(600)
            .fails(Code::UNAVAILABLE, broke),
    ])
    .await;
}

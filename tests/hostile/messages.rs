//! What goes wrong with a message.

use switchboard::Code;

use crate::frames::*;
use crate::script::{play, script};

#[tokio::test]
async fn a_message_that_is_none_is_named() {
    let sends = |name, bytes: Vec<u8>| {
        script(name).answers(move |id| {
            [head(id), data(id, 0, &bytes), trailers(id, &[("grpc-status", "0")])].concat()
        })
    };
    play(vec![
        sends("compressed", message(1, 2, b"xx")).fails(Code::INTERNAL, &["@", "compressed"]),
        sends("flag 2", message(2, 2, b"xx")).fails(Code::INTERNAL, &["@", "flag 2"]),
        sends("4 GiB", message(0, u32::MAX, b"x"))
            .fails(Code::RESOURCE_EXHAUSTED, &["@", "4294967295"]),
        sends("over the limit", message(0, 4_194_305, b""))
            .fails(Code::RESOURCE_EXHAUSTED, &["@", "4194305", "max_receive_message_bytes"]),
        sends("cut", message(0, 10, b"x"))
            .fails(Code::INTERNAL, &["@", "in the middle of a message"]),
        script("4 GiB, and silence")
            .answers(|id| [head(id), data(id, 0, &message(0, u32::MAX, b""))].concat())
            .fails(Code::RESOURCE_EXHAUSTED, &["@"]),
    ])
    .await;
}

#[tokio::test]
async fn a_message_may_come_by_the_byte() {
    play(vec![script("dribble").answers(|id| {
        let bytes: Vec<u8> = greeting().iter().flat_map(|byte| data(id, 0, &[*byte])).collect();
        [head(id), bytes, trailers(id, &[("grpc-status", "0")])].concat()
    })])
    .await;
}

#[tokio::test]
async fn silence_in_a_message_ends_at_the_deadline() {
    play(vec![
        script("in a message")
            .answers(|id| [head(id), data(id, 0, &greeting()[..7])].concat())
            .within(400)
            .fails(Code::DEADLINE_EXCEEDED, &["@"]),
    ])
    .await;
}

//! What goes wrong with a message.

use std::io::Write as _;

use flate2::write::GzEncoder;
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

/// A MiB of gzip that is a GiB of zeros: members of a MiB each, one behind the other.
fn bomb() -> Vec<u8> {
    let member = || {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(&vec![0; 1 << 20]).unwrap();
        encoder.finish().unwrap()
    };
    member().repeat(1 << 10)
}

#[tokio::test]
async fn a_message_that_inflates_beyond_all_measure_ends_in_bounded_memory() {
    let head = |id| headers(id, 0, &[GRPC, &[("grpc-encoding", "gzip")]].concat());
    let bomb = bomb();
    assert!((900_000..2_000_000).contains(&bomb.len()), "{}", bomb.len());
    let sends = move |id| {
        let framed = message(1, bomb.len() as u32, &bomb);
        let data: Vec<u8> = framed.chunks(16_000).flat_map(|part| data(id, 0, part)).collect();
        [head(id), data, trailers(id, &[("grpc-status", "0")])].concat()
    };
    play(vec![
        script("a bomb")
            .answers(sends)
            .uses(20 << 20)
            .fails(Code::RESOURCE_EXHAUSTED, &["@", "more than 4194304 bytes"]),
        script("not what its encoding says")
            .answers(move |id| {
                let end = trailers(id, &[("grpc-status", "0")]);
                [head(id), data(id, 0, &message(1, 2, b"xx")), end].concat()
            })
            .fails(Code::INTERNAL, &["@", "cannot be decompressed"]),
        script("an encoding that nobody has")
            .answers(|id| {
                let head = headers(id, 0, &[GRPC, &[("grpc-encoding", "br")]].concat());
                [head, data(id, 0, &message(1, 2, b"xx")), trailers(id, &[("grpc-status", "0")])]
                    .concat()
            })
            .fails(Code::INTERNAL, &["@", "its encoding `br` is not built in"]),
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

//! What goes wrong with a connection.

use switchboard::Code;

use crate::frames::*;
use crate::script::{play, script};

/// What a stream is answered with.
type Answer = fn(u32) -> Vec<u8>;

#[tokio::test]
async fn a_connection_that_does_not_begin_as_http2_is_named_and_dialled_again() {
    play(vec![
        script("silence")
            .opens([])
            .never_acks()
            .fails(Code::UNAVAILABLE, &["@", "waiting for the server's SETTINGS"]),
        script("closed at once")
            .opens([])
            .hangs_up()
            .fails(Code::UNAVAILABLE, &["@", "before HTTP/2 was under way"]),
        script("a PING first")
            .opens(frame(PING, 0, 0, &[0; 8]))
            .fails(Code::UNAVAILABLE, &["@", "does not speak HTTP/2"]),
        script("SETTINGS never acknowledged").never_acks(),
    ])
    .await;
}

#[tokio::test]
async fn a_goaway_ends_what_it_disowns_and_nothing_else() {
    play(vec![
        script("above the stream").answers(|id| [goaway(id, 0, b""), good(id)].concat()),
        script("below the stream").answers(|_| goaway(0, 0, b"")),
        script("in two steps")
            .answers(|id| [goaway(LAST, 0, b""), goaway(id, 0, b""), good(id)].concat()),
        script("in a message").answers(|id| {
            let (one, two) = (&greeting()[..3], &greeting()[3..]);
            let end = trailers(id, &[("grpc-status", "0")]);
            [head(id), data(id, 0, one), goaway(id, 0, b""), data(id, 0, two), end].concat()
        }),
        script("below, and closed").answers(|_| goaway(0, 2, b"broken")).hangs_up(),
        script("with much to say")
            .answers(|id| [head(id), goaway(id, 11, &[b'x'; 16_000])].concat())
            .hangs_up()
            .fails(Code::UNAVAILABLE, &["@", "ENHANCE_YOUR_CALM", "xxx"]),
        script("at once").opens([settings(), goaway(LAST, 0, b"")].concat()),
        script("at once and for all").opens([settings(), goaway(0, 0, b"")].concat()),
        script("at once, and closed").opens([settings(), goaway(0, 0, b"")].concat()).hangs_up(),
        script("at once, in anger")
            .opens([settings(), goaway(0, 11, b"go away")].concat())
            .hangs_up()
            .fails(
                Code::UNAVAILABLE,
                &["@: the server began with GOAWAY ENHANCE_YOUR_CALM", "go away"],
            ),
        script("increasing")
            .answers(|id| [goaway(id, 0, b""), goaway(id + 2, 0, b"")].concat())
            .fails(Code::UNAVAILABLE, &["@", "broke the HTTP/2 protocol"]),
    ])
    .await;
}

#[tokio::test]
async fn frames_that_break_the_protocol_end_the_connection_and_are_blamed_on_the_server() {
    let rows: [(&str, Answer); 11] = [
        ("padding that is too long", |id| [head(id), data(id, PADDED, &[200, 1])].concat()),
        ("DATA on stream 0", |_| data(0, 0, b"x")),
        ("HEADERS on stream 0", |_| head(0)),
        ("HEADERS on an even stream", |_| head(2)),
        ("DATA on a stream never opened", |id| data(id + 100, 0, b"x")),
        ("PUSH_PROMISE", |id| frame(PUSH_PROMISE, END_HEADERS, id, &[0, 0, 0, 2])),
        ("the connection's window overflows", |_| window_update(0, 0x7fff_ffff)),
        ("the connection's window grows by nothing", |_| window_update(0, 0)),
        ("the stream's window grows by nothing", |id| window_update(id, 0)),
        ("CONTINUATION of nothing", |id| frame(CONTINUATION, END_HEADERS, id, &[])),
        ("fields that cannot be decoded", |id| frame(HEADERS, END_HEADERS, id, &[0xff; 8])),
    ];
    let scripts = rows.into_iter().map(|(name, answer)| {
        script(name).answers(answer).fails(Code::UNAVAILABLE, &["@", "broke the HTTP/2 protocol"])
    });
    play(scripts.collect()).await;
}

#[tokio::test]
async fn a_connection_that_is_cut_in_a_frame_is_told_with_its_address() {
    play(vec![
        script("in the head of a frame")
            .answers(|id| head(id)[..5].to_vec())
            .hangs_up()
            .fails(Code::UNAVAILABLE, &["@", "closed the connection"]),
        script("in DATA")
            .answers(|id| [head(id), data(id, 0, &greeting())[..12].to_vec()].concat())
            .hangs_up()
            .fails(Code::UNAVAILABLE, &["@", "closed the connection"]),
    ])
    .await;
}

/// Of the first of two GOAWAYs.
const LAST: u32 = 0x7fff_ffff;

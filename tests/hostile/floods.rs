//! Much of what is allowed, and more than is allowed.

use std::sync::Arc;
use std::time::Duration;

use switchboard::{CallOptions, Code};

use crate::frames::*;
use crate::script::{play, script, start};
use crate::support::greeter::{LOTS_OF_REPLIES, hello};
use crate::support::plaintext;

#[tokio::test]
async fn floods_of_what_is_allowed_are_borne() {
    let nothing = |_| Vec::new();
    play(vec![
        script("PING").answers(nothing).floods(200_000, |_| frame(PING, 0, 0, &[7; 8])).then(good),
        script("SETTINGS").answers(nothing).floods(200_000, |_| settings()).then(good),
        script("WINDOW_UPDATE")
            .answers(nothing)
            .floods(200_000, |_| window_update(0, 1))
            .then(good),
        script("the window of a stream that has sent all")
            .answers(|id| [window_update(id, 0x7fff_ffff), good(id)].concat()),
        script("PRIORITY")
            .answers(nothing)
            .floods(200_000, |id| frame(PRIORITY, 0, id, &[0, 0, 0, 0, 1]))
            .then(good),
        script("unknown frames")
            .answers(nothing)
            .floods(200_000, |id| frame(200, 0, id, &[1; 8]))
            .then(good),
        script("GOAWAY")
            .answers(nothing)
            .floods(20_000, |id| goaway(id, 0, &[b'x'; 1_000]))
            .then(good),
        script("a page without end")
            .answers(|id| headers(id, 0, &[(":status", "502"), ("content-type", "text/html")]))
            .floods(2_000, |id| data(id, 0, &[b'y'; 16_000]))
            .fails(Code::UNAVAILABLE, &["@", "text/html", "yyy"]),
    ])
    .await;
}

#[tokio::test]
async fn what_comes_after_the_end_of_a_response_changes_nothing() {
    play(vec![
        script("resets").answers(good).floods(200_000, |id| reset(id, 0)),
        script("trailers")
            .answers(good)
            .floods(200_000, |id| trailers(id, &[("grpc-status", "13")])),
        script("DATA").answers(good).floods(20_000, |id| data(id, 0, &[0; 1_000])),
    ])
    .await;
}

#[tokio::test]
async fn floods_of_what_nobody_needs_end_the_connection() {
    let fields = |size| block(&[("k", &"v".repeat(size))]);
    let early =
        |size| move |id| headers(id, 0, &[(":status", "103"), ("link", &*"x".repeat(size))]);
    let excessive = &["@", "excessive load"];
    let many_heads = &["@", "answered one call with more than 100 headers"];
    play(vec![
        script("empty DATA")
            .answers(head)
            .floods(500_000, |id| data(id, 0, &[]))
            .fails(Code::UNAVAILABLE, &["@", "empty DATA frames, more than 10000"]),
        script("CONTINUATION")
            .answers(|id| frame(HEADERS, 0, id, &block(GRPC)))
            .floods(200_000, |id| frame(CONTINUATION, 0, id, &[]))
            .fails(Code::UNAVAILABLE, excessive),
        script("large CONTINUATION")
            .answers(|id| frame(HEADERS, 0, id, &block(GRPC)))
            .floods(2_000, move |id| frame(CONTINUATION, 0, id, &fields(10_000)))
            .fails(Code::UNAVAILABLE, excessive),
        script("103")
            .answers(|_| Vec::new())
            .floods(200_000, early(1))
            .fails(Code::UNAVAILABLE, many_heads),
        script("large 103")
            .answers(|_| Vec::new())
            .floods(5_000, early(10_000))
            .fails(Code::UNAVAILABLE, many_heads),
    ])
    .await;
}

#[tokio::test]
async fn a_list_of_fields_over_the_limit_fails_the_call_alone() {
    let beyond = |id| {
        let one = block(&[("k", &"v".repeat(15_000))]);
        let more = |flags| frame(CONTINUATION, flags, id, &one);
        [more(0), more(0), more(0), more(0), more(END_HEADERS)].concat()
    };
    play(vec![
        script("headers")
            .answers(move |id| [frame(HEADERS, 0, id, &block(GRPC)), beyond(id)].concat())
            .fails(
                Code::INTERNAL,
                &["@", "more than 65536 bytes of header fields", "max_header_list_bytes"],
            ),
        script("trailers that begin with a failure")
            .answers(move |id| {
                let said = block(&[("grpc-status", "5"), ("grpc-message", "no Ada")]);
                [head(id), frame(HEADERS, END_STREAM, id, &said), beyond(id)].concat()
            })
            .fails(Code::NOT_FOUND, &["no Ada; the trailers exceed the limit of 65536 bytes"]),
        script("trailers without a status")
            .answers(move |id| {
                let end = frame(HEADERS, END_STREAM, id, &block(&[("a", "b")]));
                [head(id), end, beyond(id)].concat()
            })
            .fails(Code::INTERNAL, &["@", "status is lost", "the limit of 65536 bytes"]),
        // The engine leaves out of trailers what is beyond the limit. A success stays one.
        script("trailers").answers(move |id| {
            let end = frame(HEADERS, END_STREAM, id, &block(&[("grpc-status", "0")]));
            [head(id), data(id, 0, &greeting()), end, beyond(id)].concat()
        }),
    ])
    .await;
}

/// Sends more DATA than it may before anything is read.
#[tokio::test]
async fn a_server_that_ignores_windows_is_told_so() {
    for (name, stream_window, connection_window, code, text) in [
        ("of the stream", 65_535, 1 << 20, Code::INTERNAL, "FLOW_CONTROL_ERROR"),
        ("of the connection", 1 << 20, 65_535, Code::UNAVAILABLE, "flow-control protocol violated"),
    ] {
        let burst = |id| {
            let one = data(id, 0, &message(0, 1 << 20, &[1; 16_000]));
            [head(id), one.repeat(8)].concat()
        };
        let address = start(Arc::new(script(name).answers(burst))).await;
        let channel = plaintext(address.to_string())
            .receive_windows(stream_window, connection_window)
            .build()
            .unwrap();
        let options = CallOptions::new().timeout(Duration::from_secs(20));
        let mut stream = channel.new_stream(&LOTS_OF_REPLIES, options).await.unwrap();
        stream.send(hello("Ada")).await.unwrap();
        stream.close_send();
        let status = stream.recv().await.unwrap_err();
        assert_eq!(status.code(), code, "{name}: {status}");
        assert!(status.message().contains(text), "{name}: {status}");
        channel.close().await;
    }
}

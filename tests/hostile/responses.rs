//! What goes wrong with one response.

use switchboard::Code;

use crate::frames::*;
use crate::script::{Script, play, script};

// spec: grpc/http2-error-mapping
#[tokio::test]
async fn a_reset_is_told_by_its_code_wherever_it_comes() {
    let mut scripts = Vec::new();
    // A refused stream is tried again, below.
    for number in (0..=14).filter(|number| *number != 7) {
        let code = match number {
            0 | 1 | 2 | 3 | 4 | 5 | 6 | 9 | 10 | 13 => Code::INTERNAL,
            11 => Code::RESOURCE_EXHAUSTED,
            8 => Code::CANCELLED,
            12 => Code::PERMISSION_DENIED,
            _ => Code::UNKNOWN,
        };
        let reset_ = move |id| [head(id), reset(id, number)].concat();
        scripts.push(script("after HEADERS").answers(reset_).fails(code, &["@"]));
        let reset_ =
            move |id| [head(id), data(id, 0, &greeting()[..3]), reset(id, number)].concat();
        scripts.push(script("in DATA").answers(reset_).fails(code, &["@"]));
        let reset_ = move |id| [head(id), data(id, 0, &greeting()), reset(id, number)].concat();
        scripts.push(script("before trailers").answers(reset_).fails(code, &["@"]));
    }
    play(scripts).await;
}

#[tokio::test]
async fn a_refused_stream_is_tried_again_once() {
    play(vec![
        script("once").answers(|id| reset(id, 7)),
        script("again")
            .times(2)
            .answers(|id| reset(id, 7))
            .fails(Code::UNAVAILABLE, &["@", "REFUSED_STREAM"]),
    ])
    .await;
}

// spec: grpc/status-in-trailers
#[tokio::test]
async fn a_bad_end_of_a_response_is_named() {
    let end = |name, fields: &'static [(&'static str, &'static str)]| -> Script {
        script(name)
            .answers(move |id| [head(id), data(id, 0, &greeting()), trailers(id, fields)].concat())
    };
    play(vec![
        end("text", &[("grpc-status", "fine")])
            .fails(Code::UNKNOWN, &["`fine`, which is no number"]),
        end("empty", &[("grpc-status", "")]).fails(Code::UNKNOWN, &["which is no number"]),
        end("huge", &[("grpc-status", "99999999999")]).fails(Code::UNKNOWN, &["`99999999999`"]),
        end("negative", &[("grpc-status", "-1")]).fails(Code::UNKNOWN, &["`-1`"]),
        end("repeated", &[("grpc-status", "5"), ("grpc-status", "6")]).fails(Code::NOT_FOUND, &[]),
        end("missing", &[("k", "v")]).fails(Code::UNKNOWN, &[]),
        end("escapes", &[("grpc-status", "5"), ("grpc-message", "%zz%2")])
            .fails(Code::NOT_FOUND, &["%zz%2"]),
        end("details", &[("grpc-status", "6"), ("grpc-status-details-bin", "CAUSAm5v")])
            .fails(Code::INTERNAL, &["NOT_FOUND"]),
        end(
            "bad details",
            &[("grpc-status", "6"), ("grpc-message", "it"), ("grpc-status-details-bin", "*")],
        )
        .fails(Code::ALREADY_EXISTS, &["it"]),
        script("trailers twice")
            .answers(|id| [good(id), trailers(id, &[("grpc-status", "0")])].concat()),
        script("HEADERS in DATA")
            .answers(|id| [head(id), data(id, 0, &greeting()[..3]), head(id)].concat())
            .fails(Code::INTERNAL, &["@", "protocol"]),
        script("no trailers")
            .answers(|id| [head(id), data(id, END_STREAM, &greeting())].concat())
            .fails(Code::INTERNAL, &["@", "without trailers"]),
    ])
    .await;
}

// spec: grpc/unreadable-metadata
#[tokio::test]
async fn metadata_that_cannot_be_read_costs_no_call() {
    let ok = ("grpc-status", "0");
    let rows: [&'static [(&'static str, &'static str)]; 6] = [
        &[("k-bin", "*")],
        &[("k-bin", "AQ==,Ag")],
        &[("k-bin", "AQ,*")],
        &[("grpc-status-details-bin", "*")],
        &[("grpc-status-details-bin", "CAUSAm5v,CAUSAm5v")],
        &[("grpc-tags-bin", "="), ("grpc-trace-bin", "?"), ("text", "\u{e4}")],
    ];
    let mut scripts = Vec::new();
    for fields in rows {
        scripts.push(script("in headers").answers(move |id| {
            let head = headers(id, 0, &[GRPC, fields].concat());
            [head, data(id, 0, &greeting()), trailers(id, &[ok])].concat()
        }));
        scripts.push(script("in trailers").answers(move |id| {
            let fields = [&[ok], fields].concat();
            [head(id), data(id, 0, &greeting()), trailers(id, &fields)].concat()
        }));
        scripts.push(
            script("in trailers only")
                .answers(move |id| {
                    let end = [("grpc-status", "5"), ("grpc-message", "nobody")];
                    headers(id, END_STREAM, &[GRPC, &end, fields].concat())
                })
                .fails(Code::NOT_FOUND, &["nobody"]),
        );
    }
    play(scripts).await;
}

// spec: grpc/http-status-mapping
#[tokio::test]
async fn a_page_that_is_no_grpc_is_shown() {
    let mut scripts = Vec::new();
    for (status, code) in [
        ("200", Code::UNKNOWN),
        ("404", Code::UNIMPLEMENTED),
        ("429", Code::UNAVAILABLE),
        ("502", Code::UNAVAILABLE),
        ("503", Code::UNAVAILABLE),
    ] {
        let page = move |id, body: &[u8]| {
            let fields = [(":status", status), ("content-type", "text/html")];
            [headers(id, 0, &fields), data(id, END_STREAM, body)].concat()
        };
        scripts.push(
            script("small")
                .answers(move |id| page(id, b"<p>no"))
                .fails(code, &["@", "text/html", "<p>no"]),
        );
        scripts.push(
            script("large")
                .answers(move |id| page(id, &[b'y'; 16_000]))
                .fails(code, &["@", "text/html", "yyy"]),
        );
    }
    play(scripts).await;
}

/// What a server answers a stream of this number with.
type Answer = Box<dyn Fn(u32) -> Vec<u8> + Send + Sync>;

// spec: grpc/http-status-mapping
#[tokio::test]
async fn an_http_status_counts_where_there_is_no_grpc_status_whatever_the_content_type() {
    const STATUSES: [(&str, Code, &[&str]); 10] = [
        ("200", Code::UNKNOWN, &["@", "HTTP status 200"]),
        ("400", Code::INTERNAL, &["@", "HTTP status 400"]),
        ("401", Code::UNAUTHENTICATED, &["@", "HTTP status 401"]),
        ("403", Code::PERMISSION_DENIED, &["@", "HTTP status 403"]),
        ("404", Code::UNIMPLEMENTED, &["@", "HTTP status 404"]),
        ("429", Code::UNAVAILABLE, &["@", "HTTP status 429"]),
        ("500", Code::UNKNOWN, &["@", "HTTP status 500"]),
        ("502", Code::UNAVAILABLE, &["@", "HTTP status 502"]),
        ("503", Code::UNAVAILABLE, &["@", "HTTP status 503"]),
        ("504", Code::UNAVAILABLE, &["@", "HTTP status 504"]),
    ];
    const TYPES: [Option<&str>; 4] =
        [Some("application/grpc"), Some("application/grpc+proto"), Some("text/html"), None];
    const SAID: [(&str, &str); 2] = [("grpc-status", "5"), ("grpc-message", "no%20Ada")];
    let mut scripts = Vec::new();
    for (status, code, texts) in STATUSES {
        for content_type in TYPES {
            let is_ok_grpc =
                status == "200" && content_type.is_some_and(|it| it.starts_with("application"));
            let head = move |id, flags, more: &[(&'static str, &'static str)]| {
                let mut fields = vec![(":status", status)];
                fields.extend(content_type.map(|it| ("content-type", it)));
                fields.extend(more);
                headers(id, flags, &fields)
            };
            let plain: &'static [(&'static str, &'static str)] = &[("k", "v")];
            let answers: [(&'static str, Answer); 3] = [
                ("headers alone", Box::new(move |id| head(id, END_STREAM, &[]))),
                ("trailers", Box::new(move |id| [head(id, 0, &[]), trailers(id, plain)].concat())),
                (
                    "a text",
                    Box::new(move |id| [head(id, 0, &[]), data(id, END_STREAM, b"busy")].concat()),
                ),
            ];
            for (name, answer) in answers {
                // That is a broken message and not a page.
                if !(is_ok_grpc && name == "a text") {
                    scripts.push(script(name).answers(answer).fails(code, texts));
                }
            }
            // A status that is there counts.
            let said: [Answer; 4] = [
                Box::new(move |id| head(id, END_STREAM, &SAID)),
                Box::new(move |id| [head(id, 0, &SAID), data(id, END_STREAM, b"")].concat()),
                Box::new(move |id| [head(id, 0, &SAID), trailers(id, plain)].concat()),
                Box::new(move |id| [head(id, 0, &[]), trailers(id, &SAID)].concat()),
            ];
            for answer in said {
                let script = script("with a status").answers(answer);
                scripts.push(script.fails(Code::NOT_FOUND, &["no Ada"]));
            }
        }
    }
    play(scripts).await;
}

// What a server says may be meant for the terminal of whoever reads the log.
#[tokio::test]
async fn what_a_server_says_is_shown_in_its_line_and_cut_where_it_is_long() {
    // A new line, clearing the screen, a bell, and a mark that turns the text around.
    const NASTY: &str = "%0D%0AERROR forged%1B[2J%07%E2%80%AE";
    let long: &'static str = "x".repeat(12_000).leak();
    let end = |name, fields: &'static [(&'static str, &'static str)]| -> Script {
        script(name).answers(move |id| [head(id), trailers(id, fields)].concat())
    };
    let says = |name, text: &'static str| -> Script {
        let fields = move || [("grpc-status", "5"), ("grpc-message", text)];
        script(name).answers(move |id| [head(id), trailers(id, &fields())].concat())
    };
    let answers = |name, status: &'static str, kind: &'static str, body: &'static [u8]| -> Script {
        script(name).answers(move |id| {
            let fields = [(":status", status), ("content-type", kind)];
            [headers(id, 0, &fields), data(id, END_STREAM, body)].concat()
        })
    };
    play(vec![
        // The value itself is as it was sent.
        says("a message", NASTY)
            .fails(Code::NOT_FOUND, &["\r\nERROR forged\u{1b}[2J\u{7}\u{202e}"]),
        says("a long message", long).fails(Code::NOT_FOUND, vec![long].leak()),
        end("a status", &[("grpc-status", "\t5\u{9b}2J")]).fails(Code::UNKNOWN, &["no number"]),
        answers("a body", "502", "text/html", b"a\r\n\x1b[31mb\x07\xe2\x80\xae")
            .fails(Code::UNAVAILABLE, &["@", "502"]),
        answers("a content type", "200", "text/\t\u{9b}2J", b"x").fails(Code::UNKNOWN, &["@"]),
        answers("a long content type", "200", long, b"x").fails(Code::UNKNOWN, &["@"]),
        script("a goodbye")
            .answers(|_| goaway(0x7fff_ffff, 2, b"bye\r\n\x1b[2J"))
            .hangs_up()
            .fails(Code::UNAVAILABLE, &["@", "INTERNAL_ERROR"]),
        script("another protocol")
            .opens(&b"HTTP/1.1 400 Bad\x1b[31m\x07 Request\r\nA: b\r\n\r\n"[..])
            .hangs_up()
            .fails(Code::UNAVAILABLE, &["@", "HTTP/1"]),
        script("an encoding")
            .answers(|id| {
                let fields = [
                    (":status", "200"),
                    ("content-type", "application/grpc"),
                    ("grpc-encoding", "x\t\u{9b}31m"),
                ];
                let (compressed, ok) =
                    (message(1, 3, b"abc"), trailers(id, &[("grpc-status", "0")]));
                [headers(id, 0, &fields), data(id, 0, &compressed), ok].concat()
            })
            .fails(Code::INTERNAL, &["@", "not built in"]),
    ])
    .await;
}

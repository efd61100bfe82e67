//! A server that keeps to HTTP/2, and to nothing else.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use switchboard::{Code, Status};

use super::channel::{Outcome, call, close, on_a_runtime, over_a_pipe, stream};
use super::input::Input;
use super::memory;

/// Messages, whole or not, in DATA that is cut anywhere, and a limit for their size: the stream
/// receives what a second reading finds in them, in bounded memory.
pub fn framing(input: &[u8]) {
    let mut input = Input::new(input);
    let limit = usize::from(input.short());
    let mut answer = Answer::well();
    while !input.is_empty() {
        let piece = input.piece();
        answer.data.push(piece.to_vec());
    }
    let (expected, end) = deframed(&answer.data.concat(), limit);
    let before = memory::begin();
    ask(&answer, limit, |unary, stream| {
        assert_eq!(stream.messages, expected);
        assert_eq!(code(&stream.end), end.unwrap_or(Code::OK), "{:?}", stream.end);
        // Of several messages the second ends the call.
        let one = expected.len() <= 1 && end.is_none();
        match code(&unary.end) {
            Code::OK => assert!(one && unary.messages == expected),
            Code::UNIMPLEMENTED => assert!(expected.len() != 1, "{:?}", unary.end),
            // It reads on behind a message that is compressed.
            Code::INTERNAL | Code::RESOURCE_EXHAUSTED => assert!(end.is_some(), "{:?}", unary.end),
            _ => panic!("{:?}", unary.end),
        }
    });
    assert!(memory::used_since(before) < MEMORY_MAX);
}

/// How a response ends: an HTTP status, the fields of gRPC's status and others. The call ends with
/// the code that they have, and OK needs an OK.
pub fn status(input: &[u8]) {
    let mut input = Input::new(input);
    let options = input.byte();
    let mut answer = Answer::well();
    answer.trailers = HeaderMap::new();
    answer.trailers_only = options & 1 != 0;
    if options & 2 != 0 {
        let number = 200 + input.short() % 400;
        answer.http = StatusCode::from_u16(number).unwrap_or_default();
    }
    if options & 4 != 0 {
        answer.content_type = input.piece().to_vec();
    }
    if !answer.trailers_only && options & 8 != 0 {
        answer.data.push(b"\0\0\0\0\x02Hi".to_vec());
    }
    while !input.is_empty() {
        const NAMES: [&str; 6] = [
            "grpc-status",
            "grpc-message",
            "grpc-status-details-bin",
            "own",
            "own-bin",
            "grpc-encoding",
        ];
        let name = NAMES[usize::from(input.below(6))];
        // HTTP/2 has no others.
        if let Ok(value) = HeaderValue::from_bytes(input.piece()) {
            answer.trailers.append(name, value);
        }
    }
    let is_grpc = answer.content_type == GRPC && answer.http == StatusCode::OK;
    let said = answer.trailers.get("grpc-status").map(|value| {
        let text = value.to_str().unwrap_or_default();
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|_| digits).map_or(Code::UNKNOWN, Code::from_number)
    });
    ask(&answer, 1024, |unary, stream| {
        let got = code(&stream.end);
        if is_grpc {
            // INTERNAL names what does not fit: details of another code, `-bin` that is none.
            let said = said.unwrap_or(Code::UNKNOWN);
            assert!(got == said || got == Code::INTERNAL, "{got}, not {said}: {:?}", stream.end);
            if got == Code::OK {
                assert_eq!(stream.messages.len(), answer.data.len());
            }
        } else if said != Some(Code::OK) {
            assert_ne!(got, Code::OK, "{:?}", answer.trailers);
        }
        if code(&unary.end) == Code::OK {
            assert_eq!((got, answer.data.len()), (Code::OK, 1));
        } else if got != Code::OK {
            assert_eq!(code(&unary.end), got, "{:?}, {:?}", unary.end, stream.end);
        }
        for end in [&unary.end, &stream.end] {
            if let Err(status) = end {
                // Printed, looked at and kept as any other.
                assert!(!status.to_string().is_empty());
                assert!(status.metadata().len() <= answer.trailers.len());
            }
        }
    });
}

/// What every call is answered with.
#[derive(Clone)]
struct Answer {
    http: StatusCode,
    content_type: Vec<u8>,
    data: Vec<Vec<u8>>,
    trailers: HeaderMap,
    /// Whether the response is one block of fields.
    trailers_only: bool,
}

impl Answer {
    fn well() -> Self {
        Self {
            http: StatusCode::OK,
            content_type: GRPC.to_vec(),
            data: Vec::new(),
            trailers: HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-status"),
                HeaderValue::from_static("0"),
            )]),
            trailers_only: false,
        }
    }

    /// The client may be gone at any of these steps, which is its affair.
    async fn send(
        self,
        mut request: h2::RecvStream,
        mut respond: h2::server::SendResponse<Bytes>,
    ) -> Result<(), h2::Error> {
        while let Some(data) = request.data().await {
            let _ = request.flow_control().release_capacity(data?.len());
        }
        let mut head = Response::new(());
        *head.status_mut() = self.http;
        if self.trailers_only {
            *head.headers_mut() = self.trailers.clone();
        }
        if let Ok(content_type) = HeaderValue::from_bytes(&self.content_type) {
            head.headers_mut().insert(http::header::CONTENT_TYPE, content_type);
        }
        let mut body = respond.send_response(head, self.trailers_only)?;
        if self.trailers_only {
            return Ok(());
        }
        for piece in self.data {
            body.send_data(piece.into(), false)?;
        }
        body.send_trailers(self.trailers)
    }
}

/// Has a unary call and a stream answered so, and `judge` say whether they ended well.
fn ask(answer: &Answer, limit: usize, judge: impl FnOnce(Outcome, Outcome)) {
    on_a_runtime(async {
        let (channel, mut listener) = over_a_pipe(|it| it.max_receive_message_bytes(limit));
        let serve = async {
            while let Some(connection) = listener.accept().await {
                let Ok(mut connection) = h2::server::handshake(connection).await else { continue };
                while let Some(Ok((request, respond))) = connection.accept().await {
                    tokio::spawn(answer.clone().send(request.into_body(), respond));
                }
            }
        };
        let calls = async {
            let patience = Duration::from_secs(10);
            let outcomes =
                tokio::join!(call(&channel, patience, false), stream(&channel, patience, 2));
            close(channel).await;
            outcomes
        };
        tokio::select! {
            (unary, stream) = calls => judge(unary, stream),
            () = serve => unreachable!("the channel still dials"),
        }
    });
}

/// The messages in `data`, and what the stream ends with if not with OK.
fn deframed(mut data: &[u8], limit: usize) -> (Vec<Bytes>, Option<Code>) {
    let mut messages = Vec::new();
    while !data.is_empty() {
        let Some((prefix, rest)) = data.split_at_checked(5) else {
            return (messages, Some(Code::INTERNAL));
        };
        let len = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
        if prefix[0] > 1 {
            return (messages, Some(Code::INTERNAL));
        }
        if len > limit {
            return (messages, Some(Code::RESOURCE_EXHAUSTED));
        }
        // Compressed, which nobody has asked for; or it ends too soon.
        let Some((message, rest)) = rest.split_at_checked(len).filter(|_| prefix[0] == 0) else {
            return (messages, Some(Code::INTERNAL));
        };
        messages.push(Bytes::copy_from_slice(message));
        data = rest;
    }
    (messages, None)
}

fn code(end: &Result<(), Status>) -> Code {
    end.as_ref().map_or_else(Status::code, |()| Code::OK)
}

const GRPC: &[u8] = b"application/grpc";

/// A connection with its windows, and two calls that buffer what is there: messages are announced
/// with far more.
const MEMORY_MAX: isize = 4 * 1024 * 1024;

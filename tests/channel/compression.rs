//! Compressed messages, both ways.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use switchboard::{
    CallEvent, CallInfo, CallObserver, CallOptions, Channel, Code, Codec, CodecError, Compression,
    Method, Observer, Raw, Request, kind,
};

use crate::support::plaintext;

const ECHO: Method<Bytes, Bytes> = Method::with_codec::<Raw>("/test.Echo/Once");
const ECHO_ALL: Method<Bytes, Bytes, kind::BidiStreaming> =
    Method::with_codec::<Raw>("/test.Echo/All");

/// What a server has seen of calls: `grpc-encoding`, `grpc-accept-encoding`, and the flags and
/// lengths of the messages.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<String>>>);

impl Seen {
    fn note(&self, text: String) {
        self.0.lock().unwrap().push(text);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

/// Sends everything back as it came, under the encoding that it came in.
async fn echo(stream: tokio::io::DuplexStream, seen: Seen) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let seen = seen.clone();
        tokio::spawn(async move {
            let (head, mut body) = request.into_parts();
            let field = |name| head.headers.get(name).map_or("-", |it| it.to_str().unwrap());
            seen.note(format!("{} of {}", field("grpc-encoding"), field("grpc-accept-encoding")));
            if field("content-type") != "application/grpc" {
                seen.note(field("content-type").to_owned());
            }
            let mut response = http::Response::builder().header("content-type", "application/grpc");
            let lies = head.headers.get("answer-in");
            if let Some(encoding) = lies.or_else(|| head.headers.get("grpc-encoding")) {
                response = response.header("grpc-encoding", encoding);
            }
            let mut send = respond.send_response(response.body(()).unwrap(), false).unwrap();
            let mut buffer = Vec::new();
            while let Some(Ok(data)) = body.data().await {
                body.flow_control().release_capacity(data.len()).unwrap();
                buffer.extend_from_slice(&data);
                while let Some((prefix, rest)) = buffer.split_first_chunk::<5>() {
                    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
                    let Some(_) = rest.get(..length as usize) else { break };
                    seen.note(format!("{} {length}", prefix[0]));
                    let rest = buffer.split_off(5 + length as usize);
                    let mut message = std::mem::replace(&mut buffer, rest);
                    message[0] |= u8::from(lies.is_some());
                    send.send_data(message.into(), false).unwrap();
                }
            }
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", 0.into());
            let _ = send.send_trailers(trailers);
        });
    }
}

fn echoing(
    change: impl FnOnce(switchboard::ChannelBuilder) -> switchboard::ChannelBuilder,
) -> (Channel, Seen) {
    let (connector, mut listener) = switchboard::memory::pipe();
    let seen = Seen::default();
    let all = seen.clone();
    tokio::spawn(async move {
        while let Some(stream) = listener.accept().await {
            tokio::spawn(echo(stream, all.clone()));
        }
    });
    let builder = change(plaintext("passthrough:server").connector(connector));
    (builder.build().unwrap(), seen)
}

fn long() -> Bytes {
    Bytes::from(b"switchboard ".repeat(1_000))
}

/// The flag and the length of the one message that was noted.
fn only(seen: &[String]) -> (bool, usize) {
    let [message] = seen else { panic!("{seen:?}") };
    let (flag, length) = message.split_once(' ').unwrap();
    (flag == "1", length.parse().unwrap())
}

#[tokio::test]
async fn a_call_may_be_compressed_and_its_answer_is_read() {
    let (channel, seen) = echoing(|it| it.accept_compression(Compression::ALL.iter().copied()));
    let accepted: Vec<_> = Compression::ALL.iter().map(|it| it.name()).collect();
    let accepted = accepted.join(",");
    for compression in Compression::ALL.iter().copied() {
        let request = Request::new(long()).compress(compression);
        let reply = channel.invoke(&ECHO, request).await.unwrap();
        assert_eq!(*reply.message(), long());
        let noted = seen.take();
        assert_eq!(noted[0], format!("{} of {accepted}", compression.name()));
        let (is_compressed, length) = only(&noted[1..]);
        assert!(is_compressed && length < 1_000, "{noted:?}");
        // Nothing cannot be made smaller.
        let request = Request::new(Bytes::new()).compress(compression);
        channel.invoke(&ECHO, request).await.unwrap();
        assert_eq!(only(&seen.take()[1..]), (false, 0));
    }
    channel.invoke(&ECHO, Request::new(long())).await.unwrap();
    assert_eq!(seen.take(), [format!("- of {accepted}"), "0 12000".to_owned()]);
    channel.close().await;
}

#[tokio::test]
async fn a_channel_may_compress_and_a_call_may_not_want_it() {
    let (channel, seen) = echoing(|it| it.compress(Compression::Gzip));
    channel.invoke(&ECHO, Request::new(long())).await.unwrap();
    assert!(only(&seen.take()[1..]).0);
    channel.invoke(&ECHO, Request::new(long()).compress(None)).await.unwrap();
    assert!(!only(&seen.take()[1..]).0);
    // The limit is on what is sent.
    let request = Request::new(long()).max_send_message_bytes(1_000);
    channel.invoke(&ECHO, request).await.unwrap();
    let request = Request::new(long()).compress(None).max_send_message_bytes(1_000);
    let status = channel.invoke(&ECHO, request).await.unwrap_err();
    assert_eq!(status.code(), Code::RESOURCE_EXHAUSTED);
    channel.close().await;
}

#[tokio::test]
async fn a_call_says_itself_what_it_accepts_where_that_is_not_what_the_channel_does() {
    let (channel, seen) = echoing(|it| it.accept_compression([]));
    let request = || Request::new(long()).accept_compression([Compression::Gzip]);
    channel.invoke(&ECHO, request()).await.unwrap();
    assert_eq!(seen.take()[0], "- of gzip");
    channel.invoke(&ECHO, Request::new(long())).await.unwrap();
    assert_eq!(seen.take()[0], "- of -");
    // A server that answers so although that was not offered is not believed.
    let mut wrong = Request::new(long());
    wrong.metadata_mut().insert("answer-in", "gzip").unwrap();
    let status = channel.invoke(&ECHO, wrong).await.unwrap_err();
    assert_eq!(status.code(), Code::INTERNAL);
    assert!(status.message().contains("was not offered"), "{status}");
    channel.close().await;
}

/// The lengths of messages: as the application has them, and as they go over the wire.
#[derive(Clone, Default)]
struct Lengths(Arc<Mutex<Vec<(&'static str, usize)>>>);

impl Observer for Lengths {
    fn call_began(&self, _: &CallInfo<'_>) -> Option<Arc<dyn CallObserver>> {
        Some(Arc::new(self.clone()))
    }
}

impl CallObserver for Lengths {
    fn event(&self, event: &CallEvent<'_>) {
        let mut lengths = self.0.lock().unwrap();
        match *event {
            CallEvent::RequestMessage { payload } => lengths.push(("plain", payload.len())),
            CallEvent::MessageSent { wire_bytes, .. } => lengths.push(("wire", wire_bytes)),
            CallEvent::ResponseMessage { payload, wire_bytes, .. } => {
                lengths.extend([("wire", wire_bytes), ("plain", payload.len())]);
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn observers_see_messages_plain_and_their_length_on_the_wire() {
    let lengths = Lengths::default();
    let (channel, seen) = echoing(|it| it.compress(Compression::Gzip).observer(lengths.clone()));
    channel.invoke(&ECHO, Request::new(long())).await.unwrap();
    let mut stream = channel.new_stream(&ECHO_ALL, CallOptions::new()).await.unwrap();
    stream.send(long()).await.unwrap();
    stream.recv().await.unwrap();
    let (_, on_the_wire) = only(&seen.take()[1..2]);
    let (plain, wire) = (("plain", long().len()), ("wire", on_the_wire + 5));
    assert_eq!(*lengths.0.lock().unwrap(), [plain, wire, wire, plain].repeat(2));
    drop(stream);
    channel.close().await;
}

/// Bytes, by another name.
struct Json;

impl Codec for Json {
    type Encode = Bytes;
    type Decode = Bytes;
    const CONTENT_TYPE: &'static str = "application/grpc+json";

    fn encode(message: &Bytes, buf: &mut bytes::BytesMut) -> Result<(), CodecError> {
        buf.extend_from_slice(message);
        Ok(())
    }

    fn decode(bytes: Bytes) -> Result<Bytes, CodecError> {
        Ok(bytes)
    }
}

#[tokio::test]
async fn a_codec_names_what_its_messages_are() {
    const ECHO_JSON: Method<Bytes, Bytes> = Method::with_codec::<Json>("/echo.Echo/Echo");
    let (channel, seen) = echoing(|it| it);
    channel.invoke(&ECHO_JSON, Request::new(long())).await.unwrap();
    assert_eq!(seen.take()[1], "application/grpc+json");
    channel.close().await;
}

#[tokio::test]
async fn each_message_of_a_stream_is_compressed_or_not() {
    let (channel, seen) = echoing(|it| it);
    let options = CallOptions::new().compress(Compression::Gzip);
    let mut stream = channel.new_stream(&ECHO_ALL, options).await.unwrap();
    let mut flags = Vec::new();
    for compress in [true, false, true] {
        stream.compress(compress);
        stream.send(long()).await.unwrap();
        assert_eq!(stream.recv().await.unwrap().unwrap(), long());
        flags.push(seen.take().last().unwrap().starts_with('1'));
    }
    assert_eq!(flags, [true, false, true]);
    stream.close_send();
    assert!(stream.recv().await.unwrap().is_none());
    channel.close().await;
}

#[tokio::test]
async fn what_was_not_offered_or_is_too_large_once_decompressed_is_refused() {
    // The encoding comes back although the message does not say so.
    let (channel, seen) = echoing(|it| it);
    let mut request = Request::new(long());
    request.metadata_mut().insert("answer-in", "gzip").unwrap();
    let status = channel.invoke(&ECHO, request).await.unwrap_err();
    assert_eq!(status.code(), Code::INTERNAL);
    assert!(status.message().contains("its encoding `gzip` was not offered"), "{status}");
    assert_eq!(seen.take()[0], "- of -");
    let gzip = Request::new(long()).compress(Compression::Gzip);
    channel.invoke(&ECHO, gzip).await.unwrap();
    assert_eq!(seen.take()[0], "gzip of gzip");
    channel.close().await;

    let (channel, _) = echoing(|it| it.compress(Compression::Gzip));
    for limit in [11_999, 12_000] {
        let options = CallOptions::new().max_receive_message_bytes(limit);
        let mut stream = channel.new_stream(&ECHO_ALL, options.clone()).await.unwrap();
        stream.send(long()).await.unwrap();
        let received = stream.recv().await;
        let reply = channel.invoke(&ECHO, Request::new(long()).options(options)).await;
        if limit == 12_000 {
            assert_eq!(received.unwrap().unwrap(), long());
            reply.unwrap();
            continue;
        }
        for status in [received.unwrap_err(), reply.unwrap_err()] {
            assert_eq!(status.code(), Code::RESOURCE_EXHAUSTED);
            assert!(status.message().contains("more than 11999 bytes"), "{status}");
        }
    }
    channel.close().await;
}

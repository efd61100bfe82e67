//! What a binary log has of calls.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use prost::Message as _;
use switchboard::{
    BearerToken, BinaryLog, BinaryLogSink, BoxFuture, CallContext, CallCredentials, CallOptions,
    Channel, Credentials, FileSink, Metadata, SecurityLevel, Status,
};

use crate::support::greeter::{BIDI_HELLO, FLAKY, Greeter, SAY_HELLO, ask, hello, target_of};
use crate::support::{close_without_leaks, plaintext};

/// The messages of `grpc.binarylog.v1`.
mod v1 {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Entry {
        #[prost(message, tag = "1")]
        pub(super) timestamp: Option<Time>,
        #[prost(uint64, tag = "2")]
        pub(super) call_id: u64,
        #[prost(uint64, tag = "3")]
        pub(super) sequence_id_within_call: u64,
        #[prost(uint32, tag = "4")]
        pub(super) kind: u32,
        #[prost(uint32, tag = "5")]
        pub(super) logger: u32,
        #[prost(message, tag = "6")]
        pub(super) client_header: Option<ClientHeader>,
        #[prost(message, tag = "7")]
        pub(super) server_header: Option<ServerHeader>,
        #[prost(message, tag = "8")]
        pub(super) message: Option<Message>,
        #[prost(message, tag = "9")]
        pub(super) trailer: Option<Trailer>,
        #[prost(bool, tag = "10")]
        pub(super) payload_truncated: bool,
        #[prost(message, tag = "11")]
        pub(super) peer: Option<Address>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Time {
        #[prost(int64, tag = "1")]
        pub(super) seconds: i64,
        #[prost(int32, tag = "2")]
        pub(super) nanos: i32,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct ClientHeader {
        #[prost(message, tag = "1")]
        pub(super) metadata: Option<Metadata>,
        #[prost(string, tag = "2")]
        pub(super) method_name: String,
        #[prost(string, tag = "3")]
        pub(super) authority: String,
        #[prost(message, tag = "4")]
        pub(super) timeout: Option<Time>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct ServerHeader {
        #[prost(message, tag = "1")]
        pub(super) metadata: Option<Metadata>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Trailer {
        #[prost(message, tag = "1")]
        pub(super) metadata: Option<Metadata>,
        #[prost(uint32, tag = "2")]
        pub(super) status_code: u32,
        #[prost(string, tag = "3")]
        pub(super) status_message: String,
        #[prost(bytes, tag = "4")]
        pub(super) status_details: Vec<u8>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Message {
        #[prost(uint32, tag = "1")]
        pub(super) length: u32,
        #[prost(bytes, tag = "2")]
        pub(super) data: Vec<u8>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Metadata {
        #[prost(message, repeated, tag = "1")]
        pub(super) entry: Vec<MetadataEntry>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct MetadataEntry {
        #[prost(string, tag = "1")]
        pub(super) key: String,
        #[prost(bytes, tag = "2")]
        pub(super) value: Vec<u8>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Address {
        #[prost(uint32, tag = "1")]
        pub(super) kind: u32,
        #[prost(string, tag = "2")]
        pub(super) text: String,
        #[prost(uint32, tag = "3")]
        pub(super) ip_port: u32,
    }
}

#[derive(Clone, Default)]
struct Entries(Arc<Mutex<Vec<v1::Entry>>>);

impl Entries {
    fn take(&self) -> Vec<v1::Entry> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl BinaryLogSink for Entries {
    fn write(&self, entry: Vec<u8>) {
        self.0.lock().unwrap().push(v1::Entry::decode(&entry[..]).unwrap());
    }
}

fn logged(filter: &str, config: &str) -> (Channel, Entries, [Greeter; 1]) {
    let (greeter, entries) = ([Greeter::start()], Entries::default());
    let log = BinaryLog::new(filter, entries.clone()).unwrap();
    let builder = plaintext(target_of(&greeter)).observer(log).default_service_config(config);
    (builder.build().unwrap(), entries, greeter)
}

/// The kinds of entries, by their names in gRPC.
fn kinds(entries: &[v1::Entry]) -> Vec<&'static str> {
    let name = |kind| match kind {
        1 => "client header",
        2 => "server header",
        3 => "client message",
        4 => "server message",
        5 => "half-close",
        6 => "trailer",
        7 => "cancel",
        _ => "?",
    };
    entries.iter().map(|entry| name(entry.kind)).collect()
}

const UNARY: [&str; 6] =
    ["client header", "client message", "half-close", "server header", "server message", "trailer"];

// spec: A16/entries
#[tokio::test]
async fn a_call_is_logged_from_its_header_to_its_trailer() {
    let (channel, entries, greeter) = logged("*", "{}");
    let mut request = ask("Ada").timeout(Duration::from_secs(100));
    request.metadata_mut().insert("echo", "one").unwrap();
    request.metadata_mut().append_bin("echo-bin", &[0, 255]).unwrap();
    channel.invoke(&SAY_HELLO, request).await.unwrap();
    let all = entries.take();
    assert_eq!(kinds(&all), UNARY);
    for (nth, entry) in all.iter().enumerate() {
        assert_eq!((entry.call_id, entry.logger), (1, 1));
        assert_eq!(entry.sequence_id_within_call, nth as u64 + 1);
        assert!(entry.timestamp.as_ref().unwrap().seconds > 1_700_000_000);
        assert!(!entry.payload_truncated);
    }
    let header = all[0].client_header.as_ref().unwrap();
    assert_eq!(header.method_name, "/helloworld.Greeter/SayHello");
    assert_eq!(header.authority, greeter[0].address().to_string());
    assert!((99..=100).contains(&header.timeout.as_ref().unwrap().seconds));
    let sent = &header.metadata.as_ref().unwrap().entry;
    let sent: Vec<_> = sent.iter().map(|it| (&it.key[..], &it.value[..])).collect();
    assert_eq!(sent, [("echo", &b"one"[..]), ("echo-bin", &[0, 255])]);
    let message = all[1].message.as_ref().unwrap();
    assert_eq!((message.length, &message.data), (5, &hello("Ada").encode_to_vec()));
    let peer = all[3].peer.as_ref().unwrap();
    assert_eq!((peer.kind, &peer.text[..]), (1, "127.0.0.1"));
    assert_eq!(peer.ip_port, u32::from(greeter[0].address().port()));
    let trailer = all[5].trailer.as_ref().unwrap();
    assert_eq!((trailer.status_code, &trailer.status_message[..]), (0, ""));

    // The second call, which the server refuses with trailers alone.
    channel.invoke(&SAY_HELLO, ask("fail:5:no")).await.unwrap_err();
    let all = entries.take();
    assert_eq!(kinds(&all), ["client header", "client message", "half-close", "trailer"]);
    let end = &all[3];
    assert_eq!((end.call_id, end.sequence_id_within_call), (2, 4));
    assert!(end.peer.is_some());
    let trailer = end.trailer.as_ref().unwrap();
    assert_eq!((trailer.status_code, &trailer.status_message[..]), (5, "no"));
    let reason = trailer.metadata.as_ref().unwrap().entry.iter().find(|it| it.key == "reason");
    assert_eq!(reason.unwrap().value, b"asked-for");
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn secrets_are_sent_and_not_logged() {
    let (greeter, entries) = (Greeter::start(), Entries::default());
    let log = BinaryLog::new("*", entries.clone()).unwrap();
    let token = BearerToken::new("s3cret").unwrap().min_security_level(SecurityLevel::None);
    let builder = Channel::builder(target_of([&greeter])).observer(log);
    let credentials = Credentials::insecure().with_call_credentials(token);
    let channel = builder.credentials(credentials).build().unwrap();
    let mut request = ask("Ada").credentials(Echoed);
    for (key, value) in [("cookie", "id=s3cret"), ("tenant", "s3cret"), ("echo", "application")] {
        request.metadata_mut().insert(key, value).unwrap();
    }
    request.metadata_mut().mark_sensitive("tenant");
    assert!(!format!("{request:?}").contains("s3cret"), "{request:?}");
    let reply = channel.invoke(&SAY_HELLO, request).await.unwrap();
    let echoed: Vec<_> = reply.metadata().get_all("echo").collect();
    assert_eq!(echoed, ["s3cret of one's own", "application"]);
    let all = entries.take();
    let sent = &all[0].client_header.as_ref().unwrap().metadata.as_ref().unwrap().entry;
    let sent: Vec<_> = sent.iter().map(|it| (&it.key[..], &it.value[..])).collect();
    assert_eq!(sent, [("echo", &b"application"[..])]);
    close_without_leaks(channel, &[greeter]).await;
}

/// Credentials of one's own, which the greeter sends back.
struct Echoed;

impl CallCredentials for Echoed {
    fn metadata<'a>(&'a self, _: &'a CallContext<'_>) -> BoxFuture<'a, Result<Metadata, Status>> {
        let mut metadata = Metadata::new();
        metadata.insert("echo", "s3cret of one's own").unwrap();
        Box::pin(std::future::ready(Ok(metadata)))
    }

    fn min_security_level(&self) -> SecurityLevel {
        SecurityLevel::None
    }
}

// spec: A16/committed-attempt
#[tokio::test]
async fn a_call_that_is_attempted_twice_is_logged_once_and_one_that_is_given_up_as_cancelled() {
    let retries = r#"{"methodConfig":[{"name":[{}],"retryPolicy":{"maxAttempts":2,
        "initialBackoff":"0.001s","maxBackoff":"1s","backoffMultiplier":1,
        "retryableStatusCodes":["UNAVAILABLE"]}}]}"#;
    let (channel, entries, greeter) = logged("*", retries);
    channel.invoke(&SAY_HELLO, ask(FLAKY)).await.unwrap();
    assert_eq!(kinds(&entries.take()), UNARY);
    let mut stream = channel.new_stream(&BIDI_HELLO, CallOptions::new()).await.unwrap();
    stream.send(hello("Ada")).await.unwrap();
    stream.recv().await.unwrap();
    stream.cancel();
    drop(stream);
    assert_eq!(
        kinds(&entries.take()),
        ["client header", "client message", "server header", "server message", "cancel"]
    );
    close_without_leaks(channel, &greeter).await;
}

// spec: A16/truncation
#[tokio::test]
async fn a_filter_says_what_is_logged_and_how_much_of_it() {
    let filter = "helloworld.Greeter/*{h:9;m:3},-helloworld.Greeter/BidiHello";
    let (channel, entries, greeter) = logged(filter, "{}");
    drop(channel.new_stream(&BIDI_HELLO, CallOptions::new()).await.unwrap());
    assert!(entries.take().is_empty());
    let mut request = ask("Ada");
    for (key, value) in [("short", "1234"), ("longer", "than that"), ("more", "4")] {
        request.metadata_mut().insert(key, value).unwrap();
    }
    channel.invoke(&SAY_HELLO, request).await.unwrap();
    let all = entries.take();
    assert_eq!(kinds(&all), UNARY);
    let truncated: Vec<_> = all.iter().map(|it| it.payload_truncated).collect();
    assert_eq!(truncated[..3], [true, true, false]);
    let metadata = all[0].client_header.as_ref().unwrap().metadata.as_ref().unwrap();
    let keys: Vec<_> = metadata.entry.iter().map(|it| &it.key[..]).collect();
    assert_eq!(keys, ["short"]);
    let message = all[1].message.as_ref().unwrap();
    assert_eq!((message.length, message.data.len()), (5, 3));
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn a_file_has_each_entry_behind_its_length() {
    let path = std::env::temp_dir().join(format!("switchboard-{}.binlog", std::process::id()));
    let greeter = [Greeter::start()];
    let log = BinaryLog::new("*", FileSink::create(&path).unwrap()).unwrap();
    let channel = plaintext(target_of(&greeter)).observer(log).build().unwrap();
    for _ in 0..20 {
        channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    }
    // All is written once the channel, and with it the log, is gone.
    close_without_leaks(channel, &greeter).await;
    let file = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let (mut rest, mut entries) = (&file[..], Vec::new());
    while let Some((length, more)) = rest.split_first_chunk::<4>() {
        let (entry, more) = more.split_at(u32::from_be_bytes(*length) as usize);
        entries.push(v1::Entry::decode(entry).unwrap());
        rest = more;
    }
    assert!(rest.is_empty());
    assert_eq!(kinds(&entries), UNARY.repeat(20));
    let missing = FileSink::create("/nowhere/at/all").unwrap_err();
    assert_eq!(missing.kind(), std::io::ErrorKind::NotFound);
}

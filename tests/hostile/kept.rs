//! Servers that make a channel keep what nobody reads, by all means that HTTP/2 has, and that know
//! how it is counted. What all this takes in memory is bounded, and other calls go on.

use std::cmp::Ordering::{Equal, Greater, Less};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use switchboard::{CallOptions, Channel, Code, Streaming};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::frames::*;
use crate::memory;
use crate::script::{ALONE, Heard, listen};
use crate::support::greeter::{HelloReply, HelloRequest, LOTS_OF_REPLIES, SAY_HELLO, ask, hello};
use crate::support::{plaintext, until};

/// A way to make a channel keep something.
#[derive(Clone, Copy)]
struct Row {
    name: &'static str,
    /// How many calls there are that nobody reads.
    calls: usize,
    /// What each of them is answered with first, and whether that much is read.
    begins: (fn(u32) -> Vec<u8>, bool),
    /// What comes for each of them then, in turn, and how often.
    flood: fn(u32) -> Vec<u8>,
    times: usize,
}

const ROW: Row =
    Row { name: "", calls: 100, begins: (|_| Vec::new(), false), flood: |_| Vec::new(), times: 90 };

#[tokio::test]
async fn what_nobody_reads_takes_no_more_memory_than_the_channel_allows() {
    let rows = [
        Row { name: "informational heads", flood: |id| early(id, &"x".repeat(4_000)), ..ROW },
        Row {
            name: "small informational heads with a buffer each",
            flood: |id| [early(id, "x"), filler()].concat(),
            ..ROW
        },
        Row { name: "informational heads that expand", flood: |id| expanding(id, 0, "103"), ..ROW },
        Row {
            name: "heads that expand",
            calls: 400,
            flood: |id| expanding(id, 0, "200"),
            times: 1,
            ..ROW
        },
        Row {
            name: "trailers that expand",
            calls: 400,
            begins: (head, false),
            flood: |id| expanding(id, END_STREAM, ""),
            times: 1,
        },
        Row {
            name: "trailers that expand, behind a message that was read",
            calls: 400,
            begins: (|id| [head(id), data(id, 0, &greeting())].concat(), true),
            flood: |id| expanding(id, END_STREAM, ""),
            times: 1,
        },
        Row { name: "heads that come in pieces", calls: 2_000, flood: in_pieces, times: 1, ..ROW },
        Row {
            name: "bytes",
            calls: 400,
            begins: (head, false),
            flood: |id| data(id, 0, &[0]),
            times: 100,
        },
        Row {
            name: "bytes with a buffer each",
            calls: 400,
            begins: (head, false),
            flood: |id| [data(id, 0, &[0]), filler()].concat(),
            times: 10,
        },
        Row {
            name: "bytes with padding",
            calls: 40,
            begins: (head, false),
            flood: |id| data(id, PADDED, &[&[255, 0][..], &[0; 255]].concat()),
            times: 1_000,
        },
        Row {
            name: "bytes behind a message that was read",
            calls: 40,
            begins: (|id| [head(id), data(id, 0, &greeting())].concat(), true),
            flood: |id| data(id, 0, &[0]),
            times: 1_000,
        },
        Row {
            name: "bytes of pages",
            calls: 40,
            begins: (page, false),
            flood: |id| data(id, 0, b"y"),
            times: 1_000,
        },
        Row {
            name: "pages",
            calls: 40,
            begins: (page, false),
            // First so many small frames that they are gathered.
            flood: |id| [data(id, 0, b"y").repeat(150), data(id, 0, &[b'y'; 10_000])].concat(),
            times: 100,
        },
        Row {
            name: "large messages",
            calls: 40,
            begins: (head, false),
            flood: |id| data(id, 0, &[0; 10_000]),
            times: 100,
        },
    ];
    let _alone = ALONE.lock().await;
    let mut wrong = Vec::new();
    for row in rows {
        let used = flooded(row).await;
        if used > USED_MAX {
            wrong.push(format!("{}: {used} bytes were in use", row.name));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// The most that was in use while `row` was played.
async fn flooded(row: Row) -> usize {
    let ids = || (0..row.calls).map(number);
    let turn: Arc<[u8]> = ids().flat_map(row.flood).collect();
    let last = number(row.calls);
    let address = server(move |id| match id.cmp(&last) {
        Less => vec![((row.begins.0)(id).into(), 1)],
        Equal => vec![(turn.clone(), row.times), (good(id).into(), 1)],
        Greater => vec![(good(id).into(), 1)],
    });
    let channel = plaintext(address.await.to_string()).max_receive_buffer_bytes(LIMIT);
    let channel = channel.build().unwrap();
    let mut unread = Vec::new();
    for _ in 0..row.calls {
        let mut stream = begin(&channel).await;
        if row.begins.1 {
            stream.recv().await.unwrap().unwrap();
        }
        unread.push(stream);
    }
    let before = memory::begin();
    // This is answered behind the flood, and the next one is served all the same.
    for _ in 0..2 {
        let outcome = channel.invoke(&SAY_HELLO, ask("Ada").timeout(PATIENCE)).await;
        assert!(outcome.is_ok(), "{}: {outcome:?}", row.name);
    }
    let used = memory::peak() - before;
    drop(unread);
    channel.close().await;
    used
}

#[tokio::test]
async fn calls_that_are_over_and_nobody_reads_are_counted_on() {
    let _alone = ALONE.lock().await;
    let text = [&[0x0a, 0x86, 0x4e][..], &[b'x'; 9_990]].concat();
    let large = message(0, u32::try_from(text.len()).unwrap(), &text);
    let resets = Arc::new(AtomicUsize::new(0));
    let heard = resets.clone();
    let is_trigger = |id: u32| (id / 2 + 1).is_multiple_of(BATCH + 1);
    let address = server_that_hears(
        move |id| {
            let bulk = [head(id), data(id, 0, &large).repeat(18)].concat();
            vec![(if is_trigger(id) { good(id) } else { bulk }.into(), 1)]
        },
        move |_| {
            heard.fetch_add(1, Ordering::Relaxed);
        },
    );
    let channel = plaintext(address.await.to_string()).max_receive_buffer_bytes(LIMIT);
    let channel = channel.build().unwrap();
    let mut unread = Vec::new();
    let before = memory::begin();
    for batch in 1..=10 {
        for _ in 0..BATCH {
            let options = CallOptions::new().timeout(Duration::from_millis(200));
            let mut stream = channel.new_stream(&LOTS_OF_REPLIES, options).await.unwrap();
            stream.send(hello("Ada")).await.unwrap();
            stream.close_send();
            unread.push(stream);
        }
        channel.invoke(&SAY_HELLO, ask("Ada").timeout(PATIENCE)).await.unwrap();
        let over = batch * BATCH as usize;
        until("all are over", async || resets.load(Ordering::Relaxed) >= over).await;
    }
    let used = memory::peak() - before;
    assert!(used < USED_MAX, "{used} bytes are in use");
    for stream in &mut unread {
        let status = loop {
            // What has not been given up is still to be had.
            match stream.recv().await {
                Ok(message) => assert!(message.is_some()),
                Err(status) => break status,
            }
        };
        // One that has most unread may be ended before its deadline.
        let codes = [Code::DEADLINE_EXCEEDED, Code::RESOURCE_EXHAUSTED];
        assert!(codes.contains(&status.code()), "{status}");
    }
    channel.close().await;
}

/// As many calls as have nearly as much as may be unread.
const BATCH: u32 = 20;

#[tokio::test]
async fn frames_of_a_byte_that_nobody_reads_take_little_more_than_they_are() {
    let _alone = ALONE.lock().await;
    let messages = 44_500;
    let one: Vec<u8> = greeting().iter().flat_map(|byte| data(1, 0, &[*byte])).collect();
    let many: Arc<[u8]> = one.repeat(100).into();
    let frames = messages * greeting().len();
    let address = server(move |id| match id {
        1 => vec![(head(1).into(), 1)],
        3 => vec![(many.clone(), messages / 100), (good(3).into(), 1)],
        _ => vec![(trailers(1, &[("grpc-status", "0")]).into(), 1), (good(id).into(), 1)],
    });
    let channel = plaintext(address.await.to_string()).build().unwrap();
    let mut unread = begin(&channel).await;
    unread.header().await.unwrap();
    let before = memory::begin();
    channel.invoke(&SAY_HELLO, ask("Ada").timeout(PATIENCE)).await.unwrap();
    let used = memory::peak() - before;
    assert!(used < SMALL_FRAMES_MAX, "{used} bytes are in use for {frames}");
    channel.invoke(&SAY_HELLO, ask("Ada").timeout(PATIENCE)).await.unwrap();
    for nth in 0..messages {
        let reply = unread.recv().await.unwrap();
        assert_eq!(reply.unwrap().message, "Hi", "message {nth}");
    }
    assert!(unread.recv().await.unwrap().is_none());
    channel.close().await;
}

#[tokio::test]
async fn a_message_that_is_announced_and_does_not_come_takes_no_memory() {
    let _alone = ALONE.lock().await;
    let calls = 5_000;
    let mut used = Vec::new();
    for begins in [head, |id| [head(id), data(id, 0, &message(0, 4 << 20, &[]))].concat()] {
        let begins: fn(u32) -> Vec<u8> = begins;
        let last = number(calls);
        let address =
            server(move |id| vec![(if id < last { begins(id) } else { good(id) }.into(), 1)]);
        let channel = plaintext(address.await.to_string()).build().unwrap();
        let mut waiting = JoinSet::new();
        let before = memory::live();
        for _ in 0..calls {
            let mut stream = begin(&channel).await;
            waiting.spawn(async move { stream.recv().await });
        }
        channel.invoke(&SAY_HELLO, ask("Ada").timeout(PATIENCE)).await.unwrap();
        // All that the answer came behind has been read, and each call has had its turn.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        used.push(memory::live() - before);
        waiting.shutdown().await;
        channel.close().await;
    }
    let [without, with] = used[..] else { panic!("{used:?}") };
    let each = with.saturating_sub(without) / calls;
    assert!(each < ANNOUNCED_MAX, "{each} bytes a call");
}

/// What this side has to answer is kept while the server reads nothing.
#[tokio::test]
async fn a_server_that_never_reads_cannot_pile_up_what_it_is_answered() {
    type Flood = fn(usize) -> Vec<u8>;
    let floods: [(&str, Flood); 6] = [
        ("PING", |_| frame(PING, 0, 0, &[7; 8])),
        ("SETTINGS", |_| frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])),
        ("PING and SETTINGS", |_| [frame(PING, 0, 0, &[7; 8]), settings()].concat()),
        ("broken HEADERS", |nth| headers(number(nth % 100), 0, &[("UPPER", "x")])),
        ("DATA for calls that are over", |nth| data(number(nth % 100), 0, &[0; 100])),
        ("WINDOW_UPDATE that overflows", |nth| window_update(number(nth % 100), 0x7fff_ffff)),
    ];
    let _alone = ALONE.lock().await;
    let mut wrong = Vec::new();
    for (name, flood) in floods {
        let piece: Vec<u8> = (0..1_000).flat_map(flood).collect();
        let written = Arc::new(AtomicUsize::new(0));
        let address = flooder(piece, written.clone()).await;
        let channel = plaintext(address.to_string()).build().unwrap();
        let mut calls = JoinSet::new();
        let before = memory::begin();
        for _ in 0..100 {
            let channel = channel.clone();
            let ask = ask("Ada").timeout(Duration::from_millis(500));
            calls.spawn(async move { channel.invoke(&SAY_HELLO, ask).await });
        }
        while let Some(outcome) = calls.join_next().await {
            let status = outcome.unwrap().unwrap_err();
            let codes = [Code::DEADLINE_EXCEEDED, Code::UNAVAILABLE, Code::INTERNAL];
            assert!(codes.contains(&status.code()), "{name}: {status}");
        }
        let (used, written) = (memory::peak() - before, written.load(Ordering::Relaxed));
        assert!(written > 0, "{name}");
        if used > NEVER_READ_MAX {
            wrong.push(format!("{name}: {used} bytes were in use for {written} written"));
        }
        channel.close().await;
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// The stream of the call that is begun so many calls after the first.
fn number(nth: usize) -> u32 {
    u32::try_from(2 * nth + 1).unwrap()
}

/// Informational headers.
fn early(id: u32, link: &str) -> Vec<u8> {
    headers(id, 0, &[(":status", "103"), ("link", link)])
}

/// The beginning of a response that is not of gRPC.
fn page(id: u32) -> Vec<u8> {
    headers(id, 0, &[(":status", "502"), ("content-type", "text/html")])
}

/// Fields of which each is a byte, that refer to one in the table. Within the limit of 64 KiB, as
/// HTTP/2 counts them.
fn expanding(id: u32, flags: u8, status: &str) -> Vec<u8> {
    let first = if status.is_empty() { Vec::new() } else { block(&[(":status", status)]) };
    let literal = [0x40, 1, b'k', 1, b'v'];
    let fields = [&first[..], &literal, &[0xbe; 1_800]].concat();
    frame(HEADERS, flags | END_HEADERS, id, &fields)
}

/// A head of 1,000 fields in as many frames.
fn in_pieces(id: u32) -> Vec<u8> {
    let piece = frame(CONTINUATION, 0, id, &block(&[("k", "v")]));
    let end = frame(CONTINUATION, END_HEADERS, id, &block(&[("k", &"v".repeat(10_000))]));
    [frame(HEADERS, 0, id, &block(GRPC)), piece.repeat(3), end].concat()
}

/// Of a kind that is ignored, and as large as what the client reads at a time.
fn filler() -> Vec<u8> {
    frame(200, 0, 0, &[0; 8 * 1024])
}

/// Begins a call.
async fn begin(channel: &Channel) -> Streaming<HelloRequest, HelloReply> {
    let mut stream = channel.new_stream(&LOTS_OF_REPLIES, CallOptions::new()).await.unwrap();
    stream.send(hello("Ada")).await.unwrap();
    stream.close_send();
    stream
}

/// What a call is answered with: each piece so often.
type Pieces = Vec<(Arc<[u8]>, usize)>;

/// A server that answers calls by their streams.
async fn server(answer: impl Fn(u32) -> Pieces + Send + Sync + 'static) -> SocketAddr {
    server_that_hears(answer, |_| ()).await
}

/// As [`server`], and tells which calls are reset.
async fn server_that_hears(
    answer: impl Fn(u32) -> Pieces + Send + Sync + 'static,
    reset: impl Fn(u32) + Send + Sync + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            serve(stream, &answer, &reset).await;
        }
    });
    address
}

/// How a connection ends is up to the client.
async fn serve(
    stream: TcpStream,
    answer: &(impl Fn(u32) -> Pieces + Sync),
    reset: &(impl Fn(u32) + Sync),
) -> Option<()> {
    let (read, mut write) = stream.into_split();
    let (tell, mut heard) = mpsc::unbounded_channel();
    tokio::spawn(listen(read, tell));
    write.write_all(&settings()).await.ok()?;
    while let Some(heard) = heard.recv().await {
        let pieces = match heard {
            Heard::Settings => vec![(frame(SETTINGS, ACK, 0, &[]).into(), 1)],
            Heard::Ping(payload) => vec![(frame(PING, ACK, 0, &payload).into(), 1)],
            Heard::Request(id) => answer(id),
            Heard::Reset(id) => {
                reset(id);
                continue;
            }
        };
        for (piece, times) in pieces {
            for _ in 0..times {
                write.write_all(&piece).await.ok()?;
            }
        }
    }
    None
}

/// A server that sends `piece` again and again, and reads nothing beside that.
async fn flooder(piece: Vec<u8>, written: Arc<AtomicUsize>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (piece, written) = (piece.clone(), written.clone());
            tokio::spawn(async move {
                let opening = [settings(), frame(SETTINGS, ACK, 0, &[])].concat();
                stream.write_all(&opening).await.ok()?;
                // Once the calls are under way.
                stream.readable().await.ok()?;
                while written.load(Ordering::Relaxed) < FLOOD_MAX {
                    stream.write_all(&piece).await.ok()?;
                    written.fetch_add(piece.len(), Ordering::Relaxed);
                }
                std::future::pending::<Option<()>>().await
            });
        }
    });
    address
}

/// What may be unread on a channel.
const LIMIT: usize = 4 * 1024 * 1024;

/// Beside what may be unread, what comes in one turn of the connection and has not been looked at,
/// and buffers. As measured, rows take up to 1.5 times the limit.
const USED_MAX: usize = 2 * LIMIT;

/// For 400,500 frames: what comes in one turn of the connection, which is a MiB as it is counted, what
/// it reads ahead, and the bytes, twice while they are gathered. As measured it is 3.2 MB. One by one
/// the frames take 133 MB.
const SMALL_FRAMES_MAX: usize = 6 * 1024 * 1024;

/// What a message that does not come may take. Its beginning has a buffer to itself.
const ANNOUNCED_MAX: usize = 1024;

/// What a hundred calls take, and buffers. As measured it is 0.5 MB.
const NEVER_READ_MAX: usize = 1024 * 1024;

/// So much is enough for any flood to show.
const FLOOD_MAX: usize = 64 * 1024 * 1024;

const PATIENCE: Duration = Duration::from_secs(20);

//! Servers that freeze, and servers that are asked too often, on a paused clock.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use switchboard::memory::MemoryNetwork;
use switchboard::{Address, CallOptions, Code, ConnectivityState, KeepaliveConfig, ManualResolver};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::time::Instant;

use crate::support::greeter::{BIDI_HELLO, SAY_HELLO, ask};
use crate::support::mini::answer_all;
use crate::support::{no_leaks, plaintext, until_state};

const KEEPALIVE: KeepaliveConfig = KeepaliveConfig {
    time: Duration::from_secs(10),
    timeout: Duration::from_secs(1),
    permit_without_stream: false,
};

/// Answers the first call, and from then on nothing at all.
async fn answer_once_and_freeze(stream: DuplexStream) {
    let (near, far) = tokio::io::duplex(1 << 16);
    let answering = tokio::spawn(answer_all(far, |_| ()));
    let (mut client_read, mut client_write) = tokio::io::split(stream);
    let (mut server_read, mut server_write) = tokio::io::split(near);
    let requests =
        tokio::spawn(async move { tokio::io::copy(&mut client_read, &mut server_write).await });
    // Up to the trailers of the first call: SETTINGS and its acknowledgement come before.
    let mut frames = 0;
    while frames < 3 {
        let mut header = [0; 9];
        server_read.read_exact(&mut header).await.unwrap();
        let len = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        let mut payload = vec![0; len];
        server_read.read_exact(&mut payload).await.unwrap();
        client_write.write_all(&header).await.unwrap();
        client_write.write_all(&payload).await.unwrap();
        let of_stream = header[8] != 0 && matches!(header[3], 0 | 1);
        frames += usize::from(of_stream);
    }
    requests.abort();
    answering.abort();
    // Open, and silent. The client's end of it is what ends this.
    let mut unread = client_write;
    let _ = unread.flush().await;
    std::future::pending::<()>().await;
}

// spec: A8/keepalive
#[tokio::test(start_paused = true)]
async fn calls_leave_a_server_that_freezes_and_the_inspection_says_why() {
    let network = MemoryNetwork::new();
    let (mut one, mut two) = (network.listen("one:1"), network.listen("two:1"));
    let servers = tokio::spawn(async move {
        let mut tasks = tokio::task::JoinSet::new();
        let frozen = one.accept().await.unwrap();
        tasks.spawn(answer_once_and_freeze(frozen));
        let healthy = two.accept().await.unwrap();
        drop(one);
        tasks.spawn(async move {
            let _ = answer_all(healthy, |_| ()).await;
        });
        std::future::pending::<()>().await;
    });
    let names = ManualResolver::new();
    names.set(["one:1", "two:1"].map(|name| Address::Name(name.into()).into()));
    let channel = plaintext("manual:greeter")
        .resolver("manual", names)
        .connector(network.connector())
        .keepalive(KEEPALIVE)
        .build()
        .unwrap();
    let reply = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    assert_eq!(reply.peer().to_string(), "one:1");
    let since = Instant::now();
    let status = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
    assert_eq!(since.elapsed().as_secs(), 11);
    assert_eq!(status.code(), Code::UNAVAILABLE);
    let why = "one:1: keepalive: the server has not answered a PING within 1s";
    assert!(status.message().contains(why), "{status}");
    let reply = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    assert_eq!(reply.peer().to_string(), "two:1");
    let inspection = channel.inspect().await.to_string();
    assert!(inspection.contains(&format!("ms ago: {why}")), "{inspection}");
    channel.close().await;
    drop(channel);
    servers.abort();
    no_leaks(&[]).await;
}

/// Says SETTINGS, then `too_many_pings` at the first PING; gives how long that took to come.
async fn complain(mut stream: DuplexStream) -> Duration {
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await.unwrap();
    stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    let mut since = Instant::now();
    loop {
        let mut header = [0; 9];
        stream.read_exact(&mut header).await.unwrap();
        let len = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        let mut payload = vec![0; len];
        stream.read_exact(&mut payload).await.unwrap();
        match header[3] {
            // SETTINGS of the client are taken on: the last thing that it hears.
            4 if header[4] == 0 => {
                stream.write_all(&[0, 0, 0, 4, 1, 0, 0, 0, 0]).await.unwrap();
                since = Instant::now();
            }
            6 => break,
            _ => {}
        }
    }
    let took = since.elapsed();
    let text = b"too_many_pings";
    let mut goaway = vec![0, 0, 8 + 14, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 11];
    goaway.extend(text);
    stream.write_all(&goaway).await.unwrap();
    let _ = stream.read(&mut [0; 64]).await;
    took
}

// spec: A8/too-many-pings
#[tokio::test(start_paused = true)]
async fn a_server_that_is_asked_too_often_makes_the_whole_channel_ask_half_as_often() {
    let (connector, mut listener) = switchboard::memory::pipe();
    let channel = plaintext("passthrough:server")
        .connector(connector)
        .keepalive(KeepaliveConfig { permit_without_stream: true, ..KEEPALIVE })
        .build()
        .unwrap();
    let mut times = Vec::new();
    for _ in 0..3 {
        channel.connect();
        let stream = listener.accept().await.unwrap();
        times.push(complain(stream).await.as_secs());
        until_state(&channel, ConnectivityState::Idle).await;
    }
    assert_eq!(times, [10, 20, 40]);
    channel.close().await;
    drop(channel);
    no_leaks(&[]).await;
}

/// Serves calls, and notes when a PING comes.
async fn note_pings(stream: DuplexStream, pings: Arc<Mutex<Vec<u64>>>, since: Instant) {
    let (near, far) = tokio::io::duplex(1 << 16);
    let answering = tokio::spawn(answer_all(far, |_| ()));
    let (mut client_read, mut client_write) = tokio::io::split(stream);
    let (mut server_read, mut server_write) = tokio::io::split(near);
    let answers =
        tokio::spawn(async move { tokio::io::copy(&mut server_read, &mut client_write).await });
    let mut preface = [0; 24];
    client_read.read_exact(&mut preface).await.unwrap();
    server_write.write_all(&preface).await.unwrap();
    let mut header = [0; 9];
    while client_read.read_exact(&mut header).await.is_ok() {
        let len = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        let mut payload = vec![0; len];
        client_read.read_exact(&mut payload).await.unwrap();
        // Not the answer to one.
        if header[3] == 6 && header[4] == 0 {
            pings.lock().unwrap().push(since.elapsed().as_secs());
        }
        if server_write.write_all(&[&header[..], &payload].concat()).await.is_err() {
            break;
        }
    }
    answers.abort();
    answering.abort();
}

// spec: A8/without-calls
#[tokio::test(start_paused = true)]
async fn a_server_is_asked_while_calls_are_open_and_without_them_only_where_that_is_permitted() {
    for permitted in [false, true] {
        let (connector, mut listener) = switchboard::memory::pipe();
        let pings: Arc<Mutex<Vec<u64>>> = Arc::default();
        let (noted, since) = (pings.clone(), Instant::now());
        let server = tokio::spawn(async move {
            let stream = listener.accept().await.unwrap();
            note_pings(stream, noted, since).await;
        });
        let channel = plaintext("passthrough:server")
            .connector(connector)
            .receive_windows(1 << 16, 1 << 20)
            .keepalive(KeepaliveConfig { permit_without_stream: permitted, ..KEEPALIVE })
            .build()
            .unwrap();
        channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
        tokio::time::sleep(Duration::from_secs(35)).await;
        let asked = std::mem::take(&mut *pings.lock().unwrap());
        assert_eq!(asked.len(), if permitted { 3 } else { 0 }, "{asked:?}");
        // A stream that nobody answers.
        let stream = channel.new_stream(&BIDI_HELLO, CallOptions::new()).await.unwrap();
        tokio::time::sleep(Duration::from_secs(35)).await;
        let asked = std::mem::take(&mut *pings.lock().unwrap());
        assert!((3..=4).contains(&asked.len()), "{asked:?}");
        drop(stream);
        channel.close().await;
        server.await.unwrap();
    }
}

//! Connections that are asked whether they live, and windows that grow.

use super::peer::{INITIAL_WINDOW_SIZE, PING, SETTINGS, WINDOW_UPDATE};
use super::*;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};

fn keeping_alive(permit_without_stream: bool) -> ConnectionOptions {
    let keepalive = KeepaliveConfig {
        time: Duration::from_secs(10),
        timeout: Duration::from_secs(1),
        permit_without_stream,
    };
    ConnectionOptions { keepalive: Some(keepalive), ..ConnectionOptions::default() }
}

#[tokio::test(start_paused = true)]
async fn a_frozen_server_is_given_up_after_time_and_timeout() {
    let (client, mut peer) = connected_with(&[], &keeping_alive(false)).await;
    let since = Instant::now();
    let mut stream = client.call(b"x").await.unwrap();
    peer.next_of(PING).await.unwrap();
    assert_eq!(since.elapsed().as_secs(), 10);
    let failure = std::future::poll_fn(|cx| stream.recv.poll_headers(cx)).await.unwrap_err();
    assert_eq!(since.elapsed().as_secs(), 11);
    let expected = "server:1: keepalive: the server has not answered a PING within 1s";
    assert_eq!(failure.to_string(), expected);
    let (ended, told) = client.ended().await;
    assert_eq!((ended.to_string().as_str(), told), (expected, vec![expected.to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_answers_lives_on_and_shows_how_far_it_is() {
    let (client, mut peer) = connected_with(&[], &keeping_alive(false)).await;
    let since = Instant::now();
    let _stream = client.open().await.unwrap();
    for round in 1..=3 {
        let ping = peer.next_of(PING).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        peer.pong(&ping).await;
        settle().await;
        assert_eq!(client.connection.report().round_trip, Some(Duration::from_millis(300)));
        // The next one ten seconds after the answer.
        assert_eq!(since.elapsed().as_millis(), round * 10_300);
    }
    // Anything that arrives will do for an answer, for as long as it arrives.
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_secs(9)).await;
        peer.window_update(0, 1).await;
        settle().await;
    }
    assert!(client.connection.is_usable());
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_calls_is_left_alone_until_there_is_one() {
    let (client, mut peer) = connected_with(&[], &keeping_alive(false)).await;
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    assert!(client.connection.is_usable());
    let since = Instant::now();
    let _stream = client.open().await.unwrap();
    peer.next_of(PING).await.unwrap();
    assert_eq!(since.elapsed(), Duration::ZERO, "it has been silent for long enough");

    let (client, mut peer) = connected_with(&[], &keeping_alive(true)).await;
    let since = Instant::now();
    peer.next_of(PING).await.unwrap();
    assert_eq!(since.elapsed().as_secs(), 10);
    let (ended, _) = client.ended().await;
    assert!(ended.to_string().contains("keepalive"), "{ended}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_the_channels_own_is_no_call_that_keeps_a_connection_asked() {
    let (client, mut peer) = connected_with(&[], &keeping_alive(false)).await;
    let path = path();
    let head = RequestHead {
        path: &path,
        authority: None,
        content_type: "application/grpc",
        timeout: None,
        encoding: None,
        accepted: None,
        metadata: None,
    };
    let own = client.connection.open_aside(&head, message(b"x")).await.unwrap();
    let since = Instant::now();
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    assert!(client.connection.is_usable());
    assert_eq!((client.connection.open_streams(), client.connection.unused_since()), (0, None));
    assert_eq!(client.connection.report().streams, 0);
    let call = client.open().await.unwrap();
    peer.next_of(PING).await.unwrap();
    assert_eq!(since.elapsed().as_secs(), 3_600, "no earlier than for the call");
    drop(call);
    let unused_since = client.connection.unused_since();
    assert_eq!(unused_since, Some(Instant::now()));
    drop(own);
    assert_eq!(client.connection.unused_since(), unused_since);
}

/// A stream of bytes whose other end is `io`, half a round trip away.
fn far_away(io: DuplexStream, half_round_trip: Duration) -> DuplexStream {
    let (near, far) = tokio::io::duplex(1 << 16);
    let (near_read, near_write) = tokio::io::split(far);
    let (far_read, far_write) = tokio::io::split(io);
    tokio::spawn(carry(near_read, far_write, half_round_trip));
    tokio::spawn(carry(far_read, near_write, half_round_trip));
    near
}

/// Carries bytes over; however many are on their way, each takes `delay`.
async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin + Send + 'static,
    delay: Duration,
) {
    let (leaving, mut arriving) = tokio::sync::mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    tokio::spawn(async move {
        while let Some((at, bytes)) = arriving.recv().await {
            tokio::time::sleep_until(at).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    let mut bytes = [0; 16_384];
    while let Ok(len @ 1..) = from.read(&mut bytes).await {
        if leaving.send((Instant::now() + delay, bytes[..len].to_vec())).is_err() {
            return;
        }
    }
}

/// How long a server 50 ms away needs for a message, and to which windows the client grew.
async fn transfer(payload_len: usize, adaptive_windows: bool) -> (Duration, Vec<u32>) {
    const WINDOW: u32 = 256 * 1024;
    let options = ConnectionOptions {
        adaptive_windows,
        initial_stream_window: WINDOW,
        initial_connection_window: WINDOW,
        ..ConnectionOptions::default()
    };
    let (connector, mut listener) = memory::pipe();
    let (dialled, mut peer) = tokio::join!(dial_with(&connector, &options), async {
        let io = far_away(listener.accept().await.unwrap(), Duration::from_millis(25));
        let mut peer = Peer::new(io).await;
        peer.settings(&[]).await;
        peer.acknowledge_settings().await;
        peer
    });
    let client = Client::spawn(dialled.unwrap());
    let mut stream = client.call(b"x").await.unwrap();
    let id = peer.request().await;
    peer.ok_headers(id).await;
    let since = Instant::now();
    let reading = tokio::spawn(async move {
        std::future::poll_fn(|cx| stream.recv.poll_headers(cx)).await.unwrap();
        let message = std::future::poll_fn(|cx| stream.recv.poll_message(cx, 1 << 30)).await;
        message.unwrap().unwrap().payload.len()
    });
    let message = peer::framed(&vec![7; payload_len]);
    let (mut rest, mut grown) = (message.as_slice(), Vec::new());
    let (mut of_stream, mut of_connection) = (WINDOW as usize, WINDOW as usize);
    while !rest.is_empty() {
        let room = of_stream.min(of_connection).min(16_384);
        if room > 0 {
            let (now, later) = rest.split_at(rest.len().min(room));
            peer.data(id, 0, now).await;
            (of_stream, of_connection) = (of_stream - now.len(), of_connection - now.len());
            rest = later;
            continue;
        }
        let frame = peer.next_of_all().await.unwrap();
        let value = |at| u32::from_be_bytes(frame.payload[at..at + 4].try_into().unwrap());
        match frame.kind {
            PING => peer.pong(&frame).await,
            WINDOW_UPDATE if frame.stream == 0 => of_connection += value(0) as usize,
            WINDOW_UPDATE => of_stream += value(0) as usize,
            SETTINGS if frame.flags == 0 => {
                assert_eq!(frame.payload[..2], INITIAL_WINDOW_SIZE.to_be_bytes());
                of_stream += (value(2) - grown.last().unwrap_or(&WINDOW)) as usize;
                grown.push(value(2));
                peer.acknowledge_settings().await;
            }
            _ => {}
        }
    }
    assert_eq!(reading.await.unwrap(), payload_len);
    (since.elapsed(), grown)
}

#[tokio::test(start_paused = true)]
async fn windows_grow_where_a_round_trip_fills_them_and_not_where_they_are_fixed() {
    let payload_len = 32 << 20;
    let (fixed, grown) = transfer(payload_len, false).await;
    assert_eq!(grown, [] as [u32; 0]);
    let (adaptive, grown) = transfer(payload_len, true).await;
    assert!(grown.len() > 2 && grown.is_sorted(), "{grown:?}");
    // A fixed window lets as much through in each round trip; a growing one twice as much as before.
    assert!(fixed > 4 * adaptive, "{fixed:?} and {adaptive:?}");
}

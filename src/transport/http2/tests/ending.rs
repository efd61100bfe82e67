use crate::observe::ConnectionReport;
use crate::transport::error::DisconnectCause;
use crate::types::Seen;

use super::peer::*;
use super::*;

#[tokio::test(start_paused = true)]
async fn goaway_ends_only_the_streams_above_its_last() {
    let (client, mut peer) = connected(&[]).await;
    let mut below = client.call(b"1").await.unwrap();
    let mut above = client.call(b"2").await.unwrap();
    let last = peer.request().await;
    peer.request().await;
    peer.goaway(last, ENHANCE_YOUR_CALM, b"too_many_pings").await;
    let error = above.recv.headers().await.unwrap_err();
    assert_eq!(error.seen(), Seen::Refused);
    assert_eq!(
        error.to_string(),
        "server:1: GOAWAY ENHANCE_YOUR_CALM, debug data \"too_many_pings\"; the server has not \
         processed the request"
    );
    settle().await;
    assert_eq!(client.told().len(), 2);
    assert!(!client.driver.is_finished());
    peer.goaway(last, NO_ERROR, b"again").await;
    peer.answer(last, b"still here").await;
    assert!(below.recv.message(100).await.unwrap().is_ok());
    assert!(below.recv.trailers().await.unwrap().is_ok());
    let (_, told) = client.ended().await;
    assert_eq!(
        told,
        ["too many pings", "server:1: GOAWAY ENHANCE_YOUR_CALM, debug data \"too_many_pings\""]
    );
    // A farewell, and the end.
    assert_eq!(peer.next().await.unwrap().kind, GOAWAY);
    assert!(peer.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn goaway_without_streams_closes_at_once() {
    let (client, mut peer) = connected(&[]).await;
    peer.goaway(0, NO_ERROR, b"").await;
    let (ended, told) = client.ended().await;
    assert_eq!(ended.to_string(), "server:1: GOAWAY NO_ERROR");
    assert_eq!(told, [ended.to_string()]);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_breaks_after_goaway_tells_of_both() {
    let (client, mut peer) = connected(&[]).await;
    let mut stream = client.call(b"1").await.unwrap();
    let id = peer.request().await;
    peer.goaway(id, NO_ERROR, b"soon").await;
    settle().await;
    drop(peer);
    let error = stream.recv.headers().await.unwrap_err();
    let expected = "server:1: the server closed the connection; received before: GOAWAY NO_ERROR, \
                    debug data \"soon\"";
    assert_eq!(error.to_string(), expected);
    let (ended, told) = client.ended().await;
    assert!(matches!(ended.cause(), DisconnectCause::Goaway(_) | DisconnectCause::Lost(_)));
    assert_eq!(told.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_tells_what_was_sent_from_what_was_not() {
    // A peer that reads nothing more: what is sent backs up.
    let (client, mut peer) = connected(&[]).await;
    peer.window_update(0, 1 << 20).await;
    let mut sent = client.open().await.unwrap();
    peer.expect(HEADERS).await;
    peer.window_update(sent.handle.id(), 1 << 20).await;
    settle().await;
    sent.handle.send(message(&vec![0; 300_000]), false).unwrap();
    settle().await;
    let mut unsent = client.call(b"x").await.unwrap();
    settle().await;
    drop(peer);
    let lost = sent.recv.headers().await.unwrap_err();
    assert_eq!(lost.seen(), Seen::Maybe, "{lost}");
    let never = unsent.recv.headers().await.unwrap_err();
    assert_eq!(never.seen(), Seen::Never, "{never}");
    assert!(never.to_string().starts_with("server:1: "), "{never}");
    let (ended, told) = client.ended().await;
    assert!(matches!(ended.cause(), DisconnectCause::Lost(_)));
    assert_eq!(told, [ended.to_string()]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_breaks_the_protocol_loses_the_connection() {
    let (client, mut peer) = connected(&[]).await;
    let mut stream = client.call(b"x").await.unwrap();
    let id = peer.request().await;
    // Of a stream that the client has not opened.
    peer.data(id + 2, 0, b"x").await;
    let error = stream.recv.headers().await.unwrap_err();
    assert_eq!(error.seen(), Seen::Maybe);
    assert_eq!(peer.expect(GOAWAY).await.payload[4..8], [0, 0, 0, 1]);
    let (ended, told) = client.ended().await;
    assert!(ended.to_string().contains("broke the HTTP/2 protocol"));
    assert_eq!(told.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_server_breaks_of_a_drained_connection_is_not_this_sides_doing() {
    // A frame of a stream that is not open; a goodbye that takes back an earlier one.
    for takes_back in [false, true] {
        let (client, mut peer) = connected(&[]).await;
        let mut stream = client.call(b"x").await.unwrap();
        let id = peer.request().await;
        client.connection.drain();
        if takes_back {
            peer.goaway(id, NO_ERROR, b"").await;
            settle().await;
            peer.goaway(id + 2, NO_ERROR, b"").await;
        } else {
            peer.data(id + 2, 0, b"x").await;
        }
        let error = stream.recv.headers().await.unwrap_err();
        assert_eq!(error.seen(), Seen::Maybe, "{error}");
        assert!(error.to_string().contains("broke the HTTP/2 protocol"), "{error}");
        let (ended, _) = client.ended().await;
        assert!(ended.to_string().contains("broke the HTTP/2 protocol"), "{ended}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_drained_connection_closes_when_its_streams_have_ended() {
    let (client, mut peer) = connected(&[]).await;
    let mut stream = client.call(b"x").await.unwrap();
    let id = peer.request().await;
    client.connection.drain();
    client.connection.drain();
    assert!(!client.connection.is_usable());
    assert_eq!(client.call(b"y").await.unwrap_err().seen(), Seen::Never);
    settle().await;
    assert_eq!(client.told(), ["server:1: closed by this side"]);
    assert!(!client.driver.is_finished());
    peer.answer(id, b"").await;
    assert!(stream.recv.trailers().await.unwrap().is_ok());
    // The stream has ended, though it is still held.
    let (ended, told) = client.ended().await;
    assert_eq!(ended.cause(), &DisconnectCause::Local);
    assert_eq!(told.len(), 1);
    assert_eq!(peer.expect(GOAWAY).await.payload[4..8], [0; 4]);
    assert!(peer.next().await.is_none());
    drop(stream);
}

#[tokio::test(start_paused = true)]
async fn a_drained_connection_that_is_lost_under_its_streams_says_so() {
    let (client, mut peer) = connected(&[]).await;
    let mut stream = client.call(b"x").await.unwrap();
    peer.request().await;
    client.connection.drain();
    settle().await;
    drop(peer);
    let error = stream.recv.headers().await.unwrap_err();
    assert_eq!(error.to_string(), "server:1: the server closed the connection");
    let (ended, told) = client.ended().await;
    assert!(matches!(ended.cause(), DisconnectCause::Lost(_)), "{ended}");
    assert_eq!(told, ["server:1: closed by this side"]);
}

#[tokio::test(start_paused = true)]
async fn a_drained_connection_closes_whichever_half_goes_last() {
    for handle_first in [false, true] {
        let (client, mut peer) = connected(&[]).await;
        let Stream { handle, recv } = client.open().await.unwrap();
        peer.expect(HEADERS).await;
        client.connection.drain();
        settle().await;
        if handle_first {
            drop(handle);
            settle().await;
            drop(recv);
        } else {
            drop(recv);
            settle().await;
            assert!(!client.driver.is_finished());
            drop(handle);
        }
        let (ended, _) = client.ended().await;
        assert_eq!(ended.cause(), &DisconnectCause::Local);
        assert_eq!(peer.expect(RST_STREAM).await.code(), CANCEL);
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_that_is_drained_closes_at_once() {
    let (client, mut peer) = connected(&[]).await;
    settle().await;
    client.connection.drain();
    let (ended, _) = client.ended().await;
    assert_eq!(ended.cause(), &DisconnectCause::Local);
    assert_eq!(peer.expect(GOAWAY).await.payload[4..8], [0; 4]);
    assert!(peer.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn closing_ends_every_stream_at_once() {
    let (client, mut peer) = connected(&[]).await;
    let begin = Instant::now();
    let mut waiting = client.call(b"1").await.unwrap();
    peer.request().await;
    let mut idle = client.open().await.unwrap();
    peer.expect(HEADERS).await;
    let waiter = tokio::spawn(async move { waiting.recv.headers().await.unwrap_err() });
    settle().await;
    client.connection.close();
    client.connection.close();
    assert_eq!(waiter.await.unwrap(), StreamError::Closed);
    assert_eq!(idle.handle.send_ready().await, Err(StreamError::Closed));
    for _ in 0..2 {
        assert_eq!(peer.expect(RST_STREAM).await.code(), CANCEL);
    }
    // Though one is still held.
    let (ended, told) = client.ended().await;
    assert_eq!(ended.cause(), &DisconnectCause::Local);
    assert_eq!(told.len(), 1);
    assert_eq!(idle.recv.headers().await.unwrap_err(), StreamError::Closed);
    assert_eq!(begin.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn closing_does_not_wait_long_for_a_peer_that_reads_nothing() {
    let (client, mut peer) = connected(&[]).await;
    peer.window_update(0, 1 << 20).await;
    let stream = client.open().await.unwrap();
    peer.expect(HEADERS).await;
    peer.window_update(stream.handle.id(), 1 << 20).await;
    settle().await;
    stream.handle.send(message(&vec![0; 300_000]), false).unwrap();
    settle().await;
    let begin = Instant::now();
    client.connection.close();
    let (ended, _) = client.ended().await;
    assert_eq!(ended.cause(), &DisconnectCause::Local);
    assert_eq!(begin.elapsed(), Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn closing_after_goaway_ends_the_streams_that_are_left() {
    let (client, mut peer) = connected(&[]).await;
    let mut stream = client.call(b"1").await.unwrap();
    let id = peer.request().await;
    peer.goaway(id, NO_ERROR, b"").await;
    settle().await;
    client.connection.close();
    assert_eq!(stream.recv.headers().await.unwrap_err(), StreamError::Closed);
    let (ended, told) = client.ended().await;
    assert!(matches!(ended.cause(), DisconnectCause::Goaway(_)));
    assert_eq!(told.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_does_nothing() {
    let (client, peer) = connected(&[]).await;
    settle().await;
    let bytes = |report: ConnectionReport| (report.bytes_sent, report.bytes_received);
    let before = bytes(client.connection.report());
    let metrics = tokio::runtime::Handle::current().metrics();
    assert_eq!(metrics.num_alive_tasks(), 1);
    tokio::time::sleep(Duration::from_secs(100_000)).await;
    assert_eq!(bytes(client.connection.report()), before);
    assert!(client.connection.is_usable());
    drop(peer);
    let (ended, _) = client.ended().await;
    assert_eq!(ended.to_string(), "server:1: the server closed the connection");
}

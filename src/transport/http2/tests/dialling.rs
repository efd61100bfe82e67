use std::io;

use crate::transport::connect::{BoxFuture, Connect, Io};
use crate::transport::error::{ConnectFault, ConnectPhase};

use super::peer::{GOAWAY, PING, SETTINGS, frame};
use super::*;

#[tokio::test(start_paused = true)]
async fn a_connection_is_ready_once_the_whole_settings_are_here() {
    let (connector, mut listener) = memory::pipe();
    let dialled = tokio::spawn(async move { dial_default(&connector).await });
    let mut peer = accept(&mut listener).await;
    settle().await;
    assert!(!dialled.is_finished());
    let settings = frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 9]);
    let (start, end) = settings.split_at(settings.len() - 1);
    peer.send_raw(start).await;
    settle().await;
    assert!(!dialled.is_finished());
    peer.send_raw(end).await;
    let (connection, _driver) = dialled.await.unwrap().unwrap();
    assert!(connection.is_usable());
    assert_eq!(connection.max_concurrent_streams(), 9);
    assert_eq!(connection.address(), &address());
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_given_up_at_the_deadline() {
    let (connector, mut listener) = memory::pipe();
    let begin = Instant::now();
    let (dialled, _peer) = tokio::join!(dial_default(&connector), accept(&mut listener));
    assert_eq!(begin.elapsed(), Duration::from_secs(20));
    assert_eq!(
        dialled.err().unwrap().to_string(),
        "server:1: the connect deadline passed while waiting for the server's SETTINGS"
    );
}

#[tokio::test(start_paused = true)]
async fn a_connector_that_hangs_is_given_up_at_the_deadline() {
    struct Hangs;
    impl Connect for Hangs {
        fn connect<'a>(&'a self, _: &'a Address) -> BoxFuture<'a, io::Result<Io>> {
            Box::pin(std::future::pending())
        }
    }
    let begin = Instant::now();
    let dialled = dial(
        &Foreign::new("the dialler", Arc::new(Hangs)),
        &Security::Insecure,
        &address(),
        &Authority::parse("x").unwrap(),
        &ConnectionOptions::default(),
        None,
        begin + Duration::from_millis(1500),
    )
    .await;
    let error = dialled.err().unwrap();
    assert_eq!(begin.elapsed(), Duration::from_millis(1500));
    assert!(matches!(error.fault(), ConnectFault::TimedOut(ConnectPhase::Connecting)));
}

#[tokio::test(start_paused = true)]
async fn a_refused_connection_names_address_and_cause() {
    let (connector, listener) = memory::pipe();
    drop(listener);
    let error = dial_default(&connector).await;
    let error = error.err().unwrap();
    assert!(matches!(error.fault(), ConnectFault::Dial(_)));
    let text = error.to_string();
    assert!(text.starts_with("server:1: connection refused"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn what_does_not_speak_http2_is_told_by_what_it_says() {
    let goaway = frame(GOAWAY, 0, 0, &[0; 8]);
    let settings_then_rubbish = {
        let mut bytes = frame(SETTINGS, 0, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff]);
        bytes.extend(frame(PING, 0, 0, &[0; 8]));
        bytes
    };
    let rows: [(&[u8], &str); 7] = [
        (
            b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
            "does not speak HTTP/2: it answered in HTTP/1, `HTTP/1.1 400 Bad Request`",
        ),
        (&[0x15, 3, 3, 0, 2, 2, 40], "it expects TLS"),
        (&goaway, "its first frame is GOAWAY where SETTINGS must come"),
        (b"220 mail.example ESMTP\r\n", "the bytes 32 32 30 20"),
        (b"no", "the bytes 6e 6f"),
        (b"", "before HTTP/2 was under way, the server closed"),
        (&settings_then_rubbish, "broke the HTTP/2 protocol"),
    ];
    for (bytes, part) in rows {
        let (connector, mut listener) = memory::pipe();
        let (dialled, _peer) = tokio::join!(dial_default(&connector), async {
            let mut peer = accept(&mut listener).await;
            peer.send_raw(bytes).await;
            // Some hang up at once, before the client has said all of its part.
            (bytes.len() > 20).then_some(peer)
        });
        let text = dialled.err().unwrap().to_string();
        assert!(text.contains(part), "{text}");
    }
}

//! Servers that keep a client from being rid of what it has to send, or of the calls themselves.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use switchboard::{BackoffConfig, Channel, Code};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::frames::*;
use crate::memory;
use crate::script::ALONE;
use crate::support::greeter::{SAY_HELLO, ask};
use crate::support::plaintext;

#[tokio::test]
async fn calls_that_time_out_at_a_server_that_never_reads_leave_nothing_behind() {
    let _alone = ALONE.lock().await;
    for bytes in [10, 10_000] {
        let (server, _reading) = server(Manner::Answers, false).await;
        // Without an answer, a connection that is given up has a backoff, in which no call would be
        // sent. This is about those that are.
        let delay = Duration::from_millis(1);
        let backoff = BackoffConfig { base_delay: delay, max_delay: delay, ..Default::default() };
        let channel = plaintext(server.to_string()).backoff(backoff).build().unwrap();
        call(&channel, 2_000, bytes, Code::DEADLINE_EXCEEDED).await;
        let before = memory::live();
        call(&channel, CALLS, bytes, Code::DEADLINE_EXCEEDED).await;
        let left = memory::live().saturating_sub(before);
        assert!(left < LEFT_MAX, "{left} bytes are left of calls of {bytes} bytes");
        channel.close().await;
    }
}

#[tokio::test]
async fn calls_that_the_server_resets_at_once_leave_nothing_behind() {
    let _alone = ALONE.lock().await;
    for manner in [Manner::ResetsAtHeaders, Manner::ResetsAtEnd] {
        let (server, _reading) = server(manner, true).await;
        let channel = plaintext(server.to_string()).build().unwrap();
        call(&channel, 2_000, 10, Code::CANCELLED).await;
        let before = memory::live();
        call(&channel, CALLS, 10, Code::CANCELLED).await;
        let left = memory::live().saturating_sub(before);
        assert!(left < LEFT_MAX / 4, "{manner:?}: {left} bytes are left");
        channel.close().await;
    }
}

#[tokio::test]
async fn calls_dropped_before_they_leave_are_bounded_at_servers_that_give_no_window() {
    let _alone = ALONE.lock().await;
    for manner in [Manner::GivesNoWindow, Manner::GivesStreamsNoWindow] {
        let (server, _reading) = server(manner, true).await;
        let channel = plaintext(server.to_string()).build().unwrap();
        call(&channel, 200, 10_000, Code::DEADLINE_EXCEEDED).await;
        let name: Arc<str> = "x".repeat(10_000).into();
        let before = memory::live();
        for nth in 0..5_000 {
            // So that what is sent is known, it is begun and no more.
            tokio::select! {
                biased;
                outcome = channel.invoke(&SAY_HELLO, ask(&name)) => panic!("{outcome:?}"),
                () = std::future::ready(()) => {}
            }
            if nth % 10 == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        let left = memory::live().saturating_sub(before);
        assert!(left < LEFT_MAX, "{manner:?}: {left} bytes are left");
        channel.close().await;
    }
}

#[tokio::test]
async fn messages_of_calls_that_are_answered_without_them_are_given_up() {
    let _alone = ALONE.lock().await;
    for manner in [Manner::AnswersAtHeaders, Manner::AnswersWithoutWindow] {
        let (server, _reading) = server(manner, true).await;
        let channel = plaintext(server.to_string()).build().unwrap();
        let name: Arc<str> = "x".repeat(10_000).into();
        let deadline = Duration::from_secs(20);
        let before = memory::live();
        for nth in 0..3_000 {
            let outcome = channel.invoke(&SAY_HELLO, ask(&name).timeout(deadline)).await;
            assert!(outcome.is_ok(), "{manner:?}, call {nth}: {outcome:?}");
        }
        let left = memory::live().saturating_sub(before);
        assert!(left < LEFT_MAX, "{manner:?}: {left} bytes are left");
        channel.close().await;
    }
}

#[tokio::test]
async fn a_server_that_reads_on_after_a_while_answers_again() {
    let _alone = ALONE.lock().await;
    for bytes in [10, 10_000, 100_000] {
        let (server, reading) = server(Manner::Answers, true).await;
        let channel = plaintext(server.to_string()).build().unwrap();
        let deadline = Duration::from_secs(20);
        channel.invoke(&SAY_HELLO, ask("Ada").timeout(deadline)).await.unwrap();
        for round in 0..3 {
            reading.send_replace(false);
            call(&channel, 2_000, bytes, Code::DEADLINE_EXCEEDED).await;
            reading.send_replace(true);
            for nth in 0..300 {
                let outcome = channel.invoke(&SAY_HELLO, ask("Ada").timeout(deadline)).await;
                assert!(outcome.is_ok(), "{bytes} bytes, round {round}, call {nth}: {outcome:?}");
            }
        }
        channel.close().await;
    }
}

/// What a server does about calls.
#[derive(Clone, Copy, Debug)]
enum Manner {
    /// Answers those that are complete, and gives the window back.
    Answers,
    /// Resets them as soon as they begin, and gives no window.
    ResetsAtHeaders,
    /// Resets them once they are complete.
    ResetsAtEnd,
    /// Answers none, and gives no window.
    GivesNoWindow,
    /// Likewise, and streams begin with none.
    GivesStreamsNoWindow,
    /// Answers them as soon as they begin, and gives the connection no window.
    AnswersAtHeaders,
    /// Likewise, and streams begin without a window.
    AnswersWithoutWindow,
}

/// A server that reads while it is told to.
async fn server(manner: Manner, reads: bool) -> (SocketAddr, watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, reading) = watch::channel(reads);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, manner, reading.clone()));
        }
    });
    (address, tell)
}

/// How a connection ends is up to the client.
async fn serve(
    mut stream: TcpStream,
    manner: Manner,
    mut reading: watch::Receiver<bool>,
) -> Option<()> {
    let window = match manner {
        Manner::GivesStreamsNoWindow | Manner::AnswersWithoutWindow => 0,
        _ => 65_535_u32,
    };
    let streams = match manner {
        Manner::GivesNoWindow | Manner::GivesStreamsNoWindow | Manner::AnswersWithoutWindow => {
            1_000_000
        }
        _ => 100_u32,
    };
    let streams = [&3_u16.to_be_bytes()[..], &streams.to_be_bytes()].concat();
    let limits = [&streams[..], &4_u16.to_be_bytes(), &window.to_be_bytes()].concat();
    let opening = [frame(SETTINGS, 0, 0, &limits), frame(SETTINGS, ACK, 0, &[])].concat();
    stream.write_all(&opening).await.ok()?;
    let mut preface = [0; 24];
    reading.wait_for(|reads| *reads).await.ok()?;
    stream.read_exact(&mut preface).await.ok()?;
    loop {
        reading.wait_for(|reads| *reads).await.ok()?;
        let mut header = [0; 9];
        stream.read_exact(&mut header).await.ok()?;
        let [a, b, c, kind, flags, id @ ..] = header;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut payload).await.ok()?;
        let id = u32::from_be_bytes(id);
        let is_end = matches!(kind, HEADERS | DATA) && flags & END_STREAM != 0;
        let answer = match (manner, kind) {
            (_, PING) if flags & ACK == 0 => frame(PING, ACK, 0, &payload),
            (Manner::Answers, DATA) => {
                let room = u32::try_from(payload.len()).unwrap();
                let given = if room > 0 { window_update(0, room) } else { Vec::new() };
                let answer = if is_end { good(id) } else { window_update(id, room.max(1)) };
                [given, answer].concat()
            }
            (Manner::ResetsAtHeaders, HEADERS) => reset(id, 8),
            (Manner::AnswersAtHeaders | Manner::AnswersWithoutWindow, HEADERS) => good(id),
            (Manner::ResetsAtEnd, DATA) if is_end => {
                let room = u32::try_from(payload.len()).unwrap();
                [window_update(0, room), reset(id, 8)].concat()
            }
            _ => continue,
        };
        stream.write_all(&answer).await.ok()?;
    }
}

/// So many calls in turns, each of which ends with `code`.
async fn call(channel: &Channel, calls: usize, bytes: usize, code: Code) {
    // Those that are answered have time for it.
    let millis = if code == Code::DEADLINE_EXCEEDED { 20 } else { 20_000 };
    let name: Arc<str> = "x".repeat(bytes).into();
    let begun = Arc::new(AtomicUsize::new(0));
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (channel, name, begun) = (channel.clone(), name.clone(), begun.clone());
            tokio::spawn(async move {
                while begun.fetch_add(1, Ordering::Relaxed) < calls {
                    let request = ask(&name).timeout(Duration::from_millis(millis));
                    let status = channel.invoke(&SAY_HELLO, request).await.unwrap_err();
                    assert_eq!(status.code(), code, "{status}");
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
}

const CALLERS: usize = 200;
const CALLS: usize = 20_000;

/// What may be left of calls that are over: 1 MiB of those that have not been sent and 1 MiB of
/// those that lack the window, on one connection or on two while one takes the other's place; with
/// what caches and buffers come to. Without bounds 32 MB are left of the small calls at a server
/// that never reads, 190 MB of the large ones, and 11 MB of those that are reset.
const LEFT_MAX: usize = 6 * 1024 * 1024;

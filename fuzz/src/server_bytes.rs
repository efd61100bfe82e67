//! A server that sends anything.

use std::time::Duration;

use switchboard::KeepaliveConfig;
use tokio::io::{AsyncWriteExt as _, DuplexStream};

use super::channel::{call, close, on_a_runtime, over_a_pipe, stream};
use super::input::Input;
use super::memory;

/// The bytes of a server, and when it sends them, against a channel with a unary call and a stream
/// in flight: both end by their deadlines, in bounded memory, and nothing is left.
///
/// The first byte has the options of the channel. Then come steps: a byte that says which, and
/// what belongs to it.
pub fn server_bytes(input: &[u8]) {
    let before = memory::begin();
    on_a_runtime(run(input));
    let used = memory::used_since(before);
    assert!(used < MEMORY_MAX, "{used} bytes");
}

async fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let options = input.byte();
    let (channel, mut listener) = over_a_pipe(|builder| {
        let builder = if options & 1 == 0 {
            builder
        } else {
            builder.keepalive(KeepaliveConfig::after(Duration::from_secs(10)))
        };
        if options & 2 == 0 { builder } else { builder.max_receive_message_bytes(10) }
    });
    let serve = async {
        while let Some(mut connection) = listener.accept().await {
            if input.is_empty() && options & 4 == 0 {
                continue;
            }
            // It ends with the connection, or when the channel has let go of it.
            play(&mut input, &mut connection).await;
        }
    };
    let calls = async {
        let waits = options & 8 != 0;
        tokio::join!(
            call(&channel, Duration::from_secs(1), waits),
            stream(&channel, Duration::from_secs(2), usize::from(options >> 4)),
        );
        close(channel).await;
    };
    // The listener goes first where a dial is still to be refused.
    tokio::select! {
        () = calls => {}
        () = serve => unreachable!("the channel still dials"),
    }
}

/// Takes the steps of one connection, while whatever the client sends is read and forgotten. With
/// no steps left, says nothing more and waits for the client's end.
async fn play(input: &mut Input<'_>, connection: &mut DuplexStream) {
    let (mut from_client, mut to_client) = tokio::io::split(connection);
    let mut gone = tokio::io::sink();
    let reading = tokio::io::copy(&mut from_client, &mut gone);
    let writing = async {
        while let Some(step) = next_step(input) {
            match step {
                Step::Send(bytes) => {
                    if to_client.write_all(&bytes).await.is_err() {
                        return;
                    }
                    tokio::task::yield_now().await;
                }
                Step::Wait(time) => tokio::time::sleep(time).await,
                Step::HangUp => return,
            }
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ = reading => {}
        () = writing => {}
    }
}

enum Step {
    Send(Vec<u8>),
    Wait(Duration),
    HangUp,
}

fn next_step(input: &mut Input<'_>) -> Option<Step> {
    if input.is_empty() {
        return None;
    }
    Some(match input.byte() {
        0 => Step::HangUp,
        1 => Step::Wait(Duration::from_millis(input.short().into())),
        2 => Step::Send(input.rest().to_vec()),
        // SETTINGS, and their acknowledgement.
        3 => Step::Send(b"\0\0\0\x04\0\0\0\0\0\0\0\0\x04\x01\0\0\0\0".to_vec()),
        // A whole frame, whose length is right.
        4..=127 => {
            let (kind, flags, stream) = (input.byte(), input.byte(), input.byte());
            let payload = input.piece();
            let mut frame = vec![0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream];
            frame.extend(payload);
            Step::Send(frame)
        }
        // Bytes, which may end anywhere.
        len => Step::Send(input.take(usize::from(len - 127)).to_vec()),
    })
}

/// What a connection with its windows, and the header lists of two calls, may take: far more than
/// any input is long.
const MEMORY_MAX: isize = 4 * 1024 * 1024;

//! Streams whose server dies in the middle of them, and the memory that they leave behind. A binary
//! of its own, so that nothing else is measured.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../hostile/memory.rs"]
#[expect(dead_code, reason = "floods measure peaks, this what stays")]
mod memory;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "the tests of whole channels use all of it")]
mod support;

use std::time::Duration;

use switchboard::{CallOptions, Channel, Code, Status, Streaming};
use tokio::task::JoinSet;

use support::greeter::{Greeter, HelloReply, HelloRequest, LOTS_OF_GREETINGS, hello, target_of};
use support::{close_without_leaks, plaintext, until};

#[global_allocator]
static MEMORY: memory::Counting = memory::Counting;

#[tokio::test]
async fn streams_within_the_buffer_finish_elsewhere_and_the_others_say_why_they_cannot() {
    let mut greeters = [Greeter::start(), Greeter::start()];
    let channel = plaintext(target_of(&greeters)).default_service_config(RETRIES).build().unwrap();
    // What comes into being once, comes before the measurement.
    kill_amid_streams(&channel, &mut greeters, 2).await;
    let before = memory::begin();
    kill_amid_streams(&channel, &mut greeters, STREAMS).await;
    until("nothing of the streams is left", async || {
        memory::begin().saturating_sub(before) < KEPT_BYTES_MAX
    })
    .await;
    close_without_leaks(channel, &greeters).await;
}

/// Opens streams of both kinds, kills their server, and sees how they end.
async fn kill_amid_streams(channel: &Channel, greeters: &mut [Greeter; 2], streams: usize) {
    let (mut within, mut beyond, mut peer) = (Vec::new(), Vec::new(), None);
    for nth in 0..streams {
        let (list, messages) = if nth % 2 == 0 { (&mut within, 10) } else { (&mut beyond, 30) };
        let mut stream = channel.new_stream(&LOTS_OF_GREETINGS, CallOptions::new()).await.unwrap();
        for _ in 0..messages {
            stream.send(hello(&"x".repeat(10_000))).await.unwrap();
        }
        peer = stream.peer();
        list.push(stream);
    }
    let peer = peer.unwrap().to_string();
    let alive = greeters.iter().position(|it| it.address().to_string() == peer).unwrap();
    until("all streams are there", async || greeters[alive].open_calls() == streams).await;
    let before = greeters[1 - alive].answered();
    greeters[alive].kill();

    let within = ends(within).await;
    assert!(within.iter().all(Result::is_ok), "{within:?}");
    for end in ends(beyond).await {
        let status = end.unwrap_err();
        assert_eq!(status.code(), Code::UNAVAILABLE, "{status}");
        assert!(status.message().contains(&peer), "{status}");
    }
    assert_eq!(greeters[1 - alive].answered() - before, within.len() as u64);
    greeters[alive].start_again();
}

/// How streams end that send no more. None of them hangs.
async fn ends(
    streams: Vec<Streaming<HelloRequest, HelloReply>>,
) -> Vec<Result<Option<HelloReply>, Status>> {
    let mut tasks = JoinSet::new();
    for mut stream in streams {
        tasks.spawn(async move {
            stream.close_send();
            stream.recv().await
        });
    }
    let ended = tokio::time::timeout(Duration::from_secs(60), tasks.join_all()).await;
    ended.expect("a stream hangs")
}

const STREAMS: usize = 100;

/// The messages that these streams keep are 15 MB.
const KEPT_BYTES_MAX: usize = 1024 * 1024;

const RETRIES: &str = r#"{"methodConfig":[{"name":[{}],"retryPolicy":{"maxAttempts":4,
    "initialBackoff":"0.05s","maxBackoff":"1s","backoffMultiplier":2,
    "retryableStatusCodes":["UNAVAILABLE"]}}]}"#;

//! A channel over a pipe in memory, on a clock that stands still while there is something to do.

use std::time::Duration;

use bytes::Bytes;
use switchboard::memory::{MemoryListener, pipe};
use switchboard::{
    BackoffConfig, CallOptions, Channel, ChannelBuilder, Code, Credentials, Method, Raw, Request,
    Status, kind,
};
use tokio::time::Instant;

/// A method with one message each way.
pub(crate) const UNARY: Method<Bytes, Bytes> = Method::with_codec::<Raw>("/fuzz.Service/Unary");

/// A method with many each way.
pub(crate) const STREAM: Method<Bytes, Bytes, kind::BidiStreaming> =
    Method::with_codec::<Raw>("/fuzz.Service/Stream");

/// Runs `work` on a runtime of its own; then nothing may be left there.
pub(crate) fn on_a_runtime(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime can be made");
    runtime.block_on(async {
        work.await;
        let alive = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
        let since = Instant::now();
        while alive() > 0 {
            assert!(since.elapsed() < PATIENCE, "{} tasks are left", alive());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
}

/// A channel, and where its connections arrive.
pub(crate) fn over_a_pipe(
    set: impl FnOnce(ChannelBuilder) -> ChannelBuilder,
) -> (Channel, MemoryListener) {
    let (connector, listener) = pipe();
    let wait = Duration::from_millis(50);
    let backoff = BackoffConfig { base_delay: wait, max_delay: wait, ..BackoffConfig::default() };
    let builder = Channel::builder("passthrough:fuzz")
        .credentials(Credentials::insecure())
        .connector(connector)
        .backoff(backoff)
        .seed(7);
    (set(builder).build().expect("the channel can be built"), listener)
}

/// What a call came to: the messages that were received, and how it ended.
pub(crate) struct Outcome {
    pub(crate) messages: Vec<Bytes>,
    pub(crate) end: Result<(), Status>,
}

/// Calls the unary method.
pub(crate) async fn call(channel: &Channel, timeout: Duration, waits: bool) -> Outcome {
    let request = Request::new(Bytes::from_static(b"?")).timeout(timeout).wait_for_ready(waits);
    let called = in_time(timeout, channel.invoke(&UNARY, request)).await;
    match called {
        Ok(response) => Outcome { messages: vec![response.into_message()], end: Ok(()) },
        Err(status) => Outcome { messages: Vec::new(), end: Err(status) },
    }
}

/// Calls the method of streams, sends `requests` messages and receives to the end.
pub(crate) async fn stream(channel: &Channel, timeout: Duration, requests: usize) -> Outcome {
    let mut messages = Vec::new();
    let end = in_time(timeout, async {
        let options = CallOptions::new().timeout(timeout);
        let mut stream = channel.new_stream(&STREAM, options).await?;
        for _ in 0..requests {
            // Why it could not be sent is what receiving ends with.
            if stream.send(Bytes::from_static(&[7; 100])).await.is_err() {
                break;
            }
        }
        stream.close_send();
        while let Some(message) = stream.recv().await? {
            messages.push(message);
        }
        Ok(())
    });
    let end = end.await;
    Outcome { messages, end }
}

/// A call is over at its deadline, and one that failed says why in its own words or the server's.
async fn in_time<T>(
    timeout: Duration,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let begun = Instant::now();
    let outcome = tokio::time::timeout(PATIENCE, call).await.expect("a call ends");
    let took = begun.elapsed();
    // Timers are kept to the millisecond.
    assert!(took <= timeout + Duration::from_millis(3), "{took:?} of {timeout:?}");
    if let Err(status) = &outcome {
        assert_ne!(status.code(), Code::OK, "{status}");
    }
    outcome
}

/// Closes a channel, for good and in time.
pub(crate) async fn close(channel: Channel) {
    tokio::time::timeout(PATIENCE, channel.close()).await.expect("a channel closes");
}

/// Past every deadline and every grace: what takes longer never ends.
const PATIENCE: Duration = Duration::from_secs(120);

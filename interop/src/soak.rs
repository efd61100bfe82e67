//! `rpc_soak` and `channel_soak`: many large unary calls, each caller's in sequence. A line for each
//! call and one for all go to stderr, in the form that other clients' tools read.

use std::time::Duration;

use anyhow::{Context as _, Error, Result, ensure};
use switchboard::{Address, Channel, ChannelBuilder, Request};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::cases::{channel, check_payload, number, zeros};
use crate::described;
use crate::flags::{Flags, Soak};
use crate::proto::{SimpleRequest, UNARY_CALL};

/// `rpc_soak`: all calls go over one channel.
pub(crate) async fn on_one_channel(flags: &Flags) -> Result<()> {
    let channel = channel(flags)?;
    soak(flags, &Channels::One(channel.clone())).await?;
    channel.close().await;
    Ok(())
}

/// `channel_soak`: each call has a channel of its own.
pub(crate) async fn on_a_channel_each(flags: &Flags) -> Result<()> {
    let builder = flags.channel_builder().map_err(Error::msg)?;
    soak(flags, &Channels::OneEach(Box::new(builder))).await
}

/// Where calls find their channel.
#[derive(Clone)]
enum Channels {
    One(Channel),
    /// Built before a call, closed after it.
    OneEach(Box<ChannelBuilder>),
}

/// What one call came to.
struct Iteration {
    latency: Duration,
    is_good: bool,
}

async fn soak(flags: &Flags, channels: &Channels) -> Result<()> {
    let end = Instant::now() + flags.soak.overall_timeout;
    let mut callers = JoinSet::new();
    for thread in 0..flags.soak.threads {
        let caller = Caller {
            thread,
            soak: flags.soak.clone(),
            channels: channels.clone(),
            target: flags.target(),
            end,
        };
        callers.spawn(caller.run());
    }
    let mut iterations = Vec::new();
    while let Some(caller) = callers.join_next().await {
        iterations.append(&mut caller.context("a caller panicked")??);
    }
    judge(flags, &iterations)
}

fn judge(flags: &Flags, iterations: &[Iteration]) -> Result<()> {
    let Soak { iterations: due, max_failures, .. } = flags.soak;
    let ran = iterations.len();
    let failures = iterations.iter().filter(|it| !it.is_good).count();
    let mut latencies: Vec<_> = iterations.iter().map(|it| it.latency).collect();
    latencies.sort_unstable();
    let [p50, p90, p100] = [50, 90, 100].map(|percent| percentile(&latencies, percent).as_millis());
    eprintln!(
        "(server_uri: {}) soak test ran: {ran} / {due} iterations. Total failures: {failures}. \
         p50: {p50} ms, p90: {p90} ms, p100: {p100} ms",
        flags.target()
    );
    ensure!(
        ran == due as usize,
        "expected {due} iterations within {:?}, got {ran}",
        flags.soak.overall_timeout
    );
    ensure!(
        failures <= max_failures as usize,
        "expected at most {max_failures} failures, got {failures}"
    );
    Ok(())
}

/// The least latency that so many percent of all do not exceed. `latencies` are sorted.
fn percentile(latencies: &[Duration], percent: usize) -> Duration {
    let rank = (latencies.len() * percent).div_ceil(100);
    rank.checked_sub(1).map(|index| latencies[index]).unwrap_or_default()
}

struct Caller {
    thread: u32,
    soak: Soak,
    channels: Channels,
    target: String,
    /// When the soak is over, whatever has been done.
    end: Instant,
}

impl Caller {
    async fn run(self) -> Result<Vec<Iteration>> {
        let mut iterations = Vec::new();
        for nth in 0..self.soak.iterations / self.soak.threads {
            let begun = Instant::now();
            if begun >= self.end {
                break;
            }
            let channel = match &self.channels {
                Channels::One(channel) => channel.clone(),
                Channels::OneEach(builder) => builder.build().context("building a channel")?,
            };
            let outcome = match timeout_at(self.end, call(&channel, &self.soak)).await {
                Ok(outcome) => outcome,
                Err(_elapsed) => Err(Error::msg("the soak is over and it has not been answered")),
            };
            let latency = begun.elapsed();
            if let Channels::OneEach(_) = self.channels {
                channel.close_within(Duration::ZERO).await;
            }
            iterations.push(Iteration { latency, is_good: self.report(nth, latency, outcome) });
            sleep_until(self.end.min(begun + self.soak.min_interval)).await;
        }
        Ok(iterations)
    }

    /// Prints what came of an iteration, and says whether it was good.
    fn report(&self, nth: u32, latency: Duration, outcome: Result<Address>) -> bool {
        let allowed = self.soak.max_latency;
        let peer = outcome.as_ref().map_or_else(|_| "unknown".to_owned(), Address::to_string);
        let (is_good, ending) = match outcome {
            Ok(_) if latency <= allowed => (true, "succeeded".to_owned()),
            Ok(_) => (false, format!("exceeds max acceptable latency: {}", allowed.as_millis())),
            Err(error) => (false, format!("failed: {}", described(&error))),
        };
        eprintln!(
            "thread_id: {} soak iteration: {nth} elapsed_ms: {} peer: {peer} server_uri: {} {ending}",
            self.thread,
            latency.as_millis(),
            self.target,
        );
        is_good
    }
}

/// One call of a soak: the server that answered as it should.
async fn call(channel: &Channel, soak: &Soak) -> Result<Address> {
    let (request_size, response_size) = (soak.request_bytes as usize, soak.response_bytes as usize);
    let request = SimpleRequest {
        response_size: number(response_size),
        payload: Some(zeros(request_size)),
        ..Default::default()
    };
    let response = channel.invoke(&UNARY_CALL, Request::new(request)).await?;
    check_payload(response.message().payload.as_ref(), response_size)?;
    Ok(response.peer().clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_latencies() {
        let latencies: Vec<_> = (1..=10).map(Duration::from_millis).collect();
        let rows = [(50, 5), (90, 9), (91, 10), (100, 10)];
        for (percent, millis) in rows {
            assert_eq!(percentile(&latencies, percent), Duration::from_millis(millis));
        }
        assert_eq!(percentile(&latencies[..1], 50), Duration::from_millis(1));
        assert_eq!(percentile(&[], 50), Duration::ZERO);
    }
}

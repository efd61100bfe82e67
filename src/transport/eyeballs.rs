//! Happy eyeballs (RFC 8305): of the addresses of one name the first that connects wins.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::error::in_words;
use crate::types::{Family, interleaved};

/// Connects to one of `addresses`, which families take turns at: to the first at once, to each
/// further one when the one before has failed, or has taken 250 ms. The first that connects wins,
/// the others are dropped.
///
/// Fails with the error of the address that was tried first; what else failed is counted.
pub(super) async fn connect<T, F>(
    addresses: impl IntoIterator<Item = SocketAddr>,
    dial: impl Fn(SocketAddr) -> F,
) -> io::Result<T>
where
    F: Future<Output = io::Result<T>>,
{
    let mut race = Race::between(addresses);
    let mut attempts = Attempts { under_way: Vec::new(), failed: Vec::new() };
    let mut next = race.step(Instant::now(), Event::Begun);
    loop {
        if let Some(address) = next {
            attempts.under_way.push((address, Box::pin(dial(address))));
        }
        if attempts.under_way.is_empty() {
            return Err(attempts.failure(&race));
        }
        let ended = match race.next_at {
            Some(at) => timeout_at(at, attempts.next_end()).await.ok(),
            None => Some(attempts.next_end().await),
        };
        let event = match ended {
            Some(Ok(stream)) => return Ok(stream),
            Some(Err(failed)) => {
                attempts.failed.push(failed);
                Event::Failed
            }
            None => Event::Wake,
        };
        next = race.step(Instant::now(), event);
    }
}

/// Which address is tried when.
#[derive(Debug)]
struct Race {
    /// Those that were tried, in order, and those that were not.
    tried: Vec<SocketAddr>,
    waiting: VecDeque<SocketAddr>,
    /// When the next is tried, whatever the others do.
    next_at: Option<Instant>,
}

/// What happens in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// It begins.
    Begun,
    /// One of the attempts has failed.
    Failed,
    /// The time of `next_at` has come.
    Wake,
}

impl Race {
    fn between(addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        let ordered = interleaved(addresses, |address| Family::of_ip(address.ip()));
        Self { tried: Vec::new(), waiting: ordered.into(), next_at: None }
    }

    /// The address that is to be tried now, if one is.
    fn step(&mut self, now: Instant, event: Event) -> Option<SocketAddr> {
        match event {
            Event::Begun | Event::Failed => {}
            Event::Wake if self.next_at.is_some_and(|at| now >= at) => {}
            Event::Wake => return None,
        }
        let next = self.waiting.pop_front();
        self.tried.extend(next);
        self.next_at = (!self.waiting.is_empty()).then(|| now + ATTEMPT_DELAY);
        next
    }
}

/// The attempts of a race.
struct Attempts<F> {
    under_way: Vec<(SocketAddr, Pin<Box<F>>)>,
    failed: Vec<(SocketAddr, io::Error)>,
}

impl<T, F: Future<Output = io::Result<T>>> Attempts<F> {
    /// The end of the attempt that ends first. Cancel-safe.
    async fn next_end(&mut self) -> Result<T, (SocketAddr, io::Error)> {
        poll_fn(|cx| {
            for at in 0..self.under_way.len() {
                let (address, attempt) = &mut self.under_way[at];
                if let Poll::Ready(outcome) = attempt.as_mut().poll(cx) {
                    let address = *address;
                    drop(self.under_way.remove(at));
                    return Poll::Ready(outcome.map_err(|error| (address, error)));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// The error of the address that was tried first: it is the preferred one, so it says most.
    fn failure(self, race: &Race) -> io::Error {
        let others = self.failed.len().saturating_sub(1);
        let rank = |address: &SocketAddr| race.tried.iter().position(|tried| tried == address);
        let first = self.failed.into_iter().min_by_key(|(address, _)| rank(address));
        match first {
            None => io::Error::new(io::ErrorKind::NotFound, "there is no address"),
            Some((_, error)) if others == 0 => error,
            Some((address, error)) => {
                let noun = if others == 1 { "address" } else { "addresses" };
                let text = format!("{address}: {}; {others} more {noun} failed", in_words(&error));
                io::Error::new(error.kind(), text)
            }
        }
    }
}

/// How long an attempt may take before the next begins: the Connection Attempt Delay of RFC 8305,
/// which gRPC has for the addresses of an endpoint as well (A61).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use tokio::time::sleep;

    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| format!("{text}:1").parse().unwrap()).collect()
    }

    /// What an address does, after so many milliseconds.
    #[derive(Clone, Copy)]
    enum Does {
        Connect(u64),
        Fail(u64),
        Hang,
    }
    use Does::{Connect, Fail, Hang};

    // spec: A61/dialled-name
    #[test]
    fn the_next_address_is_tried_after_a_failure_or_a_delay() {
        let begun = Instant::now();
        let mut race = Race::between(addresses(&["1.0.0.1", "1.0.0.2", "[::1]", "1.0.0.1"]));
        let rows = [
            (0, Event::Begun, "1.0.0.1:1", Some(250)),
            (249, Event::Wake, "none", Some(250)),
            (250, Event::Wake, "[::1]:1", Some(500)),
            (300, Event::Failed, "1.0.0.2:1", None),
            (301, Event::Failed, "none", None),
            (900, Event::Wake, "none", None),
        ];
        for (millis, event, expected, wake_at) in rows {
            let tried = race.step(begun + Duration::from_millis(millis), event);
            let tried = tried.map_or_else(|| "none".to_owned(), |address| address.to_string());
            let next = race.next_at.map(|at| (at - begun).as_millis());
            assert_eq!((tried.as_str(), next), (expected, wake_at), "{event:?} at {millis}");
        }
        assert_eq!(Race::between([]).step(begun, Event::Begun), None);
    }

    // spec: A61/dialled-name
    #[tokio::test(start_paused = true)]
    async fn the_first_address_that_connects_wins() {
        // What the addresses do, in order; when each was tried; who won when, or why nobody did.
        type Row<'a> = (&'a [(&'a str, Does)], &'a [u128], &'a str, u128);
        let rows: [Row<'_>; 8] = [
            (&[("1.0.0.1", Connect(10)), ("1.0.0.2", Connect(0))], &[0], "1.0.0.1:1", 10),
            (&[("1.0.0.1", Hang), ("1.0.0.2", Connect(5))], &[0, 250], "1.0.0.2:1", 255),
            (&[("1.0.0.1", Fail(7)), ("1.0.0.2", Connect(5))], &[0, 7], "1.0.0.2:1", 12),
            // The slow one may still win.
            (&[("1.0.0.1", Connect(300)), ("1.0.0.2", Connect(200))], &[0, 250], "1.0.0.1:1", 300),
            // One that fails later than its turn has no successor that it could bring forward twice.
            (
                &[("1.0.0.1", Fail(260)), ("1.0.0.2", Hang), ("1.0.0.3", Connect(1))],
                &[0, 250, 260],
                "1.0.0.3:1",
                261,
            ),
            (
                &[("1.0.0.1", Hang), ("1.0.0.2", Hang), ("[::1]", Connect(0))],
                &[0, 250],
                "[::1]:1",
                250,
            ),
            (&[("1.0.0.1", Fail(9))], &[0], "refused by 1.0.0.1:1", 9),
            (
                &[("1.0.0.1", Fail(300)), ("1.0.0.2", Fail(1)), ("1.0.0.3", Fail(1))],
                &[0, 250, 251],
                "1.0.0.1:1: refused by 1.0.0.1:1; 2 more addresses failed",
                300,
            ),
        ];
        for (script, tried_at, expected, ended_at) in rows {
            let begun = Instant::now();
            let tried = RefCell::new(Vec::new());
            let under_way = Cell::new(0);
            let does = |address: SocketAddr| {
                let known = script.iter().find(|(text, _)| addresses(&[*text])[0] == address);
                known.unwrap().1
            };
            let dial = |address| {
                tried.borrow_mut().push(begun.elapsed().as_millis());
                let under_way = Counted::new(&under_way);
                let does = does(address);
                async move {
                    let _under_way = under_way;
                    let (Connect(millis) | Fail(millis)) = does else {
                        return std::future::pending().await;
                    };
                    sleep(Duration::from_millis(millis)).await;
                    match does {
                        Connect(_) => Ok(address),
                        Fail(_) | Hang => Err(io::Error::other(format!("refused by {address}"))),
                    }
                }
            };
            let all: Vec<_> = script.iter().map(|(text, _)| addresses(&[*text])[0]).collect();
            let outcome = connect(all, dial).await;
            let outcome = outcome.map_or_else(|error| error.to_string(), |it| it.to_string());
            assert_eq!(outcome, expected);
            assert_eq!(*tried.borrow(), tried_at, "{expected}");
            assert_eq!(begun.elapsed().as_millis(), ended_at, "{expected}");
            assert_eq!(under_way.get(), 0, "losers are dropped");
        }
    }

    #[tokio::test]
    async fn without_an_address_there_is_an_error() {
        let error = connect([], |_| std::future::ready(Ok(()))).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    struct Counted<'a>(&'a Cell<u32>);

    impl<'a> Counted<'a> {
        fn new(count: &'a Cell<u32>) -> Self {
            count.set(count.get() + 1);
            Self(count)
        }
    }

    impl Drop for Counted<'_> {
        fn drop(&mut self) {
            self.0.set(self.0.get() - 1);
        }
    }
}

//! Which connection a call went over, and how that ended. Bodies of calls carry a number, which is
//! found in what the client writes: so it is known of each call, whosever client makes it.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use switchboard::{Address, BoxFuture, Connect, Io, SocketConnector};

use crate::proto::Payload;
use crate::wire::{Frame, Watched, Watcher};

/// The connections of a client, and which calls went over them.
#[derive(Clone, Default)]
pub(crate) struct Ledger(Arc<Mutex<Book>>);

#[derive(Default)]
struct Book {
    /// How each connection has ended, by its number.
    connections: Vec<Ending>,
    /// The connection that each call under way was sent on last.
    calls: HashMap<u64, usize>,
}

/// How a connection has ended, as far as it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ending {
    reading: Reading,
    has_write_failed: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Reading {
    #[default]
    GoesOn,
    /// The peer has closed the connection.
    Closed,
    /// `ECONNRESET`: bytes of the peer may be lost, whatever they said.
    Reset,
    Failed,
}

/// Why a call has failed, by what became of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cause {
    /// A write failed, and reading has not ended with `ECONNRESET`.
    FailedWrite,
    /// Reading ended with `ECONNRESET`.
    ResetOnReading,
    /// Reading failed in another way.
    FailedReading,
    /// The peer closed the connection, and no write failed.
    Closed,
    /// The connection lives: the peer has said so itself, or the client has.
    Answered,
    /// No byte of the call's body was ever written.
    NeverSent,
}

impl Ledger {
    /// How many connections there were.
    pub(crate) fn connections(&self) -> usize {
        self.with(|book| book.connections.len())
    }

    /// A connection begins.
    pub(crate) fn watcher(&self) -> Entry {
        let connection = self.with(|book| {
            book.connections.push(Ending::default());
            book.connections.len() - 1
        });
        Entry { ledger: self.clone(), connection }
    }

    /// A call is over. Says why it failed, if it has.
    pub(crate) fn strike(&self, call: u64) -> Cause {
        self.with(|book| {
            let ending = book.calls.remove(&call).map(|connection| book.connections[connection]);
            cause_of(ending)
        })
    }

    fn with<T>(&self, change: impl FnOnce(&mut Book) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Connect for Ledger {
    fn connect<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, io::Result<Io>> {
        Box::pin(async move {
            let io = SocketConnector.connect(address).await?;
            Ok(Io::new(Watched::new(io, self.watcher())))
        })
    }
}

fn cause_of(ending: Option<Ending>) -> Cause {
    match ending {
        None => Cause::NeverSent,
        Some(Ending { reading: Reading::Reset, .. }) => Cause::ResetOnReading,
        Some(Ending { has_write_failed: true, .. }) => Cause::FailedWrite,
        Some(Ending { reading: Reading::Failed, .. }) => Cause::FailedReading,
        Some(Ending { reading: Reading::Closed, .. }) => Cause::Closed,
        Some(Ending { reading: Reading::GoesOn, .. }) => Cause::Answered,
    }
}

/// Where one connection is written down.
pub(crate) struct Entry {
    ledger: Ledger,
    connection: usize,
}

impl Watcher for Entry {
    fn sent(&mut self, _frame: Frame, start: &[u8]) {
        if let Some(call) = number_in(start) {
            self.ledger.with(|book| book.calls.insert(call, self.connection));
        }
    }

    fn reading_ended(&mut self, error: Option<&io::Error>) {
        let reading = match error.map(io::Error::kind) {
            None => Reading::Closed,
            Some(io::ErrorKind::ConnectionReset) => Reading::Reset,
            Some(_) => Reading::Failed,
        };
        self.ledger.with(|book| book.connections[self.connection].reading = reading);
    }

    fn writing_failed(&mut self) {
        self.ledger.with(|book| book.connections[self.connection].has_write_failed = true);
    }
}

/// A payload of `size` bytes with the number of its call.
pub(crate) fn numbered(call: u64, size: usize) -> Payload {
    let mut body = Vec::with_capacity(size);
    body.extend(MARK);
    body.extend(call.to_be_bytes());
    body.resize(size, 0);
    Payload { body, ..Default::default() }
}

fn number_in(start: &[u8]) -> Option<u64> {
    let at = start.windows(MARK.len()).position(|window| window == MARK)? + MARK.len();
    Some(u64::from_be_bytes(start.get(at..at + 8)?.try_into().ok()?))
}

/// What stands before a number; nothing else in a request looks like it.
const MARK: [u8; 8] = *b"call no ";

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::proto::{ResponseParameters, SimpleRequest, StreamingOutputCallRequest};
    use crate::wire::{Kind, START_BYTES};

    #[test]
    fn the_number_of_a_call_stands_where_a_watcher_is_shown_it() {
        let payload = Some(numbered(u64::MAX - 7, 20_000));
        let unary = SimpleRequest {
            response_size: i32::MAX,
            payload: payload.clone(),
            ..Default::default()
        };
        let parameters =
            ResponseParameters { size: i32::MAX, interval_us: i32::MAX, compressed: None };
        let stream = StreamingOutputCallRequest {
            response_parameters: vec![parameters],
            payload,
            ..Default::default()
        };
        for message in [unary.encode_to_vec(), stream.encode_to_vec()] {
            let frame = [&[0; 5], &message[..]].concat();
            assert_eq!(number_in(&frame[..START_BYTES]), Some(u64::MAX - 7));
        }
        assert_eq!(number_in(&MARK), None);
        assert_eq!(number_in(&[]), None);
    }

    #[test]
    fn a_failed_call_is_sorted_by_the_end_of_the_connection_it_was_sent_on_last() {
        let reset = || Some(io::Error::from(io::ErrorKind::ConnectionReset));
        let broken = || Some(io::Error::from(io::ErrorKind::TimedOut));
        let rows = [
            (false, None, Cause::Answered),
            (false, Some(None), Cause::Closed),
            (false, Some(reset()), Cause::ResetOnReading),
            (false, Some(broken()), Cause::FailedReading),
            (true, None, Cause::FailedWrite),
            (true, Some(None), Cause::FailedWrite),
            (true, Some(reset()), Cause::ResetOnReading),
        ];
        for (has_write_failed, reading, cause) in rows {
            let ledger = Ledger::default();
            let (mut first, mut last) = (ledger.watcher(), ledger.watcher());
            first.writing_failed();
            let start = numbered(3, 16).body;
            for watcher in [&mut first as &mut dyn Watcher, &mut last] {
                watcher.sent(Frame { stream: 1, kind: Kind::Data }, &start);
            }
            if has_write_failed {
                last.writing_failed();
            }
            if let Some(error) = &reading {
                last.reading_ended(error.as_ref());
            }
            assert_eq!(ledger.strike(3), cause, "{has_write_failed} {reading:?}");
            assert_eq!(ledger.strike(3), Cause::NeverSent, "it was struck");
            assert_eq!(ledger.connections(), 2);
        }
    }
}

//! What a stream has sent, kept until it is certain that no other attempt will need it.

use std::mem;
use std::sync::Arc;

use super::Retrying;
use crate::transport::Message;

/// The messages of a call that is not committed yet.
///
/// They share their bytes with what was sent. No more of them are kept than the channel allows for
/// a call, and for all calls together: the message that goes beyond commits the call, as the answer
/// of the server does.
pub(super) struct Replay {
    retrying: Arc<Retrying>,
    /// How much is kept of this call.
    bytes_max: usize,
    state: State,
}

enum State {
    Open { messages: Vec<Message>, bytes: usize, half_closed: bool },
    Committed { half_closed: bool },
}

impl Replay {
    /// What is kept of a call that allows for `bytes_max`.
    pub(super) fn new(retrying: Arc<Retrying>, bytes_max: usize) -> Self {
        let state = State::Open { messages: Vec::new(), bytes: 0, half_closed: false };
        Self { retrying, bytes_max, state }
    }

    /// Remembers a message that is being sent.
    pub(super) fn push(&mut self, message: &Message) {
        if let State::Open { messages, bytes, .. } = &mut self.state {
            let length = message.frame_len();
            if *bytes + length <= self.bytes_max && self.retrying.keep(length) {
                *bytes += length;
                messages.push(message.clone());
            } else {
                self.commit();
            }
        }
    }

    /// Remembers that no further message follows.
    pub(super) fn half_close(&mut self) {
        match &mut self.state {
            State::Open { half_closed, .. } | State::Committed { half_closed } => {
                *half_closed = true;
            }
        }
    }

    /// Whether no further message follows.
    pub(super) fn is_half_closed(&self) -> bool {
        match &self.state {
            State::Open { half_closed, .. } | State::Committed { half_closed } => *half_closed,
        }
    }

    /// Forgets the messages: this attempt is the call's last.
    pub(super) fn commit(&mut self) {
        let committed = State::Committed { half_closed: self.is_half_closed() };
        if let State::Open { bytes, .. } = mem::replace(&mut self.state, committed) {
            self.retrying.give_back(bytes);
        }
    }

    /// Whether there will be no further attempt.
    pub(super) fn is_committed(&self) -> bool {
        matches!(self.state, State::Committed { .. })
    }

    /// What another attempt must send.
    pub(super) fn messages(&self) -> &[Message] {
        match &self.state {
            State::Open { messages, .. } => messages,
            State::Committed { .. } => &[],
        }
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        self.commit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::RetryLimits;

    fn message(len: usize) -> Message {
        Message::encode(len, |buf| {
            buf.extend_from_slice(&vec![7; len]);
            Ok::<_, std::convert::Infallible>(())
        })
        .unwrap()
    }

    fn retrying(channel_buffer_max: usize) -> Arc<Retrying> {
        let limits = RetryLimits { attempts_cap: 5, call_buffer_max: 100, channel_buffer_max };
        Arc::new(Retrying::new(limits, 1))
    }

    /// What is kept of all calls.
    fn kept(retrying: &Retrying) -> usize {
        retrying.buffered.load(std::sync::atomic::Ordering::Relaxed)
    }

    #[test]
    fn messages_are_kept_until_the_call_commits() {
        let retrying = retrying(100);
        let mut replay = Replay::new(retrying.clone(), 100);
        replay.push(&message(10));
        replay.push(&message(20));
        replay.half_close();
        assert_eq!(replay.messages().len(), 2);
        assert_eq!(kept(&retrying), 10 + 20 + 2 * 5);
        replay.commit();
        assert!(replay.is_committed() && replay.is_half_closed());
        assert!(replay.messages().is_empty());
        assert_eq!(kept(&retrying), 0);
    }

    #[test]
    fn the_message_that_goes_beyond_the_limit_of_its_call_commits_that() {
        let retrying = retrying(1_000);
        let mut replay = Replay::new(retrying.clone(), 100);
        replay.push(&message(95));
        assert!(!replay.is_committed());
        replay.push(&message(0));
        assert!(replay.is_committed());
        replay.push(&message(1));
        assert!(replay.messages().is_empty());
        assert_eq!(kept(&retrying), 0);
    }

    #[test]
    fn the_message_that_goes_beyond_the_limit_of_all_calls_commits_its_own() {
        let retrying = retrying(150);
        let mut one = Replay::new(retrying.clone(), 100);
        let mut other = Replay::new(retrying.clone(), 100);
        one.push(&message(95));
        other.push(&message(45));
        assert_eq!(kept(&retrying), 150);
        other.push(&message(0));
        assert!(other.is_committed() && !one.is_committed());
        assert_eq!(kept(&retrying), 100);
        drop(one);
        assert_eq!(kept(&retrying), 0);
    }
}

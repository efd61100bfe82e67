//! What a stream has sent, kept until it is certain that no other attempt will need it.

use crate::transport::Message;

/// The messages of a call that is not committed yet.
///
/// They share their bytes with what was sent. At most [`REPLAY_BYTES_MAX`] are kept: the message
/// that goes beyond commits the call, as the answer of the server does.
pub(super) struct Replay(State);

enum State {
    Open { messages: Vec<Message>, bytes: usize, half_closed: bool },
    Committed { half_closed: bool },
}

impl Replay {
    pub(super) fn new() -> Self {
        Self(State::Open { messages: Vec::new(), bytes: 0, half_closed: false })
    }

    /// Remembers a message that is being sent.
    pub(super) fn push(&mut self, message: &Message) {
        if let State::Open { messages, bytes, .. } = &mut self.0 {
            *bytes += message.payload_len() + PREFIX_BYTES;
            if *bytes > REPLAY_BYTES_MAX {
                self.commit();
            } else {
                messages.push(message.clone());
            }
        }
    }

    /// Remembers that no further message follows.
    pub(super) fn half_close(&mut self) {
        match &mut self.0 {
            State::Open { half_closed, .. } | State::Committed { half_closed } => {
                *half_closed = true;
            }
        }
    }

    /// Whether no further message follows.
    pub(super) fn is_half_closed(&self) -> bool {
        match &self.0 {
            State::Open { half_closed, .. } | State::Committed { half_closed } => *half_closed,
        }
    }

    /// Forgets the messages: this attempt is the call's last.
    pub(super) fn commit(&mut self) {
        self.0 = State::Committed { half_closed: self.is_half_closed() };
    }

    /// Whether there will be no further attempt.
    pub(super) fn is_committed(&self) -> bool {
        matches!(self.0, State::Committed { .. })
    }

    /// What another attempt must send.
    pub(super) fn messages(&self) -> &[Message] {
        match &self.0 {
            State::Open { messages, .. } => messages,
            State::Committed { .. } => &[],
        }
    }
}

/// What the prefix of a message adds to its size.
const PREFIX_BYTES: usize = 5;

/// As in grpc-go: large enough for calls of ordinary size, small enough to hold thousands.
const REPLAY_BYTES_MAX: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn message(len: usize) -> Message {
        Message::encode(len, |buf| {
            buf.extend_from_slice(&vec![7; len]);
            Ok::<_, std::convert::Infallible>(())
        })
        .unwrap()
    }

    #[test]
    fn messages_are_kept_until_the_call_commits() {
        let mut replay = Replay::new();
        replay.push(&message(10));
        replay.push(&message(20));
        replay.half_close();
        assert_eq!(replay.messages().len(), 2);
        replay.commit();
        assert!(replay.is_committed() && replay.is_half_closed());
        assert!(replay.messages().is_empty());
    }

    #[test]
    fn the_message_that_goes_beyond_the_limit_commits() {
        let mut replay = Replay::new();
        replay.push(&message(REPLAY_BYTES_MAX - PREFIX_BYTES));
        assert!(!replay.is_committed());
        replay.push(&message(0));
        assert!(replay.is_committed());
        replay.push(&message(1));
        assert!(replay.messages().is_empty());
    }
}

//! Connectivity states, of a channel and of a subchannel.

use std::fmt;

use serde::Serialize;

/// How a channel or a subchannel stands with its servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ConnectivityState {
    /// Not trying to connect: nobody has asked, or the last connection ended.
    Idle,
    /// Resolving, dialling or shaking hands.
    Connecting,
    /// Calls can be sent.
    Ready,
    /// The last attempt failed; the next follows after a backoff.
    TransientFailure,
    /// Closed for good.
    Shutdown,
}

impl ConnectivityState {
    /// The state of a whole, given how many of its parts are in each state: READY if any is, else
    /// CONNECTING if any is, else IDLE if any is, else `TRANSIENT_FAILURE` (also for no parts).
    pub fn aggregate(states: impl IntoIterator<Item = Self>) -> Self {
        states.into_iter().fold(Self::TransientFailure, |whole, part| {
            if part.rank() > whole.rank() { part } else { whole }
        })
    }

    fn rank(self) -> u8 {
        match self {
            Self::Ready => 3,
            Self::Connecting => 2,
            Self::Idle => 1,
            Self::TransientFailure | Self::Shutdown => 0,
        }
    }
}

impl fmt::Display for ConnectivityState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Idle => "IDLE",
            Self::Connecting => "CONNECTING",
            Self::Ready => "READY",
            Self::TransientFailure => "TRANSIENT_FAILURE",
            Self::Shutdown => "SHUTDOWN",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::ConnectivityState::{self, Connecting, Idle, Ready, Shutdown, TransientFailure};

    #[test]
    fn the_best_part_decides_the_state_of_the_whole() {
        let rows: [(&[ConnectivityState], ConnectivityState); 7] = [
            (&[], TransientFailure),
            (&[TransientFailure], TransientFailure),
            (&[Shutdown], TransientFailure),
            (&[TransientFailure, Idle], Idle),
            (&[Idle, Connecting], Connecting),
            (&[Connecting, Idle], Connecting),
            (&[TransientFailure, Connecting, Ready, Idle], Ready),
        ];
        for (parts, whole) in rows {
            assert_eq!(ConnectivityState::aggregate(parts.iter().copied()), whole, "{parts:?}");
        }
    }
}

//! Reads the engine's errors.

use super::super::error::{DisconnectCause, ErrorCode, Goaway, StreamError};
use super::connection::Shared;

/// What one stream's `error` means. `ended_here` is why this side ended the stream, if it did.
pub(super) fn of_stream(
    shared: &Shared,
    stream: u32,
    ended_here: Option<&StreamError>,
    error: &h2::Error,
) -> StreamError {
    let code = ErrorCode(error.reason().map_or(0, u32::from));
    if error.is_reset() {
        return match ended_here {
            // Also where the peer's reset met ours on its way out, which the engine then shows.
            Some(reason) => reason.clone(),
            None if error.is_library() => StreamError::Malformed(code),
            None if !error.is_remote() => StreamError::Ended,
            None if code == ErrorCode::REFUSED_STREAM => StreamError::Refused,
            None => StreamError::Reset(code),
        };
    }
    // The server's own GOAWAY ends only streams that it has not looked at. After a GOAWAY of the
    // engine what it has buffered still leaves, so that nothing is known to be unsent.
    let goaway_from_server = error.is_go_away() && error.is_remote();
    let unsent = (goaway_from_server || error.is_io()) && !shared.watch.has_sent(stream);
    if unsent {
        StreamError::Unsent(shared.how_it_ended(|| of_connection(shared, error)))
    } else if goaway_from_server {
        StreamError::Unprocessed(shared.why_stopped(|| of_connection(shared, error)))
    } else {
        StreamError::Lost(shared.how_it_ended(|| of_connection(shared, error)))
    }
}

/// What an error of the whole connection means.
pub(super) fn of_connection(shared: &Shared, error: &h2::Error) -> DisconnectCause {
    if error.is_io() {
        DisconnectCause::Lost(shared.watch.loss())
    } else if let Some(goaway) = goaway_of(error) {
        DisconnectCause::Goaway(goaway)
    } else if error.is_go_away() {
        DisconnectCause::Protocol(error.to_string())
    } else {
        // The one complaint the engine has of a handle that sends nothing malformed.
        DisconnectCause::StreamIdsUsedUp
    }
}

/// The server's GOAWAY, if that is what `error` is.
pub(super) fn goaway_of(error: &h2::Error) -> Option<Goaway> {
    (error.is_go_away() && error.is_remote()).then(|| Goaway {
        code: ErrorCode(error.reason().map_or(0, u32::from)),
        debug_data: debug_data(&error.to_string()),
    })
}

/// The debug data of a GOAWAY. The engine shows it only at the end of its text, as `(b"..")`.
fn debug_data(text: &str) -> String {
    let data =
        text.split_once("(b\"").and_then(|(_, rest)| rest.strip_suffix("\")")).unwrap_or_default();
    data.chars().take(DEBUG_DATA_CHARS_MAX).collect()
}

/// Debug data is for people; a frame of it is not.
const DEBUG_DATA_CHARS_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_data_is_cut_out_of_the_text() {
        assert_eq!(debug_data("connection error received: x (b\"too_many\")"), "too_many");
        assert_eq!(debug_data("connection error received: not a result (of) x"), "");
        assert_eq!(debug_data(&format!("x (b\"{}\")", "y".repeat(999))).len(), 256);
    }
}

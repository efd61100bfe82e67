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
            None if error.is_library() => match shared.watch.blocks.is_long(stream) {
                Some(limit) => StreamError::HeadTooLarge { limit },
                None => StreamError::Malformed(code),
            },
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
        StreamError::Unprocessed(shared.disowned(|| of_connection(shared, error)))
    } else {
        StreamError::Lost(shared.how_it_ended(|| of_connection(shared, error)))
    }
}

/// What an error of the whole connection means.
pub(super) fn of_connection(shared: &Shared, error: &h2::Error) -> DisconnectCause {
    if error.is_io() {
        DisconnectCause::Lost(shared.watch.loss())
    } else if error.is_go_away() && error.is_remote() {
        let code = error.reason().map_or(0, u32::from);
        // Each has gone by; without its own words its code would do.
        let goaway = shared.watch.goaway().unwrap_or_else(|| Goaway::new(0, code, b""));
        DisconnectCause::Goaway(goaway)
    } else if error.is_go_away() {
        let is_too_much = error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM);
        let limit = shared.watch.blocks.is_any_long().filter(|_| is_too_much);
        DisconnectCause::Protocol(match limit {
            Some(limit) => format!(
                "it sent header fields far beyond the limit of {limit} bytes: raise \
                 max_header_list_bytes to take them ({error})"
            ),
            None => error.to_string(),
        })
    } else {
        // The one complaint the engine has of a handle that sends nothing malformed.
        DisconnectCause::StreamIdsUsedUp
    }
}

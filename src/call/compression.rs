//! Messages as the application has them, and as they go over the wire.

use bytes::Bytes;

use super::{CallHead, Shared, Terms, status};
use crate::transport::{DecompressError, Encoding, Message, decompress};
use crate::types::{Address, Status, harmless};

/// `message` as `call` sends it, where that is not as it is.
#[inline]
pub(super) fn compressed(message: &Message, call: &CallHead) -> Result<Option<Message>, Status> {
    match call.compression {
        Some(compression) => {
            message.compress(compression).map(Some).map_err(status::cannot_compress)
        }
        None => Ok(None),
    }
}

/// What `payload` of a compressed message is under `encoding`: never to more than the
/// call takes.
pub(super) fn decompressed(
    payload: &[u8],
    encoding: &Encoding,
    call: &CallHead,
    shared: &Shared,
    terms: &Terms,
    peer: &Address,
) -> Result<Bytes, Status> {
    let fault = |what: &str| Err(status::compressed(peer, what));
    let accepted = call.accepted().unwrap_or(&shared.accepted);
    let compression = match encoding {
        Encoding::Identity => return fault("it has named no encoding"),
        Encoding::Unknown(name) => {
            return fault(&format!("its encoding `{}` is not built in", harmless(name)));
        }
        Encoding::Known(known) if !accepted.contains(known) && call.compression != Some(*known) => {
            return fault(&format!("its encoding `{}` was not offered", known.name()));
        }
        Encoding::Known(known) => *known,
    };
    decompress(compression, payload, terms.receive_bytes_max).map_err(|error| match error {
        DecompressError::TooLarge { limit } => status::too_large_decompressed(peer, limit),
        DecompressError::Corrupt(error) => {
            status::compressed(peer, &format!("it cannot be decompressed: {error}"))
        }
    })
}

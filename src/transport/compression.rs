//! Messages, compressed and back.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};

use crate::types::Compression;

use super::message::Message;

impl Message {
    /// The same message, compressed. One that is empty stays as it is.
    pub(crate) fn compress(&self, compression: Compression) -> io::Result<Self> {
        let payload = self.payload();
        if payload.is_empty() {
            return Ok(self.clone());
        }
        Self::encode_flagged(true, payload.len() / 2, |out| write(compression, payload, out))
    }
}

#[cfg_attr(
    not(any(feature = "gzip", feature = "deflate", feature = "zstd")),
    expect(unused_variables, reason = "there is nothing to compress with")
)]
fn write(compression: Compression, payload: &[u8], out: &mut BytesMut) -> io::Result<()> {
    let out = out.writer();
    match compression {
        #[cfg(feature = "gzip")]
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::default());
            io::Write::write_all(&mut encoder, payload)?;
            encoder.finish().map(drop)
        }
        #[cfg(feature = "deflate")]
        Compression::Deflate => {
            let mut encoder = flate2::write::ZlibEncoder::new(out, flate2::Compression::default());
            io::Write::write_all(&mut encoder, payload)?;
            encoder.finish().map(drop)
        }
        #[cfg(feature = "zstd")]
        Compression::Zstd => {
            zstd::stream::copy_encode(payload, out, zstd::DEFAULT_COMPRESSION_LEVEL)
        }
    }
}

/// What `payload` is a compressed form of, of `limit` bytes at most: no more than that is ever
/// held.
#[cfg_attr(
    not(any(feature = "gzip", feature = "deflate", feature = "zstd")),
    expect(unused_variables, reason = "there is nothing to decompress with")
)]
pub(crate) fn decompress(
    compression: Compression,
    payload: &[u8],
    limit: usize,
) -> Result<Bytes, DecompressError> {
    match compression {
        #[cfg(feature = "gzip")]
        Compression::Gzip => read(flate2::read::MultiGzDecoder::new(payload), limit),
        #[cfg(feature = "deflate")]
        Compression::Deflate => read(flate2::read::ZlibDecoder::new(payload), limit),
        #[cfg(feature = "zstd")]
        Compression::Zstd => {
            let mut decoder =
                zstd::stream::Decoder::new(payload).map_err(DecompressError::Corrupt)?;
            // What a server may make this side hold at most beside the message itself.
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(DecompressError::Corrupt)?;
            read(decoder, limit)
        }
    }
}

#[cfg(any(feature = "gzip", feature = "deflate", feature = "zstd"))]
fn read(from: impl io::Read, limit: usize) -> Result<Bytes, DecompressError> {
    let mut whole = Vec::new();
    // One byte more tells that there is more.
    let mut bounded = from.take((limit as u64).saturating_add(1));
    io::Read::read_to_end(&mut bounded, &mut whole).map_err(DecompressError::Corrupt)?;
    if whole.len() > limit {
        return Err(DecompressError::TooLarge { limit });
    }
    Ok(whole.into())
}

/// A compressed message is none, or too large.
#[derive(Debug)]
#[cfg_attr(
    not(any(feature = "gzip", feature = "deflate", feature = "zstd")),
    expect(dead_code, reason = "nothing is compressed")
)]
pub(crate) enum DecompressError {
    /// It is not what its encoding says.
    Corrupt(io::Error),
    /// It is larger than allowed.
    TooLarge {
        /// Bytes that are allowed.
        limit: usize,
    },
}

/// 8 MiB, which decoders are to support at least.
#[cfg(feature = "zstd")]
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

#[cfg(test)]
mod tests {
    use super::*;

    fn message(payload: &[u8]) -> Message {
        Message::encode(payload.len(), |buf| {
            buf.extend_from_slice(payload);
            Ok::<_, std::convert::Infallible>(())
        })
        .unwrap()
    }

    #[test]
    fn a_message_comes_back_as_it_was() {
        let long = b"switchboard ".repeat(10_000);
        for compression in Compression::ALL.iter().copied() {
            for payload in [&b"x"[..], &long] {
                let compressed = message(payload).compress(compression).unwrap();
                assert!(compressed.is_compressed());
                let back = decompress(compression, compressed.payload(), payload.len()).unwrap();
                assert_eq!(back, payload, "{compression:?}");
            }
            assert!(message(&long).compress(compression).unwrap().payload_len() < 2_000);
            let empty = message(b"").compress(compression).unwrap();
            assert!(!empty.is_compressed() && empty.payload_len() == 0);
        }
    }

    #[test]
    fn what_is_too_large_or_broken_is_refused() {
        for compression in Compression::ALL.iter().copied() {
            let compressed = message(&[7; 1_000]).compress(compression).unwrap();
            let payload = compressed.payload();
            let large = decompress(compression, payload, 999).unwrap_err();
            assert!(matches!(large, DecompressError::TooLarge { limit: 999 }), "{large:?}");
            let mut broken = payload.to_vec();
            let middle = broken.len() / 2;
            broken[middle] ^= 0xff;
            for bad in [&broken[..], &payload[..payload.len() - 3], b"", b"no such thing"] {
                let error = decompress(compression, bad, 9_999);
                assert!(error.is_err() || bad.is_empty(), "{compression:?} {bad:?}");
            }
        }
    }
}

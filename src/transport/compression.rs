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
        Compression::Gzip => read_members(payload, limit),
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

/// Reads gzip, which may be several members, one behind the other. Each takes some microseconds
/// however little is in it, so there may be no more of them than what they hold makes worthwhile.
#[cfg(feature = "gzip")]
fn read_members(mut payload: &[u8], limit: usize) -> Result<Bytes, DecompressError> {
    let mut whole = Vec::new();
    for member in 1.. {
        let mut decoder = flate2::bufread::GzDecoder::new(payload);
        read_into(&mut decoder, &mut whole, limit)?;
        payload = decoder.into_inner();
        if payload.is_empty() {
            break;
        }
        if member >= GZIP_MEMBERS_FREE + whole.len() / GZIP_MEMBER_MIN {
            let text = format!(
                "{member} gzip members hold {} bytes, and more follow: at most \
                 {GZIP_MEMBERS_FREE} and one for each {GZIP_MEMBER_MIN} bytes are taken",
                whole.len()
            );
            return Err(DecompressError::Corrupt(io::Error::new(io::ErrorKind::InvalidData, text)));
        }
    }
    Ok(whole.into())
}

#[cfg(any(feature = "deflate", feature = "zstd"))]
fn read(from: impl io::Read, limit: usize) -> Result<Bytes, DecompressError> {
    let mut whole = Vec::new();
    read_into(from, &mut whole, limit)?;
    Ok(whole.into())
}

/// Puts all of `from` behind `whole`, which then has `limit` bytes at most.
#[cfg(any(feature = "gzip", feature = "deflate", feature = "zstd"))]
fn read_into(
    from: impl io::Read,
    whole: &mut Vec<u8>,
    limit: usize,
) -> Result<(), DecompressError> {
    // One byte more tells that there is more.
    let mut bounded = from.take((limit - whole.len()) as u64 + 1);
    io::Read::read_to_end(&mut bounded, whole).map_err(DecompressError::Corrupt)?;
    if whole.len() > limit {
        return Err(DecompressError::TooLarge { limit });
    }
    Ok(())
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

/// Members of gzip that are taken whatever they hold: one is usual.
#[cfg(feature = "gzip")]
const GZIP_MEMBERS_FREE: usize = 100;

/// How much each further member holds on average: tools that write many fill them with 64 KiB.
#[cfg(feature = "gzip")]
const GZIP_MEMBER_MIN: usize = 4 * 1024;

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

    #[cfg(feature = "gzip")]
    #[test]
    fn gzip_of_many_members_is_read_as_long_as_they_hold_something() {
        let member = |payload: &[u8]| {
            let mut out = BytesMut::new();
            write(Compression::Gzip, payload, &mut out).unwrap();
            out.to_vec()
        };
        let read = |payload: &[u8]| decompress(Compression::Gzip, payload, 1 << 20);
        assert_eq!(read(&[member(b"a"), member(b""), member(b"b")].concat()).unwrap(), "ab");
        assert_eq!(read(&member(&[7; 4_096]).repeat(256)).unwrap(), vec![7; 1 << 20]);
        assert_eq!(read(&member(b"").repeat(GZIP_MEMBERS_FREE)).unwrap(), "");
        let large = read(&member(&[7; 4_096]).repeat(257)).unwrap_err();
        assert!(matches!(large, DecompressError::TooLarge { .. }), "{large:?}");
        // Two megabytes of nothing, or of little.
        for payload in [&b""[..], b"x", &[7; 1_000]] {
            let member = member(payload);
            let error = read(&member.repeat((2 << 20) / member.len())).unwrap_err();
            let DecompressError::Corrupt(error) = error else { panic!("{error:?}") };
            assert!(error.to_string().contains("gzip members hold"), "{error}");
        }
        assert!(read(&[member(b"a"), b"more".to_vec()].concat()).is_err());
    }
}

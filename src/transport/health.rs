//! The two messages of gRPC's health service (A17), written and read by hand: the channel speaks
//! them whether or not it is built with a protobuf library.

use std::convert::Infallible;
use std::fmt;

use bytes::{Buf, BufMut};

use super::message::Message;

/// What a server says of a service, or of itself as a whole: `HealthCheckResponse.status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ServingStatus(u64);

impl ServingStatus {
    /// Whether calls are welcome.
    pub(crate) fn is_serving(self) -> bool {
        self.0 == SERVING
    }

    /// Reads a `HealthCheckResponse`. One without a status has that of number 0, as proto3 has it;
    /// fields that are not known are skipped, and of several the last counts.
    pub(crate) fn decode(mut message: &[u8]) -> Result<Self, Undecodable> {
        let mut status = 0;
        while message.has_remaining() {
            let key = varint(&mut message)?;
            match (key >> 3, key & 7) {
                (STATUS, VARINT) => status = varint(&mut message)?,
                // There is no field of number 0, and the status is a number.
                (0 | STATUS, _) => return Err(Undecodable),
                (_, VARINT) => drop(varint(&mut message)?),
                (_, FIXED64) => skip(&mut message, 8)?,
                (_, FIXED32) => skip(&mut message, 4)?,
                (_, LENGTH_DELIMITED) => {
                    let length = varint(&mut message)?;
                    skip(&mut message, length)?;
                }
                (_, _other_wire_type) => return Err(Undecodable),
            }
        }
        Ok(Self(status))
    }
}

impl fmt::Display for ServingStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("UNKNOWN"),
            SERVING => f.write_str("SERVING"),
            2 => f.write_str("NOT_SERVING"),
            3 => f.write_str("SERVICE_UNKNOWN"),
            other => write!(f, "a status of number {other}"),
        }
    }
}

/// A `HealthCheckRequest` for `service`; the empty name is the server as a whole.
pub(crate) fn request_for(service: &str) -> Message {
    let written = Message::encode(service.len() + KEY_AND_LENGTH_MAX, |buf| {
        if !service.is_empty() {
            buf.put_u8(SERVICE_KEY);
            let mut length = service.len();
            while length > 0x7f {
                buf.put_u8((length & 0x7f) as u8 | 0x80);
                length >>= 7;
            }
            buf.put_u8(length as u8);
            buf.put_slice(service.as_bytes());
        }
        Ok::<(), Infallible>(())
    });
    match written {
        Ok(message) => message,
        Err(never) => match never {},
    }
}

/// What came is no `HealthCheckResponse`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Undecodable;

impl fmt::Display for Undecodable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the server sent what is no HealthCheckResponse")
    }
}

impl std::error::Error for Undecodable {}

fn varint(message: &mut &[u8]) -> Result<u64, Undecodable> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = message.try_get_u8().map_err(|_| Undecodable)?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(Undecodable)
}

fn skip(message: &mut &[u8], length: u64) -> Result<(), Undecodable> {
    let length = usize::try_from(length).map_err(|_| Undecodable)?;
    *message = message.get(length..).ok_or(Undecodable)?;
    Ok(())
}

const SERVING: u64 = 1;

/// The number of `HealthCheckResponse.status`.
const STATUS: u64 = 1;

/// Field 1, with a length: `HealthCheckRequest.service`.
const SERVICE_KEY: u8 = 1 << 3 | LENGTH_DELIMITED as u8;

/// A byte, and a number of 64 bits.
const KEY_AND_LENGTH_MAX: usize = 11;

// How protobuf tells the length of a field.
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const LENGTH_DELIMITED: u64 = 2;
const FIXED32: u64 = 5;

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[derive(Clone, PartialEq, prost::Message)]
    struct HealthCheckRequest {
        #[prost(string, tag = "1")]
        service: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct HealthCheckResponse {
        #[prost(int32, tag = "1")]
        status: i32,
    }

    #[test]
    fn a_request_is_what_protobuf_makes_of_it() {
        for length in [0, 1, 127, 128, 20_000] {
            let service = "s".repeat(length);
            let expected = HealthCheckRequest { service: service.clone() }.encode_to_vec();
            assert_eq!(request_for(&service).payload(), expected, "{length}");
        }
    }

    #[test]
    fn a_status_is_read_as_protobuf_reads_it() {
        for (status, name) in
            [(0, "UNKNOWN"), (1, "SERVING"), (2, "NOT_SERVING"), (3, "SERVICE_UNKNOWN")]
        {
            let message = HealthCheckResponse { status }.encode_to_vec();
            let read = ServingStatus::decode(&message).unwrap();
            assert_eq!((read.to_string().as_str(), read.is_serving()), (name, status == 1));
        }
        let negative = HealthCheckResponse { status: -1 }.encode_to_vec();
        assert!(!ServingStatus::decode(&negative).unwrap().is_serving());
    }

    #[test]
    fn what_is_not_known_is_skipped_and_the_last_status_counts() {
        let message = [
            0x10, 0x96, 0x01, // field 2, a number
            0x1a, 0x02, 0xff, 0xff, // field 3, two bytes
            0x25, 1, 2, 3, 4, // field 4, 32 bits
            0x29, 1, 2, 3, 4, 5, 6, 7, 8, // field 5, 64 bits
            0x08, 0x02, 0x08, 0x01,
        ];
        assert!(ServingStatus::decode(&message).unwrap().is_serving());
    }

    #[test]
    fn what_is_no_response_is_refused_wherever_it_ends() {
        let rows: [&[u8]; 8] = [
            &[0x08],
            &[0x08, 0x80],
            &[0x00, 0x01],
            &[0x0a, 0x01, 0x01],
            &[0x1a, 0x05, 0x01],
            &[0x13, 0x14],
            &[0x2d, 0x01],
            &[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
        ];
        for bytes in rows {
            assert_eq!(ServingStatus::decode(bytes), Err(Undecodable), "{bytes:?}");
        }
    }
}

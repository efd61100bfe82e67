//! `grpc.binarylog.v1.GrpcLogEntry`, encoded.

use std::time::Duration;

use prost::encoding::{bytes, string, uint32, uint64};

use super::filter::Extent;
use crate::types::{Address, Metadata, Status};

/// What an entry tells of.
pub(super) enum Event<'a> {
    ClientHeader {
        method: &'a str,
        authority: &'a str,
        metadata: &'a Metadata,
        timeout: Option<Duration>,
    },
    ServerHeader(&'a Metadata),
    ClientMessage(&'a [u8]),
    ServerMessage(&'a [u8]),
    HalfClose,
    Trailer {
        result: Result<(), &'a Status>,
        metadata: Option<&'a Metadata>,
    },
    Cancel,
}

/// The part of an entry that can be made before its place among the others is known.
pub(super) struct Payload {
    kind: u32,
    /// The field of the payload, and that encoded.
    part: Option<(u32, Vec<u8>)>,
    is_truncated: bool,
    at: Duration,
}

impl Payload {
    /// What is logged of `event`, which happened `at` this time after 1970.
    pub(super) fn new(event: &Event<'_>, extent: Extent, at: Duration) -> Self {
        let (kind, field) = match event {
            Event::ClientHeader { .. } => (1, Some(6)),
            Event::ServerHeader(_) => (2, Some(7)),
            Event::ClientMessage(_) => (3, Some(8)),
            Event::ServerMessage(_) => (4, Some(8)),
            Event::HalfClose => (5, None),
            Event::Trailer { .. } => (6, Some(9)),
            Event::Cancel => (7, None),
        };
        let mut out = Vec::new();
        let is_truncated = match event {
            Event::ClientHeader { method, authority, metadata, timeout } => {
                let is_truncated = put_metadata(metadata, extent, &mut out);
                put_str(2, method, &mut out);
                put_str(3, authority, &mut out);
                if let Some(timeout) = timeout {
                    put(4, &time(*timeout), &mut out);
                }
                is_truncated
            }
            Event::ServerHeader(metadata) => put_metadata(metadata, extent, &mut out),
            Event::ClientMessage(message) | Event::ServerMessage(message) => {
                let kept = usize::try_from(extent.message).unwrap_or(usize::MAX);
                put_u32(1, u32::try_from(message.len()).unwrap_or(u32::MAX), &mut out);
                put(2, &message[..message.len().min(kept)], &mut out);
                kept < message.len()
            }
            Event::Trailer { result, metadata } => {
                let is_truncated =
                    metadata.is_some_and(|metadata| put_metadata(metadata, extent, &mut out));
                if let Err(status) = result {
                    put_u32(2, status.code().number(), &mut out);
                    put_str(3, status.message(), &mut out);
                    put(4, status.details(), &mut out);
                }
                is_truncated
            }
            Event::HalfClose | Event::Cancel => false,
        };
        Self { kind, part: field.map(|field| (field, out)), is_truncated, at }
    }

    /// The entry, the `sequence`th of its call.
    pub(super) fn entry(&self, call: u64, sequence: u64, peer: Option<&Address>) -> Vec<u8> {
        let mut out = Vec::new();
        put(1, &time(self.at), &mut out);
        uint64::encode(2, &call, &mut out);
        uint64::encode(3, &sequence, &mut out);
        put_u32(4, self.kind, &mut out);
        put_u32(5, LOGGER_CLIENT, &mut out);
        if let Some((field, part)) = &self.part {
            bytes::encode(*field, part, &mut out);
        }
        put_u32(10, u32::from(self.is_truncated), &mut out);
        if let Some(peer) = peer {
            put(11, &address(peer), &mut out);
        }
        out
    }
}

/// Leaves out what is secret. Says whether not all of the rest fits.
fn put_metadata(metadata: &Metadata, extent: Extent, out: &mut Vec<u8>) -> bool {
    let metadata = metadata.without_secrets();
    let (mut entries, mut left, mut is_truncated) = (Vec::new(), extent.header, false);
    for key in metadata.keys().filter(|key| is_logged(key)) {
        let mut put_one = |value: &[u8]| {
            let length = (key.len() + value.len()) as u64;
            // What a trace goes by is always there, and does not count.
            let rest = if key == TRACE { Some(left) } else { left.checked_sub(length) };
            match rest {
                Some(rest) if !is_truncated || key == TRACE => {
                    left = rest;
                    let mut entry = Vec::new();
                    put_str(1, key, &mut entry);
                    put(2, value, &mut entry);
                    bytes::encode(1, &entry, &mut entries);
                }
                Some(_) | None => is_truncated = true,
            }
        };
        if key.ends_with("-bin") {
            metadata.get_all_bin(key).for_each(|value| put_one(&value));
        } else {
            metadata.get_all(key).for_each(|value| put_one(value.as_bytes()));
        }
    }
    bytes::encode(1, &entries, out);
    is_truncated
}

/// What belongs to the protocol is not logged.
fn is_logged(key: &str) -> bool {
    let of_protocol = ["lb-token", "content-encoding", "content-type", "user-agent", "te"];
    key == TRACE || !(key.starts_with("grpc-") || of_protocol.contains(&key))
}

fn address(address: &Address) -> Vec<u8> {
    let (kind, text, port) = match address {
        Address::Socket(socket) => {
            let kind = if socket.is_ipv4() { 1 } else { 2 };
            (kind, socket.ip().to_string(), Some(socket.port()))
        }
        Address::Unix(_) | Address::UnixAbstract(_) => (3, address.to_string(), None),
        Address::Name(_) => (0, address.to_string(), None),
    };
    let mut out = Vec::new();
    put_u32(1, kind, &mut out);
    put_str(2, &text, &mut out);
    put_u32(3, u32::from(port.unwrap_or_default()), &mut out);
    out
}

/// A timestamp, or a duration: they are written alike.
fn time(time: Duration) -> Vec<u8> {
    let mut out = Vec::new();
    if time.as_secs() > 0 {
        uint64::encode(1, &time.as_secs(), &mut out);
    }
    put_u32(2, time.subsec_nanos(), &mut out);
    out
}

/// A field; one of its default value is left out.
fn put(field: u32, value: &[u8], out: &mut Vec<u8>) {
    if !value.is_empty() {
        bytes::encode(field, &value.to_vec(), out);
    }
}

fn put_str(field: u32, value: &str, out: &mut Vec<u8>) {
    if !value.is_empty() {
        string::encode(field, &value.to_owned(), out);
    }
}

fn put_u32(field: u32, value: u32, out: &mut Vec<u8>) {
    if value > 0 {
        uint32::encode(field, &value, out);
    }
}

const LOGGER_CLIENT: u32 = 1;
const TRACE: &str = "grpc-trace-bin";

//! How long the header blocks are that a server sends, to tell whether the engine has left fields
//! out.
//!
//! The engine refuses a response head that exceeds the limit with an error that does not say so,
//! and gives trailers that exceed it without what lies beyond, and without a word. It does not show
//! the size, but the frames go by here: a block that is longer than what was decoded of it has
//! lost something.

use std::sync::atomic::{AtomicU64, Ordering};

use http::HeaderMap;

/// The latest header block of each stream, by its length on the wire. Streams share places: one
/// that has lost its place to another counts as short.
#[derive(Debug)]
pub(super) struct Blocks {
    /// A stream in the upper half, the length of its block in the lower. Written by the driver.
    places: [AtomicU64; PLACES],
    /// How many bytes of header fields one block may decode to.
    limit: usize,
}

impl Blocks {
    pub(super) fn new(limit: u32) -> Self {
        Self { places: std::array::from_fn(|_| AtomicU64::new(0)), limit: limit as usize }
    }

    /// A block of `stream` begins with a frame of `len` bytes.
    pub(super) fn begin(&self, stream: u32, len: usize) {
        self.place(stream).store(entry(stream, len), Ordering::Release);
    }

    /// The block of `stream` goes on for `len` bytes.
    pub(super) fn go_on(&self, stream: u32, len: usize) {
        let so_far = self.len(stream);
        if so_far > 0 {
            self.begin(stream, so_far.saturating_add(len));
        }
    }

    /// The limit, if the trailers of `stream` that were decoded to `fields` exceed it.
    pub(super) fn are_cut(&self, stream: u32, fields: &HeaderMap) -> Option<usize> {
        let len = self.len(stream);
        let sizes = fields.iter().map(|(name, value)| name.as_str().len() + value.len());
        let (count, bytes) = sizes.fold((0, 0), |(count, sum), bytes| (count + 1, sum + bytes));
        let (plain, decoded) = (bytes + count * PREFIXES, bytes + count * OVERHEAD);
        let is_cut = len > plain && decoded + len * EXPANSION >= self.limit;
        is_cut.then_some(self.limit)
    }

    /// The limit, if the latest block of `stream` is so long that it must be the reason where the
    /// engine refuses it.
    pub(super) fn is_long(&self, stream: u32) -> Option<usize> {
        (self.len(stream) * LONG_EXPANSION >= self.limit).then_some(self.limit)
    }

    /// The limit, if any block is so long that it must be the reason where the engine ends the
    /// connection.
    pub(super) fn is_any_long(&self) -> Option<usize> {
        let lens = self.places.iter().map(|place| len_of(place.load(Ordering::Acquire)));
        (lens.max()? * LONG_EXPANSION >= self.limit).then_some(self.limit)
    }

    fn len(&self, stream: u32) -> usize {
        match self.place(stream).load(Ordering::Acquire) {
            entry if entry >> 32 == u64::from(stream) => len_of(entry),
            _ => 0,
        }
    }

    fn place(&self, stream: u32) -> &AtomicU64 {
        &self.places[(stream / 2) as usize % PLACES]
    }
}

fn entry(stream: u32, len: usize) -> u64 {
    u64::from(stream) << 32 | u64::from(u32::try_from(len).unwrap_or(u32::MAX))
}

fn len_of(entry: u64) -> usize {
    (entry & u64::from(u32::MAX)) as usize
}

/// Consecutive streams whose blocks are told apart.
const PLACES: usize = 256;

/// What HTTP/2 adds to the size of each field.
const OVERHEAD: usize = 32;

/// What HPACK puts before the name and the value of a field, where these are long.
const PREFIXES: usize = 8;

/// How many decoded bytes a byte on the wire may stand for, of a field that is not repeated: the
/// shortest Huffman code has five bits.
const EXPANSION: usize = 2;

/// The same where fields are short, whose overhead counts.
const LONG_EXPANSION: usize = 4;

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn fields(lens: &[usize]) -> HeaderMap {
        let name = HeaderName::from_static("k");
        let values = lens.iter().map(|len| HeaderValue::from_str(&"v".repeat(*len)).unwrap());
        values.map(|value| (name.clone(), value)).collect()
    }

    #[test]
    fn trailers_are_cut_where_more_came_than_was_decoded() {
        // What is decoded by the lengths of the values, what was on the wire, and the verdict.
        for (decoded, len, is_cut) in [
            // Nothing is left out, compressed or not.
            (&[10][..], 12, false),
            (&[10], 8, false),
            (&[900], 905, false),
            // The first field was too long, or a later one.
            (&[], 1_100, true),
            (&[], 700, true),
            (&[10], 1_100, true),
            (&[800], 1_100, true),
            // Long codes, but far from the limit.
            (&[100], 250, false),
        ] {
            let blocks = Blocks::new(1_000);
            blocks.begin(5, len);
            assert_eq!(blocks.are_cut(5, &fields(decoded)).is_some(), is_cut, "{decoded:?}, {len}");
        }
    }

    #[test]
    fn a_block_is_the_sum_of_its_frames_and_the_latest_of_its_stream() {
        let blocks = Blocks::new(1_000);
        blocks.begin(1, 100);
        blocks.go_on(1, 200);
        assert_eq!(blocks.is_long(1), Some(1_000));
        blocks.go_on(3, 900);
        assert_eq!(blocks.is_long(3), None, "it never began");
        assert_eq!(blocks.is_any_long(), Some(1_000));
        blocks.begin(1, 10);
        assert_eq!(blocks.is_long(1), None);
        let other = 1 + 2 * PLACES as u32;
        blocks.begin(other, 900);
        blocks.go_on(1, 900);
        assert_eq!((blocks.is_long(1), blocks.is_long(other)), (None, Some(1_000)));
    }
}

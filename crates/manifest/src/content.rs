//! What a file's bytes are called: the blocks that the client's own protocol cuts them into, and one name for all.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

/// The protocol's block. The last one of a file is shorter.
pub const BLOCK_BYTES: u64 = 8 << 20;

/// SHA-256 of a block without the zeros at its end, so that all blocks of zeros are the same one.
pub type BlockDigest = [u8; 32];

/// Bytes of the digest that name a content: 192 bits, beyond any search for two that collide. Short, because the name
/// lies in an attribute of every file that refers to it.
const ID_BYTES: usize = 24;

/// Names a file's bytes, by length and blocks.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentId(String);

impl ContentId {
    pub fn of(size: u64, blocks: &[BlockDigest]) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(size.to_le_bytes());
        blocks.iter().for_each(|block| hasher.update(block));
        Self(URL_SAFE_NO_PAD.encode(&hasher.finalize()[..ID_BYTES]))
    }

    pub fn parse(text: &str) -> Option<Self> {
        let plain = text.len() == ID_BYTES * 4 / 3
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        plain.then(|| Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub fn block_count(size: u64) -> u64 {
    size.div_ceil(BLOCK_BYTES)
}

/// Length of the block at this place of a file.
pub fn block_length(size: u64, index: u64) -> u64 {
    size.saturating_sub(index.saturating_mul(BLOCK_BYTES)).min(BLOCK_BYTES)
}

pub fn block_digest(block: &[u8]) -> BlockDigest {
    Sha256::digest(without_trailing_zeros(block)).into()
}

/// The names of a block that comes in pieces.
#[derive(Clone, Default)]
pub struct BlockHasher {
    hasher: Sha256,
    /// Zeros that came last, which count only if something follows them.
    zeros: usize,
}

impl BlockHasher {
    pub fn update(&mut self, piece: &[u8]) {
        let content = without_trailing_zeros(piece);
        if !content.is_empty() {
            self.count_zeros();
            self.hasher.update(content);
        }
        self.zeros += piece.len() - content.len();
    }

    /// Whether the block is called so, with the zeros at its end or without them: clients before 1.1 count those. No two
    /// blocks share a name by that, since what a name without them is of does not end with a zero.
    pub fn is(mut self, digest: &BlockDigest) -> bool {
        let without: BlockDigest = self.hasher.clone().finalize().into();
        self.count_zeros();
        let with: BlockDigest = self.hasher.finalize().into();
        *digest == without || *digest == with
    }

    fn count_zeros(&mut self) {
        const ZEROS: [u8; 4096] = [0; 4096];
        while self.zeros > 0 {
            let some = self.zeros.min(ZEROS.len());
            self.hasher.update(&ZEROS[..some]);
            self.zeros -= some;
        }
    }
}

/// What every block of zeros is called.
pub fn digest_of_zeros() -> BlockDigest {
    Sha256::digest([]).into()
}

fn without_trailing_zeros(block: &[u8]) -> &[u8] {
    // Whole words first: most of a sparse file is zeros.
    let mut end = block.len();
    while end >= 16 && block[end - 16..end] == [0; 16] {
        end -= 16;
    }
    while end > 0 && block[end - 1] == 0 {
        end -= 1;
    }
    &block[..end]
}

/// Blocks that a range of a file touches, each as (offset in the file, length), cut to the range. A length of 0 means up
/// to the end. The second value is the range's real length.
pub fn ranges(size: u64, start: u64, length: u64) -> (Vec<(u64, u64)>, u64) {
    let start = start.min(size);
    let end = if length == 0 { size } else { start.saturating_add(length).min(size) };
    let mut ranges = Vec::new();
    let mut at = start;
    while at < end {
        let next = ((at / BLOCK_BYTES + 1) * BLOCK_BYTES).min(end);
        ranges.push((at, next - at));
        at = next;
    }
    (ranges, end - start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_in_pieces_has_the_names_of_the_whole() {
        let block = [b"abc".as_slice(), &[0; 9000], b"d", &[0; 5000]].concat();
        for piece in [1, 7, 4096, 9003, 20_000] {
            let mut hasher = BlockHasher::default();
            block.chunks(piece).for_each(|piece| hasher.update(piece));
            assert!(hasher.clone().is(&block_digest(&block)) && hasher.clone().is(&Sha256::digest(&block).into()));
            assert!(!hasher.is(&Sha256::digest(&block[..block.len() - 1]).into()));
        }
        assert!(BlockHasher::default().is(&digest_of_zeros()));
    }

    #[test]
    fn zeros_at_the_end_make_no_difference_to_a_block_but_to_a_content() {
        assert_eq!(block_digest(b"a\0\0"), block_digest(b"a"));
        assert_eq!(block_digest(&[0; 100]), digest_of_zeros());
        assert_ne!(ContentId::of(3, &[block_digest(b"a")]), ContentId::of(1, &[block_digest(b"a")]));
    }

    #[test]
    fn a_name_reads_back_and_nothing_else_does() {
        let id = ContentId::of(1, &[block_digest(b"a")]);
        assert_eq!(ContentId::parse(id.as_str()), Some(id));
        for text in ["", "../../etc/passwd", "short", &"/".repeat(32)] {
            assert_eq!(ContentId::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_range_is_cut_at_the_borders_of_blocks() {
        let b = BLOCK_BYTES;
        assert_eq!(ranges(2 * b + 5, 0, 0), (vec![(0, b), (b, b), (2 * b, 5)], 2 * b + 5));
        assert_eq!(ranges(2 * b, b - 1, 2), (vec![(b - 1, 1), (b, 1)], 2));
        assert_eq!(ranges(10, 20, 5), (vec![], 0));
        assert_eq!(ranges(0, 0, 0), (vec![], 0));
        assert_eq!((block_count(0), block_count(1), block_count(b + 1)), (0, 1, 2));
        assert_eq!((block_length(b + 3, 0), block_length(b + 3, 1), block_length(b + 3, 2)), (b, 3, 0));
    }
}

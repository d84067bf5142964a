//! A key belongs to a slot: crc32 (IEEE) of its tag, or of the whole key, modulo the slot count.
//!
//! The hash is Codis's (`crc32.ChecksumIEEE(key) % 1024`) and the tag rule Redis Cluster's, so a key with a
//! non-empty tag has the same slot here as in Codis.

use serde::{Deserialize, Serialize};

/// A slot number, from 0 to the slot count less one.
pub type Slot = u16;

/// The slot count of a new cluster when none is given: what Codis has, and what DESIGN of the seed names.
pub const SLOT_COUNT_DEFAULT: u16 = 1024;

/// The most slots a cluster may have; Redis Cluster's number, so that its tools' tables fit.
pub const SLOT_COUNT_MAX: u16 = 16384;

/// Which part of a key is hashed when it has braces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TagRule {
    /// Between the first `{` and the next `}`; an empty tag means the whole key (Redis Cluster, twemproxy).
    #[default]
    Redis,
    /// As above, but an empty tag hashes the empty string (Codis).
    Codis,
}

/// The part of `key` that is hashed.
#[inline]
pub fn tag(key: &[u8], rule: TagRule) -> &[u8] {
    let Some(open) = find(key, b'{') else { return key };
    let rest = &key[open + 1..];
    match find(rest, b'}') {
        Some(0) if rule == TagRule::Redis => key,
        Some(close) => &rest[..close],
        None => key,
    }
}

/// The slot of `key` in a cluster of `slot_count` slots (at least 1).
#[inline(always)]
pub fn slot_of(key: &[u8], rule: TagRule, slot_count: u16) -> Slot {
    let hash = if may_hold_brace(key) { tagged(key, rule) } else { crc32(key) };
    slot_of_hash(hash, slot_count)
}

#[inline(always)]
fn slot_of_hash(hash: u32, slot_count: u16) -> Slot {
    let mask = u32::from(slot_count).wrapping_sub(1);
    // A power of two, which nearly every count is.
    if u32::from(slot_count) & mask == 0 { (hash & mask) as Slot } else { (hash % u32::from(slot_count)) as Slot }
}

#[cold]
#[inline(never)]
fn tagged(key: &[u8], rule: TagRule) -> u32 {
    crc32(tag(key, rule))
}

/// Whether a key holds `{`. It may say so of bytes above 127, too, which spares a step.
#[inline(always)]
fn may_hold_brace(key: &[u8]) -> bool {
    let (words, tail) = key.as_chunks::<8>();
    for word in words {
        let zeroed = u64::from_le_bytes(*word) ^ (ONES * u64::from(b'{'));
        if zeroed.wrapping_sub(ONES) & (ONES << 7) != 0 {
            return true;
        }
    }
    tail.contains(&b'{')
}

/// Keys are short: eight bytes at a time beat a call to a vector search below a cache line.
#[inline]
fn find(bytes: &[u8], byte: u8) -> Option<usize> {
    if bytes.len() > 64 {
        return memchr::memchr(byte, bytes);
    }
    let (words, tail) = bytes.as_chunks::<8>();
    for (i, word) in words.iter().enumerate() {
        let found = equal_bytes(u64::from_le_bytes(*word), byte);
        if found != 0 {
            return Some(i * 8 + found.trailing_zeros() as usize / 8);
        }
    }
    tail.iter().position(|&b| b == byte).map(|i| words.len() * 8 + i)
}

/// A one in each byte.
const ONES: u64 = 0x0101_0101_0101_0101;

/// The lowest bit set is in the first byte of `word` that equals `byte`; 0: none does. Bits above it may mislead.
#[inline]
fn equal_bytes(word: u64, byte: u8) -> u64 {
    let zeroed = word ^ (ONES * u64::from(byte));
    zeroed.wrapping_sub(ONES) & !zeroed & (ONES << 7)
}

/// CRC-32 (IEEE 802.3, reflected), as `crc32fast::hash`. Slicing-by-8 wins below 64 bytes, carry-less
/// multiplication above.
#[inline(always)]
pub fn crc32(bytes: &[u8]) -> u32 {
    if bytes.len() >= 64 {
        return long_crc32(bytes);
    }
    let mut crc = !0u32;
    let (words, tail) = bytes.as_chunks::<8>();
    for word in words {
        crc = eight(crc, word);
    }
    for &byte in tail {
        crc = one(crc, byte);
    }
    !crc
}

#[inline(never)]
fn long_crc32(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

#[inline(always)]
fn eight(crc: u32, bytes: &[u8; 8]) -> u32 {
    let &[a, b, c, d, e, f, g, h] = bytes;
    let first = u32::from_le_bytes([a, b, c, d]) ^ crc;
    TABLE[7][(first & 255) as usize]
        ^ TABLE[6][(first >> 8 & 255) as usize]
        ^ TABLE[5][(first >> 16 & 255) as usize]
        ^ TABLE[4][(first >> 24) as usize]
        ^ TABLE[3][usize::from(e)]
        ^ TABLE[2][usize::from(f)]
        ^ TABLE[1][usize::from(g)]
        ^ TABLE[0][usize::from(h)]
}

#[inline(always)]
fn one(crc: u32, byte: u8) -> u32 {
    TABLE[0][((crc ^ u32::from(byte)) & 255) as usize] ^ (crc >> 8)
}

static TABLE: [[u32; 256]; 8] = table();

const fn table() -> [[u32; 256]; 8] {
    let mut t = [[0u32; 256]; 8];
    let mut i = 0;
    while i < 256 {
        let mut c = i as u32;
        let mut bit = 0;
        while bit < 8 {
            c = if c & 1 == 1 { 0xEDB8_8320 ^ (c >> 1) } else { c >> 1 };
            bit += 1;
        }
        t[0][i] = c;
        i += 1;
    }
    let mut k = 1;
    while k < 8 {
        let mut i = 0;
        while i < 256 {
            t[k][i] = t[0][(t[k - 1][i] & 255) as usize] ^ (t[k - 1][i] >> 8);
            i += 1;
        }
        k += 1;
    }
    t
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn slots_are_those_of_codis() {
        // python3: zlib.crc32(b"...") % 1024
        assert_eq!(slot_of(b"123456789", TagRule::Redis, 1024), (0xCBF4_3926u32 % 1024) as u16);
        assert_eq!(slot_of(b"a{123456789}b", TagRule::Codis, 1024), (0xCBF4_3926u32 % 1024) as u16);
        assert_eq!(slot_of(b"", TagRule::Redis, 1024), 0);
    }

    #[test]
    fn tags() {
        for (key, redis, codis) in [
            ("abc", "abc", "abc"),
            ("{user}:1", "user", "user"),
            ("x{user}{y}", "user", "user"),
            ("{}abc", "{}abc", ""),
            ("{abc", "{abc", "{abc"),
            ("}a{b", "}a{b", "}a{b"),
            ("}a{b}", "b", "b"),
            ("{{a}}", "{a", "{a"),
        ] {
            assert_eq!(tag(key.as_bytes(), TagRule::Redis), redis.as_bytes(), "{key}");
            assert_eq!(tag(key.as_bytes(), TagRule::Codis), codis.as_bytes(), "{key}");
        }
    }

    proptest! {
        #[test]
        fn find_agrees_with_a_search(bytes in proptest::collection::vec(0x79u8..0x7f, 0..100), byte in 0x79u8..0x7f) {
            prop_assert_eq!(find(&bytes, byte), bytes.iter().position(|&b| b == byte));
        }

        #[test]
        fn crc_agrees_with_crc32fast(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(crc32(&bytes), crc32fast::hash(&bytes));
            for rule in [TagRule::Redis, TagRule::Codis] {
                prop_assert_eq!(slot_of(&bytes, rule, 1000), (crc32fast::hash(tag(&bytes, rule)) % 1000) as u16);
            }
        }
    }
}

//! Keys that end by a clock. The target's clock may have ended one when the source's last writes of it come: HSET would make
//! a new key of them, without the rest and for ever. So the target is asked how long such a key lives, before and after each
//! write of it: where it was missing before, or its end is gone after, the key is copied again, and whatever commands that
//! were sent meanwhile have made of it.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Hashes that are kept, 9 bytes each and some air: 80 MB. With more, every key counts as one that may end: then each key that
/// is made anew is copied once more.
const HASHES_MAX: usize = 4 << 20;

/// Which keys have an end, or may have: told apart by hashes, so that ten million sessions cost no more than that. Two keys
/// of one hash: an answer too many, or (one in 2^64 for each pair) one too few.
#[derive(Debug, Default)]
pub(super) struct Mortal {
    hashes: HashSet<u64>,
    all: bool,
}

/// What a write that is done at the target alike leaves of its keys' ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// The keys are gone: how they would have ended does not matter.
    Gone,
    /// There is one new value, whatever was there.
    New { mortal: bool },
    /// A time to live was given to what is there.
    Ends,
    /// Done or not, and its end kept or not, by what is there: only a copy settles it if it may have ended.
    Unclear,
    /// Elements were written: ends are as they were.
    Kept,
}

impl Mortal {
    pub(super) fn set(&mut self, key: &[u8], mortal: bool) {
        let hash = hash(key);
        if !mortal {
            self.hashes.remove(&hash);
        } else if self.hashes.len() < HASHES_MAX {
            self.hashes.insert(hash);
        } else {
            self.all |= !self.hashes.contains(&hash);
        }
    }

    pub(super) fn has(&self, key: &[u8]) -> bool {
        self.all || self.hashes.contains(&hash(key))
    }
}

fn hash(key: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new(); // of the same keys in every process: seeded runs repeat
    key.hash(&mut hasher);
    hasher.finish()
}

impl Fate {
    /// Of a command's arguments, its name first.
    pub(super) fn of(args: &[&[u8]]) -> Self {
        let name = args[0].to_ascii_uppercase();
        match name.as_slice() {
            b"DEL" | b"UNLINK" => Self::Gone,
            b"MSET" | b"GETSET" => Self::New { mortal: false },
            b"PEXPIREAT" | b"EXPIREAT" => Self::Ends,
            b"SET" => match args.get(3..).unwrap_or_default() {
                [] => Self::New { mortal: false },
                [span, _] if span.eq_ignore_ascii_case(b"PXAT") || span.eq_ignore_ascii_case(b"EXAT") => {
                    Self::New { mortal: true }
                }
                _ => Self::Unclear,
            },
            _ => Self::Kept,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fates_are_read_off_the_command() {
        let fate = |line: &str| Fate::of(&line.split(' ').map(str::as_bytes).collect::<Vec<_>>());
        assert_eq!(fate("unlink a b"), Fate::Gone);
        assert_eq!(fate("set a b"), Fate::New { mortal: false });
        assert_eq!(fate("mset a b c d"), Fate::New { mortal: false });
        assert_eq!(fate("SET a b pxat 5"), Fate::New { mortal: true });
        assert_eq!(fate("SET a b KEEPTTL"), Fate::Unclear);
        assert_eq!(fate("SET a b PXAT 5 XX"), Fate::Unclear);
        assert_eq!(fate("SET a b XX"), Fate::Unclear);
        assert_eq!(fate("PEXPIREAT a 5"), Fate::Ends);
        assert_eq!(fate("HSET a b c"), Fate::Kept);
    }

    #[test]
    fn a_full_table_takes_every_key_for_mortal() {
        let mut mortal = Mortal::default();
        mortal.set(b"a", true);
        assert_eq!((mortal.has(b"a"), mortal.has(b"b")), (true, false));
        mortal.set(b"a", false);
        assert!(!mortal.has(b"a"));
        mortal.hashes = (0..HASHES_MAX as u64).collect();
        mortal.set(b"b", true);
        assert!(mortal.has(b"c"));
    }
}

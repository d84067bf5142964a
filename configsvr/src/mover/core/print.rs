//! A value's fingerprint: equal values have equal ones at any server, whatever its version and encodings.

use cluster::resp::reply::{Elements, text};
use sha2::{Digest, Sha256};

/// Adds up a value, piece by piece.
#[derive(Debug, Clone, Default)]
pub struct Print {
    /// What stands in an order.
    ordered: Sha256,
    /// Elements without one, each by its hash. A walk may meet one twice.
    loose: Vec<u64>,
}

impl Print {
    /// Bytes that follow those before.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.ordered.update(bytes);
    }

    /// Elements that follow those before. Nested ones (of streams) count as they are written.
    pub fn list(&mut self, raw: &[u8]) {
        for element in Elements::new(raw).into_iter().flatten() {
            let element = text(element).unwrap_or(element);
            self.ordered.update((element.len() as u64).to_le_bytes());
            self.ordered.update(element);
        }
    }

    /// Elements of which `width` belong together, in any order.
    pub fn set(&mut self, raw: &[u8], width: usize) {
        let elements: Vec<&[u8]> = Elements::new(raw).into_iter().flatten().map(|e| text(e).unwrap_or(e)).collect();
        for some in elements.chunks(width.max(1)) {
            let mut one = Sha256::new();
            for part in some {
                one.update((part.len() as u64).to_le_bytes());
                one.update(part);
            }
            self.loose.push(short(one));
        }
    }

    /// Members of a sorted set, each followed by its score, which servers write in different ways.
    pub fn scored(&mut self, raw: &[u8]) {
        let elements: Vec<&[u8]> = Elements::new(raw).into_iter().flatten().filter_map(text).collect();
        for pair in elements.chunks_exact(2) {
            let score =
                std::str::from_utf8(pair[1]).ok().and_then(|score| score.parse::<f64>().ok()).unwrap_or(f64::NAN);
            // -0 is 0.
            let one = Sha256::new().chain_update(pair[0]).chain_update((score + 0.0).to_bits().to_le_bytes());
            self.loose.push(short(one));
        }
    }

    /// The fingerprint.
    pub fn finish(mut self) -> [u8; 32] {
        self.loose.sort_unstable();
        self.loose.dedup();
        self.loose.iter().for_each(|hash| self.ordered.update(hash.to_le_bytes()));
        self.ordered.finalize().into()
    }
}

fn short(hash: Sha256) -> u64 {
    let hash = hash.finalize();
    u64::from_le_bytes(std::array::from_fn(|i| hash[i]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(raw: &str, width: usize) -> [u8; 32] {
        let mut print = Print::default();
        print.set(raw.as_bytes(), width);
        print.finish()
    }

    #[test]
    fn scores_are_numbers() {
        let print = |raw: &[u8]| {
            let mut print = Print::default();
            print.scored(raw);
            print.finish()
        };
        let short = print(b"*2\r\n$1\r\na\r\n$3\r\n0.1\r\n");
        assert_eq!(short, print(b"*2\r\n$1\r\na\r\n$19\r\n0.10000000000000001\r\n"));
        assert_ne!(short, print(b"*2\r\n$1\r\na\r\n$3\r\n0.2\r\n"));
    }

    #[test]
    fn order_counts_where_there_is_one() {
        let (ab, ba) = ("*2\r\n$1\r\na\r\n$1\r\nb\r\n", "*2\r\n$1\r\nb\r\n$1\r\na\r\n");
        assert_eq!(set(ab, 1), set(ba, 1));
        assert_ne!(set(ab, 2), set(ba, 2));
        assert_eq!(set(ab, 1), set("*3\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\na\r\n", 1), "met twice");
        let list = |raw: &str| {
            let mut print = Print::default();
            print.list(raw.as_bytes());
            print.finish()
        };
        assert_ne!(list(ab), list(ba));
        assert_ne!(list("*2\r\n$2\r\nab\r\n$0\r\n\r\n"), list(ab));
    }
}

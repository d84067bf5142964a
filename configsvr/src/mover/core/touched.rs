//! Which keys a stream of writes has named.

use super::Key;
use super::journal::Journal;
use super::slots::Slots;
use super::table::{Meaning, Table};
use cluster::resp::request::Args;
use std::collections::BTreeSet;

/// Keys of some slots that were written behind an offset, perhaps some more: any argument of a command that is not known may
/// be a key, in any database.
#[derive(Debug)]
pub struct Touched {
    journal: Journal,
    table: Table,
    slots: Slots,
    keys: BTreeSet<Key>,
    all: bool,
}

impl Touched {
    pub fn new(table: Table, slots: Slots, offset: u64) -> Self {
        Self { journal: Journal::new(offset), table, slots, keys: BTreeSet::new(), all: false }
    }

    /// Bytes of the stream came.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.journal.push(bytes);
        while let Some(raw) = self.journal.pull()? {
            let args: Vec<&[u8]> = Args::new(raw).collect();
            let places = match self.table.meaning(&args) {
                Meaning::Nothing | Meaning::Select => continue,
                Meaning::FlushThis | Meaning::FlushAll | Meaning::Swap => {
                    self.all = true;
                    continue;
                }
                Meaning::Guess => (1, args.len() - 1, 1),
                Meaning::Same { first, last, step } | Meaning::Copy { first, last, step } => (first, last, step),
            };
            let named = args.iter().take(places.1 + 1).skip(places.0).step_by(places.2);
            self.keys.extend(named.filter(|key| self.slots.hold(key)).map(|key| Key::from(*key)));
        }
        Ok(())
    }

    /// The offset up to which it knows.
    pub fn taken(&self) -> u64 {
        self.journal.pos()
    }

    pub fn has(&self, key: &[u8]) -> bool {
        self.all || self.keys.contains(key)
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::sample;
    use super::*;
    use cluster::resp::write;
    use cluster::slot::TagRule;

    #[test]
    fn writes_name_their_keys() {
        let mut touched = Touched::new(sample(), Slots::new(&[0], TagRule::Redis, 1), 7);
        let mut bytes = Vec::new();
        for line in ["SELECT 0", "MSET a 1 b 2", "EVAL return x", "PING"] {
            write::request(&mut bytes, &line.split(' ').map(str::as_bytes).collect::<Vec<_>>());
        }
        let (first, second) = bytes.split_at(30);
        touched.push(first).expect("a stream");
        touched.push(second).expect("a stream");
        assert_eq!(touched.taken(), 7 + bytes.len() as u64);
        let known: Vec<_> = ["a", "b", "x", "1", "c"].iter().map(|k| touched.has(k.as_bytes())).collect();
        assert_eq!(known, [true, true, true, false, false]);
        let mut flush = Vec::new();
        write::request(&mut flush, &[b"FLUSHALL"]);
        touched.push(&flush).expect("a stream");
        assert!(touched.has(b"c"));
    }
}

//! What instances hold: lists of values by key, made of the operations that an instance took, in their order.

use cluster::slot::Slot;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Two keys a slot are enough for two of them to be at different places at once.
pub(crate) const KEYS_OF_SLOT: usize = 2;

/// A key and the slot that it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) slot: Slot,
    pub(crate) n: u8,
}

/// Something that an instance takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Op {
    /// RPUSH.
    Append(Key, u64),
    /// RESTORE ... REPLACE.
    Put(Key, Vec<u64>),
    /// UNLINK of a key, which another instance has.
    Take(Key),
    /// UNLINK of all that is in these slots.
    Wipe(Arc<[Slot]>),
}

impl Op {
    pub(crate) fn touches(&self, slot: Slot) -> bool {
        match self {
            Self::Append(key, _) | Self::Put(key, _) | Self::Take(key) => key.slot == slot,
            Self::Wipe(slots) => slots.contains(&slot),
        }
    }
}

/// All operations there ever were; an instance's history is a list of their numbers.
#[derive(Debug, Default)]
pub(crate) struct Ops(Vec<Op>);

/// What a part of an instance holds.
pub(crate) type Space = BTreeMap<Key, Vec<u64>>;

impl Ops {
    pub(crate) fn add(&mut self, op: Op) -> u64 {
        self.0.push(op);
        self.0.len() as u64 - 1
    }

    pub(crate) fn get(&self, id: u64) -> &Op {
        &self.0[id as usize]
    }

    /// What a history amounts to, as far as `wanted` goes.
    pub(crate) fn fold(&self, history: &[u64], wanted: impl Fn(Slot) -> bool) -> Space {
        let mut space = Space::new();
        for id in history {
            match self.get(*id) {
                Op::Append(key, value) if wanted(key.slot) => space.entry(*key).or_default().push(*value),
                Op::Put(key, list) if wanted(key.slot) => _ = space.insert(*key, list.clone()),
                Op::Wipe(slots) => space.retain(|key, _| !slots.contains(&key.slot)),
                Op::Take(key) => _ = space.remove(key),
                Op::Append(..) | Op::Put(..) => {}
            }
        }
        space
    }
}

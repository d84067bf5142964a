//! Which keys move.

use crate::control::job::{Job, Sweep};
use cluster::slot::{Slot, TagRule, slot_of};

/// The slots of a job, to be asked about keys.
#[derive(Debug, Clone)]
pub struct Slots {
    words: Vec<u64>,
    rule: TagRule,
    count: u16,
}

impl Slots {
    /// `count`: how many slots the cluster has.
    pub fn new(slots: &[Slot], rule: TagRule, count: u16) -> Self {
        let mut words = vec![0; usize::from(count).div_ceil(64)];
        for &slot in slots.iter().filter(|slot| **slot < count) {
            words[usize::from(slot) / 64] |= 1 << (slot % 64);
        }
        Self { words, rule, count: count.max(1) }
    }

    /// Whether `key` is in one of them.
    #[inline]
    pub fn hold(&self, key: &[u8]) -> bool {
        let slot = slot_of(key, self.rule, self.count);
        self.words.get(usize::from(slot) / 64).is_some_and(|word| word >> (slot % 64) & 1 == 1)
    }
}

impl From<&Job> for Slots {
    fn from(job: &Job) -> Self {
        Self::new(&job.slots, job.tag_rule, job.slot_count)
    }
}

impl From<&Sweep> for Slots {
    fn from(sweep: &Sweep) -> Self {
        Self::new(&sweep.slots, sweep.tag_rule, sweep.slot_count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_held_with_its_slot() {
        let slot = slot_of(b"a", TagRule::Redis, 1024);
        let slots = Slots::new(&[slot, 2000], TagRule::Redis, 1024);
        assert!(slots.hold(b"a") && slots.hold(b"x{a}y"));
        let others = (0..1000).filter(|n| slots.hold(format!("key:{n}").as_bytes())).count();
        assert!(others < 10, "{others} of 1000 keys in one of 1024 slots");
    }
}

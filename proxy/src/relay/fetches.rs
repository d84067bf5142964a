//! Keys of slots that move on access, by what is known of them: on their way, or brought. See `fetch.rs`.

use super::limits::FETCHED_BYTES_MAX;
use cluster::group::GroupId;
use cluster::slot::Slot;
use slab::Slab;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

pub(super) type Key = Box<[u8]>;

/// What an entry of a set takes beside the key's bytes.
const ENTRY: usize = 48;

/// How a source moves a key. Tried in this order: who does not know a word says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Verb {
    /// SLOTSMGRTONE: codis-server and Pika have it.
    #[default]
    One,
    /// SLOTSMGRTTAGONE, with all keys of the same tag: they replace what the target has, unasked. Where there is no other.
    TagOne,
    /// Of stock servers.
    Migrate,
}

/// Where one key stands: see `fetch.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Look,
    Move,
    List,
    Kill,
    Drop,
    /// Nothing is under way; it begins anew at this time.
    Pause {
        until_us: u64,
    },
}

/// One key on its way.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) key: Key,
    pub(super) slot: Slot,
    /// The groups it comes from and goes to.
    pub(super) ends: (GroupId, GroupId),
    /// The topology it was begun under. What comes back under another one tells nothing of this one.
    pub(super) generation: u32,
    pub(super) step: Step,
    /// How the source was asked last.
    pub(super) verb: Verb,
    pub(super) begun_us: u64,
    /// When its last request was sent.
    pub(super) sent_us: u64,
}

/// Keys that are being brought, and those that have been.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    /// Keys that the source has no more: newest, and those before them. Bounded: when the new ones are many, the old ones
    /// are forgotten, and cost a question when they are asked for again.
    pub(super) fetched: BTreeSet<Key>,
    pub(super) fetched_before: BTreeSet<Key>,
    pub(super) bytes: usize,
    pub(super) jobs: Slab<Job>,
    pub(super) by_key: BTreeMap<Key, usize>,
    /// Those that are to begin, and how many have.
    pub(super) queue: VecDeque<usize>,
    pub(super) active: usize,
    /// The queue is being gone through.
    pub(super) starting: bool,
    /// From where to where something may still be on its way of which a source has said nothing: no key goes there before
    /// that was ended, under whatever topology.
    pub(super) doubtful: BTreeSet<(GroupId, GroupId)>,
    /// Where somebody sees to that.
    pub(super) clearing: BTreeSet<(GroupId, GroupId)>,
    pub(super) verbs: BTreeMap<GroupId, Verb>,
    /// Some have come: what waits for them may go on.
    pub(super) arrived: bool,
    /// When what waited was last let go.
    pub(super) released_us: u64,
    /// What was last in the way.
    pub(super) trouble: String,
}

impl Fetches {
    pub(super) fn has(&self, key: &[u8]) -> bool {
        self.fetched.contains(key) || self.fetched_before.contains(key)
    }

    pub(super) fn remember(&mut self, key: Key) {
        self.bytes += key.len() + ENTRY;
        self.fetched.insert(key);
        if self.bytes > FETCHED_BYTES_MAX / 2 {
            self.fetched_before = std::mem::take(&mut self.fetched);
            self.bytes = 0;
        }
    }

    /// A topology has come: what was known is not known of it. What is under way comes back to nobody.
    pub(super) fn forget_all(&mut self) {
        self.by_key.clear();
        self.jobs.retain(|_, job| !matches!(job.step, Step::Pause { .. }));
        let (jobs, doubtful) = (std::mem::take(&mut self.jobs), std::mem::take(&mut self.doubtful));
        *self = Self { jobs, doubtful, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_has_a_bound() {
        let mut fetches = Fetches::default();
        let key = |n: usize| Key::from(format!("{n:08}").as_bytes());
        let many = FETCHED_BYTES_MAX / (8 + ENTRY);
        for n in 0..3 * many {
            fetches.remember(key(n));
            assert!(fetches.has(&key(n)));
        }
        assert!(fetches.fetched.len() + fetches.fetched_before.len() <= many + 1);
        assert!(!fetches.has(&key(0)) && fetches.has(&key(3 * many - many / 3)));
    }
}

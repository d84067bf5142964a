//! What `embedded` and `memory` are made of: keys, revisions, leases and transactions, without a world. Time is the
//! owner's: a tree knows how long a lease is, not when it ends.

use super::{Change, Compare, Entry, Fault, LeaseId, Op, Revision, Snapshot, Txn, Verdict};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Revisions whose changes are remembered, for watches that are behind; further behind, they list again.
pub const HISTORY_MAX: usize = super::NOTICES_MAX;
/// Bytes of keys and values remembered for the same purpose.
pub const HISTORY_BYTES_MAX: usize = 16 << 20;

/// The tree. Serialised, it is a whole snapshot; only the history is left out, so watches of a restored tree list again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Kept", into = "Kept")]
pub struct Tree {
    kept: Kept,
    history: History,
}

/// What is kept for ever.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    revision: Revision,
    entries: BTreeMap<String, Node>,
    leases: BTreeMap<LeaseId, Lease>,
    /// The last one given; never given again.
    last_lease: LeaseId,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Node {
    value: String,
    modified: Revision,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lease: Option<LeaseId>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Lease {
    ttl_s: u64,
    keys: BTreeSet<String>,
}

/// The latest changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct History {
    changes: VecDeque<(Revision, Vec<Change>)>,
    bytes: usize,
    /// All changes after this one are here.
    since: Revision,
}

impl From<Kept> for Tree {
    fn from(kept: Kept) -> Self {
        let history = History { since: kept.revision, ..History::default() };
        Self { kept, history }
    }
}

impl From<Tree> for Kept {
    fn from(tree: Tree) -> Self {
        tree.kept
    }
}

impl Tree {
    /// The last change's number; 0 before the first.
    pub fn revision(&self) -> Revision {
        self.kept.revision
    }

    pub fn get(&self, key: &str) -> Option<Entry> {
        self.kept.entries.get(key).map(|node| node.entry(key))
    }

    pub fn range(&self, prefix: &str) -> Snapshot {
        let from = self.kept.entries.range(prefix.to_owned()..);
        let entries = from.take_while(|(key, _)| key.starts_with(prefix)).map(|(key, node)| node.entry(key));
        Snapshot { revision: self.kept.revision, entries: entries.collect() }
    }

    /// The changes after `revision`, oldest first; None when they are no longer all known: list again.
    pub fn changes_after(&self, revision: Revision) -> Option<impl Iterator<Item = &(Revision, Vec<Change>)>> {
        (revision >= self.history.since).then(|| self.history.changes.iter().skip_while(move |(at, _)| *at <= revision))
    }

    /// All or nothing. A new revision if anything changed (a put always does, a delete of nothing does not).
    pub fn apply(&mut self, txn: &Txn) -> Result<Verdict, Fault> {
        txn.check()?;
        if !txn.compares.iter().all(|compare| self.holds(compare)) {
            return Ok(Verdict::Refused(self.kept.revision));
        }
        let leases = txn.ops.iter().filter_map(|op| match op {
            Op::Put { lease, .. } => *lease,
            Op::Delete { .. } => None,
        });
        if let Some(lease) = leases.into_iter().find(|lease| !self.kept.leases.contains_key(lease)) {
            return Err(Fault::NoLease(lease));
        }
        let revision = self.kept.revision + 1;
        let changes = txn.ops.iter().filter_map(|op| self.change(op, revision)).collect();
        self.record(revision, changes);
        Ok(Verdict::Done(self.kept.revision))
    }

    fn holds(&self, compare: &Compare) -> bool {
        let node = |key: &String| self.kept.entries.get(key);
        match compare {
            Compare::Absent { key } => node(key).is_none(),
            Compare::ModifiedAt { key, revision } => node(key).map_or(0, |n| n.modified) == *revision,
            Compare::ValueIs { key, value } => node(key).is_some_and(|n| n.value == *value),
            Compare::UnwrittenSince { prefix, revision } => {
                let below = self.kept.entries.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(prefix));
                below.map(|(_, node)| node.modified).all(|modified| modified <= *revision)
            }
        }
    }

    fn change(&mut self, op: &Op, revision: Revision) -> Option<Change> {
        match op {
            Op::Put { key, value, lease } => {
                self.unlease(key);
                if let Some(held) = lease.and_then(|id| self.kept.leases.get_mut(&id)) {
                    held.keys.insert(key.clone());
                }
                let node = Node { value: value.clone(), modified: revision, lease: *lease };
                let entry = node.entry(key);
                self.kept.entries.insert(key.clone(), node);
                Some(Change::Put(entry))
            }
            Op::Delete { key } => {
                self.unlease(key);
                self.kept.entries.remove(key).map(|_| Change::Delete { key: key.clone() })
            }
        }
    }

    /// Takes the key from the lease it is under.
    fn unlease(&mut self, key: &str) {
        let lease = self.kept.entries.get(key).and_then(|node| node.lease);
        if let Some(held) = lease.and_then(|id| self.kept.leases.get_mut(&id)) {
            held.keys.remove(key);
        }
    }

    fn record(&mut self, revision: Revision, changes: Vec<Change>) {
        if !changes.is_empty() {
            self.kept.revision = revision;
            self.history.push(revision, changes);
        }
    }

    /// A new lease, of whole seconds, at least one.
    pub fn grant(&mut self, ttl_s: u64) -> LeaseId {
        self.kept.last_lease += 1;
        self.kept.leases.insert(self.kept.last_lease, Lease { ttl_s: ttl_s.max(1), keys: BTreeSet::new() });
        self.kept.last_lease
    }

    /// How long a lease is, in seconds; None: there is no such lease.
    pub fn ttl_s(&self, lease: LeaseId) -> Option<u64> {
        self.kept.leases.get(&lease).map(|l| l.ttl_s)
    }

    /// All leases and how long they are, in seconds.
    pub fn leases(&self) -> impl Iterator<Item = (LeaseId, u64)> {
        self.kept.leases.iter().map(|(id, lease)| (*id, lease.ttl_s))
    }

    /// Ends a lease, with its keys, at one revision: it was revoked, or it expired. Whether there was one.
    pub fn end(&mut self, lease: LeaseId) -> bool {
        let Some(ended) = self.kept.leases.remove(&lease) else { return false };
        let revision = self.kept.revision + 1;
        let gone = ended.keys.into_iter().filter(|key| self.kept.entries.remove(key).is_some());
        let changes = gone.map(|key| Change::Delete { key }).collect();
        self.record(revision, changes);
        true
    }

    /// What must always hold; a sentence when it does not. For tests.
    pub fn check(&self) -> Result<(), String> {
        for (key, node) in &self.kept.entries {
            let held = node.lease.is_none_or(|id| self.kept.leases.get(&id).is_some_and(|l| l.keys.contains(key)));
            if !held {
                return Err(format!("{key:?} is under lease {:?}, which does not hold it", node.lease));
            }
            if node.modified == 0 || node.modified > self.kept.revision {
                return Err(format!(
                    "{key:?} was modified at {}, the tree is at {}",
                    node.modified, self.kept.revision
                ));
            }
        }
        for (id, key) in self.kept.leases.iter().flat_map(|(id, l)| l.keys.iter().map(move |key| (id, key))) {
            if self.kept.entries.get(key).is_none_or(|node| node.lease != Some(*id)) {
                return Err(format!("lease {id} holds {key:?}, which is not under it"));
            }
        }
        self.history.check(self.kept.revision)
    }
}

impl Node {
    fn entry(&self, key: &str) -> Entry {
        Entry { key: key.to_owned(), value: self.value.clone(), modified: self.modified, lease: self.lease }
    }
}

impl History {
    fn push(&mut self, revision: Revision, changes: Vec<Change>) {
        self.bytes += bytes(&changes);
        self.changes.push_back((revision, changes));
        while self.changes.len() > HISTORY_MAX || self.bytes > HISTORY_BYTES_MAX {
            let Some((revision, changes)) = self.changes.pop_front() else { break };
            self.bytes -= bytes(&changes);
            self.since = revision;
        }
    }

    fn check(&self, latest: Revision) -> Result<(), String> {
        let numbers = self.changes.iter().map(|(revision, _)| *revision);
        if !numbers.eq(self.since + 1..=latest) {
            return Err(format!("the history after {} has gaps, or does not end at {latest}", self.since));
        }
        Ok(())
    }
}

fn bytes(changes: &[Change]) -> usize {
    changes
        .iter()
        .map(|change| match change {
            Change::Put(entry) => entry.key.len() + entry.value.len(),
            Change::Delete { key } => key.len(),
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{TXN_BYTES_MAX, TXN_MAX};
    use proptest::prelude::*;

    fn put(key: &str, value: &str, lease: Option<LeaseId>) -> Op {
        Op::Put { key: key.to_owned(), value: value.to_owned(), lease }
    }

    fn delete(key: &str) -> Op {
        Op::Delete { key: key.to_owned() }
    }

    fn txn(ops: Vec<Op>) -> Txn {
        Txn { compares: vec![], ops }
    }

    #[test]
    fn a_transaction_is_one_revision() {
        let mut tree = Tree::default();
        assert_eq!(tree.apply(&txn(vec![put("b", "1", None), put("a", "2", None)])), Ok(Verdict::Done(1)));
        let listed = tree.range("");
        assert_eq!(listed.revision, 1);
        assert_eq!(
            listed.entries.iter().map(|e| (e.key.as_str(), e.modified)).collect::<Vec<_>>(),
            [("a", 1), ("b", 1)]
        );
        assert_eq!(tree.apply(&txn(vec![])), Ok(Verdict::Done(1)));
        assert_eq!(tree.apply(&txn(vec![delete("nothing")])), Ok(Verdict::Done(1)));
        assert_eq!(tree.apply(&txn(vec![delete("a"), put("c", "3", None)])), Ok(Verdict::Done(2)));
        tree.check().unwrap();
    }

    #[test]
    fn a_false_comparison_changes_nothing() {
        let mut tree = Tree::default();
        tree.apply(&txn(vec![put("a", "1", None)])).unwrap();
        let key = || "a".to_owned();
        let wrong = [
            Compare::Absent { key: key() },
            Compare::ModifiedAt { key: key(), revision: 2 },
            Compare::ValueIs { key: key(), value: "2".to_owned() },
            Compare::ValueIs { key: "b".to_owned(), value: String::new() },
        ];
        for compare in wrong {
            let before = tree.clone();
            let refused = tree.apply(&Txn { compares: vec![compare], ops: vec![put("a", "x", None)] });
            assert_eq!(refused, Ok(Verdict::Refused(1)));
            assert_eq!(tree, before);
        }
        let right = [
            Compare::Absent { key: "b".to_owned() },
            Compare::ModifiedAt { key: "b".to_owned(), revision: 0 },
            Compare::ModifiedAt { key: key(), revision: 1 },
            Compare::ValueIs { key: key(), value: "1".to_owned() },
        ];
        let done = tree.apply(&Txn { compares: right.to_vec(), ops: vec![put("a", "x", None)] });
        assert_eq!(done, Ok(Verdict::Done(2)));
    }

    #[test]
    fn keys_go_with_their_lease() {
        let mut tree = Tree::default();
        let lease = tree.grant(0);
        assert_eq!(tree.ttl_s(lease), Some(1));
        let ops = ["kept", "over", "a", "b"].map(|key| put(key, "1", Some(lease)));
        tree.apply(&txn(ops.to_vec())).unwrap();
        tree.apply(&txn(vec![put("kept", "2", None), delete("over")])).unwrap();
        assert!(tree.end(lease));
        assert!(!tree.end(lease));
        assert_eq!(tree.range("").entries.len(), 1);
        assert_eq!(tree.revision(), 3);
        assert_eq!(tree.apply(&txn(vec![put("a", "1", Some(lease))])), Err(Fault::NoLease(lease)));
        assert_ne!(tree.grant(5), lease);
        tree.check().unwrap();
    }

    #[test]
    fn what_no_store_would_do_is_refused() {
        let mut tree = Tree::default();
        let many = |n: usize| (0..n).map(|i| put(&i.to_string(), "", None)).collect();
        let wrong = [
            txn(many(TXN_MAX + 1)),
            Txn { compares: vec![Compare::Absent { key: "a".to_owned() }; TXN_MAX + 1], ops: vec![] },
            txn(vec![put("a", &"x".repeat(TXN_BYTES_MAX), None)]),
            txn(vec![put("a", "", None), put("b", "", None), delete("a")]),
            txn(vec![put("", "", None)]),
        ];
        for txn in wrong {
            assert!(matches!(tree.apply(&txn), Err(Fault::Invalid(_))));
        }
        assert_eq!(tree, Tree::default());
        assert_eq!(tree.apply(&txn(many(TXN_MAX))), Ok(Verdict::Done(1)));
    }

    #[test]
    fn history_is_bounded_and_says_when_it_is_gone() {
        let mut tree = Tree::default();
        for i in 0..HISTORY_MAX + 10 {
            tree.apply(&txn(vec![put("a", &i.to_string(), None)])).unwrap();
        }
        assert!(tree.changes_after(9).is_none());
        assert_eq!(tree.changes_after(10).unwrap().count(), HISTORY_MAX);
        assert_eq!(tree.changes_after(tree.revision()).unwrap().count(), 0);
        let large = "x".repeat(TXN_BYTES_MAX / 2);
        for _ in 0..HISTORY_BYTES_MAX / large.len() + 1 {
            tree.apply(&txn(vec![put("a", &large, None)])).unwrap();
        }
        assert!(tree.history.bytes <= HISTORY_BYTES_MAX);
        tree.check().unwrap();
        let restored: Tree = serde_json::from_str(&serde_json::to_string(&tree).unwrap()).unwrap();
        assert_eq!(restored.range(""), tree.range(""));
        assert!(restored.changes_after(tree.revision() - 1).is_none());
        assert_eq!(restored.changes_after(tree.revision()).unwrap().count(), 0);
    }

    /// A step of the comparison with a model.
    #[derive(Debug, Clone)]
    enum Step {
        Apply(Txn),
        Grant(u64),
        End(LeaseId),
        Restore,
    }

    const KEYS: [&str; 4] = ["a", "a/1", "a/2", "b"];

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let key = || prop::sample::select(KEYS.to_vec()).prop_map(str::to_owned);
        let value = || prop::sample::select(vec!["", "1", "2"]).prop_map(str::to_owned);
        let lease = || prop::option::of(1..5_i64);
        let op = prop_oneof![
            3 => (key(), value(), lease()).prop_map(|(key, value, lease)| Op::Put { key, value, lease }),
            1 => key().prop_map(|key| Op::Delete { key }),
        ];
        let compare = prop_oneof![
            key().prop_map(|key| Compare::Absent { key }),
            (key(), 0..20_u64).prop_map(|(key, revision)| Compare::ModifiedAt { key, revision }),
            (key(), value()).prop_map(|(key, value)| Compare::ValueIs { key, value }),
            (key(), 0..20_u64).prop_map(|(prefix, revision)| Compare::UnwrittenSince { prefix, revision }),
        ];
        let txn = (prop::collection::vec(compare, 0..2), prop::collection::vec(op, 0..4));
        let step = prop_oneof![
            6 => txn.prop_map(|(compares, ops)| Step::Apply(Txn { compares, ops })),
            2 => (1..9_u64).prop_map(Step::Grant),
            1 => (1..5_i64).prop_map(Step::End),
            1 => Just(Step::Restore),
        ];
        prop::collection::vec(step, 0..60)
    }

    /// As plain as can be: a list of entries, a list of leases.
    #[derive(Default)]
    struct Model {
        revision: Revision,
        entries: Vec<Entry>,
        leases: Vec<LeaseId>,
        granted: LeaseId,
    }

    impl Model {
        fn at(&self, key: &str) -> Option<&Entry> {
            self.entries.iter().find(|e| e.key == key)
        }

        fn apply(&mut self, txn: &Txn) -> Result<Verdict, Fault> {
            let keys: BTreeSet<&str> = txn.ops.iter().map(Op::key).collect();
            if keys.len() < txn.ops.len() {
                return Err(Fault::Invalid(String::new()));
            }
            for compare in &txn.compares {
                let holds = match compare {
                    Compare::Absent { key } => self.at(key).is_none(),
                    Compare::ModifiedAt { key, revision } => self.at(key).map_or(0, |e| e.modified) == *revision,
                    Compare::ValueIs { key, value } => self.at(key).map(|e| &e.value) == Some(value),
                    Compare::UnwrittenSince { prefix, revision } => {
                        self.entries.iter().all(|e| !e.key.starts_with(prefix) || e.modified <= *revision)
                    }
                };
                if !holds {
                    return Ok(Verdict::Refused(self.revision));
                }
            }
            for op in &txn.ops {
                if let Op::Put { lease: Some(lease), .. } = op
                    && !self.leases.contains(lease)
                {
                    return Err(Fault::NoLease(*lease));
                }
            }
            let next = self.revision + 1;
            for op in &txn.ops {
                let before = self.entries.len();
                self.entries.retain(|e| e.key != op.key());
                if self.entries.len() < before {
                    self.revision = next;
                }
                if let Op::Put { key, value, lease } = op {
                    self.revision = next;
                    let entry = Entry { key: key.clone(), value: value.clone(), modified: next, lease: *lease };
                    self.entries.push(entry);
                }
            }
            self.entries.sort_by(|a, b| a.key.cmp(&b.key));
            Ok(Verdict::Done(self.revision))
        }

        fn end(&mut self, lease: LeaseId) {
            self.leases.retain(|id| *id != lease);
            let before = self.entries.len();
            self.entries.retain(|e| e.lease != Some(lease));
            self.revision += u64::from(self.entries.len() < before);
        }
    }

    /// Follows the changes as a watch would.
    fn follow(seen: &mut Snapshot, tree: &Tree) {
        let Some(news) = tree.changes_after(seen.revision) else {
            *seen = tree.range("");
            return;
        };
        for (revision, changes) in news {
            assert_eq!(*revision, seen.revision + 1);
            seen.revision = *revision;
            for change in changes {
                let (Change::Put(Entry { key, .. }) | Change::Delete { key }) = change;
                seen.entries.retain(|e| e.key != *key);
                if let Change::Put(entry) = change {
                    seen.entries.push(entry.clone());
                }
            }
        }
        seen.entries.sort_by(|a, b| a.key.cmp(&b.key));
    }

    proptest! {
        #[test]
        fn as_a_naive_model(steps in steps()) {
            let (mut tree, mut model, mut seen) = (Tree::default(), Model::default(), Snapshot::default());
            for step in steps {
                match step {
                    Step::Apply(txn) => match (tree.apply(&txn), model.apply(&txn)) {
                        (Err(Fault::Invalid(_)), Err(Fault::Invalid(_))) => {}
                        (ours, theirs) => prop_assert_eq!(ours, theirs),
                    },
                    Step::Grant(ttl) => {
                        model.granted += 1;
                        model.leases.push(model.granted);
                        prop_assert_eq!(tree.grant(ttl), model.granted);
                    }
                    Step::End(lease) => {
                        let there = model.leases.contains(&lease);
                        model.end(lease);
                        prop_assert_eq!(tree.end(lease), there);
                    }
                    Step::Restore => {
                        tree = serde_json::from_str(&serde_json::to_string(&tree).unwrap()).unwrap();
                    }
                }
                prop_assert_eq!(tree.check(), Ok(()));
                let all = tree.range("");
                prop_assert_eq!(&all, &Snapshot { revision: model.revision, entries: model.entries.clone() });
                for prefix in ["a", "a/", "b", "c"] {
                    let part: Vec<_> = model.entries.iter().filter(|e| e.key.starts_with(prefix)).cloned().collect();
                    prop_assert_eq!(tree.range(prefix).entries, part);
                }
                follow(&mut seen, &tree);
                prop_assert_eq!(&seen, &all);
            }
        }
    }
}

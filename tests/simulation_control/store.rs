//! The model store: one sequence of revisions, leases on the world's clock. What is late or lost on the way to it and
//! back is the world's business.

use configsvr::store::{Change, Compare, Entry, LeaseId, Op, Revision, Snapshot, Txn, Verdict};
use std::collections::BTreeMap;

/// One revision.
#[derive(Debug, Clone)]
pub(crate) struct Commit {
    pub(crate) revision: Revision,
    pub(crate) changes: Vec<Change>,
}

/// Everything that is stored, and how it came there.
#[derive(Debug, Default)]
pub(crate) struct Store {
    pub(crate) entries: BTreeMap<String, Entry>,
    pub(crate) log: Vec<Commit>,
    /// When each lease ends, and its time to live.
    leases: BTreeMap<LeaseId, (u64, u64)>,
    last_lease: LeaseId,
}

impl Store {
    pub(crate) fn revision(&self) -> Revision {
        self.log.len() as Revision
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot { revision: self.revision(), entries: self.entries.values().cloned().collect() }
    }

    /// None: a put under a lease that is over.
    pub(crate) fn commit(&mut self, txn: &Txn) -> Option<Verdict> {
        if !txn.compares.iter().all(|c| self.holds(c)) {
            return Some(Verdict::Refused(self.revision()));
        }
        let over = |op: &Op| matches!(op, Op::Put { lease: Some(id), .. } if !self.leases.contains_key(id));
        if txn.ops.iter().any(over) {
            return None;
        }
        self.write(&txn.ops);
        Some(Verdict::Done(self.revision()))
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::Absent { key } => !self.entries.contains_key(key),
            Compare::ModifiedAt { key, revision } => self.entries.get(key).is_some_and(|e| e.modified == *revision),
            Compare::ValueIs { key, value } => self.entries.get(key).is_some_and(|e| e.value == *value),
            Compare::UnwrittenSince { prefix, revision } => {
                self.entries.values().all(|e| !e.key.starts_with(prefix) || e.modified <= *revision)
            }
        }
    }

    fn write(&mut self, ops: &[Op]) {
        let revision = self.revision() + 1;
        let mut changes = Vec::new();
        for op in ops {
            match op.clone() {
                Op::Put { key, value, lease } => {
                    let entry = Entry { key: key.clone(), value, modified: revision, lease };
                    self.entries.insert(key, entry.clone());
                    changes.push(Change::Put(entry));
                }
                Op::Delete { key } => {
                    if self.entries.remove(&key).is_some() {
                        changes.push(Change::Delete { key });
                    }
                }
            }
        }
        self.log.push(Commit { revision, changes });
    }

    pub(crate) fn grant(&mut self, now: u64, ttl_ms: u64) -> LeaseId {
        self.last_lease += 1;
        self.leases.insert(self.last_lease, (now + ttl_ms, ttl_ms));
        self.last_lease
    }

    pub(crate) fn keep_alive(&mut self, now: u64, id: LeaseId) -> bool {
        let lease = self.leases.get_mut(&id);
        lease.map(|(ends, ttl)| *ends = now + *ttl).is_some()
    }

    /// Ends leases whose time is over, with their keys; true: something was deleted.
    pub(crate) fn expire(&mut self, now: u64) -> bool {
        let over: Vec<LeaseId> = self.leases.iter().filter(|(_, (ends, _))| *ends <= now).map(|(id, _)| *id).collect();
        over.iter().for_each(|id| _ = self.leases.remove(id));
        let held = |e: &&Entry| e.lease.is_some_and(|id| over.contains(&id));
        let ops: Vec<Op> = self.entries.values().filter(held).map(|e| Op::Delete { key: e.key.clone() }).collect();
        if !ops.is_empty() {
            self.write(&ops);
        }
        !ops.is_empty()
    }
}

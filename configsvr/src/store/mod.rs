//! The store: where the truth about a cluster lives. One contract, three back ends: `etcd`, `embedded` (the raft state
//! machine of configSvr's own members) and `memory` (tests). All pass the same suite (`tests/e2e/store/contract.rs`).
//!
//! Keys are text and sorted as bytes; values are JSON. Every change has a revision, and revisions only grow. Keys given
//! here are relative: a back end puts the cluster's prefix before them.

pub mod etcd;
pub mod memory;
pub mod feed;
pub mod tree;

use futures_util::future::{BoxFuture, ready};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;
use tokio::sync::mpsc;

/// The number of a change; the first is 1. One for the whole store, as in etcd.
pub type Revision = u64;

/// A lease: keys under it go when it is not kept alive. Never 0.
pub type LeaseId = i64;

/// One key and what is known about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub key: String,
    pub value: String,
    /// When it was last written.
    pub modified: Revision,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseId>,
}

/// All keys under a prefix, as of one revision.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Snapshot {
    pub revision: Revision,
    /// By key.
    pub entries: Vec<Entry>,
}

/// What must be true for a transaction to be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compare {
    /// No such key.
    Absent { key: String },
    /// The key was last written at this revision.
    ModifiedAt { key: String, revision: Revision },
    /// The key holds exactly this.
    ValueIs { key: String, value: String },
    /// No key that begins with `prefix` was written after this revision. Keys that were deleted leave no trace.
    UnwrittenSince { prefix: String, revision: Revision },
}

/// One change of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Without a lease the key stays until it is deleted; a lease it had before is off it.
    Put { key: String, value: String, lease: Option<LeaseId> },
    /// Welcome also where there is no such key.
    Delete { key: String },
}

/// All or nothing: if every comparison holds, all operations happen, at one revision. A key is named by at most one
/// operation.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Txn {
    pub compares: Vec<Compare>,
    pub ops: Vec<Op>,
}

/// The most operations, and the most comparisons, in one transaction: etcd's default limit (`--max-txn-ops`).
pub const TXN_MAX: usize = 128;

/// The most bytes of keys and values in one transaction: etcd refuses requests of 1.5 MiB (`--max-request-bytes`), and
/// prefixes and framing come on top.
pub const TXN_BYTES_MAX: usize = 1 << 20;

impl Txn {
    /// Refuses what no store would do, so that all back ends refuse the same.
    pub fn check(&self) -> Result<(), Fault> {
        let invalid = |why: String| Err(Fault::Invalid(why));
        let (compares, ops) = (self.compares.len(), self.ops.len());
        if compares.max(ops) > TXN_MAX {
            return invalid(format!(
                "a transaction of {compares} comparisons and {ops} operations: at most {TXN_MAX} each; split it"
            ));
        }
        let bytes = self.bytes();
        if bytes > TXN_BYTES_MAX {
            return invalid(format!("a transaction of {bytes} bytes: at most {TXN_BYTES_MAX}; split it"));
        }
        let mut keys: Vec<&str> = self.ops.iter().map(Op::key).collect();
        keys.sort_unstable();
        if let Some(twice) = keys.windows(2).find(|pair| pair[0] == pair[1]) {
            return invalid(format!("a transaction names key {:?} in two operations: one is enough", twice[0]));
        }
        if keys.first().is_some_and(|key| key.is_empty()) {
            return invalid("a transaction names an empty key".to_owned());
        }
        Ok(())
    }

    /// Of keys and values.
    fn bytes(&self) -> usize {
        let compares = self.compares.iter().map(|compare| match compare {
            Compare::Absent { key } | Compare::ModifiedAt { key, .. } => key.len(),
            Compare::ValueIs { key, value } => key.len() + value.len(),
            Compare::UnwrittenSince { prefix, .. } => prefix.len(),
        });
        let ops = self.ops.iter().map(|op| match op {
            Op::Put { key, value, .. } => key.len() + value.len(),
            Op::Delete { key } => key.len(),
        });
        compares.sum::<usize>() + ops.sum::<usize>()
    }
}

impl Op {
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// What became of a transaction that the store has judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Done, at this revision.
    Done(Revision),
    /// Some comparison did not hold; nothing was done. The store's revision at that moment.
    Refused(Revision),
}

/// Why the store gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// Certainly not done: nobody was reached, or it said no. Try again.
    Unavailable(String),
    /// A write that may have been done, or may yet be: read before writing again.
    Unknown(String),
    /// Never will be: a transaction too large, a password refused. Says what to do.
    Invalid(String),
    /// No such lease (keep-alive, put).
    NoLease(LeaseId),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable(why) => write!(f, "the store cannot be reached: {why}"),
            Self::Unknown(why) => write!(f, "the store gave no answer, the change may have been made: {why}"),
            Self::Invalid(why) => f.write_str(why),
            Self::NoLease(id) => write!(f, "lease {id:x} is over"),
        }
    }
}

impl std::error::Error for Fault {}

/// One key's change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    Put(Entry),
    Delete { key: String },
}

/// What a watch tells. A watch never ends by itself, loses nothing and repeats nothing, except that it may start over:
/// `Listed` replaces all that was known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Everything there is. Always the first notice, and again whenever changes may have been missed (the store was away
    /// for too long, its history was compacted).
    Listed(Snapshot),
    /// What one revision changed. All changes of a revision come in one notice.
    Changed { revision: Revision, changes: Vec<Change> },
    /// The store cannot be reached at the moment; what is known may be old. `Listed` or `Changed` follow when it is back.
    Lost(String),
}

/// One server of a store that has its own, as it answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Server {
    pub addr: String,
    /// None: it said nothing, `fault` says why.
    pub status: Option<ServerStatus>,
    /// Why it did not answer, or what it complains about.
    pub fault: Option<String>,
}

/// What a server says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServerStatus {
    pub version: String,
    pub leading: bool,
    /// Its database on disk.
    pub bytes: u64,
}

/// Notices that wait for the reader; a watch that is read too slowly starts over with `Listed` rather than growing.
pub const NOTICES_MAX: usize = 1024;

/// Keeps the truth. Calls end within a bounded time (each back end's own limit, a few seconds) whatever happens to the
/// store. Any number of calls may be under way.
pub trait Store: Send + Sync + 'static {
    /// The latest value: a read sees every write that was acknowledged before it began, by whomever.
    fn get(&self, key: &str) -> BoxFuture<'_, Result<Option<Entry>, Fault>>;

    /// As `get`, for all keys that begin with `prefix`; "" for all.
    fn range(&self, prefix: &str) -> BoxFuture<'_, Result<Snapshot, Fault>>;

    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Verdict, Fault>>;

    /// Everything now, then every change, of all keys. Ends when the receiver is dropped.
    fn watch(&self) -> mpsc::Receiver<Notice>;

    /// A new lease that ends `ttl` (rounded up to seconds, at least 1) after it was last kept alive. When the store itself
    /// was away or changed its leader, a lease may live longer by its ttl, never shorter.
    fn grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, Fault>>;

    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), Fault>>;

    /// Ends it now, with its keys. Welcome also where there is none.
    fn revoke(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), Fault>>;

    /// Each server by itself, within a few seconds. None where the store has no servers of its own.
    fn servers(&self) -> BoxFuture<'_, Vec<Server>> {
        Box::pin(ready(Vec::new()))
    }

    /// For people: `etcd 3.4.23 at 10.0.0.1:2379`, `embedded`.
    fn describe(&self) -> String;
}

/// A lease's length as stores keep it: rounded up, at least 1.
pub(crate) fn whole_seconds(ttl: Duration) -> u64 {
    (ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0)).max(1)
}

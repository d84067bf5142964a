//! What raft carries among the members, and what a member is.

use crate::store::{Fault, LeaseId, Txn, Verdict};
use serde::{Deserialize, Serialize};
use std::io::Cursor;

/// A member's number: chosen by people, never used again for another disk.
pub type MemberId = u64;

/// Where a member is, as the log says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    pub name: String,
    /// Its API, which raft shares: `host:port`.
    pub addr: String,
}

/// A member, as a configuration names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    pub id: MemberId,
    pub name: String,
    /// `host:port`
    pub addr: String,
}

impl Peer {
    pub(super) fn place(&self) -> Place {
        Place { name: self.name.clone(), addr: self.addr.clone() }
    }
}

/// What is proposed. All members do the same with it, so what it means never changes: a new meaning is a new variant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    Write(Txn),
    /// A new lease.
    Grant {
        ttl_s: u64,
    },
    /// A lease was revoked or is over.
    End {
        lease: LeaseId,
    },
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Raft's own entries.
    Nothing,
    Judged(Result<Verdict, Fault>),
    Granted(LeaseId),
    /// Whether there was such a lease.
    Ended(bool),
}

openraft::declare_raft_types!(
    /// Our choices among what openraft leaves open.
    pub Types:
        D = Command,
        R = Reply,
        NodeId = MemberId,
        Node = Place,
        SnapshotData = Cursor<Vec<u8>>,
);

pub(super) type Raft = openraft::Raft<Types>;
pub(super) type Entry = openraft::Entry<Types>;
pub(super) type LogId = openraft::LogId<MemberId>;
pub(super) type Vote = openraft::Vote<MemberId>;
pub(super) type Membership = openraft::StoredMembership<MemberId, Place>;
pub(super) type SnapshotMeta = openraft::SnapshotMeta<MemberId, Place>;
pub(super) type Metrics = openraft::RaftMetrics<MemberId, Place>;
pub(super) type StorageError = openraft::StorageError<MemberId>;

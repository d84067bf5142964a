//! What the log's entries are applied to: the tree of the embedded store. It lives in memory; a snapshot of it is on
//! disk, and the log holds what came after.

#![expect(clippy::disallowed_methods, reason = "a shell: reads and writes the snapshot's file")]

use super::types::{Command, Entry, LogId, Membership, Reply, SnapshotMeta, StorageError, Types};
use crate::store::feed::Shared;
use crate::store::tree::Tree;
use anyhow::Context;
use openraft::storage::{RaftStateMachine, Snapshot};
use openraft::{AnyError, EntryPayload, ErrorSubject, ErrorVerb, OptionalSend, RaftSnapshotBuilder, StorageIOError};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{Cursor, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::Mutex;

const FILE: &str = "snapshot.json";
const FILE_NEW: &str = "snapshot.new";

/// The state machine.
#[derive(Debug)]
pub(super) struct Machine {
    shared: Arc<Shared>,
    applied: Option<LogId>,
    membership: Membership,
    snapshots: Snapshots,
}

/// A snapshot, as it is on disk and in memory.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    meta: SnapshotMeta,
    /// The tree as JSON.
    tree: String,
}

/// The latest snapshot; one file.
#[derive(Debug, Clone)]
struct Snapshots {
    dir: PathBuf,
    latest: Arc<Mutex<Option<Kept>>>,
}

/// Makes a snapshot of what was there when it was asked to.
#[derive(Debug)]
pub(super) struct Builder {
    tree: Tree,
    applied: Option<LogId>,
    membership: Membership,
    snapshots: Snapshots,
}

impl Machine {
    /// As the last snapshot says; the log brings it up to date. Blocks.
    pub(super) fn open(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join(FILE);
        let kept: Option<Kept> = match fs::read(&path) {
            Ok(json) => Some(serde_json::from_slice(&json).with_context(|| format!("{} is damaged", path.display()))?),
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Err(e) => return Err(e).with_context(|| format!("{} cannot be read", path.display())),
        };
        let tree = kept.as_ref().map(|kept| serde_json::from_str(&kept.tree)).transpose();
        let tree: Tree = tree.with_context(|| format!("{} is damaged", path.display()))?.unwrap_or_default();
        let meta = kept.as_ref().map(|kept| kept.meta.clone()).unwrap_or_default();
        Ok(Self {
            shared: Arc::new(Shared::new(tree)),
            applied: meta.last_log_id,
            membership: meta.last_membership,
            snapshots: Snapshots { dir: dir.to_owned(), latest: Arc::new(Mutex::new(kept)) },
        })
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }
}

/// What one entry does.
fn perform(tree: &mut Tree, command: Command) -> Reply {
    match command {
        Command::Write(txn) => Reply::Judged(tree.apply(&txn)),
        Command::Grant { ttl_s } => Reply::Granted(tree.grant(ttl_s)),
        Command::End { lease } => Reply::Ended(tree.end(lease)),
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Membership), StorageError> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Reply>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut tree = self.shared.tree.lock().await;
        let mut replies = Vec::new();
        for entry in entries {
            self.applied = Some(entry.log_id);
            replies.push(match entry.payload {
                EntryPayload::Blank => Reply::Nothing,
                EntryPayload::Normal(command) => perform(&mut tree, command),
                EntryPayload::Membership(membership) => {
                    self.membership = Membership::new(Some(entry.log_id), membership);
                    Reply::Nothing
                }
            });
        }
        self.shared.announce(tree.revision());
        Ok(replies)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            tree: self.shared.tree.lock().await.clone(),
            applied: self.applied,
            membership: self.membership.clone(),
            snapshots: self.snapshots.clone(),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let damaged = |e: &dyn std::fmt::Display| failed(ErrorVerb::Read, &format!("the leader's snapshot: {e}"));
        let text = String::from_utf8(snapshot.into_inner()).map_err(|e| damaged(&e))?;
        let tree: Tree = serde_json::from_str(&text).map_err(|e| damaged(&e))?;
        self.snapshots.keep(Kept { meta: meta.clone(), tree: text }).await?;
        let revision = tree.revision();
        *self.shared.tree.lock().await = tree;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.shared.announce(revision);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, StorageError> {
        Ok(self.snapshots.latest.lock().await.as_ref().map(Kept::snapshot))
    }
}

impl RaftSnapshotBuilder<Types> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, StorageError> {
        let tree = serde_json::to_string(&self.tree).map_err(|e| failed(ErrorVerb::Write, &e))?;
        let applied = self.applied.map_or("none".to_owned(), |id| id.to_string());
        let meta = SnapshotMeta {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
            snapshot_id: format!("{applied}-{}", self.tree.revision()),
        };
        let kept = Kept { meta, tree };
        let snapshot = kept.snapshot();
        self.snapshots.keep(kept).await?;
        Ok(snapshot)
    }
}

impl Kept {
    fn snapshot(&self) -> Snapshot<Types> {
        let data = Cursor::new(self.tree.clone().into_bytes());
        Snapshot { meta: self.meta.clone(), snapshot: Box::new(data) }
    }
}

impl Snapshots {
    /// On disk when it returns. An older one than what is kept (it took long to build) is dropped.
    async fn keep(&self, kept: Kept) -> Result<(), StorageError> {
        let mut latest = self.latest.lock().await;
        if latest.as_ref().is_some_and(|latest| latest.meta.last_log_id > kept.meta.last_log_id) {
            return Ok(());
        }
        let json = serde_json::to_vec(&kept).map_err(|e| failed(ErrorVerb::Write, &e))?;
        let dir = self.dir.clone();
        let written = tokio::task::spawn_blocking(move || write(&dir, &json)).await;
        written.map_err(|e| failed(ErrorVerb::Write, &e))?.map_err(|e| failed(ErrorVerb::Write, &e))?;
        *latest = Some(kept);
        Ok(())
    }
}

/// All of it or nothing, whatever happens meanwhile.
fn write(dir: &Path, json: &[u8]) -> std::io::Result<()> {
    let new = dir.join(FILE_NEW);
    let mut file = fs::File::create(&new)?;
    file.write_all(json)?;
    file.sync_all()?;
    fs::rename(&new, dir.join(FILE))?;
    fs::File::open(dir)?.sync_all()
}

fn failed(verb: ErrorVerb, why: &dyn std::fmt::Display) -> StorageError {
    let source = AnyError::error(format!("the snapshot: {why}"));
    StorageIOError::new(ErrorSubject::Snapshot(None), verb, source).into()
}

//! Raft's log on disk: one redb file. What was said to be kept survives a crash: every append and every vote is synced
//! before it is acknowledged.

use super::types::{Entry, LogId, MemberId, StorageError, Types, Vote};
use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{AnyError, ErrorSubject, ErrorVerb, LogState, OptionalSend, RaftLogReader, StorageIOError};
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::Arc;

/// Entries by index, as JSON.
const ENTRIES: TableDefinition<u64, &[u8]> = TableDefinition::new("entries");
/// Single facts, as JSON.
const FACTS: TableDefinition<&str, &[u8]> = TableDefinition::new("facts");
const VOTE: &str = "vote";
const COMMITTED: &str = "committed";
const PURGED: &str = "purged";
/// Whose log it is: a member that took another's log would break what that one promised.
const MEMBER: &str = "member";
/// That this member may take part (`admission`).
const ADMITTED: &str = "admitted";

/// Cheap to clone: all clones are one log.
#[derive(Debug, Clone)]
pub(super) struct Log {
    db: Arc<Database>,
}

/// Why the file could not be read or written.
type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Log {
    /// Opens the log of this member, or begins one. Blocks.
    pub(super) fn open(path: &Path, member: MemberId) -> anyhow::Result<Self> {
        let begin = || -> Result<Database, Failure> {
            let db = Database::create(path)?;
            let txn = db.begin_write()?;
            txn.open_table(ENTRIES)?;
            let owner = {
                let mut facts = txn.open_table(FACTS)?;
                let owner = facts.get(MEMBER)?.map(|json| serde_json::from_slice(json.value())).transpose()?;
                facts.insert(MEMBER, serde_json::to_vec(&owner.unwrap_or(member))?.as_slice())?;
                owner.unwrap_or(member)
            };
            if owner != member {
                return Err(format!("it is member {owner}'s, this is member {member}").into());
            }
            txn.commit()?;
            Ok(db)
        };
        let db = begin().map_err(|e| {
            anyhow::anyhow!(
                "the raft log {} cannot be opened: {e}. Is another configsvr using it, or the disk full or broken?",
                path.display()
            )
        })?;
        Ok(Self { db: Arc::new(db) })
    }

    /// This member may take part; it is known from now on.
    pub(super) async fn admit(&self) -> Result<(), StorageError> {
        self.put_fact(ADMITTED, &true, Durability::Immediate, None).await
    }

    pub(super) async fn is_admitted(&self) -> Result<bool, StorageError> {
        Ok(self.fact(ADMITTED).await?.unwrap_or(false))
    }

    /// Does something to the file where blocking is allowed.
    async fn run<T: Send + 'static>(
        &self,
        verb: ErrorVerb,
        f: impl FnOnce(&Database) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StorageError> {
        let db = self.db.clone();
        let failure: Failure = match tokio::task::spawn_blocking(move || f(&db)).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(failure)) => failure,
            Err(stopped) => stopped.into(),
        };
        let source = AnyError::error(format!("the raft log: {failure}"));
        Err(StorageIOError::new(ErrorSubject::Logs, verb, source).into())
    }

    async fn fact<T: DeserializeOwned + Send + 'static>(&self, name: &'static str) -> Result<Option<T>, StorageError> {
        self.run(ErrorVerb::Read, move |db| fact(db, name)).await
    }

    /// Puts a fact, and does what belongs to it, at once.
    async fn put_fact<T: Serialize>(
        &self,
        name: &'static str,
        value: &T,
        durability: Durability,
        entries_gone: Option<(Bound<u64>, Bound<u64>)>,
    ) -> Result<(), StorageError> {
        let value = serde_json::to_vec(value);
        self.run(ErrorVerb::Write, move |db| {
            let mut txn = db.begin_write()?;
            txn.set_durability(durability)?;
            txn.open_table(FACTS)?.insert(name, value?.as_slice())?;
            if let Some(range) = entries_gone {
                txn.open_table(ENTRIES)?.retain_in(range, |_, _| false)?;
            }
            Ok(txn.commit()?)
        })
        .await
    }
}

fn fact<T: DeserializeOwned>(db: &Database, name: &str) -> Result<Option<T>, Failure> {
    let value = db.begin_read()?.open_table(FACTS)?.get(name)?;
    Ok(value.map(|json| serde_json::from_slice(json.value())).transpose()?)
}

fn append(db: &Database, entries: &[(u64, Vec<u8>)]) -> Result<(), Failure> {
    let txn = db.begin_write()?;
    {
        let mut table = txn.open_table(ENTRIES)?;
        for (index, json) in entries {
            table.insert(index, json.as_slice())?;
        }
    }
    Ok(txn.commit()?)
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        let range = (range.start_bound().cloned(), range.end_bound().cloned());
        self.run(ErrorVerb::Read, move |db| {
            let table = db.begin_read()?.open_table(ENTRIES)?;
            let entries = table.range::<u64>(range)?.map(|found| Ok(serde_json::from_slice(found?.1.value())?));
            entries.collect()
        })
        .await
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        self.run(ErrorVerb::Read, |db| {
            let purged: Option<LogId> = fact(db, PURGED)?;
            let table = db.begin_read()?.open_table(ENTRIES)?;
            let last: Option<Entry> =
                table.last()?.map(|(_, json)| serde_json::from_slice(json.value())).transpose()?;
            Ok(LogState { last_purged_log_id: purged, last_log_id: last.map(|entry| entry.log_id).or(purged) })
        })
        .await
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        self.put_fact(VOTE, vote, Durability::Immediate, None).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        self.fact(VOTE).await
    }

    /// Not synced: what is lost of it is learned again from the leader.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        self.put_fact(COMMITTED, &committed, Durability::None, None).await
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.fact::<Option<LogId>>(COMMITTED).await?.flatten())
    }

    /// Returns when the entries are on disk: an entry that could be read but not yet relied upon is one thing less to
    /// think about. Entries that arrive meanwhile are written together, by the next call.
    async fn append<I>(&mut self, entries: I, flushed: LogFlushed<Types>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let json = |entry: Entry| Ok((entry.log_id.index, serde_json::to_vec(&entry)?));
        let entries: Result<Vec<_>, serde_json::Error> = entries.into_iter().map(json).collect();
        self.run(ErrorVerb::Write, move |db| append(db, &entries?)).await?;
        flushed.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, from: LogId) -> Result<(), StorageError> {
        self.run(ErrorVerb::Delete, move |db| {
            let txn = db.begin_write()?;
            txn.open_table(ENTRIES)?.retain_in(from.index.., |_, _| false)?;
            Ok(txn.commit()?)
        })
        .await
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), StorageError> {
        let gone = (Bound::Unbounded, Bound::Included(upto.index));
        self.put_fact(PURGED, &upto, Durability::Immediate, Some(gone)).await
    }
}

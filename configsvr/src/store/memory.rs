//! The store of tests: in this process's memory.

use super::feed::Shared;
use super::tree::Tree;
use super::{Entry, Fault, LeaseId, Notice, Snapshot, Store, Txn, Verdict};
use futures_util::future::BoxFuture;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::Instant;

/// A store that lives as long as this value. Cheap to clone: all clones are the same store.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    shared: Arc<Shared>,
    leases: Mutex<Leases>,
    /// Why nobody may use it, in tests of outages.
    lost: watch::Sender<Option<String>>,
}

#[derive(Debug, Default)]
struct Leases {
    ends: BTreeMap<LeaseId, Instant>,
    /// Whether somebody ends leases that are over.
    guarded: bool,
}

impl Memory {
    pub fn new() -> Self {
        Self::default()
    }

    /// As if the store were away (or, with None, back): calls fail with this reason, watches say `Lost`.
    pub fn lose(&self, why: Option<&str>) {
        self.inner.lost.send_replace(why.map(str::to_owned));
    }

    fn reachable(&self) -> Result<(), Fault> {
        self.inner.lost.borrow().clone().map_or(Ok(()), |why| Err(Fault::Unavailable(why)))
    }

    /// Does something to the tree and lets the watches know.
    async fn change<T>(&self, f: impl FnOnce(&mut Tree) -> T) -> Result<T, Fault> {
        self.reachable()?;
        Ok(self.inner.change(f).await)
    }
}

impl Inner {
    async fn change<T>(&self, f: impl FnOnce(&mut Tree) -> T) -> T {
        let mut tree = self.shared.tree.lock().await;
        let done = f(&mut tree);
        self.shared.announce(tree.revision());
        done
    }

    /// Ends the leases that are over; when the next one will be.
    async fn expire(&self) -> Option<Instant> {
        let mut leases = self.leases.lock().await;
        let now = Instant::now();
        let over: Vec<LeaseId> = leases.ends.iter().filter(|(_, end)| **end <= now).map(|(id, _)| *id).collect();
        for id in over {
            leases.ends.remove(&id);
            self.change(|tree| tree.end(id)).await;
        }
        let next = leases.ends.values().min().copied();
        leases.guarded = next.is_some();
        next
    }
}

/// Ends leases as long as there are any.
async fn guard(inner: Weak<Inner>) {
    while let Some(inner) = inner.upgrade() {
        let Some(next) = inner.expire().await else { return };
        drop(inner);
        // A lease granted meanwhile may be over sooner.
        tokio::time::sleep_until(next.min(Instant::now() + Duration::from_millis(100))).await;
    }
}

impl Store for Memory {
    fn get(&self, key: &str) -> BoxFuture<'_, Result<Option<Entry>, Fault>> {
        let key = key.to_owned();
        Box::pin(async move {
            self.reachable()?;
            Ok(self.inner.shared.tree.lock().await.get(&key))
        })
    }

    fn range(&self, prefix: &str) -> BoxFuture<'_, Result<Snapshot, Fault>> {
        let prefix = prefix.to_owned();
        Box::pin(async move {
            self.reachable()?;
            Ok(self.inner.shared.tree.lock().await.range(&prefix))
        })
    }

    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Verdict, Fault>> {
        Box::pin(async move { self.change(|tree| tree.apply(&txn)).await? })
    }

    fn watch(&self) -> mpsc::Receiver<Notice> {
        self.inner.shared.watch(self.inner.lost.subscribe())
    }

    fn grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, Fault>> {
        Box::pin(async move {
            let mut leases = self.inner.leases.lock().await;
            let ttl_s = super::whole_seconds(ttl);
            let id = self.change(|tree| tree.grant(ttl_s)).await?;
            leases.ends.insert(id, Instant::now() + Duration::from_secs(ttl_s));
            if !std::mem::replace(&mut leases.guarded, true) {
                tokio::spawn(guard(Arc::downgrade(&self.inner)));
            }
            Ok(id)
        })
    }

    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), Fault>> {
        Box::pin(async move {
            let mut leases = self.inner.leases.lock().await;
            self.reachable()?;
            let ttl_s = self.inner.shared.tree.lock().await.ttl_s(lease).ok_or(Fault::NoLease(lease))?;
            leases.ends.insert(lease, Instant::now() + Duration::from_secs(ttl_s));
            Ok(())
        })
    }

    fn revoke(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), Fault>> {
        Box::pin(async move {
            self.inner.leases.lock().await.ends.remove(&lease);
            self.change(|tree| tree.end(lease)).await?;
            Ok(())
        })
    }

    fn describe(&self) -> String {
        "memory".to_owned()
    }
}

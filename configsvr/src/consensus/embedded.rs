//! The store inside configSvr: the tree that raft's log makes, on every member. The leader writes; any member reads what is
//! true and watches what it has applied.

use super::Consensus;
use super::types::{Command, Reply};
use crate::control::event::Leadership;
use crate::store::{self, Entry, Fault, LeaseId, Notice, Snapshot, Store, Txn, Verdict};
use futures_util::future::{BoxFuture, join_all};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// How often the leader looks for leases that are over, which are counted in seconds.
const LOOK: Duration = Duration::from_millis(100);
/// For how long nobody may lead before watches are told that what they know may be old. An ordinary election is shorter.
const LEADERLESS_MAX: Duration = Duration::from_secs(3);

/// Cheap to clone.
#[derive(Clone)]
pub struct Embedded {
    inner: Arc<Inner>,
}

struct Inner {
    consensus: Consensus,
    leases: Arc<Mutex<Leases>>,
    lost: watch::Receiver<Option<String>>,
    tasks: [AbortHandle; 2],
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// When leases end: only the leader knows, and it forgets all when it no longer leads. So after a change of leaders each
/// lease gets its whole ttl again.
#[derive(Debug, Default)]
struct Leases {
    ends: BTreeMap<LeaseId, Instant>,
    /// Over, and their end is proposed: nobody keeps them alive any more.
    ending: BTreeSet<LeaseId>,
    /// The leadership under which they are known.
    term: Option<crate::control::layout::Token>,
}

impl Embedded {
    pub fn new(consensus: Consensus) -> Self {
        let leases = Arc::new(Mutex::new(Leases::default()));
        let (losing, lost) = watch::channel(None);
        let expiry = tokio::spawn(expire(consensus.clone(), leases.clone()));
        let outage = tokio::spawn(notice_outage(consensus.leadership(), losing));
        let tasks = [expiry.abort_handle(), outage.abort_handle()];
        Self { inner: Arc::new(Inner { consensus, leases, lost, tasks }) }
    }

    /// What this member has applied, which may be behind: for people, when nothing else can be had.
    pub async fn local(&self) -> Snapshot {
        self.inner.consensus.inner.shared.tree.lock().await.range("")
    }
}

/// Ends leases that are over, as long as this member leads.
async fn expire(consensus: Consensus, leases: Arc<Mutex<Leases>>) {
    let mut clock = interval(LOOK);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        clock.tick().await;
        let over = leases.lock().await.over(&consensus).await;
        // Whatever comes of it: those that are still there are found again.
        let ended = join_all(over.into_iter().map(|lease| consensus.write(Command::End { lease }))).await;
        for fault in ended.into_iter().filter_map(Result::err) {
            tracing::warn!("a lease that is over could not be ended yet: {fault}");
        }
    }
}

impl Leases {
    /// The leases that are over.
    async fn over(&mut self, consensus: &Consensus) -> Vec<LeaseId> {
        let Leadership::Leading(token) = *consensus.inner.leadership.borrow() else {
            *self = Self::default();
            return vec![];
        };
        if self.term != Some(token) {
            *self = Self { term: Some(token), ..Self::default() };
        }
        let now = Instant::now();
        let known: BTreeMap<LeaseId, u64> = consensus.inner.shared.tree.lock().await.leases().collect();
        self.ends.retain(|id, _| known.contains_key(id));
        self.ending.retain(|id| known.contains_key(id));
        for (id, ttl_s) in known {
            self.ends.entry(id).or_insert(now + Duration::from_secs(ttl_s));
        }
        self.ending.extend(self.ends.iter().filter(|(_, end)| **end <= now).map(|(id, _)| *id));
        self.ending.iter().copied().collect()
    }
}

/// Says `Some(why)` while nobody has led for long.
async fn notice_outage(mut leadership: watch::Receiver<Leadership>, lost: watch::Sender<Option<String>>) {
    loop {
        let leaderless = *leadership.borrow_and_update() == Leadership::Following(None);
        let wait = leaderless && lost.borrow().is_none();
        if !leaderless {
            lost.send_if_modified(|lost| lost.take().is_some());
        }
        let changed = match wait {
            true => tokio::time::timeout(LEADERLESS_MAX, leadership.changed()).await,
            false => Ok(leadership.changed().await),
        };
        match changed {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return,
            Err(_) => {
                lost.send_replace(Some(format!("no member of configsvr has led for {LEADERLESS_MAX:?}")));
            }
        }
    }
}

fn unexpected<T>(reply: Reply) -> Result<T, Fault> {
    Err(Fault::Unknown(format!("raft answered {reply:?}, which answers something else")))
}

impl Store for Embedded {
    fn get(&self, key: &str) -> BoxFuture<'_, Result<Option<Entry>, Fault>> {
        let key = key.to_owned();
        Box::pin(async move {
            self.inner.consensus.ensure_linearizable().await?;
            Ok(self.inner.consensus.inner.shared.tree.lock().await.get(&key))
        })
    }

    fn range(&self, prefix: &str) -> BoxFuture<'_, Result<Snapshot, Fault>> {
        let prefix = prefix.to_owned();
        Box::pin(async move {
            self.inner.consensus.ensure_linearizable().await?;
            Ok(self.inner.consensus.inner.shared.tree.lock().await.range(&prefix))
        })
    }

    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Verdict, Fault>> {
        Box::pin(async move {
            txn.check()?;
            match self.inner.consensus.write(Command::Write(txn)).await? {
                Reply::Judged(verdict) => verdict,
                reply => unexpected(reply),
            }
        })
    }

    fn watch(&self) -> mpsc::Receiver<Notice> {
        self.inner.consensus.inner.shared.watch(self.inner.lost.clone())
    }

    fn grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, Fault>> {
        Box::pin(async move {
            match self.inner.consensus.write(Command::Grant { ttl_s: store::whole_seconds(ttl) }).await? {
                Reply::Granted(lease) => Ok(lease),
                reply => unexpected(reply),
            }
        })
    }

    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), Fault>> {
        Box::pin(async move {
            let mut leases = self.inner.leases.lock().await;
            // While a majority follows, no other leader counts this lease's time.
            self.inner.consensus.check_leading()?;
            if leases.ending.contains(&lease) {
                return Err(Fault::NoLease(lease));
            }
            let ttl_s =
                self.inner.consensus.inner.shared.tree.lock().await.ttl_s(lease).ok_or(Fault::NoLease(lease))?;
            leases.ends.insert(lease, Instant::now() + Duration::from_secs(ttl_s));
            Ok(())
        })
    }

    fn revoke(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), Fault>> {
        Box::pin(async move {
            match self.inner.consensus.write(Command::End { lease }).await? {
                Reply::Ended(_) => Ok(()),
                reply => unexpected(reply),
            }
        })
    }

    fn describe(&self) -> String {
        "embedded".to_owned()
    }
}

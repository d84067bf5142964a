//! What every store promises (`configsvr::store`), as tests. Each uses keys of its own, so that they can run one after
//! another on one store.

use crate::site::{eventually, within};
use configsvr::store::{
    Change, Compare, Entry, Fault, LeaseId, NOTICES_MAX, Notice, Op, Snapshot, Store, Txn, Verdict,
};
use configsvr::store::{TXN_BYTES_MAX, TXN_MAX};
use futures_util::future::join_all;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::Receiver;

/// Far more than anything here takes on a machine that is not on fire.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub async fn all(store: Arc<dyn Store>) {
    let s = store.as_ref();
    reads_see_writes(s).await;
    comparisons_decide(s).await;
    a_transaction_is_one_revision(s).await;
    impossible_transactions_are_invalid(s).await;
    a_watch_tells_all_in_order(s).await;
    a_slow_reader_ends_where_the_store_is(s).await;
    a_lease_ends_unless_it_is_kept_alive(s).await;
    a_revoked_lease_takes_its_keys(s).await;
    counting_together_loses_nothing(store).await;
}

pub fn put(key: &str, value: &str) -> Op {
    Op::Put { key: key.to_owned(), value: value.to_owned(), lease: None }
}

fn leased(key: &str, value: &str, lease: LeaseId) -> Op {
    Op::Put { key: key.to_owned(), value: value.to_owned(), lease: Some(lease) }
}

fn delete(key: &str) -> Op {
    Op::Delete { key: key.to_owned() }
}

pub fn txn(ops: Vec<Op>) -> Txn {
    Txn { compares: vec![], ops }
}

pub async fn done(store: &dyn Store, ops: Vec<Op>) -> u64 {
    let began = Instant::now();
    loop {
        match store.commit(txn(ops.clone())).await {
            Ok(Verdict::Done(revision)) => return revision,
            // On a machine that is too busy, leaders come and go, and disks take seconds. These operations may be done twice.
            Err(Fault::Unavailable(_) | Fault::Unknown(_)) if began.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(20)).await
            }
            other => panic!("not done: {other:?}"),
        }
    }
}

pub async fn value(store: &dyn Store, key: &str) -> Option<String> {
    store.get(key).await.expect("an answer").map(|entry| entry.value)
}

async fn reads_see_writes(store: &dyn Store) {
    assert_eq!(store.get("reads/none").await, Ok(None));
    assert_eq!(store.range("reads/").await.expect("an answer").entries, []);
    let revision = done(store, vec![put("reads/b", "{\"n\":1}"), put("reads/a", ""), put("reads/ä", "ü")]).await;
    let entry =
        |key: &str, value: &str| Entry { key: key.into(), value: value.into(), modified: revision, lease: None };
    assert_eq!(store.get("reads/b").await, Ok(Some(entry("reads/b", "{\"n\":1}"))));
    let listed = store.range("reads/").await.expect("an answer");
    assert_eq!(listed.entries, [entry("reads/a", ""), entry("reads/b", "{\"n\":1}"), entry("reads/ä", "ü")]);
    assert_eq!(listed.revision, revision);
    assert_eq!(store.range("reads/b").await.expect("an answer").entries.len(), 1);
    let all = store.range("").await.expect("an answer").entries;
    assert!(listed.entries.iter().all(|entry| all.contains(entry)));
    assert!(all.is_sorted_by(|a, b| a.key.as_bytes() < b.key.as_bytes()));
    done(store, vec![delete("reads/b"), put("reads/a", "2")]).await;
    assert_eq!(value(store, "reads/b").await, None);
    assert_eq!(value(store, "reads/a").await.as_deref(), Some("2"));
}

async fn comparisons_decide(store: &dyn Store) {
    let revision = done(store, vec![put("compare/a", "1")]).await;
    let absent = |key: &str| Compare::Absent { key: key.to_owned() };
    let at = |key: &str, revision| Compare::ModifiedAt { key: key.to_owned(), revision };
    let is = |key: &str, value: &str| Compare::ValueIs { key: key.to_owned(), value: value.to_owned() };
    let unwritten = |prefix: &str, revision| Compare::UnwrittenSince { prefix: prefix.to_owned(), revision };
    let wrong = [
        absent("compare/a"),
        unwritten("compare/", revision - 1),
        unwritten("compare/a", 0),
        at("compare/a", revision - 1),
        at("compare/b", revision),
        is("compare/a", "2"),
        is("compare/b", ""),
    ];
    for compare in wrong {
        let compares = vec![absent("compare/b"), compare.clone()];
        let refused = store.commit(Txn { compares, ops: vec![put("compare/a", "x")] }).await;
        assert_eq!(refused, Ok(Verdict::Refused(revision)), "{compare:?}");
    }
    let mut compares = vec![absent("compare/b"), at("compare/a", revision), is("compare/a", "1")];
    compares.extend([unwritten("compare/", revision), unwritten("compare/b", 0)]);
    let only_asked = store.commit(Txn { compares: compares.clone(), ops: vec![] }).await;
    assert_eq!(only_asked, Ok(Verdict::Done(revision)));
    let done = store.commit(Txn { compares: compares.clone(), ops: vec![put("compare/b", "1")] }).await;
    assert_eq!(done, Ok(Verdict::Done(revision + 1)));
    let again = store.commit(Txn { compares, ops: vec![put("compare/b", "2")] }).await;
    assert_eq!(again, Ok(Verdict::Refused(revision + 1)));
    assert_eq!(value(store, "compare/b").await.as_deref(), Some("1"));
}

async fn a_transaction_is_one_revision(store: &dyn Store) {
    let ops: Vec<Op> = (0..TXN_MAX).map(|i| put(&format!("many/{i:03}"), "1")).collect();
    let revision = done(store, ops).await;
    let listed = store.range("many/").await.expect("an answer");
    assert_eq!(listed.entries.len(), TXN_MAX);
    assert!(listed.entries.iter().all(|entry| entry.modified == revision));
    assert_eq!(done(store, vec![put("many/x", "1")]).await, revision + 1);
    assert_eq!(done(store, vec![delete("many/none")]).await, revision + 1);
    assert_eq!(done(store, vec![]).await, revision + 1);
}

async fn impossible_transactions_are_invalid(store: &dyn Store) {
    let before = store.range("").await.expect("an answer");
    let many = (0..TXN_MAX + 1).map(|i| put(&format!("wrong/{i}"), ""));
    let wrong = [
        txn(many.collect()),
        Txn { compares: vec![Compare::Absent { key: "wrong/a".to_owned() }; TXN_MAX + 1], ops: vec![] },
        txn(vec![put("wrong/a", &"x".repeat(TXN_BYTES_MAX))]),
        txn(vec![put("wrong/a", "1"), delete("wrong/a")]),
    ];
    for txn in wrong {
        let outcome = store.commit(txn).await;
        assert!(matches!(&outcome, Err(Fault::Invalid(why)) if why.contains("transaction")), "{outcome:?}");
    }
    let no_lease = store.commit(txn(vec![put("wrong/a", "1"), leased("wrong/b", "1", 987_654_321)])).await;
    assert_eq!(no_lease, Err(Fault::NoLease(987_654_321)));
    assert_eq!(store.range("").await.expect("an answer"), before);
    let large = "x".repeat(TXN_BYTES_MAX - 100);
    done(store, vec![put("wrong/large", &large)]).await;
    assert_eq!(value(store, "wrong/large").await, Some(large));
    done(store, vec![delete("wrong/large")]).await;
}

/// What a reader of a watch knows.
#[derive(Debug, Default)]
pub struct Reader {
    pub known: BTreeMap<String, Entry>,
    pub revision: u64,
    pub listed: usize,
    pub lost: bool,
    pub losses: usize,
}

impl Reader {
    pub fn take(&mut self, notice: Notice) {
        match notice {
            Notice::Listed(Snapshot { revision, entries }) => {
                assert!(revision >= self.revision, "listed {revision}, after {}", self.revision);
                self.known = entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
                self.revision = revision;
                self.listed += 1;
                self.lost = false;
            }
            Notice::Changed { revision, changes } => {
                assert!(self.listed > 0, "changes before all was listed");
                assert!(revision > self.revision, "revision {revision} after {}", self.revision);
                assert!(!changes.is_empty());
                changes.into_iter().for_each(|change| self.change(revision, change));
                self.revision = revision;
                self.lost = false;
            }
            Notice::Lost(_) => {
                assert!(self.listed > 0, "lost before all was listed");
                self.lost = true;
                self.losses += 1;
            }
        }
    }

    fn change(&mut self, revision: u64, change: Change) {
        match change {
            Change::Put(entry) => {
                assert_eq!(entry.modified, revision);
                self.known.insert(entry.key.clone(), entry);
            }
            Change::Delete { key } => {
                assert!(self.known.remove(&key).is_some(), "{key:?} went, and was not there");
            }
        }
    }

    /// Reads until `enough`.
    pub async fn until(&mut self, notices: &mut Receiver<Notice>, what: &str, enough: impl Fn(&Self) -> bool) {
        within(PATIENCE, what, async {
            while !enough(self) {
                self.take(notices.recv().await.expect("a watch does not end by itself"));
            }
        })
        .await;
    }

    pub fn value(&self, key: &str) -> Option<&str> {
        self.known.get(key).map(|entry| entry.value.as_str())
    }
}

async fn a_watch_tells_all_in_order(store: &dyn Store) {
    let before = done(store, vec![put("watch/before", "1")]).await;
    let mut notices = [store.watch(), store.watch()];
    let mut readers = [Reader::default(), Reader::default()];
    for (reader, notices) in readers.iter_mut().zip(&mut notices) {
        reader.until(notices, "the list", |r| r.listed == 1).await;
        assert_eq!((reader.revision, reader.value("watch/before")), (before, Some("1")));
    }
    let first = done(store, vec![put("watch/a", "1"), put("watch/b", "1"), delete("watch/before")]).await;
    for i in 0..200 {
        done(store, vec![put("watch/n", &i.to_string())]).await;
    }
    done(store, vec![delete("watch/n")]).await;
    for (reader, notices) in readers.iter_mut().zip(&mut notices) {
        let Some(Notice::Changed { revision, changes }) = notices.recv().await else { panic!("changes") };
        assert_eq!((revision, changes.len()), (first, 3), "{changes:?}");
        reader.take(Notice::Changed { revision, changes });
        for i in 0..200 {
            let notice = within(PATIENCE, "a change", notices.recv()).await.expect("no end");
            let expected = matches!(&notice, Notice::Changed { revision, changes }
                if *revision == first + 1 + i && matches!(&changes[..], [Change::Put(e)] if e.value == i.to_string()));
            assert!(expected, "the {i}th: {notice:?}");
            reader.take(notice);
        }
        reader.until(notices, "the last", |r| r.value("watch/n").is_none()).await;
        assert_eq!((reader.listed, reader.value("watch/a"), reader.value("watch/before")), (1, Some("1"), None));
    }
}

/// Ten thousand changes. Of one who reads nothing meanwhile, no more than so many notices wait; then it ends with exactly
/// what there is. So does one who reads all the time.
async fn a_slow_reader_ends_where_the_store_is(store: &dyn Store) {
    const EACH: usize = 8;
    let (mut slow, mut swift) = (store.watch(), store.watch());
    let mut reader = Reader::default();
    reader.until(&mut slow, "the list", |r| r.listed == 1).await;
    let reading = tokio::spawn(async move {
        let mut reader = Reader::default();
        while reader.value("slow/end").is_none() {
            reader.take(swift.recv().await.expect("a watch does not end by itself"));
        }
        reader
    });
    let rounds: Vec<usize> = (0..NOTICES_MAX * 5 / 4).collect();
    for rounds in rounds.chunks(32) {
        let write = |n: &usize| {
            let key = |i: usize| format!("slow/{:02}", (n * EACH + i) % 97);
            let puts = (0..EACH).map(|i| put(&key(i), &format!("{n}.{i}")));
            done(store, puts.chain([delete(&key(EACH))]).collect())
        };
        join_all(rounds.iter().map(write)).await;
    }
    let last = done(store, vec![put("slow/end", "1")]).await;
    assert!(slow.len() <= NOTICES_MAX, "{} notices wait", slow.len());
    reader.until(&mut slow, "all", |r| r.revision >= last).await;
    let swift = within(PATIENCE, "the end", reading).await.expect("no panic");
    let all = store.range("slow/").await.expect("an answer").entries;
    for reader in [reader, swift] {
        let known = reader.known.range("slow/".to_owned().."slow0".to_owned()).map(|(_, entry)| entry.clone());
        assert_eq!(known.collect::<Vec<_>>(), all);
    }
}

async fn a_lease_ends_unless_it_is_kept_alive(store: &dyn Store) {
    let mut notices = store.watch();
    let ttl = Duration::from_millis(1500); // kept as 2 s
    let (short, kept) = (store.grant(ttl).await.expect("a lease"), store.grant(ttl).await.expect("a lease"));
    assert!(short != 0 && kept != 0 && short != kept);
    let granted = Instant::now();
    done(store, vec![leased("lease/short", "1", short), leased("lease/kept", "1", kept), put("lease/free", "1")]).await;
    assert_eq!(store.get("lease/short").await.expect("an answer").and_then(|entry| entry.lease), Some(short));
    eventually(PATIENCE, "the short lease is over", async || {
        store.keep_alive(kept).await.expect("kept alive");
        value(store, "lease/short").await.is_none()
    })
    .await;
    assert!(granted.elapsed() >= Duration::from_millis(1900), "over after {:?}", granted.elapsed());
    while granted.elapsed() < Duration::from_secs(4) {
        store.keep_alive(kept).await.expect("kept alive");
        assert_eq!(value(store, "lease/kept").await.as_deref(), Some("1"));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(store.keep_alive(short).await, Err(Fault::NoLease(short)));
    eventually(PATIENCE, "the kept lease is over", async || value(store, "lease/kept").await.is_none()).await;
    assert_eq!(value(store, "lease/free").await.as_deref(), Some("1"));
    let mut reader = Reader::default();
    let gone =
        |r: &Reader| r.value("lease/free").is_some() && r.value("lease/kept").or(r.value("lease/short")).is_none();
    reader.until(&mut notices, "both gone", gone).await;
}

async fn a_revoked_lease_takes_its_keys(store: &dyn Store) {
    let lease = store.grant(Duration::from_secs(60)).await.expect("a lease");
    let keys = ["revoke/a", "revoke/b", "revoke/freed", "revoke/taken"];
    done(store, keys.map(|key| leased(key, "1", lease)).to_vec()).await;
    let other = store.grant(Duration::from_secs(60)).await.expect("a lease");
    let last = done(store, vec![put("revoke/freed", "2"), leased("revoke/taken", "2", other)]).await;
    let mut notices = store.watch();
    let mut reader = Reader::default();
    reader.until(&mut notices, "the list", |r| r.listed == 1).await;
    assert_eq!(store.revoke(lease).await, Ok(()));
    let left = store.range("revoke/").await.expect("an answer");
    assert_eq!(left.entries.iter().map(|e| e.key.as_str()).collect::<Vec<_>>(), ["revoke/freed", "revoke/taken"]);
    let Some(Notice::Changed { revision, changes }) = notices.recv().await else { panic!("changes") };
    assert_eq!((revision, changes.len()), (last + 1, 2), "{changes:?}");
    assert_eq!(store.revoke(lease).await, Ok(()));
    assert_eq!(store.keep_alive(lease).await, Err(Fault::NoLease(lease)));
    assert_eq!(store.revoke(other).await, Ok(()));
    assert_eq!(value(store, "revoke/taken").await, None);
}

async fn counting_together_loses_nothing(store: Arc<dyn Store>) {
    const TASKS: usize = 8;
    const EACH: usize = 20;
    done(store.as_ref(), vec![put("count", "0")]).await;
    let counters: Vec<_> = (0..TASKS).map(|_| tokio::spawn(count(store.clone(), EACH))).collect();
    for counter in counters {
        within(PATIENCE, "counting", counter).await.expect("no panic");
    }
    assert_eq!(value(store.as_ref(), "count").await, Some((TASKS * EACH).to_string()));
}

async fn count(store: Arc<dyn Store>, times: usize) {
    for _ in 0..times {
        while !increment(store.as_ref(), "count").await.expect("an answer") {}
    }
}

/// Adds one where nobody else did meanwhile; whether it was done.
pub async fn increment(store: &dyn Store, key: &str) -> Result<bool, Fault> {
    let entry = store.get(key).await?.expect("there");
    let next = (entry.value.parse::<u64>().expect("a number") + 1).to_string();
    let compares = vec![Compare::ModifiedAt { key: key.to_owned(), revision: entry.modified }];
    let verdict = store.commit(Txn { compares, ops: vec![put(key, &next)] }).await?;
    Ok(matches!(verdict, Verdict::Done(_)))
}

/// The store goes away (`take(true)`) and comes back.
pub async fn outage(store: Arc<dyn Store>, take: impl AsyncFn(bool)) {
    let s = store.as_ref();
    let mut notices = s.watch();
    let mut reader = Reader::default();
    done(s, vec![put("outage", "before")]).await;
    reader.until(&mut notices, "before", |r| r.value("outage") == Some("before")).await;
    take(true).await;
    reader.until(&mut notices, "the loss", |r| r.lost).await;
    let began = Instant::now();
    let refused = s.commit(txn(vec![put("outage", "during")])).await;
    assert!(matches!(refused, Err(Fault::Unavailable(_) | Fault::Unknown(_))), "{refused:?}");
    assert!(matches!(s.get("outage").await, Err(Fault::Unavailable(_))));
    assert!(began.elapsed() < Duration::from_secs(15), "two calls took {:?}", began.elapsed());
    take(false).await;
    eventually(PATIENCE, "the store is back", async || s.commit(txn(vec![put("outage", "after")])).await.is_ok()).await;
    reader.until(&mut notices, "after", |r| r.value("outage") == Some("after")).await;
    assert!(!reader.lost);
}

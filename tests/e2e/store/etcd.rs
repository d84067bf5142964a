//! The store in a real etcd, and in one that is killed, frozen, compacted, closed by passwords and certificates.

use crate::contract::{self, Reader, done, put, txn, value};
use crate::etcds::{Etcds, PATIENCE};
use crate::site::{Wire, eventually, within};
use crate::writers::{Writer, check};
use configsvr::store::etcd::{Etcd, Options, Secret, Tls};
use configsvr::store::{Change, Compare, Fault, Notice, Store, Txn, Verdict};
use futures_util::future::join_all;
use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

fn store(etcds: &Etcds) -> Etcd {
    Etcd::new(Options::new(etcds.endpoints())).expect("good options")
}

async fn ready(store: &dyn Store) {
    eventually(PATIENCE, "etcd", async || store.range("").await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_keeps_the_contract() {
    let etcds = Etcds::start(1, &[]).await;
    let (store, mut options) = (store(&etcds), Options::new(etcds.endpoints()));
    ready(&store).await;
    options.prefix = "/redis-cluster2".to_owned();
    let neighbour = Etcd::new(options).expect("good options");
    let mut theirs = neighbour.watch();
    let mut reader = Reader::default();
    done(&neighbour, vec![put("a", "1")]).await;
    contract::all(Arc::new(store.clone())).await;
    // Neither sees the other, though one prefix begins with the other.
    assert_eq!(neighbour.range("").await.expect("an answer").entries.len(), 1);
    assert!(!store.range("").await.expect("an answer").entries.iter().any(|entry| entry.key.contains("redis-cluster")));
    let last = done(&neighbour, vec![put("a", "2")]).await;
    reader.until(&mut theirs, "the last", |r| r.revision >= last).await;
    assert_eq!((reader.listed, reader.known.len()), (1, 1));
    assert!(store.describe().starts_with("etcd 3."), "{}", store.describe());
    let found = etcds.ctl(0, &["get", "/redis-cluster2/a", "--print-value-only"]).expect("found");
    assert_eq!(found.trim(), "2");
}

/// What production must survive; most of it is waiting, while other tests run.
const OUTAGE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_is_gone_for_a_minute() {
    let mut etcds = Etcds::start(1, &[]).await;
    let store = store(&etcds);
    ready(&store).await;
    let lease = store.grant(Duration::from_secs(5)).await.expect("a lease");
    let cell = tokio::sync::Mutex::new(&mut etcds);
    contract::outage(Arc::new(store.clone()), async |away| {
        let mut etcds = cell.lock().await;
        match away {
            true => etcds.members[0].kill(),
            false => {
                tokio::time::sleep(OUTAGE).await;
                etcds.members[0].start();
            }
        }
    })
    .await;
    // Leases are the longer for it.
    store.keep_alive(lease).await.expect("still there");
}

/// Writers write on while members are killed and frozen; how long they waited is printed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_lose_one_after_another() {
    let mut etcds = Etcds::start(3, &[]).await;
    let store = store(&etcds);
    ready(&store).await;
    let mut notices = store.watch();
    let mut reader = Reader::default();
    for (round, what) in ["ours killed", "leader killed", "ours frozen", "leader frozen"].into_iter().enumerate() {
        let leader = etcds.leader().await;
        // Ours: the one that the store talks to.
        let ours = etcds.members.iter().position(|member| store.describe().ends_with(&member.endpoint)).expect("one");
        let at = if what.starts_with("leader") { leader } else { ours };
        let name = format!("round{round}");
        let shared: Arc<dyn Store> = Arc::new(store.clone());
        let writer = Writer::start(&name, Arc::new(tokio::sync::Mutex::new(vec![shared])));
        eventually(PATIENCE, "some writes", async || writer.count() > 20).await;
        match what.ends_with("killed") {
            true => etcds.members[at].kill(),
            false => etcds.members[at].freeze(true),
        }
        let before = writer.count();
        eventually(PATIENCE, "writes go on", async || writer.count() > before + 50).await;
        let last = done(&store, vec![put("last", &round.to_string())]).await;
        reader.until(&mut notices, "the watch goes on", |r| r.revision >= last).await;
        match what.ends_with("killed") {
            true => etcds.members[at].start(),
            false => etcds.members[at].freeze(false),
        }
        let written = writer.end().await;
        println!(
            "{what}: {} done, {} unknown, {} refused, longest gap {:?}",
            written.done.len(),
            written.unknown.len(),
            written.refused,
            written.longest_gap
        );
        check(&store, &name, &written).await;
        let seen: Vec<String> = reader.known.keys().filter(|key| key.starts_with(&name)).cloned().collect();
        let there = store.range(&name).await.expect("an answer").entries;
        assert!(seen.iter().all(|key| there.iter().any(|entry| entry.key == *key)), "the watch saw what is not there");
    }
    // The watch has seen what is there: no more, no less.
    let all = store.range("").await.expect("an answer");
    reader.until(&mut notices, "everything", |r| r.revision >= all.revision).await;
    assert_eq!(reader.known.into_values().collect::<Vec<_>>(), all.entries);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_compacted_while_a_watch_was_away_is_listed() {
    let mut etcds = Etcds::start(1, &[]).await;
    let store = store(&etcds);
    ready(&store).await;
    done(&store, vec![put("a", "1"), put("b", "1")]).await;
    let mut notices = store.watch();
    let mut reader = Reader::default();
    reader.until(&mut notices, "the list", |r| r.listed == 1).await;
    // Away means: frozen, so that the watch is cut off; what happens then is not seen and forgotten.
    etcds.members[0].freeze(true);
    reader.until(&mut notices, "the loss", |r| r.lost).await;
    etcds.members[0].freeze(false);
    etcds.members[0].kill();
    etcds.members[0].start();
    eventually(PATIENCE, "etcd is back", async || etcds.ctl(0, &["get", "x"]).is_ok()).await;
    for i in 0..20 {
        etcds.ctl(0, &["put", "/redis-cluster/a", &i.to_string()]).expect("put");
    }
    etcds.ctl(0, &["del", "/redis-cluster/b"]).expect("deleted");
    let revision = store.range("").await.expect("an answer").revision;
    etcds.ctl(0, &["compact", &revision.to_string()]).expect("compacted");
    reader.until(&mut notices, "all", |r| r.value("a") == Some("19") && r.value("b").is_none()).await;
}

/// As many as a cluster's worst day: each change is told once, whole, and in the order of the revisions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_changes_are_told_once_and_in_order() {
    const TXNS: u64 = 5_000; // of two keys each
    let etcds = Etcds::start(1, &[]).await;
    let store = store(&etcds);
    ready(&store).await;
    let mut notices = store.watch();
    let Some(Notice::Listed(before)) = notices.recv().await else { panic!("the list comes first") };
    let writer = store.clone();
    let writing = tokio::spawn(async move {
        let all: Vec<u64> = (0..TXNS).collect();
        for some in all.chunks(64) {
            join_all(some.iter().map(|n| write_once(&writer, *n))).await;
        }
    });
    let (mut seen, mut next) = (BTreeSet::new(), before.revision + 1);
    while seen.len() < TXNS as usize {
        let notice = within(PATIENCE, "a change", notices.recv()).await.expect("a watch does not end by itself");
        let Notice::Changed { revision, changes } = notice else { panic!("nothing was missed: {notice:?}") };
        assert_eq!(revision, next, "one was lost, or told twice");
        let [Change::Put(a), Change::Put(b)] = &changes[..] else { panic!("both keys: {changes:?}") };
        let n = a.key.strip_prefix("many/").or(b.key.strip_prefix("many/")).expect("the key written once");
        assert!(a.value == n && b.value == n && seen.insert(n.to_owned()), "{changes:?}");
        next += 1;
    }
    writing.await.expect("no panic");
    assert_eq!(store.range("many/").await.expect("an answer").entries.len(), seen.len());
}

/// However often it must be asked for: the first key is written only where it is not there.
async fn write_once(store: &Etcd, n: u64) {
    let key = format!("many/{n}");
    let ops = vec![put(&key, &n.to_string()), put(&format!("slot/{}", n % 1024), &n.to_string())];
    let txn = Txn { compares: vec![Compare::Absent { key }], ops };
    let began = Instant::now();
    while let Err(fault) = store.commit(txn.clone()).await {
        assert!(began.elapsed() < PATIENCE, "{n}: {fault}");
    }
}

/// A watch whose next revision is compacted: etcd is asked for it, says so, and everything is listed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_comes_too_late_for_history_lists_again() {
    let etcds = Etcds::start(1, &[]).await;
    let wire = Wire::to(etcds.endpoints()[0].trim_start_matches("http://").to_owned()).await;
    let store = Etcd::new(Options::new(vec![wire.addr.clone()])).expect("good options");
    ready(&store).await;
    done(&store, vec![put("a", "0"), put("b", "1")]).await;
    let mut notices = store.watch();
    let mut reader = Reader::default();
    let last = done(&store, vec![put("a", "1")]).await;
    reader.until(&mut notices, "the first", |r| r.value("a") == Some("1")).await;
    let listed = reader.listed;
    // For less time than it takes to call etcd lost.
    wire.cut(true);
    etcds.ctl(0, &["put", "/redis-cluster/a", "2"]).expect("put");
    etcds.ctl(0, &["del", "/redis-cluster/b"]).expect("deleted");
    etcds.ctl(0, &["compact", &(last + 2).to_string()]).expect("compacted");
    wire.cut(false);
    reader.until(&mut notices, "all", |r| r.value("a") == Some("2") && r.value("b").is_none()).await;
    assert_eq!(reader.listed, listed + 1);
    let next = done(&store, vec![put("a", "3")]).await;
    reader.until(&mut notices, "the next", |r| r.revision >= next).await;
    assert_eq!(reader.listed, listed + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_end_and_passwords_are_checked() {
    // Tokens of two seconds: calls and watches outlive many.
    let etcds = Etcds::start(1, &["--auth-token-ttl=2"]).await;
    let with = |password: &str| {
        let mut options = Options::new(etcds.endpoints());
        (options.user, options.password) = (Some("root".to_owned()), Some(Secret(password.to_owned())));
        Etcd::new(options).expect("good options")
    };
    ready(&store(&etcds)).await;
    for arguments in [&["user", "add", "root:geheim"][..], &["user", "grant-role", "root", "root"], &["auth", "enable"]]
    {
        etcds.ctl(0, arguments).expect("done");
    }
    let (good, bad, none) = (with("geheim"), with("falsch"), store(&etcds));
    let mut notices = good.watch();
    let mut reader = Reader::default();
    let began = Instant::now();
    let mut n = 0;
    while began.elapsed() < Duration::from_secs(7) {
        n += 1;
        done(&good, vec![put("n", &n.to_string())]).await;
        tokio::time::sleep(Duration::from_millis(1300)).await;
    }
    reader.until(&mut notices, "the last", |r| r.value("n") == Some(&n.to_string())).await;
    for refused in [bad.range("").await, none.range("").await] {
        let Err(Fault::Invalid(why)) = refused else { panic!("{refused:?}") };
        assert!(why.contains("password"), "{why}");
    }
}

/// Certificates of both sides, made by openssl.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_checked_both_ways() {
    let etcds = Etcds::with("https", 1, |dir| {
        certificates(dir);
        let file = |name: &str| dir.path().join(name).display().to_string();
        vec![
            format!("--cert-file={}", file("server.pem")),
            format!("--key-file={}", file("server.key")),
            format!("--trusted-ca-file={}", file("ca.pem")),
            "--client-cert-auth".to_owned(),
        ]
    })
    .await;
    let file = |name: &str| etcds.dir.path().join(name);
    let with = |tls: Tls| {
        let mut options = Options::new(etcds.endpoints());
        options.tls = Some(tls);
        Etcd::new(options).expect("good options")
    };
    let ours = Tls {
        ca: file("ca.pem"),
        cert: Some(file("client.pem")),
        key: Some(file("client.key")),
        domain: Some("etcd.test".to_owned()),
    };
    let good = with(ours.clone());
    ready(&good).await;
    let mut notices = good.watch();
    done(&good, vec![put("a", "1")]).await;
    Reader::default().until(&mut notices, "the change", |r| r.value("a") == Some("1")).await;
    let stranger = with(Tls { cert: None, key: None, ..ours.clone() });
    let impostor = with(Tls { domain: Some("other.test".to_owned()), ..ours.clone() });
    for refused in [stranger.range("").await, impostor.range("").await] {
        assert!(matches!(refused, Err(Fault::Unavailable(_))), "{refused:?}");
    }
    let missing = with(Tls { ca: file("none.pem"), ..ours });
    let Err(Fault::Invalid(why)) = missing.range("").await else { panic!("no file, no connection") };
    assert!(why.contains("none.pem"), "{why}");
}

fn certificates(dir: &TempDir) {
    let script = "
        openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=ca -days 2
        for who in server client; do
            openssl req -newkey rsa:2048 -nodes -keyout $who.key -out $who.csr -subj /CN=$who
            printf 'subjectAltName=DNS:etcd.test\\nextendedKeyUsage=serverAuth,clientAuth\\n' > ext
            openssl x509 -req -in $who.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out $who.pem -days 2 -extfile ext
        done";
    let made = Command::new("sh").args(["-ec", script]).current_dir(dir.path()).output().expect("sh runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// What etcd cannot have been told is Unavailable; what it may have been is not repeated unless that is harmless.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_without_an_answer_are_unknown() {
    let etcds = Etcds::start(1, &[]).await;
    let store = store(&etcds);
    ready(&store).await;
    done(&store, vec![put("n", "1")]).await;
    etcds.members[0].freeze(true);
    let plain = store.commit(txn(vec![put("plain", "1")])).await;
    let compares = vec![Compare::ValueIs { key: "n".to_owned(), value: "1".to_owned() }];
    let guarded = store.commit(Txn { compares: compares.clone(), ops: vec![put("n", "2")] }).await;
    assert!(matches!(guarded, Err(Fault::Unknown(_))), "{guarded:?}");
    assert!(matches!(plain, Err(Fault::Unknown(_))), "{plain:?}");
    let read = store.get("n").await;
    assert!(matches!(read, Err(Fault::Unavailable(_))), "{read:?}");
    etcds.members[0].freeze(false);
    eventually(PATIENCE, "it thaws", async || store.get("n").await.is_ok()).await;
    // Whether they were done is seen by reading.
    let n = value(&store, "n").await.expect("there");
    let again = store.commit(Txn { compares, ops: vec![put("n", "2")] }).await.expect("an answer");
    assert_eq!(matches!(again, Verdict::Done(_)), n == "1");
    let nobody = Etcd::new(Options::new(vec!["127.0.0.1:1".to_owned()])).expect("good options");
    let began = Instant::now();
    assert!(matches!(nobody.commit(txn(vec![put("a", "1")])).await, Err(Fault::Unavailable(_))));
    assert!(began.elapsed() < Duration::from_secs(6));
}

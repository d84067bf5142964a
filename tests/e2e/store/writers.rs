//! Clients that write all the time, and know what they were told.

use crate::contract::put;
use crate::site::within;
use configsvr::store::{Compare, Fault, Store, Txn, Verdict};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

/// A client that writes numbers one after another, to whoever leads. It knows of each whether it was done, or may have
/// been.
pub struct Writer {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<Written>,
}

#[derive(Debug, Default)]
pub struct Written {
    pub done: Vec<u64>,
    pub unknown: Vec<u64>,
    pub refused: u64,
    pub longest_gap: Duration,
}

pub type Stores = Arc<tokio::sync::Mutex<Vec<Arc<dyn Store>>>>;

impl Writer {
    pub fn start(name: &str, stores: Stores) -> Self {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        Self { task: tokio::spawn(write(name.to_owned(), stores, stop.clone(), count.clone())), stop, count }
    }

    /// How many are done.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    pub async fn end(self) -> Written {
        self.stop.store(true, Ordering::Relaxed);
        within(PATIENCE, "the writer", self.task).await.expect("no panic")
    }
}

async fn write(name: String, stores: Stores, stop: Arc<AtomicBool>, count: Arc<AtomicUsize>) -> Written {
    let (mut written, mut n, mut at, mut last) = (Written::default(), 0_u64, 0, Instant::now());
    while !stop.load(Ordering::Relaxed) {
        let store = {
            let stores = stores.lock().await;
            stores[at % stores.len()].clone()
        };
        let key = format!("{name}/{n:06}");
        let compares = vec![Compare::Absent { key: key.clone() }];
        match store.commit(Txn { compares, ops: vec![put(&key, &n.to_string())] }).await {
            Ok(Verdict::Done(_)) => {
                written.done.push(n);
                count.fetch_add(1, Ordering::Relaxed);
                written.longest_gap = written.longest_gap.max(last.elapsed());
                last = Instant::now();
                n += 1;
            }
            Ok(Verdict::Refused(_)) => panic!("{key} was written twice"),
            Err(Fault::Unknown(_)) => {
                written.unknown.push(n);
                n += 1;
                at += 1;
            }
            Err(_) => {
                written.refused += 1;
                at += 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
    written
}

/// All that was acknowledged is there once, and nothing that was refused.
pub async fn check(store: &dyn Store, name: &str, written: &Written) {
    let found = store.range(&format!("{name}/")).await.expect("an answer").entries;
    let found: Vec<u64> = found.iter().map(|entry| entry.value.parse().expect("a number")).collect();
    assert!(
        written.done.iter().all(|n| found.binary_search(n).is_ok()),
        "verdict of the checker: lost: {written:?} but {found:?}"
    );
    let extra = found.iter().filter(|n| !written.done.contains(n));
    assert!(
        extra.clone().all(|n| written.unknown.contains(n)),
        "verdict of the checker: {:?}",
        extra.collect::<Vec<_>>()
    );
}

//! An operator who never rests: changes the topology again and again through any member that answers, each change under
//! an idempotency key and until it is judged; and the checker of what became of the changes.

use anyhow::{Context, Result, ensure};
use configsvr::playground::{Playground, http};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// One call; a frozen member answers nothing.
const CALL_LIMIT: Duration = Duration::from_secs(2);
/// Between two changes: fast enough that every fault meets some.
const PAUSE: Duration = Duration::from_millis(20);

/// An operator at work.
pub(crate) struct Operator {
    stop: Arc<AtomicBool>,
    work: JoinHandle<Result<Log>>,
}

/// What the operator saw.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// Of each accepted change, in order: when, and the epoch it made.
    pub(crate) accepted: Vec<(Instant, u64)>,
    /// Calls that ended otherwise, by status; 0: no answer.
    pub(crate) failed: BTreeMap<u16, usize>,
}

impl Operator {
    pub(crate) fn start(members: Vec<SocketAddr>, name: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        Self { stop, work: std::thread::spawn(move || work(&members, name, &seen)) }
    }

    /// Ends the work after the change under way, and checks what is left of it.
    pub(crate) fn finish(self, playground: &Playground, name: &str) -> Result<Log> {
        self.stop.store(true, Ordering::Relaxed);
        let log = self.work.join().map_err(|_| anyhow::anyhow!("the operator panicked"))??;
        log.check(playground, name)?;
        Ok(log)
    }
}

fn work(members: &[SocketAddr], name: &str, stop: &AtomicBool) -> Result<Log> {
    let mut log = Log::default();
    let mut member = 0;
    while !stop.load(Ordering::Relaxed) {
        let key = format!("{name}-{}", log.accepted.len());
        let body = serde_json::json!({ "name": key }).to_string();
        loop {
            let at = members[member % members.len()];
            let headers = [("idempotency-key", key.as_str())];
            let answer = http::call("PATCH", at, "/api/v1/groups/1", &headers, &body, CALL_LIMIT);
            let status = answer.as_ref().map_or(0, |a| a.status);
            if let Ok(answer) = answer.as_ref()
                && status == 200
            {
                let epoch = answer.json()?["epoch"].as_u64().context("an answer without an epoch")?;
                log.accepted.push((Instant::now(), epoch));
                break;
            }
            let text = answer.map_or_else(|e| format!("{e:#}"), |a| a.body);
            ensure!(matches!(status, 0 | 429 | 502 | 503 | 504), "{key}: {status}: {text}");
            *log.failed.entry(status).or_default() += 1;
            member += 1;
            std::thread::sleep(PAUSE);
        }
        std::thread::sleep(PAUSE);
    }
    Ok(log)
}

impl Log {
    /// The longest time between two accepted changes.
    pub(crate) fn longest_gap(&self) -> Duration {
        self.accepted.windows(2).map(|pair| pair[1].0 - pair[0].0).max().unwrap_or_default()
    }

    /// Each accepted change happened once, in its order, and is still known.
    fn check(&self, playground: &Playground, name: &str) -> Result<()> {
        ensure!(self.accepted.windows(2).all(|pair| pair[0].1 < pair[1].1), "epochs did not grow: {:?}", self.accepted);
        let audit = playground.ask_control("/api/v1/audit?limit=1000")?;
        let audit = audit.as_array().context("the audit is a list")?;
        let mut times: BTreeMap<&str, usize> = BTreeMap::new();
        for entry in audit {
            let key = entry["idempotency_key"].as_str().unwrap_or_default();
            *times.entry(key).or_default() += 1;
        }
        // The audit keeps a bounded number of records: the operator's last ones are all in it.
        for i in self.accepted.len().saturating_sub(500)..self.accepted.len() {
            let key = format!("{name}-{i}");
            let count = times.get(key.as_str()).copied().unwrap_or(0);
            ensure!(count == 1, "{key} was accepted, and stands {count} times in the audit");
        }
        let ours = times.keys().filter(|k| k.starts_with(&format!("{name}-"))).count();
        ensure!(ours <= self.accepted.len(), "{ours} changes were made, {} accepted", self.accepted.len());
        let group = playground.ask_control("/api/v1/groups/1")?;
        let last = format!("{name}-{}", self.accepted.len() - 1);
        ensure!(group["name"] == last.as_str(), "the last change was {last}, the group is {group}");
        Ok(())
    }
}

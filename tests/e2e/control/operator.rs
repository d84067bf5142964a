//! An operator who never rests: changes the topology again and again through any member that answers, each change under
//! an idempotency key and until it is judged; and the checker of what became of the changes. By turns a group gets another
//! name and a slot another owner, or none.

use crate::LIMIT;
use anyhow::{Context, Result, ensure};
use configsvr::playground::{Playground, http, until};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// One call; a frozen member answers nothing.
const CALL_LIMIT: Duration = Duration::from_secs(2);
/// The audit keeps 512 records: it is read so often that none of ours goes unseen.
const AUDIT_EVERY: usize = 150;
/// `.ci/test` never tries again what failed with these words.
const VERDICT: &str = "verdict of the checker";
/// The slot that changes hands, by force: no key of the clients is in it, so none is lost. It is group 1's at first.
pub(crate) const SLOT: u16 = 11;
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
    /// The records of the audit that were seen for each key.
    records: BTreeMap<String, BTreeSet<(u64, String)>>,
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
        let mut log = self.work.join().map_err(|_| anyhow::anyhow!("the operator panicked"))??;
        log.check(playground, name)?;
        Ok(log)
    }
}

/// The n-th wish is done: what says so.
#[derive(Debug, PartialEq)]
enum Sign {
    Name(String),
    Owner(Option<u64>),
}

fn wish(name: &str, n: usize) -> Sign {
    match n % 4 {
        1 => Sign::Owner(Some(2)),
        3 => Sign::Owner(None),
        _ => Sign::Name(key(name, n)),
    }
}

fn key(name: &str, n: usize) -> String {
    format!("{name}-{n}")
}

impl Sign {
    fn call(&self, at: SocketAddr, key: &str) -> Result<http::Answer> {
        let (method, path, body) = match self {
            Self::Name(name) => ("PATCH", "/api/v1/groups/1", json!({ "name": name })),
            Self::Owner(group) => {
                let range = json!({ "from": SLOT, "to": SLOT, "group": group });
                ("POST", "/api/v1/slots/assign", json!({ "ranges": [range], "force": true }))
            }
        };
        http::call(method, at, path, &[("idempotency-key", key)], &body.to_string(), CALL_LIMIT)
    }

    /// What the audit calls it.
    fn what(&self) -> &'static str {
        match self {
            Self::Name(_) => "groups.rename",
            Self::Owner(_) => "slots.assign",
        }
    }

    /// What this member knows in its place.
    fn seen(&self, at: SocketAddr) -> Result<Self> {
        let get = |path| http::call("GET", at, path, &[], "", CALL_LIMIT)?.json();
        Ok(match self {
            Self::Name(_) => Self::Name(get("/api/v1/groups/1")?["name"].as_str().context("a name")?.to_owned()),
            Self::Owner(_) => {
                let slots = get("/api/v1/slots?per_slot=true")?;
                Self::Owner(slots["ranges"].get(usize::from(SLOT)).context("the slot")?["group"].as_u64())
            }
        })
    }
}

fn work(members: &[SocketAddr], name: &str, stop: &AtomicBool) -> Result<Log> {
    let mut log = Log::default();
    let mut member = 0;
    while !stop.load(Ordering::Relaxed) {
        let n = log.accepted.len();
        let (key, wish) = (key(name, n), wish(name, n));
        loop {
            let at = members[member % members.len()];
            let answer = wish.call(at, &key);
            let status = answer.as_ref().map_or(0, |a| a.status);
            if let Ok(answer) = answer.as_ref()
                && status == 200
            {
                let epoch = answer.json()?["epoch"].as_u64().context("an answer without an epoch")?;
                log.accepted.push((Instant::now(), epoch));
                if log.accepted.len() % AUDIT_EVERY == 0 {
                    log.read_audit(at);
                }
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
    /// From the member that just answered. It may be a little behind, or die now: it is read again before what is not seen
    /// yet is pushed out.
    fn read_audit(&mut self, member: SocketAddr) {
        let answer = http::call("GET", member, "/api/v1/audit?limit=1000", &[], "", CALL_LIMIT);
        let audit = answer.and_then(|a| a.json()).ok().and_then(|json| json.as_array().cloned());
        self.note(&audit.unwrap_or_default());
    }

    fn note(&mut self, audit: &[Value]) {
        for entry in audit {
            let (Some(key), Some(revision)) = (entry["idempotency_key"].as_str(), entry["revision"].as_u64()) else {
                continue;
            };
            let what = entry["what"].as_str().unwrap_or_default().to_owned();
            self.records.entry(key.to_owned()).or_default().insert((revision, what));
        }
    }

    /// The longest time between two accepted changes.
    pub(crate) fn longest_gap(&self) -> Duration {
        self.accepted.windows(2).map(|pair| pair[1].0 - pair[0].0).max().unwrap_or_default()
    }

    /// Each accepted change happened once, in its order, and is still known.
    fn check(&mut self, playground: &Playground, name: &str) -> Result<()> {
        let grow = self.accepted.windows(2).all(|pair| pair[0].1 < pair[1].1);
        ensure!(grow, "{VERDICT}: epochs did not grow: {:?}", self.accepted);
        let audit = playground.ask_control("/api/v1/audit?limit=1000")?;
        self.note(audit.as_array().context("the audit is a list")?);
        for i in 0..self.accepted.len() {
            let (key, what) = (key(name, i), wish(name, i).what());
            let seen: Vec<_> = self.records.get(&key).into_iter().flatten().collect();
            let once = matches!(&seen[..], [(_, seen)] if seen == what);
            ensure!(once, "{VERDICT}: {key} was accepted, and the audit has of {what}: {seen:?}");
        }
        let ours = self.records.keys().filter(|k| k.starts_with(&format!("{name}-"))).count();
        ensure!(ours <= self.accepted.len(), "{VERDICT}: {ours} changes were made, {} accepted", self.accepted.len());
        // The latest name, and the latest owner.
        let all = self.accepted.len();
        let last: Vec<Sign> = (all.saturating_sub(2)..all).map(|n| wish(name, n)).collect();
        for member in playground.configsvrs().iter().filter(|s| s.alive()) {
            // One that has just come back may be behind for a moment, but not for good.
            let what = format!("{VERDICT}: {} knows the last changes, {last:?}", member.name());
            until(&what, LIMIT, || {
                let seen: Result<Vec<Sign>> = last.iter().map(|sign| sign.seen(member.addr())).collect();
                Ok(match seen {
                    Ok(seen) if seen == last => Ok(()),
                    other => Err(format!("{other:?}")),
                })
            })?;
        }
        Ok(())
    }
}

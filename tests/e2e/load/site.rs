//! The playground of a test, and what a test asks of its proxy.

use anyhow::{Context, Result, ensure};
use cluster::group::GroupId;
use cluster::slot::{Slot, TagRule, slot_of};
use cluster::wire::{Message, Range, State};
use configsvr::playground::{Options, Playground, http, until};
use serde_json::Value;
use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// A reload or a new worker takes milliseconds, on a busy machine seconds.
const SETTLE_LIMIT: Duration = Duration::from_secs(15);

/// Groups of one instance each that keep what they acknowledged when they are killed: an append-only file is written
/// before the reply, and with `no` never in the background.
const DURABLE: &str = "appendonly yes\nappendfsync no\nauto-aof-rewrite-percentage 0\n";

/// A worker as the admin port shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Worker {
    pub(crate) index: u32,
    pub(crate) pid: i32,
    pub(crate) live: bool,
    pub(crate) serving: u64,
}

/// One proxy before two groups.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) playground: Playground,
    topology: Message,
}

impl Site {
    /// `conf`: lines of the proxy's configuration.
    pub(crate) fn start(workers: u16, conf: &str) -> Result<Self> {
        let options = Options {
            groups: 2,
            replicas: 0,
            workers: Some(workers),
            proxy_conf: conf.to_owned(),
            redis_conf: DURABLE.to_owned(),
            ..Options::default()
        };
        let playground = Playground::start(options)?;
        let topology = playground.topology().clone();
        let site = Self { playground, topology };
        site.await_workers(usize::from(workers))?;
        Ok(site)
    }

    pub(crate) fn addr(&self) -> Result<SocketAddr> {
        self.playground.proxy_addr()
    }

    /// A port of the playground's own block that nothing uses.
    pub(crate) fn other_addr(&self) -> Result<SocketAddr> {
        let addr = self.addr()?;
        Ok(SocketAddr::new(addr.ip(), addr.port() + 7))
    }

    pub(crate) fn groups(&self) -> Vec<GroupId> {
        self.topology.groups.iter().map(|g| g.id).collect()
    }

    /// The address of a group's instance.
    pub(crate) fn instance(&self, group: GroupId) -> Result<SocketAddr> {
        Ok(self.playground.group(group).next().context("a group has an instance")?.server.addr())
    }

    /// A tag, with braces, whose keys belong to this group; another one for each name.
    pub(crate) fn tag(&self, group: GroupId, name: &str) -> String {
        let owner = |slot: Slot| self.topology.slots.iter().find(|r| (r.from..=r.to).contains(&slot)).map(|r| r.group);
        let tags = (0..).map(|i| format!("{{{name}-{i}}}"));
        let mine =
            |tag: &String| owner(slot_of(tag.as_bytes(), TagRule::Redis, self.topology.slot_count)) == Some(group);
        tags.into_iter().find(mine).unwrap_or_default()
    }

    /// The workers in the order of their indices; those on their way out are not `live`.
    pub(crate) fn workers(&self) -> Result<Vec<Worker>> {
        let mut workers = Vec::new();
        for worker in self.worker_list()? {
            let number = |key: &str| worker[key].as_u64().with_context(|| format!("no {key}: {worker}"));
            workers.push(Worker {
                index: number("worker")? as u32,
                pid: number("pid")? as i32,
                live: worker["state"] == "live",
                serving: number("serving")?,
            });
        }
        workers.sort_by_key(|w| w.index);
        Ok(workers)
    }

    fn worker_list(&self) -> Result<Vec<Value>> {
        let answer = http::get(self.playground.admin_addr()?, "/api/v1/workers")?.json()?;
        Ok(answer["workers"].as_array().with_context(|| format!("no workers: {answer}"))?.clone())
    }

    /// How many requests await replies of a group.
    pub(crate) fn in_flight(&self, group: GroupId) -> Result<u64> {
        let workers = self.worker_list()?;
        let links = workers.iter().filter_map(|w| w["links"].as_array()).flatten();
        Ok(links.filter(|l| l["group"] == group).filter_map(|l| l["in_flight"].as_u64()).sum())
    }

    /// Waits until there are just so many workers, all live and serving the topology; gives them.
    pub(crate) fn await_workers(&self, count: usize) -> Result<Vec<Worker>> {
        until(&format!("{count} workers"), SETTLE_LIMIT, || {
            let workers = self.workers()?;
            let settled = workers.len() == count && workers.iter().all(|w| w.live && w.serving == self.topology.epoch);
            Ok(if settled { Ok(workers) } else { Err(format!("{workers:?}")) })
        })
    }

    pub(crate) fn worker_pid(&self, index: u32) -> Result<i32> {
        let workers = self.workers()?;
        let found = workers.iter().find(|w| w.index == index && w.live);
        Ok(found.with_context(|| format!("no worker {index}: {workers:?}"))?.pid)
    }

    /// A metric, named with its labels.
    pub(crate) fn metric(&self, series: &str) -> Result<f64> {
        let answer = http::get(self.playground.admin_addr()?, "/metrics")?;
        let line = answer.body.lines().find_map(|l| l.strip_prefix(series)?.strip_prefix(' '));
        Ok(line.with_context(|| format!("no {series} in:\n{}", answer.body))?.parse()?)
    }

    /// Rewrites the configuration (`extra` stands beside the playground's lines), sends HUP, and waits until it was
    /// read. A refused one is an error.
    pub(crate) fn reload(&mut self, extra: &str) -> Result<()> {
        let count =
            |site: &Self, result: &str| site.metric(&format!("twemslot_proxy_reloads_total{{result=\"{result}\"}}"));
        let (done, failed) = (count(self, "ok")?, count(self, "failed")?);
        self.playground.reload(0, extra)?;
        until("the reload", SETTLE_LIMIT, || {
            ensure!(count(self, "failed")? == failed, "the reload was refused: {extra}");
            Ok(if count(self, "ok")? > done { Ok(()) } else { Err("not yet".to_owned()) })
        })
    }

    /// Puts the next epoch, in which these slots are held and all others normal. Every worker must serve it when the
    /// call returns, and with `quiet` nothing for a held slot may be in flight.
    pub(crate) fn put(&mut self, held: Option<(Slot, Slot)>, quiet: bool) -> Result<Duration> {
        let mut next = self.playground.topology().clone();
        next.epoch = self.topology.epoch + 1;
        if let Some((from, to)) = held {
            next.slots = next.slots.iter().flat_map(|r| hold(r, from, to)).collect();
        }
        // Others may be coming up, or on their way out.
        let live = self.workers()?.iter().filter(|w| w.live).count() as u64;
        let path = format!("/api/v1/topology?quiet={quiet}");
        let start = Instant::now();
        let answer = http::put(self.playground.admin_addr()?, &path, &serde_json::to_string(&next)?)?;
        let took = start.elapsed();
        ensure!(answer.status == 200, "epoch {} refused ({}): {}", next.epoch, answer.status, answer.body);
        let json = answer.json()?;
        ensure!(json["workers_applied"].as_u64() >= Some(live), "not all {live} workers: {json}");
        ensure!(json["epoch"] == next.epoch && (!quiet || json["quiet"] == true), "{json}");
        self.topology = next;
        Ok(took)
    }
}

/// A range of slots, with those within `from..=to` held.
fn hold(range: &Range, from: Slot, to: Slot) -> Vec<Range> {
    let part = |a: Slot, b: Slot, state: State| Range { from: a, to: b, state, ..range.clone() };
    let (a, b) = (range.from.max(from), range.to.min(to));
    if a > b {
        return vec![range.clone()];
    }
    let mut parts = Vec::new();
    if range.from < a {
        parts.push(part(range.from, a - 1, State::Normal));
    }
    parts.push(part(a, b, State::Held));
    if b < range.to {
        parts.push(part(b + 1, range.to, State::Normal));
    }
    parts
}

/// What a process has in memory, in bytes.
pub(crate) fn resident(pid: i32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kilobytes << 10)
}

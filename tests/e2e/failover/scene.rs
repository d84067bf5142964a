//! The stage: two groups with two replicas each, three configsvrs, two proxies, eight clients; and how one fault is measured.

use anyhow::{Context, Result, ensure};
use cluster::slot::{TagRule, slot_of};
use configsvr::playground::{Options, Playground, ask, find_binary, http, info, until};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tests::history::{Anomalies, Load, Op, Outcome, Plan};

/// Times are measured, so the trials take turns.
static TURN: Mutex<()> = Mutex::new(());
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
/// For what takes a second or two on a machine with nothing else to do.
const SOON: Duration = Duration::from_secs(20);
const SLOTS: u16 = 64;

pub(crate) fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is done to group 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Kill,
    Freeze(u64),
    /// Killed, and started again at once with nothing.
    Empty,
    /// The primary dies, and the leader of the control plane so many milliseconds later.
    WithLeader(u64),
    Switchover,
}

impl Fault {
    pub(crate) fn name(self) -> String {
        match self {
            Self::Kill => "kill -9 primary".to_owned(),
            Self::Freeze(ms) => format!("freeze primary {ms} ms"),
            Self::Empty => "primary restarts empty at once".to_owned(),
            Self::WithLeader(ms) => format!("kill -9 primary, leader {ms} ms later"),
            Self::Switchover => "switchover".to_owned(),
        }
    }

    pub(crate) fn replaces(self) -> bool {
        !matches!(self, Self::Freeze(ms) if ms < 1_300)
    }
}

/// What one fault did.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) failovers: usize,
    pub(crate) acked: usize,
    pub(crate) found: Anomalies,
    /// The longest time without an acknowledged write to the group, around the fault.
    pub(crate) gap: Duration,
    /// After a frozen primary woke up: until it followed.
    pub(crate) demoted: Option<Duration>,
    pub(crate) records: Vec<Value>,
}

pub(crate) struct Scene {
    pub(crate) playground: Playground,
    /// Loads so far.
    loads: usize,
}

impl Scene {
    pub(crate) fn begin() -> Result<Self> {
        let options = Options {
            groups: 2,
            replicas: 2,
            configsvrs: 3,
            proxies: 2,
            workers: Some(1),
            slots: SLOTS,
            ..Options::default()
        };
        let scene = Self { playground: Playground::start(options)?, loads: 0 };
        scene.known()?;
        Ok(scene)
    }

    /// An operator at the command line: all that was said.
    pub(crate) fn operator(&self, words: &[&str]) -> Result<String> {
        let dir = self.playground.dir().display().to_string();
        let out = Command::new(find_binary("twemslotctl")?).args(["--state-dir", &dir]).args(words).output()?;
        Ok(format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr)))
    }

    /// The control plane knows both primaries' histories.
    pub(crate) fn known(&self) -> Result<()> {
        until("the primaries are known", LIMIT, || {
            let guards = self.playground.ask_control("/api/v1/guards")?;
            let known =
                guards.as_array().is_some_and(|all| all.iter().filter(|g| !g["primary"].is_null()).count() == 2);
            Ok(if known { Ok(()) } else { Err(guards.to_string()) })
        })
    }

    /// A member that was just started knows nothing yet.
    pub(crate) fn primary(&self) -> Result<SocketAddr> {
        until("group 1 has a primary", LIMIT, || {
            let groups = self.playground.ask_control("/api/v1/groups");
            let addr = groups.as_ref().ok().and_then(|groups| groups[0]["primary"].as_str()?.parse().ok());
            Ok(addr.ok_or_else(|| format!("{groups:?}")))
        })
    }

    fn records(&self) -> Result<Vec<Value>> {
        until("the failovers are known", LIMIT, || {
            self.primary()?;
            let all = self.playground.ask_control("/api/v1/failovers");
            Ok(all.map(|all| all.as_array().cloned().unwrap_or_default()).map_err(|e| format!("{e:#}")))
        })
    }

    fn leader(&self) -> Result<usize> {
        until("a leader", LIMIT, || {
            for (i, server) in self.playground.configsvrs().iter().enumerate().filter(|(_, s)| s.alive()) {
                let Ok(answer) = http::get(server.addr(), "/api/v1/cluster") else { continue };
                if answer.json().is_ok_and(|json| json["leading"] == true) {
                    return Ok(Ok(i));
                }
            }
            Ok(Err("nobody leads".to_owned()))
        })
    }

    /// One fault under load, and what came of it. The scene is as before when it returns.
    pub(crate) fn suffer(&mut self, fault: Fault) -> Result<Seen> {
        self.try_to_suffer(fault).with_context(|| format!("{fault:?}\n{}", self.told()))
    }

    /// What the members of the control plane said last.
    fn told(&self) -> String {
        let tail = |name: &str| {
            let text = std::fs::read_to_string(self.playground.log(name)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            format!("{name}:\n{}\n", lines[lines.len().saturating_sub(25)..].join("\n"))
        };
        self.playground.configsvrs().iter().map(|server| tail(server.name())).collect()
    }

    fn try_to_suffer(&mut self, fault: Fault) -> Result<Seen> {
        let before = self.records()?.len();
        let proxies = self.playground.proxies().iter().map(|p| p.addr()).collect();
        self.loads += 1;
        let name = format!("load{}", self.loads);
        let plan = Plan { name, proxies, clients: 8, keys: 32, pause: Duration::from_millis(2), all_types: false };
        let load = Load::start(&plan);
        std::thread::sleep(Duration::from_millis(800)); // some load, before
        let (old, at) = (self.primary()?, load.now());
        let demoted = self.strike(fault, old)?;
        if fault.replaces() {
            until("another primary", SOON, || {
                let now = self.primary()?;
                Ok(if now == old { Err(format!("{now} still")) } else { Ok(()) })
            })?;
        }
        std::thread::sleep(Duration::from_millis(1_500)); // some load, after
        let (history, found) = load.finish()?;
        self.heal(fault, old)?;
        let records = self.records()?.split_off(before);
        Ok(Seen {
            failovers: records.len(),
            acked: history.iter().filter(|op| op.what.writes() && op.outcome == Outcome::Done).count(),
            found,
            gap: gap(&history, at),
            demoted,
            records,
        })
    }

    fn strike(&mut self, fault: Fault, old: SocketAddr) -> Result<Option<Duration>> {
        match fault {
            Fault::Kill => self.playground.kill_instance(old)?,
            Fault::Empty => {
                self.playground.kill_instance(old)?;
                self.playground.start_instance(old)?;
            }
            Fault::WithLeader(ms) => {
                let leader = self.leader()?;
                self.playground.kill_instance(old)?;
                std::thread::sleep(Duration::from_millis(ms)); // into the failover
                self.playground.kill_configsvr(leader)?;
                self.playground.start_configsvr(leader)?;
            }
            Fault::Freeze(ms) => {
                self.playground.stop_instance(old)?;
                std::thread::sleep(Duration::from_millis(ms)); // frozen
                self.playground.cont_instance(old)?;
                let woke = Instant::now();
                if fault.replaces() {
                    until("the old primary follows", SOON, || {
                        let role = replication(old).map(|fields| fields.get("role").cloned().unwrap_or_default());
                        Ok(role.and_then(|role| if role == "slave" { Ok(()) } else { Err(role) }))
                    })?;
                    return Ok(Some(woke.elapsed()));
                }
            }
            Fault::Switchover => {
                let leader = self.playground.configsvrs()[self.leader()?].addr();
                let answer = http::post(leader, "/api/v1/groups/1/switchover", "{}")?;
                ensure!(answer.status == 200, "switchover: {} {}", answer.status, answer.body);
            }
        }
        Ok(None)
    }

    /// Whoever is dead starts again, and all follow.
    fn heal(&mut self, fault: Fault, old: SocketAddr) -> Result<()> {
        if matches!(fault, Fault::Kill | Fault::WithLeader(_)) {
            self.playground.start_instance(old)?;
        }
        let primary = self.primary()?;
        let others: Vec<SocketAddr> =
            self.playground.group(1).map(|i| i.server.addr()).filter(|addr| *addr != primary).collect();
        until("all follow", LIMIT, || {
            for addr in &others {
                let fields = match replication(*addr) {
                    Ok(fields) => fields,
                    Err(why) => return Ok(Err(why)),
                };
                let field = |name: &str| fields.get(name).cloned().unwrap_or_default();
                if field("master_link_status") != "up" || field("master_port") != primary.port().to_string() {
                    return Ok(Err(format!("{addr}: {fields:?}")));
                }
            }
            Ok(Ok(()))
        })?;
        until("the failover is over", LIMIT, || {
            let open = self.records()?.into_iter().find(|r| r["phase"] != "done" && r["phase"] != "aborted");
            Ok(open.map_or(Ok(()), |r| Err(r.to_string())))
        })?;
        self.known()
    }

    pub(crate) fn keys_of(&self, addr: SocketAddr) -> Result<i64> {
        let reply = until("DBSIZE", LIMIT, || Ok(ask(addr, &["DBSIZE"]).map_err(|e| format!("{e:#}"))))?;
        let reply = String::from_utf8_lossy(&reply).into_owned();
        reply.trim().trim_start_matches(':').parse().with_context(|| reply.clone())
    }
}

/// Not an error: who is demoted ends all its clients' connections, and so also the one that asks here.
fn replication(addr: SocketAddr) -> Result<BTreeMap<String, String>, String> {
    info(addr, "replication").map_err(|e| format!("{e:#}"))
}

/// Group 1 has the lower half of the slots.
fn is_of_group_1(op: &Op) -> bool {
    slot_of(op.key.as_bytes(), TagRule::Redis, SLOTS) < SLOTS / 2
}

fn gap(history: &[Op], at: u64) -> Duration {
    let good = |op: &&Op| op.outcome == Outcome::Done && op.what.writes() && is_of_group_1(op);
    let mut times: Vec<u64> = history.iter().filter(good).map(|op| op.completed).collect();
    times.sort_unstable();
    let around = times.windows(2).filter(|pair| pair[1] >= at.saturating_sub(100_000));
    Duration::from_micros(around.map(|pair| pair[1] - pair[0]).max().unwrap_or(u64::from(u32::MAX)))
}

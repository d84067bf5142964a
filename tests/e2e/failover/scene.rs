//! The stage: two groups with two replicas each, three configsvrs, two proxies, clients; and how one fault is measured.

use anyhow::{Context, Result, ensure};
use cluster::slot::{TagRule, slot_of};
use configsvr::playground::{Options, Playground, StoreKind, ask, find_binary, http, info, until};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
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

/// How much the clients do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) clients: usize,
    pub(crate) pause: Duration,
}

impl Pace {
    /// The cluster is at work, and the machine has time for other tests.
    pub(crate) const STEADY: Self = Self { clients: 8, pause: Duration::from_millis(2) };
    /// As much as the machine can do.
    pub(crate) const FULL: Self = Self { clients: 64, pause: Duration::ZERO };
}

/// What is done to a primary, or around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Kill,
    Freeze(u64),
    /// Killed, and started again at once with nothing.
    Empty,
    /// It cannot save, and so refuses every write, and PING, for so many milliseconds. It lives.
    Misconf(u64),
    /// A script runs for so many milliseconds, and nothing else does. It lives.
    Busy(u64),
    /// It reads its data again for about so many milliseconds. It lives.
    Loading(u64),
    /// Everybody waits for a processor for so many milliseconds: others want four times as many as there are.
    Hog(u64),
    /// The primary dies, and the leader of the control plane so many milliseconds later.
    WithLeader(u64),
    /// The primary dies, and the leader of the control plane is frozen so many milliseconds later, for three seconds.
    FrozenLeader(u64),
    /// The host of the primary, of the leading configsvr and of the leading etcd goes.
    Host,
    Switchover,
}

impl Fault {
    pub(crate) fn name(self) -> String {
        match self {
            Self::Kill => "kill -9 primary".to_owned(),
            Self::Freeze(ms) => format!("freeze primary {ms} ms"),
            Self::Empty => "primary restarts empty at once".to_owned(),
            Self::Misconf(_) => "primary cannot save (MISCONF)".to_owned(),
            Self::Busy(ms) => format!("a script of {ms} ms (BUSY)"),
            Self::Loading(ms) => format!("primary loads its data for {ms} ms (LOADING)"),
            Self::Hog(ms) => format!("no processor to be had for {ms} ms"),
            Self::WithLeader(_) => "kill -9 primary, then the leader".to_owned(),
            Self::FrozenLeader(_) => "kill -9 primary, then freeze the leader 3 s".to_owned(),
            Self::Host => "host of primary, leader and leading etcd dies".to_owned(),
            Self::Switchover => "switchover".to_owned(),
        }
    }

    pub(crate) fn replaces(self) -> bool {
        let alive = matches!(self, Self::Misconf(_) | Self::Busy(_) | Self::Loading(_) | Self::Hog(_));
        !alive && !matches!(self, Self::Freeze(ms) if ms < 1_300)
    }
}

/// What one fault did.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) failovers: usize,
    pub(crate) acked: usize,
    /// Operations a second before the fault.
    pub(crate) rate: usize,
    pub(crate) found: Anomalies,
    /// The longest time without an acknowledged write to the group, around the fault.
    pub(crate) gap: Duration,
    /// After a frozen primary woke up: until it followed.
    pub(crate) demoted: Option<Duration>,
    pub(crate) records: Vec<Value>,
}

pub(crate) struct Scene {
    pub(crate) playground: Playground,
    pace: Pace,
    /// Whose primary it is about: 1 or 2.
    group: u32,
    /// Loads so far.
    loads: usize,
    /// The last etcd that was killed.
    etcd: Option<usize>,
}

impl Scene {
    pub(crate) fn begin() -> Result<Self> {
        Self::with(Pace::STEADY, StoreKind::Embedded)
    }

    pub(crate) fn with(pace: Pace, store: StoreKind) -> Result<Self> {
        let options = Options {
            store,
            groups: 2,
            replicas: 2,
            configsvrs: 3,
            proxies: 2,
            workers: Some(1),
            slots: SLOTS,
            redis_conf: "enable-protected-configs local\nenable-debug-command local".to_owned(), // how a save fails here, and a load is slow
            ..Options::default()
        };
        let scene = Self { playground: Playground::start(options)?, pace, group: 1, loads: 0, etcd: None };
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
        until("the group has a primary", LIMIT, || {
            let groups = self.playground.ask_control("/api/v1/groups");
            let at = self.group as usize - 1;
            let addr = groups.as_ref().ok().and_then(|groups| groups[at]["primary"].as_str()?.parse().ok());
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

    /// The next fault is one of the other group, which was not replaced lately: that is done once in ten seconds.
    pub(crate) fn turn_to_the_other_group(&mut self) {
        self.group = 3 - self.group;
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
        let Pace { clients, pause } = self.pace;
        let plan = Plan { name, proxies, clients, keys: 32, pause, all_types: false };
        let load = Load::start(&plan);
        std::thread::sleep(Duration::from_millis(800)); // some load, before
        let whole = self.whole_copies()?;
        let (old, at) = (self.primary()?, load.now());
        let demoted = self.strike(fault, old)?;
        if fault.replaces() {
            until("another primary", SOON, || {
                let now = self.primary()?;
                Ok(if now == old { Err(format!("{now} still")) } else { Ok(()) })
            })?;
        }
        std::thread::sleep(Duration::from_millis(1_500)); // some load, after
        if fault == Fault::Kill {
            self.went_on_where_it_stood(old, &whole)?;
        }
        // Who comes back may take nothing away, so the last reads come after that.
        self.heal(fault, old)?;
        let ended = load.now();
        let (history, found) = load.finish()?;
        let records = self.records()?.split_off(before);
        Ok(Seen {
            failovers: records.len(),
            acked: acked(&history),
            rate: rate(&history, at),
            found,
            gap: gap(&history, at..ended, |op| group_of(op) == self.group),
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
            Fault::FrozenLeader(ms) => {
                let leader = self.leader()?;
                self.playground.kill_instance(old)?;
                std::thread::sleep(Duration::from_millis(ms)); // into the failover
                self.playground.signal_configsvr(leader, Signal::SIGSTOP)?;
                std::thread::sleep(Duration::from_secs(3)); // frozen
                self.playground.signal_configsvr(leader, Signal::SIGCONT)?;
            }
            Fault::Host => {
                let (leader, etcd) = (self.leader()?, self.leading_etcd()?);
                self.playground.kill_instance(old)?;
                self.playground.kill_configsvr(leader)?;
                self.playground.kill_etcd(etcd)?;
                self.playground.start_configsvr(leader)?;
                self.etcd = Some(etcd);
            }
            Fault::Misconf(ms) => {
                let said = self.cannot_save(old, true)?;
                ensure!(said.contains("MISCONF"), "a primary that cannot save answers PING with {said}");
                std::thread::sleep(Duration::from_millis(ms)); // refusing writes
                self.cannot_save(old, false)?;
            }
            Fault::Busy(ms) => {
                tell(old, &["CONFIG", "SET", "busy-reply-threshold", "500"])?;
                let script = std::thread::spawn(move || tell(old, &["EVAL", "while true do end", "0"]));
                let until = Instant::now() + Duration::from_millis(ms);
                said_within(old, "BUSY", Duration::from_secs(1))?;
                std::thread::sleep(until.saturating_duration_since(Instant::now())); // as the script does nothing else
                tell(old, &["SCRIPT", "KILL"])?;
                let said = script.join().map_err(|_| anyhow::anyhow!("panicked"))??;
                ensure!(said.contains("SCRIPT KILL"), "the script ended by itself: {said}");
            }
            Fault::Loading(ms) => {
                tell(old, &["DEBUG", "POPULATE", "2000"])?;
                let delay = (ms / 2).to_string(); // of each of them, in microseconds
                let slow = ["CONFIG", "SET", "loading-process-events-interval-bytes", "1024", "key-load-delay"];
                tell(old, &[&slow[..], &[&delay]].concat())?;
                let load = std::thread::spawn(move || tell(old, &["DEBUG", "RELOAD"]));
                said_within(old, "loading the dataset", Duration::from_secs(2))?;
                let said = load.join().map_err(|_| anyhow::anyhow!("panicked"))??;
                ensure!(said == "ok", "DEBUG RELOAD: {said}");
                tell(old, &[&slow[..], &["0"]].concat())?;
            }
            Fault::Hog(ms) => {
                let until = Instant::now() + Duration::from_millis(ms);
                let cores = std::thread::available_parallelism().map_or(2, usize::from);
                let hogs = (0..4 * cores).map(|_| std::thread::spawn(move || while Instant::now() < until {}));
                for hog in hogs.collect::<Vec<_>>() {
                    hog.join().map_err(|_| anyhow::anyhow!("panicked"))?;
                }
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
                let answer = http::post(leader, &format!("/api/v1/groups/{}/switchover", self.group), "{}")?;
                ensure!(answer.status == 200, "switchover: {} {}", answer.status, answer.body);
            }
        }
        Ok(None)
    }

    /// Which member of etcd leads the others: it says so itself, in etcd's own gateway for JSON.
    fn leading_etcd(&self) -> Result<usize> {
        until("a leading etcd", LIMIT, || {
            for (i, server) in self.playground.etcds().iter().enumerate() {
                let Ok(answer) = http::post(server.addr(), "/v3/maintenance/status", "{}") else { continue };
                if answer.json().is_ok_and(|s| s["leader"].is_string() && s["leader"] == s["header"]["member_id"]) {
                    return Ok(Ok(i));
                }
            }
            Ok(Err("none leads".to_owned()))
        })
    }

    /// A directory that is not there is as a disk that is full: a save fails, and writes are refused until one succeeds.
    /// What PING is answered then.
    fn cannot_save(&self, addr: SocketAddr, it_cannot: bool) -> Result<String> {
        let home = self.playground.dir().join(format!("gone-{}", addr.port()));
        let tell = |words: &[&str]| tell(addr, words);
        std::fs::create_dir_all(&home)?;
        tell(&[
            "CONFIG",
            "SET",
            "save",
            if it_cannot { "3600 1000000" } else { "" },
            "dir",
            &home.display().to_string(),
        ])?;
        if it_cannot {
            std::fs::remove_dir_all(&home)?;
        }
        tell(&["BGSAVE"])?;
        let wanted = if it_cannot { "err" } else { "ok" };
        until("the save is over", LIMIT, || {
            let fields = info(addr, "persistence").map_err(|e| format!("{e:#}"));
            Ok(fields.and_then(|f| if f["rdb_last_bgsave_status"] == wanted { Ok(()) } else { Err(format!("{f:?}")) }))
        })?;
        tell(&["PING"])
    }

    /// Whoever is dead starts again, and all follow.
    fn heal(&mut self, fault: Fault, old: SocketAddr) -> Result<()> {
        if matches!(fault, Fault::Kill | Fault::WithLeader(_) | Fault::FrozenLeader(_) | Fault::Host) {
            self.playground.start_instance(old)?;
        }
        if let Some(etcd) = self.etcd.take() {
            self.playground.start_etcd(etcd)?;
        }
        self.in_step()
    }

    /// How many whole data sets each instance of the group has sent to replicas.
    fn whole_copies(&self) -> Result<BTreeMap<SocketAddr, String>> {
        let all = self.playground.group(self.group).map(|i| i.server.addr());
        all.map(|addr| Ok((addr, info(addr, "stats")?["sync_full"].clone()))).collect()
    }

    /// The replica that was not promoted follows the one that was, and did not need all its data for that.
    fn went_on_where_it_stood(&self, old: SocketAddr, before: &BTreeMap<SocketAddr, String>) -> Result<()> {
        let primary = self.primary()?;
        let all = self.playground.group(self.group).map(|i| i.server.addr());
        for addr in all.filter(|addr| *addr != primary && *addr != old) {
            until("the other replica follows", SOON, || {
                let port = primary.port().to_string();
                let is = |f: &BTreeMap<String, String>, name, value| f.get(name).is_some_and(|v: &String| v == value);
                let up = |f: &_| is(f, "master_link_status", "up") && is(f, "master_port", port.as_str());
                Ok(replication(addr).and_then(|f| if up(&f) { Ok(()) } else { Err(format!("{f:?}")) }))
            })?;
        }
        let sent = info(primary, "stats")?["sync_full"].clone();
        ensure!(
            Some(&sent) == before.get(&primary),
            "a replica of {primary} had to take over all data: {sent}, {before:?}"
        );
        Ok(())
    }

    /// All follow the primary, and no failover is under way.
    pub(crate) fn in_step(&self) -> Result<()> {
        until("all follow", LIMIT, || {
            let primary = self.primary()?;
            let all = self.playground.group(self.group).map(|i| i.server.addr());
            for addr in &all.filter(|addr| *addr != primary).collect::<Vec<_>>() {
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
fn group_of(op: &Op) -> u32 {
    if slot_of(op.key.as_bytes(), TagRule::Redis, SLOTS) < SLOTS / 2 { 1 } else { 2 }
}

pub(crate) fn acked(history: &[Op]) -> usize {
    history.iter().filter(|op| op.what.writes() && op.outcome == Outcome::Done).count()
}

/// Answered operations a second, until `at` microseconds.
pub(crate) fn rate(history: &[Op], at: u64) -> usize {
    let done = history.iter().filter(|op| op.outcome == Outcome::Done && op.completed < at).count();
    done * 1_000_000 / at.max(1) as usize
}

/// The longest time without an acknowledged write of those that are `watched`, around the fault and until the end, in
/// microseconds of the load: a silence that lasts counts, too.
pub(crate) fn gap(history: &[Op], during: Range<u64>, watched: impl Fn(&Op) -> bool) -> Duration {
    let good = |op: &&Op| op.outcome == Outcome::Done && op.what.writes() && watched(op);
    let mut times: Vec<u64> = history.iter().filter(good).map(|op| op.completed).collect();
    times.push(during.end);
    times.sort_unstable();
    let around = times.windows(2).filter(|pair| pair[1] >= during.start.saturating_sub(100_000));
    Duration::from_micros(around.map(|pair| pair[1] - pair[0]).max().unwrap_or(u64::from(u32::MAX)))
}

/// What an instance says, errors too, however late.
fn tell(addr: SocketAddr, words: &[&str]) -> Result<String> {
    let mut link = redis::Client::open(format!("redis://{addr}"))?.get_connection()?;
    let mut command = redis::Cmd::new();
    words.iter().for_each(|word| _ = command.arg(*word));
    Ok(match command.query::<redis::Value>(&mut link) {
        Ok(redis::Value::BulkString(text)) => String::from_utf8_lossy(&text).into_owned(),
        Ok(value) => format!("{value:?}"),
        Err(error) => error.to_string(),
    })
}

/// PING is answered so before long.
fn said_within(addr: SocketAddr, word: &str, limit: Duration) -> Result<()> {
    until(&format!("PING is answered {word}"), limit, || {
        let said = tell(addr, &["PING"])?;
        Ok(if said.contains(word) { Ok(()) } else { Err(said) })
    })
}

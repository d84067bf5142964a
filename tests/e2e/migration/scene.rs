//! The stage: groups with a replica each, configsvrs, two proxies, clients at work, an operator at the command line; and the
//! search for keys that have gone astray.

use anyhow::{Context, Result, ensure};
use cluster::slot::{Slot, TagRule, slot_of};
use configsvr::playground::{Options, Playground, ask, find_binary, http, until};
use serde_json::Value;
use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tests::history::{Anomalies, Load, Op, Outcome, Plan};

/// Pauses are measured, and every trial needs both cores: they take turns.
static TURN: Mutex<()> = Mutex::new(());
/// For whatever must come to an end on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
pub(crate) const SLOTS: u16 = 64;
/// Keys that nobody touches: what moves is not only what is written.
pub(crate) const STILL: usize = 4_000;

pub(crate) fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) struct Scene {
    pub(crate) playground: Playground,
    groups: u16,
    /// Loads so far.
    loads: usize,
}

/// What came of a load.
pub(crate) struct Seen {
    pub(crate) found: Anomalies,
    pub(crate) acked: usize,
    pub(crate) failed: usize,
    /// The longest time that one client waited for one answer, in milliseconds.
    pub(crate) longest_ms: u64,
}

impl Scene {
    pub(crate) fn begin(groups: u16, configsvrs: u16) -> Result<Self> {
        Self::of(Options { groups, configsvrs, ..Options::default() })
    }

    /// With servers that are named, and have no replicas.
    pub(crate) fn of_servers(server: PathBuf) -> Result<Self> {
        Self::of(Options { groups: 2, configsvrs: 1, redis_server: Some(server), replicas: 0, ..Options::default() })
    }

    fn of(options: Options) -> Result<Self> {
        let groups = options.groups;
        let options = Options { proxies: 2, workers: Some(1), slots: SLOTS, ..options };
        let scene = Self { playground: Playground::start(options)?, groups, loads: 0 };
        until("the primaries are known", LIMIT, || {
            let guards = scene.get("/api/v1/guards")?;
            let known = guards.as_array().into_iter().flatten().filter(|g| !g["primary"].is_null()).count();
            Ok(if known == usize::from(groups) { Ok(()) } else { Err(guards.to_string()) })
        })?;
        scene.fill()?;
        Ok(scene)
    }

    fn fill(&self) -> Result<()> {
        let mut link = redis::Client::open(format!("redis://{}", self.playground.proxy_addr()?))?.get_connection()?;
        let mut pipe = redis::pipe();
        for n in 0..STILL {
            pipe.cmd("SET").arg(format!("still:{n}")).arg(format!("{n}")).ignore();
        }
        pipe.query::<()>(&mut link)?;
        // What is still on its way to a replica comes by the stream, and needs no copy: then nothing could be met in one.
        until("the replicas have it", LIMIT, || {
            for group in 1..=u32::from(self.groups) {
                let sizes: Result<Vec<_>> =
                    self.playground.group(group).map(|i| ask(i.server.addr(), &["DBSIZE"])).collect();
                let sizes = sizes?;
                if sizes.iter().any(|size| *size != sizes[0]) {
                    return Ok(Err(format!("group {group}: {sizes:?}")));
                }
            }
            Ok(Ok(()))
        })
    }

    /// What the leader answers, once there is one.
    pub(crate) fn get(&self, path: &str) -> Result<Value> {
        until("an answer of the leader", LIMIT, || {
            let said = self.playground.ask_control(&format!("{path}?leader=true"));
            Ok(said.map_err(|e| format!("{e:#}")))
        })
    }

    /// An operator at the command line: what came on standard output.
    pub(crate) fn operator(&self, words: &str) -> Result<String> {
        let program = find_binary("twemslotctl")?;
        let dir = self.playground.dir().display().to_string();
        let out = Command::new(program).args(["--state-dir", &dir]).args(words.split(' ')).output()?;
        let (said, why) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        ensure!(out.status.success(), "twemslotctl {words}: {said}{why}\n{}", self.told());
        Ok(said.into_owned())
    }

    /// Somebody who listens to events: each is a line of the file, from its return on.
    pub(crate) fn listener(&self) -> Result<(Child, PathBuf)> {
        let file = self.playground.dir().join("events.txt");
        let dir = self.playground.dir().display().to_string();
        let mut program = Command::new(find_binary("twemslotctl")?);
        program.args(["--state-dir", &dir, "events", "--json"]).stdout(File::create(&file)?);
        let child = program.spawn()?;
        // What it hears says that it listens.
        until("the listener listens", LIMIT, || {
            self.operator("groups rename 1 heard")?;
            self.operator("groups rename 1 again")?;
            let heard = std::fs::read_to_string(&file)?.contains("topology");
            Ok(if heard { Ok(()) } else { Err("no news".to_owned()) })
        })?;
        Ok((child, file))
    }

    /// The migrations that a command began.
    pub(crate) fn begun(&self, words: &str) -> Result<Vec<u64>> {
        let said: Value = serde_json::from_str(&self.operator(&format!("{words} --json --yes"))?)?;
        Ok(said.as_array().into_iter().flatten().filter_map(|m| m["id"].as_u64()).collect())
    }

    pub(crate) fn migration(&self, id: u64) -> Result<Value> {
        self.get(&format!("/api/v1/migrations/{id}"))
    }

    /// Waits for a phase (or a stage of the mover) of a migration.
    pub(crate) fn until_it(&self, id: u64, phases: &[&str]) -> Result<Value> {
        let what = format!("migration {id} is in {phases:?}");
        let seen = until(&what, 2 * LIMIT, || {
            let now = self.migration(id)?;
            let there = phases.iter().any(|phase| now["phase"] == *phase || now["stage"] == *phase);
            Ok(if there { Ok(now) } else { Err(now.to_string()) })
        });
        seen.with_context(|| self.told())
    }

    pub(crate) fn primary(&self, group: u32) -> Result<SocketAddr> {
        let groups = self.get("/api/v1/groups")?;
        let found = groups.as_array().into_iter().flatten().find(|g| g["id"] == group);
        found.and_then(|g| g["primary"].as_str()?.parse().ok()).context("the group has no primary")
    }

    pub(crate) fn leader(&self) -> Result<usize> {
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

    pub(crate) fn load(&mut self) -> Load {
        self.load_of(true)
    }

    /// Not of `all_types` where a primary dies: what a replica did not hear of, a pop as well, is not done there.
    pub(crate) fn load_of(&mut self, all_types: bool) -> Load {
        self.loads += 1;
        let proxies = self.playground.proxies().iter().map(|p| p.addr()).collect();
        let name = format!("load{}", self.loads);
        Load::start(&Plan { name, proxies, clients: 8, keys: 48, pause: Duration::from_millis(1), all_types })
    }

    /// Ends the load, and compares.
    pub(crate) fn judge(&self, load: Load) -> Result<Seen> {
        let (history, found) = load.finish()?;
        let of = |outcome: Outcome| history.iter().filter(|op| op.what.writes() && op.outcome == outcome).count();
        let longest = history.iter().map(|op: &Op| op.completed.saturating_sub(op.invoked)).max().unwrap_or(0);
        Ok(Seen {
            found,
            acked: of(Outcome::Done),
            failed: of(Outcome::Unknown) + of(Outcome::Refused),
            longest_ms: longest / 1000,
        })
    }

    /// Which slots each group owns, in force.
    pub(crate) fn owners(&self) -> Result<Vec<Option<u32>>> {
        let topology = self.get("/api/v1/topology")?;
        let mut owners = vec![None; usize::from(SLOTS)];
        for range in topology["slots"].as_array().into_iter().flatten() {
            let (from, to) = (range["from"].as_u64().unwrap_or(0), range["to"].as_u64().unwrap_or(0));
            for slot in from..=to {
                owners[slot as usize] = range["group"].as_u64().map(|g| g as u32);
            }
        }
        Ok(owners)
    }

    /// No instance holds a key of a slot that its group does not own, and all that nobody touched are there.
    pub(crate) fn nothing_astray(&self) -> Result<()> {
        let owners = self.owners()?;
        let mut still = 0;
        let groups = self.get("/api/v1/groups")?;
        for group in groups.as_array().into_iter().flatten().filter_map(|g| g["id"].as_u64()).map(|id| id as u32) {
            for key in keys_of(self.primary(group)?)? {
                let slot: Slot = slot_of(key.as_bytes(), TagRule::Redis, SLOTS);
                ensure!(owners[usize::from(slot)] == Some(group), "{key} (slot {slot}) lies at group {group}");
                still += usize::from(key.starts_with("still:"));
            }
        }
        ensure!(still == STILL, "{still} keys of {STILL} that nobody touched are there");
        Ok(())
    }

    /// How many slots a group owns.
    pub(crate) fn owned(&self, group: u32) -> Result<usize> {
        Ok(self.owners()?.iter().filter(|owner| **owner == Some(group)).count())
    }

    /// What the members of the control plane said last.
    pub(crate) fn told(&self) -> String {
        let tail = |name: &str| {
            let text = std::fs::read_to_string(self.playground.log(name)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            format!("{name}:\n{}\n", lines[lines.len().saturating_sub(25)..].join("\n"))
        };
        self.playground.configsvrs().iter().map(|server| tail(server.name())).collect()
    }
}

fn keys_of(addr: SocketAddr) -> Result<Vec<String>> {
    let reply = until("KEYS", LIMIT, || Ok(ask(addr, &["KEYS", "*"]).map_err(|e| format!("{e:#}"))))?;
    let text = String::from_utf8_lossy(&reply).into_owned();
    Ok(text
        .split("\r\n")
        .skip(1)
        .filter(|line| !line.starts_with('$') && !line.is_empty())
        .map(str::to_owned)
        .collect())
}

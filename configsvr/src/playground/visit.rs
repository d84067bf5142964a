//! What another process can do with a playground: find it by its state directory, look at it, stop it.

use super::process::{Identity, gone, stop, until};
use super::redis::info;
use super::server::successor;
use super::state::{Kind, Owned, Process, Run, StateDir};
use super::{STOP_GRACE, etcd, http};
use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use serde::Serialize;
use std::path::Path;
use std::time::Duration;

/// A playground in the foreground stops its own servers: longer than it gives them.
const SUPERVISOR_GRACE: Duration = Duration::from_secs(20);
/// For another process that is starting or stopping the same playground.
const LOCK_LIMIT: Duration = Duration::from_secs(20);

/// How a playground stands.
#[derive(Debug, Serialize)]
pub struct Status {
    pub state_dir: String,
    /// All processes run and answer as they should.
    pub healthy: bool,
    pub processes: Vec<ProcessStatus>,
}

/// How one process stands.
#[derive(Debug, Serialize)]
pub struct ProcessStatus {
    #[serde(flatten)]
    pub process: Process,
    pub alive: bool,
    pub healthy: bool,
    /// A Redis's role and links, a proxy's readiness; or what is wrong.
    pub says: String,
}

/// How the playground in this directory stands; None where there is none.
pub fn status(state_dir: &Path) -> Result<Option<Status>> {
    let dir = StateDir::new(state_dir)?;
    let Some(run) = dir.read()? else { return Ok(None) };
    let processes: Vec<_> = current(&dir, run).processes.into_iter().map(look).collect();
    let healthy = !processes.is_empty() && processes.iter().all(|p| p.healthy);
    Ok(Some(Status { state_dir: dir.root().display().to_string(), healthy, processes }))
}

fn look(owned: Owned) -> ProcessStatus {
    let alive = owned.identity().alive();
    let process = owned.process;
    let said = match process.kind {
        _ if !alive => Err("has ended".to_owned()),
        Kind::Redis => redis_says(&process),
        Kind::Proxy => ready(&process),
        Kind::Configsvr => ready(&process),
        Kind::Etcd => etcd_says(&process),
    };
    ProcessStatus { process, alive, healthy: said.is_ok(), says: said.unwrap_or_else(|why| why) }
}

fn redis_says(process: &Process) -> Result<String, String> {
    let addr = process.addr.parse().map_err(|e| format!("{}: {e}", process.addr))?;
    let fields = info(addr, "replication").map_err(|e| format!("{e:#}"))?;
    let field = |name: &str| fields.get(name).map_or("?", String::as_str);
    match (field("role"), field("master_link_status")) {
        ("master", _) => Ok(format!("primary, {} replicas", field("connected_slaves"))),
        (_, "up") => Ok(format!("replica of {}:{}", field("master_host"), field("master_port"))),
        _ => Err(format!("replica, no link to {}:{}", field("master_host"), field("master_port"))),
    }
}

fn etcd_says(process: &Process) -> Result<String, String> {
    let addr = process.addr.parse().map_err(|e| format!("{}: {e}", process.addr))?;
    etcd::healthy(addr).map(|()| "healthy".to_owned())
}

fn ready(process: &Process) -> Result<String, String> {
    let admin = process.admin_addr.as_deref().unwrap_or_default();
    let admin = admin.parse().map_err(|e| format!("admin address {admin:?}: {e}"))?;
    match http::get(admin, "/readyz") {
        Ok(answer) if answer.status == 200 => Ok("ready".to_owned()),
        Ok(answer) => Err(format!("not ready ({}): {}", answer.status, answer.body.trim())),
        Err(e) => Err(format!("{e:#}")),
    }
}

/// Stops the playground in this directory and removes all but its logs. False where there is none, or only what a
/// dead one left.
pub fn down(state_dir: &Path, progress: fn(&str)) -> Result<bool> {
    let dir = StateDir::new(state_dir)?;
    if !dir.root().is_dir() {
        return Ok(false);
    }
    let mut was_up = false;
    if let Some(supervisor) = dir.read()?.and_then(|run| run.supervisor).filter(|s| s.alive()) {
        progress(&format!("asking the playground in the foreground (pid {}) to stop", supervisor.pid));
        supervisor.signal(Signal::SIGTERM);
        gone(&[supervisor], SUPERVISOR_GRACE);
        was_up = true;
    }
    let what = format!("{}: another twemslotctl is at work there", dir.root().display());
    let _lock = until(&what, LOCK_LIMIT, || Ok(dir.lock()?.ok_or("it has not finished".to_owned())))?;
    let Some(run) = dir.read()? else { return Ok(was_up) };
    let run = current(&dir, run);
    was_up |= run.processes.iter().any(|p| p.identity().alive());
    stop_kind(&run, Kind::Proxy, progress)?;
    stop_kind(&run, Kind::Configsvr, progress)?;
    stop_kind(&run, Kind::Etcd, progress)?;
    stop_kind(&run, Kind::Redis, progress)?;
    dir.clean()?;
    Ok(was_up)
}

fn stop_kind(run: &Run, kind: Kind, progress: fn(&str)) -> Result<()> {
    let living = run.processes.iter().filter(|p| p.process.kind == kind && p.identity().alive());
    let (names, identities): (Vec<&str>, Vec<Identity>) =
        living.map(|p| (p.process.name.as_str(), p.identity())).unzip();
    if names.is_empty() {
        return Ok(());
    }
    progress(&format!("stopping {}", names.join(", ")));
    let left = stop(&identities, Signal::SIGTERM, STOP_GRACE);
    ensure!(left.is_empty(), "not even KILL has ended these: {left:?}");
    Ok(())
}

/// With the masters that proxies have now.
fn current(dir: &StateDir, mut run: Run) -> Run {
    for owned in &mut run.processes {
        if let Some(identity) = successor(dir, owned) {
            (owned.process.pid, owned.started) = (identity.pid, identity.started);
        }
    }
    run
}

/// Refuses a directory whose playground runs; cleans up after one that is dead.
pub(super) fn make_way(dir: &StateDir, progress: fn(&str)) -> Result<()> {
    let Some(run) = dir.read()? else { return Ok(()) };
    let run = current(dir, run);
    let living = run.processes.iter().filter(|p| p.identity().alive()).count();
    let root = dir.root().display();
    ensure!(
        living == 0,
        "a playground runs in {root} already ({living} processes): stop it with \
         `twemslotctl --state-dir {root} playground down`, or start another with --state-dir DIR --base-port PORT"
    );
    progress(&format!("{root}: cleaning up after a playground that no longer runs"));
    dir.clean()
}

//! A process of a running playground.
#![expect(clippy::disallowed_methods, reason = "a shell: reads a pid file")]

use super::process::{Identity, command_line, spawn, tail};
use super::state::{Kind, Owned, Process, StateDir};
use anyhow::{Result, bail};
use std::fs;
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus};

/// One process of the playground, running or not.
#[derive(Debug)]
pub struct Server {
    pub(super) kind: Kind,
    pub(super) name: String,
    pub(super) addr: SocketAddr,
    pub(super) admin_addr: Option<SocketAddr>,
    pub(super) identity: Identity,
    child: Option<Child>,
}

impl Server {
    pub(super) fn start(
        dir: &StateDir,
        kind: Kind,
        name: String,
        (addr, admin_addr): (SocketAddr, Option<SocketAddr>),
        command: Command,
    ) -> Result<Self> {
        let child = spawn(command, &dir.log(&name))?;
        let pid = child.id() as i32;
        // Of a child that is already dead the start does not matter: `exited` tells.
        let identity = Identity::of(pid).unwrap_or(Identity { pid, started: 0 });
        Ok(Self { kind, name, addr, admin_addr, identity, child: Some(child) })
    }

    /// `redis-PORT` or `proxy-N`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where clients connect.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// A proxy's admin port.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin_addr
    }

    /// Of the process that was started last; a proxy's master.
    pub fn pid(&self) -> i32 {
        self.identity.pid
    }

    /// Whether the process runs.
    pub fn alive(&self) -> bool {
        self.identity.alive()
    }

    /// How the process ended, once: None while it runs, and after it was told.
    pub(super) fn exited(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        self.child = None;
        Some(status)
    }

    /// Fails with the log's end when the process has ended.
    pub(super) fn must_run(&mut self, dir: &StateDir) -> Result<()> {
        let Some(status) = self.exited() else { return Ok(()) };
        let log = dir.log(&self.name);
        bail!("{} ended at once ({status}); the end of its log {}:\n{}", self.name, log.display(), tail(&log))
    }

    /// A proxy that replaced its binary has another master: the one its pid file names.
    pub(super) fn follow(&mut self, dir: &StateDir) {
        if let Some(successor) = successor(dir, &self.owned()) {
            self.identity = successor;
        }
    }

    /// Takes the ended process out of the process table; its end is not reported any more. A process whose first thread
    /// has ended looks dead while its others still do, and holds its port until then: this waits for the last.
    pub(super) fn reap(&mut self) {
        let ended = !self.alive();
        let pid = self.identity.pid;
        if let Some(mut child) = self.child.take_if(|child| ended && child.id() as i32 == pid) {
            let _ = child.wait();
        }
    }

    pub(super) fn owned(&self) -> Owned {
        let process = Process {
            kind: self.kind,
            name: self.name.clone(),
            pid: self.identity.pid,
            addr: self.addr.to_string(),
            admin_addr: self.admin_addr.map(|addr| addr.to_string()),
        };
        Owned { process, started: self.identity.started }
    }
}

/// The living process that took over from a proxy's dead master: named by the pid file, and started with this
/// playground's configuration.
pub(super) fn successor(dir: &StateDir, owned: &Owned) -> Option<Identity> {
    if owned.process.kind != Kind::Proxy || owned.identity().alive() {
        return None;
    }
    let pid: i32 = fs::read_to_string(dir.pid_file(&owned.process.name)).ok()?.trim().parse().ok()?;
    let conf = dir.proxy_conf(&owned.process.name);
    command_line(pid)?.contains(conf.to_str()?).then(|| Identity::of(pid))?
}

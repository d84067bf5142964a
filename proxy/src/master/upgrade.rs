//! A new binary takes over in place: same process id, same sockets, no connection lost.
//!
//! First the new file checks the configuration, and says what it needs bound; this image binds it, so that nothing can
//! fail for want of an address once it is gone. Then it writes its testament into memory that outlives it,
//! keeps its descriptors open, and executes the new file, which takes everything over, starts workers of its own on
//! the same sockets, and lets the old workers hand their clients to them.
#![expect(clippy::disallowed_methods, reason = "a shell: runs the new binary")]

use super::admin::Admin;
use super::event::Event;
use super::fleet::{Fleet, Id, Inherited};
use super::listeners::Listeners;
use super::process::{Birth, Page, Process};
use super::{Master, Tally, clock};
use crate::config::Config;
use crate::os;
use anyhow::{Context, ensure};
use cluster::instance::Addr;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::SigSet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::Sender;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The argument by which the new image finds the testament.
const INHERIT_ARG: &str = "--inherit-fd";
/// Raised when the testament changes its meaning; an image refuses one it does not know, before anything is lost.
const TESTAMENT: u32 = 1;
/// Before what the new file needs bound, in what it says.
const CLAIM: &str = "claims ";
/// An upgrade that finds no calm moment by then is given up.
const WAIT_US: u64 = 30_000_000;

/// How far an upgrade has come.
#[derive(Debug)]
pub(super) enum Upgrade {
    /// None is under way. The path is where our own file was when we started.
    Idle(Option<PathBuf>),
    /// The new file checks the configuration; what it says goes into `output`.
    Checking { exe: PathBuf, pid: u32, output: File },
    /// It is good; as soon as no worker comes or goes, it takes over.
    Due { exe: PathBuf, claim: Claim, until_us: u64 },
}

/// What a master of this configuration needs bound.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Claim {
    listen: Vec<Addr>,
    admin: SocketAddr,
    workers: usize,
}

/// What this binary says before it takes over from a master whose testament is of this version. Errors: it cannot.
pub fn claim(version: u32, config: &Config) -> anyhow::Result<String> {
    ensure!(
        version == TESTAMENT,
        "the running master's testament is of version {version}, this binary knows {TESTAMENT}"
    );
    let claim = Claim { listen: config.listen.clone(), admin: config.admin, workers: config.workers.count() };
    Ok(format!("{CLAIM}{}", serde_json::to_string(&claim)?))
}

/// What a new binary claims, in all that it said.
fn claimed(said: &str) -> Option<Claim> {
    serde_json::from_str(said.lines().find_map(|line| line.strip_prefix(CLAIM))?).ok()
}

impl Default for Upgrade {
    fn default() -> Self {
        // Now, since the link says "(deleted)" once a new file lies there.
        Self::Idle(std::env::current_exe().ok())
    }
}

/// What one image leaves to the next. Descriptors are numbers here: they stay open.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Testament {
    version: u32,
    started_unix_ms: u64,
    tally: Tally,
    next_id: Id,
    listeners: Vec<(String, RawFd)>,
    admin: RawFd,
    retired: RawFd,
    workers: Vec<Heirloom>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Heirloom {
    worker: Inherited,
    started_unix_ms: u64,
    mailbox: RawFd,
    page: RawFd,
}

/// A testament carried out.
pub(super) struct Taken {
    pub(super) tally: Tally,
    pub(super) started: SystemTime,
    pub(super) admin: Option<TcpListener>,
    pub(super) retired: Page,
    pub(super) processes: BTreeMap<Id, Process>,
}

impl Taken {
    /// What the first image has.
    pub(super) fn nothing() -> io::Result<Self> {
        let (tally, retired) = (Tally::default(), Page::create()?);
        Ok(Self { tally, started: clock::wall(), admin: None, retired, processes: BTreeMap::new() })
    }
}

/// Reads the testament that was left under this number.
pub(super) fn read(number: RawFd) -> anyhow::Result<Testament> {
    let mut file = File::from(os::inherited(number)?);
    let mut json = String::new();
    file.rewind()?;
    file.read_to_string(&mut json)?;
    let testament: Testament = serde_json::from_str(&json)?;
    ensure!(testament.version == TESTAMENT, "version {}: this binary knows {TESTAMENT}", testament.version);
    Ok(testament)
}

fn time_of(unix_ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(unix_ms)
}

impl Testament {
    /// Takes everything over.
    pub(super) fn take(
        self,
        fleet: &mut Fleet,
        listeners: &mut Listeners,
        events: &Sender<Event>,
    ) -> anyhow::Result<Taken> {
        for (name, number) in self.listeners {
            listeners.inherit(name, os::inherited(number).context("a listener")?);
        }
        let mut processes = BTreeMap::new();
        let mut workers = Vec::new();
        for w in self.workers {
            let fd = os::inherited(w.page).context("a statistics page")?;
            // A page of another layout cannot be summed up: its worker counts on a page that nobody reads.
            let page = Page::of(fd).or_else(|_| Page::create())?;
            let mailbox = os::inherited(w.mailbox).context("a mailbox")?;
            let (id, seat, pid) = (w.worker.id, w.worker.seat, w.worker.pid);
            let process = Process::hold(id, seat, pid, page, mailbox, time_of(w.started_unix_ms), events)?;
            processes.insert(id, process);
            workers.push(w.worker);
        }
        fleet.inherit(self.next_id, listeners.names(), workers, 0);
        Ok(Taken {
            tally: self.tally,
            started: time_of(self.started_unix_ms),
            admin: Some(TcpListener::from(os::inherited(self.admin).context("the admin port")?)),
            retired: Page::of(os::inherited(self.retired).context("the statistics")?).or_else(|_| Page::create())?,
            processes,
        })
    }
}

impl Master {
    /// USR2: lets the file that now lies where ours lay check the configuration.
    pub(super) fn begin_upgrade(&mut self) {
        let Upgrade::Idle(exe) = &self.upgrade else {
            return tracing::warn!("an upgrade is under way already");
        };
        if matches!(self.birth, Birth::Thread(_)) || self.fleet.stopping() {
            return tracing::warn!("no upgrade now: the proxy is stopping, or runs as a single process");
        }
        let Some(exe) = exe.clone() else {
            return tracing::error!("no upgrade: it is not known where the binary lies");
        };
        match check_config(&exe) {
            Ok((pid, output)) => {
                tracing::info!(exe = %exe.display(), "upgrade: the new binary checks the configuration");
                self.upgrade = Upgrade::Checking { exe, pid, output };
            }
            Err(e) => tracing::error!(exe = %exe.display(), error = %e, "no upgrade: the new binary cannot be run"),
        }
    }

    /// A child ended that is no worker.
    pub(super) fn upgrade_checked(&mut self, child: u32, good: bool, how: &str) {
        let Upgrade::Checking { exe, pid, output } = &mut self.upgrade else { return };
        if *pid != child {
            return;
        }
        let (exe, mut said) = (exe.clone(), String::new());
        _ = output.rewind().and_then(|()| output.read_to_string(&mut said));
        let until_us = self.now_us() + WAIT_US;
        self.upgrade = match claimed(&said).filter(|_| good) {
            Some(claim) => Upgrade::Due { exe, claim, until_us },
            None => {
                tracing::error!(how, said = said.trim(), "no upgrade: the new binary refuses to take over");
                Upgrade::Idle(Some(exe))
            }
        };
    }

    pub(super) fn upgrade_when_calm(&mut self, now_us: u64) {
        let Upgrade::Due { exe, claim, until_us } = &self.upgrade else { return };
        let calm = self.fleet.calm() && self.barrier.is_empty() && !self.processes.values().any(Process::has_unsent);
        let (exe, claim) = (exe.clone(), claim.clone());
        if calm {
            // Only comes back with an error.
            let had = self.listeners.names();
            let e = self.provide(&claim).and_then(|admin| self.execute(&exe, &admin)).err();
            self.listeners.back_to(&had);
            tracing::error!(error = e.map(|e| format!("{e:#}")), "no upgrade: the new binary does not take over");
            self.upgrade = Upgrade::Idle(Some(exe));
        } else if now_us > *until_us {
            tracing::error!("no upgrade: workers came and went for 30 seconds; try again");
            self.upgrade = Upgrade::Idle(Some(exe));
        }
    }

    /// Binds what the new image will need and is not there; the admin port it will have.
    fn provide(&mut self, claim: &Claim) -> anyhow::Result<TcpListener> {
        let bound = self.listeners.ensure(&claim.listen, claim.workers);
        bound.map_err(|faults| anyhow::anyhow!(faults.join("; ")))?;
        if self.admin.socket.local_addr().is_ok_and(|addr| addr == claim.admin) {
            return Ok(self.admin.socket.try_clone()?);
        }
        Admin::bind(claim.admin).map_err(anyhow::Error::msg)
    }

    fn execute(&mut self, exe: &Path, admin: &TcpListener) -> anyhow::Result<()> {
        for (_, page) in std::mem::take(&mut self.pages) {
            self.retire(&page);
        }
        let mut memory = File::from(memfd_create("twemslot-testament", MFdFlags::MFD_CLOEXEC)?);
        memory.write_all(&serde_json::to_vec(&self.testament(admin))?)?;
        let arguments = arguments(exe, memory.as_raw_fd())?;
        tracing::info!(exe = %exe.display(), "upgrade: the new binary takes over");
        // A signal that comes while nobody listens waits, rather than ends us.
        SigSet::all().thread_block()?;
        let done =
            self.keep_open(&memory, admin, true).and_then(|()| Ok(nix::unistd::execv(&arguments[0], &arguments)?));
        let undone = self.keep_open(&memory, admin, false);
        SigSet::all().thread_unblock()?;
        undone?;
        match done? {}
    }

    fn keep_open(&self, memory: &File, admin: &TcpListener, open: bool) -> anyhow::Result<()> {
        let keep = |fd: BorrowedFd<'_>| os::set_inherited(fd, open);
        keep(memory.as_fd())?;
        keep(admin.as_fd())?;
        keep(self.retired.fd.as_fd())?;
        self.listeners.all().try_for_each(|(_, fd)| keep(fd.as_fd()))?;
        for process in self.processes.values() {
            keep(process.mailbox().as_fd())?;
            keep(process.page.fd.as_fd())?;
        }
        Ok(())
    }

    fn testament(&self, admin: &TcpListener) -> Testament {
        let (next_id, workers) = self.fleet.bequest();
        let heirloom = |worker: Inherited| {
            let process = self.processes.get(&worker.id)?;
            Some(Heirloom {
                started_unix_ms: clock::unix_ms(process.started),
                mailbox: process.mailbox().as_fd().as_raw_fd(),
                page: process.page.fd.as_raw_fd(),
                worker,
            })
        };
        Testament {
            version: TESTAMENT,
            started_unix_ms: clock::unix_ms(self.started),
            tally: self.tally,
            next_id,
            listeners: self.listeners.all().map(|(name, fd)| (name.clone(), fd.as_raw_fd())).collect(),
            admin: admin.as_raw_fd(),
            retired: self.retired.fd.as_raw_fd(),
            workers: workers.into_iter().filter_map(heirloom).collect(),
        }
    }
}

/// Our own arguments, without those of an upgrade before.
fn own_arguments() -> Vec<OsString> {
    let mut own = Vec::new();
    let mut given = std::env::args_os().skip(1);
    while let Some(argument) = given.next() {
        if argument == INHERIT_ARG {
            given.next();
        } else {
            own.push(argument);
        }
    }
    own
}

fn check_config(exe: &Path) -> anyhow::Result<(u32, File)> {
    let output = File::from(memfd_create("twemslot-check", MFdFlags::MFD_CLOEXEC)?);
    let mut command = Command::new(exe);
    command
        .args(own_arguments())
        .args(["--check-config", "--check-testament", &TESTAMENT.to_string()])
        .stdin(Stdio::null());
    let child = command.stdout(output.try_clone()?).stderr(output.try_clone()?).spawn()?;
    Ok((child.id(), output)) // reaped by the loop
}

fn arguments(exe: &Path, testament: RawFd) -> anyhow::Result<Vec<CString>> {
    let mut all = vec![exe.as_os_str().to_owned()];
    all.extend(own_arguments());
    all.extend([INHERIT_ARG.into(), testament.to_string().into()]);
    all.into_iter().map(|a| CString::new(a.into_vec()).context("an argument with a zero byte")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_binary_claims_what_it_needs_and_refuses_a_testament_it_does_not_know() {
        let config = crate::config::parse("", &Default::default()).expect("the defaults");
        let said = claim(TESTAMENT, &config).expect("a claim");
        let claim_of = |said: &str| claimed(said).map(|c| (c.listen, c.admin));
        assert_eq!(claim_of(&format!("a warning\n{said}\nconf: ok\n")), Some((config.listen.clone(), config.admin)));
        assert_eq!(claimed("conf: ok\n"), None);
        assert!(claim(TESTAMENT + 1, &config).is_err());
    }
}

//! The playground's control plane: etcd where it is wanted, the configsvrs, and the cluster that is made through their
//! API.

use super::options::Plan;
use super::process::{find_binary, until};
use super::server::Server;
use super::state::{self, Kind, StateDir};
use super::{Playground, START_LIMIT, configsvr, end, etcd, http};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

/// A member that takes longer is frozen, or as good as.
const ASK_LIMIT: Duration = Duration::from_secs(2);

/// The processes of the control plane.
#[derive(Debug, Default)]
pub(super) struct Control {
    configsvrs: Vec<Server>,
    etcds: Vec<Server>,
    /// The configsvrs that are started with the playground, by number; `add_configsvr` adds more.
    founders: Vec<SocketAddr>,
    etcd_addrs: Vec<(SocketAddr, SocketAddr)>,
}

impl Control {
    pub(super) fn new(plan: &Plan) -> Self {
        Self { founders: plan.configsvrs.clone(), etcd_addrs: plan.etcds.clone(), ..Self::default() }
    }

    /// Where the API is.
    pub(super) fn addrs(&self) -> &[SocketAddr] {
        &self.founders
    }

    pub(super) fn servers(&self) -> impl Iterator<Item = &Server> {
        self.configsvrs.iter().chain(&self.etcds)
    }

    pub(super) fn servers_mut(&mut self) -> impl Iterator<Item = &mut Server> {
        self.configsvrs.iter_mut().chain(&mut self.etcds)
    }
}

impl Playground {
    /// Starts etcd and the configsvrs and makes the cluster, if there are to be any.
    pub(super) fn start_control(&mut self) -> Result<()> {
        if self.control.founders.is_empty() {
            return Ok(());
        }
        for i in 0..self.control.etcd_addrs.len() {
            let server = self.spawn_etcd(i)?;
            self.control.etcds.push(server);
            self.record()?;
        }
        for i in 0..self.control.etcds.len() {
            self.await_etcd(i)?;
        }
        for i in 0..self.control.founders.len() {
            let server = self.spawn_configsvr(i, self.control.founders[i])?;
            self.control.configsvrs.push(server);
            self.record()?;
        }
        for i in 0..self.control.configsvrs.len() {
            self.await_configsvr(i)?;
            let server = &self.control.configsvrs[i];
            self.say(&format!("{}: API at http://{}, ready", server.name(), server.addr()));
        }
        if self.options.bare { Ok(()) } else { self.create_cluster() }
    }

    /// The topology that the plan made, through the API, which gives it its epoch.
    fn create_cluster(&mut self) -> Result<()> {
        let body = json!({"topology": self.topology, "replace": false, "probe": true}).to_string();
        until("the cluster is made", START_LIMIT, || {
            let answer = http::post(self.control.founders[0], "/api/v1/import", &body)?;
            match answer.status {
                200 | 201 => Ok(Ok(())),
                503 | 504 => Ok(Err(answer.body)), // nobody leads yet
                other => anyhow::bail!("the cluster cannot be made ({other}): {}", answer.body.trim()),
            }
        })?;
        self.topology = serde_json::from_value(self.ask_control("/api/v1/topology")?)?;
        Ok(())
    }

    fn spawn_etcd(&self, i: usize) -> Result<Server> {
        let (name, at) = (etcd::name(i), self.control.etcd_addrs[i]);
        if !self.up {
            self.dir.forget_log(&name)?;
        }
        make(&self.dir.etcd(&name))?;
        let command = etcd::command(&etcd::find()?, &self.dir, &self.control.etcd_addrs, i);
        Server::start(&self.dir, Kind::Etcd, name, (at.0, None), command)
    }

    fn await_etcd(&mut self, i: usize) -> Result<()> {
        wait(&mut self.control.etcds[i], &self.dir, "healthy", etcd::healthy)
    }

    fn spawn_configsvr(&self, i: usize, addr: SocketAddr) -> Result<Server> {
        let name = configsvr::name(i);
        if !self.up {
            self.dir.forget_log(&name)?;
        }
        make(&self.dir.configsvr(&name))?;
        let mut conf = configsvr::conf(&self.dir, &self.control.founders, addr, &self.control.etcd_addrs, i);
        conf.push_str(&self.options.configsvr_conf);
        state::write_atomically(&self.dir.configsvr_conf(&name), &conf)?;
        let program = match &self.options.configsvr {
            Some(path) => path.clone(),
            None => {
                find_binary("twemslot-configsvr").context("the configsvr is missing (--configsvrs 0 goes without)")?
            }
        };
        let command = configsvr::command(&program, &self.dir, i);
        Server::start(&self.dir, Kind::Configsvr, name, (addr, Some(addr)), command)
    }

    fn await_configsvr(&mut self, i: usize) -> Result<()> {
        wait(&mut self.control.configsvrs[i], &self.dir, "ready", |addr| match http::get(addr, "/readyz") {
            Ok(answer) if answer.status == 200 => Ok(()),
            Ok(answer) => Err(format!("/readyz says {}: {}", answer.status, answer.body.trim())),
            Err(e) => Err(format!("{e:#}")),
        })
    }
}

/// What tests look at, and do.
impl Playground {
    pub fn configsvrs(&self) -> &[Server] {
        &self.control.configsvrs
    }

    pub fn etcds(&self) -> &[Server] {
        &self.control.etcds
    }

    /// Asks the configsvrs in turn until one answers `GET path` with 200.
    pub fn ask_control(&self, path: &str) -> Result<Value> {
        let mut said = Vec::new();
        for server in self.control.configsvrs.iter().filter(|s| s.alive()) {
            match http::call("GET", server.addr(), path, &[], "", ASK_LIMIT) {
                Ok(answer) if answer.status == 200 => return answer.json(),
                Ok(answer) => said.push(format!("{}: {} {}", server.name(), answer.status, answer.body.trim())),
                Err(e) => said.push(format!("{}: {e:#}", server.name())),
            }
        }
        anyhow::bail!("no configsvr answers GET {path}: {}", said.join("; "))
    }

    /// KILL; returns when the process is gone.
    pub fn kill_configsvr(&mut self, i: usize) -> Result<()> {
        end(self.configsvr(i)?, Signal::SIGKILL)?;
        self.record()
    }

    /// Starts an ended configsvr again, with its data; it may not be ready yet.
    pub fn start_configsvr(&mut self, i: usize) -> Result<()> {
        let addr = self.configsvr(i)?.addr();
        ensure!(!self.configsvr(i)?.alive(), "{addr} runs already");
        self.control.configsvrs[i] = self.spawn_configsvr(i, addr)?;
        self.record()
    }

    /// One more configsvr, at a port that the caller chose: it waits to be added through the API.
    pub fn add_configsvr(&mut self, addr: SocketAddr) -> Result<usize> {
        let i = self.control.configsvrs.len();
        let server = self.spawn_configsvr(i, addr)?;
        self.control.configsvrs.push(server);
        self.record()?;
        Ok(i)
    }

    /// STOP, or CONT.
    pub fn signal_configsvr(&mut self, i: usize, signal: Signal) -> Result<()> {
        let identity = self.configsvr(i)?.identity;
        ensure!(identity.signal(signal), "configsvr {i} does not run");
        Ok(())
    }

    /// KILL; returns when the process is gone.
    pub fn kill_etcd(&mut self, i: usize) -> Result<()> {
        end(self.etcd(i)?, Signal::SIGKILL)?;
        self.record()
    }

    /// Starts an ended member of etcd again, with its data; it may not be healthy yet.
    pub fn start_etcd(&mut self, i: usize) -> Result<()> {
        ensure!(!self.etcd(i)?.alive(), "etcd {i} runs already");
        self.control.etcds[i] = self.spawn_etcd(i)?;
        self.record()
    }

    /// STOP, or CONT.
    pub fn signal_etcd(&mut self, i: usize, signal: Signal) -> Result<()> {
        let identity = self.etcd(i)?.identity;
        ensure!(identity.signal(signal), "etcd {i} does not run");
        Ok(())
    }

    fn configsvr(&mut self, i: usize) -> Result<&mut Server> {
        let count = self.control.configsvrs.len();
        self.control.configsvrs.get_mut(i).with_context(|| format!("this playground has {count} configsvrs"))
    }

    fn etcd(&mut self, i: usize) -> Result<&mut Server> {
        let count = self.control.etcds.len();
        self.control.etcds.get_mut(i).with_context(|| format!("this playground has {count} members of etcd"))
    }
}

fn make(home: &std::path::Path) -> Result<()> {
    fs::create_dir_all(home).with_context(|| format!("cannot create {}", home.display()))
}

fn wait(
    server: &mut Server,
    dir: &StateDir,
    what: &str,
    probe: impl Fn(SocketAddr) -> Result<(), String>,
) -> Result<()> {
    let what = format!("{}: {what} (log: {})", server.name(), dir.log(server.name()).display());
    until(&what, START_LIMIT, || {
        server.must_run(dir)?;
        Ok(probe(server.addr()))
    })
}

//! A playground: a whole local cluster of real servers, for people (`twemslotctl playground`) and for tests.
//!
//! ```text
//! Playground::start ── plan: options, ports ──> redis-servers ── in sync ──> topology file, or etcd, configsvrs and a
//!                                                                        cluster made through their API ──> proxies
//!   kill, stop, start one instance or proxy; put a topology; reload          (all on 127.0.0.1)
//! drop ── all are stopped        detach ── all live on, and `down` finds them by the state directory
//! ```
//! Read top to bottom: each module uses only those declared below it.
#![expect(clippy::disallowed_methods, reason = "a shell: writes files and tells the time it took")]

mod visit;
mod control;
mod server;
mod redis;
mod configsvr;
mod etcd;
mod proxy;
mod ports;
mod options;
mod state;
mod guard;
mod process;
pub mod http;

pub use options::{Options, StoreKind};
pub use ports::Block;
pub use process::{children, find_binary, until};
pub use redis::{ask, info};
pub use server::Server;
pub use state::{Kind, Process};
pub use visit::{ProcessStatus, Status, down, status};

use anyhow::{Context, Result, bail, ensure};
use cluster::group::GroupId;
use cluster::wire::Message;
use nix::sys::signal::Signal;
use options::Plan;
use state::{Run, StateDir};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A busy machine starts a server in seconds; one that needs longer will not come.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long a process may take to end by itself.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// How often another block of ports is tried when a stranger took one of ours between look and use.
const PORT_TRIES: u32 = 5;

/// A running local cluster. Dropping it stops everything; so does the death of this process, of whatever cause.
#[derive(Debug)]
pub struct Playground {
    dir: StateDir,
    options: Options,
    topology: Message,
    program: redis::Program,
    proxy_binary: Option<PathBuf>,
    instances: Vec<Instance>,
    proxies: Vec<Server>,
    control: control::Control,
    /// All is up: `playground.json` is to be written.
    up: bool,
    /// None once detached.
    guard: Option<guard::Guard>,
    /// Whether the directory is ours to remove.
    temporary: bool,
    _ports: Option<Block>,
}

/// One Redis of a playground.
#[derive(Debug)]
pub struct Instance {
    pub server: Server,
    pub group: GroupId,
    /// What it was configured to follow when it was first started; None: a primary.
    pub primary: Option<SocketAddr>,
}

impl Playground {
    /// Starts everything and waits until all is ready. An error has stopped everything again.
    pub fn start(options: Options) -> Result<Self> {
        options.check()?;
        proxy::check_extra(&options.proxy_conf)?;
        if let Some(base) = options.base_port {
            return Self::start_at(options, base, None);
        }
        let mut from = 0;
        for _ in 1..PORT_TRIES {
            let (block, next) = ports::reserve(options.span(), from)?;
            from = next;
            match Self::start_at(options.clone(), block.base, Some(block)) {
                Err(e) if format!("{e:#}").to_lowercase().contains("address already in use") => continue,
                other => return other,
            }
        }
        let (block, _) = ports::reserve(options.span(), from)?;
        Self::start_at(options, block.base, Some(block))
    }

    fn start_at(options: Options, base: u16, block: Option<Block>) -> Result<Self> {
        let plan = Plan::new(&options, base)?;
        let program = redis::Program::find(options.redis_server.as_deref())?;
        let proxy_binary = match (&options.proxy, options.proxies) {
            (_, 0) => None,
            (Some(path), _) if path.is_file() => Some(path.clone()),
            (Some(path), _) => bail!("--proxy {}: there is no such file", path.display()),
            (None, _) => {
                Some(find_binary("twemslot-proxy").context("the proxy is missing (--proxies 0 goes without)")?)
            }
        };
        let dir = match &options.state_dir {
            Some(path) => StateDir::new(path)?,
            None => StateDir::new(&own_directory(base))?,
        };
        let Some(_lock) = dir.lock()? else {
            bail!("another playground is being started or stopped in {}: wait for it", dir.root().display())
        };
        visit::make_way(&dir, options.progress)?;
        check_ports(&plan)?;
        dir.create()?;
        let guard = guard::Guard::new().context("cannot start /bin/sh")?;
        let mut playground = Self {
            topology: plan.topology(options.slots),
            temporary: options.state_dir.is_none(),
            dir,
            options,
            program,
            proxy_binary,
            instances: Vec::new(),
            proxies: Vec::new(),
            control: control::Control::new(&plan),
            up: false,
            guard: Some(guard),
            _ports: block,
        };
        playground.start_all(&plan)?;
        Ok(playground)
    }

    fn start_all(&mut self, plan: &Plan) -> Result<()> {
        let start = Instant::now();
        self.record()?;
        self.start_redis(plan)?;
        state::write_atomically(&self.dir.topology(), &serde_json::to_string_pretty(&self.topology)?)?;
        self.start_control()?;
        for (i, at) in plan.proxies.iter().enumerate() {
            self.spawn_proxy(i, *at)?;
        }
        for i in 0..self.proxies.len() {
            self.await_proxy(i)?;
            let (name, addr, admin) = (self.proxies[i].name(), plan.proxies[i].0, plan.proxies[i].1);
            let state = if self.options.bare { "up, with nothing to serve yet" } else { "ready" };
            self.say(&format!("{name}: clients {addr}, admin {admin}, {state}"));
        }
        self.up = true;
        self.record()?;
        let (slots, groups, took) = (self.options.slots, plan.groups.len(), start.elapsed().as_secs_f32());
        match self.options.bare {
            true => self.say(&format!("no cluster yet, all up after {took:.1} s")),
            false => self.say(&format!("{slots} slots over {groups} groups, all up after {took:.1} s")),
        }
        Ok(())
    }

    fn start_redis(&mut self, plan: &Plan) -> Result<()> {
        self.say(&format!("Redis {} ({})", self.program.version, self.program.path.display()));
        for (group, addrs) in (1..).zip(&plan.groups) {
            for (i, &addr) in addrs.iter().enumerate() {
                let primary = (i > 0).then_some(addrs[0]);
                let server = self.spawn_redis(addr, primary)?;
                self.instances.push(Instance { server, group, primary });
                self.record()?;
            }
        }
        for i in 0..self.instances.len() {
            self.await_redis(i)?;
        }
        for (group, addrs) in (1..).zip(&plan.groups) {
            let (primary, replicas) = (addrs[0], &addrs[1..]);
            self.say(&format!("group g{group}: primary {primary}, replicas {replicas:?}"));
            until(&format!("group g{group}: replicas in sync"), START_LIMIT, || {
                self.instances.iter_mut().try_for_each(|i| i.server.must_run(&self.dir))?;
                Ok(redis::in_sync(primary, replicas))
            })?;
        }
        Ok(())
    }

    fn spawn_redis(&self, addr: SocketAddr, primary: Option<SocketAddr>) -> Result<Server> {
        let name = format!("redis-{}", addr.port());
        let command = self.program.command(&self.dir, addr, primary, &self.options.redis_conf)?;
        if !self.up {
            self.dir.forget_log(&name)?;
        }
        Server::start(&self.dir, Kind::Redis, name, (addr, None), command)
    }

    fn await_redis(&mut self, i: usize) -> Result<()> {
        let server = &mut self.instances[i].server;
        let what = format!("{} at {}", server.name(), server.addr());
        until(&what, START_LIMIT, || {
            server.must_run(&self.dir)?;
            Ok(redis::answers(server.addr(), server.pid()))
        })
    }

    fn spawn_proxy(&mut self, i: usize, at: (SocketAddr, SocketAddr)) -> Result<()> {
        let name = format!("proxy-{}", i + 1);
        let home = self.dir.proxy(&name);
        self.dir.forget_log(&name)?;
        fs::create_dir_all(&home).with_context(|| format!("cannot create {}", home.display()))?;
        let extra = &self.options.proxy_conf;
        let conf = proxy::conf(&self.dir, &name, at, &self.options, self.control.addrs(), extra)?;
        state::write_atomically(&self.dir.proxy_conf(&name), &conf)?;
        if self.control.addrs().is_empty() {
            state::write_atomically(&home.join("topology.json"), &serde_json::to_string_pretty(&self.topology)?)?;
        }
        let command = self.proxy_command(&name)?;
        let server = Server::start(&self.dir, Kind::Proxy, name, (at.0, Some(at.1)), command)?;
        self.proxies.push(server);
        self.record()
    }

    fn proxy_command(&self, name: &str) -> Result<Command> {
        let binary = self.proxy_binary.as_ref().context("this playground has no proxy")?;
        let mut command = Command::new(binary);
        command.arg("--config").arg(self.dir.proxy_conf(name)).arg("--foreground");
        Ok(command)
    }

    fn await_proxy(&mut self, i: usize) -> Result<()> {
        let server = &mut self.proxies[i];
        let Some(admin) = server.admin_addr else { return Ok(()) };
        let what = format!("{}: ready (log: {})", server.name(), self.dir.log(server.name()).display());
        let bare = self.options.bare; // then there is no topology yet
        until(&what, START_LIMIT, || {
            server.must_run(&self.dir)?;
            Ok(match http::get(admin, "/readyz") {
                Ok(answer) if answer.status == 200 || bare && answer.status == 503 => Ok(()),
                Ok(answer) => Err(format!("/readyz says {}: {}", answer.status, answer.body.trim())),
                Err(e) => Err(format!("{e:#}")),
            })
        })
    }

    fn say(&self, line: &str) {
        (self.options.progress)(line);
    }

    fn servers(&self) -> impl Iterator<Item = &Server> {
        self.proxies.iter().chain(self.instances.iter().map(|i| &i.server)).chain(self.control.servers())
    }

    /// Writes down, and tells the guard, what runs now.
    fn record(&mut self) -> Result<()> {
        let pids: Vec<i32> = self.servers().filter(|s| s.alive()).map(Server::pid).collect();
        if let Some(guard) = &mut self.guard {
            guard.watch(pids.into_iter()).context("the guard is gone")?;
        }
        let supervised = self.options.supervised && self.guard.is_some();
        let own = supervised.then(|| process::Identity::of(std::process::id() as i32)).flatten();
        self.dir.write(&Run::new(own, self.servers().map(Server::owned).collect()), self.up)
    }
}

/// What stands, and where.
impl Playground {
    /// In the order of their ports: each group's primary, then its replicas.
    pub fn instances(&self) -> &[Instance] {
        &self.instances
    }

    /// The instances of one group, the first primary first. Groups count from 1.
    pub fn group(&self, id: GroupId) -> impl Iterator<Item = &Instance> {
        self.instances.iter().filter(move |i| i.group == id)
    }

    pub fn proxies(&self) -> &[Server] {
        &self.proxies
    }

    /// The address clients use: the first proxy's.
    pub fn proxy_addr(&self) -> Result<SocketAddr> {
        Ok(self.proxy(0)?.addr())
    }

    /// The first proxy's admin address.
    pub fn admin_addr(&self) -> Result<SocketAddr> {
        self.admin(0)
    }

    /// The pid of a proxy's master now: it changes when the proxy replaces its binary.
    pub fn proxy_pid(&mut self, i: usize) -> Result<i32> {
        self.proxy(i)?;
        self.proxies[i].follow(&self.dir);
        Ok(self.proxies[i].pid())
    }

    /// The pids of a proxy's workers.
    pub fn worker_pids(&mut self, i: usize) -> Result<Vec<i32>> {
        self.proxy_pid(i).map(children)
    }

    /// What was put last, or what the start made.
    pub fn topology(&self) -> &Message {
        &self.topology
    }

    /// The state directory.
    pub fn dir(&self) -> &Path {
        self.dir.root()
    }

    /// The log of a process (see `Server::name`).
    pub fn log(&self, name: &str) -> PathBuf {
        self.dir.log(name)
    }

    /// The configuration of a proxy.
    pub fn proxy_conf(&self, i: usize) -> Result<PathBuf> {
        Ok(self.dir.proxy_conf(self.proxy(i)?.name()))
    }

    fn proxy(&self, i: usize) -> Result<&Server> {
        self.proxies.get(i).with_context(|| format!("this playground has {} proxies", self.proxies.len()))
    }

    fn admin(&self, i: usize) -> Result<SocketAddr> {
        self.proxy(i)?.admin_addr.context("a proxy has an admin address")
    }

    fn position(&self, addr: SocketAddr) -> Result<usize> {
        let found = self.instances.iter().position(|i| i.server.addr() == addr);
        found.with_context(|| format!("no instance of this playground has the address {addr}"))
    }
}

/// What tests do to it.
impl Playground {
    /// KILL; returns when the process is gone.
    pub fn kill_instance(&mut self, addr: SocketAddr) -> Result<()> {
        let i = self.position(addr)?;
        end(&mut self.instances[i].server, Signal::SIGKILL)?;
        self.record()
    }

    /// Starts a killed instance again, empty, on its port; returns when it answers. A replica may not be in sync yet.
    pub fn start_instance(&mut self, addr: SocketAddr) -> Result<()> {
        let i = self.position(addr)?;
        ensure!(!self.instances[i].server.alive(), "{addr} runs already");
        self.instances[i].server = self.spawn_redis(addr, self.instances[i].primary)?;
        self.record()?;
        self.await_redis(i)
    }

    /// STOP: the process keeps its connections and answers nothing.
    pub fn stop_instance(&self, addr: SocketAddr) -> Result<()> {
        self.signal(&self.instances[self.position(addr)?].server, Signal::SIGSTOP)
    }

    /// CONT, after `stop_instance`.
    pub fn cont_instance(&self, addr: SocketAddr) -> Result<()> {
        self.signal(&self.instances[self.position(addr)?].server, Signal::SIGCONT)
    }

    /// Sends a signal to a proxy's master.
    pub fn signal_proxy(&mut self, i: usize, signal: Signal) -> Result<()> {
        self.proxy_pid(i)?;
        self.signal(&self.proxies[i], signal)
    }

    /// KILL to a proxy's master; returns when it is gone. Its workers end by themselves.
    pub fn kill_proxy(&mut self, i: usize) -> Result<()> {
        self.proxy_pid(i)?;
        end(&mut self.proxies[i], Signal::SIGKILL)?;
        self.record()
    }

    /// Starts an ended proxy again with the configuration and the topology that are on its disk; returns when it is
    /// ready.
    pub fn start_proxy(&mut self, i: usize) -> Result<()> {
        self.proxy_pid(i)?;
        let old = &self.proxies[i];
        ensure!(!old.alive(), "{} runs already", old.name());
        let (name, at) = (old.name.clone(), (old.addr, old.admin_addr));
        let command = self.proxy_command(&name)?;
        self.proxies[i] = Server::start(&self.dir, Kind::Proxy, name, at, command)?;
        self.record()?;
        self.await_proxy(i)
    }

    /// Rewrites a proxy's configuration (`extra` replaces what it names; an empty one restores what the start wrote)
    /// and sends HUP. The proxy reloads in its own time (POST `/api/v1/reload` waits for it). A new `listen` does not change `Server::addr`.
    pub fn reload(&mut self, i: usize, extra: &str) -> Result<()> {
        let at = (self.proxy(i)?.addr(), self.admin(i)?);
        let name = self.proxies[i].name.clone();
        let extra = if extra.is_empty() { &self.options.proxy_conf } else { extra };
        let conf = proxy::conf(&self.dir, &name, at, &self.options, self.control.addrs(), extra)?;
        state::write_atomically(&self.dir.proxy_conf(&name), &conf)?;
        self.signal_proxy(i, Signal::SIGHUP)
    }

    /// Gives every proxy this topology; returns when all serve it. The first refusal is the error.
    pub fn put_topology(&mut self, topology: &Message) -> Result<()> {
        let json = serde_json::to_string(topology)?;
        for (i, proxy) in self.proxies.iter().enumerate() {
            let answer = http::put(self.admin(i)?, "/api/v1/topology", &json)?;
            let (name, epoch) = (proxy.name(), topology.epoch);
            ensure!(answer.status == 200, "{name} refuses epoch {epoch} ({}): {}", answer.status, answer.body.trim());
        }
        self.topology = topology.clone();
        Ok(())
    }

    fn signal(&self, server: &Server, signal: Signal) -> Result<()> {
        ensure!(server.identity.signal(signal), "{} (pid {}) does not run", server.name(), server.pid());
        Ok(())
    }
}

/// Its end.
impl Playground {
    /// The names of processes that have ended since this was last asked, with how.
    pub fn deaths(&mut self) -> Vec<String> {
        let Self { dir, proxies, instances, control, .. } = self;
        let redis = instances.iter_mut().map(|i| &mut i.server);
        let servers = proxies.iter_mut().chain(redis).chain(control.servers_mut());
        let ended = servers.filter_map(|s| {
            let status = s.exited()?;
            s.follow(dir);
            (!s.alive()).then(|| format!("{} has ended ({status}); its log: {}", s.name(), dir.log(s.name()).display()))
        });
        ended.collect()
    }

    /// Lets everything live on without this process; `down` stops it. The ports stay taken by whoever listens.
    pub fn detach(mut self) -> Result<()> {
        let guard = self.guard.take();
        self.record()?; // from now on nobody supervises
        guard.map_or(Ok(()), guard::Guard::release).context("the guard is gone")
    }

    /// Stops everything: proxies by TERM, so that they close their clients' connections in good order. Reports who
    /// could not be stopped; dropping does the same in a hurry and in silence.
    pub fn stop(mut self) -> Result<()> {
        self.stop_all(Signal::SIGTERM)
    }

    /// Does nothing the second time.
    fn stop_all(&mut self, to_proxies: Signal) -> Result<()> {
        let Some(guard) = self.guard.take() else { return Ok(()) };
        self.proxies.iter_mut().for_each(|p| p.follow(&self.dir));
        let proxies: Vec<_> = self.proxies.iter().map(|s| s.identity).collect();
        let others = self.instances.iter().map(|i| &i.server).chain(self.control.servers());
        let others: Vec<_> = others.map(|s| s.identity).collect();
        let mut left = process::stop(&proxies, to_proxies, STOP_GRACE);
        // Nothing of it is needed again, and a clean end would wait for replicas.
        left.extend(process::stop(&others, Signal::SIGKILL, STOP_GRACE));
        let redis = self.instances.iter_mut().map(|i| &mut i.server);
        self.proxies.iter_mut().chain(redis).chain(self.control.servers_mut()).for_each(Server::reap);
        drop(guard);
        ensure!(left.is_empty(), "not even KILL has ended these: {left:?}");
        if self.temporary && self.up && !std::thread::panicking() { self.dir.remove() } else { self.dir.clean() }
    }
}

impl Drop for Playground {
    fn drop(&mut self) {
        if let Err(e) = self.stop_all(Signal::SIGQUIT) {
            self.say(&format!("stopping: {e:#}"));
        }
    }
}

/// Ends a server and takes it out of the process table.
fn end(server: &mut Server, signal: Signal) -> Result<()> {
    let left = process::stop(&[server.identity], signal, STOP_GRACE);
    ensure!(left.is_empty(), "{} (pid {}) does not end", server.name(), server.pid());
    server.reap();
    Ok(())
}

fn own_directory(base: u16) -> PathBuf {
    std::env::temp_dir().join(format!("twemslot-playground-{}-{base}", nix::unistd::getuid()))
}

fn check_ports(plan: &Plan) -> Result<()> {
    let busy: Vec<String> =
        plan.addrs().filter(|a| !ports::is_free(*a)).map(|a| format!("{a}{}", ports::holder(a))).collect();
    ensure!(
        busy.is_empty(),
        "address already in use: {}. Stop what listens there (a playground: `twemslotctl playground down` with its \
         --state-dir), or start this one elsewhere with --base-port PORT",
        busy.join(", ")
    );
    Ok(())
}

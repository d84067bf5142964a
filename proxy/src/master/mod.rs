//! The master: it owns listeners, topology and settings, and sees to it that workers live. It never touches a client's
//! bytes. Everything that happens becomes an event of one loop; `fleet` decides about processes, this file acts.

mod upgrade;
mod answers;
mod referral;
mod traffic;
mod reload;
mod member;
mod registration;
mod calls;
mod admin;
mod barrier;
mod process;
mod event;
mod metrics;
mod procfs;
mod listeners;
mod pid_file;
mod store;
mod supervisor;
mod clock;
mod fleet;

use crate::config::{Config, Overrides, Tls};
use crate::log::{Level, Log, LogSettings};
use crate::mail::{ToMaster, ToWorker, WorkerTls};
use crate::os;
use crate::relay::ClientState;
use crate::stats::{Gauge, Stats, gauge_word};
pub use metrics::specimen;
pub use upgrade::claim;

use admin::Admin;
use answers::Inquiries;
use anyhow::Context;
use barrier::Barrier;
use clock::Clock;
use cluster::topology::Topology;
use event::Event;
use fleet::{Action, Fleet, Id, Layout, Mail, Seat};
use listeners::Listeners;
use member::Membership;
use nix::libc::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use pid_file::PidFile;
use process::{Birth, Page, Process};
use referral::Referrals;
use signal_hook::iterator::Signals;
use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, SystemTime};
use tokio_rustls::rustls::ServerConfig;
use upgrade::{Taken, Upgrade};

/// How this master was started.
#[derive(Debug)]
pub struct Options {
    pub config_path: PathBuf,
    pub overrides: Overrides,
    /// The worker runs in this process, on the thread that takes descriptors from here; None: workers are processes.
    pub worker_thread: Option<Sender<OwnedFd>>,
    /// One byte goes here as soon as a worker serves.
    pub tell_ready: Option<OwnedFd>,
    /// What the image of this process before this one left open for us.
    pub inherited: Option<RawFd>,
}

/// The longest wait of the loop: what has no deadline of its own is looked at this often.
const PATIENCE: Duration = Duration::from_secs(1);
/// Letters that a worker had no room for are tried again this often.
const FLUSH_US: u64 = 5_000;
/// Events handled before everything is settled again.
const BATCH: usize = 256;

#[derive(Debug, Default, Clone, Copy, serde::Serialize, serde::Deserialize)]
struct Tally {
    respawns: u64,
    reloads_ok: u64,
    reloads_failed: u64,
}

struct Master {
    options: Options,
    config: Config,
    log: Log,
    level: Level,
    topology_path: PathBuf,
    clock: Clock,
    started: SystemTime,
    fleet: Fleet,
    processes: BTreeMap<Id, Process>,
    /// Pages of seats whose worker is gone, for the next.
    pages: BTreeMap<Seat, Page>,
    /// Sums up pages that no worker goes on with.
    retired: Page,
    listeners: Listeners,
    topology: Option<Arc<Topology>>,
    barrier: Barrier,
    inquiries: Inquiries,
    referrals: Referrals,
    admin: Admin,
    /// Removed when we end; an image that is replaced never gets there.
    _pid_file: Option<PidFile>,
    birth: Birth,
    tally: Tally,
    membership: Membership,
    upgrade: Upgrade,
    events: Sender<Event>,
    inbox: Receiver<Event>,
    said_ready: bool,
    over: bool,
}

/// Runs the proxy until it is told to stop. Errors: it could not start.
pub fn run(options: Options, config: Config, log: Log) -> anyhow::Result<()> {
    let (events, inbox) = channel();
    hear_signals(events.clone()).context("signals")?;
    raise_descriptor_limit(&config);
    let mut master = Master::new(options, config, log, events, inbox)?;
    master.begin();
    master.cycle();
    master.take_leave();
    tracing::info!("stopped");
    Ok(())
}

/// From here on signals are events. Those that came since the last image of this process was replaced are not lost:
/// it left them blocked.
fn hear_signals(events: Sender<Event>) -> anyhow::Result<()> {
    let all = [SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2];
    let mut signals = Signals::new(all)?;
    SigSet::all().thread_unblock()?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            if events.send(Event::Signal(signal)).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}

/// Each client is a descriptor of its worker; workers inherit this limit.
fn raise_descriptor_limit(config: &Config) {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    /// Links, listeners, and what else a worker needs.
    const OTHERS: u64 = 1024;
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map(|()| hard));
    match raised {
        Ok(limit) if limit < u64::from(config.relay.clients_max) + OTHERS => tracing::warn!(
            limit,
            clients_max = config.relay.clients_max,
            "fewer file descriptors than clients_max needs: raise the limit (ulimit -Hn, LimitNOFILE) or lower clients_max"
        ),
        Ok(_) => {}
        Err(e) => tracing::warn!(error = %e, "the limit of file descriptors stays as it is"),
    }
}

impl Master {
    /// Takes over what an image before this one left, and binds what is lacking.
    fn new(
        mut options: Options,
        config: Config,
        log: Log,
        events: Sender<Event>,
        inbox: Receiver<Event>,
    ) -> anyhow::Result<Self> {
        let testament = options.inherited.take().map(upgrade::read).transpose().context("the testament")?;
        let pid_file = match config.pid_file.as_deref().map(PidFile::write).transpose() {
            Err(e) if testament.is_some() => {
                tracing::error!(error = %e, "upgrade: there is no pid file");
                None
            }
            written => written?,
        };
        let (mut fleet, mut listeners) = (Fleet::new(), Listeners::default());
        let Taken { tally, started, admin, retired, processes } = match testament {
            Some(testament) => testament.take(&mut fleet, &mut listeners, &events)?,
            None => Taken::nothing()?,
        };
        let workers = if options.worker_thread.is_some() { 1 } else { config.workers.count() };
        listeners.ensure(&config.listen, workers).map_err(|faults| anyhow::anyhow!(faults.join("; ")))?;
        let here = admin.filter(|socket| socket.local_addr().is_ok_and(|addr| addr == config.admin));
        let socket = here.map_or_else(|| Admin::bind(config.admin), Ok).map_err(anyhow::Error::msg)?;
        let tls = admin_tls(&config.tls).map_err(anyhow::Error::msg)?;
        Ok(Self {
            level: config.log.level,
            topology_path: std::path::absolute(&config.topology_file)?,
            clock: Clock::start(),
            started,
            fleet,
            processes,
            pages: BTreeMap::new(),
            retired,
            listeners,
            topology: None,
            barrier: Barrier::default(),
            inquiries: Inquiries::default(),
            referrals: Referrals::default(),
            admin: Admin::start(
                socket,
                config.admin_tokens.clone(),
                tls,
                events.clone(),
                registration::keep(events.clone()),
            )
            .context("the admin port")?,
            _pid_file: pid_file,
            birth: options.worker_thread.take().map_or(Birth::Spawn, Birth::Thread),
            tally,
            membership: Membership::default(),
            upgrade: Upgrade::default(),
            events,
            inbox,
            said_ready: false,
            over: false,
            options,
            config,
            log,
        })
    }

    fn now_us(&self) -> u64 {
        self.clock.now_us()
    }

    fn begin(&mut self) {
        let path = self.topology_path.display();
        match store::load(&self.topology_path) {
            Ok(None) => tracing::info!(%path, "no topology yet: clients get errors until one is PUT"),
            Ok(Some(topology)) => self.topology = Some(Arc::new(topology)),
            Err(why) => tracing::error!(%path, why, "the stored topology is refused: the proxy starts without one"),
        }
        self.ask_control_plane();
        if let Some(epoch) = self.epoch() {
            self.step(fleet::Event::Topology { epoch });
        }
        self.reap();
        self.step(fleet::Event::Layout(self.layout()));
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            listen = %self.config.listen.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            admin = %self.config.admin,
            workers = self.layout().workers,
            epoch = self.epoch(),
            "started"
        );
    }

    fn epoch(&self) -> Option<u64> {
        self.topology.as_ref().map(|t| t.epoch())
    }

    /// What the configuration wants of the fleet.
    fn layout(&self) -> Layout {
        Layout {
            workers: if matches!(self.birth, Birth::Thread(_)) { 1 } else { self.config.workers.count() },
            names: self.listeners.names_of(&self.config.listen),
            drain_timeout_us: self.config.drain_timeout_us,
        }
    }

    fn cycle(&mut self) {
        while !self.over {
            if let Ok(event) = self.inbox.recv_timeout(self.patience()) {
                self.hear(event);
                for _ in 0..BATCH {
                    let Ok(event) = self.inbox.try_recv() else { break };
                    self.hear(event);
                }
            }
            self.settle();
        }
    }

    fn patience(&self) -> Duration {
        let now = self.now_us();
        let unsent = self.processes.values().any(Process::has_unsent).then_some(now + FLUSH_US);
        let deadlines = [
            self.fleet.deadline_us(now),
            self.barrier.deadline_us(),
            self.inquiries.deadline_us(),
            self.referrals.deadline_us(),
            unsent,
        ];
        let nearest = deadlines.into_iter().flatten().min();
        nearest.map_or(PATIENCE, |at| Duration::from_micros(at.saturating_sub(now)).min(PATIENCE))
    }

    /// What is due after each batch of events.
    fn settle(&mut self) {
        self.step(fleet::Event::Tick);
        self.processes.values_mut().for_each(Process::flush);
        let now = self.now_us();
        self.barrier.settle(&self.fleet, self.epoch().unwrap_or(0), now);
        self.answer_inquiries(now);
        self.end_referrals(now);
        self.upgrade_when_calm(now);
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Signal(signal) => self.obey(signal),
            Event::Mail(id, letter, fd) => self.read(id, letter, fd),
            Event::Hangup(id) if matches!(self.birth, Birth::Thread(_)) => self.bury(id, "the worker's thread ended"),
            Event::Hangup(_) => {} // SIGCHLD says more
            Event::Ask(question, reply) => self.answer(question, reply),
            Event::News(news) => self.note_news(&news),
        }
    }

    fn obey(&mut self, signal: i32) {
        match signal {
            SIGCHLD => self.reap(),
            SIGHUP => _ = self.reload(),
            SIGTERM | SIGINT => self.stop(false),
            SIGQUIT => self.stop(true),
            SIGUSR1 => self.reopen_log(),
            SIGUSR2 => self.begin_upgrade(),
            SIGTTIN => self.set_level(self.level.louder()),
            SIGTTOU => self.set_level(self.level.quieter()),
            _ => {}
        }
    }

    fn stop(&mut self, now: bool) {
        tracing::info!(at_once = now || self.fleet.stopping(), "stopping");
        supervisor::tell(supervisor::STOPPING);
        self.step(fleet::Event::Stop { now });
    }

    fn reopen_log(&mut self) {
        match self.log.reopen() {
            Ok(()) => tracing::info!("log opened anew"),
            Err(e) => tracing::error!(error = %e, "the old log stays in use"),
        }
        self.tell_all(&ToWorker::ReopenLog);
    }

    fn set_level(&mut self, level: Level) {
        self.level = level;
        self.log.set_level(level);
        self.tell_all(&ToWorker::LogLevel { level: level.name().into() });
        tracing::warn!(level = level.name(), "log level");
    }

    fn tell_all(&mut self, letter: &ToWorker) {
        self.processes.values_mut().for_each(|p| p.tell(letter, None));
    }

    fn read(&mut self, id: Id, letter: ToMaster, fd: Option<OwnedFd>) {
        match letter {
            ToMaster::Ready => {
                self.step(fleet::Event::Ready { id });
                self.say_ready();
            }
            ToMaster::Listening { name } => self.step(fleet::Event::Listening { id, name }),
            ToMaster::Serving { epoch } => self.step(fleet::Event::Serving { id, epoch }),
            ToMaster::Quiet { epoch } => self.step(fleet::Event::Quiet { id, epoch }),
            ToMaster::NotQuiet { epoch, why } => self.step(fleet::Event::NotQuiet { id, epoch, why }),
            ToMaster::Refused { epoch, why } => {
                let worker = self.processes.get(&id).map(|p| p.seat);
                tracing::error!(worker, epoch, why, "a worker cannot load the topology");
                self.step(fleet::Event::Refused { id, epoch, why });
            }
            ToMaster::Client(state) => self.forward(state, fd),
            ToMaster::Status { ticket, links } => self.inquiries.note(ticket, id, links),
            ToMaster::Ask { ticket, question } => self.refer(id, ticket, question),
            ToMaster::Answer { ticket, text, last } => self.pass_answer(id, ticket, text, last),
            ToMaster::Show { lines } => self.show(id, &lines),
            ToMaster::Unlistened { name } => tracing::debug!(id, name, "unlistened"),
            ToMaster::Drained => tracing::debug!(id, "drained"),
        }
    }

    /// Gives a client to the worker that has the fewest.
    fn forward(&mut self, state: ClientState, fd: Option<OwnedFd>) {
        let processes = &self.processes;
        let heir = self.fleet.heir(|id| processes.get(&id).map_or(0, clients));
        match (heir.and_then(|id| self.processes.get_mut(&id)), fd) {
            (Some(process), Some(fd)) => process.tell(&ToWorker::Client(state), Some(fd)),
            (None, _) => tracing::warn!(client = state.peer, "no worker can take this client over: closed"),
            (_, None) => tracing::warn!(client = state.peer, "a client came without its socket: out of descriptors"),
        }
    }

    /// The supervisor is told, and leave is taken of the terminal of `--daemon`: from now on the proxy serves.
    fn say_ready(&mut self) {
        if !std::mem::replace(&mut self.said_ready, true) {
            supervisor::tell(supervisor::READY);
        }
        let Some(fd) = self.options.tell_ready.take() else { return };
        if let Err(e) = std::fs::File::from(fd).write_all(b"1").and_then(|()| os::silence_standard_streams()) {
            tracing::warn!(error = %e, "the terminal is not let go");
        }
    }

    /// Collects children that have ended.
    fn reap(&mut self) {
        loop {
            let (pid, how, good) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, format!("exit status {code}"), code == 0),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, signal.to_string(), false),
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => continue,
            };
            let pid = pid.as_raw() as u32;
            match self.processes.iter().find(|(_, p)| p.pid == pid).map(|(&id, _)| id) {
                Some(id) => self.bury(id, &how),
                None => self.upgrade_checked(pid, good, &how),
            }
        }
    }

    fn bury(&mut self, id: Id, how: &str) {
        let Some(process) = self.processes.remove(&id) else { return };
        let lived_ms = clock::since(process.started).as_millis() as u64;
        tracing::info!(worker = process.seat, pid = process.pid, how, lived_ms, "a worker ended");
        self.keep_page(process.seat, process.page);
        self.step(fleet::Event::Died { id });
    }

    /// Keeps what a worker counted: for its successor, or, if it has one already, in the sum of the retired.
    fn keep_page(&mut self, seat: Seat, page: Page) {
        let succeeded = self.processes.values().any(|p| p.seat == seat) || self.pages.contains_key(&seat);
        if succeeded || seat >= self.layout().workers {
            return self.retire(&page);
        }
        self.pages.insert(seat, page);
    }

    fn retire(&mut self, page: &Page) {
        let mut sum = Stats::resumed(&self.retired.shared.read());
        sum.add_all(&Stats::resumed(&page.shared.read()));
        self.retired.shared.publish(0, sum.words());
    }

    /// Lets the fleet decide, and does what it says, in its order.
    fn step(&mut self, event: fleet::Event) {
        let mut actions = VecDeque::from(self.fleet.step(self.now_us(), event));
        while let Some(action) = actions.pop_front() {
            if let Some(consequence) = self.act(action) {
                actions.extend(self.fleet.step(self.now_us(), consequence));
            }
        }
    }

    fn act(&mut self, action: Action) -> Option<fleet::Event> {
        match action {
            Action::Spawn { id, seat } => return Some(self.spawn(id, seat)),
            Action::Send { id, mail } => self.send(id, mail),
            Action::Kill { id } => self.kill(id),
            Action::Close { name } => self.listeners.close(&name),
            Action::Exit => self.over = true,
            Action::Mourn { seat, delay_us } => {
                self.tally.respawns += 1;
                tracing::warn!(worker = seat, again_in_ms = delay_us / 1000, "a worker died and is started again");
            }
        }
        None
    }

    fn spawn(&mut self, id: Id, seat: Seat) -> fleet::Event {
        match self.start_process(id, seat) {
            Ok(process) => {
                let pid = process.pid;
                tracing::debug!(worker = seat, pid, "a worker starts");
                self.processes.insert(id, process);
                fleet::Event::Spawned { id, pid }
            }
            Err(e) => {
                tracing::error!(worker = seat, error = %e, "a worker cannot be started");
                fleet::Event::Died { id }
            }
        }
    }

    fn start_process(&mut self, id: Id, seat: Seat) -> std::io::Result<Process> {
        let page = self.pages.remove(&seat).map_or_else(Page::create, Ok)?;
        let page_fd = page.fd.try_clone()?;
        let mut process = Process::start(id, seat, page, &self.birth, &self.events)?;
        let log = LogSettings { level: self.level, ..self.config.log.clone() };
        let hello = ToWorker::Hello { worker: seat as u32, log: serde_json::to_string(&log)? };
        process.tell(&hello, Some(page_fd));
        process.tell(&ToWorker::Settings(Box::new(self.config.relay.clone())), None);
        process.tell(&ToWorker::Tls(Box::new(self.worker_tls())), None);
        Ok(process)
    }

    /// What workers need of TLS.
    fn worker_tls(&self) -> WorkerTls {
        let tls = &self.config.tls;
        let server = tls.server.clone().filter(|_| !tls.listen.is_empty());
        WorkerTls { listen: tls.listen.clone(), server, instances: tls.instances.clone() }
    }

    fn send(&mut self, id: Id, mail: Mail) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        match mail {
            Mail::Listen { name, socket } => {
                let socket = self.listeners.get(&name, socket).map(|fd| fd.try_clone_to_owned());
                match socket {
                    Some(Ok(fd)) => process.tell(&ToWorker::Listen { name }, Some(fd)),
                    Some(Err(e)) => tracing::error!(name, error = %e, "a listener cannot be lent to a worker"),
                    None => tracing::error!(name, "a listener that is not there cannot be lent"),
                }
            }
            Mail::Unlisten { name } => process.tell(&ToWorker::Unlisten { name }, None),
            Mail::Topology { epoch } => {
                let path = self.topology_path.to_string_lossy().into_owned();
                process.tell(&ToWorker::Topology { epoch, path }, None);
            }
            Mail::Drain { hand_over } => process.tell(&ToWorker::Drain { hand_over }, None),
        }
    }

    fn kill(&mut self, id: Id) {
        let Some(process) = self.processes.get(&id) else { return };
        if matches!(self.birth, Birth::Thread(_)) {
            return process.hang_up();
        }
        tracing::warn!(worker = process.seat, pid = process.pid, "a worker is killed: its time is over");
        if let Err(e) = kill(Pid::from_raw(process.pid as i32), Signal::SIGKILL) {
            tracing::error!(pid = process.pid, error = %e, "it cannot be killed");
        }
    }
}

/// How the admin port's callers are met; None: unencrypted. Errors: the texts were checked, so there is none.
fn admin_tls(tls: &Tls) -> Result<Option<Arc<ServerConfig>>, String> {
    let server = tls.server.as_ref().filter(|_| tls.admin).map(cluster::tls::Server::config).transpose();
    match server.map_err(|fault| format!("tls: {}", fault.why))? {
        None if tls.admin => Err("tls.admin: there is no certificate".into()),
        server => Ok(server),
    }
}

/// How many clients a worker has, as it last said.
fn clients(process: &Process) -> u64 {
    process.page.shared.word(gauge_word(Gauge::Clients))
}

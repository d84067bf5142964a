//! The shell of a worker: one thread, one loop, many sockets. What bytes mean is the relay's business; here they are
//! moved, and the relay's deeds are done.
//!
//! One iteration: wait for events, and read the clock. Read instances, then clients. Write to instances, then to
//! clients, and do the relay's deeds, until it wants nothing more. Then, where there is any, letters from the master,
//! new clients, the relay's timers, and the statistics page.

mod traffic;
mod mail;
mod listener;
mod arrival;
mod stream;
mod tls;
mod poller;
mod clock;
#[cfg(test)]
mod tests;

use crate::log::{self, Log, LogSettings};
use crate::mail::{ToMaster, ToWorker, WorkerTls};
use crate::os::SharedPage;
use crate::relay::limits::{ANSWER_PIECE, Settings};
use crate::relay::{ClientId, Deed, Level, Question, Relay, pieces};
use crate::stats::{Counter, Stats};
use anyhow::Context;
use arrival::Arrivals;
use clock::Clock;
use cluster::tls::Server;
use cluster::topology::Topology;
use cluster::wire;
use listener::Listeners;
use mail::{Letter, Post};
use poller::{Poller, Source};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use stream::Stream;
use traffic::{Leaving, Traffic};

/// The statistics page is at most this old while anything happens.
const PUBLISH_US: u64 = 100_000;
/// ... and so old while nothing does: the control plane reads from it how long an instance has been silent.
const PUBLISH_IDLE_US: u64 = 500_000;
/// What there is for each slot and command is copied this often.
const PUBLISH_ALL_US: u64 = 1_000_000;
/// An iteration longer than this is counted as a stall.
const STALL_US: u64 = 5_000;
/// Iterations with fewer events than this are not timed: a clock costs as much as a request.
const STALL_EVENTS: u64 = 16;
/// Rounds of writes and deeds in one iteration; what is left then goes on in the next.
const ROUNDS_MAX: usize = 16;
/// A letter that could not be sent is tried again this often.
const POST_RETRY_US: u64 = 10_000;

/// Serves until the master says `Drain` and all clients have gone, or until the master has gone.
///
/// `control` is the worker's end of the mailbox. Errors: the master says nothing that a worker can start from, or the
/// poller fails.
pub fn run(control: OwnedFd) -> anyhow::Result<()> {
    let mut worker = Worker::start(control)?;
    while !worker.is_done() {
        worker.iterate()?;
    }
    worker.published_all_us = 0;
    worker.publish();
    Ok(())
}

/// Everything a worker has.
struct Worker {
    poller: Poller,
    clock: Clock,
    now_us: u64,
    traffic: Traffic,
    listeners: Listeners,
    arrivals: Arrivals,
    post: Post,
    page: SharedPage,
    topology: Option<Arc<Topology>>,
    /// None: somebody else in this process has started the log.
    log: Option<Log>,
    /// Set by `Drain`: whether clients are handed to the master, or closed.
    draining: Option<bool>,
    /// Clients that leave as soon as they can.
    leaving: Vec<ClientId>,
    drained: bool,
    /// When the relay's timers are due; asked once an iteration.
    tick_us: u64,
    /// The relay wants more than one iteration may do.
    unsettled: bool,
    /// Something happened since the page was published.
    unpublished: bool,
    published_us: u64,
    /// The same for the words that are published less often.
    published_all_us: u64,
}

/// What the master must say before a worker can do anything.
struct Greeting {
    worker: u32,
    page: SharedPage,
    log: Option<Log>,
    settings: Settings,
    /// What it said meanwhile.
    others: Vec<Letter<ToWorker>>,
}

impl Greeting {
    fn wait(poller: &mut Poller, post: &mut Post) -> anyhow::Result<Self> {
        let (mut hello, mut settings, mut others) = (None, None, Vec::new());
        loop {
            while let Some((message, fd)) = post.next() {
                match message {
                    ToWorker::Hello { worker, log } => {
                        let fd = fd.context("the master's Hello came without the statistics page")?;
                        let page = SharedPage::map(&fd).context("the statistics page cannot be mapped")?;
                        hello = Some((worker, page, start_log(&log)));
                    }
                    ToWorker::Settings(said) => settings = Some(*said),
                    other => others.push((other, fd)),
                }
            }
            anyhow::ensure!(!post.is_closed(), "the master went away before it said Hello and Settings");
            match (hello.take(), settings.take()) {
                (Some((worker, page, log)), Some(settings)) => return Ok(Self { worker, page, log, settings, others }),
                (h, s) => (hello, settings) = (h, s),
            }
            poller.wait(None).context("the poller failed")?;
            post.note();
        }
    }
}

/// Starts this process's log as the master's `Hello` says; an empty text means that the process has one.
fn start_log(settings: &str) -> Option<Log> {
    if settings.is_empty() {
        return None;
    }
    let settings = serde_json::from_str::<LogSettings>(settings).unwrap_or_default();
    match log::start(&settings) {
        Ok(log) => Some(log),
        Err(e) => {
            tracing::warn!(error = %e, "this worker has no log of its own");
            None
        }
    }
}

impl Worker {
    fn start(control: OwnedFd) -> anyhow::Result<Self> {
        let mut poller = Poller::new().context("no poller: epoll is needed")?;
        let mut post = Post::new(control, &poller)?;
        let Greeting { worker, page, log, settings, others } = Greeting::wait(&mut poller, &mut post)?;
        let mut clock = Clock::new();
        let now = clock.now();
        let seed = now.unix_us ^ u64::from(std::process::id()) << 32;
        let mut arrivals = Arrivals::default();
        arrivals.set_listeners(&settings.proxy_protocol);
        let mut relay = Relay::new(settings, worker, seed, now);
        *relay.counts() = Stats::resumed(&page.read());
        let mut this = Self {
            poller,
            clock,
            now_us: now.us,
            traffic: Traffic::new(relay),
            listeners: Listeners::new(),
            arrivals,
            post,
            page,
            topology: None,
            log,
            draining: None,
            leaving: Vec::new(),
            drained: false,
            tick_us: u64::MAX,
            unsettled: true,
            unpublished: true,
            published_us: now.us,
            published_all_us: 0,
        };
        for (message, fd) in others {
            this.obey(message, fd);
        }
        this.read_post();
        this.traffic.relay.ask_for_known_scripts();
        this.post.say(ToMaster::Ready, None);
        Ok(this)
    }

    fn is_done(&self) -> bool {
        self.post.is_closed() || (self.drained && self.post.is_sent())
    }

    /// One turn of the loop.
    fn iterate(&mut self) -> anyhow::Result<()> {
        let timeout = self.timeout();
        if timeout != Some(Duration::ZERO) {
            self.check_nobody_is_forgotten();
        }
        let events = self.poller.wait(timeout).context("the poller failed")?;
        let now = self.clock.now();
        self.now_us = now.us;
        self.traffic.relay.set_now(now);
        self.note_events();
        self.traffic.turn();
        self.settle();
        if self.do_rarer_things() {
            self.settle();
        }
        self.leave();
        self.count(events);
        Ok(())
    }

    /// How long the poller may sleep; None: until an event.
    fn timeout(&mut self) -> Option<Duration> {
        self.tick_us = self.traffic.relay.deadline();
        if self.traffic.is_busy() || self.unsettled {
            return Some(Duration::ZERO);
        }
        let mut until = self.tick_us.min(self.listeners.deadline()).min(self.arrivals.deadline());
        let every = if self.unpublished { PUBLISH_US } else { PUBLISH_IDLE_US };
        until = until.min(self.published_us + every);
        if !self.post.is_sent() {
            until = until.min(self.now_us + POST_RETRY_US);
        }
        (until != u64::MAX).then(|| Duration::from_micros(until.saturating_sub(self.now_us)))
    }

    fn check_nobody_is_forgotten(&mut self) {
        if cfg!(debug_assertions) {
            let forgotten = self.traffic.forgotten();
            debug_assert_eq!(forgotten, None, "this socket could go on, but nobody would wake it");
        }
    }

    fn note_events(&mut self) {
        for (source, readiness) in self.poller.events() {
            match source {
                Source::Client(client) => self.traffic.note_client(client, readiness),
                Source::Link(link) => self.traffic.note_link(link, readiness),
                Source::Listener(at) => self.listeners.note(at),
                Source::Arrival(at) => self.arrivals.note(at, readiness),
                Source::Control => self.post.note(),
            }
        }
    }

    /// Writes and does deeds until the relay wants nothing more.
    fn settle(&mut self) {
        for _ in 0..ROUNDS_MAX {
            let flushed = self.traffic.flush();
            if !self.do_deeds() && !flushed {
                self.unsettled = false;
                return;
            }
        }
        self.unsettled = true;
    }

    fn do_deeds(&mut self) -> bool {
        let mut any = false;
        while let Some(deed) = self.traffic.relay.next_deed() {
            any = true;
            match self.traffic.perform(deed, &self.poller) {
                None => {}
                Some(Deed::StopAccepting) => self.listeners.allow(false),
                Some(Deed::AcceptAgain) => self.listeners.allow(true),
                Some(Deed::Quiet { epoch }) => self.post.say(ToMaster::Quiet { epoch }, None),
                Some(Deed::NotQuiet { epoch, why }) => self.post.say(ToMaster::NotQuiet { epoch, why }, None),
                Some(Deed::AtBoundary { client }) => self.leaving.push(client),
                Some(Deed::Ask { ticket, question }) => self.post.say(ToMaster::Ask { ticket, question }, None),
                Some(Deed::Show { lines }) => self.post.say(ToMaster::Show { lines }, None),
                Some(Deed::Tell { level: Level::Info, text }) => tracing::info!("{text}"),
                Some(Deed::Tell { level: Level::Warn, text }) => tracing::warn!("{text}"),
                Some(other) => debug_assert!(false, "nobody does {other:?}"),
            }
        }
        any
    }

    /// Letters, new clients and timers; returns whether there were any.
    fn do_rarer_things(&mut self) -> bool {
        let mut any = self.post.is_ready() | self.arrivals.is_ready();
        self.read_post();
        let Self { traffic, listeners, arrivals, poller, now_us, tick_us, .. } = self;
        any |= listeners.accept(*now_us, |name, stream, peer| {
            welcome(traffic, arrivals, poller, *now_us, (name, stream, peer));
        });
        if !arrivals.is_empty() {
            arrivals.admit(*now_us, poller, |stream, peer| traffic.open_client(stream, &peer, poller));
        }
        if now_us >= tick_us {
            traffic.relay.tick();
            self.unpublished = true;
            any = true;
        }
        any
    }

    fn read_post(&mut self) {
        while let Some((message, fd)) = self.post.next() {
            self.obey(message, fd);
        }
        self.post.send();
    }

    fn obey(&mut self, message: ToWorker, fd: Option<OwnedFd>) {
        match (message, fd) {
            (ToWorker::Settings(settings), _) => {
                self.arrivals.set_listeners(&settings.proxy_protocol);
                self.traffic.relay.set_settings(*settings);
                self.post.say(ToMaster::Ready, None);
            }
            (ToWorker::Tls(tls), _) => self.set_tls(*tls),
            (ToWorker::Listen { name }, Some(fd)) => self.listen(name, fd),
            (ToWorker::Unlisten { name }, _) => self.unlisten(name),
            (ToWorker::Topology { epoch, path }, _) => {
                let answer = match self.load_topology(epoch, &path) {
                    Ok(epoch) => ToMaster::Serving { epoch },
                    Err(why) => ToMaster::Refused { epoch, why },
                };
                self.post.say(answer, None);
            }
            (ToWorker::Client(state), Some(fd)) => {
                self.traffic.adopt_client(Stream::new(fd.into()), state, &self.poller);
            }
            (ToWorker::Drain { hand_over }, _) => self.drain(hand_over),
            (ToWorker::LogLevel { level }, _) => self.set_log_level(&level),
            (ToWorker::ReopenLog, _) => self.reopen_log(),
            (ToWorker::Status { ticket }, _) => {
                let links = self.traffic.relay.link_status();
                self.post.say(ToMaster::Status { ticket, links }, None);
            }
            (ToWorker::Question { ticket, question }, _) => self.answer_question(ticket, &question),
            (ToWorker::Answered { ticket, text, last }, _) => self.traffic.relay.others_answered(ticket, &text, last),
            (ToWorker::Show { lines }, _) => self.traffic.relay.shown_elsewhere(&lines),
            (ToWorker::Hello { .. }, _) => tracing::warn!("the master said Hello again"),
            (message @ (ToWorker::Listen { .. } | ToWorker::Client(_)), None) => tracing::warn!(
                message = mail::brief(&message),
                "this came without its descriptor; raise the limit of open files (ulimit -n, LimitNOFILE)"
            ),
        }
    }

    /// Tells another worker what this one knows, in letters that the mailbox can hold.
    fn answer_question(&mut self, ticket: u64, question: &Question) {
        let text = self.traffic.relay.question(question);
        let pieces = pieces(&text, ANSWER_PIECE);
        for (n, piece) in (1..).zip(&pieces) {
            let answer = ToMaster::Answer { ticket, text: (*piece).to_owned(), last: n == pieces.len() };
            self.post.say(answer, None);
        }
    }

    fn set_log_level(&self, level: &str) {
        match (&self.log, log::Level::of(level)) {
            (Some(log), Some(level)) => log.set_level(level),
            (None, _) => {}
            (_, None) => tracing::warn!(level, "the log has no such level"),
        }
    }

    fn reopen_log(&self) {
        if let Some(Err(e)) = self.log.as_ref().map(Log::reopen) {
            tracing::warn!(error = %e, "the log file could not be opened anew; lines go to the old one");
        }
    }

    /// New connections are met so; those that are open stay as they are. The master has checked these texts: should one not
    /// do all the same, nobody is met unencrypted who ought not to be.
    fn set_tls(&mut self, tls: WorkerTls) {
        let server = tls.server.as_ref().map(Server::config).transpose().unwrap_or_else(|fault| {
            tracing::error!(?fault, "this certificate cannot be used: its listeners take no clients");
            None
        });
        self.arrivals.set_tls(tls.listen, server);
        let instances =
            tls.instances.as_ref().map(|client| client.config().map_err(|fault| format!("TLS: {}", fault.why)));
        self.traffic.set_instance_tls(instances);
    }

    fn listen(&mut self, name: String, fd: OwnedFd) {
        match self.listeners.add(name.clone(), fd, &self.poller) {
            Ok(()) => self.post.say(ToMaster::Listening { name }, None),
            Err(e) => tracing::error!(listener = name, error = %e, "this listener cannot be used"),
        }
    }

    fn unlisten(&mut self, name: String) {
        let Self { traffic, listeners, arrivals, poller, now_us, .. } = self;
        listeners.remove(&name, poller, |name, stream, peer| {
            welcome(traffic, arrivals, poller, *now_us, (name, stream, peer));
        });
        self.post.say(ToMaster::Unlistened { name }, None);
    }

    /// Serves the topology in the file, which may be newer than the one asked for; returns its epoch.
    #[expect(clippy::disallowed_methods, reason = "a shell: reads the topology's file")]
    fn load_topology(&mut self, epoch: u64, path: &str) -> Result<u64, String> {
        let json = std::fs::read(path).map_err(|e| format!("{path}: {e}"))?;
        let next = wire::parse(&json).map_err(|faults| format!("{path}: {}", faults.join("; ")))?;
        wire::may_follow(self.topology.as_deref(), &next).map_err(|refusal| refusal.to_string())?;
        let found = next.epoch();
        if found < epoch {
            return Err(format!("{path}: holds epoch {found}, not {epoch}"));
        }
        let next = Arc::new(next);
        self.topology = Some(Arc::clone(&next));
        self.traffic.relay.set_topology(next);
        Ok(found)
    }

    /// What waits on the listeners is for the worker that comes next: the master keeps them open.
    fn drain(&mut self, hand_over: bool) {
        self.listeners.clear(&self.poller);
        self.draining = Some(hand_over);
        self.traffic.relay.drain();
    }

    /// Lets go of clients that are between requests, and says so when the last has gone.
    fn leave(&mut self) {
        let Some(hand_over) = self.draining else { return };
        for client in std::mem::take(&mut self.leaving) {
            match self.traffic.take_client(client, hand_over, &self.poller) {
                Leaving::Now(state, fd) if hand_over => self.post.say(ToMaster::Client(state), Some(fd)),
                Leaving::Now(..) | Leaving::Not => {}
                Leaving::Later => self.leaving.push(client),
            }
        }
        if self.traffic.relay.clients() == 0 && self.arrivals.is_empty() && !self.drained {
            self.drained = true;
            self.post.say(ToMaster::Drained, None);
        }
    }

    fn count(&mut self, events: u64) {
        let calls = std::mem::take(&mut self.traffic.calls);
        let stats = self.traffic.relay.counts();
        stats.add(Counter::LoopIterations, 1);
        stats.add(Counter::LoopEvents, events);
        stats.add(Counter::ReadCalls, calls.reads);
        stats.add(Counter::WriteCalls, calls.writes);
        if events >= STALL_EVENTS && self.clock.us() > self.now_us + STALL_US {
            stats.add(Counter::LoopStalls, 1);
        }
        self.unpublished |= events > 0;
        let every = if self.unpublished { PUBLISH_US } else { PUBLISH_IDLE_US };
        if self.now_us >= self.published_us + every {
            self.publish();
        }
    }

    fn publish(&mut self) {
        let bytes = self.traffic.bytes() + self.arrivals.bytes();
        self.traffic.relay.set_shell_bytes(bytes);
        let all = self.now_us >= self.published_all_us + PUBLISH_ALL_US;
        let stats = if all { self.traffic.relay.all_stats() } else { self.traffic.relay.stats() };
        self.page.publish(0, stats.usual());
        if all {
            self.published_all_us = self.now_us;
            stats.rarer().into_iter().for_each(|(at, words)| self.page.publish(at, words));
        }
        self.unpublished = false;
        self.published_us = self.now_us;
    }
}

/// A connection from a listener: a client at once or, where that listener's clients begin with a header or a handshake,
/// after that.
fn welcome(
    traffic: &mut Traffic,
    arrivals: &mut Arrivals,
    poller: &Poller,
    now_us: u64,
    (listener, stream, peer): (&str, Stream, String),
) {
    if arrivals.expects(listener) {
        arrivals.add(listener, stream, peer, now_us, poller);
    } else {
        traffic.open_client(stream, &peer, poller);
    }
}

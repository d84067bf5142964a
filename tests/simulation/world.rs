//! The world of one run: everything in it, what happens next, and the phases: weather, stillness, proof that all is
//! well again, and goodbye.

use crate::checkers::history::{History, SessionId, Step, show};
use crate::checkers::owners::{Owners, WorkerUid};
use crate::clients::{Client, Mood};
use crate::director::Director;
use crate::faults::Weather;
use crate::instance::{Instance, Peer};
use crate::network::Pipe;
use crate::rng::Rng;
use crate::topology::{self, Plan};
use crate::worker::Worker;
use proxy::relay::Planted;
use proxy::relay::limits::Settings;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What can be due. Each is due at most once, at the earliest time anyone asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Event {
    Worker(usize),
    Instance(usize),
    Client(usize),
    Director,
    Fault,
    Phase,
}

/// A mistake put into the world on purpose: the checkers must see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plant {
    /// Two replies of one link in the wrong order.
    SwapReplies,
    /// A reply that never comes.
    DropReply,
    /// A write executed again, as if retried.
    Retry,
    /// Two requests of one link executed in the wrong order.
    Reorder,
    /// A write answered, but not done.
    LoseWrite,
    /// A reply written to another client.
    CrossClients,
    /// A link that leads to another instance than was asked for.
    WrongInstance,
    /// The director does not wait until workers are quiet.
    HasteAfterHold,
    /// A worker says it is quiet as soon as it has read a topology.
    HastyWorker,
    /// After a short write the worker forgets to write the rest.
    ForgetRest,
    /// A client that went away is not reported to the relay.
    ForgetClient,
    /// The end of a client that is not read is not reported.
    ForgetHangUp,
    /// CLIENT KILL says it has killed, but has not.
    KillNothing,
    /// An instance pops an element for who has waited, and answers that there was none.
    LosePop,
    /// A message that is sent after the next one.
    SwapMessages,
    /// A mistake inside the relay.
    InRelay(Planted),
}

impl Plant {
    pub(crate) const ALL: [Self; 22] = [
        Self::SwapReplies,
        Self::DropReply,
        Self::Retry,
        Self::Reorder,
        Self::LoseWrite,
        Self::CrossClients,
        Self::WrongInstance,
        Self::HasteAfterHold,
        Self::HastyWorker,
        Self::ForgetRest,
        Self::ForgetClient,
        Self::ForgetHangUp,
        Self::KillNothing,
        Self::LosePop,
        Self::SwapMessages,
        Self::InRelay(Planted::InterruptionAnswers),
        Self::InRelay(Planted::KeepWaiting),
        Self::InRelay(Planted::KeepWatch),
        Self::InRelay(Planted::ForgetOrphans),
        Self::InRelay(Planted::ErrorsAtOnce),
        Self::InRelay(Planted::ReleaseBackwards),
        Self::InRelay(Planted::FetchNothing),
    ];
}

/// A connection of a client to a worker.
pub(crate) struct ClientConn {
    pub(crate) client: usize,
    pub(crate) worker: usize,
    pub(crate) up: Pipe,
    pub(crate) down: Pipe,
    /// The client's socket is closed.
    pub(crate) client_gone: bool,
    /// The worker's socket is closed.
    pub(crate) worker_gone: bool,
    /// The worker's shell closed it between two requests, to drain.
    pub(crate) drained: bool,
    pub(crate) end_told: bool,
    /// The same, for as long as the worker does not read.
    pub(crate) hang_up_told: bool,
    /// The client's machine has said that nobody takes what is sent: the worker sees it whether it reads or not.
    pub(crate) reset: bool,
}

/// How a connect comes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Opens,
    Refused,
    /// No answer, ever.
    Silent,
}

/// A connection of a worker to an instance.
pub(crate) struct LinkConn {
    pub(crate) worker: usize,
    pub(crate) instance: usize,
    pub(crate) fate: Fate,
    /// When `fate` is known; the connection is open from then on.
    pub(crate) at: u64,
    pub(crate) open: bool,
    pub(crate) up: Pipe,
    pub(crate) down: Pipe,
    /// The connection is broken: the worker will see it at its next turn, and what it writes meanwhile is lost.
    pub(crate) broken: bool,
    pub(crate) worker_gone: bool,
    pub(crate) instance_gone: bool,
    /// Lost, and what it had written arrives no earlier.
    pub(crate) late_until: u64,
    pub(crate) peer: Peer,
}

pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) rng: Rng,
    queue: BTreeSet<(u64, Event)>,
    due: BTreeMap<Event, u64>,
    pub(crate) history: History,
    pub(crate) owners: Owners,
    pub(crate) workers: Vec<Worker>,
    pub(crate) instances: Vec<Instance>,
    pub(crate) clients: Vec<Client>,
    pub(crate) conns: Vec<ClientConn>,
    pub(crate) links: Vec<LinkConn>,
    pub(crate) plan: Plan,
    pub(crate) director: Director,
    pub(crate) settings: Settings,
    pub(crate) weather: Weather,
    pub(crate) plant: Option<Plant>,
    phase: u32,
    /// The step at which everything had healed.
    healed: Step,
    next_session: SessionId,
    next_uid: WorkerUid,
    /// Messages that clients have heard who stayed to the end.
    messages: usize,
    /// Of everything that happened: two runs of one seed must agree.
    pub(crate) digest: u64,
    pub(crate) notes: Option<Notes>,
}

/// What a run came to.
pub(crate) struct Summary {
    pub(crate) replies: usize,
    /// Elements given to who asked for them, and messages heard by who listened to the end.
    pub(crate) pops: usize,
    pub(crate) messages: usize,
    pub(crate) writes: usize,
    pub(crate) links: usize,
    pub(crate) epochs: u64,
    pub(crate) digest: u64,
}

/// Times of the phases, in virtual microseconds: until when faults happen, when everything must have healed, when
/// the proof of it must be done, and when everybody must have been forgotten.
const STORM_US: u64 = 1_000_000;
const HEALED_US: u64 = STORM_US + 10_000_000;
const PROVEN_US: u64 = HEALED_US + 5_000_000;
const GONE_US: u64 = PROVEN_US + 4_000_000;
/// Replies that each client must get after all faults have ended.
const PROOF: usize = 25;
/// The last events of a run.
pub(crate) struct Notes {
    pub(crate) lines: VecDeque<String>,
    pub(crate) max: usize,
}

/// Keeps a line of the story, where one is wanted.
pub(crate) fn noted(notes: &mut Option<Notes>, now: u64, text: impl FnOnce() -> String) {
    let Some(notes) = notes else { return };
    if notes.lines.len() >= notes.max {
        notes.lines.pop_front();
    }
    notes.lines.push_back(format!("{now:>9} {}", text()));
}

impl World {
    pub(crate) fn new(seed: u64, plant: Option<Plant>, notes: Option<usize>) -> Result<Self, String> {
        let mut rng = Rng::new(seed);
        let weather = Weather::of(seed, &mut rng);
        let groups = 1 + rng.below(3);
        let settings = weather.settings(&mut rng);
        let instances = (0..groups * 2)
            .map(|index| Instance::new(index, index % 2 == 0, settings.instance_password.clone()))
            .collect::<Vec<_>>();
        let codis = rng.one_in(2);
        let clients = (0..2 + rng.below(5)).map(|_| Client::new(settings.client_password.clone())).collect();
        let mut world = Self {
            now: 1_000,
            rng,
            queue: BTreeSet::new(),
            due: BTreeMap::new(),
            history: History::default(),
            owners: Owners::default(),
            workers: Vec::new(),
            instances: instances.into_iter().map(|one| Instance { codis, ..one }).collect(),
            clients,
            conns: Vec::new(),
            links: Vec::new(),
            plan: Plan::new(groups),
            director: Director::default(),
            settings,
            weather,
            plant,
            phase: 0,
            healed: 0,
            next_session: 0,
            next_uid: 0,
            messages: 0,
            digest: 0,
            notes: notes.map(|max| Notes { lines: VecDeque::new(), max }),
        };
        world.begin()?;
        Ok(world)
    }

    fn begin(&mut self) -> Result<(), String> {
        for w in 0..1 + self.rng.below(3) {
            let worker = self.new_worker(w)?;
            self.workers.push(worker);
            self.wake(Event::Worker(w), 0);
        }
        for c in 0..self.clients.len() {
            self.clients[c].mood = if self.weather.calm { Mood::Calm } else { Mood::Stormy };
            let at = self.rng.range(0, 20_000);
            // In calm weather links come up before anybody asks: an error then would be true, and is no fault.
            self.wake(Event::Client(c), at + if self.weather.calm { 100_000 } else { 0 });
        }
        self.wake(Event::Director, 20_000);
        self.wake(Event::Fault, 10_000);
        self.wake(Event::Phase, STORM_US);
        Ok(())
    }

    pub(crate) fn new_uid(&mut self) -> WorkerUid {
        self.next_uid += 1;
        self.next_uid
    }

    pub(crate) fn new_session(&mut self) -> SessionId {
        self.next_session += 1;
        self.next_session
    }

    /// Makes something due `after` microseconds from now, or earlier if it already is.
    pub(crate) fn wake(&mut self, event: Event, after: u64) {
        let at = self.now + after;
        match self.due.get(&event) {
            Some(&due) if due <= at => return,
            Some(&due) => drop(self.queue.remove(&(due, event))),
            None => {}
        }
        self.due.insert(event, at);
        self.queue.insert((at, event));
    }

    /// The same, soon: after the time a packet or a wake-up takes.
    pub(crate) fn wake_soon(&mut self, event: Event) {
        let after = self.rng.range(5, 150);
        self.wake(event, after);
    }

    pub(crate) fn note(&mut self, text: impl FnOnce() -> String) {
        noted(&mut self.notes, self.now, text);
    }

    /// Runs to the end, or to the first fault.
    pub(crate) fn run(&mut self) -> Result<Summary, String> {
        while let Some((at, event)) = self.queue.pop_first() {
            self.due.remove(&event);
            self.now = at.max(self.now);
            let mixed = self.digest.rotate_left(7) ^ at ^ self.history.now() << 20;
            self.digest = mixed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            match event {
                Event::Worker(w) => self.worker_turn(w),
                Event::Instance(i) => self.instance_turn(i),
                Event::Client(c) => self.client_turn(c),
                Event::Director => self.director_turn(),
                Event::Fault => self.fault_turn(),
                Event::Phase => {
                    if self.phase_turn() {
                        break;
                    }
                }
            }
            if let Some(fault) = self.history.fault.take() {
                return Err(fault);
            }
        }
        Ok(Summary {
            replies: self.clients.iter().map(|client| client.answered).sum(),
            pops: self.history.pops.count(),
            messages: self.messages,
            writes: self.history.writes_applied(),
            links: self.links.len(),
            epochs: self.plan.epoch,
            digest: self.digest,
        })
    }

    /// Whether faults have ended.
    pub(crate) fn stormless(&self) -> bool {
        self.phase >= 1
    }

    /// Whether all faults have ended and everything must have healed.
    pub(crate) fn settled(&self) -> bool {
        self.phase >= 2
    }

    /// The next phase begins; true at the end.
    fn phase_turn(&mut self) -> bool {
        self.phase += 1;
        self.note(|| "---- next phase".to_owned());
        match self.phase {
            1 => {
                self.weather.end();
                self.heal();
                self.set_mood(Mood::Still);
                self.wake(Event::Phase, HEALED_US - STORM_US);
            }
            2 => {
                self.end_endless();
                self.check_healed();
                self.healed = self.history.now();
                self.set_mood(Mood::Calm);
                for client in &mut self.clients {
                    client.prove(PROOF);
                }
                self.wake(Event::Phase, PROVEN_US - HEALED_US);
            }
            3 => {
                self.check_proven();
                self.all_clients_leave();
                self.wake(Event::Phase, GONE_US - PROVEN_US);
            }
            _ => {
                self.check_gone();
                return true;
            }
        }
        false
    }

    fn set_mood(&mut self, mood: Mood) {
        for c in 0..self.clients.len() {
            self.clients[c].mood = mood;
            self.clients[c].reads_at = 0;
            self.wake_soon(Event::Client(c));
        }
    }

    /// Connections at instances on which somebody waits for an element.
    fn waiting(&self) -> impl Iterator<Item = &LinkConn> {
        self.links.iter().filter(|l| l.open && !l.instance_gone && l.peer.blocked.is_some())
    }

    /// Clients that wait without end may do so while there is nothing; they leave.
    fn end_endless(&mut self) {
        let clients = self.clients.iter().filter(|client| client.waits_for_ever().is_some()).count();
        let links = self.waiting().count();
        if links > clients {
            return self.history.fail(format!("bounds: {links} connections wait at instances for {clients} clients"));
        }
        for c in 0..self.clients.len() {
            let Some(keys) = self.clients[c].waits_for_ever().map(<[_]>::to_vec) else { continue };
            let there = |key: &[u8]| self.instances[self.plan.instance_of(topology::slot(key))].store.has(key);
            if let Some(key) = keys.iter().find(|key| there(key)) {
                return self.history.fail(format!("progress: client {c} waits for {}, which is there", show(key)));
            }
            self.client_leaves(c);
        }
    }

    fn check_healed(&mut self) {
        for (c, client) in self.clients.iter().enumerate() {
            if client.waits() {
                let (asked, first) = (client.asked.len(), client.asked.front());
                let what = format!(
                    "progress: client {c} still waits for {asked} replies, first {first:.300?}, {:?}",
                    client.ending
                );
                return self.history.fail(what);
            }
        }
        if !self.director.idle() {
            return self.history.fail(format!("progress: epoch {} was never quiet everywhere", self.plan.epoch));
        }
        if let Some(w) = self.workers.iter().position(|worker| worker.draining) {
            return self.history.fail(format!("progress: worker {w} still drains"));
        }
        for w in 0..self.workers.len() {
            if let Some(why) = self.workers[w].links_down() {
                return self.history.fail(format!("progress: worker {w}: {why}"));
            }
        }
    }

    fn check_proven(&mut self) {
        for (c, client) in self.clients.iter().enumerate() {
            if !client.proven() {
                let what = format!(
                    "progress: client {c} got no answer after all faults had ended; {} open",
                    client.asked.len()
                );
                return self.history.fail(what);
            }
            match client.heard_all(self.healed, &self.history) {
                Ok(count) => self.messages += count,
                Err(what) => return self.history.fail(what),
            }
        }
    }

    fn all_clients_leave(&mut self) {
        self.set_mood(Mood::Still);
        for c in 0..self.clients.len() {
            self.client_leaves(c);
        }
    }

    fn check_gone(&mut self) {
        if let Err(what) = self.history.settle() {
            return self.history.fail(what);
        }
        let told = |link: &LinkConn| format!("connection {} waits at i{} for nobody", link.peer.id, link.instance);
        let waiting = self.waiting().next().map(told);
        if let Some(what) = waiting {
            return self.history.fail(format!("bounds: {what}"));
        }
        for w in 0..self.workers.len() {
            if let Some(why) = self.workers[w].leftovers() {
                return self.history.fail(format!("bounds: worker {w}: {why}"));
            }
        }
    }
}

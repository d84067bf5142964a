//! The world of one run: three members, groups of a primary and a replica, three proxies whose clients append and read all
//! the time; what is due, in the order of time. First there are faults, then none any more, and everything must heal.

use crate::data::{Key, Ops};
use crate::instances::Instance;
use crate::lines::{Lines, SweepRun};
use crate::members::Node;
use crate::mover::Mover;
use crate::plant::Plant;
use crate::proxies::Proxy;
use crate::rng::Rng;
use crate::store::Store;
use crate::truth::Truth;
use cluster::instance::Addr;
use cluster::slot::Slot;
use configsvr::control::command::{Command, Request as Wish};
use configsvr::control::event::{Action, DeedId, Event, Order};
use configsvr::control::job::Audit;
use configsvr::control::layout::Token;
use configsvr::control::task::{Mode, TaskPhase};
use configsvr::store::{Fault, Op, Txn};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(crate) const MEMBERS: usize = 3;
pub(crate) const GROUPS: u32 = 3;
pub(crate) const PROXIES: usize = 3;
const CLIENTS_OF_PROXY: usize = 3;
const WALL: u64 = 1_700_000_000_000;
/// Everything heals within this.
const HEAL_MS: u64 = 120_000;

/// Something that happens at its time.
#[allow(clippy::large_enum_variant, reason = "nearly all of them are the large one")]
pub(crate) enum Due {
    Tell(usize, u64, u64, Event),
    Tick(usize),
    Look(usize),
    Watch(usize, u64),
    Store(Box<Sent>),
    Expire,
    Push(Push),
    Quiet(usize),
    Beat(usize),
    Order(Box<Errand>),
    Poll(usize, u64, usize, u64),
    Client(usize),
    Request(Box<Request>),
    Reply(Box<Request>),
    Failed(Box<Request>),
    Mover(u64),
    Line(u64),
    Sweep(Box<SweepRun>),
    Audit(usize, u64, DeedId, Box<Audit>),
    Replicate,
    Raft,
    Start(usize),
    StartProxy(usize),
    Weather,
    Rise(Addr, usize),
    Heal(String, String),
    Do(Deed),
    Person,
}

/// What a script or the weather does.
#[derive(Debug, Clone)]
pub(crate) enum Deed {
    Kill(Addr),
    /// Dead for so long, then with so many of its writes.
    Restart(Addr, u64, usize),
    Freeze(Addr, u64),
    Cut(String, String, u64),
    CrashMember(usize),
    PauseMember(usize, u64),
    CrashProxy(usize, u64),
    /// It says goodbye if nothing is in flight, and is away for so long.
    StopProxy(usize, u64),
    FreezeProxy(usize, u64),
    StoreAway(u64),
    /// All jobs of the mover end with an error.
    KillMovers,
    Ask(Command),
}

pub(crate) struct Sent {
    pub(crate) member: usize,
    pub(crate) life: u64,
    pub(crate) deed: DeedId,
    pub(crate) txn: Txn,
    pub(crate) honest: bool,
}

/// A topology on its way to a proxy.
#[derive(Debug, Clone)]
pub(crate) struct Push {
    pub(crate) proxy: usize,
    pub(crate) member: usize,
    pub(crate) life: u64,
    pub(crate) deed: DeedId,
    pub(crate) epoch: u64,
    pub(crate) message: Arc<str>,
    pub(crate) quiet: bool,
}

/// An order on its way: it connects, is confirmed, is carried out.
pub(crate) struct Errand {
    pub(crate) member: usize,
    pub(crate) life: u64,
    pub(crate) deed: DeedId,
    pub(crate) token: Token,
    pub(crate) to: Addr,
    pub(crate) order: Order,
    pub(crate) confirmed: bool,
    pub(crate) since: u64,
}

/// An append (`value`) or a read of a client, on its way through a proxy.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) id: u64,
    pub(crate) client: usize,
    pub(crate) proxy: usize,
    pub(crate) life: u64,
    pub(crate) addr: Addr,
    pub(crate) group: u32,
    /// Of the instance, when it was sent.
    pub(crate) process: String,
    pub(crate) key: Key,
    /// Where it may still be, and which process that was.
    pub(crate) from: Option<(Addr, String)>,
    pub(crate) value: Option<u64>,
    /// When the client wanted it.
    pub(crate) since: u64,
    /// What a read saw, and whether it saw the recorded primary.
    pub(crate) read: Option<(Vec<u64>, bool)>,
}

/// One thing at a time.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) proxy: usize,
    pub(crate) wish: Option<(Key, Option<u64>, u64)>,
    pub(crate) flight: Option<u64>,
}

/// What a run was worth.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) begun: usize,
    pub(crate) committed: usize,
    pub(crate) cancelled: usize,
    /// Migrations on access that are done, and keys that moved before they were used.
    pub(crate) on_access: usize,
    pub(crate) fetched: usize,
    pub(crate) fences: usize,
    pub(crate) acked: usize,
    pub(crate) forgiven: usize,
    pub(crate) actions: usize,
    pub(crate) ended: u64,
    pub(crate) digest: u64,
}

pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) now: u64,
    pub(crate) due: BTreeMap<(u64, u64), Due>,
    pub(crate) order: u64,
    pub(crate) store: Store,
    pub(crate) store_away_until: u64,
    pub(crate) truth: Truth,
    pub(crate) nodes: Vec<Node>,
    pub(crate) instances: BTreeMap<Addr, Instance>,
    pub(crate) ops: Ops,
    pub(crate) proxies: Vec<Proxy>,
    pub(crate) clients: Vec<Client>,
    /// Slots that clients use; there may be more.
    pub(crate) slots: Vec<Slot>,
    pub(crate) slot_count: u16,
    pub(crate) movers: BTreeMap<u64, Mover>,
    pub(crate) lines: Lines,
    /// The primaries, and the processes they are known to be, as they are recorded.
    pub(crate) primaries: BTreeMap<u32, Addr>,
    pub(crate) guards: BTreeMap<u32, (Addr, String)>,
    /// Heartbeats that wait for their answer: whose, in which life.
    pub(crate) beats: BTreeMap<u64, (usize, u64)>,
    /// Pairs that do not reach each other.
    pub(crate) cuts: BTreeSet<(String, String)>,
    pub(crate) token: Token,
    pub(crate) leader: Option<usize>,
    pub(crate) unled_since: Option<u64>,
    pub(crate) weather_until: u64,
    pub(crate) calm: bool,
    pub(crate) plant: Option<Plant>,
    pub(crate) writes: u64,
    pub(crate) fetched: usize,
    pub(crate) requests: u64,
    pub(crate) calls: u64,
    /// The leader dies after so many of its actions, counted from the first deed of a script.
    pub(crate) crash_after: Option<(usize, bool)>,
    pub(crate) counting: bool,
    pub(crate) actions: usize,
    pub(crate) notes: Option<Vec<String>>,
    pub(crate) fault: Option<String>,
    pub(crate) seed: u64,
}

impl World {
    pub(crate) fn new(seed: u64, plant: Option<Plant>, story: bool) -> Self {
        let mut instances = BTreeMap::new();
        for group in 1..=GROUPS {
            let primary = Instance::new(group, port(group, 0), None);
            let replica = Instance::new(group, port(group, 1), Some(primary.addr.clone()));
            instances.insert(replica.addr.clone(), replica);
            instances.insert(primary.addr.clone(), primary);
        }
        // Sometimes more slots move than one transaction can write.
        let of_group: u16 = if seed % 4 == 3 { 120 } else { 4 };
        let client = |n: usize| Client { proxy: n % PROXIES, wish: None, flight: None };
        let mut world = Self {
            rng: Rng::new(seed),
            now: 0,
            due: BTreeMap::new(),
            order: 0,
            store: Store::default(),
            store_away_until: 0,
            truth: Truth::default(),
            nodes: (0..MEMBERS).map(|n| Node::new(n, seed)).collect(),
            instances,
            ops: Ops::default(),
            proxies: (0..PROXIES).map(Proxy::new).collect(),
            clients: (0..PROXIES * CLIENTS_OF_PROXY).map(client).collect(),
            slots: (0..GROUPS as u16 * 4).map(|n| n * (of_group / 4)).collect(),
            slot_count: of_group * GROUPS as u16,
            movers: BTreeMap::new(),
            lines: Lines::default(),
            primaries: BTreeMap::new(),
            guards: BTreeMap::new(),
            beats: BTreeMap::new(),
            cuts: BTreeSet::new(),
            token: Token { term: 0, member: 0 },
            leader: None,
            unled_since: Some(0),
            weather_until: 0,
            calm: false,
            plant,
            writes: 0,
            fetched: 0,
            requests: 0,
            calls: 0,
            crash_after: None,
            counting: false,
            actions: 0,
            notes: story.then(Vec::new),
            fault: None,
            seed,
        };
        world.found(of_group);
        world.begin();
        world
    }

    fn begin(&mut self) {
        for n in 0..MEMBERS {
            self.after(1, Due::Watch(n, 0));
            self.after(10 + n as u64, Due::Tick(n));
            self.after(12 + 7 * n as u64, Due::Look(n));
        }
        for n in 0..PROXIES {
            self.after(50 + 30 * n as u64, Due::Beat(n));
        }
        for n in 0..self.clients.len() {
            self.after(100 + 5 * n as u64, Due::Client(n));
        }
        self.after(5, Due::Replicate);
        self.after(3, Due::Raft);
        self.after(200, Due::Expire);
    }

    /// The cluster is there.
    fn found(&mut self, of_group: u16) {
        let put = |key: String, value: String| Op::Put { key, value, lease: None };
        let count = self.slot_count;
        let mut ops = vec![
            put("settings".into(), format!(r#"{{"name":"s","slot_count":{count},"proxy_ttl_s":3}}"#)),
            put("epoch".into(), r#"{"epoch":1}"#.into()),
        ];
        for group in 1..=GROUPS {
            let at = |n| format!("127.0.0.1:{}", port(group, n));
            let (primary, replica) = (at(0), at(1));
            let value = format!(
                r#"{{"group_id":{group},"group_name":"g{group}","primary":"{primary}","replicas":["{replica}"]}}"#
            );
            ops.push(put(format!("group-instances/{group}"), value));
            for slot in 0..of_group {
                let id = (group as u16 - 1) * of_group + slot + 1;
                let value = format!(r#"{{"slot_id":{id},"group_id":{group}}}"#);
                ops.push(put(format!("slot-to-group-mapping/slot{id}"), value));
            }
        }
        _ = self.store.commit(&Txn { compares: Vec::new(), ops });
        self.committed();
    }

    pub(crate) fn after(&mut self, ms: u64, due: Due) {
        self.order += 1;
        self.due.insert((self.now + ms, self.order), due);
    }

    pub(crate) fn note(&mut self, text: impl FnOnce() -> String) {
        if let Some(notes) = &mut self.notes {
            notes.push(format!("{:>6} {}", self.now, text()));
        }
    }

    pub(crate) fn must(&mut self, checked: Result<(), String>) {
        if let (Err(why), None) = (checked, &self.fault) {
            self.fault = Some(format!("at {} ms: {why}", self.now));
        }
    }

    /// Runs until all is well after the faults; or says what is not.
    pub(crate) fn run(&mut self) -> Result<Summary, String> {
        let mut heal_by = None;
        while let Some(((at, _), due)) = self.due.pop_first() {
            self.now = at;
            self.happen(due);
            if let Some(fault) = self.fault.take() {
                return Err(fault);
            }
            if !self.calm && at > self.weather_until {
                self.calm = true;
                heal_by = Some(at + HEAL_MS);
                self.clear_up();
            }
            if let Some(by) = heal_by
                && (self.order.is_multiple_of(16) || at > by)
            {
                match self.is_well() {
                    Ok(()) => return self.end(),
                    Err(why) if at > by => return Err(format!("not well {HEAL_MS} ms after all faults ended: {why}")),
                    Err(_) => {}
                }
            }
        }
        Err("nothing is due any more".to_owned())
    }

    fn end(&mut self) -> Result<Summary, String> {
        self.audit()?;
        let tasks = self.truth.tasks.values();
        Ok(Summary {
            begun: tasks.clone().filter(|t| t.times.begun.is_some()).count(),
            committed: tasks.clone().filter(|t| t.times.committed.is_some()).count(),
            cancelled: tasks.clone().filter(|t| t.cancelled).count(),
            on_access: tasks.clone().filter(|t| t.mode == Mode::OnAccess && t.phase == TaskPhase::Done).count(),
            fetched: self.fetched,
            fences: tasks.map(|t| t.fences as usize).sum(),
            acked: self.truth.acked.len(),
            forgiven: self.truth.forgiven.len(),
            actions: self.actions,
            ended: self.now,
            digest: self.rng.next() ^ (self.store.revision() << 32) ^ self.now,
        })
    }

    fn happen(&mut self, due: Due) {
        match due {
            Due::Tell(n, life, order, event) => self.tell(n, life, order, event),
            Due::Tick(n) => {
                self.tell(n, self.nodes[n].life, 0, Event::Tick);
                self.after(50, Due::Tick(n));
            }
            Due::Look(n) => self.look(n),
            Due::Watch(n, life) => self.watch(n, life),
            Due::Store(sent) => self.arrive(*sent),
            Due::Expire => self.expire(),
            Due::Push(push) => self.push_arrives(push),
            Due::Quiet(proxy) => self.quiet(proxy),
            Due::Beat(proxy) => self.beat(proxy),
            Due::Order(errand) => self.errand(*errand),
            Due::Poll(from, life, to, asked) => self.poll(from, life, to, asked),
            Due::Client(n) => self.client(n),
            Due::Request(request) => self.request(*request),
            Due::Reply(request) => self.reply(*request, true),
            Due::Failed(request) => self.reply(*request, false),
            Due::Mover(id) => self.mover(id),
            Due::Line(id) => self.line_arrives(id),
            Due::Sweep(run) => self.sweep(*run),
            Due::Audit(member, life, deed, audit) => self.compare(member, life, deed, &audit),
            Due::Replicate => self.replicate(),
            Due::Raft => self.raft(),
            Due::Start(n) => self.start(n),
            Due::StartProxy(n) => self.start_proxy(n),
            Due::Weather => self.weather(),
            Due::Rise(addr, kept) => self.rise(&addr, kept),
            Due::Heal(a, b) => _ = self.cuts.remove(&(a, b)),
            Due::Do(deed) => self.perform(deed),
            Due::Person => self.person(),
        }
    }

    pub(crate) fn reaches(&self, a: &str, b: &str) -> bool {
        !self.cuts.contains(&(a.to_owned(), b.to_owned())) && !self.cuts.contains(&(b.to_owned(), a.to_owned()))
    }

    /// Here all cuts go both ways.
    pub(crate) fn arrives(&self, from: &str, to: &str) -> bool {
        self.reaches(from, to)
    }

    /// A member is told something; what it wants is carried out.
    pub(crate) fn tell(&mut self, n: usize, life: u64, order: u64, event: Event) {
        let node = &mut self.nodes[n];
        if node.life != life || node.control.is_none() {
            return;
        }
        if self.now < node.paused_until {
            if !matches!(event, Event::Tick | Event::Observed(_)) {
                let wait = node.paused_until - self.now;
                self.after(wait, Due::Tell(n, life, order, event));
            }
            return;
        }
        if !node.admits(order, &event) {
            return;
        }
        let now = self.now;
        if !matches!(
            event,
            Event::Tick | Event::Observed(_) | Event::Beat { .. } | Event::Polled { .. } | Event::KeptAlive { .. }
        ) {
            self.note(|| format!("m{n} < {}", short(&event)));
        }
        let Some(control) = &mut self.nodes[n].control else { return };
        let actions = control.step(now, WALL + now, event);
        for action in actions {
            let counts = self.counting && Some(n) == self.leader && is_step(&action);
            if counts {
                self.actions += 1;
                if self.crash_after == Some((self.actions, false)) {
                    return self.crash(n); // before it is done
                }
            }
            self.act(n, action);
            if counts && self.crash_after == Some((self.actions, true)) {
                return self.crash(n);
            }
        }
    }

    pub(crate) fn act(&mut self, n: usize, action: Action) {
        let life = self.nodes[n].life;
        if !matches!(action, Action::KeepAlive { .. } | Action::AnswerBeat { .. } | Action::Poll) {
            self.note(|| format!("m{n} > {}", short(&action)));
        }
        match action {
            Action::Write { deed, txn } => self.send(n, deed, txn),
            Action::Probe { .. } | Action::Follow { .. } | Action::Tell(_) | Action::Answer { .. } => {}
            Action::AnswerBeat { call, outcome } => match outcome {
                Ok(answer) => self.answered(n, call, &answer),
                Err(_) => _ = self.beats.remove(&call),
            },
            Action::Grant { deed, ttl } => {
                let outcome = match self.store_is_there() {
                    true => Ok(self.store.grant(self.now, ttl.as_millis() as u64)),
                    false => Err(Fault::Unavailable("away".to_owned())),
                };
                self.after(2, Due::Tell(n, life, 0, Event::Granted { deed, outcome }));
            }
            Action::KeepAlive { deed, lease } => {
                let outcome = match self.store_is_there() {
                    true if self.store.keep_alive(self.now, lease) => Ok(()),
                    true => Err(Fault::NoLease(lease)),
                    false => Err(Fault::Unavailable("away".to_owned())),
                };
                self.after(2, Due::Tell(n, life, 0, Event::KeptAlive { deed, outcome }));
            }
            Action::Push { deed, proxy, epoch, message, quiet, .. } => {
                let checked = self.truth.pushes(epoch);
                self.must(checked);
                let Some(at) = self.proxies.iter().position(|p| p.id == proxy) else { return };
                let delay = self.delay();
                self.after(delay, Due::Push(Push { proxy: at, member: n, life, deed, epoch, message, quiet }));
            }
            Action::Watch { all, close } => {
                let node = &mut self.nodes[n];
                node.watchers.retain(|addr, _| all.contains(addr));
                all.into_iter().for_each(|addr| _ = node.watchers.entry(addr).or_default());
                node.close = close.into_iter().collect();
            }
            Action::Poll => self.ask_all(n, life),
            Action::Order { deed, token, instance, order } => {
                let delay = self.delay();
                let since = self.now;
                let errand = Errand { member: n, life, deed, token, to: instance, order, confirmed: false, since };
                self.after(delay, Due::Order(Box::new(errand)));
            }
            Action::Move { job, goal } => self.told_to_move(n, job, goal),
            Action::Drop { task } => self.drop_job(n, &task),
            Action::Sweep { deed, sweep } => self.begin_sweep(n, deed, sweep),
            Action::Audit { deed, audit } => {
                let delay = self.rng.range(5, 300);
                self.after(delay, Due::Audit(n, life, deed, Box::new(audit)));
            }
        }
    }

    pub(crate) fn delay(&mut self) -> u64 {
        if self.rng.one_in(60) && !self.calm && self.weather_until > 0 && self.crash_after.is_none() {
            self.rng.range(50, 1_500)
        } else {
            self.rng.range(1, 5)
        }
    }

    /// Somebody wants something.
    pub(crate) fn ask(&mut self, command: Command) {
        let Some(leader) = self.leader else { return self.after(100, Due::Do(Deed::Ask(command))) };
        self.calls += 1;
        let request = Wish { who: "ops".to_owned(), command, idempotency_key: None, dry_run: false };
        let (call, life) = (self.calls, self.nodes[leader].life);
        self.tell(leader, life, 0, Event::Asked { call, request });
    }
}

/// Actions between which a leader may die.
fn is_step(action: &Action) -> bool {
    use Action::{Audit, Drop, Move, Order, Push, Sweep, Write};
    matches!(
        action,
        Write { .. } | Order { .. } | Push { .. } | Move { .. } | Drop { .. } | Audit { .. } | Sweep { .. }
    )
}

/// The port of a group's instance.
pub(crate) fn port(group: u32, n: u16) -> u16 {
    7000 + group as u16 * 10 + n
}

fn short(what: &impl std::fmt::Debug) -> String {
    format!("{what:?}").chars().take(500).collect()
}

//! The world of one run: three members, groups of three instances, two proxies that write all the time; what is due, in the
//! order of time. First there are faults, then none any more, and everything must heal.

use crate::instances::Instance;
use crate::members::{Node, api, name};
use crate::plant::{self, Plant};
use crate::proxies::Proxy;
use crate::rng::Rng;
use crate::store::Store;
use crate::truth::Truth;
use cluster::instance::Addr;
use configsvr::control::command::{Command, Request};
use configsvr::control::event::{Action, DeedId, Event, Leadership, Order};
use configsvr::control::layout::Token;
use configsvr::store::{Op, Txn};
use std::collections::{BTreeMap, BTreeSet};

pub(crate) const MEMBERS: usize = 3;
pub(crate) const GROUPS: u32 = 3;
const WALL: u64 = 1_700_000_000_000;
/// Everything heals within this.
const HEAL_MS: u64 = 60_000;

/// Something that happens at its time.
#[allow(clippy::large_enum_variant, reason = "nearly all of them are the large one")]
pub(crate) enum Due {
    Tell(usize, u64, u64, Event),
    Tick(usize),
    Look(usize),
    Watch(usize, u64),
    Store(Box<Sent>),
    Push(usize, String, bool, (usize, u64, DeedId)),
    Order(Box<Errand>),
    Poll(usize, u64, usize, u64),
    Beat(usize),
    Write(usize),
    Replicate,
    Raft,
    Start(usize),
    Weather,
    Rise(Addr, usize),
    Heal(String, String),
    Unmute(String, String),
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
    /// What the first says does not arrive at the second; what the second says arrives.
    Mute(String, String, u64),
    CrashMember(usize),
    PauseMember(usize, u64),
    Ask(Command),
}

pub(crate) struct Sent {
    pub(crate) member: usize,
    pub(crate) life: u64,
    pub(crate) deed: DeedId,
    pub(crate) txn: Txn,
    pub(crate) honest: bool,
}

/// An order on its way: it connects, is confirmed, is carried out.
pub(crate) struct Errand {
    pub(crate) member: usize,
    pub(crate) life: u64,
    pub(crate) deed: DeedId,
    pub(crate) token: Token,
    pub(crate) to: Addr,
    pub(crate) order: Order,
    pub(crate) stage: u8,
    /// Connections of this token that were killed when it connected.
    pub(crate) kills: u64,
    pub(crate) since: u64,
}

/// What a run was worth.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) decided: usize,
    pub(crate) committed: usize,
    pub(crate) acked: usize,
    pub(crate) forgiven: usize,
    /// Who was made primary last, and how long after the first doubt of all that was, in milliseconds.
    pub(crate) heir: Option<Addr>,
    pub(crate) took: u64,
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
    pub(crate) truth: Truth,
    pub(crate) nodes: Vec<Node>,
    pub(crate) instances: BTreeMap<Addr, Instance>,
    pub(crate) proxies: Vec<Proxy>,
    /// Pairs that do not reach each other.
    pub(crate) cuts: BTreeSet<(String, String)>,
    /// Who is not heard by whom, though it hears.
    pub(crate) mutes: BTreeSet<(String, String)>,
    /// When a cut between two, or what muted one, was last mended.
    pub(crate) mended: BTreeMap<(String, String), u64>,
    pub(crate) token: Token,
    pub(crate) leader: Option<usize>,
    pub(crate) unled_since: Option<u64>,
    /// Connections to instances that were killed by a later leader: how often, by instance.
    pub(crate) kills: BTreeMap<Addr, u64>,
    pub(crate) weather_until: u64,
    pub(crate) calm: bool,
    pub(crate) plant: Option<Plant>,
    pub(crate) writes: u64,
    pub(crate) calls: u64,
    /// The leader dies after so many of its actions, counted from the first fault of a script.
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
            for n in 1..3 {
                let replica = Instance::new(group, port(group, n), Some(primary.addr.clone()));
                instances.insert(replica.addr.clone(), replica);
            }
            instances.insert(primary.addr.clone(), primary);
        }
        let mut world = Self {
            rng: Rng::new(seed),
            now: 0,
            due: BTreeMap::new(),
            order: 0,
            store: Store::default(),
            truth: Truth::default(),
            nodes: (0..MEMBERS).map(|n| Node::new(n, seed)).collect(),
            instances,
            proxies: (0..2).map(Proxy::new).collect(),
            cuts: BTreeSet::new(),
            mutes: BTreeSet::new(),
            mended: BTreeMap::new(),
            token: Token { term: 0, member: 0 },
            leader: None,
            unled_since: Some(0),
            kills: BTreeMap::new(),
            weather_until: 0,
            calm: false,
            plant,
            writes: 0,
            calls: 0,
            crash_after: None,
            counting: false,
            actions: 0,
            notes: story.then(Vec::new),
            fault: None,
            seed,
        };
        world.found();
        for n in 0..MEMBERS {
            world.after(1, Due::Watch(n, 0));
            world.after(10 + n as u64, Due::Tick(n));
            world.after(12 + 7 * n as u64, Due::Look(n));
        }
        for n in 0..2 {
            world.after(50 + 30 * n as u64, Due::Beat(n));
            world.after(100 + 5 * n as u64, Due::Write(n));
        }
        world.after(5, Due::Replicate);
        world.after(3, Due::Raft);
        world
    }

    /// The cluster is there.
    fn found(&mut self) {
        let put = |key: String, value: String| Op::Put { key, value, lease: None };
        let mut ops = vec![
            put("settings".into(), r#"{"name":"s","slot_count":12,"proxy_ttl_s":5}"#.into()),
            put("epoch".into(), r#"{"epoch":1}"#.into()),
        ];
        for group in 1..=GROUPS {
            let at = |n| format!("127.0.0.1:{}", port(group, n));
            let value = format!(
                r#"{{"group_id":{group},"group_name":"g{group}","primary":"{}","replicas":["{}","{}"]}}"#,
                at(0),
                at(1),
                at(2)
            );
            ops.push(put(format!("group-instances/{group}"), value));
            for slot in 0..4 {
                let id = (group - 1) * 4 + slot + 1;
                ops.push(put(
                    format!("slot-to-group-mapping/slot{id}"),
                    format!(r#"{{"slot_id":{id},"group_id":{group}}}"#),
                ));
            }
        }
        _ = self.store.commit(&Txn { compares: Vec::new(), ops });
        self.committed();
        for instance in self.instances.values() {
            self.truth.branches(&instance.replid, &[]);
        }
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
        let primaries = self.primaries();
        for (write, group) in &self.truth.acked {
            let there =
                primaries.get(group).and_then(|p| self.instances.get(p)).is_some_and(|i| i.data.contains(write));
            if !there && !self.truth.forgiven.contains(write) {
                return Err(format!("LOST: write {write} of group {group} was acknowledged, and nothing excuses it"));
            }
        }
        let failovers = self.truth.failovers.values();
        let last = failovers.clone().rfind(|f| f.times.committed.is_some());
        let doubted = failovers.clone().map(|f| f.times.doubted).min().unwrap_or(0);
        Ok(Summary {
            decided: failovers.clone().count(),
            committed: failovers.filter(|f| f.times.committed.is_some()).count(),
            acked: self.truth.acked.len(),
            forgiven: self.truth.forgiven.len(),
            heir: last.and_then(|f| f.candidate.clone()),
            took: last.and_then(|f| f.times.committed).unwrap_or(doubted).saturating_sub(doubted),
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
            Due::Push(proxy, message, quiet, from) => self.push_arrives(proxy, &message, quiet, from),
            Due::Order(errand) => self.errand(*errand),
            Due::Poll(from, life, to, asked) => self.poll(from, life, to, asked),
            Due::Beat(proxy) => self.beat(proxy),
            Due::Write(proxy) => self.client_writes(proxy),
            Due::Replicate => self.replicate(),
            Due::Raft => self.raft(),
            Due::Start(n) => self.start(n),
            Due::Weather => self.weather(),
            Due::Rise(addr, kept) => self.rise(&addr, kept),
            Due::Heal(a, b) => {
                self.cuts.remove(&(a.clone(), b.clone()));
                self.mended.insert((a, b), self.now);
            }
            Due::Unmute(from, to) => {
                self.mutes.remove(&(from.clone(), to.clone()));
                self.mended.insert((from, to), self.now);
            }
            Due::Do(deed) => self.perform(deed),
            Due::Person => self.person(),
        }
    }

    /// Whether the two can speak with each other, and so open a connection.
    pub(crate) fn reaches(&self, a: &str, b: &str) -> bool {
        self.arrives(a, b) && self.arrives(b, a)
    }

    /// Whether what one says on a connection arrives at the other.
    pub(crate) fn arrives(&self, from: &str, to: &str) -> bool {
        let pair = (from.to_owned(), to.to_owned());
        !self.mutes.contains(&pair) && !self.cuts.contains(&pair) && !self.cuts.contains(&(pair.1, pair.0))
    }

    /// ... for so long without a break.
    pub(crate) fn reaches_for(&self, a: &str, b: &str, ms: u64) -> bool {
        let mended = |a: &str, b: &str| self.mended.get(&(a.to_owned(), b.to_owned())).copied().unwrap_or(0);
        self.reaches(a, b) && self.now >= mended(a, b).max(mended(b, a)) + ms
    }

    pub(crate) fn member_reaches(&self, n: usize, addr: &Addr) -> bool {
        self.reaches(&name(n), &addr.to_string())
    }

    pub(crate) fn perform(&mut self, deed: Deed) {
        self.note(|| format!("-- {deed:?}"));
        let now = self.now;
        match deed {
            Deed::Kill(addr) => {
                self.counting = true;
                self.instances.get_mut(&addr).into_iter().for_each(Instance::kill);
            }
            Deed::Restart(addr, down, kept) => {
                self.counting = true;
                let Some(instance) = self.instances.get_mut(&addr).filter(|i| i.alive) else { return };
                instance.kill();
                self.after(down, Due::Rise(addr, kept));
            }
            Deed::Freeze(addr, ms) => {
                self.counting = true;
                self.instances.get_mut(&addr).into_iter().for_each(|i| i.freeze(now, ms));
            }
            Deed::Cut(a, b, ms) => {
                self.counting = true;
                self.cuts.insert((a.clone(), b.clone()));
                self.after(ms, Due::Heal(a, b));
            }
            Deed::Mute(from, to, ms) => {
                self.counting = true;
                self.mutes.insert((from.clone(), to.clone()));
                self.after(ms, Due::Unmute(from, to));
            }
            Deed::CrashMember(n) => self.crash(n),
            Deed::PauseMember(n, ms) => self.nodes[n].paused_until = now + ms,
            Deed::Ask(command) => {
                self.counting = true;
                let Some(leader) = self.leader else { return self.after(100, Due::Do(Deed::Ask(command))) };
                self.calls += 1;
                let request = Request { who: "ops".to_owned(), command, idempotency_key: None, dry_run: false };
                let (call, life) = (self.calls, self.nodes[leader].life);
                self.tell(leader, life, 0, Event::Asked { call, request });
            }
        }
    }

    pub(crate) fn rise(&mut self, addr: &Addr, kept: usize) {
        let now = self.now;
        let Some(instance) = self.instances.get_mut(addr).filter(|i| !i.alive) else { return };
        instance.start(now, kept);
        let (replid, data) = (instance.replid.clone(), instance.data.clone());
        self.truth.branches(&replid, &data);
        self.note(|| format!("-- {addr} starts with {} writes", data.len()));
    }

    pub(crate) fn crash(&mut self, n: usize) {
        if self.nodes[n].control.is_none() {
            return;
        }
        self.note(|| format!("-- m{n} dies"));
        self.nodes[n].crash();
        if self.leader == Some(n) {
            (self.leader, self.unled_since) = (None, Some(self.now));
        }
        let back = self.rng.range(800, 4_000);
        self.after(back, Due::Start(n));
    }

    pub(crate) fn start(&mut self, n: usize) {
        if self.nodes[n].control.is_some() {
            return;
        }
        self.nodes[n].start(self.seed);
        self.watch_soon(n);
        if let Some(leader) = self.leader.filter(|leader| *leader != n) {
            let (life, order) = (self.nodes[n].life, self.order);
            let leadership = Leadership::Following(Some((name(leader), api(leader))));
            self.after(20, Due::Tell(n, life, order, Event::Leadership(leadership)));
        }
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
            Action::Probe { .. } | Action::Follow { .. } | Action::AnswerBeat { .. } | Action::Tell(_) => {}
            Action::Move { .. } | Action::Drop { .. } | Action::Sweep { .. } | Action::Audit { .. } => {}
            Action::Answer { outcome, .. } => _ = outcome,
            Action::Grant { deed, ttl } => {
                let outcome = Ok(self.store.grant(self.now, ttl.as_millis() as u64));
                self.after(2, Due::Tell(n, life, 0, Event::Granted { deed, outcome }));
            }
            Action::KeepAlive { deed, .. } => {
                self.after(2, Due::Tell(n, life, 0, Event::KeptAlive { deed, outcome: Ok(()) }));
            }
            Action::Push { deed, proxy, epoch, message, quiet, .. } => {
                let checked = self.truth.pushes(epoch, &message);
                self.must(checked);
                let Some(at) = self.proxies.iter().position(|p| p.id == proxy) else { return };
                let delay = self.delay();
                self.after(delay, Due::Push(at, message.to_string(), quiet, (n, life, deed)));
            }
            Action::Watch { all, close } => {
                let node = &mut self.nodes[n];
                node.watchers.retain(|addr, _| all.contains(addr));
                all.into_iter().for_each(|addr| _ = node.watchers.entry(addr).or_default());
                node.close = close.into_iter().collect();
            }
            Action::Poll => {
                for other in (0..MEMBERS)
                    .filter(|other| *other != n && self.reaches(&name(n), &name(*other)))
                    .collect::<Vec<_>>()
                {
                    let delay = self.rng.range(1, 4);
                    self.after(delay, Due::Poll(n, life, other, self.now));
                }
            }
            Action::Order { deed, token, instance, order } => {
                let delay = self.delay();
                let errand =
                    Errand { member: n, life, deed, token, to: instance, order, stage: 0, kills: 0, since: self.now };
                self.after(delay, Due::Order(Box::new(errand)));
            }
        }
    }

    pub(crate) fn delay(&mut self) -> u64 {
        if self.rng.one_in(60) && !self.calm && self.weather_until > 0 {
            self.rng.range(50, 1_500)
        } else {
            self.rng.range(1, 5)
        }
    }

    pub(crate) fn look(&mut self, n: usize) {
        self.after(50, Due::Look(n));
        if !self.nodes[n].works(self.now) {
            return;
        }
        let (now, same) = (self.now, self.plant == Some(Plant::SameRunId));
        let open: Vec<bool> = self.nodes[n].watchers.keys().map(|addr| self.member_reaches(n, addr)).collect();
        let histories: BTreeMap<u32, String> = (1..=GROUPS).map(|group| (group, self.history(group))).collect();
        let node = &mut self.nodes[n];
        let mut looks = Vec::new();
        for ((addr, watcher), open) in node.watchers.iter_mut().zip(open) {
            let Some(instance) = self.instances.get(addr) else { continue };
            let mut look = watcher.look(now, open, instance, node.close.contains(addr), same);
            plant::deceive(self.plant, &mut look, &histories[&instance.group]);
            looks.push((addr.clone(), look));
        }
        self.tell(n, self.nodes[n].life, 0, Event::Observed(looks));
    }

    pub(crate) fn poll(&mut self, from: usize, life: u64, to: usize, asked: u64) {
        let works = self.nodes[to].works(self.now);
        let ballot = self.nodes[to].control.as_ref().filter(|_| works).map(|c| c.ballot(self.now));
        let stale = self.plant == Some(Plant::StaleVotes);
        // The mistake: what was said stays true for long.
        let (delay, asked) = if stale { (2_500, self.now + 2_500) } else { (self.rng.range(1, 4), asked) };
        let event = Event::Polled { asked, voters: MEMBERS, member: to as u64 + 1, ballot };
        self.after(delay, Due::Tell(from, life, 0, event));
    }
}

/// Actions between which a leader may die.
fn is_step(action: &Action) -> bool {
    matches!(action, Action::Write { .. } | Action::Order { .. } | Action::Push { .. })
}

/// The port of a group's instance.
pub(crate) fn port(group: u32, n: u16) -> u16 {
    7000 + group as u16 * 10 + n
}

fn short(what: &impl std::fmt::Debug) -> String {
    format!("{what:?}").chars().take(500).collect()
}

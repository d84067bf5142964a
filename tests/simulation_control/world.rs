//! The world of one run: what is due, in the order of time; weather until the operators are content and some time is
//! over; then no more faults, and everything must heal.

use crate::members::{Node, api, name};
use crate::operator::{Fate, Operator};
use crate::plant::{self, Plant};
use crate::proxies::Proxy;
use crate::rng::Rng;
use crate::store::Store;
use crate::truth::{Author, Truth};
use cluster::instance::{Addr, Role};
use configsvr::control::command::{BeatAnswer, Refusal, Seen};
use configsvr::control::event::{Action, DeedId, Event, Leadership, PushFault};
use configsvr::control::layout::Token;
use configsvr::control::limits;
use configsvr::store::{Fault, Notice, Op, TXN_MAX, Txn, Verdict};
use std::collections::BTreeMap;

/// Weather lasts for so long at least, in milliseconds.
const WEATHER_MS: u64 = 12_000;
/// Then everything heals within this.
const HEAL_MS: u64 = 40_000;
pub(crate) const MEMBERS: usize = 3;
const WALL: u64 = 1_700_000_000_000;

/// Something that happens at its time.
#[allow(clippy::large_enum_variant, reason = "nearly all of them are the large one")]
pub(crate) enum Due {
    /// An event for a member's life; the order of raft's words.
    Tell(usize, u64, u64, Event),
    Tick(usize),
    Watch(usize, u64),
    /// A transaction arrives at the store.
    Store(Box<Sent>),
    /// A push arrives: at the proxy; the member, its life, the deed; None: a copy that nobody waits for.
    Push(usize, String, Option<(usize, u64, DeedId)>),
    Beat(usize),
    Start(usize),
    Wake(usize),
    Elect,
    Operator(usize),
    Weather,
    Repair(Op),
    /// A person sees the alarm and mends what is left.
    Mend,
    Leases,
}

pub(crate) struct Sent {
    member: usize,
    life: u64,
    deed: DeedId,
    txn: Txn,
    token: String,
    /// What the sender is told: the truth, or that nobody knows.
    honest: bool,
    /// A copy: nobody is told.
    silent: bool,
}

/// What a run was worth.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) changes: usize,
    pub(crate) refused: usize,
    pub(crate) revisions: u64,
    pub(crate) epoch: u64,
    pub(crate) pushes: usize,
    pub(crate) elections: u64,
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
    pub(crate) proxies: Vec<Proxy>,
    pub(crate) operators: Vec<Operator>,
    pub(crate) fates: BTreeMap<String, Fate>,
    /// Raft: the last token, and who leads.
    pub(crate) token: Token,
    pub(crate) leader: Option<usize>,
    pub(crate) calm: bool,
    pub(crate) plant: Option<Plant>,
    pub(crate) calls: u64,
    pub(crate) summary: Summary,
    /// The story, if it is wanted.
    pub(crate) notes: Option<Vec<String>>,
    pub(crate) fault: Option<String>,
    pub(crate) seed: u64,
}

impl World {
    pub(crate) fn new(seed: u64, plant: Option<Plant>, story: bool) -> Self {
        let mut rng = Rng::new(seed);
        let proxies = 2 + rng.below(4);
        let wishes = 6 + rng.below(10);
        let mut world = Self {
            rng,
            now: 0,
            due: BTreeMap::new(),
            order: 0,
            store: Store::default(),
            truth: Truth::default(),
            nodes: (0..MEMBERS).map(|n| Node::new(n, seed)).collect(),
            proxies: (0..proxies).map(Proxy::new).collect(),
            operators: (0..2).map(|n| Operator::new(n, wishes)).collect(),
            fates: BTreeMap::new(),
            token: Token { term: 0, member: 0 },
            leader: None,
            calm: false,
            plant,
            calls: 0,
            summary: Summary::default(),
            notes: story.then(Vec::new),
            fault: None,
            seed,
        };
        for n in 0..MEMBERS {
            world.after(1, Due::Watch(n, 0));
            world.tick_by(n, 10 + n as u64);
        }
        for n in 0..proxies {
            world.after(5 + n as u64, Due::Beat(n));
        }
        world.after(3, Due::Elect);
        world.after(20, Due::Operator(0));
        world.after(500, Due::Operator(1));
        world.after(100, Due::Weather);
        world.after(100, Due::Leases);
        world
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

    fn must(&mut self, checked: Result<(), String>) {
        if let (Err(why), None) = (checked, &self.fault) {
            self.fault = Some(format!("at {} ms: {why}", self.now));
        }
    }

    pub(crate) fn run(&mut self) -> Result<Summary, String> {
        let mut heal_by = None;
        while let Some(((at, _), due)) = self.due.pop_first() {
            self.now = at;
            self.happen(due);
            if let Some(fault) = self.fault.take() {
                return Err(fault);
            }
            if !self.calm && at > WEATHER_MS {
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
        for (who, fate) in &self.fates {
            let done = self.truth.done.get(who).cloned().unwrap_or_default();
            match fate {
                Fate::Done(epoch) if done != [*epoch] => {
                    return Err(format!("{who}: was accepted at epoch {epoch}, is in the log at {done:?}"));
                }
                Fate::Refused(code) if !done.is_empty() => {
                    return Err(format!("{who}: was refused ({code}), but was done at {done:?}"));
                }
                Fate::Done(_) => self.summary.changes += 1,
                Fate::Refused(_) => self.summary.refused += 1,
            }
        }
        self.summary.revisions = self.store.revision();
        self.summary.epoch = self.truth.epoch;
        self.summary.digest = self.rng.next() ^ self.store.revision() << 32 ^ self.now;
        Ok(self.summary.clone())
    }

    fn happen(&mut self, due: Due) {
        match due {
            Due::Tell(n, life, order, event) => self.tell(n, life, order, event),
            Due::Tick(n) => {
                let now = self.now;
                if self.nodes[n].tick_at != now {
                    return; // an earlier one took its place
                }
                self.nodes[n].tick_at = u64::MAX;
                self.tell(n, self.nodes[n].life, 0, Event::Tick);
                self.tick_by(n, now + 100);
            }
            Due::Watch(n, life) => self.watch(n, life),
            Due::Store(sent) => self.arrive(*sent),
            Due::Push(proxy, message, from) => self.push_arrives(proxy, &message, from),
            Due::Beat(proxy) => self.beat(proxy),
            Due::Start(n) => self.start(n),
            Due::Wake(proxy) => {
                self.proxies[proxy].alive = true;
                self.proxies[proxy].started_at = self.now;
                self.note(|| format!("p{proxy} starts"));
            }
            Due::Elect => self.elect(),
            Due::Operator(n) => self.operate(n),
            Due::Weather => self.weather(),
            Due::Repair(op) => self.edit(op),
            Due::Mend => self.truth.orphans().into_iter().for_each(|slot| {
                let value = format!("{{\"slot_id\":{slot},\"group_id\":0}}");
                self.edit(Op::Put { key: format!("slot-to-group-mapping/slot{slot}"), value, lease: None });
            }),
            Due::Leases => {
                if self.store.expire(self.now) {
                    self.committed(&Author::Expiry);
                }
                self.after(200, Due::Leases);
            }
        }
    }

    // ------------------------------------------------------------------------------------------------- members

    /// A member is told something; what it wants is carried out.
    pub(crate) fn tell(&mut self, n: usize, life: u64, order: u64, event: Event) {
        let node = &mut self.nodes[n];
        if node.life != life || node.control.is_none() || !node.admits(order, &event) {
            return;
        }
        let now = self.now;
        if !matches!(event, Event::Tick | Event::Committed(_) | Event::Beat { .. } | Event::KeptAlive { .. }) {
            self.note(|| format!("m{n} < {}", short(&event)));
        }
        let Some(control) = &mut self.nodes[n].control else { return };
        let actions = control.step(now, WALL + now, event);
        let waiting = control.waiting();
        let deadline = control.deadline();
        let epoch = control.epoch();
        if waiting > limits::QUEUE_MAX + 1 {
            self.must(Err(format!("m{n}: {waiting} changes wait")));
        }
        if epoch < self.nodes[n].epoch {
            self.must(Err(format!("m{n}: its epoch went back from {} to {epoch}", self.nodes[n].epoch)));
        }
        self.nodes[n].epoch = epoch;
        for action in actions {
            self.act(n, action);
        }
        if let Some(at) = deadline {
            self.tick_by(n, at);
        }
    }

    fn tick_by(&mut self, n: usize, at: u64) {
        let at = at.max(self.now + 1);
        if at < self.nodes[n].tick_at {
            self.nodes[n].tick_at = at;
            self.after(at - self.now, Due::Tick(n));
        }
    }

    fn act(&mut self, n: usize, action: Action) {
        let life = self.nodes[n].life;
        if !matches!(action, Action::KeepAlive { .. } | Action::AnswerBeat { .. }) {
            self.note(|| format!("m{n} > {}", short(&action)));
        }
        match action {
            Action::Answer { call, outcome } => {
                if !self.nodes[n].calls.remove(&call) {
                    return self.must(Err(format!("m{n}: call {call} answered twice, or never made")));
                }
                self.answer(call, outcome);
            }
            Action::AnswerBeat { outcome, .. } => self.beat_answered(outcome),
            Action::Write { deed, txn } => self.send(n, deed, txn),
            Action::Probe { deed, addrs } => {
                let seen = addrs.iter().map(|a| (a.clone(), self.probe(a))).collect();
                let delay = self.delay();
                self.after(delay, Due::Tell(n, life, 0, Event::Probed { deed, seen }));
            }
            Action::Follow { deed, .. } => {
                let fails = !self.calm && self.rng.one_in(12);
                let outcome = if fails { Err("connection reset".to_owned()) } else { Ok(()) };
                self.reply(n, Event::Followed { deed, outcome });
            }
            Action::Grant { deed, ttl } => {
                let outcome = match self.trouble(20) {
                    true => Err(Fault::Unavailable("no answer".to_owned())),
                    false => Ok(self.store.grant(self.now, ttl.as_millis() as u64)),
                };
                self.reply(n, Event::Granted { deed, outcome });
            }
            Action::KeepAlive { deed, lease } => {
                let outcome = match self.trouble(20) {
                    true => Err(Fault::Unavailable("no answer".to_owned())),
                    false if self.store.keep_alive(self.now, lease) => Ok(()),
                    false => Err(Fault::NoLease(lease)),
                };
                self.reply(n, Event::KeptAlive { deed, outcome });
            }
            Action::Push { deed, proxy, epoch, message, .. } => {
                let checked = self.truth.pushes(epoch, &message);
                self.must(checked);
                self.push(n, deed, &proxy, &message);
            }
            // Nobody looks at instances here: see simulation_failover.
            Action::Watch { .. } | Action::Poll | Action::Order { .. } | Action::Tell(_) => {}
            Action::Move { .. } | Action::Drop { .. } | Action::Sweep { .. } | Action::Audit { .. } => {}
        }
    }

    /// An answer finds its way back: late, or twice.
    fn reply(&mut self, n: usize, event: Event) {
        let life = self.nodes[n].life;
        let delay = self.delay();
        if self.trouble(25) {
            self.after(delay + 40, Due::Tell(n, life, 0, event.clone()));
        }
        self.after(delay, Due::Tell(n, life, 0, event));
    }

    /// Whether something goes wrong now: once in `n`, never when it is calm.
    pub(crate) fn trouble(&mut self, n: u64) -> bool {
        self.rng.one_in(n) && !self.calm
    }

    fn delay(&mut self) -> u64 {
        if self.trouble(40) { self.rng.range(100, 2_500) } else { self.rng.range(1, 8) }
    }

    fn probe(&mut self, addr: &Addr) -> Result<Seen, String> {
        if self.trouble(15) {
            return Err("connection refused".to_owned());
        }
        Ok(Seen {
            addr: addr.clone(),
            run_id: format!("run of {addr}"),
            version: "7.0.15".to_owned(),
            server: "redis".to_owned(),
            cluster_mode: false,
            role: Role::Primary,
            follows: None,
            keys: u64::from(self.rng.one_in(30)),
            other_databases: 0,
            loading: false,
        })
    }

    // --------------------------------------------------------------------------------------------------- store

    fn send(&mut self, member: usize, deed: DeedId, mut txn: Txn) {
        if txn.ops.len() > TXN_MAX || txn.compares.len() > TXN_MAX {
            return self.must(Err(format!("m{member}: a transaction of {} operations", txn.ops.len())));
        }
        plant::spoil(self.plant, &mut txn);
        if self.plant == Some(Plant::Optimist) {
            let notice = plant::foretold(&txn, self.store.revision() + 1);
            let life = self.nodes[member].life;
            self.after(0, Due::Tell(member, life, 0, Event::Committed(notice)));
        }
        let token = self.nodes[member].token.map(|t| t.to_string()).unwrap_or_default();
        let life = self.nodes[member].life;
        let delay = self.delay();
        let mut sent = Sent { member, life, deed, txn, token, honest: true, silent: false };
        if self.plant == Some(Plant::LoseWrite) && self.rng.one_in(10) {
            let outcome = Ok(Verdict::Done(self.store.revision()));
            return self.after(delay, Due::Tell(member, life, 0, Event::Wrote { deed, outcome }));
        }
        match if self.calm { 99 } else { self.rng.below(40) } {
            // Certainly not done.
            0 => self.wrote(&sent, Err(Fault::Unavailable("connection refused".to_owned()))),
            // Not done, but who knows.
            1 => self.wrote(&sent, Err(Fault::Unknown("connection reset".to_owned()))),
            // Done, but nobody says so.
            2 => {
                sent.honest = false;
                self.after(delay, Due::Store(Box::new(sent)));
            }
            // Nobody knows, and then it is done after all.
            3 => {
                self.wrote(&sent, Err(Fault::Unknown("timed out".to_owned())));
                sent.silent = true;
                let late = self.rng.range(200, 6_000);
                self.after(late, Due::Store(Box::new(sent)));
            }
            // Two copies arrive.
            4 => {
                let copy = Sent { txn: sent.txn.clone(), token: sent.token.clone(), silent: true, ..sent };
                let early = self.rng.range(0, delay);
                self.after(early, Due::Store(Box::new(copy)));
                self.after(delay, Due::Store(Box::new(sent)));
            }
            // No answer ever.
            5 if self.rng.one_in(4) => {
                sent.silent = true;
                self.after(delay, Due::Store(Box::new(sent)));
            }
            _ => self.after(delay, Due::Store(Box::new(sent))),
        }
    }

    fn wrote(&mut self, sent: &Sent, outcome: Result<Verdict, Fault>) {
        let (deed, delay) = (sent.deed, self.delay());
        let event = Event::Wrote { deed, outcome };
        if self.trouble(25) {
            self.after(delay + 60, Due::Tell(sent.member, sent.life, 0, event.clone()));
        }
        self.after(delay, Due::Tell(sent.member, sent.life, 0, event));
    }

    fn arrive(&mut self, sent: Sent) {
        let author = Author::Leader(sent.token.clone());
        let parts = plant::parts(self.plant, &sent.txn);
        let mut outcome = None;
        for part in &parts {
            outcome = self.store.commit(part);
            if let Some(Verdict::Done(revision)) = outcome {
                self.note(|| format!("store: revision {revision} by m{}", sent.member));
                self.committed(&author);
            }
        }
        if sent.silent {
            return;
        }
        let outcome = match outcome {
            Some(_) if !sent.honest => Err(Fault::Unknown("no answer".to_owned())),
            Some(verdict) => Ok(verdict),
            None => Err(Fault::NoLease(0)),
        };
        self.wrote(&sent, outcome);
    }

    /// The last revision is checked, and told to everyone.
    fn committed(&mut self, author: &Author) {
        let Some(commit) = self.store.log.last() else { return };
        let checked = self.truth.take(commit, author);
        self.must(checked);
        for n in 0..MEMBERS {
            self.watch_soon(n);
        }
    }

    pub(crate) fn edit(&mut self, op: Op) {
        self.note(|| format!("a hand: {op:?}"));
        let before = self.store.revision();
        _ = self.store.commit(&Txn { compares: Vec::new(), ops: vec![op] });
        if self.store.revision() > before {
            self.committed(&Author::Hand);
        }
    }

    fn watch_soon(&mut self, n: usize) {
        if self.nodes[n].watching || self.nodes[n].control.is_none() {
            return;
        }
        self.nodes[n].watching = true;
        let (life, lag) = (self.nodes[n].life, self.nodes[n].lag);
        let delay = self.rng.range(1, 6) + self.rng.range(0, lag);
        self.after(delay, Due::Watch(n, life));
    }

    fn watch(&mut self, n: usize, life: u64) {
        if self.nodes[n].life != life || self.nodes[n].control.is_none() {
            return;
        }
        self.nodes[n].watching = false;
        if !self.nodes[n].listed {
            self.nodes[n].listed = true;
            self.nodes[n].shown = self.store.log.len();
            let listed = Notice::Listed(self.store.snapshot());
            return self.tell(n, life, 0, Event::Committed(listed));
        }
        let some = if self.rng.one_in(2) { usize::MAX } else { 1 + self.rng.below(3) };
        let to = self.store.log.len().min(self.nodes[n].shown.saturating_add(some));
        for at in self.nodes[n].shown..to {
            let commit = self.store.log[at].clone();
            self.nodes[n].shown = at + 1;
            if self.plant == Some(Plant::SkipNotice) && self.rng.one_in(20) {
                continue;
            }
            let notice = Notice::Changed { revision: commit.revision, changes: commit.changes };
            self.tell(n, life, 0, Event::Committed(notice));
        }
        if to < self.store.log.len() {
            self.watch_soon(n);
        }
    }

    pub(crate) fn lose_watch(&mut self, n: usize) {
        if self.nodes[n].control.is_none() || !self.nodes[n].listed {
            return;
        }
        let life = self.nodes[n].life;
        let notice = self.nodes[n].notices_lost();
        self.tell(n, life, 0, Event::Committed(notice));
        self.nodes[n].watching = true;
        let back = self.rng.range(10, 1_500);
        self.after(back, Due::Watch(n, life));
    }

    // -------------------------------------------------------------------------------------------------- leaders

    /// Raft elects somebody who lives; the old leader may hear of it late.
    pub(crate) fn elect(&mut self) {
        let alive: Vec<usize> = (0..MEMBERS).filter(|n| self.nodes[*n].control.is_some()).collect();
        if alive.len() * 2 <= MEMBERS {
            return self.after(300, Due::Elect);
        }
        let n = *self.rng.pick(&alive);
        let member = n as u64 + 1;
        // openraft allows two leaders in one term.
        let same_term = member > self.token.member && self.token.term > 0 && self.rng.one_in(3);
        self.token = Token { term: self.token.term + u64::from(!same_term), member };
        self.leader = Some(n);
        self.summary.elections += 1;
        let token = self.token;
        self.note(|| format!("raft: m{n} leads with {token}"));
        for other in alive {
            let leads = other == n;
            let slow = if leads || self.calm { 30 } else { 3_000 };
            let delay = if self.rng.one_in(2) { 1 } else { self.rng.range(1, slow) };
            let leadership =
                if leads { Leadership::Leading(token) } else { Leadership::Following(Some((name(n), api(n)))) };
            let life = self.nodes[other].life;
            let order = self.summary.elections;
            self.after(delay, Due::Tell(other, life, order, Event::Leadership(leadership)));
        }
    }

    pub(crate) fn crash(&mut self, n: usize) {
        if self.nodes[n].control.is_none() {
            return;
        }
        self.note(|| format!("m{n} dies"));
        self.nodes[n].crash();
        let calls = std::mem::take(&mut self.nodes[n].calls);
        for operator in self.operators.iter_mut().filter(|o| o.call.is_some_and(|(call, _)| calls.contains(&call))) {
            operator.unanswered();
        }
        if self.leader == Some(n) {
            self.leader = None;
            let after = self.rng.range(200, 1_500);
            self.after(after, Due::Elect);
        }
        let back = self.rng.range(100, 3_000);
        self.after(back, Due::Start(n));
    }

    fn start(&mut self, n: usize) {
        if self.nodes[n].control.is_some() {
            return;
        }
        self.note(|| format!("m{n} starts"));
        self.nodes[n].start(self.seed);
        self.watch_soon(n);
        if let Some(leader) = self.leader.filter(|leader| *leader != n) {
            let (life, order) = (self.nodes[n].life, self.summary.elections);
            let leadership = Leadership::Following(Some((name(leader), api(leader))));
            self.after(20, Due::Tell(n, life, order, Event::Leadership(leadership)));
        }
    }

    // -------------------------------------------------------------------------------------------------- proxies

    fn push(&mut self, n: usize, deed: DeedId, proxy: &str, message: &str) {
        self.summary.pushes += 1;
        let Some(at) = self.proxies.iter().position(|p| p.id == proxy) else {
            return self.must(Err(format!("m{n}: a push to {proxy}, which there is not")));
        };
        let life = self.nodes[n].life;
        let delay = self.delay();
        if self.trouble(12) {
            let late = self.rng.range(10, 4_000);
            self.after(late, Due::Push(at, message.to_owned(), None));
        }
        if self.trouble(10) {
            let outcome = Err(PushFault::Unreachable("no answer".to_owned()));
            return self.after(delay + 50, Due::Tell(n, life, 0, Event::Pushed { deed, outcome }));
        }
        self.after(delay, Due::Push(at, message.to_owned(), Some((n, life, deed))));
    }

    fn push_arrives(&mut self, at: usize, message: &str, from: Option<(usize, u64, DeedId)>) {
        let outcome = match self.proxies[at].alive {
            false => Err(PushFault::Unreachable("connection refused".to_owned())),
            true => match self.proxies[at].take(message) {
                Ok(outcome) => outcome,
                Err(why) => return self.must(Err(why)),
            },
        };
        let Some((n, life, deed)) = from else { return };
        if self.trouble(15) {
            return; // the answer is lost
        }
        let delay = self.delay();
        self.after(delay, Due::Tell(n, life, 0, Event::Pushed { deed, outcome }));
    }

    fn beat(&mut self, at: usize) {
        self.after(1_000, Due::Beat(at));
        if !self.proxies[at].alive || self.trouble(10) {
            return;
        }
        let astray = self.trouble(8);
        let n = match self.leader {
            Some(leader) if !astray => leader,
            _ => self.rng.below(MEMBERS),
        };
        let beat = self.proxies[at].beat();
        self.calls += 1;
        let (call, life, delay) = (self.calls, self.nodes[n].life, self.delay());
        self.after(delay, Due::Tell(n, life, 0, Event::Beat { call, beat }));
    }

    fn beat_answered(&mut self, outcome: Result<BeatAnswer, Refusal>) {
        if let Ok(answer) = outcome
            && answer.epoch > self.truth.epoch
        {
            self.must(Err(format!("a heartbeat was answered with epoch {}", answer.epoch)));
        }
    }

    pub(crate) fn kill_proxy(&mut self) {
        let at = self.rng.below(self.proxies.len());
        if self.proxies[at].alive {
            self.note(|| format!("p{at} dies"));
            self.proxies[at].alive = false;
            let back = self.rng.range(100, 9_000);
            self.after(back, Due::Wake(at));
        }
    }

    // ------------------------------------------------------------------------------------------------ operators

    fn operate(&mut self, n: usize) {
        let pause = if self.calm { 50 } else { self.rng.range(20, 900) };
        self.after(pause, Due::Operator(n));
        let proxies = self.proxies.len();
        let Some(request) = self.operators[n].wish(&mut self.rng, &self.truth, proxies) else { return };
        let member = match self.leader {
            Some(leader) if !self.rng.one_in(6) => leader,
            _ => self.rng.below(MEMBERS),
        };
        if self.nodes[member].control.is_none() {
            return;
        }
        self.calls += 1;
        let call = self.calls;
        self.operators[n].call = Some((call, member));
        self.nodes[member].calls.insert(call);
        let life = self.nodes[member].life;
        self.tell(member, life, 0, Event::Asked { call, request });
    }

    fn answer(&mut self, call: u64, outcome: Result<configsvr::control::command::Answer, Refusal>) {
        let Some(n) = self.operators.iter().position(|o| o.call.is_some_and(|(c, _)| c == call)) else { return };
        let who = self.operators[n].who();
        match self.operators[n].hears(outcome, &self.truth) {
            Ok(None) => {}
            Ok(Some(fate)) => {
                if !self.operators[n].was_dry() {
                    self.fates.insert(who, fate);
                }
            }
            Err(why) => self.must(Err(why)),
        }
    }
}

fn short(what: &impl std::fmt::Debug) -> String {
    format!("{what:?}").chars().take(600).collect()
}

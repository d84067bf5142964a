//! Connections of the mover and of sweeps to instances that they change. What was sent on one arrives in its order, also
//! when who sent it is dead or deposed by then, unless the connection was killed.

use crate::data::{Key, Op};
use crate::members::name;
use crate::plant::Plant;
use crate::world::{Due, World};
use cluster::instance::Addr;
use cluster::slot::Slot;
use configsvr::control::event::{DeedId, Event};
use configsvr::control::job::{Audit, Findings, Sweep};
use configsvr::control::layout::Token;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// One connection.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) task: String,
    pub(crate) token: Token,
    /// 0: a sweep's.
    pub(crate) attempt: u64,
    pub(crate) at: Addr,
    process: String,
    /// Killed, closed by the other side, or turned away.
    pub(crate) broken: bool,
    pub(crate) queue: VecDeque<Cargo>,
    last: u64,
}

/// What is sent on a connection.
#[derive(Debug, Clone)]
pub(crate) enum Cargo {
    Op(Op),
    /// MIGRATE of a key to there.
    Move(Key, Addr),
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    pub(crate) open: BTreeMap<u64, Line>,
    next: u64,
}

impl Lines {
    /// The instance closes all connections.
    pub(crate) fn cut_all(&mut self, at: &Addr) {
        self.open.values_mut().filter(|l| l.at == *at).for_each(|l| l.broken = true);
    }
}

/// A sweep under way.
#[derive(Debug, Clone)]
pub(crate) struct SweepRun {
    member: usize,
    life: u64,
    deed: DeedId,
    sweep: Sweep,
    line: Option<u64>,
    confirmed: bool,
    /// What is still to be sent.
    left: Vec<Slot>,
}

impl World {
    /// A connection; those it replaces are killed: of earlier leaders and attempts, and for a sweep all of the task's own.
    pub(crate) fn connect(&mut self, task: &str, token: Token, attempt: u64, at: &Addr) -> Option<u64> {
        let instance = self.instances.get(at).filter(|i| i.answers(self.now))?;
        if self.plant != Some(Plant::NoKill) {
            let older = |l: &&mut Line| {
                l.at == *at
                    && l.task == task
                    && ((l.token, l.attempt) < (token, attempt) || (attempt == 0 && l.token <= token))
            };
            self.lines.open.values_mut().filter(older).for_each(|l| l.broken = true);
        }
        self.lines.next += 1;
        let (id, task, process) = (self.lines.next, task.to_owned(), instance.run_id.clone());
        let line =
            Line { task, token, attempt, at: at.clone(), process, broken: false, queue: VecDeque::new(), last: 0 };
        self.lines.open.insert(id, line);
        Some(id)
    }

    /// Sends something; it arrives after what was sent before.
    pub(crate) fn send_on(&mut self, id: u64, op: Op) {
        self.ship(id, Cargo::Op(op));
    }

    pub(crate) fn ship(&mut self, id: u64, cargo: Cargo) {
        let slow = self.rng.one_in(150) && !self.calm && self.weather_until > 0 && self.crash_after.is_none();
        let delay = if slow { self.rng.range(50, 900) } else { self.rng.range(1, 3) };
        let Some(line) = self.lines.open.get_mut(&id) else { return };
        line.last = line.last.max(self.now + delay);
        line.queue.push_back(cargo);
        let wait = line.last - self.now;
        self.after(wait, Due::Line(id));
    }

    /// What was sent next arrives.
    pub(crate) fn line_arrives(&mut self, id: u64) {
        let now = self.now;
        let Some(line) = self.lines.open.get_mut(&id) else { return };
        let Some(instance) = self.instances.get_mut(&line.at) else { return };
        if line.broken || !instance.alive || instance.run_id != line.process || instance.follows.is_some() {
            line.broken = true;
            return line.queue.clear();
        }
        let waits = instance.frozen_until.max(instance.paused_until);
        if now < waits {
            line.last = line.last.max(waits);
            return self.after(waits - now, Due::Line(id));
        }
        let Some(cargo) = line.queue.pop_front() else { return };
        let (at, group, task, attempt) = (line.at.clone(), instance.group, line.task.clone(), line.attempt);
        let op = match cargo {
            Cargo::Op(op) => op,
            // What becomes of it is seen when both sides are looked at again.
            Cargo::Move(key, to) => {
                _ = self.fetch(key, &at, &to, true);
                return;
            }
        };
        instance.data.push(self.ops.add(op.clone()));
        let recorded = self.primaries.get(&group) == Some(&at);
        let checked = self.truth.changes(&op, group, recorded, &task, attempt);
        self.must(checked);
    }

    pub(crate) fn begin_sweep(&mut self, member: usize, deed: DeedId, sweep: Sweep) {
        let checked = self.truth.may_sweep(
            &sweep,
            &self.proxies.iter().filter(|p| p.up && p.serves).map(|p| (p.id.clone(), p.epoch())).collect::<Vec<_>>(),
        );
        self.must(checked);
        let left = sweep.slots.to_vec();
        let run = SweepRun { member, life: self.nodes[member].life, deed, sweep, line: None, confirmed: false, left };
        let delay = self.delay();
        self.after(delay, Due::Sweep(Box::new(run)));
    }

    /// A step of a sweep: it connects, a majority confirms, the keys go in pieces.
    pub(crate) fn sweep(&mut self, mut run: SweepRun) {
        if self.nodes[run.member].life != run.life {
            return; // what it sent arrives
        }
        if self.now < self.nodes[run.member].paused_until {
            let wait = self.nodes[run.member].paused_until - self.now;
            return self.after(wait, Due::Sweep(Box::new(run)));
        }
        let alive = self.instances.get(&run.sweep.at).is_some_and(|i| i.alive);
        if !alive || !self.reaches(&name(run.member), &run.sweep.at.to_string()) {
            return self.swept(&run, Err("connection refused".to_owned()));
        }
        let Some(id) = run.line else {
            run.line = self.connect(&run.sweep.task, run.sweep.token, 0, &run.sweep.at.clone());
            return self.after(3, Due::Sweep(Box::new(run)));
        };
        if !run.confirmed {
            if !self.leads(run.member, run.sweep.token) {
                return self.swept(&run, Err("this member no longer leads".to_owned()));
            }
            run.confirmed = true;
        }
        let (broken, waits) = self.lines.open.get(&id).map_or((true, false), |l| (l.broken, !l.queue.is_empty()));
        if broken {
            return self.swept(&run, Err("the connection was closed".to_owned()));
        }
        if run.sweep.count_only {
            let there =
                self.instances.get(&run.sweep.at).map(|i| self.ops.fold(&i.data, |s| run.sweep.slots.contains(&s)));
            return self.swept(&run, Ok(there.map_or(0, |space| space.len() as u64)));
        }
        if !waits && run.left.is_empty() {
            return self.swept(&run, Ok(0));
        }
        if !waits {
            let half = run.left.split_off(run.left.len() / 2);
            self.send_on(id, Op::Wipe(half.into()));
        }
        let pause = self.rng.range(3, 20);
        self.after(pause, Due::Sweep(Box::new(run)));
    }

    fn swept(&mut self, run: &SweepRun, outcome: Result<u64, String>) {
        let (deed, delay) = (run.deed, self.delay());
        self.after(delay, Due::Tell(run.member, run.life, 0, Event::Swept { deed, outcome }));
    }

    /// Both sides are compared: the target's lists begin as the source's do, and clients append.
    pub(crate) fn compare(&mut self, member: usize, life: u64, deed: DeedId, audit: &Audit) {
        let side = |addr: &Addr| {
            let open = self.reaches(&name(member), &addr.to_string());
            let instance = self.instances.get(addr).filter(|i| open && i.answers(self.now))?;
            Some(self.ops.fold(&instance.data, |slot| audit.slots.contains(&slot)))
        };
        let outcome = match (side(&audit.source.primary), side(&audit.target.primary)) {
            (Some(source), Some(target)) => {
                let mut found = Findings { compared: source.len() as u64, told_apart: true, ..Findings::default() };
                for (key, list) in &source {
                    match target.get(key) {
                        Some(other) if other == list => found.equal += 1,
                        Some(other) if other.starts_with(list) => found.changed += 1,
                        Some(_) => found.different += 1,
                        None => found.missing += 1,
                    }
                }
                Ok(found)
            }
            _ => Err("connection refused".to_owned()),
        };
        let delay = self.delay();
        self.after(delay, Due::Tell(member, life, 0, Event::Audited { deed, outcome }));
    }

    /// All keys of these slots, in one piece.
    pub(crate) fn purge(&mut self, line: u64, slots: &Arc<[Slot]>) {
        self.send_on(line, Op::Wipe(Arc::clone(slots)));
    }
}

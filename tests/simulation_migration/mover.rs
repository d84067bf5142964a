//! The mover as its contract has it (`control::job`): it kills who came before, has a majority confirm, purges, copies key by
//! key while the stream goes on, follows, and says that it is drained only when the target has everything up to the source's
//! offset, read after it was told to drain. From then on it changes nothing until it is told another goal.

use crate::data::{Key, Op};
use crate::instances::Instance;
use crate::members::name;
use crate::plant::Plant;
use crate::world::{Due, World};
use cluster::instance::Addr;
use configsvr::control::event::Event;
use configsvr::control::job::{Goal, Job, Stage, Status, Work};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// How often it says where it stands, and how much of the stream it takes at once.
const REPORT_MS: u64 = 100;
const CHUNK: usize = 24;
/// How long the target's replicas may take.
const WAIT_MS: u64 = 200;

/// One job.
#[derive(Debug)]
pub(crate) struct Mover {
    pub(crate) member: usize,
    pub(crate) life: u64,
    pub(crate) job: Arc<Job>,
    pub(crate) goal: Goal,
    pub(crate) stage: Stage,
    /// To the target.
    pub(crate) line: Option<u64>,
    /// To the source, where slots move on access.
    pub(crate) other: Option<u64>,
    /// Looks at the source that met nothing, one after the other, and until when the next one waits.
    pub(crate) empty: u32,
    pub(crate) looks_at: u64,
    /// Where the stream comes from, which process that was, and its history.
    source: Option<(Addr, String, String)>,
    pub(crate) confirmed: bool,
    pos: usize,
    pub(crate) todo: VecDeque<Key>,
    /// Up to where of the stream a key's payload was.
    marks: BTreeMap<Key, usize>,
    /// The source's offset, read for this fence.
    fence: Option<(u64, usize)>,
    waits_since: Option<u64>,
    said: Option<(Stage, u64)>,
    applied: u64,
    pub(crate) copied: u64,
    /// It ends with an error at its next step.
    pub(crate) dies: bool,
}

/// Whether it is told the one that runs something, or to begin another one.
fn same(a: &Job, b: &Job) -> bool {
    (&a.task, a.token, a.attempt) == (&b.task, b.token, b.attempt)
}

impl World {
    pub(crate) fn told_to_move(&mut self, member: usize, job: Arc<Job>, goal: Goal) {
        let mine = |m: &Mover| m.member == member && m.life == self.nodes[member].life && m.job.task == job.task;
        if let Some(mover) = self.movers.values_mut().find(|m| mine(m) && same(&m.job, &job)) {
            (mover.goal, mover.job) = (goal, job);
            return;
        }
        self.movers.retain(|_, m| !mine(m));
        let mover = Mover {
            member,
            life: self.nodes[member].life,
            job,
            goal,
            stage: Stage::Purging,
            line: None,
            other: None,
            empty: 0,
            looks_at: 0,
            source: None,
            confirmed: false,
            pos: 0,
            todo: VecDeque::new(),
            marks: BTreeMap::new(),
            fence: None,
            waits_since: None,
            said: None,
            applied: 0,
            copied: 0,
            dies: false,
        };
        self.requests += 1;
        let id = self.requests;
        self.movers.insert(id, mover);
        let delay = self.delay();
        self.after(delay, Due::Mover(id));
    }

    pub(crate) fn drop_job(&mut self, member: usize, task: &str) {
        self.movers.retain(|_, m| m.member != member || m.job.task != task);
    }

    /// A step. A job whose process stands still goes on with it: by then somebody else may lead.
    pub(crate) fn mover(&mut self, id: u64) {
        let Some(mut mover) = self.movers.remove(&id) else { return };
        let node = &self.nodes[mover.member];
        if node.life != mover.life {
            return; // it died with its leader; what it sent arrives
        }
        if self.now < node.paused_until {
            let wait = node.paused_until - self.now;
            self.movers.insert(id, mover);
            return self.after(wait, Due::Mover(id));
        }
        if !matches!(mover.stage, Stage::Failed { .. } | Stage::Hopeless { .. }) {
            let told = match mover.job.work {
                _ if mover.dies => Err("it was killed".to_owned()),
                Work::Copy => self.move_on(&mut mover),
                Work::Prepare => self.make_ready(&mut mover),
                Work::Fetch => self.fetch_on(&mut mover),
            };
            if let Err(why) = told {
                mover.stage = Stage::Failed { why };
            }
        }
        self.say(&mut mover);
        self.movers.insert(id, mover);
        let pause =
            if self.rng.one_in(200) && !self.calm && self.weather_until > 0 { 700 } else { self.rng.range(2, 12) };
        self.after(pause, Due::Mover(id));
    }

    fn say(&mut self, mover: &mut Mover) {
        let same = mover.said.as_ref().is_some_and(|(stage, at)| *stage == mover.stage && self.now < at + REPORT_MS);
        if same {
            return;
        }
        mover.said = Some((mover.stage.clone(), self.now));
        let ahead = self.instances.get(&mover.job.source.primary).map_or(0, |i| i.data.len());
        let status = Status {
            stage: mover.stage.clone(),
            scanned: 0,
            to_scan: 0,
            copied: mover.copied,
            bytes: 0,
            applied: mover.applied,
            dirty: mover.todo.len() as u64,
            lag: ahead.saturating_sub(mover.pos) as u64,
        };
        let event = Event::Moved { task: mover.job.task.clone(), attempt: mover.job.attempt, status };
        let delay = self.delay();
        self.after(delay, Due::Tell(mover.member, mover.life, 0, event));
    }

    /// An error: the job is over.
    fn move_on(&mut self, mover: &mut Mover) -> Result<(), String> {
        let target = mover.job.target.primary.clone();
        let there = self.instances.get(&target).is_some_and(|i| i.alive && i.follows.is_none());
        if !there || !self.reaches(&name(mover.member), &target.to_string()) {
            return Err(format!("the target {target} is not there"));
        }
        let Some(line) = mover.line else {
            mover.line = self.connect(&mover.job.task, mover.job.token, mover.job.attempt, &target);
            return Ok(());
        };
        if !mover.confirmed {
            if !self.leads(mover.member, mover.job.token) {
                return Err("this member no longer leads".to_owned());
            }
            mover.confirmed = true;
            self.purge(line, &mover.job.slots);
            return Ok(());
        }
        let open = self.lines.open.get(&line).filter(|l| !l.broken).ok_or("the connection to the target was closed")?;
        let waits = open.queue.len();
        if mover.source.is_none() {
            return if waits == 0 { self.attach(mover) } else { Ok(()) };
        }
        self.source_is_the_same(mover)?;
        let drained = matches!(mover.stage, Stage::Drained { .. });
        if drained && self.plant != Some(Plant::GoesOn) {
            if matches!((mover.goal, &mover.stage), (Goal::Drain { fence }, Stage::Drained { fence: of, .. }) if fence == *of)
            {
                return Ok(());
            }
            mover.stage = Stage::Tailing;
        }
        if waits > 64 {
            return Ok(());
        }
        if mover.goal != Goal::Pause {
            self.copy_some(mover, line);
        }
        self.follow(mover, line);
        if !drained {
            self.drain(mover, line, &target);
        }
        Ok(())
    }

    /// A replica of the source, or its primary. What is there to be copied is known from then on.
    fn attach(&mut self, mover: &mut Mover) -> Result<(), String> {
        let source = &mover.job.source;
        let works = |addr: &&Addr| {
            let there =
                self.instances.get(addr).is_some_and(|i| i.answers(self.now) && (i.follows.is_none() || i.link_up));
            there && self.reaches(&name(mover.member), &addr.to_string())
        };
        let at = source.replicas.iter().find(works).or(Some(&source.primary).filter(works));
        let at = at.ok_or("no instance of the source can be reached")?;
        let instance = &self.instances[at];
        mover.pos = instance.data.len();
        let space = self.ops.fold(&instance.data, |slot| mover.job.slots.contains(&slot));
        mover.todo = space.into_keys().collect();
        mover.source = Some((at.clone(), instance.run_id.clone(), instance.replid.clone()));
        mover.stage = Stage::Copying;
        Ok(())
    }

    fn stream<'a>(&'a self, mover: &Mover) -> Option<&'a Instance> {
        self.instances.get(&mover.source.as_ref()?.0)
    }

    fn source_is_the_same(&self, mover: &Mover) -> Result<(), String> {
        let (Some(at), Some((addr, process, history))) = (self.stream(mover), &mover.source) else { return Ok(()) };
        let same = at.alive && at.run_id == *process && at.replid == *history && at.data.len() >= mover.pos;
        if !same || !self.reaches(&name(mover.member), &addr.to_string()) {
            return Err(format!("the stream of {addr} broke off"));
        }
        Ok(())
    }

    /// A few keys, as they are now.
    fn copy_some(&mut self, mover: &mut Mover, line: u64) {
        let Some(at) = self.stream(mover).filter(|at| at.answers(self.now)) else { return };
        let history = at.data.clone();
        for _ in 0..2 {
            let Some(key) = mover.todo.pop_front() else { break };
            let list = self.ops.fold(&history, |slot| slot == key.slot).remove(&key);
            mover.marks.insert(key, history.len());
            mover.copied += 1;
            if let Some(list) = list {
                self.send_on(line, Op::Put(key, list));
            }
        }
        if mover.todo.is_empty() && mover.stage == Stage::Copying {
            mover.stage = Stage::Tailing;
        }
    }

    /// A part of the stream: what touches these slots, and is not in a payload already.
    fn follow(&mut self, mover: &mut Mover, line: u64) {
        let Some(at) = self.stream(mover).filter(|at| at.answers(self.now)) else { return };
        let some: Vec<u64> = at.data[mover.pos..].iter().take(CHUNK).copied().collect();
        for id in some {
            let op = self.ops.get(id).clone();
            let index = mover.pos;
            mover.pos += 1;
            let new = |key: &Key| !mover.todo.contains(key) && mover.marks.get(key).is_none_or(|mark| index >= *mark);
            let send = match &op {
                Op::Append(key, _) | Op::Put(key, _) | Op::Take(key) => mover.job.slots.contains(&key.slot) && new(key),
                Op::Wipe(slots) => slots.iter().any(|slot| mover.job.slots.contains(slot)),
            };
            if send {
                mover.applied += 1;
                let op = match op {
                    Op::Wipe(slots) => Op::Wipe(
                        slots.iter().filter(|s| mover.job.slots.contains(s)).copied().collect::<Vec<_>>().into(),
                    ),
                    other => other,
                };
                self.send_on(line, op);
            }
        }
    }

    fn drain(&mut self, mover: &mut Mover, line: u64, target: &Addr) {
        let Goal::Drain { fence } = mover.goal else {
            (mover.fence, mover.waits_since) = (None, None);
            return;
        };
        if self.plant == Some(Plant::EarlyDrained) && mover.stage == Stage::Tailing {
            mover.stage = Stage::Drained { fence, offset: 0, replicas: 1, mark: None };
            return;
        }
        let primary = self.instances.get(&mover.job.source.primary).filter(|i| i.answers(self.now));
        let open = self.reaches(&name(mover.member), &mover.job.source.primary.to_string());
        let same = |i: &&Instance| mover.source.as_ref().is_some_and(|(_, _, history)| i.replid == *history);
        if mover.fence.is_none_or(|(of, _)| of != fence) {
            let Some(primary) = primary.filter(same).filter(|_| open) else { return };
            // What was read before the goal came says nothing.
            let upto = if self.plant == Some(Plant::OldOffset) { mover.pos } else { primary.data.len() };
            (mover.fence, mover.waits_since) = (Some((fence, upto)), None);
            return;
        }
        let upto = mover.fence.map_or(0, |(_, upto)| upto);
        let settled = self.lines.open.get(&line).is_some_and(|l| l.queue.is_empty());
        if mover.pos < upto || !mover.todo.is_empty() || !settled || mover.stage != Stage::Tailing {
            return;
        }
        let since = *mover.waits_since.get_or_insert(self.now);
        let Some(leads) = self.instances.get(target) else { return };
        let has = |addr: &&Addr| {
            self.instances
                .get(addr)
                .is_some_and(|r| r.link_up && r.replid == leads.replid && r.data.len() >= leads.data.len())
        };
        let replicas = mover.job.target.replicas.iter().filter(has).count();
        if replicas == mover.job.target.replicas.len() || self.now > since + WAIT_MS {
            let replicas = if self.plant == Some(Plant::NoReplicas) { 1 } else { replicas };
            mover.stage = Stage::Drained { fence, offset: upto as u64, replicas, mark: None };
        }
    }
}

//! Slots that move on access: a key goes from one instance to another in one step, or comes to the target and is not taken
//! away at the source, as when an answer is lost; what the target has wins. And the mover's part of it: it makes the target
//! ready, later it brings what nobody uses, and says when nothing is left.

use crate::data::{Key, Op};
use crate::lines::Cargo;
use crate::members::name;
use crate::mover::Mover;
use crate::plant::Plant;
use crate::world::World;
use cluster::instance::Addr;
use configsvr::control::job::{Goal, Stage};

/// Keys that are asked for at once.
const BATCH: usize = 3;
/// Between two looks at the source.
const LOOK_MS: u64 = 20;

impl World {
    /// A key comes to where it is wanted. `by_mover`: nobody waits for it.
    pub(crate) fn fetch(&mut self, key: Key, from: &Addr, to: &Addr, by_mover: bool) -> Result<(), String> {
        let open = self.reaches(&from.to_string(), &to.to_string());
        let ready = |addr: &Addr| {
            self.instances
                .get(addr)
                .is_some_and(|i| i.answers(self.now) && i.follows.is_none() && self.now >= i.paused_until)
        };
        if !open || !ready(from) || !ready(to) {
            return Err("IOERR".to_owned());
        }
        let there = |addr: &Addr| self.ops.fold(&self.instances[addr].data, |slot| slot == key.slot).remove(&key);
        let Some(list) = there(from) else { return Ok(()) };
        let has = there(to).is_some() && self.plant != Some(Plant::Replaces);
        if has && by_mover {
            return Ok(()); // BUSYKEY
        }
        let group = self.instances[to].group;
        let (recorded, process) = (self.primaries.get(&group) == Some(to), &self.instances[to].run_id);
        let recorded = recorded && self.guards.get(&group).is_none_or(|(_, known)| known == process);
        if !has {
            if !recorded {
                self.truth.strays(&list); // whoever takes over there never hears of it
            }
            let put = self.ops.add(Op::Put(key, list));
            self.instances.get_mut(to).into_iter().for_each(|i| i.data.push(put));
        }
        // The answer is lost, sometimes.
        if self.calm || self.weather_until == 0 || !self.rng.one_in(10) {
            let take = self.ops.add(Op::Take(key));
            self.instances.get_mut(from).into_iter().for_each(|i| i.data.push(take));
        }
        Ok(())
    }

    fn is_there(&self, mover: &Mover, addr: &Addr) -> Result<(), String> {
        let there = self.instances.get(addr).is_some_and(|i| i.alive && i.follows.is_none());
        match there && self.reaches(&name(mover.member), &addr.to_string()) {
            true => Ok(()),
            false => Err(format!("{addr} is not there")),
        }
    }

    /// Connected to where it is, confirmed, and nothing under way. An error: it is over.
    fn settled(&mut self, mover: &mut Mover, both: bool) -> Result<bool, String> {
        let (source, target) = (mover.job.source.primary.clone(), mover.job.target.primary.clone());
        self.is_there(mover, &source)?;
        self.is_there(mover, &target)?;
        let (task, token, attempt) = (mover.job.task.clone(), mover.job.token, mover.job.attempt);
        if mover.line.is_none() {
            mover.line = self.connect(&task, token, attempt, &target);
            return Ok(false);
        }
        if both && mover.other.is_none() {
            mover.other = self.connect(&task, token, attempt, &source);
            return Ok(false);
        }
        if !mover.confirmed && !self.leads(mover.member, token) {
            return Err("this member no longer leads".to_owned());
        }
        let first = !mover.confirmed;
        mover.confirmed = true;
        let mut quiet = !first;
        for id in [mover.line, mover.other].into_iter().flatten() {
            let line = self.lines.open.get(&id).filter(|l| !l.broken).ok_or("a connection was closed")?;
            quiet &= line.queue.is_empty();
        }
        Ok(quiet)
    }

    /// A replica of the target has all that the target has.
    fn is_followed(&self, mover: &Mover) -> bool {
        let Some(leads) = self.instances.get(&mover.job.target.primary) else { return false };
        let has = |addr: &Addr| {
            let replica = self.instances.get(addr);
            replica.is_some_and(|r| r.link_up && r.replid == leads.replid && r.data.len() >= leads.data.len())
        };
        mover.job.target.replicas.is_empty() || mover.job.target.replicas.iter().any(has)
    }

    pub(crate) fn make_ready(&mut self, mover: &mut Mover) -> Result<(), String> {
        if !self.settled(mover, false)? {
            return Ok(());
        }
        match (mover.line, mover.empty) {
            (Some(line), 0) => {
                mover.empty = 1;
                self.purge(line, &mover.job.slots.clone());
            }
            _ if self.is_followed(mover) => mover.stage = Stage::Tailing,
            _ => {}
        }
        Ok(())
    }

    pub(crate) fn fetch_on(&mut self, mover: &mut Mover) -> Result<(), String> {
        if mover.stage == Stage::Purging {
            mover.stage = Stage::Fetching;
        }
        let quiet = self.settled(mover, true)?;
        let early = self.plant == Some(Plant::EmptyEarly) && mover.confirmed;
        if early {
            mover.stage = Stage::Emptied;
        }
        if !quiet || mover.goal == Goal::Pause || mover.stage == Stage::Emptied || self.now < mover.looks_at {
            return Ok(());
        }
        let (source, target) = (mover.job.source.primary.clone(), mover.job.target.primary.clone());
        let both = [&source, &target].map(|addr| self.instances.get(addr).filter(|i| i.answers(self.now)));
        let [Some(from), Some(to)] = both else { return Ok(()) };
        let left = self.ops.fold(&from.data, |slot| mover.job.slots.contains(&slot));
        let has = self.ops.fold(&to.data, |slot| mover.job.slots.contains(&slot));
        let followed = self.is_followed(mover);
        if left.is_empty() {
            mover.empty += u32::from(mover.empty < 2 || followed);
            mover.looks_at = self.now + LOOK_MS;
            if mover.empty > 2 {
                mover.stage = Stage::Emptied;
                let id = mover.job.task.parse().unwrap_or(0);
                self.truth.whole.insert(id, self.now);
            }
            return Ok(());
        }
        mover.empty = 0;
        let Some(line) = mover.other else { return Ok(()) };
        for key in left.keys().take(BATCH) {
            // What is removed at the source must be at a replica of the target.
            match has.contains_key(key) && self.plant != Some(Plant::Replaces) {
                true if followed => self.send_on(line, Op::Take(*key)),
                true => {}
                false => {
                    mover.copied += 1;
                    self.ship(line, Cargo::Move(*key, target.clone()));
                }
            }
        }
        Ok(())
    }
}

//! The end of all faults, and what must be well then.

use crate::data::Space;
use crate::world::{Deed, Due, GROUPS, MEMBERS, PROXIES, World};
use cluster::instance::Addr;
use configsvr::control::command::{Command, Steering};
use configsvr::control::layout::Failover;
use std::collections::BTreeMap;

/// If it is not well by then, a person looks at it.
const PERSON_MS: u64 = 20_000;

impl World {
    pub(crate) fn clear_up(&mut self) {
        self.note(|| "-- the weather is over".to_owned());
        self.cuts.clear();
        self.store_away_until = self.now;
        for n in 0..MEMBERS {
            self.nodes[n].paused_until = self.nodes[n].paused_until.min(self.now);
            self.after(1, Due::Start(n));
        }
        for n in 0..PROXIES {
            self.proxies[n].frozen_until = self.proxies[n].frozen_until.min(self.now);
            self.after(1, Due::StartProxy(n));
        }
        let now = self.now;
        let dead: Vec<Addr> = self.instances.values().filter(|i| !i.alive).map(|i| i.addr.clone()).collect();
        for instance in self.instances.values_mut().filter(|i| i.frozen_until > now) {
            (instance.frozen_until, instance.well_since) = (now, now);
        }
        for addr in dead {
            self.after(3_000, Due::Rise(addr, usize::MAX));
        }
    }

    /// A person: wants things while there is weather, and decides afterwards what no machine may.
    pub(crate) fn person(&mut self) {
        if !self.calm {
            let next = self.rng.range(200, 2_500);
            self.after(next, Due::Person);
            return self.wish();
        }
        self.after(3_000, Due::Person);
        let paused: Vec<u64> =
            self.truth.tasks.values().filter(|t| t.paused && !t.phase.is_over()).map(|t| t.id).collect();
        for id in paused {
            let steering = Steering { paused: Some(false), ..Steering::default() };
            self.perform(Deed::Ask(Command::SteerMigration { id, steering }));
        }
        if self.now < self.weather_until + PERSON_MS {
            return;
        }
        for (group, primary) in self.primaries.clone() {
            let well = self.group_is_well(group, &primary).is_ok();
            let members = self.instances.values().filter(|i| i.group == group && i.alive);
            let best = members.filter(|i| i.addr != primary).max_by_key(|i| i.data.len()).map(|i| i.addr.clone());
            if !well && best.is_some() {
                self.perform(Deed::Ask(Command::Failover { group, to: best }));
            }
        }
    }

    fn group_is_well(&self, group: u32, primary: &Addr) -> Result<(), String> {
        let Some(leads) = self.instances.get(primary) else { return Err(format!("{primary} is nobody")) };
        if !leads.answers(self.now) || leads.follows.is_some() || self.now < leads.paused_until {
            return Err(format!("group {group}: {primary} is no primary that works"));
        }
        if self.guards.get(&group) != Some(&(primary.clone(), leads.run_id.clone())) {
            return Err(format!(
                "group {group}: {} is not what is recorded: {:?}",
                leads.run_id,
                self.guards.get(&group)
            ));
        }
        for replica in self.instances.values().filter(|i| i.group == group && i.addr != *primary) {
            if !replica.link_up || replica.follows.as_ref() != Some(primary) || replica.replid != leads.replid {
                return Err(format!("group {group}: {} does not follow {primary}", replica.addr));
            }
        }
        Ok(())
    }

    pub(crate) fn is_well(&self) -> Result<(), String> {
        if let Some(task) = self.truth.tasks.values().find(|t| !t.phase.is_over()) {
            return Err(format!("a migration is not over: {task:?}"));
        }
        for (group, primary) in &self.primaries {
            self.group_is_well(*group, primary)?;
        }
        let failovers = self.store.entries.range("failovers/".to_owned().."failovers0".to_owned());
        for (id, entry) in failovers {
            if serde_json::from_str::<Failover>(&entry.value).is_ok_and(|f| !f.phase.is_over()) {
                return Err(format!("{id} is not over"));
            }
        }
        for proxy in &self.proxies {
            if proxy.epoch() != self.truth.epoch || proxy.holds() || !proxy.serves {
                return Err(format!("{} serves {}, not {}", proxy.id, proxy.epoch(), self.truth.epoch));
            }
        }
        if self.nodes.iter().any(|n| n.control.is_none()) {
            return Err("a member is down".to_owned());
        }
        Ok(())
    }

    /// All is over: what is there?
    pub(crate) fn audit(&self) -> Result<(), String> {
        let mut spaces: BTreeMap<u32, Space> = BTreeMap::new();
        for group in 1..=GROUPS {
            let Some(primary) = self.primaries.get(&group).and_then(|p| self.instances.get(p)) else { continue };
            spaces.insert(group, self.ops.fold(&primary.data, |_| true));
        }
        self.truth.is_complete(&spaces)?;
        for (group, space) in &spaces {
            // A failover to a replica that had not heard of the removal brings keys back; the next migration removes them.
            let shaken =
                self.instances.values().filter(|i| i.group == *group).filter_map(|i| self.truth.shaken.get(&i.addr));
            let shaken = shaken.chain(self.truth.turned.get(group)).max().copied();
            let astray = space.keys().find(|key| {
                let begun = self.truth.cleared.get(&(*group, key.slot)).copied();
                self.truth.owners[usize::from(key.slot)] != *group
                    && shaken.is_none_or(|at| begun.is_some_and(|b| at < b))
            });
            if let Some(key) = astray {
                return Err(format!("ASTRAY: {key:?} is left at group {group}"));
            }
        }
        Ok(())
    }
}

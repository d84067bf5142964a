//! The end of all faults, and what must be well then.

use crate::instances::Instance;
use crate::plant::Plant;
use crate::world::{Deed, Due, GROUPS, MEMBERS, World};
use cluster::instance::{Addr, Role};
use configsvr::control::command::Command;
use std::collections::BTreeMap;

/// If it is not well by then, a person looks at it.
const PERSON_MS: u64 = 20_000;

impl World {
    pub(crate) fn clear_up(&mut self) {
        self.note(|| "-- the weather is over".to_owned());
        let now = self.now;
        self.mended.extend(std::mem::take(&mut self.cuts).into_iter().map(|pair| (pair, now)));
        self.mended.extend(std::mem::take(&mut self.mutes).into_iter().map(|pair| (pair, now)));
        for n in 0..MEMBERS {
            self.nodes[n].paused_until = self.nodes[n].paused_until.min(self.now);
            self.after(1, Due::Start(n));
        }
        let now = self.now;
        let dead: Vec<Addr> = self.instances.values().filter(|i| !i.alive).map(|i| i.addr.clone()).collect();
        for instance in self.instances.values_mut().filter(|i| i.frozen_until > now) {
            (instance.frozen_until, instance.well_since) = (now, now);
        }
        for addr in dead {
            self.after(3_000, Due::Rise(addr, usize::MAX));
        }
        self.after(PERSON_MS, Due::Person);
    }

    /// What no machine may decide: whose data is to count where every history has ended.
    pub(crate) fn person(&mut self) {
        self.after(5_000, Due::Person);
        for (group, primary) in self.primaries() {
            let well = self.group_is_well(group, &primary).is_ok();
            let members = self.instances.values().filter(|i| i.group == group && i.alive);
            let best = members.filter(|i| i.addr != primary).max_by_key(|i| i.data.len()).map(|i| i.addr.clone());
            if !well && best.is_some() {
                self.perform(Deed::Ask(Command::Failover { group, to: best }));
            }
        }
    }

    pub(crate) fn primaries(&self) -> BTreeMap<u32, Addr> {
        let record = |group: u32| {
            let entry = self.store.entries.get(&format!("group-instances/{group}"))?;
            let json: serde_json::Value = serde_json::from_str(&entry.value).ok()?;
            Some((group, json["primary"].as_str()?.parse().ok()?))
        };
        (1..=GROUPS).filter_map(record).collect()
    }

    /// Address and process of a group's primary, as they are recorded.
    pub(crate) fn guarded(&self, group: u32) -> Option<(String, String)> {
        let entry = self.store.entries.get(&format!("guards/{group}"))?;
        let json: serde_json::Value = serde_json::from_str(&entry.value).ok()?;
        let field = |name: &str| json["primary"][name].as_str().map(str::to_owned);
        Some((field("addr")?, field("run_id")?))
    }

    /// The history that a group's primary is recorded with, for the mistake that asks for it.
    pub(crate) fn history(&self, group: u32) -> String {
        if self.plant != Some(Plant::AnyHistory) {
            return String::new();
        }
        let guard = self.store.entries.get(&format!("guards/{group}"));
        let json = guard.and_then(|entry| serde_json::from_str::<serde_json::Value>(&entry.value).ok());
        json.and_then(|json| json["primary"]["replid"].as_str().map(str::to_owned)).unwrap_or_default()
    }

    pub(crate) fn group_is_well(&self, group: u32, primary: &Addr) -> Result<(), String> {
        let Some(leads) = self.instances.get(primary) else { return Err(format!("{primary} is nobody")) };
        if !leads.answers(self.now) || leads.follows.is_some() || self.now < leads.paused_until {
            return Err(format!("group {group}: {primary} is no primary that works"));
        }
        if self.plant != Some(Plant::SameRunId)
            && self.guarded(group) != Some((primary.to_string(), leads.run_id.clone()))
        {
            return Err(format!("group {group}: {} is not what is recorded: {:?}", leads.run_id, self.guarded(group)));
        }
        for replica in self.instances.values().filter(|i| i.group == group && i.addr != *primary) {
            if !replica.link_up || replica.follows.as_ref() != Some(primary) || replica.replid != leads.replid {
                return Err(format!("group {group}: {} does not follow {primary}: {replica:?}", replica.addr));
            }
        }
        Ok(())
    }

    pub(crate) fn is_well(&self) -> Result<(), String> {
        for (group, primary) in self.primaries() {
            self.group_is_well(group, &primary)?;
        }
        if let Some(f) = self.truth.failovers.values().find(|f| !f.phase.is_over()) {
            return Err(format!("failover {} is in phase {:?}", f.id, f.phase));
        }
        for proxy in &self.proxies {
            if proxy.epoch() != self.truth.epoch || proxy.holds() {
                return Err(format!("{} serves {}, not {}", proxy.id, proxy.epoch(), self.truth.epoch));
            }
            let strangers = |i: &&Instance| i.role == Role::Primary && !proxy.takes(&i.addr, &i.run_id);
            if let Some(stranger) =
                self.instances.values().find(strangers).filter(|_| self.plant != Some(Plant::SameRunId))
            {
                return Err(format!("{} does not take {} for who it is: {}", proxy.id, stranger.addr, stranger.run_id));
            }
        }
        if self.nodes.iter().any(|n| n.control.is_none()) {
            return Err("a member is down".to_owned());
        }
        Ok(())
    }
}

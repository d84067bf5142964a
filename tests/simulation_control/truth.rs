//! What must hold, checked against what the store holds, revision by revision. Reads the store's JSON by itself, so that
//! a mistake in control's reading is not shared.

use crate::store::Commit;
use cluster::wire;
use configsvr::store::Change;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A topology without its epoch: group -> (name, instances, the primary first), and each slot's group (0: nobody).
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Content {
    pub(crate) groups: BTreeMap<u64, (String, Vec<String>)>,
    pub(crate) slots: Vec<u64>,
}

/// The truth as of the last revision.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    pub(crate) epoch: u64,
    unfolded: Vec<(usize, usize, u64)>,
    slot_count: usize,
    groups: BTreeMap<u64, (String, Vec<String>)>,
    slots: BTreeMap<usize, u64>,
    token: String,
    pub(crate) content: Content,
    /// Edited by hand, and not adopted yet.
    dirty: bool,
    /// What was stored under each epoch.
    stored: BTreeMap<u64, BTreeSet<Content>>,
    /// What was pushed under each epoch.
    pushed: BTreeMap<u64, Content>,
    /// How often each wish was done (`who` is its own), and the epoch after it.
    pub(crate) done: BTreeMap<String, Vec<u64>>,
}

/// Who sent a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Author {
    /// A member that leads with this token.
    Leader(String),
    Hand,
    Expiry,
}

type Checked = Result<(), String>;

impl Truth {
    /// Takes a revision, and checks it.
    pub(crate) fn take(&mut self, commit: &Commit, author: &Author) -> Checked {
        let (old, old_epoch, old_token) = (self.content.clone(), self.epoch, self.token.clone());
        let mut audits = Vec::new();
        let mut touched = false;
        for change in &commit.changes {
            let (key, value) = match change {
                Change::Put(entry) => (&entry.key, serde_json::from_str(&entry.value).unwrap_or(Value::Null)),
                Change::Delete { key } => (key, Value::Null),
            };
            if key.starts_with("audit/") && !value.is_null() {
                audits.push(value);
                continue;
            }
            touched |= self.read(key, &value);
        }
        if touched {
            self.content = self.whole();
            self.stored.entry(self.epoch).or_default().insert(self.content.clone());
        }
        let at = commit.revision;
        match author {
            Author::Hand => self.dirty |= self.content != old,
            Author::Expiry => {}
            Author::Leader(token) if old_token != self.token => {
                if self.token <= old_token {
                    return Err(format!(
                        "revision {at}: the leader's token went back from {old_token} to {}",
                        self.token
                    ));
                }
                if *token != self.token {
                    return Err(format!("revision {at}: {token} wrote the token {}", self.token));
                }
            }
            Author::Leader(token) if *token != self.token => {
                return Err(format!("revision {at}: written by {token}, which {} deposed", self.token));
            }
            Author::Leader(_) => {}
        }
        if self.epoch < old_epoch {
            return Err(format!("revision {at}: the epoch went back from {old_epoch} to {}", self.epoch));
        }
        if *author != Author::Hand {
            self.check_change(at, &old, old_epoch, &audits)?;
        }
        for audit in audits {
            let who = audit["who"].as_str().unwrap_or_default().to_owned();
            let done = self.done.entry(who.clone()).or_default();
            done.push(audit["epoch_after"].as_u64().unwrap_or_default());
            if who != "store" && done.len() > 1 {
                return Err(format!("revision {at}: {who} was done twice"));
            }
        }
        Ok(())
    }

    /// Reads a record; true: the topology depends on it.
    fn read(&mut self, key: &str, value: &Value) -> bool {
        if key == "epoch" {
            self.epoch = value["epoch"].as_u64().unwrap_or_default();
            let ranges = value["unfolded"].as_array().cloned().unwrap_or_default();
            let number = |v: &Value| v.as_u64().unwrap_or_default();
            let range = |r: &Value| (number(&r["from"]) as usize, number(&r["to"]) as usize, number(&r["group"]));
            self.unfolded = ranges.iter().map(range).collect();
        } else if key == "settings" {
            self.slot_count = value["slot_count"].as_u64().unwrap_or_default() as usize;
        } else if key == "leader" {
            self.token = value["token"].as_str().unwrap_or_default().to_owned();
            return false;
        } else if let Some(id) = key.strip_prefix("group-instances/") {
            let id = id.parse().expect("a number");
            if value.is_null() {
                self.groups.remove(&id);
            } else {
                let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
                let mut instances = vec![text(&value["primary"])];
                instances.extend(value["replicas"].as_array().into_iter().flatten().map(text));
                self.groups.insert(id, (text(&value["group_name"]), instances));
            }
        } else if let Some(n) = key.strip_prefix("slot-to-group-mapping/slot") {
            let n: usize = n.parse().expect("a number");
            self.slots.insert(n - 1, value["group_id"].as_u64().unwrap_or_default());
        } else {
            return false;
        }
        true
    }

    fn whole(&self) -> Content {
        let mut slots: Vec<u64> = (0..self.slot_count).map(|s| self.slots.get(&s).copied().unwrap_or(0)).collect();
        for (from, to, group) in &self.unfolded {
            slots[*from..=*to].fill(*group);
        }
        Content { groups: self.groups.clone(), slots }
    }

    /// A transaction of control does all of one change, or changes no topology.
    fn check_change(&mut self, at: u64, old: &Content, old_epoch: u64, audits: &[Value]) -> Checked {
        let adopted = audits.iter().any(|a| a["what"] == "store.edit");
        if self.dirty {
            self.dirty = !adopted;
            return Ok(()); // mixed with what a hand did: judged when it is pushed
        }
        let Some(audit) = audits.first() else {
            if self.content != *old || self.epoch != old_epoch {
                return Err(format!("revision {at}: the topology changed without a change (epoch {})", self.epoch));
            }
            return Ok(());
        };
        if (self.content != *old) != (self.epoch != old_epoch) && !adopted {
            return Err(format!("revision {at}: epoch {old_epoch} to {}, contents do not say so", self.epoch));
        }
        let command = &audit["command"];
        let wanted = expected(old, command, &self.content);
        if wanted.as_ref().is_some_and(|wanted| *wanted != self.content) {
            return Err(format!("revision {at}: {command} did something else, or half of it"));
        }
        Ok(())
    }

    /// A member pushes this.
    pub(crate) fn pushes(&mut self, epoch: u64, message: &str) -> Checked {
        let topology = wire::parse(message.as_bytes()).map_err(|e| format!("pushed what is invalid: {e:?}"))?;
        if topology.epoch() != epoch {
            return Err(format!("pushed epoch {} as epoch {epoch}", topology.epoch()));
        }
        let content = content_of(&topology);
        if !self.stored.get(&epoch).is_some_and(|all| all.contains(&content)) {
            return Err(format!("pushed epoch {epoch}, which was never stored so"));
        }
        let before = self.pushed.entry(epoch).or_insert_with(|| content.clone());
        if *before != content {
            return Err(format!("pushed epoch {epoch} with two contents"));
        }
        Ok(())
    }

    /// Slots, from 1, of a group that there is not.
    pub(crate) fn orphans(&self) -> Vec<usize> {
        let orphan = |(slot, group): (usize, &u64)| (*group != 0 && !self.groups.contains_key(group)).then_some(slot);
        (1..).zip(&self.content.slots).filter_map(orphan).collect()
    }

    /// Slots that are not folded yet.
    pub(crate) fn is_folded(&self) -> bool {
        self.unfolded.is_empty()
    }
}

pub(crate) fn content_of(topology: &cluster::topology::Topology) -> Content {
    let group = |g: &cluster::group::Group| {
        let primary = g.primary().into_iter().chain(g.replicas());
        (u64::from(g.id), (g.name.clone(), primary.map(|i| i.addr.to_string()).collect()))
    };
    Content {
        groups: topology.groups().iter().map(group).collect(),
        slots: topology.slots().iter().map(|s| s.group.map_or(0, u64::from)).collect(),
    }
}

/// What a command makes of `old`. A spread is judged by its outcome: where that is right, it is what was expected.
fn expected(old: &Content, command: &Value, new: &Content) -> Option<Content> {
    let number = |v: &Value| v.as_u64().unwrap_or_default();
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let mut next = old.clone();
    match command["command"].as_str()? {
        "create_cluster" => next.slots = vec![0; number(&command["slot_count"]) as usize],
        "add_group" => {
            let id = number(&command["id"]);
            let all = std::iter::once(&command["primary"]).chain(command["replicas"].as_array().into_iter().flatten());
            next.groups.insert(id, (format!("g{id}"), all.map(|i| text(&i["addr"])).collect()));
        }
        "remove_group" => _ = next.groups.remove(&number(&command["id"])),
        "rename_group" => {
            next.groups.entry(number(&command["id"])).and_modify(|g| g.0 = text(&command["name"]));
        }
        "add_instance" => {
            let addr = text(&command["instance"]["addr"]);
            next.groups.entry(number(&command["group"])).and_modify(|g| g.1.push(addr));
        }
        "remove_instance" => {
            let addr = text(&command["addr"]);
            next.groups.entry(number(&command["group"])).and_modify(|g| g.1.retain(|a| *a != addr));
        }
        "assign_slots" => {
            for range in command["ranges"].as_array()? {
                next.slots[number(&range["from"]) as usize..=number(&range["to"]) as usize]
                    .fill(number(&range["group"]));
            }
        }
        "spread_slots" => return Some(if is_spread(old, new) { new.clone() } else { next }),
        _ => {}
    }
    Some(next)
}

/// Whoever got a slot has at most one more than whoever has least.
fn is_spread(old: &Content, new: &Content) -> bool {
    let kept = old.slots.iter().zip(&new.slots).all(|(old, new)| *old == 0 || old == new);
    let count = |id: &u64| new.slots.iter().filter(|s| *s == id).count();
    let least = new.groups.keys().map(count).min().unwrap_or(0);
    let got: BTreeSet<u64> = old.slots.iter().zip(&new.slots).filter(|(o, n)| o != n).map(|(_, n)| *n).collect();
    kept && !new.slots.contains(&0) && got.iter().all(|id| count(id) <= least + 1) && old.groups == new.groups
}

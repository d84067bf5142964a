//! What is committed, as the store's watch told it; and what it means: the topology that proxies are to serve.
//!
//! A store that makes no sense (somebody edited it) leaves the last topology that did in force. One that makes sense but
//! differs from what its epoch stands for was edited too: it becomes the topology once the leader gave it an epoch.

use super::layout::{
    self, Audit, Epoch, Failover, Group, Guard, Leader, Proxy, Restoring, Settings, SlotEntry, SlotRange,
};
use super::limits::{EPOCH_MAX, FAULTS_MAX, LOST_MAX};
use super::stored::{for_proxies, group_of, owner_of, ranges, slot_list, sum_of};
use super::task::{TASKS, Task, TaskPhase, has_copies};
use super::view::GroupView;
use crate::store::{Change, Compare, Entry, LeaseId, Notice, Revision, Snapshot};
use cluster::group::GroupId;
use cluster::slot::Slot;
use cluster::topology::{SlotState, Topology};
use cluster::wire;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A record and when it was written.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Item<T> {
    pub(super) value: T,
    pub(super) modified: Revision,
    pub(super) lease: Option<LeaseId>,
}

/// What the store's contents amount to.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) enum Standing {
    /// Nothing was ever told.
    #[default]
    Unheard,
    /// No cluster.
    Empty,
    /// The topology in force is what is stored.
    Valid,
    /// Makes sense, but is not what its epoch stands for: it needs an epoch of its own. The epoch is at least that.
    Edited { epoch: u64, sum: u32 },
    /// Makes no sense; every fault found.
    Invalid(Vec<String>),
}

/// A topology in force, in all its shapes.
#[derive(Debug, Clone)]
pub(super) struct InForce {
    /// With what is known about the processes (`run_id`): what changes are made of.
    pub(super) known: Arc<Topology>,
    /// What proxies serve. Of processes it names primaries only: who is restarted in such a place is served when the
    /// control plane says so.
    pub(super) topology: Arc<Topology>,
    /// The same as JSON.
    pub(super) message: Arc<str>,
    pub(super) groups: Vec<GroupView>,
    pub(super) slots: Vec<SlotRange>,
}

/// What a notice changed, for those who tell people.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Changes {
    /// Another topology is in force.
    pub(super) topology: bool,
    pub(super) standing: bool,
    pub(super) leader: bool,
    /// Now reachable, or not.
    pub(super) store: Option<Result<(), String>>,
    pub(super) joined: Vec<String>,
    pub(super) lost: Vec<Proxy>,
    /// Proxies that somebody removed, registered or not.
    pub(super) removed: Vec<String>,
}

/// Everything.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    pub(super) revision: Revision,
    /// Why the store cannot be reached, if it cannot.
    pub(super) store_fault: Option<String>,
    pub(super) settings: Option<Item<Settings>>,
    pub(super) epoch: Option<Item<Epoch>>,
    pub(super) leader: Option<Item<Leader>>,
    /// A store that is being loaded, or was not to the end.
    pub(super) restoring: Option<Item<Restoring>>,
    pub(super) groups: BTreeMap<GroupId, Item<Group>>,
    pub(super) slots: BTreeMap<Slot, Item<SlotEntry>>,
    pub(super) proxies: BTreeMap<String, Item<Proxy>>,
    /// Proxies that should be there.
    pub(super) roster: BTreeMap<String, Item<Proxy>>,
    pub(super) guards: BTreeMap<GroupId, Item<Guard>>,
    /// By id, which is by the time of their decision.
    pub(super) failovers: BTreeMap<String, Item<Failover>>,
    /// Migrations, by id, which is by the time of the wish.
    pub(super) tasks: BTreeMap<u64, Item<Task>>,
    /// Proxies whose registration ran out: those of the roster, and those that left while this member watched.
    pub(super) lost: BTreeMap<String, Proxy>,
    pub(super) audit: Arc<Vec<(Revision, Audit)>>,
    /// Keys that cannot be read: when written, and why not.
    unread: BTreeMap<String, (Revision, String)>,
    pub(super) standing: Standing,
    pub(super) in_force: Option<InForce>,
}

/// Which record a key holds.
enum Key {
    Settings,
    Epoch,
    Leader,
    Restoring,
    Group(GroupId),
    Slot(Slot),
    Proxy(String),
    Roster(String),
    Guard(GroupId),
    Failover(String),
    Task(u64),
    Audit(Revision),
    /// A key of a slot or group that cannot be one.
    Wrong(&'static str),
    /// Not ours to read.
    Other,
}

impl Key {
    fn of(key: &str) -> Self {
        let number = |digits: &str| digits.parse::<u32>().ok().filter(|n| *n > 0 && n.to_string() == digits);
        match key {
            layout::SETTINGS => return Self::Settings,
            layout::EPOCH => return Self::Epoch,
            layout::LEADER => return Self::Leader,
            layout::RESTORING => return Self::Restoring,
            _ => {}
        }
        if let Some(id) = key.strip_prefix(layout::GROUPS) {
            return number(id).map_or(Self::Wrong("groups are numbered from 1"), Self::Group);
        }
        if let Some(n) = key.strip_prefix(layout::SLOTS) {
            let slot = number(n).and_then(|n| Slot::try_from(n - 1).ok());
            return slot.map_or(Self::Wrong("slots are numbered from 1 to the slot count"), Self::Slot);
        }
        if let Some(id) = key.strip_prefix(layout::PROXIES) {
            return Self::Proxy(id.to_owned());
        }
        if let Some(id) = key.strip_prefix(layout::ROSTER) {
            return Self::Roster(id.to_owned());
        }
        if let Some(id) = key.strip_prefix(layout::GUARDS) {
            return number(id).map_or(Self::Other, Self::Guard);
        }
        if let Some(id) = key.strip_prefix(layout::FAILOVERS) {
            return Self::Failover(id.to_owned());
        }
        if let Some(id) = key.strip_prefix(TASKS) {
            let number = id.parse().ok().filter(|_| id.len() == 20);
            return number.map_or(Self::Wrong("migrations are numbered with 20 digits"), Self::Task);
        }
        match key.strip_prefix(layout::AUDIT).and_then(|digits| digits.parse().ok()) {
            Some(revision) => Self::Audit(revision),
            None => Self::Other,
        }
    }

    /// Whether the topology depends on it.
    fn is_topology(&self) -> bool {
        matches!(
            self,
            Self::Settings
                | Self::Epoch
                | Self::Restoring
                | Self::Group(_)
                | Self::Slot(_)
                | Self::Failover(_)
                | Self::Task(_)
                | Self::Wrong(_)
        )
    }
}

impl State {
    /// Takes what the watch told.
    pub(super) fn apply(&mut self, notice: Notice) -> Changes {
        let mut changes = Changes::default();
        match notice {
            Notice::Lost(why) => {
                changes.store = self.store_fault.is_none().then(|| Err(why.clone()));
                self.store_fault = Some(why);
                return changes;
            }
            Notice::Listed(snapshot) => self.list(snapshot, &mut changes),
            Notice::Changed { revision, changes: list } => self.change(revision, list, &mut changes),
        }
        changes.store = self.store_fault.take().map(|_| Ok(()));
        changes
    }

    fn list(&mut self, snapshot: Snapshot, changes: &mut Changes) {
        let old = std::mem::take(self);
        *self = Self {
            revision: snapshot.revision,
            store_fault: old.store_fault,
            in_force: old.in_force,
            lost: old.lost,
            standing: old.standing,
            ..Self::default()
        };
        for entry in snapshot.entries {
            self.put(entry);
        }
        changes.joined = self.proxies.keys().filter(|id| !old.proxies.contains_key(*id)).cloned().collect();
        let gone = old.proxies.into_values().filter(|p| !self.proxies.contains_key(&p.value.id));
        changes.lost = gone.map(|p| p.value).collect();
        changes.leader = self.leader.as_ref().map(|l| &l.value) != old.leader.as_ref().map(|l| &l.value);
        self.account_for_lost(changes);
        self.judge(changes);
    }

    fn change(&mut self, revision: Revision, list: Vec<Change>, changes: &mut Changes) {
        self.revision = revision;
        let mut judge = false;
        for change in list {
            let key = match &change {
                Change::Put(entry) => Key::of(&entry.key),
                Change::Delete { key } => Key::of(key),
            };
            judge |= key.is_topology() || matches!(key, Key::Guard(_));
            changes.leader |= matches!(key, Key::Leader);
            match (&key, &change) {
                (Key::Proxy(id), Change::Put(_)) if !self.proxies.contains_key(id) => changes.joined.push(id.clone()),
                (Key::Proxy(id), Change::Delete { .. }) => {
                    changes.lost.extend(self.proxies.get(id).map(|p| p.value.clone()));
                }
                _ => {}
            }
            match change {
                Change::Put(entry) => changes.removed.extend(self.put(entry)),
                Change::Delete { key: name } => self.delete(&name, key),
            }
        }
        self.account_for_lost(changes);
        if judge {
            self.judge(changes);
        }
    }

    fn account_for_lost(&mut self, changes: &mut Changes) {
        let removed = &changes.removed;
        changes.lost.retain(|p| !removed.contains(&p.id));
        for id in changes.joined.iter().chain(removed) {
            self.lost.remove(id);
        }
        for proxy in &changes.lost {
            self.lost.insert(proxy.id.clone(), proxy.clone());
        }
        // Whoever watched when they went: they are missed.
        let missed = self.roster.values().filter(|item| !self.lost.contains_key(&item.value.id));
        let missed: Vec<Proxy> =
            missed.map(|i| i.value.clone()).filter(|p| !self.proxies.contains_key(&p.id)).collect();
        for proxy in missed {
            changes.lost.push(proxy.clone());
            self.lost.insert(proxy.id.clone(), proxy);
        }
        // Removed while nobody here watched.
        let roster = &self.roster;
        self.lost.retain(|id, proxy| proxy.left || roster.contains_key(id));
        while self.lost.len() > LOST_MAX {
            self.lost.pop_first();
        }
    }

    /// Takes a record; the proxy that it says was removed, if it is the audit of that.
    fn put(&mut self, entry: Entry) -> Option<String> {
        self.unread.remove(&entry.key);
        let key = Key::of(&entry.key);
        let read = match &key {
            Key::Settings => read(&entry, |_: &Settings| None).map(|item| self.settings = Some(item)),
            Key::Epoch => read(&entry, |_: &Epoch| None).map(|item| self.epoch = Some(item)),
            Key::Leader => read(&entry, |_: &Leader| None).map(|item| self.leader = Some(item)),
            Key::Restoring => read(&entry, |_: &Restoring| None).map(|item| self.restoring = Some(item)),
            Key::Group(id) => {
                let other = |g: &Group| (g.group_id != *id).then(|| format!("says group_id {}", g.group_id));
                read(&entry, other).map(|item| _ = self.groups.insert(*id, item))
            }
            Key::Slot(slot) => {
                let number = u32::from(*slot) + 1;
                let other = |s: &SlotEntry| (s.slot_id != number).then(|| format!("says slot_id {}", s.slot_id));
                read(&entry, other).map(|item| _ = self.slots.insert(*slot, item))
            }
            Key::Proxy(id) => {
                let other = |p: &Proxy| (p.id != *id).then(|| format!("says id {:?}", p.id));
                read(&entry, other).map(|item| _ = self.proxies.insert(id.clone(), item))
            }
            Key::Roster(id) => {
                let other = |p: &Proxy| (p.id != *id).then(|| format!("says id {:?}", p.id));
                read(&entry, other).map(|item| _ = self.roster.insert(id.clone(), item))
            }
            Key::Guard(id) => {
                let other = |g: &Guard| (g.group_id != *id).then(|| format!("says group_id {}", g.group_id));
                read(&entry, other).map(|item| _ = self.guards.insert(*id, item))
            }
            Key::Failover(id) => {
                let other = |f: &Failover| (f.id != *id).then(|| format!("says id {:?}", f.id));
                read(&entry, other).map(|item| _ = self.failovers.insert(id.clone(), item))
            }
            Key::Task(id) => {
                let other = |t: &Task| (t.id != *id).then(|| format!("says id {}", t.id));
                read(&entry, other).map(|item| _ = self.tasks.insert(*id, item))
            }
            Key::Audit(revision) => match read(&entry, |_: &Audit| None) {
                Ok(item) => return self.audited(*revision, item.value),
                Err(why) => Err(why),
            },
            Key::Wrong(why) => Err((*why).to_owned()),
            Key::Other => return None,
        };
        if let Err(why) = read {
            self.forget(&key);
            self.unread.insert(entry.key, (entry.modified, why));
        }
        None
    }

    fn audited(&mut self, revision: Revision, audit: Audit) -> Option<String> {
        let removed =
            (audit.what == "proxies.remove").then(|| audit.command["id"].as_str().map(str::to_owned)).flatten();
        let ring = Arc::make_mut(&mut self.audit);
        match ring.binary_search_by_key(&revision, |(r, _)| *r) {
            Ok(at) => ring[at].1 = audit,
            Err(at) => ring.insert(at, (revision, audit)),
        }
        removed
    }

    fn delete(&mut self, name: &str, key: Key) {
        self.unread.remove(name);
        self.forget(&key);
    }

    fn forget(&mut self, key: &Key) {
        match key {
            Key::Settings => self.settings = None,
            Key::Epoch => self.epoch = None,
            Key::Leader => self.leader = None,
            Key::Restoring => self.restoring = None,
            Key::Group(id) => _ = self.groups.remove(id),
            Key::Slot(slot) => _ = self.slots.remove(slot),
            Key::Proxy(id) => _ = self.proxies.remove(id),
            Key::Roster(id) => _ = self.roster.remove(id),
            Key::Guard(id) => _ = self.guards.remove(id),
            Key::Failover(id) => _ = self.failovers.remove(id),
            Key::Task(id) => _ = self.tasks.remove(id),
            Key::Audit(revision) => Arc::make_mut(&mut self.audit).retain(|(r, _)| r != revision),
            Key::Wrong(_) | Key::Other => {}
        }
    }

    /// When `key` was last written, as far as it is one of ours.
    fn modified(&self, key: &str) -> Option<Revision> {
        let unread = || self.unread.get(key).map(|(modified, _)| *modified);
        let read = match Key::of(key) {
            Key::Settings => self.settings.as_ref().map(|i| i.modified),
            Key::Epoch => self.epoch.as_ref().map(|i| i.modified),
            Key::Leader => self.leader.as_ref().map(|i| i.modified),
            Key::Restoring => self.restoring.as_ref().map(|i| i.modified),
            Key::Group(id) => self.groups.get(&id).map(|i| i.modified),
            Key::Slot(slot) => self.slots.get(&slot).map(|i| i.modified),
            Key::Proxy(id) => self.proxies.get(&id).map(|i| i.modified),
            Key::Roster(id) => self.roster.get(&id).map(|i| i.modified),
            Key::Guard(id) => self.guards.get(&id).map(|i| i.modified),
            Key::Failover(id) => self.failovers.get(&id).map(|i| i.modified),
            Key::Task(id) => self.tasks.get(&id).map(|i| i.modified),
            Key::Audit(_) | Key::Wrong(_) | Key::Other => None,
        };
        read.or_else(unread)
    }

    /// Holds as long as `key` is what it is now.
    pub(super) fn as_it_is(&self, key: &str) -> Compare {
        match self.modified(key) {
            Some(revision) => Compare::ModifiedAt { key: key.to_owned(), revision },
            None => Compare::Absent { key: key.to_owned() },
        }
    }

    /// Keys of groups and slots, readable or not.
    pub(super) fn topology_keys(&self) -> impl Iterator<Item = String> {
        let unread = self.unread.keys().filter(|k| k.starts_with(layout::SLOTS) || k.starts_with(layout::GROUPS));
        let groups = self.groups.keys().map(|id| layout::group_key(*id));
        groups.chain(self.slots.keys().map(|slot| layout::slot_key(*slot))).chain(unread.cloned())
    }

    /// Faults to be shown: those that keep the topology from being replaced, and keys that cannot be read.
    pub(super) fn invalid(&self) -> Vec<String> {
        let mut faults = match &self.standing {
            Standing::Invalid(faults) => faults.clone(),
            Standing::Empty if self.in_force.is_some() => {
                vec!["the cluster's records are gone from the store".to_owned()]
            }
            _ => Vec::new(),
        };
        let others = self.unread.iter().filter(|(key, _)| !Key::of(key).is_topology());
        faults.extend(others.map(|(key, (_, why))| format!("{key}: {why}")));
        faults.truncate(FAULTS_MAX);
        faults
    }

    pub(super) fn guard(&self, group: GroupId) -> Option<&Guard> {
        self.guards.get(&group).map(|item| &item.value)
    }

    /// The failover that is under way in a group: the latest that is not over.
    pub(super) fn failover_of(&self, group: GroupId) -> Option<&Failover> {
        self.failovers.values().rev().map(|i| &i.value).find(|f| f.group_id == group && !f.phase.is_over())
    }

    /// A switchover and a migration wait until nothing is in flight for the slots they hold.
    pub(super) fn awaits_quiet(&self) -> bool {
        let waits = |f: &Failover| f.kind == layout::FailoverKind::Switchover && f.phase == layout::Phase::Fence;
        self.fencing().next().is_some() || self.failovers.values().any(|f| waits(&f.value))
    }

    /// Migrations, the earliest first.
    pub(super) fn all_tasks(&self) -> impl DoubleEndedIterator<Item = &Task> {
        self.tasks.values().map(|item| &item.value)
    }

    /// Migrations whose slots are held.
    pub(super) fn fencing(&self) -> impl Iterator<Item = &Task> {
        self.all_tasks().filter(|t| t.phase == TaskPhase::Fence)
    }

    /// Slots that move on access, from where and where to: those of tasks, and those that somebody else wrote so.
    fn on_access(&self) -> BTreeMap<Slot, (GroupId, GroupId)> {
        let stored = |item: &Item<SlotEntry>| owner_of(&item.value).and_then(|(from, to)| Some((from, to?)));
        let mut all: BTreeMap<_, _> = self.slots.iter().filter_map(|(n, item)| Some((*n, stored(item)?))).collect();
        for range in self.unfolded() {
            (range.from..=range.to).for_each(|slot| _ = all.remove(&slot));
        }
        let tasks = self.all_tasks().filter(|t| t.phase == TaskPhase::Fetch);
        all.extend(tasks.flat_map(|t| t.slots().map(|slot| (slot, (t.from, t.to)))));
        all
    }

    /// A topology that is about to be, with slots that move on access as they are stored once these groups are held: while
    /// the primary of either side is replaced nobody can move a key, or know where it is.
    pub(super) fn in_step(&self, next: &Topology, held: impl Fn(GroupId) -> bool) -> Option<Topology> {
        let moving = self.on_access();
        if moving.is_empty() {
            return Some(next.clone());
        }
        let mut slots = next.slots().to_vec();
        for (slot, (from, to)) in moving {
            let Some(owner) = slots.get_mut(usize::from(slot)).filter(|owner| owner.group == Some(from)) else {
                continue;
            };
            owner.state = if held(from) || held(to) { SlotState::Held } else { SlotState::Moving { target: to } };
        }
        wire::Message { slots: wire::ranges_of(&slots), ..wire::Message::from(next) }.check().ok()
    }

    /// Nothing is to be done by itself.
    pub(super) fn automation_paused(&self) -> bool {
        self.settings.as_ref().is_some_and(|s| s.value.automation_paused)
    }

    /// A proxy that should be there and is not registered: it may be cut off from here, and still send to instances.
    pub(super) fn missed(&self) -> Option<&str> {
        self.roster.keys().find(|id| !self.proxies.contains_key(*id)).map(String::as_str)
    }

    /// The group's primary is being replaced.
    pub(super) fn holds(&self, group: GroupId) -> bool {
        self.failovers.values().any(|f| f.value.group_id == group && f.value.phase.holds())
    }

    pub(super) fn proxy_ttl_s(&self) -> u64 {
        self.settings.as_ref().map_or_else(layout::proxy_ttl_default, |s| s.value.proxy_ttl_s)
    }

    /// The epoch in force; 0: none.
    pub(super) fn epoch_in_force(&self) -> u64 {
        self.in_force.as_ref().map_or(0, |f| f.topology.epoch())
    }

    fn judge(&mut self, changes: &mut Changes) {
        let standing = match self.read_topology() {
            Ok(None) => Standing::Empty,
            Err(mut faults) => {
                faults.truncate(FAULTS_MAX);
                Standing::Invalid(faults)
            }
            Ok(Some(known)) => self.weigh(known, changes),
        };
        changes.standing = standing != self.standing;
        self.standing = standing;
    }

    /// What becomes of a topology that makes sense.
    fn weigh(&mut self, known: Topology, changes: &mut Changes) -> Standing {
        let topology = for_proxies(&known);
        let sum = sum_of(&topology);
        let epoch = topology.epoch();
        if self.epoch.as_ref().and_then(|e| e.value.sum) != Some(sum) {
            return Standing::Edited { epoch, sum };
        }
        match self.in_force.as_mut() {
            Some(now) if *now.topology == topology => {
                if *now.known != known {
                    now.known = Arc::new(known);
                }
                return Standing::Valid;
            }
            Some(now) if now.topology.epoch() == epoch => return Standing::Edited { epoch, sum },
            _ => {}
        }
        self.in_force = Some(InForce::new(known, topology));
        changes.topology = true;
        Standing::Valid
    }

    /// The topology as it is stored; None: there is none.
    fn read_topology(&self) -> Result<Option<Topology>, Vec<String>> {
        if self.restoring.is_some() && self.settings.is_none() && self.epoch.is_none() {
            return Ok(None);
        }
        let unread = self.unread.iter().filter(|(key, _)| Key::of(key).is_topology());
        let mut faults: Vec<String> = unread.map(|(key, (_, why))| format!("{key}: {why}")).collect();
        let nothing =
            self.settings.is_none() && self.epoch.is_none() && self.groups.is_empty() && self.slots.is_empty();
        if nothing && faults.is_empty() {
            return Ok(None);
        }
        for (key, there) in [(layout::SETTINGS, self.settings.is_some()), (layout::EPOCH, self.epoch.is_some())] {
            if !there && !self.unread.contains_key(key) {
                faults.push(format!("{key}: is missing"));
            }
        }
        let (Some(settings), Some(epoch)) = (&self.settings, &self.epoch) else { return Err(faults) };
        let slots = self.slot_ranges(settings.value.slot_count, &epoch.value.unfolded, &mut faults);
        if !faults.is_empty() {
            return Err(faults);
        }
        let message = wire::Message {
            epoch: epoch.value.epoch,
            name: settings.value.name.clone(),
            slot_count: settings.value.slot_count,
            tag_rule: settings.value.tag_rule,
            groups: self
                .groups
                .iter()
                .map(|(id, g)| group_of(&g.value, self.guard(*id), has_copies(self.all_tasks(), *id)))
                .collect(),
            slots,
            users: settings.value.users.clone(),
        };
        if message.epoch > EPOCH_MAX {
            return Err(vec![format!("epoch: {} is too large; at most {EPOCH_MAX}", message.epoch)]);
        }
        let topology = message.check()?;
        let now = self.in_force.as_ref().map(|f| &*f.topology);
        if let Some(now) = now {
            if topology.epoch() < now.epoch() {
                let (old, new) = (now.epoch(), topology.epoch());
                return Err(vec![format!("epoch: went back from {old} to {new}; write a greater one than {old}")]);
            }
            if (topology.slot_count(), topology.tag_rule()) != (now.slot_count(), now.tag_rule()) {
                return Err(vec!["settings: slot_count and tag_rule are fixed when a cluster is created".to_owned()]);
            }
        }
        Ok(Some(topology))
    }

    /// Slots that are not written to their own keys yet, but for those that somebody has written there since: who wrote last
    /// is right.
    pub(super) fn unfolded(&self) -> Vec<SlotRange> {
        let all = self.epoch.iter().flat_map(|e| &e.value.unfolded);
        let slots = all.flat_map(|r| (r.from..=r.to).map(|slot| (slot, r.group)));
        ranges(slots.filter(|(slot, _)| !self.is_edited(*slot)))
    }

    /// What a transaction compares that writes `unfolded` anew: an edit it has not seen is not to look older than it.
    pub(super) fn unfolded_as_they_are(&self) -> Option<Compare> {
        let some = self.epoch.as_ref().is_some_and(|e| !e.value.unfolded.is_empty());
        some.then(|| Compare::UnwrittenSince { prefix: layout::SLOTS.to_owned(), revision: self.revision })
    }

    /// Whether a slot's own key was written after the epoch's record. Ours are written with it.
    fn is_edited(&self, slot: Slot) -> bool {
        let epoch = self.epoch.as_ref().map(|e| e.modified);
        self.slots.get(&slot).is_some_and(|item| Some(item.modified) > epoch)
    }

    /// What the slots' keys say, and above them what is not folded into them yet.
    fn slot_ranges(&self, count: u16, unfolded: &[SlotRange], faults: &mut Vec<String>) -> Vec<wire::Range> {
        let mut owners = vec![None; usize::from(count)];
        for (slot, item) in &self.slots {
            match owners.get_mut(usize::from(*slot)) {
                Some(owner) => *owner = owner_of(&item.value).map(|(group, _)| group),
                None => faults.push(format!("{}: there are {count} slots", layout::slot_key(*slot))),
            }
        }
        for range in unfolded {
            match owners.get_mut(usize::from(range.from)..=usize::from(range.to)) {
                Some(owners) => {
                    for (_, owner) in (range.from..).zip(owners).filter(|(slot, _)| !self.is_edited(*slot)) {
                        *owner = range.group;
                    }
                }
                None => faults.push(format!("epoch: unfolded slots {}-{}: no such slots", range.from, range.to)),
            }
        }
        let held: Vec<GroupId> = self.groups.keys().copied().filter(|group| self.holds(*group)).collect();
        let leaving: BTreeSet<Slot> = self.fencing().flat_map(Task::slots).collect();
        let moving = self.on_access();
        let mut ranges: Vec<wire::Range> = Vec::new();
        for (slot, owner) in (0..).zip(owners) {
            let Some(group) = owner else { continue };
            // Whoever gave it to another group by hand meant that.
            let target = moving.get(&slot).filter(|(from, _)| *from == group).map(|(_, to)| *to);
            let (state, target) = match target {
                _ if held.contains(&group) || leaving.contains(&slot) => (wire::State::Held, None),
                Some(to) if held.contains(&to) => (wire::State::Held, None),
                Some(to) => (wire::State::Moving, Some(to)),
                None => (wire::State::Normal, None),
            };
            match ranges.last_mut() {
                Some(last)
                    if last.to + 1 == slot && (last.group, last.state, last.target) == (group, state, target) =>
                {
                    last.to = slot;
                }
                _ => ranges.push(wire::Range { from: slot, to: slot, group, state, target }),
            }
        }
        ranges
    }
}

impl InForce {
    fn new(known: Topology, topology: Topology) -> Self {
        let owned = |id| topology.slots().iter().filter(|s| s.group == Some(id)).count();
        let group = |g: &cluster::group::Group| {
            Some(GroupView {
                id: g.id,
                name: g.name.clone(),
                primary: g.primary()?.addr.clone(),
                replicas: g.replicas().map(|i| i.addr.clone()).collect(),
                slots: owned(g.id),
            })
        };
        let groups = topology.groups().iter().filter_map(group).collect();
        let slots = slot_list(&topology);
        let message = serde_json::to_string(&wire::Message::from(&topology)).unwrap_or_default();
        Self { known: Arc::new(known), topology: Arc::new(topology), message: message.into(), groups, slots }
    }
}

fn read<T: DeserializeOwned>(entry: &Entry, wrong: impl Fn(&T) -> Option<String>) -> Result<Item<T>, String> {
    let value: T = serde_json::from_str(&entry.value).map_err(|e| e.to_string())?;
    match wrong(&value) {
        Some(why) => Err(why),
        None => Ok(Item { value, modified: entry.modified, lease: entry.lease }),
    }
}

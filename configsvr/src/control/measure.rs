//! What was measured of the slots, and what follows from it: what each costs, how long a plan takes, whether there is room.
//! Measuring is done elsewhere (`mover::survey`, `http`); here it is only reckoned with.

use super::balance::Move;
use super::task::{Limits, Task};
use cluster::group::GroupId;
use cluster::instance::Addr;
use cluster::slot::Slot;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A migration that copied fewer keys says nothing about how fast copying is.
const SPEED_KEYS_MIN: u64 = 1_000;

/// What is to be spread evenly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    #[default]
    Slots,
    Keys,
    /// Bytes of memory.
    Memory,
    /// Requests a second.
    Ops,
}

impl By {
    pub fn word(self) -> &'static str {
        match self {
            Self::Slots => "slots",
            Self::Keys => "keys",
            Self::Memory => "memory",
            Self::Ops => "ops",
        }
    }
}

impl std::str::FromStr for By {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Slots, Self::Keys, Self::Memory, Self::Ops];
        let found = all.into_iter().find(|by| by.word() == text);
        found.ok_or_else(|| format!("{text:?}: slots, keys, memory or ops"))
    }
}

/// A walk over some of a group's keys. SCAN goes by a hash that has nothing to do with slots, so a part of the walk is as
/// good as a drawn sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    pub told: Sampled,
    /// Bytes of all keys and values, as the instance has it; None: it does not say.
    pub dataset_bytes: Option<u64>,
    /// What was met, also of slots that the group does not own.
    pub slots: BTreeMap<Slot, Part>,
}

/// Where and how much was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sampled {
    pub group: GroupId,
    pub addr: Addr,
    /// It is the group's primary: there was no replica to ask.
    pub primary: bool,
    /// All keys that it holds.
    pub keys: u64,
    /// Keys that were met, and how many of them were asked for their size.
    pub scanned: u64,
    pub sized: u64,
    pub took_ms: u64,
}

/// What was met of one slot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Part {
    pub keys: u64,
    pub bytes: u64,
}

/// What was counted at the proxies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    pub window_ms: u64,
    pub requests: u64,
    pub proxies: Vec<String>,
}

/// All that was measured for a plan.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// Since it began, in milliseconds.
    pub age_ms: u64,
    /// By group.
    pub samples: Vec<Sampled>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ops: Option<Counted>,
}

/// What each slot holds, by its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Costs {
    pub keys: Vec<u64>,
    pub bytes: Vec<u64>,
}

/// What samples say of the whole. A key in a slot that its group does not own is nobody's: a copy, or what is not removed yet.
pub fn costs(samples: &[Sample], owners: &[Option<GroupId>]) -> Costs {
    let mut costs = Costs { keys: vec![0; owners.len()], bytes: vec![0; owners.len()] };
    for sample in samples.iter().filter(|s| s.told.scanned > 0) {
        let Sampled { group, keys, scanned, sized, .. } = sample.told;
        let (all, scanned) = (u128::from(keys), u128::from(scanned));
        let met: u128 = sample.slots.values().map(|part| u128::from(part.bytes)).sum();
        let dataset = sample.dataset_bytes.filter(|bytes| *bytes > 0).map(u128::from);
        // Each met key was asked for its size, or else all are taken to be alike.
        let each = u128::from(sized) == scanned && met > 0;
        let whole = dataset.unwrap_or(met * all / u128::from(sized.max(1)));
        for (slot, part) in &sample.slots {
            let at = usize::from(*slot);
            if owners.get(at) != Some(&Some(group)) {
                continue;
            }
            let (keys, bytes) = (u128::from(part.keys), u128::from(part.bytes));
            costs.keys[at] = ((keys * all + scanned / 2) / scanned) as u64;
            costs.bytes[at] = if each { bytes * whole / met } else { keys * whole / scanned } as u64;
        }
    }
    costs
}

/// How fast the last migration went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Speed {
    pub migration: u64,
    pub keys_per_s: u64,
    pub bytes_per_s: u64,
}

/// Of the last one that copied enough to tell.
pub fn speed<'a>(tasks: impl Iterator<Item = &'a Task>) -> Option<Speed> {
    let told = tasks.filter_map(|task| {
        let (tally, begun, fenced) = (task.tally?, task.times.begun?, task.times.fenced?);
        let ms = fenced.saturating_sub(begun).max(1);
        let per_s = |n: u64| (u128::from(n) * 1000 / u128::from(ms)) as u64;
        let speed = Speed { migration: task.id, keys_per_s: per_s(tally.keys), bytes_per_s: per_s(tally.bytes) };
        (tally.keys >= SPEED_KEYS_MIN).then_some(speed)
    });
    told.max_by_key(|speed| speed.migration)
}

/// What a plan costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Estimate {
    pub slots: u64,
    pub keys: u64,
    pub bytes: u64,
    /// Until the last slot has changed hands; None: there is no limit, and nothing was ever moved here.
    pub ms: Option<u64>,
    /// What `ms` goes by, beside the limits.
    pub speed: Option<Speed>,
}

/// Migrations of disjoint groups go on beside each other, so it takes as long as the busiest group.
pub fn estimate(moves: &[Move], costs: &Costs, limits: &Limits, speed: Option<Speed>) -> Estimate {
    let mut sum = Estimate { slots: 0, keys: 0, bytes: 0, ms: None, speed };
    let mut busy: BTreeMap<GroupId, u64> = BTreeMap::new();
    let mut timed = true;
    for one in moves {
        let of = |list: &[u64]| slots(one).filter_map(|slot| list.get(usize::from(slot))).sum::<u64>();
        let (keys, bytes) = (of(&costs.keys), of(&costs.bytes));
        sum.slots += slots(one).count() as u64;
        (sum.keys, sum.bytes) = (sum.keys + keys, sum.bytes + bytes);
        // What was measured bounds the keys alone: bytes in memory are not those that travel.
        let bounds =
            [(keys, limits.keys_per_s), (bytes, limits.bytes_per_s), (keys, speed.map_or(0, |speed| speed.keys_per_s))];
        let ms =
            bounds.iter().filter(|(_, per_s)| *per_s > 0).map(|(n, per_s)| n.saturating_mul(1000).div_ceil(*per_s));
        match ms.max() {
            Some(ms) => [one.from, one.to].iter().for_each(|group| *busy.entry(*group).or_default() += ms),
            None => timed = false,
        }
    }
    sum.ms = timed.then(|| busy.values().copied().max().unwrap_or(0));
    sum
}

/// What will come to each group.
pub fn coming(moves: &[Move], costs: &Costs) -> BTreeMap<GroupId, u64> {
    let mut coming: BTreeMap<GroupId, u64> = BTreeMap::new();
    for one in moves {
        let bytes = slots(one).filter_map(|slot| costs.bytes.get(usize::from(slot))).sum::<u64>();
        *coming.entry(one.to).or_default() += bytes;
    }
    coming
}

fn slots(one: &Move) -> impl Iterator<Item = Slot> {
    one.slots.iter().flat_map(|span| span.from..=span.to)
}

/// How much of its memory an instance uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    pub used_bytes: u64,
    /// 0: it has no bound.
    pub max_bytes: u64,
    /// What its machine has; None: it does not say.
    pub host_bytes: Option<u64>,
}

impl Memory {
    /// What it may use, and whether that is its machine's and not its own bound.
    pub fn most(&self) -> Option<(u64, bool)> {
        match self.max_bytes {
            0 => self.host_bytes.filter(|bytes| *bytes > 0).map(|bytes| (bytes, true)),
            bytes => Some((bytes, false)),
        }
    }

    /// Whether so much more surely does not fit.
    pub fn lacks(&self, bytes: u64) -> bool {
        self.most().is_some_and(|(most, _)| self.used_bytes.saturating_add(bytes) > most)
    }
}

/// Whether what comes to an instance fits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    pub group: GroupId,
    pub addr: Addr,
    pub primary: bool,
    pub coming_bytes: u64,
    pub used_bytes: Option<u64>,
    /// Its `maxmemory`, or with `of_host` what its machine has; None: nobody knows.
    pub most_bytes: Option<u64>,
    pub of_host: bool,
    pub enough: bool,
}

impl Room {
    /// `memory` None: it could not be asked, and is taken to have room.
    pub fn of(group: GroupId, addr: Addr, primary: bool, coming_bytes: u64, memory: Option<Memory>) -> Self {
        let most = memory.and_then(|memory| memory.most());
        Self {
            group,
            addr,
            primary,
            coming_bytes,
            used_bytes: memory.map(|memory| memory.used_bytes),
            most_bytes: most.map(|(most, _)| most),
            of_host: most.is_some_and(|(_, of_host)| of_host),
            enough: memory.is_none_or(|memory| !memory.lacks(coming_bytes)),
        }
    }
}

/// The instance has too little room: in one line, with what to do in another.
pub fn lack(addr: &Addr, memory: &Memory, coming_bytes: u64) -> (String, &'static str) {
    let mb = |bytes: u64| bytes.div_ceil(1 << 20);
    let (most, of_host) = memory.most().unwrap_or_default();
    let (what, hint) = match of_host {
        true => ("its machine's memory", "give it a larger machine, or move less"),
        false => ("its maxmemory", "raise its maxmemory, or move less"),
    };
    let used = mb(memory.used_bytes);
    (format!("{addr} uses {used} MB of the {} MB of {what}, and {} MB would come", mb(most), mb(coming_bytes)), hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::task::Span;

    fn sample(group: GroupId, keys: u64, sized: bool, dataset: Option<u64>, parts: &[(Slot, u64, u64)]) -> Sample {
        let scanned = parts.iter().map(|(_, keys, _)| keys).sum();
        let told = Sampled {
            group,
            addr: "127.0.0.1:1".parse().expect("an address"),
            primary: false,
            keys,
            scanned,
            sized: if sized { scanned } else { 0 },
            took_ms: 1,
        };
        let part = |(slot, keys, bytes): &(Slot, u64, u64)| (*slot, Part { keys: *keys, bytes: *bytes });
        Sample { told, dataset_bytes: dataset, slots: parts.iter().map(part).collect() }
    }

    #[test]
    fn a_sample_stands_for_all_keys() {
        let owners = [Some(1), Some(1), Some(2), None];
        let samples = [
            // A tenth was met. Slot 2 is the other group's.
            sample(1, 1000, true, Some(9_000), &[(0, 60, 6_000), (1, 30, 1_000), (2, 10, 2_000)]),
            // All alike, since nobody was asked for its size.
            sample(2, 7, false, Some(700), &[(2, 7, 0)]),
            sample(3, 0, false, None, &[]),
        ];
        let costs = costs(&samples, &owners);
        assert_eq!(costs.keys, [600, 300, 7, 0]);
        assert_eq!(costs.bytes, [6_000, 1_000, 700, 0]);
        // Without a word about the whole, what was met tells.
        let costs = super::costs(&[sample(1, 1000, true, None, &[(0, 60, 600), (1, 40, 100)])], &owners);
        assert_eq!(costs.bytes, [6_000, 1_000, 0, 0]);
    }

    #[test]
    fn a_plan_takes_as_long_as_its_busiest_group() {
        let span = |slot: Slot| vec![Span { from: slot, to: slot }];
        let moves = [
            Move { from: 1, to: 3, slots: span(0) },
            Move { from: 2, to: 3, slots: span(1) },
            Move { from: 4, to: 5, slots: span(2) },
        ];
        let costs = Costs { keys: vec![1000, 2000, 2500], bytes: vec![10, 20, 30] };
        let limits = Limits { keys_per_s: 100, ..Limits::default() };
        let slow = estimate(&moves, &costs, &limits, None);
        assert_eq!((slow.slots, slow.keys, slow.bytes, slow.ms), (3, 5500, 60, Some(30_000)));
        let speed = Speed { migration: 7, keys_per_s: 50, bytes_per_s: 1 };
        assert_eq!(estimate(&moves, &costs, &limits, Some(speed)).ms, Some(60_000));
        assert_eq!(estimate(&moves, &costs, &Limits::default(), None).ms, None);
        assert_eq!(estimate(&[], &costs, &Limits::default(), None).ms, Some(0));
        assert_eq!(coming(&moves, &costs), [(3, 30), (5, 30)].into());
    }

    #[test]
    fn an_instance_without_a_bound_has_its_machine() {
        let memory = |max_bytes, host_bytes| Memory { used_bytes: 60 << 20, max_bytes, host_bytes };
        let bounded = memory(100 << 20, Some(1 << 40));
        assert!(bounded.lacks((40 << 20) + 1) && !bounded.lacks(40 << 20));
        assert!(memory(0, Some(64 << 20)).lacks(5 << 20) && !memory(0, None).lacks(u64::MAX));
        let addr: Addr = "127.0.0.1:1".parse().expect("an address");
        let (what, _) = lack(&addr, &bounded, 50 << 20);
        assert_eq!(what, "127.0.0.1:1 uses 60 MB of the 100 MB of its maxmemory, and 50 MB would come");
        assert!(!Room::of(1, addr.clone(), true, 50 << 20, Some(bounded)).enough);
        assert!(Room::of(1, addr, true, 50 << 20, None).enough);
    }
}

//! Who should own how many slots: from weights and what each slot costs to the moves that get there, as few as possible.

use super::task::{Span, spans};
use cluster::group::GroupId;
use cluster::slot::Slot;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Slots that go from one group to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    pub from: GroupId,
    pub to: GroupId,
    pub slots: Vec<Span>,
}

/// One group before and after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    pub group: GroupId,
    pub weight: u32,
    pub slots_before: usize,
    pub slots_after: usize,
    /// In the unit that was asked for: slots, keys, bytes or operations a second.
    pub load_before: u64,
    pub load_after: u64,
}

/// What is to be done, and what comes of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Balance {
    pub moves: Vec<Move>,
    pub shares: Vec<Share>,
}

/// Who takes part, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// Of the groups that take part; one of weight 0 ends with nothing.
    pub weights: BTreeMap<GroupId, u32>,
    /// Slots that stay where they are.
    pub fixed: BTreeSet<Slot>,
    /// Only these give slots away; empty: whoever has too much.
    pub givers: BTreeSet<GroupId>,
    /// Only these get slots; empty: whoever has too little.
    pub takers: BTreeSet<GroupId>,
    /// Who has so many percent too much has not: what was measured by a sample is not known to the last key, and slots
    /// should not move for that.
    pub slack_percent: u64,
}

/// A group while slots are given out.
struct Scale {
    weight: u32,
    target: u64,
    /// So much above the target is near enough.
    slack: u64,
    load: u64,
    gives: bool,
    takes: bool,
    /// What it still may give away, by what it costs.
    slots: BTreeSet<(u64, Slot)>,
}

impl Scale {
    fn surplus(&self) -> u64 {
        self.load.saturating_sub(self.target)
    }

    /// It is to be empty: it goes first, also with slots that cost nothing.
    fn leaves(&self) -> bool {
        self.weight == 0
    }

    fn may_give(&self) -> bool {
        self.gives && !self.slots.is_empty() && (self.leaves() || self.surplus() > self.slack)
    }

    fn room(&self) -> i128 {
        i128::from(self.target) - i128::from(self.load)
    }
}

/// Brings each group's load near its part, which is by weight. `owners`: of each slot. `loads`: what each slot costs.
///
/// A slot goes from who has most too much to who has most too little, the costliest first that fits between them: that
/// ends, since every move brings both nearer to their parts, and moves no slot twice. Where none fits, the cheapest goes
/// that is too much by so little that both are still nearer to their parts.
pub fn balance(owners: &[Option<GroupId>], loads: &[u64], rules: &Rules) -> Balance {
    let weights = &rules.weights;
    let all: u64 = weights.values().map(|w| u64::from(*w)).sum();
    if all == 0 {
        return Balance::default();
    }
    let of = |slot: usize| owners[slot].filter(|group| weights.contains_key(group));
    let load = |slot: usize| loads.get(slot).copied().unwrap_or(0);
    let total: u64 = (0..owners.len()).filter(|slot| of(*slot).is_some()).map(load).sum();
    let mut scales: BTreeMap<GroupId, Scale> = BTreeMap::new();
    for (group, weight) in weights {
        let target = (u128::from(total) * u128::from(*weight)).div_ceil(u128::from(all)) as u64;
        let named = |list: &BTreeSet<GroupId>| list.is_empty() || list.contains(group);
        let scale = Scale {
            weight: *weight,
            target,
            slack: target * rules.slack_percent / 100,
            load: 0,
            gives: named(&rules.givers),
            takes: *weight > 0 && named(&rules.takers),
            slots: BTreeSet::new(),
        };
        scales.insert(*group, scale);
    }
    let mut counts: BTreeMap<GroupId, usize> = BTreeMap::new();
    for slot in 0..owners.len() {
        let Some((group, scale)) = of(slot).and_then(|group| Some((group, scales.get_mut(&group)?))) else { continue };
        scale.load += load(slot);
        *counts.entry(group).or_default() += 1;
        if !rules.fixed.contains(&(slot as Slot)) {
            scale.slots.insert((load(slot), slot as Slot));
        }
    }
    let before: BTreeMap<GroupId, (usize, u64)> =
        scales.iter().map(|(g, s)| (*g, (counts.get(g).copied().unwrap_or(0), s.load))).collect();
    let given = give(&mut scales);
    for (from, to, _) in &given {
        *counts.entry(*from).or_default() -= 1;
        *counts.entry(*to).or_default() += 1;
    }
    let shares = scales.iter().map(|(group, scale)| Share {
        group: *group,
        weight: scale.weight,
        slots_before: before[group].0,
        slots_after: counts.get(group).copied().unwrap_or(0),
        load_before: before[group].1,
        load_after: scale.load,
    });
    Balance { shares: shares.collect(), moves: moves(given) }
}

/// Who gives which slot to whom.
fn give(scales: &mut BTreeMap<GroupId, Scale>) -> Vec<(GroupId, GroupId, Slot)> {
    let mut given: Vec<(GroupId, GroupId, Slot)> = Vec::new();
    // The last pair as long as it goes, so that slots move in long ranges; and who has nothing that fits.
    let (mut last, mut stuck) = (None, BTreeSet::new());
    while let Some((from, to)) = pair(scales, last, &stuck) {
        let (donor, taker) = (&scales[&from], &scales[&to]);
        // What is a little too much goes only to who has most room.
        let over = if last.is_none() { a_little_over(donor, taker) } else { None };
        let Some((load, slot)) = what_fits(donor, taker).or(over) else {
            if last.take().is_none() {
                stuck.insert(from);
            }
            continue;
        };
        if let Some(donor) = scales.get_mut(&from) {
            donor.slots.remove(&(load, slot));
            donor.load -= load;
        }
        if let Some(taker) = scales.get_mut(&to) {
            taker.load += load;
        }
        last = Some((from, to));
        given.push((from, to, slot));
    }
    given
}

/// Who gives to whom next.
fn pair(
    scales: &BTreeMap<GroupId, Scale>,
    last: Option<(GroupId, GroupId)>,
    stuck: &BTreeSet<GroupId>,
) -> Option<(GroupId, GroupId)> {
    let from = scales.iter().filter(|(g, s)| s.may_give() && !stuck.contains(g));
    let same = |g: &GroupId| last.is_some_and(|(from, _)| from == *g);
    let (from, _) = from.max_by_key(|(g, s)| (s.leaves(), same(g), s.surplus()))?;
    let to = scales.iter().filter(|(g, s)| s.takes && *g != from);
    let same = |g: &GroupId, s: &Scale| last.is_some_and(|(_, to)| to == *g) && s.room() > 0;
    let (to, _) = to.max_by_key(|(g, s)| (same(g, s), s.room(), std::cmp::Reverse(**g)))?;
    Some((*from, *to))
}

/// So much is too much at the one and too little at the other.
fn between(donor: &Scale, taker: &Scale) -> u64 {
    donor.surplus().min(taker.room().max(0) as u64)
}

fn what_fits(donor: &Scale, taker: &Scale) -> Option<(u64, Slot)> {
    let fits = donor.slots.range(..=(between(donor, taker), Slot::MAX)).next_back();
    if let Some(fit) = fits.filter(|(load, _)| *load > 0 || donor.leaves()) {
        return Some(*fit);
    }
    if donor.leaves() { donor.slots.first().copied() } else { None }
}

/// The cheapest that does not fit, if each of the two is nearer to its part with it than without.
fn a_little_over(donor: &Scale, taker: &Scale) -> Option<(u64, Slot)> {
    let most = between(donor, taker);
    let over = donor.slots.range((most + 1, 0)..).next();
    over.filter(|(load, _)| *load < 2 * most).copied()
}

fn moves(given: Vec<(GroupId, GroupId, Slot)>) -> Vec<Move> {
    let mut by_pair: BTreeMap<(GroupId, GroupId), BTreeSet<Slot>> = BTreeMap::new();
    for (from, to, slot) in given {
        by_pair.entry((from, to)).or_default().insert(slot);
    }
    by_pair.into_iter().map(|((from, to), slots)| Move { from, to, slots: spans(slots) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn owners(text: &str) -> Vec<Option<GroupId>> {
        text.chars().map(|c| c.to_digit(10).filter(|g| *g > 0)).collect()
    }

    fn rules(weights: &[(GroupId, u32)]) -> Rules {
        Rules { weights: weights.iter().copied().collect(), ..Rules::default() }
    }

    fn by_slots(text: &str, weights: &[(GroupId, u32)]) -> (Vec<usize>, usize) {
        let owners = owners(text);
        let balance = balance(&owners, &vec![1; owners.len()], &rules(weights));
        let moved = balance.moves.iter().flat_map(|m| &m.slots).map(|s| usize::from(s.to - s.from) + 1).sum();
        (balance.shares.iter().map(|s| s.slots_after).collect(), moved)
    }

    #[test]
    fn as_few_slots_as_possible_move() {
        assert_eq!(by_slots("111111222222", &[(1, 1), (2, 1), (3, 1)]), (vec![4, 4, 4], 4));
        let ranges = balance(&owners("11112222333333"), &[1; 14], &rules(&[(1, 1), (2, 1), (3, 0)])).moves;
        assert!(ranges.len() == 2 && ranges.iter().all(|m| m.slots.len() == 1), "{ranges:?}");
        assert_eq!(by_slots("111111222222", &[(1, 1), (2, 1)]), (vec![6, 6], 0));
        assert_eq!(by_slots("111111222222", &[(1, 1), (2, 0)]), (vec![12, 0], 6));
        assert_eq!(by_slots("111111111222", &[(1, 1), (2, 3)]), (vec![3, 9], 6));
        assert_eq!(by_slots("1111111222", &[(1, 1), (2, 1), (3, 1)]), (vec![4, 3, 3], 3));
        assert_eq!(by_slots("1111", &[(1, 0)]), (vec![], 0), "nobody could take them");
        assert_eq!(by_slots("11112222", &[(2, 1), (3, 1)]), (vec![2, 2], 2), "group 1 takes no part");
    }

    #[test]
    fn a_costly_slot_goes_where_it_fits() {
        let loads = [90, 10, 10, 10, 0, 0];
        let balance = balance(&owners("111122"), &loads, &rules(&[(1, 1), (2, 1)]));
        assert_eq!(balance.moves, [Move { from: 1, to: 2, slots: vec![Span { from: 1, to: 3 }] }]);
        assert_eq!((balance.shares[0].load_after, balance.shares[1].load_after), (90, 30));
    }

    #[test]
    fn a_group_with_nothing_that_fits_keeps_nobody_from_giving() {
        // Group 1 has one slot, which would only move the trouble; group 2 has many small ones.
        let all = rules(&[(1, 1), (2, 1), (3, 1)]);
        let plan = balance(&owners("1222222"), &[130, 20, 20, 20, 20, 20, 20], &all);
        assert_eq!(plan.shares.iter().map(|s| s.load_after).collect::<Vec<_>>(), [130, 80, 40]);
        // Nothing fits; one goes that is a little too much for who takes it, which passes on what it has too much then.
        let plan = balance(&owners("1123"), &[50, 50, 10, 40], &all);
        assert_eq!(plan.shares.iter().map(|s| s.load_after).collect::<Vec<_>>(), [50, 50, 50]);
    }

    #[test]
    fn nobody_gets_much_too_much_for_a_little_room() {
        // Nine slots are asked for, and one of another group a little.
        let mut loads = [0; 12];
        loads[1..10].fill(673);
        loads[0] = 2;
        let plan = balance(&owners("122222222233"), &loads, &rules(&[(1, 1), (2, 1), (3, 1)]));
        assert!(plan.shares.iter().all(|s| s.load_after.abs_diff(2_019) <= 2), "{:?}", plan.shares);
    }

    #[test]
    fn only_those_who_are_named_give_and_take() {
        let taken = |text: &str, rules: &Rules| {
            let owners = owners(text);
            let plan = balance(&owners, &vec![1; owners.len()], rules);
            (plan.shares.iter().map(|s| s.slots_after).collect::<Vec<_>>(), plan.moves.len())
        };
        let all = rules(&[(1, 1), (2, 1), (3, 1)]);
        // A group that comes takes its part from who has most; the others keep what else there is between them.
        let comes = Rules { takers: [3].into(), ..all.clone() };
        assert_eq!(taken("111111122222", &comes), (vec![4, 4, 4], 2));
        assert_eq!(taken("111111111222", &comes), (vec![5, 3, 4], 1));
        // One that goes gives all it has, and nobody else anything.
        let goes = Rules { givers: [3].into(), ..rules(&[(1, 1), (2, 1), (3, 0)]) };
        assert_eq!(taken("111111112233", &goes), (vec![8, 4, 0], 1));
        assert_eq!(taken("112233", &Rules { givers: [1].into(), ..all }), (vec![2, 2, 2], 0));
    }

    #[test]
    fn a_little_too_much_is_not_too_much() {
        let slack = Rules { slack_percent: 2, ..rules(&[(1, 1), (2, 1)]) };
        let loads = [500, 500, 10, 500, 490];
        assert_eq!(balance(&owners("11122"), &loads, &slack).moves, []);
        assert_eq!(balance(&owners("11122"), &loads, &rules(&[(1, 1), (2, 1)])).moves.len(), 1);
        let leaves = Rules { slack_percent: 2, ..rules(&[(1, 1), (2, 0)]) };
        assert_eq!(balance(&owners("11122"), &loads, &leaves).shares[1].slots_after, 0);
    }

    proptest! {
        #[test]
        fn everybody_comes_nearer_to_their_part(
            slots in proptest::collection::vec((1u32..5, 0u64..50), 1..200),
            weights in proptest::collection::btree_map(1u32..5, 0u32..4, 1..5),
        ) {
            let owners: Vec<_> = slots.iter().map(|(group, _)| Some(*group)).collect();
            let loads: Vec<_> = slots.iter().map(|(_, load)| *load).collect();
            let rules = Rules { weights: weights.clone(), ..Rules::default() };
            let plan = balance(&owners, &loads, &rules);
            let mut now = owners.clone();
            for one in &plan.moves {
                for slot in one.slots.iter().flat_map(|s| s.from..=s.to) {
                    prop_assert_eq!(now[usize::from(slot)], Some(one.from), "moved once, from its owner");
                    now[usize::from(slot)] = Some(one.to);
                }
            }
            let all: u64 = weights.values().map(|w| u64::from(*w)).sum();
            for share in &plan.shares {
                let its: Vec<_> = (0..now.len()).filter(|s| now[*s] == Some(share.group)).collect();
                prop_assert_eq!(share.slots_after, its.len());
                prop_assert_eq!(share.load_after, its.iter().map(|s| loads[*s]).sum::<u64>());
                prop_assert!(share.weight > 0 || share.slots_after == 0 || all == 0);
            }
            if weights.values().all(|w| *w > 0) {
                let spread = |load: fn(&Share) -> u64| {
                    let total: u64 = plan.shares.iter().map(load).sum();
                    plan.shares.iter().map(|s| load(s).abs_diff(total * u64::from(s.weight) / all)).sum::<u64>()
                };
                prop_assert!(spread(|s| s.load_after) <= spread(|s| s.load_before) + 2 * plan.shares.len() as u64);
            }
        }
    }
}

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

/// A group while slots are given out.
struct Scale {
    weight: u32,
    target: u64,
    load: u64,
    /// What it still may give away, by what it costs.
    slots: BTreeSet<(u64, Slot)>,
}

/// Brings each group's load near its part, which is by weight. `owners`: of each slot. `loads`: what each slot costs.
/// `weights`: of the groups that take part; one of weight 0 ends with nothing. `fixed`: slots that stay where they are.
///
/// A slot goes from who has most too much to who has most too little, the costliest first that fits between them: that
/// ends, since every move brings both nearer to their parts, and moves no slot twice.
pub fn balance(
    owners: &[Option<GroupId>],
    loads: &[u64],
    weights: &BTreeMap<GroupId, u32>,
    fixed: &BTreeSet<Slot>,
) -> Balance {
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
        scales.insert(*group, Scale { weight: *weight, target, load: 0, slots: BTreeSet::new() });
    }
    let mut counts: BTreeMap<GroupId, usize> = BTreeMap::new();
    for slot in 0..owners.len() {
        let Some((group, scale)) = of(slot).and_then(|group| Some((group, scales.get_mut(&group)?))) else { continue };
        scale.load += load(slot);
        *counts.entry(group).or_default() += 1;
        if !fixed.contains(&(slot as Slot)) {
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
    loop {
        let last = given.last().map(|(from, to, _)| (*from, *to));
        // Who is to be empty goes first, also with slots that cost nothing.
        let leaves = |s: &&Scale| s.weight == 0 && !s.slots.is_empty();
        let from = scales.iter().filter(|(_, s)| !s.slots.is_empty() && (s.load > s.target || leaves(s)));
        // With the last pair as long as it goes, so that slots move in long ranges.
        let same = |g: &GroupId, s: &Scale| last.is_some_and(|(from, _)| from == *g) && s.load > s.target;
        let from = from.max_by_key(|(g, s)| (leaves(s), same(g, s), s.load.saturating_sub(s.target))).map(|(g, _)| *g);
        let to = scales.iter().filter(|(_, s)| s.weight > 0);
        let room = |s: &Scale| i128::from(s.target) - i128::from(s.load);
        let same = |g: &GroupId, s: &Scale| last.is_some_and(|(_, to)| to == *g) && room(s) > 0;
        let to = to.max_by_key(|(g, s)| (same(g, s), room(s), std::cmp::Reverse(**g)));
        let (Some(from), Some((to, room))) = (from, to.map(|(g, s)| (*g, s.target.saturating_sub(s.load)))) else {
            return given;
        };
        let donor = &scales[&from];
        let leaving = donor.weight == 0;
        let surplus = donor.load.saturating_sub(donor.target);
        let fits = donor.slots.range(..=(surplus.min(room), Slot::MAX)).next_back().copied();
        // Nothing fits exactly: from a group that is to be empty it goes anyway.
        let pick = match fits {
            Some(pick) if leaving || pick.0 > 0 => pick,
            _ if leaving => match donor.slots.first() {
                Some(pick) => *pick,
                None => return given,
            },
            _ => return given,
        };
        if from == to {
            return given;
        }
        if let Some(donor) = scales.get_mut(&from) {
            donor.slots.remove(&pick);
            donor.load -= pick.0;
        }
        if let Some(taker) = scales.get_mut(&to) {
            taker.load += pick.0;
        }
        given.push((from, to, pick.1));
    }
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

    fn by_slots(text: &str, weights: &[(GroupId, u32)]) -> (Vec<usize>, usize) {
        let owners = owners(text);
        let weights = weights.iter().copied().collect();
        let balance = balance(&owners, &vec![1; owners.len()], &weights, &BTreeSet::new());
        let moved = balance.moves.iter().flat_map(|m| &m.slots).map(|s| usize::from(s.to - s.from) + 1).sum();
        (balance.shares.iter().map(|s| s.slots_after).collect(), moved)
    }

    #[test]
    fn as_few_slots_as_possible_move() {
        assert_eq!(by_slots("111111222222", &[(1, 1), (2, 1), (3, 1)]), (vec![4, 4, 4], 4));
        let weights = [(1, 1), (2, 1), (3, 0)].into();
        let ranges = balance(&owners("11112222333333"), &[1; 14], &weights, &BTreeSet::new()).moves;
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
        let weights = [(1, 1), (2, 1)].into();
        let balance = balance(&owners("111122"), &loads, &weights, &BTreeSet::new());
        assert_eq!(balance.moves, [Move { from: 1, to: 2, slots: vec![Span { from: 1, to: 3 }] }]);
        assert_eq!((balance.shares[0].load_after, balance.shares[1].load_after), (90, 30));
    }

    proptest! {
        #[test]
        fn everybody_comes_nearer_to_their_part(
            slots in proptest::collection::vec((1u32..5, 0u64..50), 1..200),
            weights in proptest::collection::btree_map(1u32..5, 0u32..4, 1..5),
        ) {
            let owners: Vec<_> = slots.iter().map(|(group, _)| Some(*group)).collect();
            let loads: Vec<_> = slots.iter().map(|(_, load)| *load).collect();
            let plan = balance(&owners, &loads, &weights, &BTreeSet::new());
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
                prop_assert!(spread(|s| s.load_after) <= spread(|s| s.load_before) + plan.shares.len() as u64);
            }
        }
    }
}

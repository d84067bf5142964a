//! The record of a failover in the store, and the transactions that carry it from phase to phase.
//!
//! Each compares the leader's record, the epoch and all that it replaces. Two of them change the topology: the decision
//! (the group's slots are held) and the commit (another primary, released). In between the topology stays as it is.

use super::scene::Scene;
use crate::control::health::Info;
use crate::control::layout::{self, Epoch, Failover, FailoverKind, Former, Guard, Identity, Phase, Times};
use crate::control::lead::Fence;
use crate::control::limits::FAILOVERS_MAX;
use crate::control::state::State;
use crate::control::stored::{for_proxies, record_of, sum_of};
use crate::store::{Compare, Op, Txn};
use cluster::change::{Change, apply};
use cluster::group::Group;
use cluster::instance::Addr;
use cluster::topology::Topology;
use cluster::wire::Message;
use serde::Serialize;

/// What begins one.
pub(in crate::control) struct Begin {
    pub(in crate::control) kind: FailoverKind,
    pub(in crate::control) why: String,
    pub(in crate::control) evidence: Vec<String>,
    pub(in crate::control) wanted: Option<Addr>,
    /// How far the old primary was, when it was last seen.
    pub(in crate::control) old_offset: Option<u64>,
    pub(in crate::control) doubted: u64,
}

/// Who is chosen.
pub(super) struct Choice {
    pub(super) candidate: Addr,
    /// How far it is, in bytes, in which history.
    pub(super) offset: u64,
    pub(super) continues: String,
}

/// What a transaction changes, without the comparisons that all have.
pub(in crate::control) struct Step {
    pub(in crate::control) compares: Vec<Compare>,
    pub(in crate::control) ops: Vec<Op>,
    pub(in crate::control) epoch: Epoch,
    pub(in crate::control) record: Failover,
}

pub(in crate::control) fn put(key: String, value: &impl Serialize) -> Op {
    Op::Put { key, value: serde_json::to_string(value).unwrap_or_default(), lease: None }
}

/// The decision. None: the state of things does not allow it.
pub(in crate::control) fn begin(
    state: &State,
    known: &Topology,
    group: &Group,
    what: Begin,
    wall: u64,
) -> Option<Step> {
    let held = apply(known, &Change::Hold { group: group.id }).ok()?;
    let held = state.in_step(&held, |other| other == group.id || state.holds(other))?;
    let next = next_epoch(known, held)?;
    let old = group.primary()?.addr.clone();
    let identity = state.guard(group.id).and_then(|g| g.primary.as_ref()).filter(|i| i.addr == old);
    // Whoever forces it and names the heir has decided about histories, too.
    let any = what.kind == FailoverKind::Forced && what.wanted.is_some();
    let record = Failover {
        id: layout::failover_id(next.epoch()),
        group_id: group.id,
        kind: what.kind,
        phase: Phase::Fence,
        epoch: next.epoch(),
        old_replid: identity.map(|i| i.replid.clone()).unwrap_or_default(),
        old_offset: what.old_offset,
        old_run_id: identity.map(|i| i.run_id.clone()).unwrap_or_default(),
        replid: identity.filter(|_| !any).map(|i| i.replid.clone()).unwrap_or_default(),
        former: identity.and_then(|i| i.former.clone()),
        old,
        why: what.why,
        evidence: what.evidence,
        wanted: what.wanted,
        candidate: None,
        continues: None,
        passed_over: Vec::new(),
        offset: None,
        lost_bytes: None,
        times: Times { doubted: what.doubted, decided: wall, ..Times::default() },
        note: None,
    };
    let mut step = topology_step(state, &next, record)?;
    let guard_key = layout::guard_key(group.id);
    step.compares.push(state.as_it_is(&guard_key));
    let over = (state.failovers.len() + 1).saturating_sub(FAILOVERS_MAX);
    let ended = state.failovers.values().filter(|f| f.value.phase.is_over()).take(over);
    step.ops.extend(ended.map(|f| Op::Delete { key: layout::failover_key(&f.value.id) }));
    Some(step)
}

/// The candidate is chosen.
pub(super) fn chosen(scene: &Scene, record: &Failover, choice: Choice) -> Txn {
    let mut record = record.clone();
    record.phase = Phase::Promote;
    (record.candidate, record.offset) = (Some(choice.candidate), Some(choice.offset));
    record.continues = Some(choice.continues);
    record.times.chosen = Some(scene.wall);
    same_topology(scene, &record)
}

/// It could not be promoted: another one, please.
pub(super) fn passed_over(scene: &Scene, record: &Failover) -> Txn {
    let mut record = record.clone();
    record.phase = Phase::Fence;
    let gone = record.candidate.take().filter(|c| !record.passed_over.contains(c));
    record.passed_over.extend(gone);
    (record.offset, record.continues) = (None, None);
    same_topology(scene, &record)
}

/// The candidate is the primary: the point from which on there is no other.
pub(super) fn committed(scene: &Scene, record: &Failover, candidate: &Addr, said: &Info) -> Option<Txn> {
    let known = scene.known()?;
    let release = Change::Release { group: record.group_id, primary: Some(candidate.clone()) };
    let next = next_epoch(known, released(scene, record, &apply(known, &release).ok()?)?)?;
    let mut record = record.clone();
    record.phase = Phase::Repair;
    record.times.committed = Some(scene.wall);
    let group = record_of(next.group(record.group_id)?)?;
    let grown = |replid: &&String| !replid.is_empty() && replid.bytes().any(|b| b != b'0');
    let former = Some(&said.replid2).filter(grown).zip(record.offset);
    let identity = Identity {
        addr: candidate.clone(),
        run_id: said.run_id.clone(),
        replid: said.replid.clone(),
        former: former.map(|(replid, offset)| Former { replid: replid.clone(), offset }),
    };
    let guard = Guard {
        group_id: record.group_id,
        primary: Some(identity),
        ..scene.state.guard(record.group_id).cloned().unwrap_or_default()
    };
    let (group_key, guard_key) = (layout::group_key(record.group_id), layout::guard_key(record.group_id));
    let mut step = topology_step(scene.state, &next, record)?;
    step.compares.extend([scene.state.as_it_is(&group_key), scene.state.as_it_is(&guard_key)]);
    step.ops.extend([put(group_key, &group), put(guard_key, &guard)]);
    Some(transaction(scene.state, scene.fence, step))
}

/// Given up before anything was promoted: the old primary serves on.
pub(super) fn aborted(scene: &Scene, record: &Failover, note: &str) -> Option<Txn> {
    let known = scene.known()?;
    let release = Change::Release { group: record.group_id, primary: None };
    let next = next_epoch(known, released(scene, record, &apply(known, &release).ok()?)?)?;
    let mut record = record.clone();
    record.phase = Phase::Aborted;
    (record.note, record.times.ended) = (Some(note.to_owned()), Some(scene.wall));
    Some(transaction(scene.state, scene.fence, topology_step(scene.state, &next, record)?))
}

/// Slots that move on access go on with that, unless the group on their other side is held, too.
fn released(scene: &Scene, record: &Failover, next: &Topology) -> Option<Topology> {
    scene.state.in_step(next, |other| other != record.group_id && scene.state.holds(other))
}

/// All that can follow does.
pub(super) fn ended(scene: &Scene, record: &Failover) -> Txn {
    let mut record = record.clone();
    record.phase = Phase::Done;
    record.times.ended = Some(scene.wall);
    same_topology(scene, &record)
}

/// The old primary came back, and said how much it had that nobody else has.
pub(super) fn reported(scene: &Scene, record: &Failover, lost_bytes: u64, note: Option<&str>) -> Txn {
    let mut record = Failover { lost_bytes: Some(lost_bytes), ..record.clone() };
    record.times.reported = Some(scene.wall);
    record.note = note.map(str::to_owned).or(record.note);
    same_topology(scene, &record)
}

/// What is known of groups' primaries. Where one is another process than the topology names, proxies are to be told: then
/// there is a new epoch.
pub(super) fn guarded(scene: &Scene, all: Vec<(&Group, Identity)>) -> Option<Txn> {
    let named = |group: &Group| group.primary().and_then(|p| p.run_id.clone());
    let told = all.iter().all(|(group, identity)| named(group).as_ref() == Some(&identity.run_id));
    let (mut compares, mut ops) = (vec![scene.fence.compare.clone()], Vec::new());
    for (group, identity) in all {
        let guard =
            Guard { group_id: group.id, primary: Some(identity), ..scene.guard(group).cloned().unwrap_or_default() };
        let (group_key, guard_key) = (layout::group_key(group.id), layout::guard_key(group.id));
        compares.extend([scene.state.as_it_is(&group_key), scene.state.as_it_is(&guard_key)]);
        ops.push(put(guard_key, &guard));
    }
    if !told {
        let now = &scene.state.epoch.as_ref()?.value;
        let next = Epoch { epoch: now.epoch + 1, unfolded: scene.state.unfolded(), sum: now.sum };
        compares.push(scene.state.as_it_is(layout::EPOCH));
        compares.extend(scene.state.unfolded_as_they_are());
        ops.push(put(layout::EPOCH.to_owned(), &next));
    }
    Some(Txn { compares, ops })
}

/// With the comparisons that all have.
pub(super) fn transaction(state: &State, fence: &Fence, step: Step) -> Txn {
    let mut compares = vec![fence.compare.clone(), state.as_it_is(layout::EPOCH)];
    compares.extend(step.compares);
    compares.extend(state.unfolded_as_they_are());
    let mut ops = step.ops;
    ops.push(put(layout::EPOCH.to_owned(), &step.epoch));
    Txn { compares, ops }
}

/// An epoch of its own also where no slot is touched: a decision is known by it.
pub(in crate::control) fn next_epoch(known: &Topology, next: Topology) -> Option<Topology> {
    let epoch = known.epoch() + 1;
    if next.epoch() == epoch { Some(next) } else { Message { epoch, ..Message::from(&next) }.check().ok() }
}

fn topology_step(state: &State, next: &Topology, record: Failover) -> Option<Step> {
    let key = layout::failover_key(&record.id);
    let epoch = Epoch { epoch: next.epoch(), unfolded: state.unfolded(), sum: Some(sum_of(&for_proxies(next))) };
    Some(Step { compares: vec![state.as_it_is(&key)], ops: vec![put(key, &record)], epoch, record })
}

fn same_topology(scene: &Scene, record: &Failover) -> Txn {
    let key = layout::failover_key(&record.id);
    let compares = vec![scene.fence.compare.clone(), scene.state.as_it_is(&key)];
    Txn { compares, ops: vec![put(key, record)] }
}

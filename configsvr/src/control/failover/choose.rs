//! F5: who takes over. By history first: only what continues the record's counts. Then by how much of it, since that is
//! what clients were promised; then by what people prefer, the instance's own priority, its place, and its address.

use super::record::Choice;
use super::scene::Scene;
use crate::control::event::Report;
use crate::control::health::Info;
use crate::control::layout::{Failover, FailoverKind};
use cluster::group::Group;
use cluster::instance::Addr;
use std::cmp::Reverse;

/// The best of those that were detached. None: nobody is fit.
pub(super) fn best(scene: &Scene, group: &Group, record: &Failover, detached: &[(Addr, Report)]) -> Option<Choice> {
    let guard = scene.guard(group);
    let never = |addr: &Addr| guard.is_some_and(|g| g.never.contains(addr));
    let preferred = |addr: &Addr| guard.and_then(|g| g.prefer.as_ref()) == Some(addr);
    let zone = |addr: &Addr| group.instances.iter().find(|i| i.addr == *addr).and_then(|i| i.zone.as_ref());
    let fit = |(addr, report): &&(Addr, Report)| {
        scene.history(group, record, addr).may_lead(&report.after) && !never(addr) && !is_stale(record, &report.before)
    };
    let held = |addr: &Addr, report: &Report| scene.history(group, record, addr).held_by(&report.after);
    // Those that could not be promoted come last: their turn comes again when nobody else is left.
    let rank = |(addr, report): &&(Addr, Report)| {
        (
            record.passed_over.contains(addr),
            record.wanted.as_ref().is_some_and(|wanted| wanted != addr),
            // Whoever followed the old primary for a moment has all that the others have, and more.
            held(addr, report) != Some(scene.history(group, record, addr).replid),
            Reverse(report.after.offset),
            !preferred(addr),
            report.after.priority,
            zone(addr) != zone(&record.old),
            addr.clone(),
        )
    };
    let (addr, report) = detached.iter().filter(fit).min_by_key(rank)?;
    let held = held(addr, report)?;
    // Where any history will do it is said which one it is. One that parted from the old primary's is another.
    let continues = if held.is_empty() { report.after.replid.clone() } else { held.to_owned() };
    Some(Choice { candidate: addr.clone(), offset: report.after.offset, continues })
}

/// It had lost its primary long before anybody else did: what it lacks is not worth a few seconds. People may want it all
/// the same, and say so.
fn is_stale(record: &Failover, before: &Info) -> bool {
    let doubted_ms = record.times.decided.saturating_sub(record.times.doubted);
    record.kind == FailoverKind::Failover && before.is_stale(doubted_ms)
}

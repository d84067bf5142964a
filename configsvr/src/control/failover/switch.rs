//! A planned change of the primary: nothing is lost, since nothing is written while it happens. Proxies hold their requests
//! and say that nothing is in flight; the primary pauses writes of whoever else there is; the candidate becomes primary when
//! it has it all, and one transaction says so. Clients wait meanwhile, so there is no other step.
//!
//! A leader that dies between the two leaves a primary that nobody recorded, and to which nobody wrote: the next leader
//! promotes the same or another one, or calls it off, and the repair demotes whoever is too many.

use super::Failovers;
use super::orders::Progress;
use super::record;
use super::scene::Scene;
use crate::control::event::Order;
use crate::control::health::may_lead;
use crate::control::layout::Failover;
use crate::control::limits::{PAUSE_MS, QUIET_MS};
use crate::control::out::Out;
use cluster::group::Group;
use cluster::instance::{Addr, Role};
use std::cmp::Reverse;

impl Failovers {
    /// From the decision to the choice.
    pub(super) fn switch(&mut self, scene: &Scene, group: &Group, record: &Failover, out: &mut Out) {
        let since = self.entered(scene, record);
        if scene.now > since + QUIET_MS {
            return self.call_off(scene, record, "it took too long: a proxy, the primary or the candidate", out);
        }
        if !scene.proxies_are_quiet(record) {
            return;
        }
        if let Some(old) = scene.info(&record.old).filter(|i| !i.can_pause_writes()) {
            let why = format!("Redis {} cannot pause writes alone (from 6.2 on): `failover` replaces it", old.version);
            return self.call_off(scene, record, &why, out);
        }
        let token = scene.fence.token;
        let (pause, succeed) = (format!("pause/{}", record.id), format!("succeed/{}", record.id));
        let order = Order::Pause { ms: PAUSE_MS };
        let Progress::Done(paused) = self.orders.want(scene.now, &pause, &record.old, order, token, out) else {
            return;
        };
        let begun = self.orders.given_for(&succeed).cloned();
        let Some(candidate) = begun.or_else(|| record.wanted.clone()).or_else(|| nearest(scene, group, record)) else {
            return self.call_off(scene, record, "no replica can take over", out);
        };
        let order = Order::Succeed { replid: record.replid.clone(), offset: paused.after.offset, ms: QUIET_MS / 2 };
        match self.orders.want(scene.now, &succeed, &candidate, order, token, out) {
            Progress::UnderWay => {}
            Progress::Done(report) if report.after.role == Role::Primary => {
                let paused_at = self.orders.done_at(&pause, &record.old).unwrap_or(scene.now);
                let mut record = record.clone();
                record.times.chosen = Some(scene.wall.saturating_sub(scene.now.saturating_sub(paused_at)));
                (record.candidate, record.offset) = (Some(candidate.clone()), Some(report.before.offset));
                if let Some(txn) = record::committed(scene, &record, &candidate, &report.after) {
                    self.writer.write(scene.now, txn, out);
                }
            }
            Progress::Done(_) | Progress::Failed(_) => {
                self.call_off(scene, record, "the candidate did not take over", out);
            }
        }
    }

    /// Nothing was recorded: the primary serves on. Not while it may just be recorded.
    fn call_off(&mut self, scene: &Scene, record: &Failover, why: &str, out: &mut Out) {
        if !self.writer.is_idle() {
            return;
        }
        self.abort(scene, record, why, out);
    }
}

/// The replica that has most of it, as it looked a moment ago.
fn nearest(scene: &Scene, group: &Group, record: &Failover) -> Option<Addr> {
    let guard = scene.guard(group);
    let never = |addr: &Addr| guard.is_some_and(|g| g.never.contains(addr));
    let preferred = |addr: &Addr| guard.and_then(|g| g.prefer.as_ref()) == Some(addr);
    let fit = group.replicas().filter_map(|r| {
        let info = scene.info(&r.addr)?;
        (info.link_up && may_lead(info, &record.replid) && !never(&r.addr)).then_some((r, info))
    });
    let best = fit.min_by_key(|(r, info)| (!preferred(&r.addr), info.priority, Reverse(info.offset), r.addr.clone()));
    best.map(|(r, _)| r.addr.clone())
}

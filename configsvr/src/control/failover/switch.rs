//! A planned change of the primary: nothing is lost, since nothing is written while it happens. Proxies hold their requests
//! and say that nothing is in flight; the primary pauses writes of whoever else there is; the candidate has it all.

use super::Failovers;
use super::orders::Progress;
use super::record;
use super::scene::Scene;
use crate::control::event::Order;
use crate::control::health::may_lead;
use crate::control::layout::Failover;
use crate::control::limits::QUIET_MS;
use crate::control::out::Out;
use cluster::group::Group;
use cluster::instance::Addr;
use std::cmp::Reverse;

/// The primary lets no write pass for so long: longer than the rest may take, since what is written after it is lost.
const PAUSE_MS: u64 = 5_000;

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
        let token = scene.fence.token;
        let (pause, catch_up) = (format!("pause/{}", record.id), format!("catch-up/{}", record.id));
        let order = Order::Pause { ms: PAUSE_MS };
        let Progress::Done(paused) = self.orders.want(scene.now, &pause, &record.old, order, token, out) else {
            return;
        };
        let offset = paused.after.offset;
        let Some(candidate) = record.wanted.clone().or_else(|| nearest(scene, group, record)) else {
            return self.call_off(scene, record, "no replica can take over", out);
        };
        let order = Order::CatchUp { offset, ms: QUIET_MS / 2 };
        match self.orders.want(scene.now, &catch_up, &candidate, order, token, out) {
            Progress::UnderWay => {}
            Progress::Failed(_) => self.call_off(scene, record, "the candidate did not catch up", out),
            Progress::Done(report) if !may_lead(&report.after, &record.replid) => {
                self.call_off(scene, record, "the candidate does not continue the primary's history", out);
            }
            Progress::Done(report) => {
                if let Some(txn) = record::chosen(scene, record, &candidate, report.after.offset) {
                    self.writer.write(scene.now, txn, out);
                }
            }
        }
    }

    /// Nothing was promoted: the primary serves on.
    fn call_off(&mut self, scene: &Scene, record: &Failover, why: &str, out: &mut Out) {
        let resume = format!("resume/{}", record.id);
        self.orders.want(scene.now, &resume, &record.old, Order::Resume, scene.fence.token, out);
        if let Some(txn) = record::aborted(scene, record, why) {
            self.writer.write(scene.now, txn, out);
        }
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

//! F6, F7: the candidate becomes primary, says so itself, and then the store says so: from there on there is no other.

use super::Failovers;
use super::orders::Progress;
use super::record;
use super::scene::Scene;
use crate::control::event::Order;
use crate::control::health::Verdict;
use crate::control::layout::{Failover, FailoverKind};
use crate::control::limits::PROMOTE_MS;
use crate::control::out::Out;
use cluster::group::Group;
use cluster::instance::Role;

impl Failovers {
    /// From the choice to the commit.
    pub(super) fn promote(&mut self, scene: &Scene, group: &Group, record: &Failover, out: &mut Out) {
        let since = self.entered(scene, record);
        let Some(candidate) = &record.candidate else { return };
        let why = format!("promote/{}", record.id);
        let known = || scene.history(group, record, candidate).replid.to_owned();
        let replid = record.continues.clone().unwrap_or_else(known);
        let order = Order::Promote { replid, offset: record.offset.unwrap_or(0) };
        match self.orders.want(scene.now, &why, candidate, order, scene.fence.token, out) {
            Progress::Done(report) if report.after.role == Role::Primary && self.writer.is_idle() => {
                if let Some(txn) = record::committed(scene, record, candidate, &report.after) {
                    self.writer.write(scene.now, txn, out);
                }
            }
            Progress::Done(report) if report.after.role != Role::Primary => self.orders.forget(&why, candidate),
            Progress::Failed(_) if scene.now > since + PROMOTE_MS => self.another(scene, group, record, out),
            _ => {}
        }
    }

    /// The candidate died, too. A planned one goes back to a primary that lives; else whoever comes next.
    fn another(&mut self, scene: &Scene, group: &Group, record: &Failover, out: &mut Out) {
        if !self.writer.is_idle() {
            return;
        }
        let lives = scene.verdict(group, &record.old) == Verdict::Up;
        if record.kind == FailoverKind::Switchover && lives {
            return self.abort(scene, record, "the candidate could not be promoted", out);
        }
        let guard = scene.guard(group);
        let others = group.instances.iter().any(|i| {
            let other = i.addr != record.old && Some(&i.addr) != record.candidate.as_ref();
            other && scene.verdict(group, &i.addr) == Verdict::Up && !guard.is_some_and(|g| g.never.contains(&i.addr))
        });
        if others {
            // When its turn comes again it says anew how far it is.
            if let Some(candidate) = &record.candidate {
                self.orders.forget(&format!("detach/{}", record.id), candidate);
            }
            self.begin_anew(record);
            self.writer.write(scene.now, record::passed_over(scene, record), out);
        } else if scene.is_back(group, record) {
            self.abort(scene, record, "the candidate is gone; the old primary is back, with all it had", out);
        }
    }
}

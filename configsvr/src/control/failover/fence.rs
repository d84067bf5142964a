//! F3, F4: nobody writes to the old primary any more, and nobody hears from it: proxies hold their requests, replicas are
//! detached. Then they say how far they are, and one is chosen.

use super::Failovers;
use super::choose;
use super::orders::Progress;
use super::record;
use super::scene::Scene;
use crate::control::event::{Order, Report};
use crate::control::health::Verdict;
use crate::control::layout::{Failover, FailoverKind};
use crate::control::limits::{DETACH_MS, FENCE_MS, PAUSE_MS, STUCK_MS};
use crate::control::out::Out;
use cluster::group::Group;
use cluster::instance::Addr;

impl Failovers {
    /// From the decision to the choice.
    pub(super) fn fence(&mut self, scene: &Scene, group: &Group, record: &Failover, out: &mut Out) {
        let since = self.entered(scene, record);
        // Somebody said so of one that may live: what it still took from others than our proxies would be lost.
        if record.kind == FailoverKind::Forced {
            let (why, order) = (format!("pause/{}", record.id), Order::Pause { ms: PAUSE_MS });
            let paused = self.orders.want(scene.now, &why, &record.old, order, scene.fence.token, out);
            if matches!(paused, Progress::UnderWay) && scene.now < since + FENCE_MS {
                return;
            }
        }
        // The fleet pushes the topology in which the slots are held; a proxy that is dead must not keep the others waiting.
        if !scene.proxies_serve(record) && scene.now < since + FENCE_MS {
            return;
        }
        let (detached, missing) = self.detach(scene, group, record, out);
        let waited = scene.now >= since + FENCE_MS + DETACH_MS;
        if !self.writer.is_idle() || (missing > 0 && !waited) {
            return;
        }
        match choose::best(scene, group, record, &detached) {
            Some(choice) => self.writer.write(scene.now, record::chosen(scene, record, choice), out),
            None => self.give_up(scene, group, record, out),
        }
    }

    /// Tells every replica to follow nobody. A dead address keeps what they have fit for a partial resync; following no one
    /// would begin a new history on each of them.
    fn detach(
        &mut self,
        scene: &Scene,
        group: &Group,
        record: &Failover,
        out: &mut Out,
    ) -> (Vec<(Addr, Report)>, usize) {
        let why = format!("detach/{}", record.id);
        let (mut detached, mut missing) = (Vec::new(), 0);
        for replica in group.instances.iter().filter(|i| i.addr != record.old) {
            match self.orders.want(scene.now, &why, &replica.addr, Order::Detach, scene.fence.token, out) {
                Progress::Done(report) => detached.push((replica.addr.clone(), *report)),
                Progress::UnderWay => missing += 1,
                Progress::Failed(times) => missing += usize::from(times < 2),
            }
        }
        (detached, missing)
    }

    /// Nobody can take over. If the old primary is back and still is who it was, it may serve on; after a while also if it
    /// is another process: then nobody has what it had, and what it has is all there is.
    fn give_up(&mut self, scene: &Scene, group: &Group, record: &Failover, out: &mut Out) {
        let back = scene.is_back(group, record);
        let lives = scene.verdict(group, &record.old) != Verdict::Unknown && scene.info(&record.old).is_some();
        let last = lives && scene.now > self.entered(scene, record) + STUCK_MS;
        let planned = record.kind != FailoverKind::Failover && scene.verdict(group, &record.old) == Verdict::Up;
        if back || planned || last {
            self.abort(scene, record, "no replica could take over; the old primary serves on", out);
        }
    }
}

//! F8 to F10: the fleet publishes the new topology by itself; here everybody is brought to follow the recorded primary. This
//! never ends: whoever is a primary and is not recorded as one is demoted on first contact, today or next week.

use super::orders::Progress;
use super::record;
use super::scene::Scene;
use super::{DESERTED, Failovers};
use crate::control::board::Board;
use crate::control::event::{Order, Report};
use crate::control::health::{Info, Verdict};
use crate::control::layout::{Failover, Identity, Phase};
use crate::control::limits::{DESERTED_MS, REPAIR_MS};
use crate::control::out::Out;
use cluster::group::Group;
use cluster::instance::{Addr, Instance, Role};

impl Failovers {
    /// From the commit to the end: all that live follow.
    pub(super) fn settle(&mut self, scene: &Scene, group: &Group, record: &Failover, out: &mut Out, board: &mut Board) {
        let known = self.has_entered(record);
        let since = self.entered(scene, record);
        let Some(primary) = group.primary() else { return };
        if !known {
            let message = format!("group {}: {} is the primary now, not {}", group.id, primary.addr, record.old);
            board.tell(out, "failover", &group.id.to_string(), record.epoch, message);
        }
        let lives = |i: &&Instance| scene.verdict(group, &i.addr) == Verdict::Up;
        let follows = |i: &Instance| {
            let info = scene.info(&i.addr);
            info.is_some_and(|info| info.link_up && info.follows.as_ref() == Some(&primary.addr))
        };
        let all = group.replicas().filter(lives).all(follows);
        let unclear = group.replicas().any(|i| scene.verdict(group, &i.addr) == Verdict::Unknown);
        // One that died meanwhile is the next one's business.
        let died = scene.verdict(group, &primary.addr).is_down();
        if (all && !unclear) || died || scene.now > since + REPAIR_MS {
            self.writer.write(scene.now, record::ended(scene, record), out);
        }
    }

    /// Everybody who is not what the record says is told to be.
    pub(super) fn repair(&mut self, scene: &Scene, group: &Group, out: &mut Out, board: &mut Board) {
        let Some(primary) = group.primary() else { return };
        let record = scene.state.failover_of(group.id);
        let committed = record.is_some_and(|r| r.phase == Phase::Repair);
        if record.is_some_and(|r| r.phase.holds()) || (scene.hands_off(group) && !committed) {
            return;
        }
        let known = scene.guard(group).and_then(|g| g.primary.as_ref());
        let Some(known) = known.filter(|k| k.addr == primary.addr) else { return };
        self.recall(scene, group, known, out, board);
        // Not towards one that is dead, or is not who it was.
        let leads = scene.info(&primary.addr).is_some_and(|i| i.role == Role::Primary && i.run_id == known.run_id);
        // Who is told now has not followed it yet, and keeps what it has.
        if scene.verdict(group, &primary.addr).is_down() || (!leads && !committed) {
            return;
        }
        for instance in group.replicas() {
            if scene.verdict(group, &instance.addr).is_down() {
                continue;
            }
            if committed && self.redirect(scene, primary, instance, record, out, board) {
                continue;
            }
            // What was seen before it was told says nothing.
            let told = record.and_then(|r| self.orders.done_at(&format!("redirect/{}", r.id), &instance.addr));
            let told = told.max(self.corrected.get(&instance.addr).copied()).map_or(0, |at| at + 1);
            let begun = self.orders.given("repair", &instance.addr).filter(|o| leads_to(o, &primary.addr)).cloned();
            let wanted = || scene.info_since(&instance.addr, told).and_then(|info| wrong(info, &primary.addr));
            if let Some(order) = begun.or_else(wanted) {
                self.correct(scene, group, instance, order, &known.replid, out, board);
            }
        }
    }

    /// The recorded primary says that it is a replica: somebody told it so, or its configuration does, so that it does not
    /// come up as an empty primary by itself. Where it is the recorded process, or would be accepted as one, it leads again.
    fn recall(&mut self, scene: &Scene, group: &Group, known: &Identity, out: &mut Out, board: &mut Board) {
        let subject = group.id.to_string();
        let info = scene.info(&known.addr).filter(|i| i.role == Role::Replica && !i.loading);
        let Some(info) = info.filter(|_| scene.verdict(group, &known.addr) != Verdict::Unknown) else {
            if self.deserted.remove(&group.id).is_some() {
                board.settle(out, DESERTED, &subject, "it leads again");
            }
            return;
        };
        // What was seen of it before it was promoted says nothing; by then it has been seen anew.
        let since = *self.deserted.entry(group.id).or_insert(scene.now);
        if scene.now < since + DESERTED_MS {
            return;
        }
        let same = info.run_id == known.run_id && info.continues(&known.replid);
        let leads_again = same || scene.is_accepted(group, known);
        if leads_again {
            let order = Order::Lead { run_id: info.run_id.clone() };
            let given = self.orders.want(scene.now, "recall", &known.addr, order, scene.fence.token, out);
            if matches!(given, Progress::Done(_)) {
                self.orders.forget("recall", &known.addr);
            }
        }
        let follows = info.follows.as_ref().map_or("nobody".to_owned(), Addr::to_string);
        let remedy = match leads_again {
            true => "it is told to lead again: is somebody, or its redis.conf, telling it otherwise?",
            false => {
                "it is not who it was: `twemslotctl failover` makes a replica the primary, REPLICAOF NO ONE this one"
            }
        };
        let message = format!("group {}: its primary {} is a replica, of {follows}; {remedy}", group.id, known.addr);
        board.raise(out, DESERTED, &subject, scene.state.epoch_in_force(), message);
    }

    /// Right after the commit nobody waits for a look: everybody is told at once. True: it has not answered yet.
    fn redirect(
        &mut self,
        scene: &Scene,
        primary: &Instance,
        instance: &Instance,
        record: Option<&Failover>,
        out: &mut Out,
        board: &mut Board,
    ) -> bool {
        let Some(record) = record else { return false };
        let why = format!("redirect/{}", record.id);
        let to = primary.addr.clone();
        let order =
            if instance.addr == record.old { Order::Demote { primary: to } } else { Order::Follow { primary: to } };
        match self.orders.want(scene.now, &why, &instance.addr, order, scene.fence.token, out) {
            Progress::UnderWay => true,
            Progress::Failed(_) => false,
            Progress::Done(report) => !self.account(scene, &instance.addr, &report, out, board),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one call, where all of it is at hand")]
    fn correct(
        &mut self,
        scene: &Scene,
        group: &Group,
        instance: &Instance,
        order: Order,
        replid: &str,
        out: &mut Out,
        board: &mut Board,
    ) {
        // A whole data set at a time: two at once would halve each other's line. A demotion does not wait for that.
        let whole = scene.info(&instance.addr).is_some_and(|i| !i.continues(replid));
        let busy = self.orders.any_under_way("repair")
            || group.replicas().any(|r| scene.info(&r.addr).is_some_and(|i| i.syncing));
        if matches!(order, Order::Follow { .. }) && whole && busy {
            return;
        }
        let demotes = matches!(order, Order::Demote { .. });
        match self.orders.want(scene.now, "repair", &instance.addr, order, scene.fence.token, out) {
            Progress::Done(report) => {
                if !self.account(scene, &instance.addr, &report, out, board) {
                    return;
                }
                self.corrected.insert(instance.addr.clone(), scene.now);
                self.orders.forget("repair", &instance.addr);
                if demotes {
                    let epoch = scene.state.epoch_in_force();
                    let message = format!("{} was a primary that nobody recorded: it follows now", instance.addr);
                    board.tell(out, "demoted", &instance.addr.to_string(), epoch, message);
                }
            }
            Progress::UnderWay | Progress::Failed(_) => {}
        }
    }

    /// What an old primary had that nobody else has is reported, once. True: there is nothing (more) to report.
    fn account(&mut self, scene: &Scene, addr: &Addr, report: &Report, out: &mut Out, board: &mut Board) -> bool {
        let replaced = |f: &&Failover| f.old == *addr && f.lost_bytes.is_none() && f.times.committed.is_some();
        let Some(record) = scene.state.failovers.values().rev().map(|i| &i.value).find(replaced) else { return true };
        let before = &report.before;
        let same = before.run_id == record.old_run_id && before.role == Role::Primary;
        let exact = same && before.continues(&record.old_replid);
        // One that was started again cannot say: what was last seen of it is the least.
        let Some((promoted, had)) = record.offset.zip(if exact { Some(before.offset) } else { record.old_offset })
        else {
            return true;
        };
        // Offsets of two histories do not compare: what the new one has of the old one is not known.
        let foreign = is_foreign(record);
        let exact = exact && !foreign;
        let lost = if foreign { had } else { had.saturating_sub(promoted) };
        if !self.writer.is_idle() {
            return false;
        }
        let note = match (exact, foreign) {
            (true, _) => None,
            (_, true) => Some("one of another history was promoted: lost_bytes is all that the old primary had"),
            _ => Some("the old primary was started again: lost_bytes is the least, by what was last seen of it"),
        };
        self.writer.write(scene.now, record::reported(scene, record, lost, note), out);
        if lost > 0 {
            let about = match (exact, foreign) {
                (true, _) => "",
                (_, true) => "another history was chosen: up to ",
                _ => "at least ",
            };
            let message =
                format!("{addr}: {about}{lost} bytes that it had taken were on no other instance and are gone");
            board.tell(out, "writes_lost", &record.group_id.to_string(), record.epoch, message);
        }
        false
    }
}

/// Whether the promoted one had another history than the old primary, which only people can want.
fn is_foreign(record: &Failover) -> bool {
    let former = record.former.as_ref().map(|former| &former.replid);
    let known = [Some(&record.old_replid), Some(&record.replid), former];
    record.continues.as_ref().is_some_and(|chosen| !record.old_replid.is_empty() && !known.contains(&Some(chosen)))
}

fn leads_to(order: &Order, addr: &Addr) -> bool {
    matches!(order, Order::Follow { primary } | Order::Demote { primary } if primary == addr)
}

/// What an instance that should be a replica of `primary` is to be told, if it is not.
fn wrong(info: &Info, primary: &Addr) -> Option<Order> {
    match info.role {
        Role::Primary => Some(Order::Demote { primary: primary.clone() }),
        Role::Replica if info.follows.as_ref() != Some(primary) => Some(Order::Follow { primary: primary.clone() }),
        Role::Replica => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_of_two_histories_do_not_compare() {
        let record = |replid: &str, continues: &str| -> Failover {
            let text = format!(
                r#"{{"id":"1-1","group_id":1,"kind":"forced","phase":"done","epoch":1,"old":"127.0.0.1:1","old_replid":"a",
                "replid":"{replid}","continues":"{continues}","former":{{"replid":"b","offset":5}},"why":"","times":{{"doubted":1,"decided":1}}}}"#
            );
            serde_json::from_str(&text).expect("a record")
        };
        for (replid, continues, foreign) in [("a", "a", false), ("a", "b", false), ("", "a", false), ("", "c", true)] {
            assert_eq!(is_foreign(&record(replid, continues)), foreign, "{replid:?} {continues}");
        }
    }
}

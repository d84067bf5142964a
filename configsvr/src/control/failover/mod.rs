//! Failover: a dead primary is replaced, a living one never. The files are the story, in the order in which it happens.
//!
//! ```text
//! decide    F1 F2  judged dead, nobody objects, a last PING: one transaction makes a record, and holds the group's slots
//! fence     F3 F4  proxies hold their requests (they get 150 ms), replicas are detached and say how far they are
//! switch           a planned one instead: all is quiet, the primary pauses, the candidate catches up
//! choose    F5     by history, then by how much of it, then by preference
//! promote   F6 F7  REPLICAOF NO ONE, verified; one transaction makes it the group's primary, and releases the slots
//! repair    F8-F10 the fleet publishes; everybody else is told to follow, for ever: an unrecorded primary is demoted
//! ```
//! What is decided is in the store (`record`), and each phase begins with a transaction there. What is in memory here is
//! only how far the orders of the present phase are: a new leader gives them again, which does no harm.

mod decide;
mod fence;
mod switch;
mod choose;
mod promote;
mod repair;
mod record;
mod writer;
mod orders;
mod scene;

pub(super) use record::{Begin, begin, next_epoch, put};
pub(super) use scene::Scene;
pub(super) use writer::Writer;

use super::board::Board;
use super::event::{DeedId, Order, Report};
use super::layout::{Failover, FailoverKind, Phase};
use super::limits::STUCK_MS;
use super::out::Out;
use crate::store::{Fault, Verdict};
use cluster::group::{Group, GroupId};
use cluster::instance::Addr;
use orders::Orders;
use std::collections::{BTreeMap, BTreeSet};

/// Alarms that only a leader raises.
pub(super) const ALARMS: [&str; 7] =
    ["failover_vetoed", "failover_frozen", STUCK, "no_candidate", "failover_off", "automation_off", DESERTED];
const STUCK: &str = "failover_stuck";
const DESERTED: &str = "not_a_primary";

/// What a leader remembers of the failovers that are under way.
#[derive(Debug, Default)]
pub(super) struct Failovers {
    orders: Orders,
    writer: Writer,
    /// When this leader first saw a record in its phase.
    since: BTreeMap<(String, &'static str), u64>,
    /// When an instance was last brought to follow: what was seen of it before says nothing.
    corrected: BTreeMap<Addr, u64>,
    /// Since when a group cannot be helped.
    helpless: BTreeMap<GroupId, u64>,
    /// Groups whose primary is judged dead now.
    down: usize,
    /// Judged dead, but somebody objected: how often.
    vetoes: u64,
    vetoed: BTreeSet<GroupId>,
    /// Groups whose failover does not get on.
    stuck: BTreeSet<GroupId>,
    /// Since when a group's recorded primary says that it is none.
    deserted: BTreeMap<GroupId, u64>,
}

impl Failovers {
    /// Another leads: what is under way is its business, and in the store.
    pub(super) fn retire(&mut self) {
        let vetoes = self.vetoes;
        *self = Self { vetoes, ..Self::default() };
    }

    /// True: it was ours.
    pub(super) fn wrote(&mut self, now: u64, deed: DeedId, outcome: &Result<Verdict, Fault>) -> bool {
        self.writer.wrote(now, deed, outcome)
    }

    pub(super) fn ordered(&mut self, now: u64, deed: DeedId, outcome: Result<Report, String>) {
        self.orders.done(now, deed, outcome);
    }

    pub(super) fn vetoes(&self) -> u64 {
        self.vetoes
    }

    /// Goes on with everything, as far as it can.
    pub(super) fn advance(&mut self, scene: &Scene, out: &mut Out, board: &mut Board) {
        self.writer.look(scene, out);
        self.tell_automation(scene, out, board);
        if scene.is_settled() {
            self.count_down(scene);
            self.know_primaries(scene, out);
            for group in scene.groups() {
                match scene.state.failover_of(group.id) {
                    Some(record) => self.go_on(scene, group, record, out, board),
                    None => {
                        self.goes_on(group, out, board);
                        self.decide(scene, group, out, board);
                    }
                }
                self.repair(scene, group, out, board);
            }
        }
        self.orders.sweep(scene.now);
        let alive = |id: &str| scene.state.failovers.get(id).is_some_and(|f| !f.value.phase.is_over());
        self.since.retain(|(id, _), _| alive(id));
    }

    fn go_on(&mut self, scene: &Scene, group: &Group, record: &Failover, out: &mut Out, board: &mut Board) {
        match (record.phase, record.kind) {
            (Phase::Fence, FailoverKind::Switchover) => self.switch(scene, group, record, out),
            (Phase::Fence, _) => self.fence(scene, group, record, out),
            (Phase::Promote, _) => self.promote(scene, group, record, out),
            (Phase::Repair, _) => self.settle(scene, group, record, out, board),
            (Phase::Done | Phase::Aborted, _) => {}
        }
        self.entered(scene, record);
        if record.phase.holds() && scene.wall > record.times.decided + STUCK_MS {
            let message = format!("the failover of group {} does not get on: {}", group.id, record.why);
            self.stuck.insert(group.id);
            board.raise(out, STUCK, &group.id.to_string(), record.epoch, message);
        } else {
            self.goes_on(group, out, board);
        }
    }

    fn goes_on(&mut self, group: &Group, out: &mut Out, board: &mut Board) {
        if self.stuck.remove(&group.id) {
            board.settle(out, STUCK, &group.id.to_string(), "it went on");
        }
    }

    /// From the first step again, with all its time.
    fn begin_anew(&mut self, record: &Failover) {
        self.since.retain(|(id, _), _| *id != record.id);
    }

    /// Nothing was recorded: the old primary serves on, and lets pass whatever it was told to hold up.
    fn abort(&mut self, scene: &Scene, record: &Failover, why: &str, out: &mut Out) {
        if record.kind != FailoverKind::Failover {
            let resume = format!("resume/{}", record.id);
            self.orders.want(scene.now, &resume, &record.old, Order::Resume, scene.fence.token, out);
        }
        if let Some(txn) = record::aborted(scene, record, why) {
            self.writer.write(scene.now, txn, out);
        }
    }

    /// When this leader first saw the record in this phase.
    fn entered(&mut self, scene: &Scene, record: &Failover) -> u64 {
        *self.since.entry((record.id.clone(), record.phase.word())).or_insert(scene.now)
    }

    fn has_entered(&self, record: &Failover) -> bool {
        self.since.contains_key(&(record.id.clone(), record.phase.word()))
    }

    fn tell_automation(&self, scene: &Scene, out: &mut Out, board: &mut Board) {
        if scene.state.automation_paused() {
            let message = "automation is paused: a dead primary is not replaced".to_owned();
            board.raise(out, "automation_off", "", scene.state.epoch_in_force(), message);
        } else {
            board.settle(out, "automation_off", "", "automation goes on");
        }
    }
}

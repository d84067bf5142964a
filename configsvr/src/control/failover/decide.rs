//! F1, F2: is it dead? Then one transaction says so, holds the group's slots, and makes the record that the rest follows
//! from. One decision an epoch: the transaction compares the epoch and makes the next one.

use super::Failovers;
use super::orders::Progress;
use super::record::{self, Begin};
use super::scene::Scene;
use crate::control::board::Board;
use crate::control::event::Order;
use crate::control::health::{Case, Judgement};
use crate::control::layout::{FailoverKind, Guard, Identity};
use crate::control::limits::{FAILOVER_PAUSE_MS, GROUPS_DOWN_PERCENT, IDENTITIES_AT_ONCE, STUCK_MS, VETO_ALARM_MS};
use crate::control::look::Verdict;
use crate::control::out::Out;
use cluster::group::{Group, GroupId};
use cluster::instance::Role;

const VETOED: &str = "failover_vetoed";
const FROZEN: &str = "failover_frozen";
const HELPLESS: &str = "no_candidate";
const OFF: &str = "failover_off";

impl Failovers {
    /// Whether the group's primary is to be replaced.
    pub(super) fn decide(&mut self, scene: &Scene, group: &Group, out: &mut Out, board: &mut Board) {
        if scene.state.fencing().any(|task| task.from == group.id || task.to == group.id) {
            return; // its slots are released first, at once
        }
        let none = Guard::default();
        let guard = scene.guard(group).unwrap_or(&none);
        let known = guard.primary.as_ref().filter(|i| group.primary().is_some_and(|p| p.addr == i.addr));
        match (scene.judge(group, &scene.fleet.beats()), known) {
            (Judgement::Well | Judgement::Doubt, _) => self.all_clear(group, out, board),
            (Judgement::Vetoed { why, since }, _) => self.vetoed(scene, group, &why, since, out, board),
            // Nobody knows whose history to go on with.
            (Judgement::Down(case), None) => {
                let since = *self.helpless.entry(group.id).or_insert(scene.now);
                if scene.now > since + STUCK_MS {
                    let id = group.id;
                    let why = format!("group {id}: the primary was never seen at work: {}", case.why);
                    board.raise(out, HELPLESS, &id.to_string(), scene.state.epoch_in_force(), why);
                }
            }
            (Judgement::Down(case), Some(identity)) => {
                if let Some((kind, why)) = self.obstacle(scene, group, guard, &case) {
                    let since = *self.helpless.entry(group.id).or_insert(scene.now);
                    if kind != HELPLESS || scene.now > since + STUCK_MS {
                        board.raise(out, kind, &group.id.to_string(), scene.state.epoch_in_force(), why);
                    }
                    return;
                }
                if self.writer.is_idle() && self.is_silent(scene, group, identity, &case, out) {
                    self.begin(scene, group, identity, case, out, board);
                }
            }
        }
    }

    fn all_clear(&mut self, group: &Group, out: &mut Out, board: &mut Board) {
        self.forget_silence(group);
        if self.helpless.remove(&group.id).is_some() | self.vetoed.remove(&group.id) {
            for kind in [VETOED, FROZEN, HELPLESS, OFF] {
                board.settle(out, kind, &group.id.to_string(), "the primary answers");
            }
        }
    }

    /// A last PING that was not answered says something of its moment alone.
    fn forget_silence(&mut self, group: &Group) {
        if let Some(primary) = group.primary().filter(|_| !self.orders.is_empty()) {
            self.orders.forget(&format!("last-chance/{}", group.id), &primary.addr);
        }
    }

    fn vetoed(&mut self, scene: &Scene, group: &Group, why: &str, since: u64, out: &mut Out, board: &mut Board) {
        self.forget_silence(group);
        self.vetoes += u64::from(self.vetoed.insert(group.id));
        if scene.now > since + VETO_ALARM_MS {
            let message = format!("group {}: the configsvrs do not reach the primary, but {why}", group.id);
            board.raise(out, VETOED, &group.id.to_string(), scene.state.epoch_in_force(), message);
        }
    }

    /// What forbids a failover now, although the primary is down.
    fn obstacle(&self, scene: &Scene, group: &Group, guard: &Guard, case: &Case) -> Option<(&'static str, String)> {
        let id = group.id;
        if scene.hands_off(group) {
            let how = if guard.maintenance { "the group is in maintenance" } else { "automation is paused" };
            return Some((OFF, format!("group {id}: the primary is down and {how}: {}", case.why)));
        }
        if !scene.own.sound {
            return Some((FROZEN, format!("group {id}: this member's own view is not to be trusted")));
        }
        // One that was started again is not waited with: it answers, so nobody is cut off from it, and its replicas will
        // forget what they hold as soon as they have taken over its emptiness.
        if !case.reborn
            && let Some(obstacle) = self.caution(scene, id, case)
        {
            return Some(obstacle);
        }
        if !scene.health.promotable(scene.now, group, guard, case.since) {
            return Some((HELPLESS, format!("group {id}: no replica can take over: {}", case.why)));
        }
        None
    }

    /// What speaks for waiting.
    fn caution(&self, scene: &Scene, id: GroupId, case: &Case) -> Option<(&'static str, String)> {
        let most = (scene.groups().len() * GROUPS_DOWN_PERCENT / 100).max(1);
        if self.down > most && !case.proxies_agree {
            let down = self.down;
            let why = format!("{down} groups seem to be down at once and proxies do not say so: are we cut off?");
            return Some((FROZEN, why));
        }
        let last = last_decision(scene, id).filter(|at| scene.wall.abs_diff(*at) < FAILOVER_PAUSE_MS)?;
        let ago = scene.wall.abs_diff(last) / 1000;
        Some((HELPLESS, format!("group {id}: down again {ago} s after a failover: {}", case.why)))
    }

    /// How many groups' primaries are dead, as far as anybody can see.
    pub(super) fn count_down(&mut self, scene: &Scene) {
        let beats = scene.fleet.beats();
        let dead = |g: &&Group| matches!(scene.judge(g, &beats), Judgement::Down(case) if !case.reborn);
        self.down = scene.groups().iter().filter(dead).count();
    }

    /// A last PING, on a connection of its own.
    fn is_silent(&mut self, scene: &Scene, group: &Group, identity: &Identity, case: &Case, out: &mut Out) -> bool {
        let why = format!("last-chance/{}", group.id);
        match self.orders.want(scene.now, &why, &identity.addr, Order::Ping, scene.fence.token, out) {
            Progress::UnderWay => false,
            // One that was started again answers. If it does not answer this, it may be ours that is broken: as long as
            // our watcher hears it, we ask again.
            Progress::Failed(_) if case.reborn => {
                let verdict = scene.health.verdict(scene.now, group, &identity.addr, scene.state);
                let silent = !matches!(verdict, Verdict::Up | Verdict::Reborn);
                if !silent {
                    self.orders.forget(&why, &identity.addr);
                }
                silent
            }
            Progress::Failed(_) => true,
            Progress::Done(report) => {
                self.orders.forget(&why, &identity.addr);
                case.reborn && report.after.run_id != identity.run_id
            }
        }
    }

    fn begin(
        &mut self,
        scene: &Scene,
        group: &Group,
        identity: &Identity,
        case: Case,
        out: &mut Out,
        board: &mut Board,
    ) {
        let Some(known) = scene.known() else { return };
        let doubted = scene.wall.saturating_sub(scene.now.saturating_sub(case.since));
        let what = Begin {
            kind: FailoverKind::Failover,
            why: case.why.clone(),
            evidence: case.evidence,
            wanted: None,
            old_offset: group.primary().and_then(|p| scene.health.last_offset(&p.addr, identity)),
            doubted,
        };
        let Some(step) = record::begin(scene.state, known, group, what, scene.wall) else { return };
        let epoch = step.epoch.epoch;
        self.writer.write(scene.now, record::transaction(scene.state, scene.fence, step), out);
        // If the store refuses this, it may be long before it is written again.
        self.forget_silence(group);
        board.tell(
            out,
            "failover",
            &group.id.to_string(),
            epoch,
            format!("group {}: failover: {}", group.id, case.why),
        );
    }

    /// Keeps the record of all primaries' processes and histories.
    pub(super) fn know_primaries(&mut self, scene: &Scene, out: &mut Out) {
        if !self.writer.is_idle() {
            return;
        }
        let quiet = scene.groups().iter().filter(|g| scene.state.failover_of(g.id).is_none());
        let news: Vec<(&Group, Identity)> =
            quiet.filter_map(|g| Some((g, news_of(scene, g)?))).take(IDENTITIES_AT_ONCE).collect();
        if !news.is_empty()
            && let Some(txn) = record::guarded(scene, news)
        {
            self.writer.write(scene.now, txn, out);
        }
    }
}

/// What is to be recorded of a group's primary, if that is something else than what is.
fn news_of(scene: &Scene, group: &Group) -> Option<Identity> {
    let primary = group.primary()?;
    let info = scene.info(&primary.addr).filter(|i| i.role == Role::Primary && !i.loading)?;
    let (run_id, replid) = (info.run_id.clone(), info.replid.clone());
    let now = Identity { addr: primary.addr.clone(), run_id, replid, former: None };
    let accept = match scene.guard(group).and_then(|guard| guard.primary.as_ref()) {
        Some(known) if known.is(&now) => false,
        // Another one by somebody's hand, or one that changed its history by itself (its backlog was freed).
        Some(known) if known.addr != now.addr || known.run_id == now.run_id => true,
        Some(known) => scene.is_accepted(group, known),
        None => true,
    };
    accept.then_some(now)
}

/// When a failover of the group was decided last, by people's clock.
fn last_decision(scene: &Scene, group: GroupId) -> Option<u64> {
    let of = |f: &&crate::control::layout::Failover| f.group_id == group && f.kind == FailoverKind::Failover;
    scene.state.failovers.values().rev().map(|i| &i.value).find(of).map(|f| f.times.decided)
}

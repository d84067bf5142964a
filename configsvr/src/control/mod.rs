//! Control: the decisions of a configsvr. Pure: events and `now` in, actions out.
//!
//! Three rules make it safe, and let it run in a simulation:
//! - only `Event::Committed` changes what is held to be true (`state`); everything else is memory of what is under way,
//!   which may be lost at any moment;
//! - every write carries its fence (the leader's key, the epoch's key, as they were when it was decided), so that the deed
//!   of a deposed leader fails where it arrives;
//! - whoever leads next goes on from what is committed.

mod changes;
mod plan;
mod migration;
mod failover;
pub mod measure;
pub mod balance;
pub mod fleet;
pub mod health;
mod fitness;
mod lead;
mod state;
mod stored;
mod board;
mod out;
pub mod view;
pub mod event;
pub mod command;
pub mod task;
pub mod job;
pub mod look;
pub mod layout;
pub mod limits;
#[cfg(test)]
mod tests;

pub use changes::repeated;
pub use lead::Member;
pub use stored::{for_proxies, ranges, sum_of};

use board::Board;
use changes::{Changes, Ground};
use event::{Action, Event};
use failover::{Failovers, Scene};
use fleet::Fleet;
use health::{Ballot, Health};
use lead::{Fence, Lead};
use limits::TICK_MIN_MS;
use migration::Migrations;
use out::Out;
use state::{Standing, State};
use std::sync::Arc;
use view::View;

/// One member's control.
#[derive(Debug)]
pub struct Control {
    state: State,
    lead: Lead,
    changes: Changes,
    fleet: Fleet,
    health: Health,
    failovers: Failovers,
    migrations: Migrations,
    board: Board,
    out: Out,
    /// Who leads, as it was told last.
    leader_told: Option<(String, String)>,
    /// Of the last step.
    now: u64,
}

impl Control {
    /// `seed`: of the jitter of retries.
    pub fn new(member: Member, seed: u64) -> Self {
        Self {
            state: State::default(),
            lead: Lead::new(member),
            changes: Changes::default(),
            fleet: Fleet::new(seed),
            health: Health::default(),
            failovers: Failovers::default(),
            migrations: Migrations::default(),
            board: Board::default(),
            out: Out::default(),
            leader_told: None,
            now: 0,
        }
    }

    /// A primary that owes an answer for so long hangs, where its group says nothing else.
    #[must_use]
    pub fn with_hang_ms(mut self, ms: u64) -> Self {
        self.health.set_hang_ms(ms);
        self
    }

    /// How a person deletes the key `leader`, where the store can be reached by other means: `leader_disputed` says it.
    #[must_use]
    pub fn with_record_deleted_by(mut self, command: String) -> Self {
        self.lead.deletes_record = command;
        self
    }

    /// Takes an event; what is to be done, in this order. `now_ms` never goes back; `wall_ms`: since 1970, for people.
    pub fn step(&mut self, now_ms: u64, wall_ms: u64, event: Event) -> Vec<Action> {
        self.now = now_ms;
        self.health.wake(now_ms);
        self.take(now_ms, event);
        self.tell_leader();
        self.tell_dispute(now_ms);
        let fence = self.lead.fence(&self.state);
        self.lead.advance(now_ms, &self.state, &mut self.out);
        let leader = self.lead.leader(&self.state);
        let leading = self.lead.leading(&self.state);
        let ground = Ground { state: &self.state, fence: fence.as_ref(), leading, leader: leader.as_ref() };
        if !leading {
            self.changes.deposed(&ground, &mut self.out);
        }
        self.changes.advance(now_ms, wall_ms, &ground, &mut self.out);
        if let Some((all, close)) = self.health.watch_list(now_ms, &self.state) {
            self.out.push(Action::Watch { all, close });
        }
        match &fence {
            Some(fence) => {
                self.fleet.advance(now_ms, &self.state, fence, &mut self.out, &mut self.board);
                self.guard(now_ms, wall_ms, fence);
            }
            None => self.retire(),
        }
        self.out.take()
    }

    /// The leader's care for the instances.
    fn guard(&mut self, now: u64, wall: u64, fence: &Fence) {
        let own = self.health.ballot(now, &self.state);
        if self.health.is_poll_due(now, &own) {
            self.out.push(Action::Poll);
        }
        let (state, health, fleet) = (&self.state, &self.health, &self.fleet);
        let scene = Scene { now, wall, state, fence, health, fleet, own: &own };
        // First: a fence that is in the way of a failover opens.
        self.migrations.advance(&scene, &mut self.out, &mut self.board);
        self.failovers.advance(&scene, &mut self.out, &mut self.board);
    }

    /// What this member has to say against instances, for the leader.
    pub fn ballot(&self, now_ms: u64) -> Ballot {
        self.health.ballot(now_ms, &self.state)
    }

    /// When `Event::Tick` is wanted at the latest, in the clock of `now_ms`. A little after the last step at the earliest:
    /// what waits for somebody else does not make a loop spin.
    pub fn deadline(&self) -> Option<u64> {
        let fleet = self.fence().and_then(|_| self.fleet.deadline());
        let all = [self.changes.deadline(), self.lead.deadline(&self.state), fleet];
        all.into_iter().flatten().min().map(|at| at.max(self.now + TICK_MIN_MS))
    }

    /// Whether this member acts as leader: raft and the store both say so.
    pub fn acting(&self) -> bool {
        self.fence().is_some()
    }

    /// The epoch in force; 0: none.
    pub fn epoch(&self) -> u64 {
        self.state.epoch_in_force()
    }

    /// The proxies' barriers.
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// Changes that wait or are under way.
    pub fn waiting(&self) -> usize {
        self.changes.waiting()
    }

    /// All that is known. Costs a copy of the proxies' records: not to be made for every event.
    pub fn view(&self, now_ms: u64) -> View {
        let state = &self.state;
        let in_force = state.in_force.as_ref();
        let lost = state.lost.values().map(|record| (record, false));
        let registered = state.proxies.values().map(|item| (&item.value, !item.value.left));
        let mut proxies: Vec<_> =
            registered.chain(lost).map(|(record, alive)| self.fleet.view(now_ms, record, alive)).collect();
        proxies.sort_by(|a, b| a.record.id.cmp(&b.record.id));
        View {
            leading: self.acting(),
            leader: self.lead.leader(state),
            token: self.fence().map(|fence| fence.token),
            settings: state.settings.as_ref().map(|item| item.value.clone()),
            topology: in_force.map(|now| now.topology.clone()),
            message: in_force.map(|now| now.message.clone()),
            groups: in_force.map(|now| now.groups.clone()).unwrap_or_default(),
            slots: in_force.map(|now| now.slots.clone()).unwrap_or_default(),
            proxies,
            audit: Arc::clone(&state.audit),
            instances: self.health.view(now_ms, state),
            guards: state.guards.values().map(|item| item.value.clone()).collect(),
            failovers: state.failovers.values().map(|item| item.value.clone()).collect(),
            vetoes: self.failovers.vetoes(),
            migrations: state.all_tasks().map(|task| self.migrations.view(now_ms, task)).collect(),
            alarms: self.board.open(),
            invalid: state.invalid(),
            heard: state.standing != Standing::Unheard,
            revision: state.revision,
            store_fault: state.store_fault.clone(),
        }
    }

    fn fence(&self) -> Option<Fence> {
        self.lead.fence(&self.state)
    }

    fn take(&mut self, now: u64, event: Event) {
        match event {
            Event::Tick => {}
            Event::Leadership(leadership) => {
                if self.lead.hear(leadership) {
                    self.retire();
                }
            }
            Event::Committed(notice) => {
                let changes = self.state.apply(notice);
                if changes.topology {
                    self.health.keep(&self.state);
                }
                self.tell(&changes);
            }
            Event::Asked { call, request } => {
                let fence = self.lead.fence(&self.state);
                let leader = self.lead.leader(&self.state);
                let leading = self.lead.leading(&self.state);
                let ground = Ground { state: &self.state, fence: fence.as_ref(), leading, leader: leader.as_ref() };
                self.changes.ask(now, call, request, &ground, &mut self.out);
            }
            Event::Beat { call, beat } => self.beat(now, call, beat),
            Event::Wrote { deed, outcome } => {
                let ours = self.lead.wrote(deed, now)
                    || self.failovers.wrote(now, deed, &outcome)
                    || self.migrations.wrote(now, deed, &outcome);
                if !ours {
                    self.fleet.wrote(now, deed, &outcome);
                    self.changes.wrote(now, deed, outcome, &mut self.out);
                }
            }
            Event::Probed { deed, seen } => self.changes.probed(deed, seen),
            Event::Followed { deed, outcome } => self.changes.followed(deed, outcome, &mut self.out),
            Event::Granted { deed, outcome } => self.fleet.granted(now, deed, outcome, &self.state),
            Event::KeptAlive { deed, outcome } => self.fleet.kept_alive(now, deed, &outcome),
            Event::Pushed { deed, outcome } => {
                self.fleet.pushed(now, deed, outcome, &mut self.out, &mut self.board);
            }
            Event::Observed(looks) => self.health.observed(now, looks),
            Event::Polled { asked, voters, member, ballot } => self.health.polled(now, asked, voters, member, ballot),
            Event::Ordered { deed, outcome } => self.failovers.ordered(now, deed, outcome),
            Event::Moved { task, attempt, status } => self.migrations.moved(now, &task, attempt, status),
            Event::Swept { deed, outcome } => self.migrations.swept(now, deed, outcome),
            Event::Audited { deed, outcome } => self.migrations.audited(now, deed, outcome),
        }
    }

    fn beat(&mut self, now: u64, call: event::CallId, beat: command::Beat) {
        if self.fence().is_some() {
            return self.fleet.beat(now, call, beat, &self.state, &mut self.out);
        }
        let leader = self.lead.leader(&self.state);
        let ground = Ground { state: &self.state, fence: None, leading: false, leader: leader.as_ref() };
        self.out.push(Action::AnswerBeat { call, outcome: Err(ground.not_leader()) });
    }

    /// What only a leader knows is forgotten.
    fn retire(&mut self) {
        self.fleet.reset();
        self.health.retire();
        self.failovers.retire();
        self.migrations.retire(&mut self.out);
        for kind in fleet::ALARMS.into_iter().chain(failover::ALARMS).chain(migration::ALARMS) {
            self.board.settle_all(&mut self.out, kind, "this member does not lead any more");
        }
    }

    fn tell_leader(&mut self) {
        let leader = self.lead.leader(&self.state);
        if leader == self.leader_told {
            return;
        }
        let message = match &leader {
            Some((name, addr)) => format!("{name} at {addr} leads"),
            None => "nobody is known to lead".to_owned(),
        };
        self.board.tell(&mut self.out, "leader", "", self.state.epoch_in_force(), message);
        self.leader_told = leader;
    }

    fn tell_dispute(&mut self, now: u64) {
        match self.lead.disputed(now, &self.state) {
            Some(why) => self.board.raise(&mut self.out, "leader_disputed", "", self.state.epoch_in_force(), why),
            None => self.board.settle(&mut self.out, "leader_disputed", "", "raft and the store agree who leads"),
        }
    }

    /// Tells people what the watch brought.
    fn tell(&mut self, changes: &state::Changes) {
        let (board, out, state) = (&mut self.board, &mut self.out, &self.state);
        let epoch = state.epoch_in_force();
        match &changes.store {
            Some(Err(why)) => board.raise(out, "store_lost", "", epoch, format!("the store cannot be reached: {why}")),
            Some(Ok(())) => {
                board.settle(out, "store_lost", "", "the store is back");
                board.tell(out, "store_back", "", epoch, "the store is back".to_owned());
            }
            None => {}
        }
        if changes.topology {
            let slots =
                state.in_force.as_ref().map_or(0, |f| f.topology.slots().iter().filter(|s| s.group.is_some()).count());
            let groups = state.in_force.as_ref().map_or(0, |f| f.groups.len());
            board.tell(out, "topology", "", epoch, format!("epoch {epoch}: {groups} groups own {slots} slots"));
        }
        let faults = state.invalid();
        match (&state.standing, faults.first()) {
            (_, None) => board.settle(out, "invalid_edit", "", "the store's contents make sense again"),
            (standing, Some(first)) => {
                let more = if faults.len() > 1 { format!(" (and {} more)", faults.len() - 1) } else { String::new() };
                let stays = if *standing == Standing::Valid {
                    String::new()
                } else {
                    format!("; epoch {epoch} stays in force")
                };
                board.raise(out, "invalid_edit", "", epoch, format!("{first}{more}{stays}"));
            }
        }
        for id in &changes.joined {
            board.settle(out, "proxy_lost", id, "it is back");
            board.tell(out, "proxy_joined", id, epoch, format!("proxy {id} is registered"));
        }
        for id in &changes.removed {
            board.settle(out, "proxy_lost", id, "it was removed");
        }
        for proxy in &changes.lost {
            let message = format!("proxy {} at {} has said nothing for its time to live", proxy.id, proxy.addr);
            if proxy.draining || proxy.left {
                board.tell(out, "proxy_lost", &proxy.id, epoch, message);
            } else {
                board.raise(out, "proxy_lost", &proxy.id, epoch, message);
            }
        }
        let gone = changes.lost.iter().map(|p| p.id.as_str()).chain(changes.removed.iter().map(String::as_str));
        self.fleet.gone(gone);
    }
}

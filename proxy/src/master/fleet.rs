//! Who should live. Pure: what happened and the time go in, what is to be done comes out.
//!
//! A *seat* is a place that one worker holds at a time; its number is the worker's index. A worker is one process,
//! known by an `Id` that is never given again. Each address has one socket for each seat (a unix socket: one for all);
//! the master keeps them, and a seat's socket goes to every worker that comes to hold the seat, so what waits in its
//! queue outlives the worker. After a shrink the sockets of seats that are gone are served by those that stay.

#[cfg(test)]
mod tests;
mod words;

use std::collections::{BTreeMap, BTreeSet};
pub(super) use words::{Action, Behind, Event, Id, Inherited, Layout, Mail, Progress, Seat, Sockets, View};

/// A worker that lives shorter than this has died quickly.
const QUICK_US: u64 = 2_000_000;
/// The delay after the second quick death in a row; it doubles with each further one. The first is answered at once.
const DELAY_FIRST_US: u64 = 10_000;
const DELAY_MAX_US: u64 = 5_000_000;
/// A worker that does not say `Ready` by then hangs.
const START_US: u64 = 10_000_000;
/// A killed process that is not gone by then is stuck in the kernel; it is left behind at the end.
const GRACE_US: u64 = 2_000_000;
/// A worker's page shows a client it was given long before this.
const RECOUNT_US: u64 = 1_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starting { deadline_us: u64 },
    Live,
    Draining { deadline_us: u64 },
    Killed { deadline_us: u64 },
}

#[derive(Debug)]
struct Worker {
    seat: Seat,
    pid: u32,
    /// Started by the master image before this one: to be replaced.
    old: bool,
    started_us: u64,
    phase: Phase,
    given: BTreeSet<(String, usize)>,
    listening: BTreeSet<String>,
    serving: u64,
    quiet: u64,
    /// What is in the way of `Quiet`, and why a topology cannot be served; each with its epoch.
    unquiet: Option<(u64, String)>,
    refused: Option<(u64, String)>,
    /// Clients forwarded to it that its own count may not show yet.
    adopted: u64,
}

impl Worker {
    /// Neither on its way out nor dead.
    fn stays(&self) -> bool {
        matches!(self.phase, Phase::Starting { .. } | Phase::Live)
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct SeatState {
    quick_deaths: u32,
    not_before_us: u64,
    restarts: u64,
}

#[derive(Debug, Clone, Copy)]
struct Name {
    sockets: Sockets,
    /// No longer wanted; served until all others are.
    leaving: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    No,
    Draining,
    Now,
}

/// All workers, and what is wanted of them.
#[derive(Debug)]
pub(super) struct Fleet {
    seats: Vec<SeatState>,
    workers: BTreeMap<Id, Worker>,
    names: BTreeMap<String, Name>,
    next_id: Id,
    epoch: u64,
    drain_timeout_us: u64,
    stop: Stop,
    recounted_us: u64,
    actions: Vec<Action>,
}

impl Fleet {
    pub(super) fn new() -> Self {
        Self {
            seats: Vec::new(),
            workers: BTreeMap::new(),
            names: BTreeMap::new(),
            next_id: 1,
            epoch: 0,
            drain_timeout_us: 0,
            stop: Stop::No,
            recounted_us: 0,
            actions: Vec::new(),
        }
    }

    /// Takes over workers of the image before this one; they are replaced once their successors serve.
    pub(super) fn inherit(&mut self, next_id: Id, names: BTreeMap<String, Sockets>, workers: Vec<Inherited>, now: u64) {
        self.next_id = next_id;
        self.names = names.into_iter().map(|(name, sockets)| (name, Name { sockets, leaving: false })).collect();
        for w in workers {
            let phase = if w.draining { Phase::Draining { deadline_us: now + START_US } } else { Phase::Live };
            let listening = w.given.iter().map(|(name, _)| name.clone()).collect();
            let worker = Worker {
                seat: w.seat,
                pid: w.pid,
                old: true,
                started_us: 0,
                phase,
                given: w.given,
                listening,
                serving: w.serving,
                quiet: w.quiet,
                unquiet: None,
                refused: None,
                adopted: 0,
            };
            self.workers.insert(w.id, worker);
        }
    }

    /// What `inherit` of the next image wants to know.
    pub(super) fn bequest(&self) -> (Id, Vec<Inherited>) {
        let workers = self.workers.iter().map(|(&id, w)| Inherited {
            id,
            seat: w.seat,
            pid: w.pid,
            given: w.given.clone(),
            serving: w.serving,
            quiet: w.quiet,
            draining: !w.stays(),
        });
        (self.next_id, workers.collect())
    }

    /// Takes in what happened; gives what is to be done now. `now` in microseconds, never less than before.
    pub(super) fn step(&mut self, now: u64, event: Event) -> Vec<Action> {
        self.note(now, event);
        if self.stop == Stop::No {
            self.spawn_missing(now);
            self.hand_out_sockets();
            self.drop_leaving_names();
            self.drain_surplus(now);
        }
        self.kill_overdue(now);
        self.exit_when_over(now);
        std::mem::take(&mut self.actions)
    }

    fn note(&mut self, now: u64, event: Event) {
        match event {
            Event::Tick => self.recount(now),
            Event::Layout(layout) => self.note_layout(layout),
            Event::Topology { epoch } => {
                self.epoch = epoch;
                let told = self.workers.iter().filter(|(_, w)| !matches!(w.phase, Phase::Killed { .. }));
                let told: Vec<Id> = told.map(|(&id, _)| id).collect();
                told.into_iter().for_each(|id| self.send(id, Mail::Topology { epoch }));
            }
            Event::Died { id } => self.note_death(now, id),
            Event::Stop { now: at_once } => self.note_stop(now, at_once),
            Event::Spawned { id, pid } => self.with(id, |w| w.pid = pid),
            Event::Ready { id } => self.with(id, |w| {
                if matches!(w.phase, Phase::Starting { .. }) {
                    w.phase = Phase::Live;
                }
            }),
            Event::Listening { id, name } => self.with(id, |w| _ = w.listening.insert(name)),
            Event::Serving { id, epoch } => self.with(id, |w| w.serving = epoch),
            Event::Quiet { id, epoch } => self.with(id, |w| w.quiet = epoch),
            Event::NotQuiet { id, epoch, why } => self.with(id, |w| w.unquiet = Some((epoch, why))),
            Event::Refused { id, epoch, why } => self.with(id, |w| w.refused = Some((epoch, why))),
        }
    }

    /// By now the workers' own counts show the clients they were given.
    fn recount(&mut self, now: u64) {
        if now >= self.recounted_us + RECOUNT_US {
            self.recounted_us = now;
            self.workers.values_mut().for_each(|w| w.adopted = 0);
        }
    }

    fn with(&mut self, id: Id, change: impl FnOnce(&mut Worker)) {
        if let Some(worker) = self.workers.get_mut(&id) {
            change(worker);
        }
    }

    fn note_layout(&mut self, layout: Layout) {
        self.drain_timeout_us = layout.drain_timeout_us;
        self.seats.resize(layout.workers.max(1), SeatState::default());
        self.names.values_mut().for_each(|n| n.leaving = true);
        for (name, sockets) in layout.names {
            self.names.insert(name, Name { sockets, leaving: false });
        }
    }

    fn note_death(&mut self, now: u64, id: Id) {
        let Some(worker) = self.workers.remove(&id) else { return };
        let Some(seat) = self.seats.get_mut(worker.seat) else { return };
        if self.stop != Stop::No || worker.old || matches!(worker.phase, Phase::Draining { .. }) {
            return;
        }
        let quick = worker.phase != Phase::Live || now.saturating_sub(worker.started_us) < QUICK_US;
        seat.quick_deaths = if quick { seat.quick_deaths.saturating_add(1) } else { 0 };
        let delay_us = match seat.quick_deaths {
            0 | 1 => 0,
            n => DELAY_FIRST_US.saturating_mul(1 << (n - 2).min(30)).min(DELAY_MAX_US),
        };
        seat.not_before_us = now + delay_us;
        seat.restarts += 1;
        self.actions.push(Action::Mourn { seat: worker.seat, delay_us });
    }

    fn note_stop(&mut self, now: u64, at_once: bool) {
        let before = self.stop;
        self.stop = if at_once || before != Stop::No { Stop::Now } else { Stop::Draining };
        if before == Stop::No {
            // What connects from now on is refused at once, and goes to another proxy.
            let names = std::mem::take(&mut self.names);
            self.actions.extend(names.into_keys().map(|name| Action::Close { name }));
        }
        for id in self.ids() {
            match self.stop {
                Stop::Now => self.kill(now, id),
                _ => self.drain(now, id, false),
            }
        }
    }

    fn ids(&self) -> Vec<Id> {
        self.workers.keys().copied().collect()
    }

    fn send(&mut self, id: Id, mail: Mail) {
        self.actions.push(Action::Send { id, mail });
    }

    fn drain(&mut self, now: u64, id: Id, hand_over: bool) {
        let deadline_us = now + self.drain_timeout_us;
        self.with(id, |w| w.phase = Phase::Draining { deadline_us });
        self.send(id, Mail::Drain { hand_over });
    }

    fn kill(&mut self, now: u64, id: Id) {
        self.with(id, |w| w.phase = Phase::Killed { deadline_us: now + GRACE_US });
        self.actions.push(Action::Kill { id });
    }

    /// The worker that holds a seat for good.
    fn holder(&self, seat: Seat) -> Option<(Id, &Worker)> {
        self.workers.iter().find(|(_, w)| w.seat == seat && !w.old && w.stays()).map(|(&id, w)| (id, w))
    }

    /// Whether a seat has a worker, be it one that has just been killed: its death says when the next may start.
    fn taken(&self, seat: Seat, now: u64) -> bool {
        self.workers.values().any(|w| match w.phase {
            _ if w.seat != seat || w.old => false,
            Phase::Starting { .. } | Phase::Live => true,
            Phase::Killed { deadline_us } => deadline_us > now,
            Phase::Draining { .. } => false,
        })
    }

    fn spawn_missing(&mut self, now: u64) {
        for seat in 0..self.seats.len() {
            if self.seats[seat].not_before_us > now || self.taken(seat, now) {
                continue;
            }
            let id = self.next_id;
            self.next_id += 1;
            self.workers.insert(id, newborn(seat, now));
            self.actions.push(Action::Spawn { id, seat });
            // Before any socket: a worker never answers a client under an older topology than it could have.
            if self.epoch > 0 {
                self.send(id, Mail::Topology { epoch: self.epoch });
            }
        }
    }

    fn hand_out_sockets(&mut self) {
        for seat in 0..self.seats.len() {
            let Some((id, worker)) = self.holder(seat) else { continue };
            let lacking: Vec<_> = self.sockets_of(seat).filter(|socket| !worker.given.contains(socket)).collect();
            for (name, socket) in lacking {
                self.with(id, |w| _ = w.given.insert((name.clone(), socket)));
                self.send(id, Mail::Listen { name, socket });
            }
        }
    }

    fn sockets_of(&self, seat: Seat) -> impl Iterator<Item = (String, usize)> {
        let seats = self.seats.len();
        let all = self.names.iter().flat_map(|(name, n)| (0..n.sockets.count).map(move |socket| (name, n, socket)));
        let mine = all.filter(move |(_, n, socket)| n.sockets.shared || socket % seats == seat);
        mine.map(|(name, _, socket)| (name.clone(), socket))
    }

    /// Whether every seat has a worker that serves all there is to serve; no seats, before the first layout, are none.
    fn whole(&self) -> bool {
        !self.seats.is_empty()
            && (0..self.seats.len()).all(|seat| {
                let Some((_, w)) = self.holder(seat) else { return false };
                let listens = self.names.iter().all(|(name, n)| n.leaving || w.listening.contains(name));
                let settled = w.serving >= self.epoch || w.refused.as_ref().is_some_and(|(e, _)| *e >= self.epoch);
                w.phase == Phase::Live && listens && settled
            })
    }

    /// Once the new addresses are served, the old ones go. Our copies are closed first: then the worker's close, right
    /// after its last accept, ends the queue, and no connection slips in between.
    fn drop_leaving_names(&mut self) {
        let leaving: Vec<String> = self.names.iter().filter(|(_, n)| n.leaving).map(|(name, _)| name.clone()).collect();
        if leaving.is_empty() || !self.whole() {
            return;
        }
        for name in leaving {
            self.names.remove(&name);
            self.actions.push(Action::Close { name: name.clone() });
            for id in self.ids() {
                let mut had = false;
                self.with(id, |w| {
                    had = w.given.iter().any(|g| g.0 == name);
                    w.given.retain(|g| g.0 != name);
                    w.listening.remove(&name);
                });
                if had {
                    self.send(id, Mail::Unlisten { name: name.clone() });
                }
            }
        }
    }

    /// Workers that are one too many, or of an older image, hand their clients to those that stay.
    fn drain_surplus(&mut self, now: u64) {
        let seats = self.seats.len();
        let surplus = self.workers.iter().filter(|(_, w)| w.stays() && (w.old || w.seat >= seats));
        let surplus: Vec<Id> = surplus.map(|(&id, _)| id).collect();
        if !surplus.is_empty() && self.whole() {
            surplus.into_iter().for_each(|id| self.drain(now, id, true));
        }
    }

    fn kill_overdue(&mut self, now: u64) {
        for id in self.ids() {
            match self.workers[&id].phase {
                Phase::Starting { deadline_us } | Phase::Draining { deadline_us } if deadline_us <= now => {
                    self.kill(now, id);
                }
                _ => {}
            }
        }
    }

    fn exit_when_over(&mut self, now: u64) {
        let gone = |w: &Worker| matches!(w.phase, Phase::Killed { deadline_us } if deadline_us <= now);
        if self.stop != Stop::No && self.workers.values().all(gone) {
            self.actions.push(Action::Exit);
        }
    }

    /// When `step` wants to be called with `Tick`, if nothing else happens.
    pub(super) fn deadline_us(&self, now: u64) -> Option<u64> {
        let phases = self.workers.values().filter_map(|w| match w.phase {
            Phase::Starting { deadline_us } | Phase::Draining { deadline_us } => Some(deadline_us),
            Phase::Killed { deadline_us } => (deadline_us > now).then_some(deadline_us),
            Phase::Live => None,
        });
        let empty = (0..self.seats.len()).filter(|&s| self.stop == Stop::No && !self.taken(s, now));
        phases.chain(empty.map(|s| self.seats[s].not_before_us)).min()
    }

    /// Whether nothing is under way: every worker is where it should be.
    pub(super) fn calm(&self) -> bool {
        let settled = |w: &Worker| w.phase == Phase::Live && !w.old && w.seat < self.seats.len();
        self.stop == Stop::No && self.whole() && self.workers.values().all(settled)
    }

    pub(super) fn stopping(&self) -> bool {
        self.stop != Stop::No
    }

    /// How far `epoch` has come. Whoever lives counts, also on its way out: it may still serve a client.
    pub(super) fn progress(&self, epoch: u64) -> Progress {
        let mut progress = Progress::default();
        for w in self.workers.values() {
            let said = |of: &Option<(u64, String)>| of.as_ref().filter(|o| o.0 == epoch).map(|o| o.1.clone());
            let behind = |why| Behind { seat: w.seat, pid: w.pid, why };
            if w.quiet < epoch {
                progress.unquiet.push(behind(said(&w.unquiet)));
            }
            if w.serving < epoch {
                progress.behind.push(behind(said(&w.refused)));
            } else {
                progress.serving += 1;
            }
        }
        progress
    }

    /// Who takes a client that another worker hands over: of those that stay, the one with the fewest.
    pub(super) fn heir(&mut self, clients: impl Fn(Id) -> u64) -> Option<Id> {
        let seats = self.seats.len();
        let fit = self.workers.iter().filter(|(_, w)| w.phase == Phase::Live && !w.old && w.seat < seats);
        let (&id, _) = fit.min_by_key(|(id, w)| clients(**id) + w.adopted)?;
        self.with(id, |w| w.adopted += 1);
        Some(id)
    }

    /// Whether some worker serves clients under a topology.
    pub(super) fn serves(&self) -> bool {
        self.workers.values().any(|w| w.phase == Phase::Live && w.serving > 0)
    }

    /// Every worker, by seat.
    pub(super) fn views(&self) -> Vec<View> {
        let mut views: Vec<View> = self.workers.iter().map(|(&id, w)| self.view(id, w)).collect();
        views.sort_by_key(|v| (v.seat, v.id));
        views
    }

    fn view(&self, id: Id, w: &Worker) -> View {
        let state = match w.phase {
            Phase::Starting { .. } => "starting",
            Phase::Live if w.old => "old",
            Phase::Live => "live",
            Phase::Draining { .. } => "draining",
            Phase::Killed { .. } => "killed",
        };
        let restarts = self.seats.get(w.seat).map_or(0, |s| s.restarts);
        let (serving, quiet) = (w.serving, w.quiet);
        View { id, seat: w.seat, pid: w.pid, state, serving, quiet, restarts }
    }
}

fn newborn(seat: Seat, now: u64) -> Worker {
    Worker {
        seat,
        pid: 0,
        old: false,
        started_us: now,
        phase: Phase::Starting { deadline_us: now + START_US },
        given: BTreeSet::new(),
        listening: BTreeSet::new(),
        serving: 0,
        quiet: 0,
        unquiet: None,
        refused: None,
        adopted: 0,
    }
}

//! The proxies, as the leader knows them: who lives, who serves which epoch, who is to be told.
//!
//! The store's records say who is registered; a new leader takes them over, leases and all. What proxies said since is
//! memory: a leader that knows nothing yet pushes to everyone whose record is behind, and learns.

use super::board::Board;
use super::command::{Beat, BeatAnswer, Kind, ProxyView, Refusal};
use super::event::{Action, CallId, DeedId, PushFault};
use super::layout::{self, Proxy};
use super::lead::Fence;
use super::limits::{
    BEAT_MS, CLONE_MS, ID_MAX, PROXIES_MAX, PUSH_AGAIN_MAX_MS, PUSH_AGAIN_MS, PUSH_FAILURES_MAX, PUSH_MS, PUSHES_MAX,
    RECORD_MS, RECORDS_MAX, WRITE_AGAIN_MS,
};
use super::out::{Out, refusal};
use super::state::{Item, State};
use crate::store::{Fault, LeaseId, Op, Revision, Txn, Verdict};
use std::collections::BTreeMap;
use std::time::Duration;

/// Alarms that only a leader can raise, since only it hears proxies.
pub(super) const ALARMS: [&str; 2] = ["newer_epoch", "proxy_behind"];

/// A lease that holds, or will hold, a proxy's record.
#[derive(Debug, Clone, Copy)]
struct Lease {
    id: LeaseId,
    /// None: it came with the record.
    ttl_s: Option<u64>,
    kept_at: Option<u64>,
}

/// Where a proxy's registration stands.
#[derive(Debug, Clone, Copy, Default)]
enum Registering {
    #[default]
    No,
    Granting(DeedId, u64),
    Writing(DeedId, u64),
    /// Written or refused as of that revision: the watch will show it.
    Awaiting(Revision, u64),
    Paused(u64),
}

/// Where a push stands.
#[derive(Debug, Clone, Copy, Default)]
enum Pushing {
    #[default]
    No,
    Under(DeedId, u64, u64),
    Paused(u64),
}

/// One proxy.
#[derive(Debug, Default)]
struct Known {
    beat: Option<(Beat, u64)>,
    lease: Option<Lease>,
    registering: Registering,
    keeping: Option<(DeedId, u64)>,
    /// Its record may have to be written: it spoke, or took a topology.
    due: bool,
    /// The epoch it serves, as it said last.
    serves: u64,
    /// The epoch of the last push that it confirmed: then also nothing is in flight that the topology holds back.
    confirmed: u64,
    pushing: Pushing,
    /// The push under way brings held slots; it is answered when nothing for them is in flight.
    held: bool,
    quiet: bool,
    failures: u32,
    push_fault: Option<String>,
}

/// All proxies that are registered, or about to be.
#[derive(Debug)]
pub struct Fleet {
    proxies: BTreeMap<String, Known>,
    chance: u64,
}

impl Fleet {
    pub(super) fn new(seed: u64) -> Self {
        Self { proxies: BTreeMap::new(), chance: seed }
    }

    /// Forgets everything: whoever leads hears the proxies.
    pub(super) fn reset(&mut self) {
        self.proxies.clear();
    }

    /// A proxy says that it lives.
    pub(super) fn beat(&mut self, now: u64, call: CallId, beat: Beat, state: &State, out: &mut Out) {
        let outcome = self.hear(now, beat, state);
        out.push(Action::AnswerBeat { call, outcome });
    }

    fn hear(&mut self, now: u64, beat: Beat, state: &State) -> Result<BeatAnswer, Refusal> {
        let good = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
        if beat.id.is_empty() || beat.id.len() > ID_MAX || !beat.id.chars().all(good) {
            let message = format!("{:?} is not a proxy's id", beat.id);
            return Err(refusal(Kind::Invalid, "bad_id", message, "1 to 128 letters, digits, - _ . :"));
        }
        if !self.proxies.contains_key(&beat.id) && self.proxies.len() >= PROXIES_MAX {
            let message = format!("{PROXIES_MAX} proxies are registered already");
            return Err(refusal(Kind::Busy, "too_many_proxies", message, "remove some"));
        }
        let known = self.proxies.entry(beat.id.clone()).or_default();
        if let Some((last, at)) = &known.beat
            && last.admin_addr != beat.admin_addr
            && now < at + CLONE_MS
        {
            let message = format!("proxy id {:?} is used by the proxy at {}", beat.id, last.admin_addr);
            return Err(refusal(Kind::Conflict, "id_taken", message, "give each proxy its own id"));
        }
        // Another process, or one that went back to an older topology: what was confirmed says nothing of it.
        let other = known.beat.as_ref().is_some_and(|(last, _)| last.started_at != beat.started_at);
        if other || beat.epoch < known.confirmed {
            known.confirmed = 0;
        }
        known.serves = beat.epoch;
        known.due = true;
        // It lives: no reason to wait.
        if matches!(known.pushing, Pushing::Paused(_)) {
            known.pushing = Pushing::Paused(now);
        }
        let draining = state.proxies.get(&beat.id).is_some_and(|p| p.value.draining);
        let listed = state.roster.get(&beat.id).is_some_and(|i| i.value.admin_addr == beat.admin_addr);
        let registered = listed && !beat.leaving;
        known.beat = Some((beat, now));
        let next_ms = BEAT_MS.min(state.proxy_ttl_s() * 1000 / 3);
        Ok(BeatAnswer { epoch: state.epoch_in_force(), draining, registered, next_ms })
    }

    /// Registrations that the watch showed to be gone: only a new heartbeat brings them back.
    pub(super) fn gone<'a>(&mut self, ids: impl Iterator<Item = &'a str>) {
        for id in ids {
            self.proxies.remove(id);
        }
    }

    pub(super) fn granted(&mut self, now: u64, deed: DeedId, outcome: Result<LeaseId, Fault>, state: &State) {
        let ttl_s = Some(state.proxy_ttl_s());
        let of = |k: &&mut Known| matches!(k.registering, Registering::Granting(d, _) if d == deed);
        let Some(known) = self.proxies.values_mut().find(of) else { return };
        known.registering = match outcome {
            Ok(id) => {
                known.lease = Some(Lease { id, ttl_s, kept_at: Some(now) });
                Registering::No
            }
            Err(_) => Registering::Paused(now + WRITE_AGAIN_MS),
        };
    }

    pub(super) fn wrote(&mut self, now: u64, deed: DeedId, outcome: &Result<Verdict, Fault>) {
        let of = |k: &&mut Known| matches!(k.registering, Registering::Writing(d, _) if d == deed);
        let Some(known) = self.proxies.values_mut().find(of) else { return };
        known.registering = match outcome {
            Ok(Verdict::Done(revision) | Verdict::Refused(revision)) => Registering::Awaiting(*revision, now),
            Err(Fault::NoLease(_)) => {
                known.lease = None;
                Registering::No
            }
            Err(_) => Registering::Paused(now + WRITE_AGAIN_MS),
        };
    }

    pub(super) fn kept_alive(&mut self, now: u64, deed: DeedId, outcome: &Result<(), Fault>) {
        let of = |k: &&mut Known| k.keeping.is_some_and(|(d, _)| d == deed);
        let Some(known) = self.proxies.values_mut().find(of) else { return };
        known.keeping = None;
        match (outcome, &mut known.lease) {
            (Ok(()), Some(lease)) => lease.kept_at = Some(now),
            (Err(Fault::NoLease(id)), Some(lease)) if lease.id == *id => known.lease = None,
            _ => {}
        }
    }

    pub(super) fn pushed(
        &mut self,
        now: u64,
        deed: DeedId,
        outcome: Result<u64, PushFault>,
        out: &mut Out,
        board: &mut Board,
    ) {
        let of = |(_, k): &(&String, &mut Known)| matches!(k.pushing, Pushing::Under(d, _, _) if d == deed);
        let Some((id, known)) = self.proxies.iter_mut().find(of) else { return };
        let Pushing::Under(_, pushed, _) = known.pushing else { return };
        known.pushing = Pushing::No;
        let fault = match outcome {
            Ok(epoch) => {
                known.serves = epoch;
                known.due = true;
                if epoch >= pushed {
                    // Of what it serves beyond that, nothing was asked.
                    if known.quiet || !known.held {
                        known.confirmed = known.confirmed.max(pushed);
                    }
                    known.failures = 0;
                    known.push_fault = None;
                    board.settle(out, "proxy_behind", id, "it took the topology");
                    return;
                }
                format!("was given epoch {pushed}, serves {epoch}")
            }
            Err(PushFault::Newer { serving }) => {
                known.serves = serving;
                format!("serves epoch {serving}, newer than {pushed}")
            }
            Err(PushFault::Refused(why) | PushFault::Unreachable(why)) => why,
        };
        known.failures += 1;
        let pause = (PUSH_AGAIN_MS << (known.failures - 1).min(16)).min(PUSH_AGAIN_MAX_MS);
        known.pushing = Pushing::Paused(now + pause / 2 + draw(&mut self.chance) % (pause / 2 + 1));
        if known.failures >= PUSH_FAILURES_MAX {
            board.raise(out, "proxy_behind", id, pushed, format!("proxy {id} does not take the topology: {fault}"));
        }
        known.push_fault = Some(fault);
    }

    /// All that is to be done for the proxies now.
    pub(super) fn advance(&mut self, now: u64, state: &State, fence: &Fence, out: &mut Out, board: &mut Board) {
        for (id, item) in &state.proxies {
            if !self.proxies.contains_key(id) {
                let lease = item.lease.map(|id| Lease { id, ttl_s: None, kept_at: None });
                self.proxies.insert(id.clone(), Known { lease, serves: item.value.epoch, ..Known::default() });
            }
        }
        // One that died before its record could be written is not waited for; whom the roster lists is missed there.
        let patience = state.proxy_ttl_s() * 1000;
        let speaks = |known: &Known| known.beat.as_ref().is_some_and(|(_, at)| now < at + patience);
        self.proxies.retain(|id, known| speaks(known) || state.proxies.contains_key(id));
        self.settle_for_gone(out, board);
        self.push_all(now, state, out);
        self.record_all(now, state, fence, out);
        self.watch_epochs(state, out, board);
    }

    /// What is said of a proxy that is gone is over.
    fn settle_for_gone(&self, out: &mut Out, board: &mut Board) {
        for kind in ALARMS {
            let subjects = board.open().into_iter().filter(|news| news.kind == kind).map(|news| news.subject);
            let here = |id: &String| self.proxies.get(id).is_some_and(|known| !known.has_left());
            for id in subjects.filter(|id| !here(id)) {
                board.settle(out, kind, &id, "it is gone");
            }
        }
    }

    fn watch_epochs(&self, state: &State, out: &mut Out, board: &mut Board) {
        let ours = state.epoch_in_force();
        for (id, known) in &self.proxies {
            if known.serves >= ours {
                board.settle(out, "proxy_behind", id, "it serves the topology");
            }
            if known.serves <= ours || state.in_force.is_none() || known.has_left() {
                board.settle(out, "newer_epoch", id, "its epoch is ours again");
                continue;
            }
            let serves = known.serves;
            let message = format!(
                "proxy {id} serves epoch {serves}, the store says {ours}: the store went back in time, or the proxy \
                 belongs to another cluster; write an epoch greater than {serves} to the store, or restart the proxy \
                 without its stored topology"
            );
            board.raise(out, "newer_epoch", id, ours, message);
        }
    }

    fn push_all(&mut self, now: u64, state: &State, out: &mut Out) {
        let Some(in_force) = &state.in_force else { return };
        let epoch = in_force.topology.epoch();
        // Only a planned change waits for what is in flight: where a primary is dead that would never end.
        let quiet = state.awaits_quiet();
        let mut under = 0;
        for known in self.proxies.values_mut() {
            match known.pushing {
                // What a newer topology overtakes is not waited for: it may be waiting for a dead primary.
                Pushing::Under(_, pushed, since) if now < since + PUSH_MS && (pushed >= epoch || !known.held) => {
                    under += 1
                }
                Pushing::Paused(until) if now < until => {}
                _ => known.pushing = Pushing::No,
            }
        }
        for (id, known) in &mut self.proxies {
            let wants =
                known.serves < epoch && !known.has_left() && state.proxies.get(id).is_some_and(|p| !p.value.left);
            let ready = matches!(known.pushing, Pushing::No);
            if !wants || !ready || under >= PUSHES_MAX {
                continue;
            }
            let admin_addr = match (&known.beat, state.proxies.get(id)) {
                (Some((beat, _)), _) => beat.admin_addr.clone(),
                (None, Some(record)) => record.value.admin_addr.clone(),
                (None, None) => continue,
            };
            let deed = out.deed();
            known.pushing = Pushing::Under(deed, epoch, now);
            (known.held, known.quiet) = (in_force.topology.holds_any(), quiet);
            under += 1;
            let message = in_force.message.clone();
            out.push(Action::Push { deed, proxy: id.clone(), admin_addr, epoch, message, quiet });
        }
    }

    fn record_all(&mut self, now: u64, state: &State, fence: &Fence, out: &mut Out) {
        let ttl_s = state.proxy_ttl_s();
        let busy = |k: &Known| matches!(k.registering, Registering::Granting(..) | Registering::Writing(..));
        let mut under = self.proxies.values().filter(|k| busy(k)).count();
        for (id, known) in &mut self.proxies {
            known.settle_deeds(now, state.revision);
            let Some(at) = known.beat.as_ref().map(|(_, at)| *at).filter(|_| known.due) else { continue };
            if now >= at + ttl_s * 1000 {
                known.due = false; // it said nothing for so long: its lease may end
                continue;
            }
            if under < RECORDS_MAX && known.register(now, state.proxies.get(id), ttl_s, fence, state, out) {
                under += 1;
            }
            known.keep_alive(now, state.proxies.get(id), ttl_s, out);
        }
    }

    /// When something may be due without an event.
    pub(super) fn deadline(&self) -> Option<u64> {
        let pauses = self.proxies.values().flat_map(|k| {
            let push = if let Pushing::Paused(until) = k.pushing { Some(until) } else { None };
            let record = if let Registering::Paused(until) = k.registering { Some(until) } else { None };
            [push, record]
        });
        pauses.flatten().min()
    }

    /// What proxies said last, and when.
    pub(super) fn beats(&self) -> Vec<(&Beat, u64)> {
        self.proxies.values().filter_map(|known| known.beat.as_ref()).map(|(beat, at)| (beat, *at)).collect()
    }

    /// Registered proxies that are known to serve `epoch` or a later one, as they said themselves.
    pub fn serving(&self, epoch: u64) -> Vec<&str> {
        self.those(|known| known.serves >= epoch)
    }

    /// Registered proxies that do not serve `epoch` yet, as far as is known.
    pub fn behind(&self, epoch: u64) -> Vec<&str> {
        self.those(|known| known.serves < epoch)
    }

    /// Registered proxies that may still have requests in flight on slots that the topology of `epoch` holds: those that
    /// did not confirm a push of it to this leader. The barrier of failover and migration is that there are none.
    pub fn in_flight(&self, epoch: u64) -> Vec<&str> {
        self.those(|known| known.confirmed < epoch)
    }

    fn those(&self, is: impl Fn(&Known) -> bool) -> Vec<&str> {
        // One that has left has nothing in flight, and serves nothing.
        self.proxies.iter().filter(|(_, known)| !known.has_left() && is(known)).map(|(id, _)| id.as_str()).collect()
    }

    /// Proxies for people: the record, and what was heard since.
    pub(super) fn view(&self, now: u64, record: &Proxy, alive: bool) -> ProxyView {
        let known = self.proxies.get(&record.id);
        let mut record = record.clone();
        if let Some(known) = known {
            record.epoch = known.serves;
        }
        let beat = known.and_then(|k| k.beat.as_ref());
        ProxyView {
            record,
            alive,
            last_beat_ms: beat.map(|(_, at)| now.saturating_sub(*at)),
            push_fault: known.and_then(|k| k.push_fault.clone()),
            instances: beat.map(|(beat, _)| beat.instances.clone()).unwrap_or_default(),
        }
    }

    /// How many are known.
    pub fn len(&self) -> usize {
        self.proxies.len()
    }

    pub fn is_empty(&self) -> bool {
        self.proxies.is_empty()
    }
}

impl Known {
    /// It said goodbye.
    fn has_left(&self) -> bool {
        self.beat.as_ref().is_some_and(|(beat, _)| beat.leaving)
    }

    /// Deeds that nobody answered, pauses that are over, writes that the watch has shown.
    fn settle_deeds(&mut self, now: u64, revision: Revision) {
        self.registering = match self.registering {
            Registering::Granting(_, since) | Registering::Writing(_, since) if now >= since + RECORD_MS => {
                Registering::No
            }
            Registering::Awaiting(until, since) if revision >= until || now >= since + RECORD_MS => Registering::No,
            Registering::Paused(until) if now >= until => Registering::No,
            same => same,
        };
        if self.keeping.is_some_and(|(_, since)| now >= since + RECORD_MS) {
            self.keeping = None;
        }
    }

    /// Writes the record if it is not what it should be; true: something is under way now.
    fn register(
        &mut self,
        now: u64,
        item: Option<&Item<Proxy>>,
        ttl_s: u64,
        fence: &Fence,
        state: &State,
        out: &mut Out,
    ) -> bool {
        let (Registering::No, Some((beat, _))) = (self.registering, &self.beat) else { return false };
        let wanted = Proxy {
            id: beat.id.clone(),
            version: beat.version.clone(),
            addr: beat.addr.clone(),
            admin_addr: beat.admin_addr.clone(),
            zone: beat.zone.clone(),
            epoch: self.serves,
            draining: item.is_some_and(|i| i.value.draining),
            started_at: beat.started_at,
            left: beat.leaving,
        };
        let lease = self.lease.filter(|l| l.ttl_s.is_none_or(|of| of == ttl_s));
        let held = |i: &&Item<Proxy>| i.lease.is_some() && i.lease == lease.map(|l| l.id);
        let there = state.roster.get(&wanted.id).is_some_and(|i| i.value.admin_addr == wanted.admin_addr);
        let listed = there != wanted.left;
        if listed && item.filter(held).is_some_and(|i| i.value == wanted) {
            self.due = false;
            return false;
        }
        let deed = out.deed();
        let Some(lease) = lease else {
            self.registering = Registering::Granting(deed, now);
            out.push(Action::Grant { deed, ttl: Duration::from_secs(ttl_s) });
            return true;
        };
        let key = layout::proxy_key(&wanted.id);
        let value = serde_json::to_string(&wanted).unwrap_or_default();
        let mut compares = vec![fence.compare.clone(), state.as_it_is(&key)];
        self.registering = Registering::Writing(deed, now);
        let mut ops = vec![Op::Put { key, value: value.clone(), lease: Some(lease.id) }];
        if !listed {
            // With the registration, or there would be a moment in which nobody would miss it.
            let key = layout::roster_key(&wanted.id);
            compares.push(state.as_it_is(&key));
            ops.push(if wanted.left { Op::Delete { key } } else { Op::Put { key, value, lease: None } });
        }
        out.push(Action::Write { deed, txn: Txn { compares, ops } });
        true
    }

    /// Keeps the lease of a proxy that spoke alive, when a third of its time is over.
    fn keep_alive(&mut self, now: u64, item: Option<&Item<Proxy>>, ttl_s: u64, out: &mut Out) {
        let (Some(lease), None, true) = (&self.lease, self.keeping, item.is_some()) else { return };
        if lease.kept_at.is_some_and(|at| now < at + ttl_s * 1000 / 3) {
            return;
        }
        let deed = out.deed();
        self.keeping = Some((deed, now));
        out.push(Action::KeepAlive { deed, lease: lease.id });
    }
}

/// splitmix64.
fn draw(chance: &mut u64) -> u64 {
    *chance = chance.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *chance;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

//! Health: who lives. Every member looks at every instance and has an opinion; the leader asks the others for theirs and
//! judges, with what replicas and proxies say for and against.
//!
//! ```text
//! watcher ── Look ──> verdict ──> Ballot ──────────────┐
//!                                  others' ballots ────┼─> judge: Well | Doubt | Vetoed | Down
//!                     replicas' INFO, proxies' beats ──┘
//! ```
//! A vote counts while it is fresh: the leader asks for it, and half a second after it asked the answer is worth nothing.
//! So votes are not written to a log: a new leader asks anew, and what was decided is in the store.

pub use super::look::{Ballot, Info, InstanceView, Load, Look, Opinion, Verdict};

use super::layout::{Former, Guard, Identity};
use super::limits::{
    AWAKE_MS, BEAT_FRESH_MS, HANG_MS, HEARD_MS, INFO_FRESH_MS, LINK_PING_MS, LOOK_FRESH_MS, POLL_MS, POLL_SOON_MS,
    REFUSALS, REFUSED_MS, SIGHT_LAG_MS, TICK_GAP_MS, VOTE_FRESH_MS,
};
use super::state::State;
use cluster::beat::Beat;
use cluster::group::Group;
use cluster::instance::{Addr, Instance, Role};
use std::collections::{BTreeMap, BTreeSet};

/// A look and when it was told.
#[derive(Debug)]
struct Seen {
    look: Look,
    at: u64,
    /// Since when it is the process that it is.
    process_since: u64,
    /// When two INFOs were asked for of which the second had more of the history.
    grew: Option<(u64, u64)>,
}

impl Seen {
    fn growth(&self, next: &Look, now: u64) -> Option<(u64, u64)> {
        let ((old, old_age), (new, age)) = (self.look.info.as_ref()?, next.info.as_ref()?);
        let (from, to) = (self.at.saturating_sub(*old_age), now.saturating_sub(*age));
        (new.offset > old.offset && to > from).then_some((from, to))
    }

    /// Something came from its primary after `since`, and not long ago. An idle primary, too, says something every second
    /// (`repl-ping-replica-period 1`); Redis's own clock of it counts whole seconds, and is 0 only now and then.
    fn hears(&self, since: u64, now: u64) -> bool {
        let silent_s = self.look.info.as_ref().and_then(|(info, _)| info.last_io_s);
        silent_s == Some(0) || self.grew.is_some_and(|(from, to)| from >= since && now <= to + HEARD_MS)
    }
}

/// What a member knows of the instances.
#[derive(Debug)]
pub(super) struct Health {
    seen: BTreeMap<Addr, Seen>,
    /// Of the other members, and when the leader asked for them.
    ballots: BTreeMap<u64, (Ballot, u64)>,
    /// How many members have a vote. None: not known yet.
    voters: Option<usize>,
    hang_ms: u64,
    last_step: u64,
    /// Since when this member's clock ran evenly.
    awake_since: u64,
    /// When another member last answered.
    peer_heard: Option<u64>,
    poll_at: u64,
    /// What watchers were told last: whom to watch, and whom closely.
    watched: Option<(Vec<Addr>, BTreeSet<Addr>)>,
}

/// What the leader makes of a group's primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Judgement {
    Well,
    /// Somebody accuses it, too few do.
    Doubt,
    /// A majority accuses it, but somebody else saw it live.
    Vetoed {
        why: String,
        since: u64,
    },
    /// It is down.
    Down(Case),
}

/// Why a primary is taken for dead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Case {
    /// Since when there was doubt.
    pub(super) since: u64,
    pub(super) reborn: bool,
    /// Most proxies say so, too.
    pub(super) proxies_agree: bool,
    pub(super) why: String,
    pub(super) evidence: Vec<String>,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            seen: BTreeMap::new(),
            ballots: BTreeMap::new(),
            voters: None,
            hang_ms: HANG_MS,
            last_step: 0,
            awake_since: 0,
            peer_heard: None,
            poll_at: 0,
            watched: None,
        }
    }
}

// ----------------------------------------------------------------------------------------------- one member's opinion

impl Health {
    pub(super) fn set_hang_ms(&mut self, ms: u64) {
        self.hang_ms = ms;
    }

    /// The time of a step: a gap means that this member stood still, and what it thought is worth nothing.
    pub(super) fn wake(&mut self, now: u64) {
        if now > self.last_step + TICK_GAP_MS {
            self.awake_since = now;
        }
        self.last_step = now;
    }

    pub(super) fn observed(&mut self, now: u64, looks: Vec<(Addr, Look)>) {
        let run_id = |look: &Look| look.info.as_ref().map(|(info, _)| info.run_id.clone());
        for (addr, look) in looks {
            let before = self.seen.get(&addr).filter(|seen| run_id(&seen.look) == run_id(&look));
            let process_since = before.map_or(now, |seen| seen.process_since);
            let grew = before.and_then(|seen| seen.growth(&look, now).or(seen.grew));
            self.seen.insert(addr, Seen { look, at: now, process_since, grew });
        }
    }

    /// What is not in the topology is not looked at.
    pub(super) fn keep(&mut self, state: &State) {
        let Some(in_force) = &state.in_force else { return self.seen.clear() };
        let there: BTreeSet<&Addr> =
            in_force.known.groups().iter().flat_map(|g| &g.instances).map(|i| &i.addr).collect();
        self.seen.retain(|addr, _| there.contains(addr));
    }

    /// Its verdict on one instance, and since when.
    fn opinion(&self, now: u64, instance: &Instance, guard: Option<&Guard>) -> Opinion {
        let unknown = Opinion { verdict: Verdict::Unknown, for_ms: 0, run_id: None };
        let Some(seen) = self.seen.get(&instance.addr) else { return unknown };
        if now > seen.at + LOOK_FRESH_MS {
            return unknown; // the watcher says nothing: ours is the fault
        }
        let awake = now.saturating_sub(self.awake_since);
        let down = |verdict, for_ms| Opinion { verdict, for_ms, run_id: None };
        if let Some((times, for_ms)) = seen.look.refused
            && times >= REFUSALS
            && for_ms >= REFUSED_MS
        {
            return down(Verdict::Refused, for_ms);
        }
        let hang_ms = guard.and_then(|g| g.hang_ms).unwrap_or(self.hang_ms);
        let owed = seen.look.owed_ms.map_or(0, |owed| (owed + now - seen.at).min(awake));
        if owed > hang_ms {
            return down(Verdict::Hang, owed);
        }
        if let Some((info, _)) = &seen.look.info
            && let Some(known) = guard.and_then(|g| g.primary.as_ref()).filter(|k| k.addr == instance.addr)
            && instance.role == Role::Primary
            && info.run_id != known.run_id
        {
            let run_id = Some(info.run_id.clone());
            return Opinion { run_id, ..down(Verdict::Reborn, now - seen.process_since) };
        }
        match seen.look.heard_ms {
            Some(_) if seen.look.refused.is_none() => down(Verdict::Up, 0),
            _ => unknown,
        }
    }

    /// What this member says to the leader.
    pub(super) fn ballot(&self, now: u64, state: &State) -> Ballot {
        let (mut accused, mut reaches) = (Vec::new(), false);
        for (group, instance) in instances(state) {
            let opinion = self.opinion(now, instance, state.guard(group.id));
            reaches |= opinion.verdict == Verdict::Up;
            if opinion.verdict.is_down() {
                accused.push((instance.addr.clone(), opinion));
            }
        }
        let heard = self.peer_heard.is_some_and(|at| now < at + 2 * VOTE_FRESH_MS);
        let even = now >= self.awake_since + AWAKE_MS;
        Ballot { sound: even && (reaches || heard), accused }
    }

    /// Whether it answers, as far as this member sees.
    pub(super) fn verdict(&self, now: u64, group: &Group, addr: &Addr, state: &State) -> Verdict {
        let instance = group.instances.iter().find(|i| i.addr == *addr);
        instance.map_or(Verdict::Unknown, |i| self.opinion(now, i, state.guard(group.id)).verdict)
    }

    /// What INFO said, if that was a moment ago.
    pub(super) fn info(&self, now: u64, addr: &Addr) -> Option<&Info> {
        let seen = self.seen.get(addr)?;
        let (info, age) = seen.look.info.as_ref()?;
        let fresh = age + now.saturating_sub(seen.at) <= INFO_FRESH_MS && seen.look.refused.is_none();
        fresh.then_some(&**info)
    }

    /// The same, if it was asked for after that moment.
    pub(super) fn info_since(&self, addr: &Addr, since: u64) -> Option<&Info> {
        let seen = self.seen.get(addr)?;
        let (info, age) = seen.look.info.as_ref()?;
        (seen.at.saturating_sub(*age) >= since && seen.look.refused.is_none()).then_some(&**info)
    }
}

// ------------------------------------------------------------------------------------------------ what watchers do

impl Health {
    /// Whom to watch, and whom closely: those of groups whose primary is in doubt or is being replaced. None: as before.
    pub(super) fn watch_list(&mut self, now: u64, state: &State) -> Option<(Vec<Addr>, Vec<Addr>)> {
        let all: Vec<Addr> = instances(state).map(|(_, i)| i.addr.clone()).collect();
        let in_doubt = |group: &Group| {
            let primary = group.primary();
            let owed = primary
                .and_then(|p| self.seen.get(&p.addr))
                .is_some_and(|s| s.look.refused.is_some() || s.look.owed_ms.is_some_and(|owed| owed >= POLL_MS));
            let verdict = primary.map(|p| self.opinion(now, p, state.guard(group.id)).verdict);
            owed || verdict.is_some_and(Verdict::is_down) || state.failover_of(group.id).is_some()
        };
        let groups = state.in_force.iter().flat_map(|f| f.known.groups());
        let close: BTreeSet<Addr> =
            groups.filter(|g| in_doubt(g)).flat_map(|g| g.instances.iter().map(|i| i.addr.clone())).collect();
        let wanted = (all, close);
        if self.watched.as_ref() == Some(&wanted) {
            return None;
        }
        self.watched = Some(wanted.clone());
        Some((wanted.0, wanted.1.into_iter().collect()))
    }
}

fn instances(state: &State) -> impl Iterator<Item = (&Group, &Instance)> {
    let groups = state.in_force.iter().flat_map(|f| f.known.groups());
    groups.flat_map(|g| g.instances.iter().map(move |i| (g, i)))
}

// ------------------------------------------------------------------------------------------------ the leader's judgement

impl Health {
    /// What only a leader knows.
    pub(super) fn retire(&mut self) {
        self.ballots.clear();
        self.poll_at = 0;
        self.voters = None;
    }

    /// Whether the other members are to be asked now: often while somebody is accused.
    pub(super) fn is_poll_due(&mut self, now: u64, own: &Ballot) -> bool {
        let accused = !own.accused.is_empty() || self.ballots.values().any(|(b, _)| !b.accused.is_empty());
        let every = if accused { POLL_SOON_MS } else { POLL_MS };
        let due = now >= self.poll_at || self.poll_at > now + every;
        if due {
            self.poll_at = now + every;
        }
        due
    }

    pub(super) fn polled(&mut self, now: u64, asked: u64, voters: usize, member: u64, ballot: Option<Ballot>) {
        self.voters = Some(voters);
        let Some(ballot) = ballot else { return };
        self.peer_heard = Some(now);
        let newer = self.ballots.get(&member).is_none_or(|(_, at)| asked >= *at);
        if newer {
            self.ballots.insert(member, (ballot, asked));
        }
    }

    /// Fresh opinions against an instance, ours first.
    fn votes<'a>(&'a self, now: u64, own: &'a Ballot, addr: &Addr) -> Vec<(Option<u64>, &'a Opinion)> {
        let fresh = |at: u64| now <= at + VOTE_FRESH_MS;
        let others = self.ballots.iter().filter(|(_, (b, at))| b.sound && fresh(*at));
        let own = (own.sound).then_some((None, own)).into_iter();
        let all = own.chain(others.map(|(id, (ballot, _))| (Some(*id), ballot)));
        all.filter_map(|(id, ballot)| Some((id, ballot.on(addr)?))).collect()
    }

    /// Who lives and who does not, in one group.
    pub(super) fn judge(
        &self,
        now: u64,
        own: &Ballot,
        group: &Group,
        guard: Option<&Guard>,
        beats: &[(&Beat, u64)],
    ) -> Judgement {
        let Some(primary) = group.primary() else { return Judgement::Well };
        let mut votes = self.votes(now, own, &primary.addr);
        // A member that does not know yet who was recorded meanwhile takes that one for a stranger.
        let recorded = guard.and_then(|g| g.primary.as_ref()).map(|known| &known.run_id);
        votes.retain(|(_, opinion)| opinion.run_id.is_none() || opinion.run_id.as_ref() != recorded);
        if votes.is_empty() {
            return Judgement::Well;
        }
        let Some(voters) = self.voters.filter(|voters| votes.len() * 2 > *voters) else { return Judgement::Doubt };
        let doubted_for = votes.iter().map(|(_, o)| o.for_ms).max().unwrap_or(0);
        let since = now.saturating_sub(doubted_for);
        let reborn = votes.iter().filter(|(_, o)| o.verdict == Verdict::Reborn).count() * 2 > voters;
        let proxies = Proxies::of(beats, &primary.addr, now, since);
        let mut evidence: Vec<String> = votes.iter().map(|(who, o)| vote_in_words(*who, o)).collect();
        evidence.push(proxies.in_words());
        for replica in group.replicas() {
            evidence.push(self.replica_in_words(replica, since));
        }
        if !reborn && let Some(why) = self.sign_of_life(now, group, primary, since, &proxies) {
            return Judgement::Vetoed { why, since };
        }
        let words: Vec<&str> = votes.iter().map(|(_, o)| o.verdict.word()).collect();
        let why = format!("{}: {} of {voters} members say: {}", primary.addr, votes.len(), words.join(", "));
        let proxies_agree = proxies.most_fail();
        Judgement::Down(Case { since, reborn, proxies_agree, why, evidence })
    }

    /// What speaks against its death.
    fn sign_of_life(
        &self,
        now: u64,
        group: &Group,
        primary: &Instance,
        since: u64,
        proxies: &Proxies,
    ) -> Option<String> {
        if proxies.most_succeed() {
            return Some(format!("{} of {} proxies still get replies", proxies.succeed, proxies.known));
        }
        if proxies.most_are_cut_off() {
            return None; // clients are what counts
        }
        let hears = |r: &&Instance| {
            let info = self.info_since(&r.addr, since);
            let heard = self.seen.get(&r.addr).is_some_and(|seen| seen.hears(since, now));
            info.is_some_and(|i| i.link_up && heard && i.follows.as_ref() == Some(&primary.addr))
        };
        group.replicas().find(hears).map(|r| format!("its replica {} hears from it", r.addr))
    }

    fn replica_in_words(&self, replica: &Instance, since: u64) -> String {
        match self.info_since(&replica.addr, since) {
            Some(i) if i.link_up => {
                format!("replica {}: link up, heard it {} s ago", replica.addr, i.last_io_s.unwrap_or(0))
            }
            Some(i) => format!("replica {}: link down, offset {}", replica.addr, i.offset),
            None => format!("replica {}: says nothing", replica.addr),
        }
    }

    /// How far it was when it was last seen as that process.
    pub(super) fn last_offset(&self, addr: &Addr, known: &Identity) -> Option<u64> {
        let (info, _) = self.seen.get(addr)?.look.info.as_ref()?;
        (info.run_id == known.run_id).then_some(info.offset)
    }

    /// Whether a replica could take over, as it looks after `since`.
    pub(super) fn promotable(&self, now: u64, group: &Group, guard: &Guard, since: u64) -> bool {
        let any = History { replid: "", former: None };
        let history = guard.primary.as_ref().map_or(any, History::from);
        group.replicas().any(|r| {
            let info = self.info_since(&r.addr, since);
            let doubt_ms = now.saturating_sub(since);
            info.is_some_and(|i| history.may_lead(i) && !i.is_stale(doubt_ms) && !guard.never.contains(&r.addr))
        })
    }

    /// All instances for people.
    pub(super) fn view(&self, now: u64, state: &State) -> Vec<InstanceView> {
        let own = self.ballot(now, state);
        let view = |(group, instance): (&Group, &Instance)| {
            let look = self.seen.get(&instance.addr).map(|s| &s.look);
            let info = look.and_then(|l| l.info.as_ref()).map(|(info, _)| info);
            InstanceView {
                group: group.id,
                addr: instance.addr.clone(),
                role: instance.role,
                verdict: self.opinion(now, instance, state.guard(group.id)).verdict,
                votes: self.votes(now, &own, &instance.addr).len(),
                heard_ms: look.and_then(|l| l.heard_ms),
                offset: info.map(|i| i.offset),
                link_up: info.filter(|i| i.role == Role::Replica).map(|i| i.link_up),
                run_id: info.map(|i| i.run_id.clone()),
                version: info.map(|i| i.version.clone()),
                fault: look.and_then(|l| l.fault.clone()),
                load: info.map(|i| i.load),
            }
        };
        instances(state).map(view).collect()
    }
}

/// The history that a primary's successor must hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct History<'a> {
    /// Empty: any will do.
    pub(super) replid: &'a str,
    pub(super) former: Option<&'a Former>,
}

impl<'a> From<&'a Identity> for History<'a> {
    fn from(known: &'a Identity) -> Self {
        Self { replid: &known.replid, former: known.former.as_ref() }
    }
}

impl<'a> History<'a> {
    /// By which name an instance holds it.
    pub(super) fn held_by(&self, info: &Info) -> Option<&'a str> {
        let own = self.replid.is_empty() || info.continues(self.replid);
        let former = self.former.filter(|f| info.continues(&f.replid) && info.offset <= f.offset);
        if own { Some(self.replid) } else { former.map(|f| f.replid.as_str()) }
    }

    /// ... and could be its primary.
    pub(super) fn may_lead(&self, info: &Info) -> bool {
        self.held_by(info).is_some_and(|replid| may_lead(info, replid))
    }
}

/// Whether an instance could be the primary of that history. An empty `replid` is any. One that began to take over
/// another data set still holds its own until it loads.
pub fn may_lead(info: &Info, replid: &str) -> bool {
    let of_history = replid.is_empty() || info.continues(replid);
    of_history && !info.loading && info.offset > 0 && info.priority > 0
}

fn vote_in_words(who: Option<u64>, opinion: &Opinion) -> String {
    let who = who.map_or("the leader".to_owned(), |id| format!("member {id}"));
    format!("{who}: {} for {} ms", opinion.verdict.word(), opinion.for_ms)
}

/// What live proxies say of a primary.
struct Proxies {
    known: usize,
    succeed: usize,
    /// Heard nothing since; that may be because nobody asked.
    fail: usize,
    /// Heard nothing although they asked.
    cut_off: usize,
}

impl Proxies {
    /// A proxy's page may be `SIGHT_LAG_MS` old: a success counts when it is certainly later than the doubt.
    fn of(beats: &[(&Beat, u64)], addr: &Addr, now: u64, since: u64) -> Self {
        let mut all = Self { known: 0, succeed: 0, fail: 0, cut_off: 0 };
        for (beat, at) in beats.iter().filter(|(_, at)| now <= at + BEAT_FRESH_MS) {
            let Some(sight) = beat.instances.iter().find(|s| s.addr == *addr) else { continue };
            all.known += 1;
            let success = sight.last_reply_ms.map(|ms| at.saturating_sub(ms));
            if sight.links_up > 0 && success.is_some_and(|success| success > since + SIGHT_LAG_MS) {
                all.succeed += 1;
            } else if *at > since && (sight.links_up == 0 || success.is_none_or(|success| success <= since)) {
                all.fail += 1;
                let patience = LINK_PING_MS + SIGHT_LAG_MS;
                let silent = sight.links_up == 0 || success.is_none_or(|success| *at > success + patience);
                all.cut_off += usize::from(silent);
            }
        }
        all
    }

    fn most_succeed(&self) -> bool {
        self.succeed > 0 && self.succeed * 2 >= self.known
    }

    fn most_fail(&self) -> bool {
        self.fail * 2 > self.known
    }

    fn most_are_cut_off(&self) -> bool {
        self.cut_off * 2 > self.known
    }

    fn in_words(&self) -> String {
        format!("proxies: {} of {} get replies, {} get none", self.succeed, self.known, self.fail)
    }
}

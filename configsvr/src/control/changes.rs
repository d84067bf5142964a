//! Wishes and the one change under way. One at a time, each decided against state that includes the one before; all
//! others wait in a bounded queue.
//!
//! Every change writes the key `epoch`, also those that leave the epoch as it is, and compares it: so no two changes that
//! were decided against the same state can both be done. A transaction whose fate is unknown may be sent again as it
//! stands for the same reason.
//!
//! ```text
//! Ready -> Probing -> Ready -> Following -> Ready -> Writing -> Settling -> answered
//!                                              ^        | \-> Unsure (no answer: send again, or the watch tells)
//!                                              +- Stale <- refused: the watch must show why
//! ```

use super::command::{Answer, Command, Kind, Refusal, Request, Seen};
use super::event::{Action, CallId, DeedId};
use super::layout::{self, Audit, Epoch};
use super::lead::Fence;
use super::limits::{ANSWER_MS, ATTEMPTS_MAX, AUDIT_MAX, AUDIT_TRIM, ID_MAX, QUEUE_MAX, RESTORE_MS, WRITE_AGAIN_MS};
use super::out::{Out, refusal};
use super::plan::{self, Plan, covered, shortened};
use super::state::{Standing, State};
use crate::store::{Compare, Fault, Op, Revision, Txn, Verdict};
use cluster::instance::Addr;
use serde_json::{Value, json};
use std::collections::VecDeque;

/// What is to be done, by whom.
#[derive(Debug)]
enum Job {
    Asked {
        call: CallId,
        request: Request,
    },
    /// Give an edited topology its own epoch.
    Adopt,
    /// Write slots to their own keys.
    Fold,
    /// Remove what a load of the store that was given up has left.
    Clear,
    /// Write the epoch as it is, so that what somebody was told is unknown is done by now or never.
    Seal,
}

/// A job and all that is remembered of it.
#[derive(Debug)]
struct Work {
    job: Job,
    since: u64,
    stage: Stage,
    attempts: u32,
    seen: Option<Vec<(Addr, Result<Seen, String>)>>,
    followed: Vec<(Addr, Addr)>,
}

/// A transaction that was sent.
#[derive(Debug, Clone)]
struct Sent {
    txn: Txn,
    fence: Compare,
    /// Its trace, by which the watch tells that it was done.
    audit: Option<(Revision, Audit)>,
    answer: Answer,
    /// Some copy of it may have been done without our knowing.
    unsure: bool,
}

impl Sent {
    /// Of the leader and the epoch: always the first two.
    fn compares(&self) -> Option<[Compare; 2]> {
        self.txn.compares.first_chunk().cloned()
    }
}

#[derive(Debug)]
enum Stage {
    Ready,
    Probing(DeedId),
    Following(DeedId, (Addr, Addr)),
    Writing(DeedId, Box<Sent>),
    /// Send it again then, unless the watch told.
    Unsure(u64, Box<Sent>),
    /// Refused: wait for the watch to show the store as of that revision, then decide anew.
    Stale(Revision, Box<Sent>),
    /// Done: wait for the watch to show it.
    Settling(Revision, Box<Sent>),
    /// Try again then.
    Paused(u64),
}

/// Who may write, and who else to ask.
pub(super) struct Ground<'a> {
    pub(super) state: &'a State,
    pub(super) fence: Option<&'a Fence>,
    /// Leads, or is about to.
    pub(super) leading: bool,
    pub(super) leader: Option<&'a (String, String)>,
}

impl Ground<'_> {
    pub(super) fn not_leader(&self) -> Refusal {
        let hint = match self.leader {
            Some((name, addr)) => format!("ask {name} at {addr}"),
            None => "an election is under way: try again in a second".to_owned(),
        };
        refusal(Kind::Unavailable, "not_leader", "this member does not lead; nothing was changed", hint)
    }
}

/// All wishes.
#[derive(Debug, Default)]
pub(super) struct Changes {
    queue: VecDeque<Work>,
    work: Option<Work>,
    /// The comparisons (leader, epoch) of a transaction that was given up as unknown: while both hold, it may yet be done.
    doubt: Option<[Compare; 2]>,
    /// Wall clock when this process took its first step.
    since: Option<u64>,
}

impl Changes {
    /// Takes a wish, or turns it away at once.
    pub(super) fn ask(&mut self, now: u64, call: CallId, request: Request, ground: &Ground, out: &mut Out) {
        let key = request.idempotency_key.as_deref().unwrap_or("-");
        if key.is_empty() || key.len() > ID_MAX {
            let why = format!("the idempotency key has {} bytes", key.len());
            return out.answer(call, Err(refusal(Kind::Invalid, "bad_key", why, format!("1 to {ID_MAX} bytes"))));
        }
        if !ground.leading {
            return out.answer(call, Err(ground.not_leader()));
        }
        if self.queue.len() >= QUEUE_MAX {
            let why = format!("{QUEUE_MAX} changes wait already");
            return out.answer(call, Err(refusal(Kind::Busy, "too_many_changes", why, "try again in a second")));
        }
        self.queue.push_back(Work::new(Job::Asked { call, request }, now));
    }

    pub(super) fn wrote(&mut self, now: u64, deed: DeedId, outcome: Result<Verdict, Fault>, out: &mut Out) {
        let Some(work) = &mut self.work else { return };
        match std::mem::replace(&mut work.stage, Stage::Ready) {
            Stage::Writing(of, sent) if of == deed => match outcome {
                Ok(Verdict::Done(revision)) => work.stage = Stage::Settling(revision, sent),
                Ok(Verdict::Refused(revision)) => work.stage = Stage::Stale(revision, sent),
                Err(Fault::Unknown(_)) => {
                    work.stage = Stage::Unsure(now + WRITE_AGAIN_MS, Box::new(Sent { unsure: true, ..*sent }));
                }
                Err(_) if sent.unsure => work.stage = Stage::Unsure(now + WRITE_AGAIN_MS, sent),
                Err(Fault::Unavailable(_) | Fault::NoLease(_)) => work.stage = Stage::Paused(now + WRITE_AGAIN_MS),
                Err(Fault::Invalid(why)) => {
                    let refusal = refusal(Kind::Unavailable, "store_refuses", why, "nothing was changed");
                    self.end(Err(refusal), out);
                }
            },
            other => work.stage = other,
        }
    }

    pub(super) fn probed(&mut self, deed: DeedId, seen: Vec<(Addr, Result<Seen, String>)>) {
        let Some(work) = &mut self.work else { return };
        if matches!(work.stage, Stage::Probing(of) if of == deed) {
            work.seen = Some(seen);
            work.stage = Stage::Ready;
        }
    }

    pub(super) fn followed(&mut self, deed: DeedId, outcome: Result<(), String>, out: &mut Out) {
        let Some(work) = &mut self.work else { return };
        match std::mem::replace(&mut work.stage, Stage::Ready) {
            Stage::Following(of, pair) if of == deed => match outcome {
                Ok(()) => work.followed.push(pair),
                Err(why) => {
                    let (instance, primary) = pair;
                    let why = format!("instance {instance}: was told to follow {primary}, but: {why}");
                    let hint = "the topology was not changed; correct this and try again";
                    self.end(Err(refusal(Kind::Unfit, "cannot_follow", why, hint)), out);
                }
            },
            other => work.stage = other,
        }
    }

    /// Leadership is lost: what was not sent is not done; what was sent, the watch will tell.
    pub(super) fn deposed(&mut self, ground: &Ground, out: &mut Out) {
        for work in self.queue.drain(..) {
            work.answer(Err(ground.not_leader()), out);
        }
        match self.work.as_ref().map(|w| &w.stage) {
            Some(Stage::Writing(..) | Stage::Unsure(..) | Stage::Stale(..) | Stage::Settling(..)) | None => {}
            Some(_) => self.end(Err(ground.not_leader()), out),
        }
    }

    /// Goes as far as it can.
    pub(super) fn advance(&mut self, now: u64, wall: u64, ground: &Ground, out: &mut Out) {
        self.since.get_or_insert(wall);
        self.expire(now, ground, out);
        while self.step(now, wall, ground, out) {}
    }

    /// Too late for an answer: says what is known, and lets it go.
    fn expire(&mut self, now: u64, ground: &Ground, out: &mut Out) {
        while self.queue.front().is_some_and(|w| now >= w.since + ANSWER_MS) {
            let late = match ground.fence {
                Some(_) => {
                    refusal(Kind::Busy, "too_slow", "other changes took too long; nothing was changed", "try again")
                }
                None => store_away(),
            };
            self.queue.pop_front().into_iter().for_each(|work| work.answer(Err(late.clone()), out));
        }
        let Some(work) = self.work.as_ref().filter(|w| now >= w.since + ANSWER_MS) else { return };
        let outcome = match &work.stage {
            Stage::Settling(_, sent) => Ok(sent.answer.clone()),
            // Also where it was refused: a copy of it may have been done before.
            Stage::Writing(_, sent) | Stage::Unsure(_, sent) | Stage::Stale(_, sent) => {
                self.doubt = sent.compares();
                Err(unknown())
            }
            Stage::Ready | Stage::Paused(_) => Err(store_away()),
            Stage::Probing(_) | Stage::Following(..) => {
                let why = "an instance did not answer in time; the topology was not changed";
                Err(refusal(Kind::Unfit, "unreachable", why, "look whether the instances named answer PING"))
            }
        };
        self.end(outcome, out);
    }

    fn end(&mut self, outcome: Result<Answer, Refusal>, out: &mut Out) {
        self.work.take().into_iter().for_each(|work| work.answer(outcome.clone(), out));
    }

    /// True: there may be more to do at once.
    fn step(&mut self, now: u64, wall: u64, ground: &Ground, out: &mut Out) -> bool {
        let Some(work) = &mut self.work else {
            self.work = self.next(now, wall, ground);
            return self.work.is_some();
        };
        match &work.stage {
            Stage::Ready => self.decide(wall, ground, out),
            Stage::Probing(_) | Stage::Following(..) => false,
            Stage::Paused(until) => {
                let over = now >= *until;
                if over {
                    work.stage = Stage::Ready;
                }
                over
            }
            Stage::Settling(revision, sent) => {
                let shown = ground.state.revision >= *revision;
                if shown {
                    let answer = sent.answer.clone();
                    self.end(Ok(answer), out);
                }
                shown
            }
            Stage::Writing(_, sent) => {
                // A deposed leader's transaction is judged by what the watch shows.
                let over = !holds(&sent.fence, ground.state);
                over && self.resolve(ground, out)
            }
            Stage::Unsure(again_at, sent) => {
                if is_done(sent, ground.state) || !holds(&sent.fence, ground.state) {
                    return self.resolve(ground, out);
                }
                if now < *again_at || ground.fence.is_none() {
                    return false;
                }
                let (deed, sent) = (out.deed(), sent.clone());
                out.push(Action::Write { deed, txn: sent.txn.clone() });
                work.stage = Stage::Writing(deed, sent);
                false
            }
            Stage::Stale(revision, _) => ground.state.revision >= *revision && self.resolve(ground, out),
        }
    }

    /// The watch shows all that there is to know about what was sent: it was done, or it never will be.
    fn resolve(&mut self, ground: &Ground, out: &mut Out) -> bool {
        let Some(work) = &mut self.work else { return false };
        let (Stage::Writing(_, sent) | Stage::Unsure(_, sent) | Stage::Stale(_, sent)) = &work.stage else {
            return false;
        };
        if is_done(sent, ground.state) {
            let answer = sent.answer.clone();
            self.end(Ok(answer), out);
            return true;
        }
        work.attempts += 1;
        if ground.fence.is_none() && !ground.leading {
            self.end(Err(ground.not_leader()), out);
        } else if work.attempts >= ATTEMPTS_MAX {
            let why = "the store changed each time this was tried; nothing was changed";
            self.end(Err(refusal(Kind::Busy, "store_busy", why, "somebody edits the store: try again later")), out);
        } else {
            work.stage = Stage::Ready;
        }
        true
    }

    /// Upkeep goes first: a change is made on settled ground.
    fn next(&mut self, now: u64, wall: u64, ground: &Ground) -> Option<Work> {
        let fence = ground.fence?;
        if ground.state.store_fault.is_none()
            && let Some(job) = self.upkeep(wall, ground.state, fence)
        {
            return Some(Work::new(job, now));
        }
        self.queue.pop_front()
    }

    fn decide(&mut self, wall: u64, ground: &Ground, out: &mut Out) -> bool {
        let (state, Some(fence)) = (ground.state, ground.fence) else {
            if !ground.leading {
                self.end(Err(ground.not_leader()), out);
                return true;
            }
            return false; // our record in the store is on its way
        };
        if let Some(why) = &state.store_fault {
            let message = format!("the store cannot be reached, nothing was changed: {why}");
            self.end(
                Err(refusal(Kind::Unavailable, "store_away", message, "proxies serve on; look at the store")),
                out,
            );
            return true;
        }
        let upkeep = self.upkeep(wall, state, fence);
        let Some(work) = &mut self.work else { return false };
        if matches!(work.job, Job::Asked { .. }) && upkeep.is_some() {
            self.queue.extend(self.work.take());
            self.queue.rotate_right(1);
            return true;
        }
        match work.decide(wall, state, fence) {
            Decision::End(outcome) => {
                self.end(outcome, out);
                true
            }
            Decision::Probe(addrs) => {
                let deed = out.deed();
                out.push(Action::Probe { deed, addrs });
                work.stage = Stage::Probing(deed);
                false
            }
            Decision::Follow(instance, primary) => {
                let deed = out.deed();
                let (told, of) = (instance.clone(), primary.clone());
                out.push(Action::Follow { deed, token: fence.token, instance: told, primary: of });
                work.stage = Stage::Following(deed, (instance, primary));
                false
            }
            Decision::Write(sent) => {
                let deed = out.deed();
                out.push(Action::Write { deed, txn: sent.txn.clone() });
                work.stage = Stage::Writing(deed, sent);
                false
            }
        }
    }

    /// What must be done before the next change is decided.
    fn upkeep(&mut self, wall: u64, state: &State, fence: &Fence) -> Option<Job> {
        let open = |doubt: &[Compare; 2]| {
            [layout::LEADER, layout::EPOCH].iter().zip(doubt).all(|(key, compare)| state.as_it_is(key) == *compare)
        };
        self.doubt = self.doubt.take().filter(open);
        let epoch = state.epoch.as_ref().map(|e| &e.value);
        match state.standing {
            Standing::Edited { .. } => Some(Job::Adopt),
            Standing::Valid if epoch.is_some_and(|e| !e.unfolded.is_empty()) => Some(Job::Fold),
            Standing::Valid if self.doubt.is_some() => Some(Job::Seal),
            Standing::Empty if is_given_up(state, fence, self.since, wall) => Some(Job::Clear),
            _ => None,
        }
    }

    pub(super) fn deadline(&self) -> Option<u64> {
        let stage = self.work.as_ref().and_then(|w| match w.stage {
            Stage::Paused(until) | Stage::Unsure(until, _) => Some(until),
            _ => None,
        });
        let late = self.work.iter().chain(self.queue.front()).map(|w| w.since + ANSWER_MS);
        late.chain(stage).min()
    }

    /// Wishes that wait or are under way.
    pub(super) fn waiting(&self) -> usize {
        self.queue.len() + usize::from(self.work.is_some())
    }
}

fn store_away() -> Refusal {
    let why = "the store cannot be reached or is behind; nothing was changed";
    refusal(Kind::Unavailable, "store_away", why, "proxies serve on; look at the store: `twemslotctl doctor`")
}

fn unknown() -> Refusal {
    let why = "the store did not say what became of it: the change may have been made, or may yet be";
    refusal(Kind::Unknown, "unknown", why, "ask again with the same Idempotency-Key, or look at the audit")
}

/// Whether a comparison of the leader's record still holds.
fn holds(fence: &Compare, state: &State) -> bool {
    state.as_it_is(layout::LEADER) == *fence
}

fn is_done(sent: &Sent, state: &State) -> bool {
    let Some((revision, audit)) = &sent.audit else { return false };
    let at = state.audit.binary_search_by_key(revision, |(r, _)| *r);
    at.is_ok_and(|at| state.audit[at].1 == *audit)
}

/// A load of the store that nobody goes on with: its leader is another one's predecessor, or was an earlier process of this
/// member (one that starts again may lead again under its old token), or it takes longer than any may. `since`: wall clock
/// of this process's first step; a clock that was set back meanwhile only makes a load fail whose mark is gone.
fn is_given_up(state: &State, fence: &Fence, since: Option<u64>, wall: u64) -> bool {
    let Some(restoring) = state.restoring.as_ref().map(|item| &item.value) else { return false };
    let before = since.is_some_and(|since| restoring.begun < since);
    restoring.given_up || before || restoring.token != fence.token || wall.abs_diff(restoring.begun) > RESTORE_MS
}

enum Decision {
    End(Result<Answer, Refusal>),
    Probe(Vec<Addr>),
    Follow(Addr, Addr),
    Write(Box<Sent>),
}

impl Work {
    fn new(job: Job, since: u64) -> Self {
        Self { job, since, stage: Stage::Ready, attempts: 0, seen: None, followed: Vec::new() }
    }

    fn answer(self, outcome: Result<Answer, Refusal>, out: &mut Out) {
        if let Job::Asked { call, .. } = self.job {
            out.answer(call, outcome);
        }
    }

    fn decide(&self, wall: u64, state: &State, fence: &Fence) -> Decision {
        match &self.job {
            Job::Asked { request, .. } => match self.decide_asked(request, wall, state, fence) {
                Ok(decision) => decision,
                Err(refusal) => Decision::End(Err(refusal)),
            },
            Job::Adopt => match plan::adoption(state) {
                Some(plan) => {
                    let made = Made { who: "store", what: "store.edit", command: Value::Null, key: None };
                    Decision::Write(Box::new(transaction(made, plan, wall, state, fence)))
                }
                None => Decision::End(Ok(nothing(state))),
            },
            Job::Fold => match plan::folding(state) {
                Some((ops, epoch)) => Decision::Write(Box::new(fold(ops, &epoch, state, fence))),
                None => Decision::End(Ok(nothing(state))),
            },
            Job::Clear => {
                let txn = plan::clearing(state, fence);
                let (fence, answer) = (fence.compare.clone(), nothing(state));
                Decision::Write(Box::new(Sent { txn, fence, audit: None, answer, unsure: false }))
            }
            Job::Seal => match &state.epoch {
                Some(epoch) => Decision::Write(Box::new(fold(Vec::new(), &epoch.value, state, fence))),
                None => Decision::End(Ok(nothing(state))),
            },
        }
    }

    fn decide_asked(&self, request: &Request, wall: u64, state: &State, fence: &Fence) -> Result<Decision, Refusal> {
        let key = request.idempotency_key.as_deref().filter(|_| !request.dry_run);
        if let Some(answer) = repeated(&state.audit, &request.who, key, &request.command)? {
            return Ok(Decision::End(Ok(answer)));
        }
        let wanted = plan::probes(&request.command);
        let plan = plan::plan(state, &request.command, self.seen.as_deref(), wall)?;
        if self.seen.is_none() && !wanted.is_empty() {
            return Ok(Decision::Probe(wanted));
        }
        if request.dry_run {
            let answer =
                Answer { epoch: plan.epoch.epoch, result: covered(plan.result), notes: plan.notes, repeated: false };
            return Ok(Decision::End(Ok(answer)));
        }
        if let Some((instance, primary)) = plan.follows.iter().find(|pair| !self.followed.contains(pair)) {
            return Ok(Decision::Follow(instance.clone(), primary.clone()));
        }
        let what = plan::what(&request.command);
        let command = shortened(json!(request.command));
        let made = Made { who: &request.who, what, command, key: request.idempotency_key.clone() };
        Ok(Decision::Write(Box::new(transaction(made, plan, wall, state, fence))))
    }
}

fn nothing(state: &State) -> Answer {
    Answer { epoch: state.epoch_in_force(), result: Value::Null, notes: Vec::new(), repeated: false }
}

/// What was answered when this request was made before.
pub fn repeated(
    audit: &[(Revision, Audit)],
    who: &str,
    key: Option<&str>,
    command: &Command,
) -> Result<Option<Answer>, Refusal> {
    let Some(key) = key else { return Ok(None) };
    let same = |a: &&Audit| a.idempotency_key.as_deref() == Some(key) && a.who == who;
    let Some(audit) = audit.iter().rev().map(|(_, audit)| audit).find(same) else { return Ok(None) };
    if wish(&audit.command) != wish(&shortened(json!(command))) {
        let message = format!("idempotency key {key:?} was used for another change ({})", audit.what);
        return Err(refusal(Kind::Conflict, "key_reused", message, "a new request needs a new key"));
    }
    let unread = |_| Answer { epoch: audit.epoch_after, result: Value::Null, notes: Vec::new(), repeated: true };
    let answer: Answer = serde_json::from_value(audit.answer.clone()).unwrap_or_else(unread);
    Ok(Some(Answer { repeated: true, ..answer }))
}

/// What somebody asked for: not what was planned for it, if it was planned.
fn wish(command: &Value) -> &Value {
    command.get("planned_for").unwrap_or(command)
}

/// Who made a change, for the audit.
struct Made<'a> {
    who: &'a str,
    what: &'a str,
    command: Value,
    key: Option<String>,
}

fn transaction(made: Made, plan: Plan, wall: u64, state: &State, fence: &Fence) -> Sent {
    let result = shortened(plan.result);
    let answer = Answer { epoch: plan.epoch.epoch, result, notes: plan.notes, repeated: false };
    let audit = Audit {
        at: wall,
        who: made.who.to_owned(),
        what: made.what.to_owned(),
        command: made.command,
        epoch_before: state.epoch_in_force(),
        epoch_after: plan.epoch.epoch,
        before: shortened(plan.before),
        after: shortened(plan.after),
        idempotency_key: made.key,
        answer: json!(answer),
    };
    let mut compares = vec![fence.compare.clone(), state.as_it_is(layout::EPOCH)];
    compares.extend(plan.compares);
    let mut ops = plan.ops;
    ops.push(put(layout::EPOCH.to_owned(), &plan.epoch));
    ops.push(put(layout::audit_key(state.revision), &audit));
    let over = (state.audit.len() + 1).saturating_sub(AUDIT_MAX).min(AUDIT_TRIM);
    ops.extend(state.audit.iter().take(over).map(|(revision, _)| Op::Delete { key: layout::audit_key(*revision) }));
    let txn = Txn { compares, ops };
    Sent { txn, fence: fence.compare.clone(), audit: Some((state.revision, audit)), answer, unsure: false }
}

fn fold(mut ops: Vec<Op>, epoch: &Epoch, state: &State, fence: &Fence) -> Sent {
    ops.push(put(layout::EPOCH.to_owned(), epoch));
    let mut compares = vec![fence.compare.clone(), state.as_it_is(layout::EPOCH)];
    compares.extend(state.unfolded_as_they_are());
    Sent {
        txn: Txn { compares, ops },
        fence: fence.compare.clone(),
        audit: None,
        answer: nothing(state),
        unsure: false,
    }
}

fn put(key: String, value: &impl serde::Serialize) -> Op {
    Op::Put { key, value: serde_json::to_string(value).unwrap_or_default(), lease: None }
}

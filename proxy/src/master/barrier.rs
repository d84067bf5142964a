//! Those who wait until every worker serves a topology: the barrier on which failover and migration rest.

use super::event::{Answer, Problem, Reply};
use super::fleet::{Behind, Fleet};
use serde_json::json;

/// Callers that wait at once; each is a connection of the admin port, which bounds them too.
const WAITERS_MAX: usize = 256;

/// One caller.
#[derive(Debug)]
struct Waiter {
    epoch: u64,
    /// Wait also until nothing for a held slot is in flight.
    quiet: bool,
    since_us: u64,
    deadline_us: u64,
    reply: Reply,
}

/// All callers that wait.
#[derive(Debug, Default)]
pub(super) struct Barrier {
    waiters: Vec<Waiter>,
}

impl Barrier {
    /// Lets a caller wait for an epoch that is in force.
    pub(super) fn wait(&mut self, epoch: u64, quiet: bool, now_us: u64, timeout_us: u64, reply: Reply) {
        if self.waiters.len() == WAITERS_MAX {
            let why = format!("{WAITERS_MAX} callers wait for topologies already; epoch {epoch} is stored");
            let problem = Problem::new(503, "too_many_waiters", why, "ask /api/v1/topology/status instead");
            _ = reply.send(problem.into());
            return;
        }
        self.waiters.push(Waiter { epoch, quiet, since_us: now_us, deadline_us: now_us + timeout_us, reply });
    }

    /// Answers everyone whose wait is over.
    pub(super) fn settle(&mut self, fleet: &Fleet, current: u64, now_us: u64) {
        let waiting = std::mem::take(&mut self.waiters);
        for waiter in waiting {
            match verdict(&waiter, fleet, current, now_us) {
                Some(answer) => _ = waiter.reply.send(answer), // an error: the caller has gone
                None if waiter.reply.is_closed() => {}
                None => self.waiters.push(waiter),
            }
        }
    }

    pub(super) fn deadline_us(&self) -> Option<u64> {
        self.waiters.iter().map(|w| w.deadline_us).min()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }
}

fn verdict(waiter: &Waiter, fleet: &Fleet, current: u64, now_us: u64) -> Option<Answer> {
    let epoch = waiter.epoch;
    let progress = fleet.progress(epoch);
    if waiter.quiet && current > epoch {
        // A later topology says other things of held slots: quiet under it would not mean quiet under this one.
        let why = format!("epoch {current} came while epoch {epoch} was waited for");
        return Some(Problem::new(409, "superseded", why, "look at the newer topology").into());
    }
    let quiet = progress.unquiet.is_empty();
    if progress.behind.is_empty() && (quiet || !waiter.quiet) {
        let waited_ms = (now_us - waiter.since_us) / 1000;
        let workers_applied = progress.serving;
        return Some(Answer::Json(
            json!({"epoch": epoch, "workers_applied": workers_applied, "quiet": quiet, "waited_ms": waited_ms}),
        ));
    }
    let refused = progress.behind.iter().any(|b| b.why.is_some());
    if now_us < waiter.deadline_us && !refused {
        return None;
    }
    let (code, what, late) = match progress.behind.is_empty() {
        true => ("not_quiet", "have requests for held slots in flight", progress.unquiet),
        false if refused => ("refused_by_worker", "do not serve it", progress.behind),
        false => ("not_applied_in_time", "do not serve it yet", progress.behind),
    };
    let names: Vec<String> = late.iter().map(name).collect();
    let message = format!("epoch {epoch} is stored, but these {what}: {}", names.join(", "));
    let mut problem = Problem::new(504, code, message, "send the same topology again to go on waiting");
    problem.faults = names;
    Some(problem.into())
}

fn name(behind: &Behind) -> String {
    let why = behind.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    format!("worker {} (pid {}){why}", behind.seat, behind.pid)
}

#[cfg(test)]
mod tests {
    use super::super::fleet::{Event, Layout};
    use super::*;
    use tokio::sync::oneshot::{self, Receiver};

    fn two_workers_at(epoch: u64) -> Fleet {
        let mut fleet = Fleet::new();
        fleet.step(0, Event::Layout(Layout { workers: 2, ..Layout::default() }));
        for id in [1, 2] {
            fleet.step(0, Event::Spawned { id, pid: 100 + id as u32 });
            fleet.step(0, Event::Ready { id });
        }
        fleet.step(0, Event::Topology { epoch });
        fleet
    }

    fn ask(barrier: &mut Barrier, epoch: u64, quiet: bool) -> Receiver<Answer> {
        let (reply, answer) = oneshot::channel();
        barrier.wait(epoch, quiet, 1000, 50_000, reply);
        answer
    }

    fn problem(mut answer: Receiver<Answer>) -> Problem {
        match answer.try_recv() {
            Ok(Answer::Problem(problem)) => problem,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_answer_comes_when_the_last_worker_serves() {
        let (mut fleet, mut barrier) = (two_workers_at(7), Barrier::default());
        let mut served = ask(&mut barrier, 7, false);
        let mut quiet = ask(&mut barrier, 7, true);
        fleet.step(0, Event::Serving { id: 1, epoch: 7 });
        barrier.settle(&fleet, 7, 2000);
        assert!(served.try_recv().is_err());
        fleet.step(0, Event::Serving { id: 2, epoch: 7 });
        fleet.step(0, Event::Quiet { id: 1, epoch: 7 });
        barrier.settle(&fleet, 7, 6000);
        let Ok(Answer::Json(json)) = served.try_recv() else { panic!("no answer") };
        assert_eq!(json, json!({"epoch": 7, "workers_applied": 2, "quiet": false, "waited_ms": 5}));
        assert!(quiet.try_recv().is_err());
        fleet.step(0, Event::Quiet { id: 2, epoch: 7 });
        barrier.settle(&fleet, 7, 7000);
        assert!(matches!(quiet.try_recv(), Ok(Answer::Json(json)) if json["quiet"] == true));
        assert!(barrier.is_empty());
    }

    #[test]
    fn those_who_are_late_are_named() {
        let (mut fleet, mut barrier) = (two_workers_at(7), Barrier::default());
        let (served, quiet) = (ask(&mut barrier, 7, false), ask(&mut barrier, 7, true));
        fleet.step(0, Event::Serving { id: 1, epoch: 7 });
        assert_eq!(barrier.deadline_us(), Some(51_000));
        barrier.settle(&fleet, 7, 50_999);
        assert!(!barrier.is_empty());
        barrier.settle(&fleet, 7, 51_000);
        assert_eq!(problem(served).faults, ["worker 1 (pid 102)"]);
        assert_eq!(problem(quiet).code, "not_applied_in_time");
        fleet.step(0, Event::Serving { id: 2, epoch: 7 });
        let quiet = ask(&mut barrier, 7, true);
        barrier.settle(&fleet, 7, 51_000);
        assert_eq!(problem(quiet).code, "not_quiet");
    }

    #[test]
    fn a_refusal_is_not_waited_out_and_a_newer_epoch_ends_a_quiet_wait() {
        let (mut fleet, mut barrier) = (two_workers_at(7), Barrier::default());
        let served = ask(&mut barrier, 7, false);
        fleet.step(0, Event::Refused { id: 2, epoch: 7, why: "disk".into() });
        barrier.settle(&fleet, 7, 1001);
        assert!(problem(served).message.contains("worker 1 (pid 102): disk"));
        let quiet = ask(&mut barrier, 7, true);
        barrier.settle(&fleet, 8, 1002);
        assert_eq!(problem(quiet).status, 409);
    }
}

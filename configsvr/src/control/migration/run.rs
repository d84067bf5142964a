//! What a leader remembers of one task, and what people see of it.

use crate::control::event::{Action, DeedId};
use crate::control::job::{Findings, Goal, Job, JobLimits, Side, Stage, Status};
use crate::control::limits::JOB_AGAIN_MAX_MS;
use crate::control::out::Out;
use crate::control::task::{Progress, Task, TaskPhase, TaskView};
use cluster::group::Group;
use cluster::instance::Addr;
use std::sync::Arc;

/// A job of the mover.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) job: Arc<Job>,
    pub(super) goal: Goal,
    /// What it said last, and when.
    pub(super) status: Option<(Status, u64)>,
    /// When it was first heard that keys are copied, and how many had been met by then.
    pub(super) copying: Option<(u64, u64)>,
    pub(super) told_at: u64,
    /// Attempts that failed one after the other, and when the next may begin.
    pub(super) failures: u32,
    pub(super) again_at: Option<u64>,
    pub(super) fence: Fence,
}

/// The attempts to hold the slots.
#[derive(Debug, Default)]
pub(super) struct Fence {
    /// The epoch of the one that this leader closed, and since when.
    pub(super) ours: Option<(u64, u64)>,
    /// Those that were opened again, and when the next may be closed.
    pub(super) failures: u32,
    pub(super) again_at: u64,
}

/// Both sides being compared.
#[derive(Debug)]
pub(super) struct Auditing {
    pub(super) deed: DeedId,
    /// The primaries of then: source, target.
    pub(super) at: (Addr, Addr),
    pub(super) outcome: Option<(Result<Findings, String>, u64)>,
    /// Audits that failed one after the other.
    pub(super) failures: u32,
}

/// Keys being removed.
#[derive(Debug)]
pub(super) struct Sweeping {
    pub(super) deed: DeedId,
    pub(super) at: Addr,
    pub(super) count_only: bool,
    pub(super) outcome: Option<(Result<u64, String>, u64)>,
}

impl Run {
    pub(super) fn tell(&mut self, now: u64, goal: Goal, out: &mut Out) {
        if self.goal != goal {
            (self.goal, self.told_at) = (goal, now);
            out.push(Action::Move { job: Arc::clone(&self.job), goal });
        }
    }

    /// Other limits, in the middle of it.
    pub(super) fn limit(&mut self, limits: JobLimits, out: &mut Out) {
        if self.job.limits != limits {
            self.job = Arc::new(Job { limits, ..Job::clone(&self.job) });
            out.push(Action::Move { job: Arc::clone(&self.job), goal: self.goal });
        }
    }

    pub(super) fn heard(&mut self, now: u64, status: Status) {
        if matches!(status.stage, Stage::Copying | Stage::Fetching) {
            self.copying.get_or_insert((now, status.scanned));
        }
        self.status = Some((status, now));
    }

    /// It has come as far as an attempt has to: what failed before is forgotten.
    pub(super) fn gets_on(&self) -> bool {
        self.status.as_ref().is_some_and(|(status, _)| match status.stage {
            Stage::Tailing | Stage::Emptied => true,
            Stage::Fetching => status.copied > 0,
            _ => false,
        })
    }

    /// Until all keys were met once.
    fn eta_ms(&self) -> Option<u64> {
        let ((status, at), (since, from)) = (self.status.as_ref()?, self.copying?);
        let (met, left) = (status.scanned.saturating_sub(from), status.to_scan.saturating_sub(status.scanned));
        let told = matches!(status.stage, Stage::Copying | Stage::Fetching) && met > 0 && left > 0;
        told.then(|| (u128::from(left) * u128::from(at.saturating_sub(since)) / u128::from(met)) as u64)
    }

    pub(super) fn stage(&self) -> Option<&Stage> {
        self.status.as_ref().map(|(status, _)| &status.stage)
    }
}

/// The pause before the next attempt: twice as long each time.
pub(super) fn pause(first_ms: u64, failures: u32) -> u64 {
    (first_ms << failures.saturating_sub(1).min(16)).min(JOB_AGAIN_MAX_MS)
}

/// What the leader knows of a task.
pub(super) fn view(now: u64, task: &Task, run: Option<&Run>) -> TaskView {
    let progress = run.and_then(|run| {
        let (status, at) = run.status.as_ref()?;
        Some(Progress {
            attempt: run.job.attempt,
            scanned: status.scanned,
            to_scan: status.to_scan,
            copied: status.copied,
            bytes: status.bytes,
            applied: status.applied,
            dirty: status.dirty,
            lag_bytes: status.lag,
            age_ms: now.saturating_sub(*at),
            eta_ms: run.eta_ms(),
            held_ms: run.fence.ours.filter(|_| task.phase == TaskPhase::Fence).map(|(_, at)| now.saturating_sub(at)),
        })
    });
    let trouble = run.and_then(|run| match run.stage() {
        Some(Stage::Failed { why } | Stage::Hopeless { why }) => Some(why.clone()),
        _ => None,
    });
    TaskView {
        task: task.clone(),
        slot_count: task.slots().count(),
        stage: run.and_then(word).map(str::to_owned),
        trouble,
        progress,
    }
}

fn word(run: &Run) -> Option<&'static str> {
    Some(match run.stage()? {
        Stage::Purging => "purging",
        Stage::Copying => "copying",
        Stage::Tailing if matches!(run.goal, Goal::Drain { .. }) => "draining",
        Stage::Tailing => "tailing",
        Stage::Drained { .. } => "drained",
        Stage::Fetching => "fetching",
        Stage::Emptied => "emptied",
        Stage::Failed { .. } | Stage::Hopeless { .. } => "failed",
    })
}

/// A group as the mover is told of it.
pub(super) fn side(group: &Group) -> Option<Side> {
    let primary = group.primary()?.addr.clone();
    Some(Side { group: group.id, primary, replicas: group.replicas().map(|r| r.addr.clone()).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::job::Work;
    use crate::control::layout::Token;
    use cluster::slot::TagRule;

    fn run() -> Run {
        let side = |port: u16| Side {
            group: 1,
            primary: format!("127.0.0.1:{port}").parse().expect("an address"),
            replicas: Vec::new(),
        };
        let job = Job {
            task: "1".to_owned(),
            work: Work::Copy,
            attempt: 1,
            token: Token { term: 1, member: 1 },
            slots: Arc::from([0]),
            slot_count: 1,
            tag_rule: TagRule::Redis,
            source: side(1),
            target: side(2),
            limits: JobLimits::default(),
            force: false,
        };
        let (job, goal, fence) = (Arc::new(job), Goal::Copy, Fence::default());
        Run { job, goal, status: None, copying: None, told_at: 0, failures: 0, again_at: None, fence }
    }

    fn status(stage: Stage, scanned: u64) -> Status {
        Status { stage, scanned, to_scan: 1000, copied: 0, bytes: 0, applied: 0, dirty: 0, lag: 0 }
    }

    #[test]
    fn what_is_left_takes_as_long_as_what_was_done() {
        let mut run = run();
        run.heard(0, status(Stage::Purging, 0));
        run.heard(1_000, status(Stage::Copying, 0));
        assert_eq!(run.eta_ms(), None, "nothing was met yet");
        run.heard(3_000, status(Stage::Copying, 200));
        assert_eq!(run.eta_ms(), Some(8_000));
        run.heard(4_000, status(Stage::Tailing, 1_000));
        assert_eq!(run.eta_ms(), None, "it is over");
    }

    #[test]
    fn other_limits_are_told_once_and_begin_nothing_anew() {
        let (mut run, mut out) = (run(), Out::default());
        let limits = JobLimits { keys_per_s: 7, ..JobLimits::default() };
        run.limit(limits, &mut out);
        run.limit(limits, &mut out);
        let told = out.take();
        assert!(
            matches!(&told[..], [Action::Move { job, goal: Goal::Copy }] if job.limits == limits && job.attempt == 1)
        );
    }
}

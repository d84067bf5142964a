//! What a leader remembers of one task, and what people see of it.

use crate::control::event::{Action, DeedId};
use crate::control::job::{Findings, Goal, Job, Side, Stage, Status};
use crate::control::limits::JOB_AGAIN_MAX_MS;
use crate::control::out::Out;
use crate::control::task::{Progress, Task, TaskView};
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
    pub(super) outcome: Option<(Result<u64, String>, u64)>,
}

impl Run {
    pub(super) fn tell(&mut self, now: u64, goal: Goal, out: &mut Out) {
        if self.goal != goal {
            (self.goal, self.told_at) = (goal, now);
            out.push(Action::Move { job: Arc::clone(&self.job), goal });
        }
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
        Stage::Failed { .. } | Stage::Hopeless { .. } => "failed",
    })
}

/// A group as the mover is told of it.
pub(super) fn side(group: &Group) -> Option<Side> {
    let primary = group.primary()?.addr.clone();
    Some(Side { group: group.id, primary, replicas: group.replicas().map(|r| r.addr.clone()).collect() })
}

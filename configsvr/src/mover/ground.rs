//! What every job has: what it was told, and how it says where it stands.

use super::core::Fault;
use super::line::Line;
use super::{Confirm, Told};
use crate::agent::link::Access;
use crate::control::event::Event;
use crate::control::job::{Job, Stage, Status};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// How often a job says where it stands.
pub(super) const REPORT: Duration = Duration::from_millis(250);

/// What a job is given.
pub(super) struct Ground {
    pub(super) job: Arc<Job>,
    pub(super) access: Arc<Access>,
    pub(super) confirm: Confirm,
    pub(super) told: watch::Receiver<Told>,
    pub(super) outcomes: mpsc::Sender<Event>,
}

impl Ground {
    pub(super) async fn report(&self, status: Status) {
        let event = Event::Moved { task: self.job.task.clone(), attempt: self.job.attempt, status };
        _ = self.outcomes.send(event).await; // an error: the server has ended
    }
}

pub(super) fn ended(fault: Fault) -> Stage {
    match fault {
        Fault { hopeless: true, why } => Stage::Hopeless { why },
        Fault { hopeless: false, why } => Stage::Failed { why },
    }
}

pub(super) fn nothing_yet() -> Status {
    Status { stage: Stage::Purging, scanned: 0, to_scan: 0, copied: 0, bytes: 0, applied: 0, dirty: 0, lag: 0 }
}

/// Which process answers.
pub(super) async fn run_id(line: &mut Line) -> Result<String, String> {
    let info = line.say(&[b"INFO", b"server"]).await?;
    let id = info.lines().find_map(|l| l.trim_end().strip_prefix("run_id:"));
    id.map(str::to_owned).ok_or_else(|| format!("{}: INFO names no run_id", line.addr()))
}

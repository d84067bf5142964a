//! Moves slots between groups while clients write: copies what is there, follows what comes, and says when the target holds
//! everything. What a slot's owner is, control decides.
//!
//! Slots that move on access are another thing: servers move keys to each other by themselves, `ready` tries whether they can,
//! `fetch` tells them until none is left.
//!
//! `core` is pure: bytes in, bytes out. The rest carries them: a job has a writer to the target (the only connection that
//! changes anything there), the stream of a replica of the source, a connection on which values are read at the same
//! replica, and a `scout` that looks at the source's primary.

mod job;
mod fetch;
mod ready;
mod ferry;
mod ground;
mod audit;
mod scout;
pub mod survey;
mod preflight;
mod attach;
mod sweep;
mod functions;
mod name;
mod line;
mod encrypted;
pub mod core;

use crate::agent::link::Access;
use crate::control::event::{DeedId, Event};
use crate::control::job::{Audit, Goal, Job, JobLimits, Sweep, Work};
use crate::control::layout::Token;
use ground::Ground;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// Asks a majority whether the token still leads.
pub type Confirm = Arc<dyn Fn(Token) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> + Send + Sync>;

/// The jobs of this process.
pub struct Movers {
    access: Arc<Access>,
    confirm: Confirm,
    outcomes: mpsc::Sender<Event>,
    jobs: BTreeMap<String, Running>,
}

/// What a job is to do for now, and how hard it may push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    goal: Goal,
    limits: JobLimits,
}

struct Running {
    attempt: (Token, u64),
    told: watch::Sender<Told>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    /// Its connections close; what is under way on them is killed by whoever comes next.
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Movers {
    /// What jobs say goes to `outcomes`.
    pub fn new(access: Arc<Access>, confirm: Confirm, outcomes: mpsc::Sender<Event>) -> Self {
        Self { access, confirm, outcomes, jobs: BTreeMap::new() }
    }

    /// Begins a job, or tells the one that runs how far it is to go, and its limits as they are by now. An older attempt of the same task ends.
    pub fn tell(&mut self, job: Arc<Job>, goal: Goal) {
        let attempt = (job.token, job.attempt);
        let told = Told { goal, limits: job.limits };
        match self.jobs.get(&job.task) {
            Some(running) if running.attempt == attempt => {
                running.told.send_if_modified(|now| std::mem::replace(now, told) != told);
            }
            Some(running) if running.attempt > attempt => {}
            _ => {
                let (tell, told) = watch::channel(told);
                let ground = Ground {
                    job: Arc::clone(&job),
                    access: Arc::clone(&self.access),
                    confirm: Arc::clone(&self.confirm),
                    told,
                    outcomes: self.outcomes.clone(),
                };
                let task = match job.work {
                    Work::Copy => tokio::spawn(job::run(ground)),
                    Work::Prepare => tokio::spawn(ready::run(ground)),
                    Work::Fetch => tokio::spawn(fetch::run(ground)),
                };
                self.jobs.insert(job.task.clone(), Running { attempt, told: tell, task });
            }
        }
    }

    /// Ends a task's job; it says nothing any more.
    pub fn drop_task(&mut self, task: &str) {
        self.jobs.remove(task);
    }

    /// An audit, as a deed.
    pub fn audit(&self, deed: DeedId, audit: Audit) -> impl Future<Output = (bool, Event)> + Send + 'static {
        let access = Arc::clone(&self.access);
        async move {
            let outcome = audit::audit(&audit, &access).await;
            match &outcome {
                Ok(found) => tracing::info!(task = audit.task, ?found, "audited"),
                Err(why) => tracing::warn!(task = audit.task, why, "an audit failed"),
            }
            (outcome.is_ok(), Event::Audited { deed, outcome })
        }
    }

    /// A sweep, as a deed: whether it went well, and the event that says so.
    pub fn sweep(&self, deed: DeedId, sweep: Sweep) -> impl Future<Output = (bool, Event)> + Send + 'static {
        let (access, confirm) = (Arc::clone(&self.access), Arc::clone(&self.confirm));
        async move {
            let outcome = sweep::sweep(&sweep, &access, &confirm).await;
            match &outcome {
                Ok(removed) => tracing::info!(task = sweep.task, at = %sweep.at, removed, "swept"),
                Err(why) => tracing::warn!(task = sweep.task, at = %sweep.at, why, "a sweep failed"),
            }
            (outcome.is_ok(), Event::Swept { deed, outcome })
        }
    }
}

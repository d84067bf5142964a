//! Looks at the source's primary beside a job: where its offset is, and how quickly both sides answer.
#![expect(clippy::disallowed_methods, reason = "a shell: reads the clock")]

use super::core::{Position, Replication};
use super::line::Line;
use super::name::{Name, Part};
use crate::agent::link::Access;
use crate::control::job::Job;
use cluster::instance::Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

/// How often.
const LOOK: Duration = Duration::from_millis(250);
/// What is not heard yet.
const SAID_MAX: usize = 64;

/// What was seen.
#[derive(Debug)]
pub(super) enum Said {
    /// `fence`: it was asked for the one of that number.
    Position { position: Position, fence: Option<u64> },
    /// A PING took so long, in milliseconds.
    Pinged(u64),
}

/// The job's end of it. It ends with the job.
pub(super) struct Scout {
    fences: watch::Sender<Option<u64>>,
    said: mpsc::Receiver<Said>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Scout {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Scout {
    pub(super) fn start(job: &Job, name: &Name, access: Arc<Access>, attached: Addr) -> Self {
        let (tell, said) = mpsc::channel(SAID_MAX);
        let (fences, wanted) = watch::channel(None);
        let look = Look { at: job.source.primary.clone(), name: name.clone(), access: Arc::clone(&access) };
        let mut tasks = vec![tokio::spawn(watch_primary(look, wanted, tell.clone()))];
        // Also without a limit: there may be one in a minute.
        for at in [attached, job.target.primary.clone()] {
            let look = Look { at, name: name.clone(), access: Arc::clone(&access) };
            tasks.push(tokio::spawn(ping(look, tell.clone())));
        }
        Self { fences, said, tasks }
    }

    /// Asks the primary for its offset now, for a fence.
    pub(super) fn fence(&self, number: u64) {
        self.fences.send_replace(Some(number));
    }

    pub(super) async fn hear(&mut self) -> Option<Said> {
        self.said.recv().await
    }
}

struct Look {
    at: Addr,
    name: Name,
    access: Arc<Access>,
}

impl Look {
    async fn line(&self) -> Result<Line, String> {
        self.name.connect(&self.at, &self.access, Part::Reader).await
    }
}

async fn watch_primary(look: Look, mut fences: watch::Receiver<Option<u64>>, tell: mpsc::Sender<Said>) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut line, mut fence) = (None, None);
    loop {
        tokio::select! {
            biased;
            wanted = fences.changed() => match wanted {
                Ok(()) => fence = *fences.borrow_and_update(),
                Err(_) => return,
            },
            _ = looks.tick() => {}
        }
        if line.is_none() {
            line = look.line().await.ok();
        }
        let Some(open) = &mut line else { continue };
        let Ok(info) = open.say(&[b"INFO", b"replication"]).await else {
            line = None;
            continue;
        };
        let there = Replication::read(&info);
        // One that is no primary any more has another history as far as this job goes.
        let replid = if there.primary { there.replid } else { String::new() };
        let position = Position { replid, offset: there.offset };
        if tell.send(Said::Position { position, fence }).await.is_err() {
            return;
        }
        fence = None;
    }
}

async fn ping(look: Look, tell: mpsc::Sender<Said>) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut line = None;
    loop {
        looks.tick().await;
        if line.is_none() {
            line = look.line().await.ok();
        }
        let Some(open) = &mut line else { continue };
        let begun = Instant::now();
        if open.ask(&[b"PING"]).await.is_err() {
            line = None;
        }
        if tell.send(Said::Pinged(begun.elapsed().as_millis() as u64)).await.is_err() {
            return;
        }
    }
}

//! What the master's loop hears, and what it answers to the admin port.

use super::fleet::Id;
use super::metrics::Snapshot;
use crate::config::Control;
use crate::mail::ToMaster;
use cluster::beat::{Beat, BeatAnswer};
use cluster::topology::Topology;
use serde_json::{Value, json};
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::sync::oneshot;

/// Something happened.
#[derive(Debug)]
pub(super) enum Event {
    /// A signal, by number.
    Signal(i32),
    /// A letter of a worker, and what came with it.
    Mail(Id, ToMaster, Option<OwnedFd>),
    /// A worker has closed its mailbox: it has ended, or is about to.
    Hangup(Id),
    Ask(Question, Reply),
    /// Of the control plane.
    News(News),
}

/// What came of a heartbeat.
#[derive(Debug)]
pub(super) struct News {
    /// None: no answer.
    pub(super) heard: Option<BeatAnswer>,
}

/// What the next heartbeat is to say, and to whom.
#[derive(Debug, Clone)]
pub(super) struct Standing {
    pub(super) control: Control,
    pub(super) beat: Beat,
    /// Of the topology in force here, which workers may still be loading; 0: none.
    pub(super) epoch: u64,
}

/// What an admin wants.
#[derive(Debug)]
pub(super) enum Question {
    Topology,
    PutTopology { topology: Box<Topology>, timeout: Duration, quiet: bool },
    TopologyStatus,
    Workers,
    Config,
    Reload,
    Ready,
    Metrics,
    SlotsTraffic,
    HotKeys,
    BigKeys,
    Slowlog { count: usize },
    Standing,
}

/// Where the answer goes.
pub(super) type Reply = oneshot::Sender<Answer>;

/// The answer to a question.
#[derive(Debug)]
pub(super) enum Answer {
    Json(Value),
    /// JSON that is printed already.
    Text(String),
    Metrics(Box<Snapshot>),
    Standing(Box<Standing>),
    Problem(Problem),
}

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    /// As in HTTP.
    pub(super) status: u16,
    /// For programs; it stays the same.
    pub(super) code: &'static str,
    /// For people.
    pub(super) message: String,
    /// What to do about it.
    pub(super) hint: &'static str,
    /// Every single fault, where there may be many.
    pub(super) faults: Vec<String>,
}

impl Problem {
    pub(super) fn new(status: u16, code: &'static str, message: impl Into<String>, hint: &'static str) -> Self {
        Self { status, code, message: message.into(), hint, faults: Vec::new() }
    }

    /// The one shape of errors.
    pub(super) fn json(&self) -> Value {
        let mut error = json!({"code": self.code, "message": self.message, "hint": self.hint});
        if !self.faults.is_empty() {
            error["faults"] = json!(self.faults);
        }
        json!({ "error": error })
    }
}

impl From<Problem> for Answer {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

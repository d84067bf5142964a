//! What control is told, and what it wants done. Control itself does nothing: `server` carries both ways.

use super::command::{Answer, Beat, BeatAnswer, Refusal, Request, Seen};
use super::job::{Audit, Findings, Goal, Job, Status, Sweep};
use super::layout::Token;
use super::look::{Ballot, Info, Look};
use crate::store::{Fault, LeaseId, Notice, Txn, Verdict};
use cluster::instance::Addr;
use std::sync::Arc;
use std::time::Duration;

/// A caller that waits for an answer.
pub type CallId = u64;
/// A deed under way, so that its outcome finds its cause.
pub type DeedId = u64;

/// What raft says about the leadership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leadership {
    /// This member leads, and a majority confirmed it after the election.
    Leading(Token),
    /// Somebody else does, or nobody is known to. Name and API address of the leader.
    Following(Option<(String, String)>),
}

/// What happened.
#[expect(clippy::large_enum_variant, reason = "one at a time, and it is not kept")]
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    Leadership(Leadership),
    /// From the store's watch. The only thing that changes what control holds to be true.
    Committed(Notice),
    Asked {
        call: CallId,
        request: Request,
    },
    /// A proxy's heartbeat; only the leader is told.
    Beat {
        call: CallId,
        beat: Beat,
    },
    Wrote {
        deed: DeedId,
        outcome: Result<Verdict, Fault>,
    },
    Probed {
        deed: DeedId,
        seen: Vec<(Addr, Result<Seen, String>)>,
    },
    /// An instance was told to follow another.
    Followed {
        deed: DeedId,
        outcome: Result<(), String>,
    },
    Granted {
        deed: DeedId,
        outcome: Result<LeaseId, Fault>,
    },
    KeptAlive {
        deed: DeedId,
        outcome: Result<(), Fault>,
    },
    /// A proxy was given a topology: the epoch it serves now, or why not.
    Pushed {
        deed: DeedId,
        outcome: Result<u64, PushFault>,
    },
    /// How instances look at this moment. All that are watched, or those that look otherwise.
    Observed(Vec<(Addr, Look)>),
    /// What another member thinks; None: it did not say. `asked`: when it was asked, in the clock of `now_ms`, less the age
    /// of the answer. `voters`: how many members have a vote, this one with them.
    Polled {
        asked: u64,
        voters: usize,
        member: u64,
        ballot: Option<Ballot>,
    },
    /// What became of an order.
    Ordered {
        deed: DeedId,
        outcome: Result<Report, String>,
    },
    /// A job of the mover says where it stands.
    Moved {
        task: String,
        attempt: u64,
        status: Status,
    },
    /// A sweep came to its end: so many keys were removed, or why not.
    Swept {
        deed: DeedId,
        outcome: Result<u64, String>,
    },
    /// An audit came to its end.
    Audited {
        deed: DeedId,
        outcome: Result<Findings, String>,
    },
    /// Time passed. At least every 100 ms, and when `deadline` asked for it.
    Tick,
}

/// Why a proxy does not serve the topology it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PushFault {
    /// It serves a later one: somebody else leads, or the store went back in time.
    Newer { serving: u64 },
    /// It answered, and said no.
    Refused(String),
    /// Nobody answered.
    Unreachable(String),
}

/// What an instance is told. Each may be told again: the second time it changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Nothing: say who you are, within `limits::LAST_CHANCE_MS`, on a new connection.
    Ping,
    /// Follow an address where nobody is. What was received so far is kept, and a partial resync stays possible.
    Detach,
    /// Of this history, and with so much of it: become primary. One that was restarted in between has neither.
    Promote {
        replid: String,
        offset: u64,
    },
    /// Be a primary again, as the process that is recorded, or accepted, as one.
    Lead {
        run_id: String,
    },
    Follow {
        primary: Addr,
    },
    /// As a primary that is none any more: close all clients' connections, follow.
    Demote {
        primary: Addr,
    },
    /// Let no write pass for so long.
    Pause {
        ms: u64,
    },
    Resume,
    /// As a replica of this history: become primary as soon as so much of it has come; not if it does not come within so
    /// long.
    Succeed {
        replid: String,
        offset: u64,
        ms: u64,
    },
}

/// What an instance said of itself before and after an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub before: Info,
    pub after: Info,
}

/// What is to be done. A deed is done at most once; its outcome comes back as an event, unless this process dies.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Ends a call.
    Answer {
        call: CallId,
        outcome: Result<Answer, Refusal>,
    },
    AnswerBeat {
        call: CallId,
        outcome: Result<BeatAnswer, Refusal>,
    },
    /// One transaction. It carries its fence in its comparisons.
    Write {
        deed: DeedId,
        txn: Txn,
    },
    Probe {
        deed: DeedId,
        addrs: Vec<Addr>,
    },
    /// REPLICAOF, over a connection named after the token, after the connections of other tokens were killed.
    Follow {
        deed: DeedId,
        token: Token,
        instance: Addr,
        primary: Addr,
    },
    /// Whom to look at all the time, and whom closely. Replaces what was said before.
    Watch {
        all: Vec<Addr>,
        close: Vec<Addr>,
    },
    /// Ask all other members for their ballots.
    Poll,
    /// As `Follow`, over a connection named after the token.
    Order {
        deed: DeedId,
        token: Token,
        instance: Addr,
        order: Order,
    },
    Grant {
        deed: DeedId,
        ttl: Duration,
    },
    KeepAlive {
        deed: DeedId,
        lease: LeaseId,
    },
    /// PUT to a proxy's admin port.
    Push {
        deed: DeedId,
        proxy: String,
        admin_addr: String,
        epoch: u64,
        message: Arc<str>,
        /// It is to answer when nothing for held slots is in flight any more.
        quiet: bool,
    },
    /// Begins a job, or tells the one with this task and attempt how far it is to go. An older attempt ends.
    Move {
        job: Arc<Job>,
        goal: Goal,
    },
    /// Ends a task's job: its connections close, and it says nothing any more.
    Drop {
        task: String,
    },
    Sweep {
        deed: DeedId,
        sweep: Sweep,
    },
    Audit {
        deed: DeedId,
        audit: Audit,
    },
    /// For people, and for `GET /api/v1/events`.
    Tell(News),
}

/// Something people want to know of.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct News {
    /// `topology`, `proxy_joined`, `proxy_lost`, `invalid_edit`, `leader`, `store_lost`, `store_back`, `failover`,
    /// `failover_vetoed`, `failover_frozen`, `failover_stuck`, `no_candidate`, `writes_lost`, `demoted`, `automation_off` ...
    pub kind: String,
    /// It needs somebody's attention until `settled` news of the same kind and subject come.
    pub alarm: bool,
    pub settled: bool,
    /// A proxy's id, a key of the store ... or nothing.
    pub subject: String,
    pub message: String,
    pub epoch: u64,
}

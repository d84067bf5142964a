//! Consensus: openraft among configSvr's members. It says who leads, and carries what they agree on.
//!
//! All that knows openraft is in this directory, so that another version of it changes little else.

#![expect(clippy::disallowed_methods, reason = "a shell: makes the directory of the log")]

pub mod embedded;
mod membership;
mod admission;
mod canvass;
mod leading;
mod door;
mod network;
mod caller;
mod heard;
mod machine;
mod log;
mod types;

pub use membership::{MemberView, Need, Rank};
pub use types::{Command, MemberId, Peer, Place, Reply};

use crate::control::event::Leadership;
use crate::control::health::Ballot;
use crate::store::Fault;
use crate::store::feed::Shared;
use crate::tls::Tls;
use admission::Admission;
use anyhow::{Context, ensure};
use caller::Caller;
use canvass::Canvass;
use door::Door;
use heard::Heard;
use leading::Leading;
use log::Log;
use openraft::error::{CheckIsLeaderError, RaftError};
use openraft::{Config, ServerState, SnapshotPolicy};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::sync::{Mutex, Semaphore, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};
use types::{Metrics, Raft};

/// Six of them fit into the silence that brings an election: some may be late or lost.
pub const HEARTBEAT_MS: u64 = 100;
/// So many must fit, or one that is late brings an election.
pub const HEARTBEATS_MIN: u64 = 3;
/// For so long voters keep to a leader they heard, and so long a leader says that it leads after a majority heard it. A
/// pause of half a second, of a machine or of a disk, changes nothing.
pub const ELECTION_MIN_MS: u64 = 600;
/// By then every voter has had its turn to stand for election, one after another. A dead leader is replaced after 0.6 to
/// 0.9 s of silence and the election itself, some ten milliseconds.
pub const ELECTION_MAX_MS: u64 = 900;

/// How long a write waits for a majority. An election fits in, and a disk that is very slow.
pub const WRITE_LIMIT: Duration = Duration::from_secs(4);
/// How long a read waits until it is certain to be the latest.
pub const READ_LIMIT: Duration = Duration::from_secs(3);
/// Proposals under way. They answer in milliseconds; so many mean that the disk or the others are too slow for more.
pub const PROPOSALS_MAX: usize = 1024;

/// Entries between two snapshots: replaying them takes well under a second.
const SNAPSHOT_EVERY: u64 = 4096;
/// Entries kept beside a snapshot, so that a member that was away for a moment needs no snapshot.
const ENTRIES_KEPT: u64 = 1024;
/// Entries in one call; at 1 KiB each, as is usual, 64 KiB.
const ENTRIES_A_CALL: u64 = 64;
/// A snapshot of some megabytes, over a slow line to a slow disk.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(30);

/// What a member needs to know to take part.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its number, from 1. Never used again for another disk.
    pub id: MemberId,
    pub name: String,
    /// Where the others reach its API and raft: `host:port`.
    pub addr: String,
    /// The log and the snapshot; made if it is not there.
    pub data_dir: PathBuf,
    /// All members of a new cluster, this one among them. Without this one (or empty): it waits until their cluster adds
    /// it. Of no meaning once there is a log.
    pub initial: Vec<Peer>,
    /// All members have the same. Never empty.
    pub peer_token: String,
    /// How members are reached.
    pub tls: Tls,
    pub heartbeat_ms: u64,
    pub election_min_ms: u64,
    pub election_max_ms: u64,
}

impl Options {
    /// With the timings that suit machines in one place.
    pub fn new(me: Peer, data_dir: PathBuf, initial: Vec<Peer>, peer_token: String) -> Self {
        let Peer { id, name, addr } = me;
        let (heartbeat_ms, election_min_ms, election_max_ms) = (HEARTBEAT_MS, ELECTION_MIN_MS, ELECTION_MAX_MS);
        let tls = Tls::default();
        Self { id, name, addr, data_dir, initial, peer_token, tls, heartbeat_ms, election_min_ms, election_max_ms }
    }

    fn check(&self) -> anyhow::Result<()> {
        ensure!(self.id > 0, "a member's number must be 1 or more");
        ensure!(!self.peer_token.is_empty(), "the peers' token is empty: choose one, the same at all members");
        let me = self.initial.iter().find(|peer| peer.id == self.id);
        ensure!(
            me.is_none_or(|me| me.addr == self.addr),
            "the initial members say that number {} is at {}, but it is at {}: make both the same",
            self.id,
            me.map(|me| me.addr.as_str()).unwrap_or_default(),
            self.addr
        );
        let mut ids: Vec<MemberId> = self.initial.iter().map(|peer| peer.id).collect();
        ids.sort_unstable();
        ensure!(ids.windows(2).all(|pair| pair[0] < pair[1]), "two initial members have the same number");
        let (heartbeat, min, max) = (self.heartbeat_ms, self.election_min_ms, self.election_max_ms);
        ensure!(
            heartbeat > 0 && heartbeat <= min / HEARTBEATS_MIN && min < max,
            "raft's timings: the least election time ({min} ms) must be at least {HEARTBEATS_MIN} heartbeats ({heartbeat} \
             ms), and less than the greatest ({max} ms)"
        );
        Ok(())
    }

    fn config(&self) -> anyhow::Result<Arc<Config>> {
        let config = Config {
            cluster_name: "twemslot".to_owned(),
            // An append's time limit, disk included, before the leader asks again. A slow disk costs repeats, not
            // progress: what is asked twice is written once. Heartbeats are ours (`leading::beat`).
            heartbeat_interval: self.election_min_ms / 2,
            // A vote's time limit.
            election_timeout_min: self.election_min_ms - 1,
            // The leader's lease.
            election_timeout_max: self.election_min_ms,
            install_snapshot_timeout: SNAPSHOT_LIMIT.as_millis() as u64,
            max_payload_entries: ENTRIES_A_CALL,
            replication_lag_threshold: 2 * SNAPSHOT_EVERY,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_EVERY),
            max_in_snapshot_log_to_keep: ENTRIES_KEPT,
            // `Canvass` begins elections.
            enable_elect: false,
            ..Config::default()
        };
        Ok(Arc::new(config.validate().context("raft's timings")?))
    }
}

/// This member. Cheap to clone; it stops when the last clone and the router are gone, or with `shutdown`.
#[derive(Clone)]
pub struct Consensus {
    inner: Arc<Inner>,
}

struct Inner {
    options: Options,
    raft: Raft,
    caller: Caller,
    door: Door,
    shared: Arc<Shared>,
    leadership: watch::Receiver<Leadership>,
    ballot: watch::Sender<(Ballot, Instant)>,
    proposals: Semaphore,
    /// One change of the membership at a time.
    changing: Mutex<()>,
    tasks: Vec<AbortHandle>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Consensus {
    /// Reads the disk and takes part. The caller serves `router` at `Options::addr`; until then nobody reaches this member.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        options.check()?;
        let config = options.config()?;
        let (dir, id) = (options.data_dir.clone(), options.id);
        let opened = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&dir).with_context(|| format!("{} cannot be made", dir.display()))?;
            anyhow::Ok((Log::open(&dir.join("raft.redb"), id)?, machine::Machine::open(&dir)?))
        });
        let (log, machine) = opened.await??;
        let caller = Caller::new(id, &options.peer_token, options.tls.clone())?;
        let shared = machine.shared();
        let network = network::Network { caller: caller.clone() };
        let raft = Raft::new(id, config, network, log.clone(), machine).await.context("raft cannot start")?;
        Self::run(options, raft, log, caller, shared).await
    }

    async fn run(options: Options, raft: Raft, log: Log, caller: Caller, shared: Arc<Shared>) -> anyhow::Result<Self> {
        let id = options.id;
        let heard = Arc::new(Heard::now());
        let initialized = raft.is_initialized().await.context("raft cannot start")?;
        let admitted = initialized || log.is_admitted().await.context("raft cannot start")?;
        let admitted = Arc::new(AtomicBool::new(admitted));
        let (told, leadership) = watch::channel(Leadership::Following(None));
        let [beat, silence_min, silence_max] =
            [options.heartbeat_ms, options.election_min_ms, options.election_max_ms].map(Duration::from_millis);
        let leading = Leading { id, raft: raft.clone(), heard: heard.clone(), lease: silence_min, told };
        let canvass =
            Canvass { id, raft: raft.clone(), caller: caller.clone(), heard: heard.clone(), silence_min, silence_max };
        let mut tasks = vec![
            tokio::spawn(leading.run()),
            tokio::spawn(canvass.run()),
            tokio::spawn(leading::beat(raft.clone(), beat)),
        ];
        if !initialized {
            let (raft, caller, admitted) = (raft.clone(), caller.clone(), admitted.clone());
            let admission = Admission { id, raft, log, caller, initial: options.initial.clone(), admitted };
            tasks.push(tokio::spawn(admission.run()));
        }
        let token = options.peer_token.as_str().into();
        let (ballot, cast) = watch::channel((Ballot::default(), Instant::now()));
        let door =
            Door { id, raft: raft.clone(), token, heard, admitted, leadership: leadership.clone(), ballot: cast };
        let proposals = Semaphore::new(PROPOSALS_MAX);
        let tasks = tasks.iter().map(|task| task.abort_handle()).collect();
        let changing = Mutex::new(());
        let inner = Inner { options, raft, caller, door, shared, leadership, ballot, proposals, changing, tasks };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// `/raft/...`: to be served where the API is. It checks the peers' token itself, and must not be behind other limits.
    pub fn router(&self) -> axum::Router {
        self.inner.door.clone().router()
    }

    pub fn id(&self) -> MemberId {
        self.inner.options.id
    }

    /// Who leads. `Leading` only after a majority confirmed it, and only while a majority follows.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.clone()
    }

    /// Why this member has stopped for good (its disk failed, say), if it has: end the process, so that it starts anew.
    pub fn stopped(&self) -> Option<String> {
        self.metrics().running_state.err().map(|fatal| fatal.to_string())
    }

    fn metrics(&self) -> Metrics {
        self.inner.raft.metrics().borrow().clone()
    }

    /// Returns when this member has applied all that was acknowledged, by whomever, before the call. On any member;
    /// `Unavailable` when no leader answers within `READ_LIMIT`.
    pub async fn ensure_linearizable(&self) -> Result<(), Fault> {
        let end = Instant::now() + READ_LIMIT;
        loop {
            let why = match timeout(end - Instant::now(), self.read_index()).await {
                Ok(Ok(index)) => return self.applied(index, end).await,
                Ok(Err(why)) => why,
                Err(_) => "no leader answers".to_owned(),
            };
            if Instant::now() + RETRY >= end {
                return Err(Fault::Unavailable(why));
            }
            sleep(RETRY).await;
        }
    }

    /// Up to where a reader must have applied, from the leader.
    async fn read_index(&self) -> Result<Option<u64>, String> {
        let metrics = self.metrics();
        match metrics.current_leader {
            None => Err("no member of configsvr leads at the moment".to_owned()),
            Some(leader) if leader == self.id() => match self.inner.raft.get_read_log_id().await {
                Ok((read, _)) => Ok(read.map(|id| id.index)),
                Err(RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(_))) => {
                    Err("most members of configsvr cannot be reached".to_owned())
                }
                Err(e) => Err(e.to_string()),
            },
            Some(leader) => {
                let place = metrics.membership_config.membership().get_node(&leader);
                let addr = place.map(|place| place.addr.as_str()).unwrap_or_default();
                let limit = Duration::from_millis(self.inner.options.election_max_ms);
                let answer = self.inner.caller.call((leader, addr), caller::READ, &(), limit);
                answer.await.map_err(|e| e.to_string())
            }
        }
    }

    async fn applied(&self, index: Option<u64>, end: Instant) -> Result<(), Fault> {
        let wait = self.inner.raft.wait(Some(end.saturating_duration_since(Instant::now())));
        let applied = wait.applied_index_at_least(index, "a read").await;
        applied.map(drop).map_err(|e| Fault::Unavailable(format!("this member is behind: {e}")))
    }

    /// Proposes, and waits until it is applied here. For the leader; others say who that is.
    pub async fn write(&self, command: Command) -> Result<Reply, Fault> {
        self.check_leading()?;
        let Ok(_permit) = self.inner.proposals.try_acquire() else {
            return Err(Fault::Unavailable(format!("{PROPOSALS_MAX} writes are under way already")));
        };
        // Without a majority this would never return; the entry stays in the log and may be committed later.
        match timeout(WRITE_LIMIT, self.inner.raft.client_write(command)).await {
            Ok(Ok(done)) => Ok(done.data),
            Ok(Err(e)) => Err(Fault::Unknown(e.to_string())),
            Err(_) => Err(Fault::Unknown(format!("no majority within {WRITE_LIMIT:?}"))),
        }
    }

    fn check_leading(&self) -> Result<(), Fault> {
        let told = self.inner.leadership.clone();
        if told.has_changed().is_err() {
            return Err(Fault::Unavailable("this member has stopped".to_owned()));
        }
        let leads = self.inner.raft.metrics().borrow().state == ServerState::Leader;
        let why = match &*told.borrow() {
            Leadership::Leading(_) if leads => return Ok(()),
            Leadership::Leading(_) => "this member leads no more".to_owned(),
            Leadership::Following(Some((name, addr))) => format!("{name} at {addr} leads: ask there"),
            Leadership::Following(None) => "no member of configsvr leads at the moment".to_owned(),
        };
        Err(Fault::Unavailable(why))
    }

    /// What this member has to say against instances, for whoever leads.
    pub fn publish_ballot(&self, ballot: Ballot) {
        self.inner.ballot.send_replace((ballot, Instant::now()));
    }

    /// How many members have a vote.
    pub fn voters(&self) -> usize {
        self.metrics().membership_config.voter_ids().count()
    }

    /// The other members that have a vote.
    pub fn peers(&self) -> Vec<Peer> {
        let metrics = self.metrics();
        let voters: Vec<MemberId> = metrics.membership_config.voter_ids().filter(|id| *id != self.id()).collect();
        let place = |id: MemberId| {
            let place = metrics.membership_config.membership().get_node(&id)?;
            Some(Peer { id, name: place.name.clone(), addr: place.addr.clone() })
        };
        voters.into_iter().filter_map(place).collect()
    }

    /// What another member has to say, and how old that is in milliseconds.
    pub async fn ballot_of(&self, peer: &Peer) -> Result<(Ballot, u64), Fault> {
        let answer = self.inner.caller.call((peer.id, &peer.addr), caller::BALLOT, &(), BALLOT_LIMIT).await;
        answer.map_err(|e| Fault::Unavailable(e.to_string()))
    }

    /// Stops. What was promised is on disk.
    pub async fn shutdown(&self) {
        self.inner.tasks.iter().for_each(AbortHandle::abort);
        if let Err(e) = self.inner.raft.shutdown().await {
            tracing::warn!("raft did not stop in order: {e}");
        }
    }
}

/// An older opinion is worth nothing.
const BALLOT_LIMIT: Duration = Duration::from_millis(400);
/// Between two attempts to find out what the leader knows.
const RETRY: Duration = Duration::from_millis(25);

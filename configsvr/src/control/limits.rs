//! Every bound of control, with its reason. Times in milliseconds.

/// Changes that are remembered. An idempotency key is good for as long as its change is; and a person who asks what
/// happened lately reads no more than this.
pub const AUDIT_MAX: usize = 512;

/// Old audit records deleted with each change: more than one is added, so that a ring that was too long shrinks.
pub const AUDIT_TRIM: usize = 4;

/// Changes that wait while one is being made. Each takes milliseconds; more means that something stands still.
pub const QUEUE_MAX: usize = 128;

/// How long a caller waits for an answer: below the usual 15 s and 30 s of HTTP clients, above an election.
pub const ANSWER_MS: u64 = 10_000;

/// How often a change is decided anew because the store changed meanwhile. Hand edits come one by one.
pub const ATTEMPTS_MAX: u32 = 16;

/// After the store did not say what became of a write, or could not be reached: the next try.
pub const WRITE_AGAIN_MS: u64 = 300;

/// Slots that one transaction writes next to everything else it holds (`store::TXN_MAX`); more go by way of
/// `Epoch::unfolded`.
pub const SLOTS_AT_ONCE: usize = 100;

/// Groups that one change may touch, for the same reason: there is no detour for groups, since a half of them is never
/// to be seen.
pub const GROUPS_AT_ONCE: usize = 100;

/// A load of a store (`store import`) takes less: calls of that kind end after two minutes. What is older was given up.
pub const RESTORE_MS: u64 = 180_000;

/// Groups that get slots and must still be there when the change is done: what is left of `store::TXN_MAX` comparisons
/// beside those of `GROUPS_AT_ONCE`. With more of them, the deletion of one by hand at that very moment is seen afterwards.
pub const OWNERS_COMPARED: usize = 20;

/// How long raft and the store may say different things about who leads before people are told. An election, and a
/// leader that does not know yet that it was replaced, take a tenth of it.
pub const SUPERSEDED_MS: u64 = 5_000;

/// Faults of the store's contents that are listed; who has more has one cause.
pub const FAULTS_MAX: usize = 50;

/// Proxies that may be registered. Each costs a push a change and a heartbeat a second.
pub const PROXIES_MAX: usize = 1024;

/// Proxies that were lost and are remembered until they come back or are removed.
pub const LOST_MAX: usize = 256;

/// Pushes under way at once: each is a connection of the pusher. 200 proxies are told in one go.
pub const PUSHES_MAX: usize = 256;

/// A push that says nothing for so long has failed; the pusher's own limit is shorter.
pub const PUSH_MS: u64 = 15_000;

/// The first pause after a push that failed; it doubles.
pub const PUSH_AGAIN_MS: u64 = 100;

/// The longest pause: a proxy that comes back says so with its heartbeat anyway, and is pushed to at once.
pub const PUSH_AGAIN_MAX_MS: u64 = 5_000;

/// Failures in a row after which people are told.
pub const PUSH_FAILURES_MAX: u32 = 5;

/// Proxies' records and leases being written at once: after a change all proxies' records change, and the store has
/// other things to do.
pub const RECORDS_MAX: usize = 32;

/// A write of a record that says nothing for so long is forgotten and decided anew.
pub const RECORD_MS: u64 = 10_000;

/// A change of the store is seen within milliseconds. A revision that is not may be of somebody else's change, in an etcd
/// that is shared: those are not watched.
pub const AWAIT_MS: u64 = 1_000;

/// How often proxies say that they live.
pub const BEAT_MS: u64 = 1_000;

/// Two proxies that use one id: the second may have it when the first said nothing for so long.
pub const CLONE_MS: u64 = 3_000;

/// The time to live of a proxy's registration, in seconds: at least two heartbeats may be lost; at most a dead proxy is
/// listed for an hour.
pub const PROXY_TTL_S: std::ops::RangeInclusive<u64> = 3..=3_600;

/// Bytes of an idempotency key or of a proxy's id: both become part of records.
pub const ID_MAX: usize = 128;

/// An epoch that a person wrote by hand: above it, numbers in JSON lose their last digits, and none would be left.
pub const EPOCH_MAX: u64 = 1 << 52;

/// Elements of a list in an audit record: more are counted, not listed. A record travels in one transaction with the
/// change itself, and etcd takes 1.5 MB.
pub const AUDIT_LIST_MAX: usize = 2048;

/// The shortest time between two ticks that control asks for.
pub const TICK_MIN_MS: u64 = 10;

/// A primary that owes an answer for so long hangs: a pause of one second (a fork, a slow disk) changes nothing, and 300 ms
/// are left for the scheduling of the observers.
pub const HANG_MS: u64 = 1_300;

/// What `hang_ms` may be: below, the watchers' own rhythm (100 ms) and a busy machine make ghosts; above, nobody waits.
pub const HANG_RANGE_MS: std::ops::RangeInclusive<u64> = 500..=60_000;

/// Connections refused in a row, over at least so long, mean that the process is gone: a restart in between is seen by its
/// `run_id` anyway.
pub const REFUSALS: u32 = 3;
pub const REFUSED_MS: u64 = 200;

/// A member that was not awake for so long has no opinion: ticks come every 50 ms.
pub const TICK_GAP_MS: u64 = 300;

/// ... until it has looked around again.
pub const AWAKE_MS: u64 = 300;

/// A watcher says something every 50 ms.
pub const LOOK_FRESH_MS: u64 = 500;

/// INFO comes every second, every 200 ms where there is doubt.
pub const INFO_FRESH_MS: u64 = 1_500;

/// An opinion counts for so long after the leader asked for it.
pub const VOTE_FRESH_MS: u64 = 500;

/// How often the leader asks for opinions: two may be lost while one is fresh. And while somebody is accused.
pub const POLL_MS: u64 = 200;
pub const POLL_SOON_MS: u64 = 50;

/// A proxy's word counts for so long: it says something every second.
pub const BEAT_FRESH_MS: u64 = 3_000;

/// A proxy's statistics are at most so old when it says them (an idle worker publishes twice a second).
pub const SIGHT_LAG_MS: u64 = 700;

/// A proxy asks a link on which nothing is under way once in so long whether the instance lives.
pub const LINK_PING_MS: u64 = 1_000;

/// A replica hears from a primary that lives in every second (`repl-ping-replica-period 1`), and is asked every 200 ms while
/// there is doubt: after so long without growth it hears nothing any more.
pub const HEARD_MS: u64 = 1_200;

/// Between two failovers of one group: what did not help once will not help at once.
pub const FAILOVER_PAUSE_MS: u64 = 10_000;

/// More groups than this share (in percent), and than one, cannot be down at once without the proxies seeing it: then it is
/// the control plane that is cut off.
pub const GROUPS_DOWN_PERCENT: usize = 30;

/// A replica that lost its link so long before its primary was doubted does not take over by itself: that is ten times the
/// second within which a link comes back, and what Sentinel allows at its shortest.
pub const STALE_MS: u64 = 10_000;

/// A recorded primary that says for so long that it is a replica is one: INFO comes every second, and what is older than
/// `INFO_FRESH_MS` is not looked at.
pub const DESERTED_MS: u64 = 2_000;

/// A veto that stands for so long is somebody's business.
pub const VETO_ALARM_MS: u64 = 10_000;

/// The last PING before a decision may take so long.
pub const LAST_CHANCE_MS: u64 = 100;

/// Primaries whose processes are recorded in one transaction: what `store::TXN_MAX` comparisons allow.
pub const IDENTITIES_AT_ONCE: usize = 32;

/// How long a failover waits for proxies to hold their requests: they need milliseconds, and one that is dead must not
/// keep the others waiting.
pub const FENCE_MS: u64 = 150;

/// A primary that is to be replaced, and lives, lets no write pass for so long: longer than the rest may take, since what is
/// written after it is lost.
pub const PAUSE_MS: u64 = 5_000;

/// How long a switchover waits for every proxy to say that nothing is in flight: nothing is lost by giving up.
pub const QUIET_MS: u64 = 2_000;

/// How long replicas may take to be detached, once one has been: a machine that is off does not refuse.
pub const DETACH_MS: u64 = 300;

/// A candidate that is not promoted by then is passed over, if there is another.
pub const PROMOTE_MS: u64 = 1_500;

/// An order that failed is given again after this.
pub const ORDER_AGAIN_MS: u64 = 200;

/// An order that nobody answered is forgotten.
pub const ORDER_MS: u64 = 5_000;

/// A failover is over when all who live follow; or then, with those left to the repair that never ends.
pub const REPAIR_MS: u64 = 30_000;

/// A failover that cannot go on for so long is somebody's business.
pub const STUCK_MS: u64 = 5_000;

/// Failovers that are remembered.
pub const FAILOVERS_MAX: usize = 64;

/// A migration's first pause after an attempt that failed, and the longest.
pub const JOB_AGAIN_MS: u64 = 1_000;
pub const JOB_AGAIN_MAX_MS: u64 = 60_000;

/// The mover says something four times a second; one that says nothing for so long has died.
pub const JOB_SILENT_MS: u64 = 30_000;

/// What the mover said counts for so long.
pub const STATUS_FRESH_MS: u64 = 1_000;

/// So many attempts in a row that failed are somebody's business.
pub const MIGRATION_ALARM_FAILURES: u32 = 4;

/// The slots are held when no more than this is left: a batch of keys, and what a link carries in a millisecond.
pub const FENCE_DIRTY_MAX: u64 = 64;
pub const FENCE_LAG_MAX: u64 = 64 * 1024;

/// How long proxies may take to say that nothing is in flight: they need milliseconds, a slow command may need more, and
/// clients wait meanwhile.
pub const FENCE_QUIET_MS: u64 = 400;

/// How long slots are held altogether before they are released to their old owner: below what a proxy lets a client wait.
pub const FENCE_LIMIT_MS: u64 = 1_500;

/// So long a copy waits for proxies to know of it: one that does not answer only counts keys twice.
pub const ANNOUNCE_MS: u64 = 1_000;

/// The first pause after a fence that had to be opened.
pub const FENCE_AGAIN_MS: u64 = 1_000;

/// A proxy that has not confirmed the new owner for so long is somebody's business.
pub const CLEAN_ALARM_MS: u64 = 10_000;

/// A sweep or an audit that failed begins again after this.
pub const SWEEP_AGAIN_MS: u64 = 2_000;

/// So many audits in a row that failed are somebody's business: nothing is removed without one.
pub const AUDITS_MAX: u32 = 5;

/// Migrations that are remembered; half of them may be under way or wait.
pub const TASKS_MAX: usize = 200;

/// Moves in one call: they are written in one transaction (`store::TXN_MAX`), next to the tasks that are forgotten.
pub const MOVES_AT_ONCE: usize = 50;

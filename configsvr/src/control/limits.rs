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

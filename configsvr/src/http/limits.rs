//! The bounds of the API, each with its reason.

use std::time::Duration;

/// Calls under way at once; the next is answered 429. 200 proxies that beat at the same moment fit, with people beside.
pub const CALLS_MAX: usize = 512;
/// Listeners of `/api/v1/events`: each holds a connection for hours, so a few for each dashboard and script.
pub const LISTENERS_MAX: usize = 64;
/// A call's body. The longest of the ordinary ones is a list of ranges: 16,384 slots, each a range of its own, in 40 bytes.
pub const BODY_BYTES_MAX: usize = 1 << 20;
/// A topology or an exported store: 1,024 groups of 16 instances and every slot's key, with an audit trail beside.
pub const IMPORT_BYTES_MAX: usize = 64 << 20;
/// Until the head of the answer. The store has its own limit of a few seconds, a probe of instances too; beyond both
/// something is stuck, and the caller had better be told.
pub const CALL_LIMIT: Duration = Duration::from_secs(20);
/// An import probes each instance and writes each slot.
pub const IMPORT_LIMIT: Duration = Duration::from_secs(120);
/// A plan measures first: it counts requests for `COUNT_SECONDS`, or walks over keys for some seconds.
pub const PLAN_LIMIT: Duration = Duration::from_secs(60);
/// How long requests may be counted for a plan: a second tells little, and nobody waits for longer.
pub const COUNT_SECONDS: std::ops::RangeInclusive<u64> = 1..=15;
pub const COUNT_SECONDS_DEFAULT: u64 = 5;
/// Instances of a group that is imagined for a plan: each is asked for its memory.
pub const INSTANCES_MAX: usize = 64;
/// To connect to the leader: it is a neighbour, and was there a moment ago.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// An `Idempotency-Key`: a UUID is 36 long, a name with a date and a counter still fits. It is kept in the audit trail.
pub const KEY_BYTES_MAX: usize = 128;
/// A member's name: it stands in tables and logs.
pub const NAME_BYTES_MAX: usize = 64;
/// Entries of the audit trail in one answer.
pub const AUDIT_MAX: usize = 1000;
pub const AUDIT_DEFAULT: usize = 50;
/// Silence on an event stream after which a comment shows that it lives: below the minute that proxies between us and
/// the listener commonly allow.
pub const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Different wrong tokens from one address, within `FAILURES_WINDOW`, before it has to wait. A person mistypes a few
/// times; a token is 32 random bytes, so whoever guesses needs very many. The same wrong token again counts once, also
/// between others: proxies with yesterday's tokens must not lock out the people on their machine.
pub const FAILURES_MAX: usize = 10;
pub const FAILURES_WINDOW: Duration = Duration::from_secs(60);
/// Addresses remembered for that. When it is full the oldest is forgotten: whoever has that many addresses gets
/// `FAILURES_MAX` guesses from each anyway.
pub const ADDRESSES_MAX: usize = 4096;

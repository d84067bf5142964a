//! Every bound of the relay, with its reason; and the settings an operator may change while it runs.

use cluster::user::User;
use serde::{Deserialize, Serialize};

/// What the relay is told by the configuration; may change while it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// What clients must say with AUTH; None: nothing.
    pub client_password: Option<String>,
    /// Who else clients may be, and what they may do then; before those that the topology names.
    pub users: Vec<User>,
    /// Whether who is no user of `users` may use MONITOR and TWEMSLOT ON.
    pub operator_commands: bool,
    /// A request that took at least so long is noted in the slow log; 0: none is.
    pub slowlog_slower_than_us: u64,
    /// Entries of the slow log of a worker.
    pub slowlog_max_len: usize,
    /// One request in so many is looked at for hot and big keys; 0: none is.
    pub key_sample_every: u64,
    /// Where clients reach this proxy, as HOST:PORT.
    pub advertise: String,
    /// The proxies that a Redis Cluster client is told of, as HOST:PORT; none: this is no cluster to clients.
    pub cluster_nodes: Vec<String>,
    /// Said to instances with AUTH.
    pub instance_user: Option<String>,
    pub instance_password: Option<String>,
    /// The proxy's name in CLIENT SETNAME on links.
    pub proxy_name: String,
    /// Listeners, by their address, whose clients begin with a PROXY header. The worker's business, not the relay's.
    pub proxy_protocol: Vec<String>,
    /// Links a worker keeps to each primary. 1 gives the largest batches; more helps instances with io-threads.
    pub links_per_instance: u32,
    /// A request is answered with an error when its reply takes longer. The link stays.
    pub request_timeout_us: u64,
    /// A link that owes a reply for longer than this is dead: closed and opened again.
    pub link_dead_us: u64,
    pub connect_timeout_us: u64,
    /// An idle link is pinged this often.
    pub link_ping_us: u64,
    /// How long a request waits for a held slot.
    pub hold_timeout_us: u64,
    /// Bytes of held requests of one client.
    pub hold_client_bytes_max: usize,
    /// Bytes of held requests of the worker.
    pub hold_worker_bytes_max: usize,
    /// Requests of a client that await replies: at this many its socket is not read.
    pub client_in_flight_max: u32,
    /// Reply bytes queued for a client above which its requests are not read, while it reads at all.
    pub client_output_soft: usize,
    /// Reply bytes queued for a client above which it is closed.
    pub client_output_max: usize,
    /// A request that must be kept whole (split over groups) may have this many bytes.
    pub request_kept_max: usize,
    /// A client that says nothing for so long is closed; 0: never.
    pub client_idle_us: u64,
    pub clients_max: u32,
    /// Memory of the worker's buffers: at 80 % it stops accepting, at 100 % it closes the client that holds most.
    pub worker_memory_max: usize,
    /// Commands refused by name, upper case.
    pub denied_commands: Vec<String>,
    /// Commands we do not know (modules), or do not serve by default, and where they go.
    pub declared_commands: Vec<Declared>,
}

/// A command served on the operator's word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Declared {
    /// As typed: `JSON.SET`, or `CONFIG SET` for one subcommand.
    pub name: String,
    /// The place of its first key, counted from the name; 0: none.
    #[serde(default)]
    pub first_key: u32,
    /// The place of its last key; negative counts from the end. All must be in one slot.
    #[serde(default)]
    pub last_key: i32,
    #[serde(default = "one")]
    pub key_step: u32,
    /// Only with no keys: send it to every group, and give the first error or the first reply.
    #[serde(default)]
    pub all_groups: bool,
    #[serde(default)]
    pub write: bool,
}

fn one() -> u32 {
    1
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            client_password: None,
            users: Vec::new(),
            operator_commands: false,
            slowlog_slower_than_us: 10_000,
            slowlog_max_len: 128,
            key_sample_every: 512,
            advertise: "127.0.0.1:6380".into(),
            cluster_nodes: Vec::new(),
            instance_user: None,
            instance_password: None,
            proxy_name: "twemslot".into(),
            proxy_protocol: Vec::new(),
            links_per_instance: 1,
            request_timeout_us: 5_000_000,
            link_dead_us: 15_000_000,
            connect_timeout_us: 1_000_000,
            link_ping_us: 1_000_000,
            hold_timeout_us: 5_000_000,
            hold_client_bytes_max: 1 << 20,
            hold_worker_bytes_max: 64 << 20,
            client_in_flight_max: 1024,
            client_output_soft: 1 << 20,
            client_output_max: 64 << 20,
            request_kept_max: 64 << 20,
            client_idle_us: 0,
            clients_max: 10_000,
            worker_memory_max: 1 << 30,
            denied_commands: Vec::new(),
            declared_commands: Vec::new(),
        }
    }
}

/// Requests on one link that await replies; beyond it requests fail at once rather than queue for seconds.
pub const LINK_IN_FLIGHT_MAX: usize = 65_536;
/// Bytes waiting to be written to one link; beyond it requests fail at once.
pub const LINK_OUTPUT_MAX: usize = 64 << 20;
/// A reply larger than this, behind one that has not come, is counted: those up to it take no more than 4 MiB at the default
/// of `client_in_flight_max`.
pub const PARKED: usize = 4 << 10;
/// A request larger than this does not share a link: while a slow client dribbles it, others would wait.
pub const LARGE: usize = 64 << 10;
/// Keys of one split command: more would hold the worker for milliseconds.
pub const SPLIT_KEYS_MAX: usize = 65_536;
/// Timers are looked at this often while anything waits.
pub const TICK_US: u64 = 10_000;
/// Bytes of a large request queued on its own link before its client is not read: keeps the pipe full, no more.
pub const EXCLUSIVE_OUTPUT: usize = 256 << 10;
/// Wrong passwords in a row, then the connection is closed: who guesses has to connect anew, which is slow and counted.
/// Redis has no such bound; no client asks more than once.
pub const WRONG_PASSWORDS_MAX: u8 = 10;
/// How long a large request may still come in when its slot is held or settles; then it is cut, since everybody waits for
/// it. Nearly all have come by then, and a migration's fence waits for `Quiet` a little longer (400 ms).
pub const UPLOAD_GRACE_US: u64 = 250_000;
/// Links of one client's own at once (it blocks, watches keys, or sends a large request), per worker: each costs a
/// connection at an instance, which takes 10,000 by default.
pub const EXCLUSIVE_MAX: usize = 4096;
/// Such links kept open per instance for the next client, and for how long: consumers of queues block again and again.
pub const EXCLUSIVE_IDLE_MAX: usize = 64;
pub const EXCLUSIVE_IDLE_US: u64 = 10_000_000;
/// Lost connections remembered of one instance. More than there can be at once (each was a link), unless the instance
/// refuses to kill: what is beyond cannot be ended by id, only by the end of its process.
pub const ORPHANS_MAX: usize = 1024;
/// How long what an instance may still hold of lost connections is in the way of `Quiet` when it is no primary any
/// more, and a link is tried for it. By then it is dead, or it follows another one and refuses writes; should it be
/// alive and unknown, what it executes is not the cluster's data.
pub const ORPHAN_LEFT_US: u64 = 30_000_000;
/// A client whose replies pile up and who takes none of them for so long is taken to be writing first and reading later: it is read on, up to `client_output_max`.
pub const OVERRUN_US: u64 = 20_000;
/// ... and after this long it is taken to be dead, and closed.
pub const STALL_US: u64 = 60_000_000;
/// An instance is told this often to let go of a blocked request, which it may not have seen when it was told first; and
/// for so long, before the link is closed and the request's outcome is unknown.
pub const UNBLOCK_AGAIN_US: u64 = 50_000;
pub const UNBLOCK_GIVE_UP_US: u64 = 1_000_000;
/// Bytes of messages that wait for a subscriber; beyond it is closed, as by Redis (`client-output-buffer-limit pubsub`).
pub const PUBSUB_OUTPUT_MAX: usize = 32 << 20;
/// Channels and patterns of one client, and the bytes of their names: several times what applications have, and little
/// enough that a worker looks through them all in milliseconds. Redis has no such bound; its memory is its own.
pub const SUBSCRIPTIONS_MAX: usize = 100_000;
pub const SUBSCRIPTION_BYTES_MAX: usize = 32 << 20;
/// What a subscription takes beside its name: entries in the client's list and in the worker's.
pub const SUBSCRIPTION_COST: usize = 256;
/// Timers are looked at this often while nothing waits: pings and back-off need no more.
pub const TICK_IDLE_US: u64 = 100_000;
/// What is left of a kept input moves to a smaller buffer when it is no larger than this.
pub const CHUNK_KEPT: usize = 64 << 10;
/// When the buffers in use have shrunk by this much, memory goes back to the system, at most this often: it costs
/// milliseconds.
pub const GIVE_BACK: usize = 8 << 20;
pub const GIVE_BACK_US: u64 = 1_000_000;
/// Free buffers of each size, and requests, for which room is kept then.
pub const TRIM_KEEP: usize = 64;
pub const REQUESTS_KEPT: usize = 4096;
/// Scripts remembered, so that a process which lacks one can be given it: as many as an application has, several times;
/// compiling them all takes an instance some tens of milliseconds.
pub const SCRIPTS_MAX: usize = 1000;
/// Their bytes: what is written to a link before it carries requests, and it is per worker.
pub const SCRIPTS_BYTES_MAX: usize = 4 << 20;
/// A larger script is not remembered: it would push many others out.
pub const SCRIPT_BYTES_MAX: usize = 256 << 10;
/// A script that is new to a worker is told to the others, if it is no longer (it must fit into a letter) and no more were in
/// this second: an application that makes new ones all the time uses none of them by name.
pub const SCRIPT_SHARED_BYTES_MAX: usize = 64 << 10;
pub const SCRIPTS_SHARED_PER_S: u32 = 100;
/// A script that is missing is sent once in this time to one link: many requests for it may be under way.
pub const SCRIPT_AGAIN_US: u64 = 100_000;
/// Connections at once, per worker, for SCRIPT KILL and its likes, which must not queue behind a script that runs.
pub const ERRANDS_MAX: usize = 64;
/// How often RANDOMKEY asks again when all that came were copies left by a move of slots.
pub const RANDOM_KEY_TRIES: u8 = 16;
/// Keys that DBSIZE asks for at once where it walks: an instance is busy with them for about a tenth of a millisecond.
pub const SIZE_ROUND_KEYS: usize = 250;
/// How often DBSIZE begins to count anew because slots changed hands meanwhile, or a group began to get copies.
pub const SIZE_TRIES: u8 = 16;
/// Such counts at once, per worker: each keeps one request of that size under way to each group with copies, and a dozen
/// workers are not to be in the way of others there.
pub const SIZES_MAX: usize = 4;
/// Questions to other workers, and to all groups for INFO, that wait for answers at once.
pub const INQUIRIES_MAX: usize = 256;
/// How long they wait; then what is there is told.
pub const INQUIRY_US: u64 = 500_000;
/// Text kept of the answers to one question: 100,000 lines of CLIENT LIST or so.
pub const INQUIRY_BYTES_MAX: usize = 32 << 20;
/// A filter of CLIENT LIST or CLIENT KILL, as it goes to other workers: it must fit into a letter.
pub const FILTER_BYTES_MAX: usize = 64 << 10;
/// Text of an answer to another worker that goes into one letter.
pub const ANSWER_PIECE: usize = 64 << 10;
/// Requests that a worker shows to MONITOR in a second, how much of each, and bytes of them that wait for other workers.
pub const SHOWN_PER_S: u32 = 1000;
pub const SHOWN_ARGS: usize = 16;
pub const SHOWN_ARG_BYTES: usize = 128;
pub const SHOWN_BYTES: usize = 64 << 10;
/// Hot and big keys that are remembered, and how many bytes of each.
pub const SAMPLED_KEYS: usize = 64;
pub const SAMPLED_KEY_BYTES: usize = 128;
/// Hot keys are those of the last one to two windows; a big one is told of for so long after it was seen last.
pub const SAMPLED_WINDOW_US: u64 = 30_000_000;
pub const SAMPLED_BIG_US: u64 = 3_600_000_000;
/// Of a request that is looked at, so many keys are counted.
pub const SAMPLED_KEYS_OF_ONE: usize = 64;
/// Names and versions of client libraries that are remembered.
pub const LIBRARIES_MAX: usize = 1024;
/// How long a source may wait for the target while it moves a key: it does nothing else meanwhile.
pub const FETCH_TIMEOUT_MS: u64 = 1000;
/// After something was in the way of a key it is tried again: seldom enough for an instance that is down.
pub const FETCH_AGAIN_US: u64 = 50_000;
/// Keys of a worker that are on their way at once: what else is asked of the source waits behind them.
pub const FETCHES_AT_ONCE: usize = 64;
/// Keys that wait for that; of more, requests ask again when some have come.
pub const FETCHES_MAX: usize = 16_384;
/// Where much waits for keys, it is looked through at most this often.
pub const FETCHED_AGAIN_US: u64 = 1_000;
pub const FETCHED_AT_ONCE_BYTES: usize = 256 << 10;
/// Keys known to be at their target: those of a working set of some hundred thousand. Another question each, if forgotten.
pub const FETCHED_BYTES_MAX: usize = 32 << 20;

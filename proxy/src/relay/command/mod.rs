//! The command table: every command that servers have, what is done with it here, and where its keys are.
//!
//! The table is made by proxy/tools/commands/generate.py from what servers report of themselves and from a policy that
//! people write; what neither makes servable is refused. The common path asks `lookup`, then looks at one `Command`.

mod introspect;
mod keys;
mod pattern;
mod table;

pub use introspect::introspect;
pub use keys::{
    KeysFault, Timeout, asks_from_now, asks_other_database, asks_to_block, fixed_prefix, for_each_key, keyless,
    sort_patterns,
};
pub use pattern::{matches, matches_exactly};

use std::ops::BitOr;
use table::{COMMANDS, COUNT, ENTRIES};

/// An index into the table; the same for as long as the program runs.
pub type CommandId = u16;

/// A command, or a subcommand of a container.
#[derive(Debug)]
pub struct Command {
    /// In lower case: `get`, `client|setname`.
    pub name: &'static str,
    /// As Redis says it: how many arguments, the name (and the subcommand's) included; negative: at least as many.
    pub arity: i16,
    pub flags: Flags,
    /// Where its keys are.
    pub keys: Keys,
    /// What is done with it.
    pub serve: Serve,
    /// Its second argument names a subcommand.
    pub container: bool,
}

impl Command {
    /// Whether a request of `argc` arguments may be one of this command.
    pub fn takes(&self, argc: u32) -> bool {
        Arity::of(self).takes(argc)
    }
}

/// How many arguments a command takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arity {
    least: u32,
    beyond: u32,
}

impl Arity {
    /// No number of arguments will do.
    pub const NONE: Self = Self { least: 0, beyond: 0 };

    pub fn of(command: &Command) -> Self {
        let least = u32::from(command.arity.unsigned_abs());
        Self { least, beyond: if command.arity < 0 { u32::MAX - least } else { 0 } }
    }

    /// Whether `argc` arguments, the name included, are as many as it takes.
    #[inline]
    pub fn takes(self, argc: u32) -> bool {
        argc.wrapping_sub(self.least) <= self.beyond
    }
}

/// What servers say of a command: a set of the constants below, named as servers name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flags(u32);

/// The bits, for the table's constants.
mod flag {
    pub(super) const WRITE: u32 = 1 << 0;
    pub(super) const READONLY: u32 = 1 << 1;
    pub(super) const DENYOOM: u32 = 1 << 2;
    pub(super) const ADMIN: u32 = 1 << 3;
    pub(super) const PUBSUB: u32 = 1 << 4;
    pub(super) const NOSCRIPT: u32 = 1 << 5;
    pub(super) const BLOCKING: u32 = 1 << 6;
    pub(super) const LOADING: u32 = 1 << 7;
    pub(super) const STALE: u32 = 1 << 8;
    pub(super) const NO_AUTH: u32 = 1 << 9;
    pub(super) const FAST: u32 = 1 << 10;
    pub(super) const MOVABLEKEYS: u32 = 1 << 11;
    pub(super) const MODULE: u32 = 1 << 12;
    pub(super) const ALLOW_BUSY: u32 = 1 << 13;
    pub(super) const ASKING: u32 = 1 << 14;
    pub(super) const NO_ASYNC_LOADING: u32 = 1 << 15;
    pub(super) const NO_MANDATORY_KEYS: u32 = 1 << 16;
    pub(super) const NO_MULTI: u32 = 1 << 17;
    pub(super) const SKIP_MONITOR: u32 = 1 << 18;
    pub(super) const SKIP_COMMANDLOG: u32 = 1 << 19;
}

impl Flags {
    pub const WRITE: Self = Self(flag::WRITE);
    pub const READONLY: Self = Self(flag::READONLY);
    /// Refused by an instance that is out of memory.
    pub const DENYOOM: Self = Self(flag::DENYOOM);
    pub const ADMIN: Self = Self(flag::ADMIN);
    pub const PUBSUB: Self = Self(flag::PUBSUB);
    pub const NOSCRIPT: Self = Self(flag::NOSCRIPT);
    /// May wait for something to happen.
    pub const BLOCKING: Self = Self(flag::BLOCKING);
    /// Served by an instance that is still loading.
    pub const LOADING: Self = Self(flag::LOADING);
    /// Served by a replica that has lost its primary.
    pub const STALE: Self = Self(flag::STALE);
    /// Served before a password is said.
    pub const NO_AUTH: Self = Self(flag::NO_AUTH);
    pub const FAST: Self = Self(flag::FAST);
    /// Where its keys are depends on other arguments.
    pub const MOVABLEKEYS: Self = Self(flag::MOVABLEKEYS);
    pub const MODULE: Self = Self(flag::MODULE);
    pub const ALLOW_BUSY: Self = Self(flag::ALLOW_BUSY);
    pub const ASKING: Self = Self(flag::ASKING);
    pub const NO_ASYNC_LOADING: Self = Self(flag::NO_ASYNC_LOADING);
    pub const NO_MANDATORY_KEYS: Self = Self(flag::NO_MANDATORY_KEYS);
    /// Not allowed in a transaction.
    pub const NO_MULTI: Self = Self(flag::NO_MULTI);
    pub const SKIP_MONITOR: Self = Self(flag::SKIP_MONITOR);
    pub const SKIP_COMMANDLOG: Self = Self(flag::SKIP_COMMANDLOG);

    /// No flag at all.
    pub const NONE: Self = Self(0);

    /// Whether all of `others` are set.
    #[inline]
    pub const fn contains(self, others: Self) -> bool {
        self.0 & others.0 == others.0
    }
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Where the keys of a request are. Arguments are counted from 0, the command's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    None,
    One {
        at: u8,
    },
    /// Each `step`-th argument from `first` to `last`; a negative `last` counts from behind, -1 is the last argument.
    Range {
        first: u8,
        last: i8,
        step: u8,
    },
    /// Argument `count_at` says how many keys follow it. `also`, unless 0, is one more key (a destination).
    Numkeys {
        count_at: u8,
        also: u8,
    },
    /// Argument `count_at` says how many pairs of key and value follow it.
    NumPairs {
        count_at: u8,
    },
    /// The first half of what follows STREAMS.
    Streams,
    /// SORT and SORT_RO: the first argument and the one behind the last STORE. Patterns (`sort_patterns`) are no keys,
    /// but the owner of the keys must own what they reach.
    Sort,
    /// The first argument and the one behind the last STORE or STOREDIST.
    GeoStore,
}

/// What is done with a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serve {
    /// Sent to the one owner of all its keys.
    Keyed,
    /// Cut by owner; the replies are merged.
    Split(Split),
    /// Sent to every group; the replies are merged.
    Fan(Fan),
    /// Answered here.
    Local(Local),
    /// Concerns what the client's connection carries: a transaction, subscriptions ...
    Session(Session),
    /// May wait at the owner of its keys: sent there on a link of its own.
    Blocking,
    /// Sent to the owner of its channel's slot.
    Publish,
    /// Refused: the reason, as a clause that can follow a colon.
    Denied(&'static str),
}

/// How a cut request's replies become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// Values in the order of the request's keys.
    Mget,
    /// Keys and values go out; OK comes back.
    Mset,
    /// Integers are summed.
    Count,
}

/// Which groups are asked, and how their replies become one. An error says which group it is from, unless it is of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fan {
    /// OK, where all say so.
    Ok,
    /// Settings by name, from the first group.
    ConfigGet,
    /// Groups without slots are asked, too: they may get some. One reply, as all are alike.
    Each,
    /// As `Each`; the script is remembered.
    ScriptLoad,
    /// As `Each`; no script is remembered any more.
    ScriptFlush,
    /// Of each number in the replies the smallest.
    Least,
    /// The first reply that is no error.
    Any,
    /// The first group alone is asked.
    First,
    /// Asked beside what the groups are busy with. OK, where any says so.
    Kill,
    /// The same; the reply that tells of a script that runs.
    Stats,
    /// The keys that each group owns.
    Keys,
    /// One of the keys that groups give, of those that they own.
    RandomKey,
    /// How many keys groups own.
    Size,
    /// One group after another, by cursor.
    Scan,
    /// Channels and how many listen, from one group.
    NumSub,
}

/// What a connection carries from one request to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Session {
    Multi,
    Exec,
    Discard,
    Watch,
    Unwatch,
    Wait,
    WaitAof,
    Reset,
    Subscribe,
    Unsubscribe,
    Psubscribe,
    Punsubscribe,
    Ssubscribe,
    Sunsubscribe,
}

/// What the proxy answers itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Local {
    Ping,
    Echo,
    Quit,
    Auth,
    Select,
    Time,
    Hello,
    Info,
    Command,
    CommandCount,
    CommandList,
    CommandInfo,
    CommandDocs,
    CommandGetkeys,
    CommandGetkeysAndFlags,
    CommandHelp,
    ClientSetname,
    ClientGetname,
    ClientId,
    ClientSetinfo,
    ClientReply,
    ClientInfo,
    ClientList,
    ClientKill,
    ClientNoEvict,
    ClientNoTouch,
    ClientUnblock,
    ClientHelp,
    SlowlogGet,
    SlowlogLen,
    SlowlogReset,
    LatencyHistogram,
    /// LATENCY HISTORY and LATEST: no events are watched.
    LatencyNothing,
    LatencyReset,
    Monitor,
    AclWhoami,
    AclCat,
    AclList,
    AclUsers,
    ClusterInfo,
    ClusterKeyslot,
    ClusterLinks,
    ClusterMyid,
    ClusterMyshardid,
    ClusterNodes,
    ClusterShards,
    ClusterSlots,
    /// READONLY, READWRITE and ASKING.
    ClusterMode,
    TwemslotKey,
    TwemslotTopology,
    TwemslotOn,
    /// HELP of any other container.
    Help,
}

/// What else is known of a command; COMMAND tells it.
#[derive(Debug)]
struct Entry {
    /// How many subcommands follow it in the table.
    subs: u16,
    info: Piece,
    docs: Piece,
    help: Piece,
    categories: u32,
    key_flags: (u8, u8),
}

/// Bytes of a file that the table comes with.
#[derive(Debug, Clone, Copy)]
struct Piece {
    at: u32,
    len: u32,
}

impl Piece {
    /// Not there: the command is not served.
    const NONE: Self = Self { at: 0, len: 0 };

    fn of(self, bytes: &'static [u8]) -> &'static [u8] {
        &bytes[self.at as usize..][..self.len as usize]
    }
}

/// The command of an id that `lookup` or `lookup_sub` gave.
#[inline]
pub fn get(id: CommandId) -> &'static Command {
    &COMMANDS[usize::from(id)]
}

/// How many commands there are, subcommands included; every id is below it.
pub fn count() -> usize {
    COUNT
}

/// Whether any request of this command is served; of a container, whether any subcommand is.
pub fn served(id: CommandId) -> bool {
    ENTRIES[usize::from(id)].info.len > 0
}

/// All categories, in the order of `category`.
pub fn categories() -> &'static [&'static str] {
    table::CATEGORIES
}

/// The place of a category of this name (without `@`) in `categories`.
pub fn category(name: &str) -> Option<usize> {
    table::CATEGORIES.iter().position(|known| known.eq_ignore_ascii_case(name))
}

/// The categories of a command: bits by their place in `categories`.
pub fn categories_of(id: CommandId) -> u32 {
    ENTRIES[usize::from(id)].categories
}

/// The command of this name, in any letter case. Subcommands are found by `lookup_sub` only.
#[inline]
pub fn lookup(name: &[u8]) -> Option<CommandId> {
    if !name.is_empty() && name.len() <= PLAIN {
        let words = fold(words(name));
        let mut at = bucket_of(words, name.len());
        loop {
            if BUCKETS[at].is(words, name.len()) {
                return Some(BUCKETS[at].id);
            }
            if BUCKETS[at].len == 0 {
                break;
            }
            at = (at + 1) % BUCKETS.len();
        }
    }
    lookup_unusual(name)
}

/// The subcommand `sub` of a container, in any letter case.
pub fn lookup_sub(parent: CommandId, sub: &[u8]) -> Option<CommandId> {
    let prefix = get(parent).name.len() + 1;
    let behind = parent + 1;
    (behind..behind + ENTRIES[usize::from(parent)].subs)
        .find(|&id| get(id).name.as_bytes()[prefix..].eq_ignore_ascii_case(sub))
}

/// The command of a whole name, such as `config|get`.
fn lookup_full(name: &[u8]) -> Option<CommandId> {
    match name.iter().position(|&b| b == b'|') {
        Some(bar) => lookup_sub(lookup(&name[..bar])?, &name[bar + 1..]),
        None => lookup(name),
    }
}

/// Names of letters alone, up to this length, are found by hash; the few others by looking at each.
const PLAIN: usize = 16;

/// Where plain names are: open addressing, several times the number of names, so most are in their first bucket.
static BUCKETS: [Bucket; 1024] = buckets();

#[derive(Clone, Copy)]
struct Bucket {
    /// Of the name, folded.
    words: [u64; 2],
    /// Of the name, which is never empty; 0: no name is here.
    len: u32,
    id: CommandId,
}

impl Bucket {
    #[inline]
    const fn is(&self, folded: [u64; 2], len: usize) -> bool {
        self.words[0] == folded[0] && self.words[1] == folded[1] && self.len == len as u32
    }
}

/// Words that, with the length, tell a name of at most `PLAIN` bytes from all others: its first and last bytes, which
/// overlap.
#[inline]
const fn words(name: &[u8]) -> [u64; 2] {
    if let (Some(first), Some(last)) = (name.first_chunk::<8>(), name.last_chunk::<8>()) {
        [u64::from_le_bytes(*first), u64::from_le_bytes(*last)]
    } else if let (Some(first), Some(last)) = (name.first_chunk::<4>(), name.last_chunk::<4>()) {
        [u32::from_le_bytes(*first) as u64 | (u32::from_le_bytes(*last) as u64) << 32, 0]
    } else if let (Some(first), Some(last)) = (name.first(), name.last()) {
        [*first as u64 | (name[name.len() / 2] as u64) << 8 | (*last as u64) << 16, 0]
    } else {
        [0, 0]
    }
}

/// Makes letters upper case. Other bytes change too, but none becomes a letter.
#[inline]
const fn fold(words: [u64; 2]) -> [u64; 2] {
    const MASK: u64 = 0xdfdf_dfdf_dfdf_dfdf;
    [words[0] & MASK, words[1] & MASK]
}

#[inline]
const fn bucket_of(folded: [u64; 2], len: usize) -> usize {
    let mixed = folded[0] ^ folded[1].rotate_left(5) ^ len as u64;
    (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - BUCKETS.len().trailing_zeros())) as usize
}

const fn buckets() -> [Bucket; 1024] {
    let mut buckets = [Bucket { words: [0; 2], len: 0, id: 0 }; 1024];
    let mut id = 0;
    while id < COUNT {
        let name = COMMANDS[id].name.as_bytes();
        if is_plain(name) {
            let words = fold(words(name));
            let mut at = bucket_of(words, name.len());
            while buckets[at].len > 0 {
                at = (at + 1) % buckets.len();
            }
            buckets[at] = Bucket { words, len: name.len() as u32, id: id as CommandId };
        }
        id += 1;
    }
    buckets
}

const fn is_plain(name: &[u8]) -> bool {
    let mut letters = 0;
    while letters < name.len() && name[letters].is_ascii_alphabetic() {
        letters += 1;
    }
    letters == name.len() && letters <= PLAIN
}

#[cold]
fn lookup_unusual(name: &[u8]) -> Option<CommandId> {
    UNUSUAL.into_iter().find(|&id| get(id).name.as_bytes().eq_ignore_ascii_case(name))
}

/// Commands whose names are not plain, such as `sort_ro`.
static UNUSUAL: [CommandId; unusual_count()] = unusual();

const fn is_unusual(name: &[u8]) -> bool {
    let mut i = 0;
    while i < name.len() && name[i] != b'|' {
        i += 1;
    }
    i == name.len() && !is_plain(name)
}

const fn unusual_count() -> usize {
    let (mut id, mut found) = (0, 0);
    while id < COUNT {
        found += is_unusual(COMMANDS[id].name.as_bytes()) as usize;
        id += 1;
    }
    found
}

const fn unusual() -> [CommandId; unusual_count()] {
    let mut ids = [0; unusual_count()];
    let (mut id, mut found) = (0, 0);
    while found < ids.len() {
        if is_unusual(COMMANDS[id].name.as_bytes()) {
            ids[found] = id as CommandId;
            found += 1;
        }
        id += 1;
    }
    ids
}

#[cfg(test)]
mod tests;

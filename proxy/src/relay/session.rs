//! What a connection carries from one request to the next: a transaction, watched keys, a request that blocks,
//! subscriptions. Few clients have any of it, so it is kept beside them.

use super::LinkId;
use super::limits::SUBSCRIPTION_COST;
use cluster::slot::Slot;
use std::collections::BTreeSet;

/// Commands between MULTI and EXEC. They are kept here and sent together, so a transaction needs no link of its own.
#[derive(Debug, Default)]
pub(super) struct Multi {
    /// MULTI and the commands as they go out.
    pub(super) bytes: Vec<u8>,
    pub(super) commands: u32,
    /// The one slot of its keys, once one is known.
    pub(super) slot: Option<Slot>,
    /// The slot of the first channel it publishes to: where it goes if it has no key, so that messages of one publisher
    /// to one channel take one way.
    pub(super) channel: Option<Slot>,
    /// One is for every group, of which there was one when it was queued.
    pub(super) wide: bool,
    /// One was refused: EXEC will be, too.
    pub(super) failed: bool,
}

/// Keys under WATCH.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Watch {
    #[default]
    None,
    /// The instance watches them for this link, which is the client's alone meanwhile.
    On { link: LinkId, slot: Slot },
    /// It can no longer be known whether they were changed (the link is lost, the slot is held or moved): EXEC will
    /// say that they were.
    Broken,
}

/// A request that blocks, and what it takes to ask it again elsewhere.
#[derive(Debug, Default)]
pub(super) struct Blocked {
    pub(super) raw: Vec<u8>,
    /// None: it waits without end.
    pub(super) deadline_us: Option<u64>,
    /// An instance has been asked, and had nothing so far.
    pub(super) asked: bool,
    pub(super) interrupted: Option<Interrupted>,
}

/// A wait at an instance is to end before its time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Interrupted {
    /// Since when, and when the instance was last told: microseconds.
    pub(super) since: u64,
    pub(super) told: u64,
    pub(super) why: Why,
}

/// Why a wait ends before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// Its slot is held or has moved: the request goes on elsewhere.
    Moved,
    /// CLIENT UNBLOCK: what the instance says is the answer, an error if that was wanted.
    Asked { with_error: bool },
}

/// What kind of subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Channel,
    Pattern,
    Shard,
}

/// A channel or pattern.
pub(super) type Topic = (Kind, Box<[u8]>);

/// What a subscription of one client takes: its name is in the client's list and in the worker's.
pub(super) fn cost(topic: &Topic) -> usize {
    SUBSCRIPTION_COST + 2 * topic.1.len()
}

/// The end of subscriptions, which the client is told of when nothing of it is owed any more.
#[derive(Debug)]
pub(super) struct Farewell {
    pub(super) topics: Vec<Topic>,
    pub(super) reply: Vec<u8>,
}

/// Everything a connection carries.
#[derive(Debug, Default)]
pub(super) struct Session {
    pub(super) multi: Option<Multi>,
    pub(super) watch: Watch,
    /// A request that is taken alone, until its turn comes; and how many replies come before its own.
    pub(super) alone: Vec<u8>,
    pub(super) parts: u32,
    pub(super) blocked: Option<Blocked>,
    pub(super) subscriptions: BTreeSet<Topic>,
    /// What they take of memory.
    pub(super) subscription_bytes: usize,
    /// What is said to UNSUBSCRIBE once the groups have confirmed it.
    pub(super) farewell: Option<Farewell>,
    /// Messages that came in the middle of a large reply.
    pub(super) pushes: Vec<u8>,
}

impl Session {
    pub(super) fn subscribe(&mut self, topic: Topic) {
        let bytes = cost(&topic);
        if self.subscriptions.insert(topic) {
            self.subscription_bytes += bytes;
        }
    }

    /// Whether there was such a subscription.
    pub(super) fn unsubscribe(&mut self, topic: &Topic) -> bool {
        let was = self.subscriptions.remove(topic);
        if was {
            self.subscription_bytes -= cost(topic);
        }
        was
    }

    /// Nothing is left of it.
    pub(super) fn is_over(&self) -> bool {
        let waits = !self.alone.is_empty() || self.blocked.is_some() || self.farewell.is_some();
        let quiet = self.subscriptions.is_empty() && self.pushes.is_empty();
        !waits && quiet && self.multi.is_none() && self.watch == Watch::None
    }
}

/// Why a database cannot be selected; there is one.
pub(super) fn database(number: Option<&[u8]>) -> Result<(), &'static str> {
    match number {
        Some(b"0") => Ok(()),
        Some(db) if !db.is_empty() && db.iter().all(u8::is_ascii_digit) => {
            Err("ERR DB index is out of range (a cluster has database 0 only)")
        }
        _ => Err("ERR value is not an integer or out of range"),
    }
}

//! A request between its arrival and its answer. All requests of a worker live in one slab: a client's are a linked
//! list in the order they came, a link's in-flight queue names them in the order they were sent.

use super::ClientId;
use super::buffer::Pool;
use super::command::CommandId;
use cluster::slot::Slot;

/// A request's index in the slab.
pub(super) type RequestId = u32;
/// No request, no client, no link.
pub(super) const NONE: u32 = u32::MAX;
/// The entry of our own PING in a link's queue.
pub(super) const PING: RequestId = u32::MAX - 1;
/// A request of no slot, or of several.
pub(super) const NO_SLOT: Slot = Slot::MAX;

/// Where a request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Not yet on a link; `kept` holds its bytes if it waits for a held slot.
    Waiting,
    /// On a link: a reply will come for it, or the link will close.
    Sent,
    /// Split: its fragments are on links. `of` is the fan.
    Split,
    /// Part of a split one. `of` is the fan.
    Fragment,
    /// Answered when others have said what they know: see `Inquiry`.
    Asked,
    /// Answered, but an earlier request of the client is not: `kept` or `small` holds the reply.
    Done,
    /// Over; the place is free.
    Closed,
}

/// Replies up to this size are kept in the request itself: most values of caches and queues.
pub(super) const SMALL_REPLY: usize = 48;

/// One request.
#[derive(Debug)]
pub(super) struct Request {
    /// NONE: the client is gone, or has been told something else (a timeout); its reply will be dropped.
    pub(super) client: ClientId,
    /// The client's next request.
    pub(super) next: RequestId,
    /// The fan of a split request or a fragment; of one with parts, how many replies come before its own.
    pub(super) of: u32,
    pub(super) slot: Slot,
    pub(super) command: CommandId,
    pub(super) stage: Stage,
    /// CLIENT REPLY OFF or SKIP: no reply is passed on.
    pub(super) mute: bool,
    /// Bytes in `small`.
    pub(super) small_len: u8,
    /// Its bytes are several commands, the last of which brings the answer: see `of`.
    pub(super) parts: bool,
    /// The generation of the topology it was sent under, for requests of several slots.
    pub(super) generation: u32,
    pub(super) small: [u8; SMALL_REPLY],
    /// When it arrived.
    pub(super) started_us: u64,
    /// When it was put on a link.
    pub(super) sent_us: u64,
    /// Where its bytes start among all that was ever put on the link.
    pub(super) place: u64,
    /// Its own bytes while it waits, its reply when it is done.
    pub(super) kept: Vec<u8>,
}

impl Request {
    /// Keeps the reply until those before it are there.
    #[inline]
    pub(super) fn keep_reply(&mut self, pool: &mut Pool, reply: &[u8]) {
        self.stage = Stage::Done;
        self.give_kept(pool);
        if let Some(small) = self.small.get_mut(..reply.len()) {
            small.copy_from_slice(reply);
            self.small_len = reply.len() as u8;
        } else {
            self.keep_in_buffer(pool, reply);
        }
    }

    /// What `keep_reply` kept.
    #[inline]
    pub(super) fn kept_reply(&self) -> &[u8] {
        if self.small_len > 0 { &self.small[..usize::from(self.small_len)] } else { &self.kept }
    }

    /// Gives the kept bytes' buffer back, which few have.
    #[inline(always)]
    pub(super) fn give_kept(&mut self, pool: &mut Pool) {
        if self.kept.capacity() > 0 {
            self.give_buffer(pool);
        }
    }

    #[inline(never)]
    fn give_buffer(&mut self, pool: &mut Pool) {
        pool.give(std::mem::take(&mut self.kept));
    }

    #[inline(never)]
    fn keep_in_buffer(&mut self, pool: &mut Pool, reply: &[u8]) {
        self.kept = pool.keep(reply);
    }
}

/// All requests of a worker. A closed one keeps its place, to be opened again: nothing is moved or allocated.
#[derive(Debug)]
pub(super) struct Requests {
    all: Vec<Request>,
    /// The first closed one; they are linked by `next`.
    closed: RequestId,
    open: usize,
}

impl Default for Requests {
    fn default() -> Self {
        Self { all: Vec::new(), closed: NONE, open: 0 }
    }
}

impl Requests {
    /// A new request, in no list yet.
    #[inline]
    pub(super) fn open(&mut self, client: ClientId, command: CommandId, slot: Slot, now_us: u64) -> RequestId {
        self.open += 1;
        let id = self.closed;
        let Some(request) = self.all.get_mut(id as usize) else { return self.grow(client, command, slot, now_us) };
        self.closed = request.next;
        (request.client, request.command, request.slot) = (client, command, slot);
        (request.next, request.stage, request.mute) = (NONE, Stage::Waiting, false);
        (request.small_len, request.parts, request.started_us) = (0, false, now_us);
        id
    }

    #[cold]
    fn grow(&mut self, client: ClientId, command: CommandId, slot: Slot, now_us: u64) -> RequestId {
        self.all.push(Request {
            client,
            next: NONE,
            of: NONE,
            slot,
            command,
            stage: Stage::Waiting,
            mute: false,
            small_len: 0,
            parts: false,
            generation: 0,
            small: [0; SMALL_REPLY],
            started_us: now_us,
            sent_us: 0,
            place: 0,
            kept: Vec::new(),
        });
        (self.all.len() - 1) as RequestId
    }

    /// Ends a request whose `kept` has been taken; returns the client's next one.
    #[inline]
    pub(super) fn close(&mut self, id: RequestId) -> RequestId {
        let request = &mut self.all[id as usize];
        debug_assert!(request.stage != Stage::Closed, "request {id} is closed twice");
        debug_assert_eq!(request.kept.capacity(), 0, "request {id} is closed with a buffer");
        request.stage = Stage::Closed;
        self.open -= 1;
        std::mem::replace(&mut request.next, std::mem::replace(&mut self.closed, id))
    }

    /// How many are open.
    pub(super) fn len(&self) -> usize {
        self.open
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open == 0
    }

    pub(super) fn get(&self, id: RequestId) -> Option<&Request> {
        self.all.get(id as usize)
    }

    /// Gives the room of more than `keep` requests back, if none is open.
    pub(super) fn trim(&mut self, keep: usize) {
        if self.open == 0 && self.all.capacity() > keep {
            *self = Self::default();
        }
    }
}

impl std::ops::Index<usize> for Requests {
    type Output = Request;

    #[inline]
    fn index(&self, id: usize) -> &Request {
        let request = &self.all[id];
        debug_assert!(request.stage != Stage::Closed, "request {id} is closed");
        request
    }
}

impl std::ops::IndexMut<usize> for Requests {
    #[inline]
    fn index_mut(&mut self, id: usize) -> &mut Request {
        let request = &mut self.all[id];
        debug_assert!(request.stage != Stage::Closed, "request {id} is closed");
        request
    }
}

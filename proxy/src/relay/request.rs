//! A request between its arrival and its answer. All requests of a worker live in one slab: a client's are a linked
//! list in the order they came, a link's in-flight queue names them in the order they were sent.

use super::ClientId;
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
    /// Answered, but an earlier request of the client is not: `kept` or `small` holds the reply.
    Done,
}

/// Replies up to this size are kept in the request itself.
pub(super) const SMALL_REPLY: usize = 16;

/// One request.
#[derive(Debug)]
pub(super) struct Request {
    /// NONE: the client is gone, or has been told something else (a timeout); its reply will be dropped.
    pub(super) client: ClientId,
    /// The client's next request.
    pub(super) next: RequestId,
    /// The fan of a split request or a fragment.
    pub(super) of: u32,
    pub(super) slot: Slot,
    pub(super) command: CommandId,
    pub(super) stage: Stage,
    /// CLIENT REPLY OFF or SKIP: no reply is passed on.
    pub(super) mute: bool,
    /// Bytes in `small`.
    pub(super) small_len: u8,
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
    pub(super) fn new(client: ClientId, command: CommandId, slot: Slot, now_us: u64) -> Self {
        Self {
            client,
            next: NONE,
            of: NONE,
            slot,
            command,
            stage: Stage::Waiting,
            mute: false,
            small_len: 0,
            generation: 0,
            small: [0; SMALL_REPLY],
            started_us: now_us,
            sent_us: 0,
            place: 0,
            kept: Vec::new(),
        }
    }
}

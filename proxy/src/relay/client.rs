//! A client: an application's connection. Its requests are a list in the order they came; only the first one's reply
//! may be written.

use super::LinkId;
use super::buffer::Outgoing;
use super::command::CommandId;
use super::request::{NONE, RequestId};
use super::session::{Session, Watch};
use super::users::NOBODY;
use cluster::resp::reply::Cursor;
use cluster::resp::request::Frame;
use cluster::slot::Slot;

/// How the bytes a client sends are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// Parsed, and put on shared links whole.
    Shared,
    /// A request that is large, or taken alone, has begun: it waits until everything earlier is answered and its slot
    /// (if it has one) is not held.
    Waiting { command: CommandId, slot: Slot, since_us: u64 },
    /// It is being passed on over a link of its own. `whole`: all of it has been passed on.
    Passing { link: LinkId, request: RequestId, cursor: Cursor, whole: bool },
    /// It has been refused: its bytes are dropped up to its end.
    Swallowing { cursor: Cursor },
    /// Its one request is under way on several links: nothing is taken until it is answered.
    Away,
}

/// One connection of an application.
#[derive(Debug)]
pub(super) struct Client {
    /// The oldest request that is not answered, and the newest.
    pub(super) head: RequestId,
    pub(super) tail: RequestId,
    /// Requests in the list.
    pub(super) in_flight: u32,
    /// Requests that wait for a held slot, those among them that are of several slots, and the bytes of all.
    pub(super) held: u32,
    pub(super) held_wide: u32,
    /// Those among them that wait for keys to be brought.
    pub(super) held_moving: u32,
    pub(super) held_bytes: usize,
    pub(super) lane: Lane,
    /// Bytes read but not yet taken: the start of a request, or a backlog while the client is stopped.
    pub(super) input: Vec<u8>,
    /// The key of its large request that waits.
    pub(super) large_key: Box<[u8]>,
    /// How far the first request in `input` has been parsed.
    pub(super) frame: Frame,
    pub(super) out: Outgoing,
    pub(super) dirty: bool,
    pub(super) authenticated: bool,
    /// Passwords that were none, since the last that was one.
    pub(super) wrong_passwords: u8,
    /// Its requests may take the shortest way. Not while something must be looked at first: see `set_common`.
    pub(super) common: bool,
    /// It speaks RESP3, on links that do.
    pub(super) resp3: bool,
    /// What its connection carries, if it carries anything.
    pub(super) session: Option<Box<Session>>,
    /// Its user may not do everything.
    pub(super) restricted: bool,
    /// Somebody looks at all requests (MONITOR).
    pub(super) watched: bool,
    /// CLIENT NO-EVICT: when memory is short, others are closed first.
    pub(super) no_evict: bool,
    /// Who it is: see `Users`.
    pub(super) user: u16,
    /// What it is made with: see `Libraries`.
    pub(super) library: u16,
    /// `StopReading` has been said.
    pub(super) stopped: bool,
    /// Replies pile up: no further request is taken ...
    pub(super) pressed: bool,
    /// The size of the largest reply since, or among those that waited behind another one.
    pub(super) largest: u64,
    /// Bytes of replies that began to wait behind another one since all of them were looked at.
    pub(super) unlooked: usize,
    /// ... unless the client does not read at all: perhaps it will, once it has written everything.
    pub(super) overrun: bool,
    /// Nothing more is taken; to be closed once everything is answered and written.
    pub(super) closing: bool,
    /// `CloseClient` has been said.
    pub(super) closed: bool,
    /// The client will send no more.
    pub(super) finished: bool,
    /// The same, but some of what it sent may be unread.
    pub(super) hung_up: bool,
    /// `AtBoundary` has been said.
    pub(super) boundary_told: bool,
    /// CLIENT REPLY OFF; and SKIP: 1 mutes the next request, 2 the one after the command itself.
    pub(super) reply_off: bool,
    pub(super) reply_skip: u8,
    /// When it came, when it last sent something, and when it last took some of its replies.
    pub(super) opened_us: u64,
    pub(super) heard_us: u64,
    pub(super) progress_us: u64,
    /// For CLIENT ID; unique in this proxy process's life.
    pub(super) id: u64,
    pub(super) name: Box<str>,
    pub(super) peer: Box<str>,
}

impl Client {
    pub(super) fn new(id: u64, peer: &str, authenticated: bool, now_us: u64) -> Self {
        Self {
            head: NONE,
            tail: NONE,
            in_flight: 0,
            held: 0,
            held_wide: 0,
            held_moving: 0,
            held_bytes: 0,
            lane: Lane::Shared,
            input: Vec::new(),
            large_key: Box::default(),
            frame: Frame::default(),
            out: Outgoing::default(),
            dirty: false,
            authenticated,
            wrong_passwords: 0,
            common: authenticated,
            resp3: false,
            session: None,
            restricted: false,
            watched: false,
            no_evict: false,
            user: NOBODY,
            library: 0,
            stopped: false,
            pressed: false,
            largest: 0,
            unlooked: 0,
            overrun: false,
            closing: false,
            closed: false,
            finished: false,
            hung_up: false,
            boundary_told: false,
            reply_off: false,
            reply_skip: 0,
            opened_us: now_us,
            heard_us: now_us,
            progress_us: now_us,
            id,
            name: "".into(),
            peer: peer.into(),
        }
    }

    /// Whether the next request may be taken.
    #[inline]
    pub(super) fn takes_requests(&self, in_flight_max: u32) -> bool {
        self.in_flight < in_flight_max && !self.closing && (!self.pressed || self.overrun)
    }

    /// Whether its bytes go on shared links.
    #[inline]
    pub(super) fn shares(&self) -> bool {
        matches!(self.lane, Lane::Shared)
    }

    /// Bytes of a transaction that is not sent yet.
    pub(super) fn queued(&self) -> usize {
        self.session.as_ref().and_then(|s| s.multi.as_ref()).map_or(0, |multi| multi.bytes.len())
    }

    /// Bytes of what it has subscribed to.
    pub(super) fn subscribed(&self) -> usize {
        self.session.as_ref().map_or(0, |s| s.subscription_bytes)
    }

    /// Call when something changes that `common` depends on.
    pub(super) fn set_common(&mut self) {
        let queues = self.session.as_ref().is_some_and(|s| s.multi.is_some());
        let looked_at = self.restricted || self.watched;
        self.common = self.authenticated && !queues && !self.listens() && !looked_at;
    }

    /// It has subscriptions, in RESP2: it may ask for little else.
    pub(super) fn listens(&self) -> bool {
        !self.resp3 && self.session.as_ref().is_some_and(|s| !s.subscriptions.is_empty())
    }

    pub(super) fn session(&mut self) -> &mut Session {
        self.session.get_or_insert_default()
    }

    /// Call when something of the session has ended.
    pub(super) fn tidy_session(&mut self) {
        if self.session.as_ref().is_some_and(|s| s.is_over()) {
            self.session = None;
        }
        self.set_common();
    }

    /// Its request waits at an instance.
    pub(super) fn blocks(&self) -> bool {
        let blocked = self.session.as_ref().is_some_and(|s| s.blocked.is_some());
        blocked && matches!(self.lane, Lane::Passing { .. })
    }

    /// How its watched keys stand.
    pub(super) fn watch(&self) -> Watch {
        self.session.as_ref().map_or(Watch::None, |s| s.watch)
    }

    /// Between two requests: nothing asked, nothing owed, nothing half said; and not silenced, which another worker
    /// would not know.
    pub(super) fn at_boundary(&self) -> bool {
        let between = self.head == NONE && self.out.is_empty() && self.input.is_empty() && self.shares();
        between && self.session.is_none() && !self.closing && !self.reply_off && self.reply_skip == 0
    }
}

//! What a relay holds, and the few moves everything else is made of: open a request, put it on a link, answer it.

use super::buffer::Pool;
use super::client::Client;
use super::command::{Arity, CommandId, count};
use super::fan::Fan;
use super::fetches::Fetches;
use super::inquiry::Inquiry;
use super::library::Libraries;
use super::limits::{LINK_IN_FLIGHT_MAX, LINK_OUTPUT_MAX, PARKED, Settings};
use super::link::{Link, Own, State, whose};
use super::monitors::Monitors;
use super::orphan::Orphans;
use super::pubsub::PubSub;
use super::request::{NO_SLOT, NONE, PING, RequestId, Requests, Stage};
use super::route::{Load, Routes};
use super::samples::Samples;
use super::scripts::Scripts;
use super::slowlog::Slowlog;
use super::users::Users;
use super::{ClientId, Deed, Level, LinkId, Now, Planted};
use crate::queue::Queue;
use crate::stats::{Counter, Histogram, OfCommand, OfGroup, Stats};
use cluster::instance::Addr;
use cluster::resp::write;
use cluster::slot::Slot;
use slab::Slab;
use std::collections::{BTreeMap, VecDeque};

/// Replies that came together count alike: so many of one command, after the same time.
#[derive(Debug, Default)]
pub(super) struct Run {
    command: CommandId,
    us: u64,
    n: u64,
}

/// The same for a group's entry and the time at the instance.
#[derive(Debug, Default)]
pub(super) struct InstanceRun {
    entry: usize,
    us: u64,
    n: u64,
}

/// One worker's relay.
pub struct Relay {
    pub(super) now: Now,
    pub(super) settings: Settings,
    pub(super) worker: u32,
    pub(super) random: u64,
    pub(super) clients: Slab<Client>,
    pub(super) links: Slab<Link>,
    pub(super) requests: Requests,
    pub(super) fans: Slab<Fan>,
    pub(super) routes: Routes,
    pub(super) pool: Pool,
    pub(super) stats: Stats,
    pub(super) run: Run,
    pub(super) instance_run: InstanceRun,
    pub(super) deeds: VecDeque<Deed>,
    pub(super) dirty_links: Queue,
    pub(super) dirty_clients: Queue,
    /// Clients whose stopped requests may go on.
    pub(super) resumable: Vec<ClientId>,
    /// All that wait are among them.
    pub(super) waiting_retried: bool,
    /// Requests that wait for a held slot, oldest first.
    pub(super) held: VecDeque<RequestId>,
    pub(super) held_bytes: usize,
    /// Clients whose request that is large, or taken alone, waits.
    pub(super) waiting: Vec<ClientId>,
    /// When large requests that are not whole are cut where their slots are held; None: none is under way there.
    pub(super) uploads_until_us: Option<u64>,
    /// Keys of slots that move on access.
    pub(super) fetches: Fetches,
    /// Who listens to what.
    pub(super) pubsub: PubSub,
    /// Clients for which messages wait until a large reply is over.
    pub(super) pushing: Vec<ClientId>,
    /// Some client speaks RESP3; and how many links of each protocol there are to each primary.
    pub(super) resp3_wanted: bool,
    pub(super) links_of_each: usize,
    /// Clients whose blocked request is being interrupted.
    pub(super) interrupting: Vec<ClientId>,
    /// Clients whose replies pile up.
    pub(super) pressed: Vec<ClientId>,
    /// By slot.
    pub(super) loads: Vec<Load>,
    /// Requests of several slots that are on links: sent under this topology, and under earlier ones.
    pub(super) wide_now: u32,
    pub(super) wide_before: u32,
    pub(super) shared_links: BTreeMap<Addr, Vec<LinkId>>,
    /// What instances may still hold of lost connections.
    pub(super) orphans: Orphans,
    /// What clients have sent with EVAL and SCRIPT LOAD.
    pub(super) scripts: Scripts,
    /// What another worker has told of its scripts so far.
    pub(super) scripts_told: String,
    /// Commands refused by name (`denied_commands`).
    pub(super) denied: Vec<bool>,
    /// For commands of one key, which is their first argument, that are served and not refused: how many arguments
    /// they take. Nearly all requests.
    pub(super) plain: Vec<Arity>,
    /// Room for clients when memory was last given back: an old half of it may be free.
    pub(super) clients_room: usize,
    pub(super) next_client: u64,
    pub(super) draining: bool,
    pub(super) accepting: bool,
    pub(super) ticked_us: u64,
    /// The most bytes of buffers in use since memory was last given back, and when that was.
    pub(super) lent_most: usize,
    /// What the shell holds for connections, in bytes.
    pub(super) shell_bytes: usize,
    pub(super) gave_back_us: u64,
    /// For reuse: fans, and the requests they send.
    pub(super) spare_fans: Vec<Fan>,
    pub(super) fan_bytes: Vec<Vec<u8>>,
    /// Replies and requests are composed here before they are appended.
    pub(super) scratch: Vec<u8>,
    /// When it began.
    pub(super) started_us: u64,
    /// A request that takes so long is noted in the slow log.
    pub(super) slow_us: u64,
    pub(super) users: Users,
    pub(super) libraries: Libraries,
    pub(super) slowlog: Slowlog,
    pub(super) samples: Samples,
    pub(super) monitors: Monitors,
    /// Questions to other workers that wait, and the ticket of the last.
    pub(super) inquiries: Vec<Inquiry>,
    pub(super) last_ticket: u32,
    /// For the simulation alone.
    pub(super) planted: Option<Planted>,
}

impl Relay {
    /// `seed` feeds the jitter of reconnects; `worker` is this worker's index, for names and client ids.
    pub fn new(settings: Settings, worker: u32, seed: u64, now: Now) -> Self {
        let mut relay = Self {
            now,
            settings: Settings::default(),
            worker,
            random: seed | 1,
            clients: Slab::new(),
            links: Slab::new(),
            requests: Requests::default(),
            fans: Slab::new(),
            routes: Routes::default(),
            pool: Pool::default(),
            stats: Stats::default(),
            run: Run::default(),
            instance_run: InstanceRun::default(),
            deeds: VecDeque::new(),
            dirty_links: Queue::default(),
            dirty_clients: Queue::default(),
            resumable: Vec::new(),
            waiting_retried: false,
            held: VecDeque::new(),
            held_bytes: 0,
            waiting: Vec::new(),
            uploads_until_us: None,
            fetches: Fetches::default(),
            pubsub: PubSub::default(),
            pushing: Vec::new(),
            resp3_wanted: false,
            links_of_each: 1,
            interrupting: Vec::new(),
            pressed: Vec::new(),
            loads: vec![Load::default()],
            wide_now: 0,
            wide_before: 0,
            shared_links: BTreeMap::new(),
            orphans: Orphans::default(),
            scripts: Scripts::default(),
            scripts_told: String::new(),
            denied: vec![false; count()],
            plain: vec![Arity::NONE; count()],
            clients_room: 0,
            next_client: 1,
            draining: false,
            accepting: true,
            ticked_us: now.us,
            lent_most: 0,
            shell_bytes: 0,
            gave_back_us: now.us,
            spare_fans: Vec::new(),
            fan_bytes: Vec::new(),
            scratch: Vec::new(),
            started_us: now.us,
            slow_us: u64::MAX,
            users: Users::default(),
            libraries: Libraries::default(),
            slowlog: Slowlog::default(),
            samples: Samples::default(),
            monitors: Monitors::default(),
            inquiries: Vec::new(),
            last_ticket: 0,
            planted: None,
        };
        relay.set_settings(settings);
        relay
    }

    /// Makes a mistake from now on: see `Planted`.
    #[doc(hidden)]
    pub fn plant(&mut self, mistake: Planted) {
        self.planted = Some(mistake);
    }

    /// A pseudo-random number (xorshift64*), for jitter only.
    pub(super) fn random(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(super) fn tell(&mut self, level: Level, text: String) {
        self.deeds.push_back(Deed::Tell { level, text });
    }

    #[inline]
    pub(super) fn mark_client(&mut self, id: ClientId) {
        let client = &mut self.clients[id as usize];
        if !client.dirty {
            client.dirty = true;
            self.dirty_clients.push(id);
        }
    }

    #[inline]
    pub(super) fn mark_link(&mut self, id: LinkId) {
        let link = &mut self.links[id as usize];
        if !link.dirty {
            link.dirty = true;
            self.dirty_links.push(id);
        }
    }

    /// A new request at the end of its client's list.
    #[inline(always)]
    pub(super) fn open_request(&mut self, client_id: ClientId, command: CommandId, slot: Slot) -> RequestId {
        let client = &mut self.clients[client_id as usize];
        let id = self.requests.open(client_id, command, slot, self.now.us);
        if client.reply_off || client.reply_skip > 0 {
            self.requests[id as usize].mute = true;
            client.reply_skip = 0;
        }
        if client.head == NONE {
            client.head = id;
        } else {
            self.requests[client.tail as usize].next = id;
        }
        client.tail = id;
        client.in_flight += 1;
        id
    }

    /// Puts a request on a link, or answers why it cannot.
    #[inline(always)]
    pub(super) fn put(&mut self, link_id: LinkId, id: RequestId, slot: Slot, raw: &[u8]) {
        let link = &mut self.links[link_id as usize];
        let out = match link.state {
            State::Up => &mut link.out,
            State::Connecting | State::Greeting => &mut link.queue,
            State::Down { .. } | State::Closing => return self.refuse_down(link_id, id),
        };
        if link.fifo.len() >= LINK_IN_FLIGHT_MAX || out.len() + raw.len() > LINK_OUTPUT_MAX {
            return self.refuse_overload(link_id, id);
        }
        out.append(&mut self.pool, raw);
        link.fifo.push_back(id);
        let request = &mut self.requests[id as usize];
        if request.stage == Stage::Waiting {
            request.stage = Stage::Sent;
        }
        request.sent_us = self.now.us;
        request.place = link.queued;
        link.queued += raw.len() as u64;
        if let Some(load) = self.loads.get_mut(usize::from(slot)) {
            load.in_flight += 1;
            load.requests += 1;
        }
        if !link.dirty {
            link.dirty = true;
            self.dirty_links.push(link_id);
        }
        if request.parts {
            self.put_parts(link_id, id);
        }
    }

    /// The request just put on a link is several commands: the replies of all but the last come before its own.
    #[cold]
    fn put_parts(&mut self, link_id: LinkId, id: RequestId) {
        let link = &mut self.links[link_id as usize];
        link.fifo.pop_back();
        for _ in 0..self.requests[id as usize].of {
            link.fifo.push_back(PING);
            link.own.push_back(Own::Part);
        }
        link.fifo.push_back(id);
    }

    #[cold]
    fn refuse_down(&mut self, link_id: LinkId, id: RequestId) {
        let link = &self.links[link_id as usize];
        let text = format!("ERR twemslot: {} is down: {}; nothing was sent", whose(link), link.cause);
        self.refuse(id, Counter::ErrorsLinkDown, &text);
    }

    #[cold]
    fn refuse_overload(&mut self, link_id: LinkId, id: RequestId) {
        let link = &self.links[link_id as usize];
        let text = format!(
            "ERR twemslot: {} is overloaded: {} requests and {} bytes wait for it; nothing was sent",
            whose(link),
            link.fifo.len(),
            link.output_bytes()
        );
        self.refuse(id, Counter::ErrorsOverload, &text);
    }

    /// Answers with an error of ours; for a fragment, its whole request.
    #[cold]
    pub(super) fn refuse(&mut self, id: RequestId, counter: Counter, text: &str) {
        self.stats.add(counter, 1);
        let mut reply = std::mem::take(&mut self.scratch);
        reply.clear();
        write::error(&mut reply, text);
        if self.requests[id as usize].stage == Stage::Fragment {
            self.fragment_refused(id, &reply);
        } else {
            if self.planted == Some(Planted::ErrorsAtOnce) {
                self.answer_at_once(id, &reply);
            }
            self.answer(id, &reply);
        }
        self.scratch = reply;
    }

    /// The planted mistake: the answer overtakes those of earlier requests.
    #[cold]
    fn answer_at_once(&mut self, id: RequestId, reply: &[u8]) {
        let request = &mut self.requests[id as usize];
        if let Some(client) = self.clients.get_mut(request.client as usize)
            && !std::mem::replace(&mut request.mute, true)
        {
            client.out.append(&mut self.pool, reply);
        }
    }

    /// The request has left its link's queue, answered or not.
    #[inline(always)]
    pub(super) fn left_link(&mut self, slot: Slot) {
        if let Some(load) = self.loads.get_mut(usize::from(slot)) {
            debug_assert!(load.in_flight > 0, "slot {slot}: more replies than requests");
            load.in_flight = load.in_flight.saturating_sub(1);
        }
    }

    /// Answers a request that is on no link (any more), in its client's order, and forgets it.
    #[inline(always)]
    pub(super) fn answer(&mut self, id: RequestId, reply: &[u8]) {
        let request = &self.requests[id as usize];
        let (command, us) = (request.command, self.now.us.saturating_sub(request.started_us));
        if self.run.command == command && self.run.us == us {
            self.run.n += 1;
        } else {
            self.end_run(Run { command, us, n: 1 }, id);
        }
        if reply.first() == Some(&b'-') {
            self.count_error(command);
        }
        let client_id = self.requests[id as usize].client;
        if client_id == NONE {
            return self.forget(id);
        }
        let client = &mut self.clients[client_id as usize];
        let request = &mut self.requests[id as usize];
        if client.head != id {
            request.keep_reply(&mut self.pool, reply);
            if reply.len() > PARKED {
                self.look_at_parked(client_id, reply.len());
            }
            return;
        }
        if !request.mute {
            client.out.append(&mut self.pool, reply);
        }
        pop_answered(client, &mut self.requests, &mut self.pool);
        if mark_popped(client, client_id, &mut self.dirty_clients, self.settings.client_output_soft) {
            self.popped_unusually(client_id, reply.len());
        }
    }

    /// The head of a client's list has been answered in full: goes on with those behind it that are, too.
    pub(super) fn pop_head(&mut self, client_id: ClientId) {
        let client = &mut self.clients[client_id as usize];
        pop_answered(client, &mut self.requests, &mut self.pool);
        if mark_popped(client, client_id, &mut self.dirty_clients, self.settings.client_output_soft) {
            self.popped_unusually(client_id, 0);
        }
    }

    /// A client that is not read, or passes a large request, or takes its replies too slowly, has been answered, in so many
    /// bytes if it was not before.
    #[inline(never)]
    fn popped_unusually(&mut self, client_id: ClientId, bytes: usize) {
        let client = &self.clients[client_id as usize];
        let much = client.out.len() > self.settings.client_output_soft;
        if client.stopped || !client.shares() {
            self.resumable.push(client_id);
        }
        if much {
            self.press(client_id, bytes as u64);
        }
    }

    /// Part of a reply that is too large to be kept whole; `whole` is as much of its size as is known. False: nobody
    /// wants it.
    pub(super) fn answer_part(&mut self, id: RequestId, part: &[u8], whole: u64) -> bool {
        let request = &mut self.requests[id as usize];
        let client_id = request.client;
        let Some(client) = self.clients.get_mut(client_id as usize) else { return false };
        if request.mute {
            return false;
        }
        if client.head == id {
            client.out.append(&mut self.pool, part);
            self.mark_client(client_id);
            if self.clients[client_id as usize].out.len() > self.settings.client_output_soft {
                self.press(client_id, whole);
            }
        } else {
            self.pool.extend(&mut request.kept, part);
            self.look_at_parked(client_id, part.len());
        }
        true
    }

    /// Bytes of replies that wait: behind one that has not come, or for other parts of their own. And of the largest of them.
    #[cold]
    pub(super) fn parked(&self, client: &Client) -> (usize, usize) {
        let mut next = client.head;
        let (mut bytes, mut largest) = (0, 0);
        while next != NONE {
            let request = &self.requests[next as usize];
            let fan =
                self.fans.get(request.of as usize).filter(|fan| request.stage == Stage::Split && fan.parent == next);
            let parts = fan.map_or(0, Fan::bytes);
            let held = request.kept.len() + parts;
            (bytes, largest, next) = (bytes + held, largest.max(held), request.next);
        }
        (bytes, largest)
    }

    /// So many more bytes wait behind a reply that has not come. Small replies are no more than `client_in_flight_max` allows;
    /// a single large one may exceed the bound by its own size, as where it need not wait.
    #[cold]
    pub(super) fn look_at_parked(&mut self, id: ClientId, more: usize) {
        let max = self.settings.client_output_max;
        // All that wait are looked through: only after so much that a reply's share of it is little.
        let client = &mut self.clients[id as usize];
        client.unlooked += more;
        if client.unlooked < max / 8 {
            return;
        }
        client.unlooked = 0;
        let (bytes, largest) = self.parked(&self.clients[id as usize]);
        // When they go out, it may exceed the bound there, too.
        let client = &mut self.clients[id as usize];
        client.largest = if client.pressed { client.largest.max(largest as u64) } else { largest as u64 };
        if bytes - largest > max {
            let why = format!("replies that wait behind an earlier one take more than client_output_max {max}");
            self.close_for_memory(id, &why);
        }
    }

    /// Forgets a request that is in no list and no queue.
    pub(super) fn forget(&mut self, id: RequestId) {
        let kept = std::mem::take(&mut self.requests[id as usize].kept);
        self.pool.give(kept);
        self.requests.close(id);
    }

    /// A client's replies pile up: it is not read while it takes some of them, and closed when they are too many.
    /// A single large reply may exceed the bound by its own size.
    #[cold]
    pub(super) fn press(&mut self, id: ClientId, whole: u64) {
        let max = self.settings.client_output_max;
        let client = &mut self.clients[id as usize];
        if client.closed {
            return;
        }
        if !client.pressed {
            client.pressed = true;
            client.progress_us = self.now.us;
            self.pressed.push(id);
        }
        client.largest = client.largest.max(whole);
        if client.out.len() as u64 > max as u64 + client.largest {
            let text =
                format!("{} bytes of replies wait to be read, more than client_output_max {max}", client.out.len());
            self.close_for_memory(id, &text);
        }
    }

    /// Closes a client at once, whatever it is owed.
    #[cold]
    pub(super) fn close_for_memory(&mut self, id: ClientId, why: &str) {
        let client = &self.clients[id as usize];
        if client.closed {
            return;
        }
        let text = format!("client {} ({}) closed: {why}", client.id, client.peer);
        self.stats.add(Counter::ClientsClosedForMemory, 1);
        self.tell(Level::Warn, text);
        self.close_client(id);
    }

    pub(super) fn close_client(&mut self, id: ClientId) {
        let client = &mut self.clients[id as usize];
        client.closing = true;
        if !client.closed {
            client.closed = true;
            client.out.clear(&mut self.pool);
            self.deeds.push_back(Deed::CloseClient { client: id });
        }
    }

    /// Says `CloseLink`; the requests on it are answered when the shell says that it is closed.
    pub(super) fn close_link(&mut self, id: LinkId, cause: String) {
        let link = &mut self.links[id as usize];
        if !matches!(link.state, State::Closing | State::Down { .. }) {
            link.state = State::Closing;
            link.cause = cause;
            self.deeds.push_back(Deed::CloseLink { link: id });
        }
    }

    /// Counts a reply's time at the instance.
    #[inline(always)]
    pub(super) fn observe_instance(&mut self, entry: usize, sent_us: u64) {
        let us = self.now.us.saturating_sub(sent_us);
        if self.instance_run.entry == entry && self.instance_run.us == us {
            self.instance_run.n += 1;
        } else {
            self.end_instance_run(InstanceRun { entry, us, n: 1 });
        }
    }

    #[cold]
    fn count_error(&mut self, command: CommandId) {
        self.stats.add(Counter::RepliesError, 1);
        self.stats.add_of_command(command, OfCommand::Errors, 1);
    }

    /// Writes down what has been counted in a run; another begins with this request.
    #[inline(never)]
    fn end_run(&mut self, next: Run, first: RequestId) {
        let slow = next.us >= self.slow_us;
        let Run { command, us, n } = std::mem::replace(&mut self.run, next);
        if n > 0 {
            self.stats.add_of_command(command, OfCommand::Calls, n);
            self.stats.add_of_command(command, OfCommand::UsSum, us * n);
            self.stats.observe_of_command(command, us, n);
            self.stats.observe(Histogram::Total, us, n);
            if us >= self.slow_us && n > 1 {
                self.slowlog.and_more(n - 1);
            }
        }
        if slow {
            self.note_slow(first);
        }
    }

    #[inline(never)]
    fn end_instance_run(&mut self, next: InstanceRun) {
        let InstanceRun { entry, us, n } = std::mem::replace(&mut self.instance_run, next);
        if n > 0 {
            self.stats.observe(Histogram::Instance, us, n);
            if entry != usize::MAX {
                self.stats.add_of_group(entry, OfGroup::Requests, n);
                self.stats.add_of_group(entry, OfGroup::UsSum, us * n);
            }
        }
    }

    /// Writes down what has been counted in runs.
    pub(super) fn flush_runs(&mut self) {
        self.end_run(Run::default(), NONE);
        self.end_instance_run(InstanceRun::default());
    }

    /// Answers at once if nothing earlier is owed, else in turn.
    pub(super) fn answer_here(&mut self, client: ClientId, command: CommandId, reply: &[u8]) {
        self.stats.add(Counter::RequestsLocal, 1);
        let id = self.open_request(client, command, NO_SLOT);
        self.answer(id, reply);
    }

    /// Answers with an error of ours before anything is sent.
    #[cold]
    pub(super) fn refuse_here(&mut self, client: ClientId, command: CommandId, counter: Counter, text: &str) {
        let id = self.open_request(client, command, NO_SLOT);
        self.refuse(id, counter, text);
    }
}

/// Takes the head of a client's list out, whose reply is in the client's buffer, and then those of the answered
/// requests right behind it, whose replies follow.
#[inline(always)]
fn pop_answered(client: &mut Client, requests: &mut Requests, pool: &mut Pool) {
    let mut id = client.head;
    loop {
        requests[id as usize].give_kept(pool);
        client.in_flight -= 1;
        id = requests.close(id);
        if id == NONE {
            client.tail = NONE;
            break;
        }
        let next = &mut requests[id as usize];
        if next.stage != Stage::Done {
            if next.stage == Stage::Sent {
                // The first parts of a large reply may be here already.
                if !next.mute {
                    client.out.append(pool, &next.kept);
                }
                next.give_kept(pool);
            }
            break;
        }
        if !next.mute {
            client.out.append(pool, next.kept_reply());
        }
    }
    client.head = id;
}

/// Names a client whose requests have been answered for writing. True: something waits for that.
#[inline(always)]
fn mark_popped(client: &mut Client, id: ClientId, dirty: &mut Queue, soft: usize) -> bool {
    if !client.dirty {
        client.dirty = true;
        dirty.push(id);
    }
    client.stopped | !client.shares() | (client.out.len() > soft)
}

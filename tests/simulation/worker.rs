//! The shell of a worker, as the world has it: it reads, ticks, does the relay's deeds and writes, in turns, with
//! sockets that take and give any number of bytes.

use crate::checkers::owners::WorkerUid;
use crate::instance::Peer;
use crate::network::Pipe;
use crate::topology;
use crate::world::{Event, Fate, LinkConn, Plant, World, noted};
use cluster::topology::Topology;
use proxy::relay::limits::Settings;
use proxy::relay::{ClientId, ClientState, Deed, LinkId, Now, Relay};
use proxy::stats::Gauge;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::IoSlice;
use std::sync::Arc;

/// What the master says.
pub(crate) enum Order {
    Topology(Arc<Topology>),
    Settings(Box<Settings>),
    Drain,
}

pub(crate) struct Worker {
    pub(crate) uid: WorkerUid,
    relay: Relay,
    pub(crate) clients: BTreeMap<ClientId, usize>,
    pub(crate) links: BTreeMap<LinkId, usize>,
    /// Connections to accept, and clients handed over to us.
    pub(crate) backlog: VecDeque<usize>,
    pub(crate) adopts: VecDeque<(usize, ClientState)>,
    pub(crate) orders: VecDeque<Order>,
    accepting: bool,
    pub(crate) draining: bool,
    /// Then it closes those who are never between two requests: who listen, or wait without end.
    drains_until: u64,
    stopped_clients: BTreeSet<ClientId>,
    stopped_links: BTreeSet<LinkId>,
    /// With output that did not all fit.
    unsent_clients: BTreeSet<ClientId>,
    unsent_links: BTreeSet<LinkId>,
    /// Not scheduled by its machine until then.
    pub(crate) stalled_until: u64,
}

impl Worker {
    /// Links that are not up; None: all are.
    pub(crate) fn links_down(&mut self) -> Option<String> {
        let down: Vec<_> = self.relay.link_status().into_iter().filter(|link| link.state != "up").collect();
        (!down.is_empty()).then(|| format!("links are not up: {down:?}"))
    }

    /// What is under way on its links.
    pub(crate) fn busy(&mut self) -> String {
        let mut links = self.relay.link_status();
        links.retain(|link| link.in_flight > 0 || link.state != "up");
        format!("{links:?}")
    }

    /// What is left of clients who have all gone.
    pub(crate) fn leftovers(&mut self) -> Option<String> {
        let clients = self.relay.clients();
        if clients > 0 {
            return Some(format!("{clients} clients are kept, though all have gone"));
        }
        let stats = self.relay.stats();
        for gauge in [
            Gauge::Clients,
            Gauge::RequestsInFlight,
            Gauge::RequestsHeld,
            Gauge::ClientOutputBytes,
            Gauge::LinkOutputBytes,
        ] {
            if stats.gauge(gauge) != 0 {
                return Some(format!("{gauge:?} is {} with no client left", stats.gauge(gauge)));
            }
        }
        let memory = stats.gauge(Gauge::MemoryBytes);
        (memory > MEMORY_LEFT_MAX).then(|| format!("{memory} bytes of memory are kept with no client left"))
    }
}

/// Memory a relay may keep for links and spare buffers when nobody is connected.
const MEMORY_LEFT_MAX: u64 = 1 << 20;

/// How long a worker that drains waits for its clients.
const DRAIN_US: u64 = 300_000;

impl World {
    pub(crate) fn new_worker(&mut self, w: usize) -> Result<Worker, String> {
        let uid = self.new_uid();
        let seed = self.rng.next();
        let now = self.clock();
        let mut relay = Relay::new(self.settings.clone(), w as u32, seed, now);
        if let Some(Plant::InRelay(mistake)) = self.plant {
            relay.plant(mistake);
        }
        let topology = self.plan.topology()?;
        self.owners.serves(uid, &topology);
        relay.set_topology(topology);
        Ok(Worker {
            uid,
            relay,
            clients: BTreeMap::new(),
            links: BTreeMap::new(),
            backlog: VecDeque::new(),
            adopts: VecDeque::new(),
            orders: VecDeque::new(),
            accepting: true,
            draining: false,
            drains_until: u64::MAX,
            stopped_clients: BTreeSet::new(),
            stopped_links: BTreeSet::new(),
            unsent_clients: BTreeSet::new(),
            unsent_links: BTreeSet::new(),
            stalled_until: 0,
        })
    }

    fn clock(&self) -> Now {
        Now { us: self.now, unix_us: 1_700_000_000_000_000 + self.now }
    }

    pub(crate) fn worker_turn(&mut self, w: usize) {
        let stalled = self.workers[w].stalled_until.saturating_sub(self.now);
        if stalled > 0 {
            return self.wake(Event::Worker(w), stalled);
        }
        let now = self.clock();
        self.workers[w].relay.set_now(now);
        self.take_orders(w);
        self.read_links(w);
        self.accept(w);
        self.read_clients(w);
        if self.workers[w].relay.deadline() <= self.now {
            self.workers[w].relay.tick();
        }
        if self.workers[w].drains_until <= self.now {
            let left: Vec<(ClientId, usize)> = self.workers[w].clients.iter().map(|(id, k)| (*id, *k)).collect();
            for (id, k) in left {
                self.conns[k].drained = true;
                self.client_gone(w, id);
            }
        } else if self.workers[w].drains_until != u64::MAX {
            self.wake(Event::Worker(w), self.workers[w].drains_until - self.now);
        }
        self.flush(w);
        self.workers[w].relay.check();
        if self.workers[w].draining && self.drained(w) {
            return self.replace(w);
        }
        let deadline = self.workers[w].relay.deadline();
        if deadline != u64::MAX {
            let late = if self.rng.one_in(50) { self.rng.range(0, 30_000) } else { self.rng.range(0, 200) };
            self.wake(Event::Worker(w), deadline.saturating_sub(self.now).max(1) + late);
        }
    }

    fn take_orders(&mut self, w: usize) {
        while let Some(order) = self.workers[w].orders.pop_front() {
            let worker = &mut self.workers[w];
            match order {
                Order::Topology(topology) => {
                    self.owners.serves(worker.uid, &topology);
                    let epoch = topology.epoch();
                    worker.relay.set_topology(topology);
                    self.note(|| format!("w{w} serves epoch {epoch}"));
                    if self.plant == Some(Plant::HastyWorker) {
                        self.quiet(w, epoch);
                    }
                }
                Order::Settings(settings) => worker.relay.set_settings(*settings),
                Order::Drain => {
                    worker.draining = true;
                    worker.drains_until = self.now + DRAIN_US;
                    worker.relay.drain();
                    self.note(|| format!("w{w} drains"));
                }
            }
        }
    }

    fn read_links(&mut self, w: usize) {
        let links: Vec<(LinkId, usize)> = self.workers[w].links.iter().map(|(link, l)| (*link, *l)).collect();
        for (link, l) in links {
            if !self.links[l].open && !self.link_connects(w, link, l) {
                continue;
            }
            self.read_link(w, link, l);
        }
    }

    /// A connect that comes out, or is still on its way: true when the link is open.
    fn link_connects(&mut self, w: usize, link: LinkId, l: usize) -> bool {
        let conn = &mut self.links[l];
        if self.now < conn.at {
            let after = conn.at - self.now;
            self.wake(Event::Worker(w), after);
            return false;
        }
        match conn.fate {
            Fate::Silent => false,
            Fate::Refused => {
                self.link_gone(w, link, "connection refused");
                false
            }
            Fate::Opens => {
                let instance = &mut self.instances[conn.instance];
                instance.next_id += 1;
                conn.peer = Peer::new(instance.next_id, self.workers[w].uid);
                conn.open = true;
                instance.links.push(l);
                let (i, id) = (conn.instance, instance.next_id);
                self.workers[w].relay.link_opened(link);
                self.note(|| format!("w{w} link {link} opened to i{i} as id {id}"));
                true
            }
        }
    }

    fn read_link(&mut self, w: usize, link: LinkId, l: usize) {
        let stopped = self.workers[w].stopped_links.contains(&link);
        let conn = &mut self.links[l];
        if !stopped && !conn.down.is_empty() {
            let bytes = conn.down.read(&mut self.rng);
            let instance = conn.instance;
            self.note(|| format!("w{w} reads {} bytes of link {link}", bytes.len()));
            self.workers[w].relay.link_sent(link, &bytes);
            self.wake_soon(Event::Instance(instance));
            self.wake_soon(Event::Worker(w));
        } else if conn.broken || (conn.down.ended && conn.down.is_empty()) {
            self.link_gone(w, link, "connection reset by the instance");
        }
    }

    /// The worker's socket of a link is closed. What it had written may still arrive, in some weather.
    fn link_gone(&mut self, w: usize, link: LinkId, cause: &str) {
        let worker = &mut self.workers[w];
        let Some(l) = worker.links.remove(&link) else { return };
        worker.stopped_links.remove(&link);
        worker.unsent_links.remove(&link);
        let conn = &mut self.links[l];
        (conn.worker_gone, conn.up.ended) = (true, true);
        conn.instance_gone |= !self.weather.late_bytes;
        let instance = conn.instance;
        worker.relay.link_closed(link, cause);
        self.delay(l);
        self.note(|| format!("w{w} link {link} to i{instance} is closed: {cause}"));
        self.wake_soon(Event::Instance(instance));
    }

    fn accept(&mut self, w: usize) {
        while let Some((k, state)) = self.workers[w].adopts.pop_front() {
            let id = self.workers[w].relay.client_adopted(state);
            self.workers[w].clients.insert(id, k);
            self.note(|| format!("w{w} adopts connection {k} as client {id}"));
        }
        let worker = &mut self.workers[w];
        while worker.accepting
            && !worker.draining
            && let Some(k) = worker.backlog.pop_front()
        {
            let id = worker.relay.client_opened(&format!("10.1.0.{}:{}", self.conns[k].client, 1024 + k));
            if worker.clients.insert(id, k).is_some() {
                self.history.fail(format!("wire: client id {id} was given twice"));
            }
        }
    }

    fn read_clients(&mut self, w: usize) {
        let clients: Vec<(ClientId, usize)> = self.workers[w].clients.iter().map(|(id, k)| (*id, *k)).collect();
        for (id, k) in clients {
            let conn = &mut self.conns[k];
            if conn.client_gone && self.plant == Some(Plant::ForgetClient) && self.rng.one_in(4) {
                self.workers[w].clients.remove(&id);
            } else if conn.reset {
                self.client_gone(w, id);
            } else if self.workers[w].stopped_clients.contains(&id) {
                // Its bytes stay in the socket, but their end is seen.
                if conn.up.ended && !conn.hang_up_told && self.plant != Some(Plant::ForgetHangUp) {
                    conn.hang_up_told = true;
                    self.workers[w].relay.client_hung_up(id);
                }
            } else if !conn.up.is_empty() {
                let bytes = conn.up.read(&mut self.rng);
                let client = conn.client;
                self.note(|| format!("w{w} reads {} bytes of client {id} (c{client})", bytes.len()));
                self.workers[w].relay.client_sent(id, &bytes);
                self.wake_soon(Event::Client(client));
                self.wake_soon(Event::Worker(w));
            } else if conn.up.ended && !conn.end_told {
                conn.end_told = true;
                self.workers[w].relay.client_finished(id);
            }
        }
    }

    /// The worker's socket of a client is closed.
    fn client_gone(&mut self, w: usize, id: ClientId) {
        if let Some(k) = self.forget_client(w, id) {
            (self.conns[k].worker_gone, self.conns[k].down.ended) = (true, true);
            self.workers[w].relay.client_closed(id);
            let client = self.conns[k].client;
            self.wake_soon(Event::Client(client));
        }
    }

    fn forget_client(&mut self, w: usize, id: ClientId) -> Option<usize> {
        let worker = &mut self.workers[w];
        worker.stopped_clients.remove(&id);
        worker.unsent_clients.remove(&id);
        worker.clients.remove(&id)
    }

    /// Deeds and writes, until the relay wants nothing more.
    fn flush(&mut self, w: usize) {
        for id in std::mem::take(&mut self.workers[w].unsent_clients) {
            self.write_client(w, id);
        }
        for link in std::mem::take(&mut self.workers[w].unsent_links) {
            self.write_link(w, link);
        }
        for round in 0.. {
            let mut idle = true;
            while let Some(deed) = self.workers[w].relay.next_deed() {
                idle = false;
                self.deed(w, deed);
            }
            while let Some(link) = self.workers[w].relay.next_dirty_link() {
                idle = false;
                self.write_link(w, link);
            }
            while let Some(id) = self.workers[w].relay.next_dirty_client() {
                idle = false;
                self.write_client(w, id);
            }
            if idle {
                return;
            }
            if round > 10_000 {
                return self.history.fail(format!("progress: worker {w} never comes to rest"));
            }
        }
    }

    fn write_client(&mut self, w: usize, id: ClientId) {
        let Some(&k) = self.workers[w].clients.get(&id) else { return };
        let target = if self.plant == Some(Plant::CrossClients) && self.rng.one_in(100) {
            self.rng.below(self.conns.len())
        } else {
            k
        };
        loop {
            let worker = &mut self.workers[w];
            let mut slices = [IoSlice::new(&[]); 16];
            let count = worker.relay.client_output(id, &mut slices);
            let offered: usize = slices[..count].iter().map(|slice| slice.len()).sum();
            if offered == 0 {
                break;
            }
            let taken = self.conns[target].down.write(&mut self.rng, &slices[..count]);
            noted(&mut self.notes, self.now, || format!("w{w} writes {taken} of {offered} bytes to client {id}"));
            worker.relay.client_wrote(id, taken);
            if self.conns[target].client_gone && target == k {
                self.conns[k].reset = true;
                return self.wake_soon(Event::Worker(w));
            }
            if taken < offered {
                if self.plant != Some(Plant::ForgetRest) || !self.rng.one_in(50) {
                    worker.unsent_clients.insert(id);
                }
                if self.conns[target].down.has_room() {
                    self.wake_soon(Event::Worker(w));
                }
                break;
            }
        }
        let client = self.conns[target].client;
        self.wake_soon(Event::Client(client));
    }

    fn write_link(&mut self, w: usize, link: LinkId) {
        let Some(&l) = self.workers[w].links.get(&link) else { return };
        loop {
            let worker = &mut self.workers[w];
            let mut slices = [IoSlice::new(&[]); 16];
            let count = worker.relay.link_output(link, &mut slices);
            let offered: usize = slices[..count].iter().map(|slice| slice.len()).sum();
            if offered == 0 {
                break;
            }
            let conn = &mut self.links[l];
            if !conn.open {
                self.history.fail(format!("wire: link {link} has output before it is open"));
                break;
            }
            let taken = if conn.broken { offered } else { conn.up.write(&mut self.rng, &slices[..count]) };
            worker.relay.link_wrote(link, taken);
            noted(&mut self.notes, self.now, || format!("w{w} writes {taken} of {offered} bytes to link {link}"));
            if taken < offered {
                worker.unsent_links.insert(link);
                if conn.up.has_room() {
                    self.wake_soon(Event::Worker(w));
                }
                break;
            }
        }
        let instance = self.links[l].instance;
        self.wake_soon(Event::Instance(instance));
    }

    fn deed(&mut self, w: usize, deed: Deed) {
        self.note(|| format!("w{w}: {deed:?}"));
        match deed {
            Deed::Connect { link, addr } => self.connect_link(w, link, &addr.to_string()),
            Deed::CloseLink { link } => self.link_gone(w, link, "closed"),
            Deed::CloseClient { client } => self.client_gone(w, client),
            Deed::StopReading { client } => {
                self.workers[w].stopped_clients.insert(client);
            }
            Deed::ReadAgain { client } => {
                self.workers[w].stopped_clients.remove(&client);
                if let Some(&k) = self.workers[w].clients.get(&client) {
                    self.conns[k].hang_up_told = false;
                }
                self.wake_soon(Event::Worker(w));
            }
            Deed::StopReadingLink { link } => {
                self.workers[w].stopped_links.insert(link);
            }
            Deed::ReadLinkAgain { link } => {
                self.workers[w].stopped_links.remove(&link);
                self.wake_soon(Event::Worker(w));
            }
            Deed::StopAccepting => self.workers[w].accepting = false,
            Deed::AcceptAgain => {
                self.workers[w].accepting = true;
                self.wake_soon(Event::Worker(w));
            }
            Deed::Quiet { epoch } => self.quiet(w, epoch),
            Deed::AtBoundary { client } => self.at_boundary(w, client),
            // Each worker is a proxy of its own here: nobody else is there to answer.
            Deed::Ask { ticket, .. } => self.workers[w].relay.others_answered(ticket, "", true),
            Deed::Show { .. } | Deed::NotQuiet { .. } | Deed::Tell { .. } | Deed::GiveMemoryBack => {}
        }
    }

    fn quiet(&mut self, w: usize, epoch: u64) {
        let uid = self.workers[w].uid;
        self.note(|| format!("w{w} is quiet for epoch {epoch}"));
        self.owners.quiet(uid, epoch, &mut self.history);
        self.director.quiet(uid, epoch);
        self.wake_soon(Event::Director);
    }

    fn connect_link(&mut self, w: usize, link: LinkId, addr: &str) {
        let Some(mut i) = (0..self.instances.len()).find(|&i| topology::addr(i) == addr) else {
            return self.history.fail(format!("owner: worker {w} connects to {addr}, which is no instance"));
        };
        if self.plant == Some(Plant::WrongInstance) && self.rng.one_in(10) {
            i = self.rng.below(self.instances.len());
        }
        let instance = &self.instances[i];
        let fate = if !instance.alive || self.now < instance.refuses_until {
            Fate::Refused
        } else if self.now < instance.ignores_until {
            Fate::Silent
        } else {
            Fate::Opens
        };
        let at = self.now + self.rng.range(20, 3000);
        let uid = self.workers[w].uid;
        let (up, down) = (Pipe::new(&mut self.rng), Pipe::new(&mut self.rng));
        let l = self.links.len();
        self.links.push(LinkConn {
            worker: w,
            instance: i,
            fate,
            at,
            open: false,
            up,
            down,
            broken: false,
            worker_gone: false,
            instance_gone: false,
            late_until: 0,
            peer: Peer::new(0, uid),
        });
        if self.workers[w].links.insert(link, l).is_some() {
            self.history.fail(format!("wire: worker {w} connects link {link}, which has a socket"));
        }
        self.wake(Event::Worker(w), at - self.now);
    }

    /// A client of a draining worker is between two requests: another worker goes on with it, or it is closed.
    fn at_boundary(&mut self, w: usize, id: ClientId) {
        let others: Vec<usize> = (0..self.workers.len()).filter(|&o| o != w && !self.workers[o].draining).collect();
        let close = others.is_empty() || (!self.weather.calm && self.rng.one_in(5));
        if close {
            if let Some(&k) = self.workers[w].clients.get(&id) {
                self.conns[k].drained = true;
            }
            return self.client_gone(w, id);
        }
        let Some(state) = self.workers[w].relay.client_hand_over(id) else { return };
        let Some(k) = self.forget_client(w, id) else {
            return self.history.fail(format!("wire: client {id} is handed over, but has no socket"));
        };
        let heir = others[self.rng.below(others.len())];
        self.conns[k].worker = heir;
        (self.conns[k].end_told, self.conns[k].hang_up_told) = (false, false);
        self.workers[heir].adopts.push_back((k, state));
        self.wake_soon(Event::Worker(heir));
    }

    fn drained(&self, w: usize) -> bool {
        let worker = &self.workers[w];
        worker.clients.is_empty() && worker.adopts.is_empty() && worker.relay.clients() == 0
    }

    /// The drained worker ends, and a new one takes its place.
    fn replace(&mut self, w: usize) {
        for l in std::mem::take(&mut self.workers[w].links).into_values() {
            self.cut_link(l);
            self.links[l].worker_gone = true;
        }
        let backlog = std::mem::take(&mut self.workers[w].backlog);
        match self.new_worker(w) {
            Ok(worker) => self.workers[w] = worker,
            Err(why) => self.history.fail(why),
        }
        self.workers[w].backlog = backlog;
        self.note(|| format!("w{w} is a new process"));
        self.wake_soon(Event::Worker(w));
    }

    /// A lost link's last bytes take a while.
    pub(crate) fn delay(&mut self, l: usize) {
        if self.weather.late_bytes && self.rng.one_in(2) {
            self.links[l].late_until = self.now + self.rng.range(1_000, 200_000);
        }
    }

    /// Both ends of a link are gone at once, with what was on its way.
    pub(crate) fn cut_link(&mut self, l: usize) {
        let conn = &mut self.links[l];
        (conn.broken, conn.instance_gone) = (true, true);
        conn.up.clear();
        conn.down.tear(&mut self.rng);
        let w = conn.worker;
        self.wake_soon(Event::Worker(w));
    }
}

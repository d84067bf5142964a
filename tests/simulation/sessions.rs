//! What clients do with their sockets: connect, read, write, stop reading, and leave in every way there is.

use crate::clients::{Ending, Mood};
use crate::network::Pipe;
use crate::world::{ClientConn, Event, World};
use std::io::IoSlice;

impl World {
    pub(crate) fn client_turn(&mut self, c: usize) {
        let Some(k) = self.clients[c].conn else { return self.client_connects(c) };
        if self.client_reads(c, k) {
            return;
        }
        if self.clients[c].mood == Mood::Stormy && self.weather.clients_misbehave && self.storm_at_client(c) {
            return;
        }
        if !self.clients[c].think(&mut self.rng, &mut self.history) {
            self.session_has_said_all(c);
        }
        self.client_writes(c, k);
    }

    fn client_connects(&mut self, c: usize) {
        if self.clients[c].mood == Mood::Still {
            return;
        }
        let open: Vec<usize> = (0..self.workers.len()).filter(|&w| !self.workers[w].draining).collect();
        if open.is_empty() {
            return self.wake(Event::Client(c), 5_000);
        }
        let worker = open[self.rng.below(open.len())];
        let (up, down) = (Pipe::new(&mut self.rng), Pipe::new(&mut self.rng));
        let k = self.conns.len();
        self.conns.push(ClientConn {
            client: c,
            worker,
            up,
            down,
            client_gone: false,
            worker_gone: false,
            drained: false,
            end_told: false,
            hang_up_told: false,
            reset: false,
        });
        self.workers[worker].backlog.push_back(k);
        let session = self.new_session();
        self.clients[c].connected(k, session, &mut self.rng, &mut self.history);
        self.note(|| format!("c{c} connects to w{worker}: session {session}, connection {k}"));
        self.wake_soon(Event::Worker(worker));
        self.wake_soon(Event::Client(c));
    }

    /// True when the connection turns out to be gone.
    fn client_reads(&mut self, c: usize, k: usize) -> bool {
        let wait = self.clients[c].reads_at.saturating_sub(self.now);
        if wait > 0 {
            self.wake(Event::Client(c), wait);
            return false;
        }
        let conn = &mut self.conns[k];
        if !conn.down.is_empty() {
            let bytes = conn.down.read(&mut self.rng);
            let worker = conn.worker;
            self.clients[c].received(&bytes, &mut self.history);
            self.wake_soon(Event::Worker(worker));
            self.wake_soon(Event::Client(c));
        } else if conn.down.ended {
            let drained = conn.drained;
            conn.client_gone = true;
            self.note(|| format!("c{c} sees connection {k} closed"));
            self.clients[c].disconnected(drained, &mut self.history);
            let pause = self.rng.range(50, 10_000);
            self.wake(Event::Client(c), pause);
            return true;
        }
        false
    }

    /// A client's own misdeeds: it goes away in the middle, or reads nothing for a while. True when it is gone.
    fn storm_at_client(&mut self, c: usize) -> bool {
        if self.rng.one_in(150) {
            self.client_leaves(c);
            self.wake(Event::Client(c), 1_000);
            return true;
        }
        if self.rng.one_in(60) {
            let most = if self.rng.one_in(4) { 400_000 } else { 20_000 };
            self.clients[c].reads_at = self.now + self.rng.range(0, most);
        }
        false
    }

    /// The client closes its socket, whatever is open: an end follows what it had sent; or a reset, always if it leaves
    /// something unread.
    pub(crate) fn client_leaves(&mut self, c: usize) {
        let Some(k) = self.clients[c].conn else { return };
        let conn = &mut self.conns[k];
        conn.client_gone = true;
        conn.reset = !conn.down.is_empty() || self.rng.one_in(2);
        conn.up.tear(&mut self.rng);
        let worker = conn.worker;
        self.note(|| format!("c{c} leaves connection {k}"));
        self.clients[c].disconnected(true, &mut self.history);
        self.wake_soon(Event::Worker(worker));
    }

    /// The quota is used up: go on, or end in one of several ways. In the proof there is nothing more to say.
    fn session_has_said_all(&mut self, c: usize) {
        if self.settled() {
            if !self.clients[c].has_proof() {
                self.clients[c].extend();
            }
            return;
        }
        match self.rng.below(4) {
            0 => self.clients[c].end(Ending::ByProxy, &mut self.rng, &mut self.history),
            1 => self.clients[c].end(Ending::Finished, &mut self.rng, &mut self.history),
            2 if !self.clients[c].waits() => {
                self.client_leaves(c);
                self.wake(Event::Client(c), 1_000);
            }
            _ => self.clients[c].extend(),
        }
    }

    fn client_writes(&mut self, c: usize, k: usize) {
        let (client, conn) = (&mut self.clients[c], &mut self.conns[k]);
        if client.conn != Some(k) {
            return;
        }
        if !client.out.is_empty() {
            let taken = conn.up.write(&mut self.rng, &[IoSlice::new(&client.out)]);
            client.out.drain(..taken);
        }
        let more = !client.out.is_empty();
        if !more && client.ending == Some(Ending::Finished) {
            conn.up.ended = true;
        }
        let worker = conn.worker;
        self.wake_soon(Event::Worker(worker));
        if more || self.clients[c].mood != Mood::Still {
            let pause = if self.rng.one_in(10) { self.rng.range(1_000, 20_000) } else { self.rng.range(20, 2_000) };
            self.wake(Event::Client(c), pause);
        }
    }
}

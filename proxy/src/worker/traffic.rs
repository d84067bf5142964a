//! The sockets of clients and instances around the relay: bytes from them to it, and what it wants written to them.

use super::poller::{Poller, Readiness, Source};
use super::stream::{Got, READ_MAX, Stream, Streams};
use super::tls::Session;
use crate::os;
use crate::relay::{ClientId, ClientState, Deed, LinkId, Relay};
use cluster::instance::Addr;
use cluster::tls::Caller;
use std::io;
use std::os::fd::OwnedFd;

/// Clients read between two flushes of links: instances start to work while the rest is read.
const CLIENTS_PER_FLUSH: usize = 64;
/// The same in bytes, for clients that pipeline.
const BYTES_PER_FLUSH: usize = 64 << 10;
/// With more answered clients than this, they are written to before new requests are read.
const EARLY_FLUSH: usize = 128;

/// Calls made since the counts were last taken.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Calls {
    pub reads: u64,
    pub writes: u64,
}

/// The relay and its sockets.
pub(super) struct Traffic {
    pub relay: Relay,
    pub calls: Calls,
    clients: Streams,
    links: Streams,
    /// Every read goes here; the relay copies what it keeps. So idle sockets own no buffer.
    scratch: Vec<u8>,
    /// How instances are met; None: unencrypted; an error: not at all.
    instance_tls: Option<Result<Caller, String>>,
}

impl Traffic {
    pub(super) fn new(relay: Relay) -> Self {
        Self {
            relay,
            calls: Calls::default(),
            clients: Streams::default(),
            links: Streams::default(),
            scratch: vec![0; READ_MAX],
            instance_tls: None,
        }
    }

    pub(super) fn note_client(&mut self, client: ClientId, readiness: Readiness) {
        self.clients.note(client, readiness);
    }

    pub(super) fn note_link(&mut self, link: LinkId, readiness: Readiness) {
        self.links.note(link, readiness);
    }

    /// Whether something can go on without an event.
    pub(super) fn is_busy(&self) -> bool {
        self.clients.ready() + self.links.ready() + self.clients.flushes() + self.links.flushes() > 0
    }

    /// Moves bytes once: links, then clients, then what could not be written at once before. Links first, because
    /// replies free memory and let clients go on.
    pub(super) fn turn(&mut self) {
        for _ in 0..self.links.ready() {
            if let Some(link) = self.links.next_ready() {
                self.read_link(link);
            }
        }
        if self.relay.dirty_clients() > EARLY_FLUSH {
            self.flush_clients();
        }
        self.read_clients();
        for _ in 0..self.links.flushes() {
            if let Some(link) = self.links.next_flush() {
                self.write_link(link);
            }
        }
        for _ in 0..self.clients.flushes() {
            if let Some(client) = self.clients.next_flush() {
                self.write_client(client);
            }
        }
    }

    fn read_clients(&mut self) {
        let (mut clients, mut bytes) = (0, 0);
        for _ in 0..self.clients.ready() {
            let Some(client) = self.clients.next_ready() else { return };
            bytes += self.read_client(client);
            clients += 1;
            if clients == CLIENTS_PER_FLUSH || bytes >= BYTES_PER_FLUSH {
                self.flush_links();
                (clients, bytes) = (0, 0);
            }
        }
    }

    /// Writes what the relay has for instances, and then for clients: an instance works while clients are written to.
    /// Returns whether there was anything.
    pub(super) fn flush(&mut self) -> bool {
        let links = self.flush_links();
        self.flush_clients() || links
    }

    fn flush_links(&mut self) -> bool {
        let mut any = false;
        while let Some(link) = self.relay.next_dirty_link() {
            self.write_link(link);
            any = true;
        }
        any
    }

    fn flush_clients(&mut self) -> bool {
        let mut any = false;
        while let Some(client) = self.relay.next_dirty_client() {
            self.write_client(client);
            any = true;
        }
        any
    }

    fn read_client(&mut self, client: ClientId) -> usize {
        let Some(stream) = self.clients.get_mut(client) else { return 0 };
        if stream.is_lost() {
            self.close_client(client);
            return 0;
        }
        if !stream.may_read() {
            if stream.hangs_up() {
                self.relay.client_hung_up(client);
            }
            return 0;
        }
        self.calls.reads += 1;
        match stream.read(&mut self.scratch) {
            Got::Bytes(n) => {
                let more = stream.has_news();
                self.relay.client_sent(client, &self.scratch[..n]);
                if more {
                    self.clients.queue_read(client);
                }
                return n;
            }
            Got::Nothing => self.clients.queue_read(client),
            Got::End => {
                self.relay.client_finished(client);
                self.clients.queue_read(client);
            }
            Got::Failed(_) => self.close_client(client),
        }
        0
    }

    fn read_link(&mut self, link: LinkId) {
        let Some(stream) = self.links.get_mut(link) else { return };
        match stream.opened() {
            Some(Ok(())) => {
                self.relay.link_opened(link);
                self.links.queue_flush(link);
            }
            Some(Err(e)) => return self.close_link(link, &cause(&e)),
            None if stream.is_lost() => return self.close_link(link, "connection lost"),
            // Of a link that is not read, too, the end comes behind the bytes.
            None => _ = stream.hangs_up(),
        }
        let Some(stream) = self.links.get_mut(link).filter(|s| s.may_read()) else { return };
        self.calls.reads += 1;
        match stream.read(&mut self.scratch) {
            Got::Bytes(n) => {
                self.relay.link_sent(link, &self.scratch[..n]);
                self.links.queue_read(link);
            }
            Got::Nothing => self.links.queue_read(link),
            Got::End => self.close_link(link, "closed by the instance"),
            Got::Failed(e) => self.close_link(link, &cause(&e)),
        }
    }

    fn write_client(&mut self, client: ClientId) {
        let Some(stream) = self.clients.get_mut(client) else { return };
        let (relay, calls) = (&self.relay, &mut self.calls);
        let written = match relay.client_piece(client) {
            Some(piece) => stream.write_piece(piece),
            None => stream.write(|slices| relay.client_output(client, slices)),
        };
        match written {
            Ok(wrote) => {
                calls.writes += u64::from(wrote.called);
                if wrote.bytes > 0 {
                    self.relay.client_wrote(client, wrote.bytes);
                }
                if wrote.more {
                    self.clients.queue_flush(client);
                }
            }
            Err(_) => self.close_client(client),
        }
    }

    fn write_link(&mut self, link: LinkId) {
        let Some(stream) = self.links.get_mut(link) else { return };
        let (relay, calls) = (&self.relay, &mut self.calls);
        let written = match relay.link_piece(link) {
            Some(piece) => stream.write_piece(piece),
            None => stream.write(|slices| relay.link_output(link, slices)),
        };
        match written {
            Ok(wrote) => {
                calls.writes += u64::from(wrote.called);
                if wrote.bytes > 0 {
                    self.relay.link_wrote(link, wrote.bytes);
                }
                if wrote.more {
                    self.links.queue_flush(link);
                }
            }
            Err(_) => {
                stream.break_off();
                self.links.queue_read(link);
            }
        }
    }

    /// Takes a client in that was accepted.
    pub(super) fn open_client(&mut self, stream: Stream, peer: &str, poller: &Poller) {
        let client = self.relay.client_opened(peer);
        self.watch_client(client, stream, poller);
    }

    /// Takes a client in that another worker handed over. Bytes may wait: the poller tells.
    pub(super) fn adopt_client(&mut self, stream: Stream, state: ClientState, poller: &Poller) {
        let client = self.relay.client_adopted(state);
        self.watch_client(client, stream, poller);
    }

    fn watch_client(&mut self, client: ClientId, stream: Stream, poller: &Poller) {
        if let Err(e) = poller.watch(&stream, Source::Client(client)) {
            tracing::warn!(error = %e, "a client cannot be watched, and is closed");
            return self.relay.client_closed(client);
        }
        self.clients.insert(client, stream);
        // What came with the end of a handshake is here already.
        self.clients.queue_read(client);
    }

    /// How instances are met from now on; None: unencrypted; an error: not at all. Links that are open stay as they are.
    pub(super) fn set_instance_tls(&mut self, tls: Option<Result<Caller, String>>) {
        self.instance_tls = tls;
    }

    /// What encrypted connections take, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.clients.bytes() + self.links.bytes()
    }

    /// Does a deed that is about sockets. Others are given back.
    pub(super) fn perform(&mut self, deed: Deed, poller: &Poller) -> Option<Deed> {
        match deed {
            Deed::Connect { link, addr } => self.connect(link, &addr, poller),
            Deed::CloseLink { link } => self.close_link(link, "closed by the proxy"),
            Deed::CloseClient { client } => self.close_client(client),
            Deed::StopReading { client } => want(&mut self.clients, client, false),
            Deed::ReadAgain { client } => want(&mut self.clients, client, true),
            Deed::StopReadingLink { link } => want(&mut self.links, link, false),
            Deed::ReadLinkAgain { link } => want(&mut self.links, link, true),
            Deed::GiveMemoryBack => os::give_memory_back(),
            other => return Some(other),
        }
        None
    }

    fn connect(&mut self, link: LinkId, addr: &Addr, poller: &Poller) {
        let opening = self.dial(addr).and_then(|s| poller.watch(&s, Source::Link(link)).map(|()| s));
        match opening {
            Ok(stream) => self.links.insert(link, stream),
            Err(e) => self.relay.link_closed(link, &cause(&e)),
        }
    }

    /// A unix socket leads to this machine, and is not encrypted.
    fn dial(&self, addr: &Addr) -> io::Result<Stream> {
        let stream = Stream::connect(addr)?;
        let (Some(tls), Addr::Tcp(tcp)) = (&self.instance_tls, addr) else { return Ok(stream) };
        let tls = tls.as_ref().map_err(|why| io::Error::other(why.clone()))?;
        Ok(stream.encrypted(Session::client(&tls.config, tls.name_at(tcp.ip()))?))
    }

    fn close_client(&mut self, client: ClientId) {
        if let Some(stream) = self.clients.remove(client) {
            stream.close();
            self.relay.client_closed(client);
        }
    }

    fn close_link(&mut self, link: LinkId, cause: &str) {
        if let Some(stream) = self.links.remove(link) {
            stream.close();
            self.relay.link_closed(link, cause);
        }
    }

    /// Takes out a client that is to leave. Bytes that wait in the kernel may travel with the socket; where they may
    /// not, they are read and answered first. The keys of an encrypted connection cannot travel: it ends here.
    pub(super) fn take_client(&mut self, client: ClientId, unread_travels: bool, poller: &Poller) -> Leaving {
        let Some(stream) = self.clients.get_mut(client) else { return Leaving::Not };
        let unwritten = self.relay.client_output(client, &mut [io::IoSlice::new(&[])]) > 0;
        if unwritten || (stream.may_read() && (!unread_travels || stream.is_encrypted())) {
            return Leaving::Later;
        }
        let Some(state) = self.relay.client_hand_over(client) else { return Leaving::Not };
        let Some(stream) = self.clients.remove(client) else { return Leaving::Not };
        if stream.is_encrypted() {
            stream.close();
            return Leaving::Not;
        }
        if let Err(e) = poller.forget(&stream) {
            tracing::warn!(client = state.id, error = %e, "a client could not be taken from the poller");
        }
        Leaving::Now(state, stream.into_fd())
    }

    /// A bug of this shell or of the relay: somebody who could go on, but is in no queue, and so would hang. To be
    /// asked before sleeping.
    pub(super) fn forgotten(&mut self) -> Option<Source> {
        let relay = &self.relay;
        let client = |id| relay.client_output(id, &mut [io::IoSlice::new(&[])]) > 0;
        let link = |id| relay.link_output(id, &mut [io::IoSlice::new(&[])]) > 0;
        let clients = self.clients.forgotten(client).map(Source::Client);
        clients.or_else(|| self.links.forgotten(link).map(Source::Link))
    }
}

/// Whether a client that is to leave can.
#[derive(Debug)]
pub(super) enum Leaving {
    Now(ClientState, OwnedFd),
    /// Ask again: bytes are to be read or written first.
    Later,
    /// It is between requests no more; the relay names it again.
    Not,
}

fn want(streams: &mut Streams, id: u32, wanted: bool) {
    if let Some(stream) = streams.get_mut(id) {
        stream.want(wanted);
    }
    streams.queue_read(id);
}

/// An error of a socket as people say it.
fn cause(e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset by the instance".to_owned(),
        io::ErrorKind::TimedOut => "the instance's machine does not answer".to_owned(),
        io::ErrorKind::HostUnreachable => "no route to the instance".to_owned(),
        io::ErrorKind::NotFound => "no such socket file".to_owned(),
        io::ErrorKind::UnexpectedEof => "closed by the instance in the TLS handshake".to_owned(),
        io::ErrorKind::InvalidData => format!("TLS: {e}"),
        _ => e.to_string(),
    }
}

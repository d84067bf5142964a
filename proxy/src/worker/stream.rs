//! A connected socket, and what is known of it: the bits `readable` and `writable` are set by the poller's events and
//! cleared only by a short read, a short write or WouldBlock. With edge-triggered events a bit cleared elsewhere is a
//! connection that hangs, so no other file touches them.

use super::poller::Readiness;
use super::tls::{Session, Shake};
use crate::queue::Queue;
use nix::libc::MSG_NOSIGNAL;
use nix::sys::uio::writev;
use socket2::{Domain, SockAddr, Socket, TcpKeepalive, Type};
use std::io::{self, IoSlice, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use cluster::instance::Addr;

/// Bytes asked for in one read.
pub(super) const READ_MAX: usize = 64 << 10;
/// Bytes given to one write: more would let one client's large reply keep others waiting.
const WRITE_MAX: usize = 256 << 10;
/// Slices given to one write.
const SLICES_MAX: usize = 64;
/// Slices tried first: an array of 64 costs more to prepare than most outputs to send.
const SLICES_FEW: usize = 8;
/// Unacknowledged bytes for so long mean that an instance's machine is gone.
const LINK_USER_TIMEOUT: Duration = Duration::from_secs(5);

/// What a read brought.
#[derive(Debug)]
pub(super) enum Got {
    Bytes(usize),
    Nothing,
    /// The peer sends no more.
    End,
    Failed(io::Error),
}

/// What a write took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Wrote {
    pub bytes: usize,
    /// The kernel was asked.
    pub called: bool,
    /// The socket takes more, and there may be more.
    pub more: bool,
}

/// One socket and its bits.
#[derive(Debug)]
pub(super) struct Stream {
    socket: Socket,
    readable: bool,
    writable: bool,
    /// The peer will send no more: a short read does not prove that nothing is left to learn.
    ending: bool,
    /// Nothing can be written any more.
    failed: bool,
    /// Output waits for `writable`.
    unwritten: bool,
    /// The relay wants its bytes.
    wanted: bool,
    /// The end has been read.
    ended: bool,
    /// The relay does not want its bytes, and has not been told whether its peer sends no more.
    untold: bool,
    /// A link whose connect is under way, and the handshake after it.
    opening: bool,
    in_ready: bool,
    in_flush: bool,
    /// A link's connect is done, and a handshake follows.
    connected: bool,
    /// None: what is sent is sent as it is.
    tls: Option<Box<Session>>,
}

impl Stream {
    /// A connected, non-blocking socket.
    pub(super) fn new(socket: Socket) -> Self {
        Self {
            socket,
            readable: false,
            writable: true,
            ending: false,
            failed: false,
            unwritten: false,
            wanted: true,
            ended: false,
            untold: false,
            opening: false,
            in_ready: false,
            in_flush: false,
            connected: false,
            tls: None,
        }
    }

    /// The same socket, encrypted; `shake` comes next.
    pub(super) fn encrypted(self, session: Session) -> Self {
        Self { tls: Some(Box::new(session)), ..self }
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// Starts to connect to an instance; the outcome shows as an event (`opened`).
    pub(super) fn connect(addr: &Addr) -> io::Result<Self> {
        let (domain, to) = match addr {
            Addr::Tcp(tcp) => (Domain::for_address(*tcp), SockAddr::from(*tcp)),
            Addr::Unix(path) => (Domain::UNIX, SockAddr::unix(path)?),
        };
        let socket = Socket::new(domain, Type::STREAM.nonblocking().cloexec(), None)?;
        if matches!(addr, Addr::Tcp(_)) {
            socket.set_tcp_nodelay(true)?;
            socket.set_keepalive(true)?;
            socket.set_tcp_user_timeout(Some(LINK_USER_TIMEOUT))?;
        }
        match socket.connect(&to) {
            Ok(()) => {}
            Err(e) if e.raw_os_error() == Some(nix::libc::EINPROGRESS) => {}
            Err(e) => return Err(e),
        }
        Ok(Self { writable: false, opening: true, ..Self::new(socket) })
    }

    /// None: still connecting, or connected long since. Otherwise whether the link opened, said once.
    pub(super) fn opened(&mut self) -> Option<io::Result<()>> {
        if !self.opening {
            return None;
        }
        let outcome = self.go_on_opening().transpose();
        self.opening = outcome.is_none();
        outcome
    }

    fn go_on_opening(&mut self) -> io::Result<Option<()>> {
        if !self.connected {
            if !(self.writable || self.failed) {
                return Ok(None);
            }
            self.socket.take_error()?.map_or(Ok(()), Err)?;
            self.connected = true;
        }
        Ok(self.shake()?.then_some(()))
    }

    /// Goes on with the handshake; whether it is done. Errors: there will be no encrypted connection.
    pub(super) fn shake(&mut self) -> io::Result<bool> {
        let Some(tls) = &mut self.tls else { return Ok(true) };
        let shake = tls.shake(&self.socket)?;
        if tls.is_waiting() {
            self.writable = false;
            self.unwritten = true;
        }
        // Either the socket was asked and has nothing; or there may be something that it does not know of.
        self.readable = shake == Shake::Done;
        Ok(self.readable)
    }

    /// Whether a read is worth a call.
    #[inline]
    pub(super) fn may_read(&self) -> bool {
        self.readable & self.wanted & !self.ended & !self.opening
    }

    /// Something is to be read or to be told.
    #[inline]
    pub(super) fn has_news(&self) -> bool {
        let opens = self.opening && (self.writable | self.readable | self.failed);
        self.may_read() || (self.opening | self.failed && (opens || self.is_lost())) || self.untold & self.ending
    }

    /// Nothing can be written any more, and nothing will be read that would tell.
    pub(super) fn is_lost(&self) -> bool {
        self.failed && !self.may_read()
    }

    /// Whether the relay wants the bytes of this socket.
    pub(super) fn want(&mut self, wanted: bool) {
        self.wanted = wanted;
        self.untold = !wanted;
    }

    /// The peer sends no more, and nobody reads: said once each time that reading stops.
    pub(super) fn hangs_up(&mut self) -> bool {
        self.ending && std::mem::take(&mut self.untold)
    }

    /// One read.
    #[inline]
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Got {
        if self.tls.is_some() {
            return self.read_encrypted(buffer);
        }
        match (&self.socket).read(buffer) {
            Ok(0) => {
                self.ended = true;
                Got::End
            }
            Ok(n) => {
                if n < buffer.len() && !self.ending {
                    self.readable = false;
                }
                Got::Bytes(n)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                if self.failed { Got::Failed(io::ErrorKind::ConnectionReset.into()) } else { Got::Nothing }
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Got::Nothing,
            Err(e) => Got::Failed(e),
        }
    }

    #[inline(never)]
    fn read_encrypted(&mut self, buffer: &mut [u8]) -> Got {
        let Some(tls) = &mut self.tls else { return Got::Nothing };
        let brought = match tls.read(&self.socket, buffer) {
            Ok(brought) => brought,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                return if self.failed { Got::Failed(io::ErrorKind::ConnectionReset.into()) } else { Got::Nothing };
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Got::Nothing,
            Err(e) => return Got::Failed(e),
        };
        self.ending |= brought.end;
        if brought.drained && !self.ending {
            self.readable = false;
        }
        match tls.answer(&self.socket) {
            Ok(true) => {}
            Ok(false) => {
                self.writable = false;
                self.unwritten = true;
            }
            Err(_) => self.failed = true,
        }
        match brought.bytes {
            0 if brought.end => {
                self.ended = true;
                Got::End
            }
            0 => Got::Nothing,
            n => Got::Bytes(n),
        }
    }

    /// One write of what `output` fills in; a socket that is not writable gets it later.
    pub(super) fn write<'a>(&mut self, output: impl Fn(&mut [IoSlice<'a>]) -> usize) -> io::Result<Wrote> {
        if !self.writable {
            self.unwritten = true;
            return Ok(Wrote::default());
        }
        self.unwritten = false;
        if self.tls.is_some() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let count = output(&mut slices);
            return self.write_encrypted(&mut slices[..count], count == SLICES_MAX);
        }
        let mut few = [IoSlice::new(&[]); SLICES_FEW];
        let count = output(&mut few);
        if count < SLICES_FEW {
            return self.send(&few[..count], false);
        }
        let mut many = [IoSlice::new(&[]); SLICES_MAX];
        let count = output(&mut many);
        self.send(&many[..count], count == SLICES_MAX)
    }

    /// One write of output that is in one piece.
    #[inline]
    pub(super) fn write_piece(&mut self, piece: &[u8]) -> io::Result<Wrote> {
        if self.tls.is_some() {
            return self.write_encrypted(&mut [IoSlice::new(piece)], false);
        }
        self.unwritten = !self.writable;
        if self.unwritten || piece.is_empty() {
            return Ok(Wrote::default());
        }
        let asked = piece.len().min(WRITE_MAX);
        let result = self.socket.send_with_flags(&piece[..asked], MSG_NOSIGNAL);
        self.sent(result, asked, asked < piece.len())
    }

    #[inline(never)]
    fn write_encrypted(&mut self, slices: &mut [IoSlice<'_>], full: bool) -> io::Result<Wrote> {
        let Some(tls) = &mut self.tls else { return Ok(Wrote::default()) };
        self.unwritten = !self.writable | self.opening;
        if self.unwritten {
            return Ok(Wrote::default());
        }
        let asked: usize = slices.iter().map(|s| s.len()).sum();
        let slices = if asked == 0 { &mut [][..] } else { slices };
        let bytes = tls.write(&self.socket, slices)?;
        if tls.is_waiting() {
            self.writable = false;
            self.unwritten = true;
        }
        Ok(Wrote { bytes, called: true, more: !self.unwritten && (full || bytes < asked) })
    }

    fn send(&mut self, slices: &[IoSlice<'_>], full: bool) -> io::Result<Wrote> {
        let (count, asked) = fitting(slices);
        let result = match &slices[..count] {
            [] => return Ok(Wrote::default()),
            [one] => self.socket.send_with_flags(&one[..asked], MSG_NOSIGNAL),
            several => writev(&self.socket, several).map_err(io::Error::from),
        };
        self.sent(result, asked, full || count < slices.len() || asked == WRITE_MAX)
    }

    /// What became of a write of `asked` bytes; `cut`: there may be more.
    #[inline]
    fn sent(&mut self, result: io::Result<usize>, asked: usize, cut: bool) -> io::Result<Wrote> {
        let bytes = match result {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => 0,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {
                return Ok(Wrote { bytes: 0, called: true, more: true });
            }
            Err(e) => return Err(e),
        };
        if bytes < asked {
            self.writable = false;
            self.unwritten = true;
        }
        Ok(Wrote { bytes, called: true, more: bytes == asked && cut })
    }

    /// Writing failed: what the peer said before is still read, and its end then closes the socket.
    pub(super) fn break_off(&mut self) {
        self.failed = true;
        self.ending = true;
        self.readable = true;
        self.writable = false;
        self.unwritten = false;
    }

    /// Says that nothing follows, where that can be said, and closes.
    pub(super) fn close(mut self) {
        if let Some(tls) = &mut self.tls {
            tls.say_goodbye(&self.socket);
        }
    }

    /// What the connection takes beside its socket, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.tls.as_ref().map_or(0, |tls| tls.bytes())
    }

    pub(super) fn into_fd(self) -> OwnedFd {
        self.socket.into()
    }

    #[inline]
    pub(super) fn note(&mut self, readiness: Readiness) {
        self.readable |= readiness.readable;
        self.writable |= readiness.writable;
        if readiness.ended | readiness.failed {
            self.failed |= readiness.failed;
            self.ending = true;
            self.readable = true;
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// How many of the slices go into one write, and how many bytes that is. A first slice above `WRITE_MAX` is cut.
fn fitting(slices: &[IoSlice<'_>]) -> (usize, usize) {
    let mut bytes = 0;
    for (i, slice) in slices.iter().enumerate() {
        if bytes + slice.len() > WRITE_MAX {
            return if i == 0 { (1, WRITE_MAX) } else { (i, bytes) };
        }
        bytes += slice.len();
    }
    (slices.len(), bytes)
}

/// What a listener gives to each socket it accepts, so that accepting costs no further call.
pub(super) fn prepare_listener(socket: &Socket) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    if socket.domain()? != Domain::UNIX {
        socket.set_tcp_nodelay(true)?;
        let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(300)).with_interval(Duration::from_secs(60));
        socket.set_tcp_keepalive(&keepalive)?;
    }
    Ok(())
}

/// Sockets by the relay's index, and those that have something to do.
#[derive(Debug, Default)]
pub(super) struct Streams {
    slots: Vec<Option<Stream>>,
    /// Readable and wanted; each once. What is left of one goes to the tail.
    ready: Queue,
    /// Writable with output left; each once.
    flush: Queue,
    /// Where the watchdog goes on.
    checked: usize,
    /// How many are encrypted.
    encrypted: usize,
}

impl Streams {
    pub(super) fn insert(&mut self, id: u32, stream: Stream) {
        let at = id as usize;
        if at >= self.slots.len() {
            self.slots.resize_with(at + 1, || None);
        }
        debug_assert!(self.slots[at].is_none(), "socket {id} exists");
        self.encrypted += usize::from(stream.is_encrypted());
        self.slots[at] = Some(stream);
    }

    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut Stream> {
        self.slots.get_mut(id as usize)?.as_mut()
    }

    /// Takes the socket out. Its place in the queues stays, and finds nobody there.
    pub(super) fn remove(&mut self, id: u32) -> Option<Stream> {
        let stream = self.slots.get_mut(id as usize)?.take()?;
        self.encrypted -= usize::from(stream.is_encrypted());
        Some(stream)
    }

    /// Sets the bits an event brought, and queues what can go on.
    #[inline]
    pub(super) fn note(&mut self, id: u32, readiness: Readiness) {
        let Some(stream) = self.slots.get_mut(id as usize).and_then(Option::as_mut) else { return };
        stream.note(readiness);
        if !stream.in_ready && stream.has_news() {
            stream.in_ready = true;
            self.ready.push(id);
        }
        if stream.unwritten && stream.writable && !stream.in_flush {
            stream.in_flush = true;
            self.flush.push(id);
        }
    }

    /// Queues a socket that has something to read or to tell.
    #[inline]
    pub(super) fn queue_read(&mut self, id: u32) {
        let Some(stream) = self.slots.get_mut(id as usize).and_then(Option::as_mut) else { return };
        if !stream.in_ready && stream.has_news() {
            stream.in_ready = true;
            self.ready.push(id);
        }
    }

    /// Queues a socket whose output goes on in the next iteration.
    pub(super) fn queue_flush(&mut self, id: u32) {
        let Some(stream) = self.get_mut(id) else { return };
        if !stream.in_flush {
            stream.in_flush = true;
            self.flush.push(id);
        }
    }

    /// What all connections take beside their sockets, in bytes.
    pub(super) fn bytes(&self) -> usize {
        if self.encrypted == 0 { 0 } else { self.slots.iter().flatten().map(Stream::bytes).sum() }
    }

    pub(super) fn ready(&self) -> usize {
        self.ready.len()
    }

    pub(super) fn next_ready(&mut self) -> Option<u32> {
        let id = self.ready.pop()?;
        if let Some(stream) = self.get_mut(id) {
            stream.in_ready = false;
        }
        Some(id)
    }

    pub(super) fn flushes(&self) -> usize {
        self.flush.len()
    }

    pub(super) fn next_flush(&mut self) -> Option<u32> {
        let id = self.flush.pop()?;
        if let Some(stream) = self.get_mut(id) {
            stream.in_flush = false;
        }
        Some(id)
    }

    /// The watchdog of edge-triggered events, to be asked before sleeping: a socket that could go on but is in no
    /// queue sleeps for ever. Looks at a few sockets at a time.
    pub(super) fn forgotten(&mut self, has_output: impl Fn(u32) -> bool) -> Option<u32> {
        for _ in 0..self.slots.len().min(32) {
            self.checked = (self.checked + 1) % self.slots.len();
            let Some(stream) = &self.slots[self.checked] else { continue };
            let id = self.checked as u32;
            let stuck_read = (stream.may_read() || stream.untold & stream.ending) && !stream.in_ready;
            let stuck_write = stream.writable && !stream.opening && !stream.in_flush && has_output(id);
            if stuck_read || stuck_write {
                return Some(id);
            }
        }
        None
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the test is the peer")]
mod tests {
    use super::super::poller::{Poller, Source};
    use super::*;
    use std::io::Write;
    use std::net::{Shutdown, TcpListener, TcpStream};

    /// A watched stream, and its peer.
    struct Pair {
        poller: Poller,
        streams: Streams,
        peer: TcpStream,
    }

    fn pair() -> Pair {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let peer = TcpStream::connect(listener.local_addr().expect("addr")).expect("connect");
        let socket = Socket::from(listener.accept().expect("accept").0);
        socket.set_nonblocking(true).expect("nonblocking");
        let (poller, mut streams) = (Poller::new().expect("epoll"), Streams::default());
        let stream = Stream::new(socket);
        poller.watch(&stream, Source::Client(0)).expect("watch");
        streams.insert(0, stream);
        Pair { poller, streams, peer }
    }

    impl Pair {
        /// Waits for events until one makes the stream ready for what `done` asks.
        fn wait_for(&mut self, done: impl Fn(&Stream) -> bool) {
            while !done(self.stream()) {
                let events = self.poller.wait(Some(Duration::from_secs(5))).expect("wait");
                assert!(events > 0, "no event came");
                for (source, readiness) in self.poller.events() {
                    assert_eq!(source, Source::Client(0));
                    self.streams.note(0, readiness);
                }
            }
        }

        fn stream(&mut self) -> &mut Stream {
            self.streams.get_mut(0).expect("stream")
        }
    }

    #[test]
    fn a_short_read_ends_reading_and_a_full_one_does_not() {
        let mut pair = pair();
        pair.peer.write_all(b"abcdef").expect("write");
        pair.wait_for(Stream::may_read);
        let mut buffer = [0; 4];
        assert!(matches!(pair.stream().read(&mut buffer), Got::Bytes(4)) && pair.stream().may_read());
        assert!(matches!(pair.stream().read(&mut buffer), Got::Bytes(2)) && !pair.stream().may_read());
        pair.peer.write_all(b"g").expect("write");
        pair.wait_for(Stream::may_read);
        assert!(matches!(pair.stream().read(&mut buffer), Got::Bytes(1)));
    }

    #[test]
    fn an_end_that_comes_with_the_last_bytes_is_seen() {
        let mut pair = pair();
        pair.peer.write_all(b"last").expect("write");
        pair.peer.shutdown(Shutdown::Write).expect("shutdown");
        pair.wait_for(|s| s.ending);
        let mut buffer = [0; 64];
        assert!(matches!(pair.stream().read(&mut buffer), Got::Bytes(4)) && pair.stream().may_read());
        assert!(matches!(pair.stream().read(&mut buffer), Got::End) && !pair.stream().may_read());
        assert!(!pair.stream().is_lost(), "it still wants its replies");
        assert_eq!(pair.stream().write(|s| fill(s, b"reply", 1)).expect("write").bytes, 5);
    }

    #[test]
    fn a_reset_is_seen_though_nobody_reads() {
        let mut pair = pair();
        pair.stream().want(false);
        socket2::SockRef::from(&pair.peer).set_linger(Some(Duration::ZERO)).expect("linger");
        drop(std::mem::replace(&mut pair.peer, self::pair().peer));
        pair.wait_for(Stream::is_lost);
        assert_eq!(pair.streams.next_ready(), Some(0));
    }

    #[test]
    fn an_end_is_told_once_though_nobody_reads() {
        let mut pair = pair();
        pair.peer.write_all(b"unread").expect("write");
        pair.stream().want(false);
        pair.peer.shutdown(Shutdown::Write).expect("shutdown");
        pair.wait_for(Stream::has_news);
        assert_eq!(pair.streams.next_ready(), Some(0));
        assert!(!pair.stream().may_read() && pair.stream().hangs_up() && !pair.stream().has_news());
        pair.stream().want(true);
        assert!(pair.stream().may_read() && !pair.stream().hangs_up(), "now it is read");
        pair.stream().want(false);
        assert!(pair.stream().has_news(), "who stopped may have another reason now");
    }

    #[test]
    fn output_that_does_not_fit_goes_on_when_there_is_room() {
        let mut pair = pair();
        let block = vec![b'x'; 1 << 20];
        let mut sent = 0;
        loop {
            let wrote = pair.stream().write(|s| fill(s, &block, 1)).expect("write");
            sent += wrote.bytes;
            assert!(wrote.bytes <= WRITE_MAX);
            if !wrote.more {
                break;
            }
        }
        assert!(!pair.stream().write(|s| fill(s, &block, 1)).expect("write").called, "it is known to be full");
        pair.peer.set_nonblocking(true).expect("nonblocking");
        let (mut buffer, mut got) = (vec![0; 1 << 20], 0);
        while got < sent {
            match pair.peer.read(&mut buffer) {
                Ok(n) => got += n,
                Err(e) => assert_eq!(e.kind(), io::ErrorKind::WouldBlock),
            }
        }
        pair.wait_for(|s| s.in_flush);
        assert_eq!(pair.streams.next_flush(), Some(0));
        assert!(pair.stream().write(|s| fill(s, b"y", 1)).expect("write").called);
    }

    #[test]
    fn many_slices_go_in_few_writes_and_none_is_left_behind() {
        let mut pair = pair();
        for (count, bytes, more) in [(0, 0, false), (1, 3, false), (7, 21, false), (8, 24, false), (63, 189, false)] {
            let wrote = pair.stream().write(|s| fill(s, b"abc", count)).expect("write");
            assert_eq!((wrote.bytes, wrote.more, wrote.called), (bytes, more, count > 0), "{count} slices");
        }
        let wrote = pair.stream().write(|s| fill(s, b"abc", 200)).expect("write");
        assert_eq!((wrote.bytes, wrote.more), (3 * SLICES_MAX, true));
    }

    #[test]
    fn a_write_is_bounded() {
        let large = vec![0; WRITE_MAX];
        let slices = |lengths: &[usize]| lengths.iter().map(|n| IoSlice::new(&large[..*n])).collect::<Vec<_>>();
        assert_eq!(fitting(&slices(&[])), (0, 0));
        assert_eq!(fitting(&slices(&[1, 2])), (2, 3));
        assert_eq!(fitting(&slices(&[WRITE_MAX])), (1, WRITE_MAX));
        assert_eq!(fitting(&slices(&[1, WRITE_MAX])), (1, 1));
        assert_eq!(fitting(&[IoSlice::new(&vec![0; WRITE_MAX + 1])]), (1, WRITE_MAX));
    }

    fn fill<'a>(slices: &mut [IoSlice<'a>], with: &'a [u8], count: usize) -> usize {
        let count = count.min(slices.len());
        slices[..count].fill(IoSlice::new(with));
        count
    }

    #[test]
    fn a_connect_says_how_it_ended() {
        let mut listener = Some(TcpListener::bind("127.0.0.1:0").expect("bind"));
        let addr = Addr::Tcp(listener.as_ref().expect("just made").local_addr().expect("addr"));
        for good in [true, false] {
            let (mut poller, mut streams) = (Poller::new().expect("epoll"), Streams::default());
            let stream = Stream::connect(&addr).expect("under way");
            poller.watch(&stream, Source::Link(3)).expect("watch");
            streams.insert(3, stream);
            let outcome = loop {
                assert!(poller.wait(Some(Duration::from_secs(5))).expect("wait") > 0, "no event came");
                poller.events().for_each(|(_, readiness)| streams.note(3, readiness));
                if let Some(outcome) = streams.get_mut(3).and_then(Stream::opened) {
                    break outcome;
                }
            };
            assert_eq!(outcome.is_ok(), good, "{outcome:?}");
            assert!(streams.get_mut(3).expect("stream").opened().is_none(), "said once");
            listener = None; // the second round finds nobody at the address
        }
        assert!(listener.is_none());
    }

    #[test]
    fn an_index_used_again_does_not_inherit_a_place_in_the_queue() {
        let mut pair = pair();
        pair.peer.write_all(b"a").expect("write");
        pair.wait_for(Stream::may_read);
        let old = pair.streams.remove(0).expect("stream");
        pair.streams.insert(0, Stream::new(self::pair().stream().socket.try_clone().expect("clone")));
        assert_eq!(pair.streams.next_ready(), Some(0));
        assert!(!pair.stream().may_read() && old.may_read());
    }
}

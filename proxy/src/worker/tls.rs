//! TLS over a socket that does not block. A session holds no more than it must: what was read is decrypted and given on
//! as a whole, and nothing new is encrypted while old ciphertext waits for the socket.

use nix::libc::MSG_NOSIGNAL;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};
use socket2::Socket;
use std::io::{self, IoSlice, Read, Write};
use std::sync::Arc;

/// Bytes encrypted at once, at most: what a peer that does not read costs beside its output.
const ENCRYPT_MAX: usize = 64 << 10;
/// What may be left of an earlier read, an unfinished record: so much of a read's buffer stays free at its front, and then
/// what is decrypted never reaches the ciphertext that it comes from.
const RECORD_MAX: usize = 20 << 10;
/// What a session takes while nothing is under way: keys, and a buffer for a record.
const IDLE_BYTES: usize = 24 << 10;

/// The encrypted side of one connection.
#[derive(Debug)]
pub(super) struct Session {
    conn: Connection,
    /// Bytes that were encrypted, while their ciphertext waits for the socket.
    waiting: usize,
    /// The last of them is not reported as written yet: as long as the relay has output, there is something to send.
    owed: bool,
    /// Something was decrypted together with the end of the handshake.
    early: bool,
    /// The peer has said that it sends no more.
    closed: bool,
}

/// What a read brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Brought {
    /// Decrypted bytes, at the front of the buffer.
    pub bytes: usize,
    /// The socket has no more for now.
    pub drained: bool,
    /// Nothing follows these bytes.
    pub end: bool,
}

/// How far a handshake is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shake {
    /// Go on when something happens at the socket.
    UnderWay,
    /// Bytes may be read at once, whatever the socket says.
    Done,
}

impl Session {
    /// Meets somebody who has connected.
    pub(super) fn server(config: &Arc<ServerConfig>) -> io::Result<Self> {
        Ok(Self::new(ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?.into()))
    }

    /// Meets somebody to whom we connect, and whose certificate must have this name.
    pub(super) fn client(config: &Arc<ClientConfig>, name: ServerName<'static>) -> io::Result<Self> {
        Ok(Self::new(ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?.into()))
    }

    fn new(mut conn: Connection) -> Self {
        conn.set_buffer_limit(Some(ENCRYPT_MAX));
        Self { conn, waiting: 0, owed: false, early: false, closed: false }
    }

    /// Memory, in bytes; never less than there is.
    pub(super) fn bytes(&self) -> usize {
        IDLE_BYTES + self.waiting
    }

    /// Goes on with the handshake as far as the socket lets it. Errors: the peer is gone, speaks no TLS, or is not whom we
    /// trust; it has been told.
    pub(super) fn shake(&mut self, socket: &Socket) -> io::Result<Shake> {
        loop {
            self.flush(socket)?;
            if !self.conn.is_handshaking() {
                return Ok(Shake::Done);
            }
            match self.conn.read_tls(&mut Plug(socket)) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Shake::UnderWay),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            }
            let state = self.conn.process_new_packets().map_err(|e| self.refuse(socket, e))?;
            self.early = state.plaintext_bytes_to_read() > 0;
            self.closed = state.peer_has_closed();
        }
    }

    /// One read from the socket, decrypted. The buffer is larger than `RECORD_MAX`. Errors: of the socket, `WouldBlock`
    /// among them, or what came is not what the peer has sent.
    pub(super) fn read(&mut self, socket: &Socket, buffer: &mut [u8]) -> io::Result<Brought> {
        if self.early {
            self.early = false;
            let bytes = self.conn.reader().read(buffer)?;
            return Ok(Brought { bytes, drained: false, end: self.closed });
        }
        if self.closed {
            return Ok(Brought { bytes: 0, drained: false, end: true });
        }
        let mut plug = socket;
        let got = plug.read(&mut buffer[RECORD_MAX..])?;
        let drained = got < buffer.len() - RECORD_MAX;
        let bytes = self.decrypt(socket, buffer, RECORD_MAX + got)?;
        Ok(Brought { bytes, drained, end: got == 0 || self.closed })
    }

    /// Decrypts what lies in the buffer from `RECORD_MAX` to `end`, to the buffer's front.
    fn decrypt(&mut self, socket: &Socket, buffer: &mut [u8], end: usize) -> io::Result<usize> {
        let (mut from, mut out) = (RECORD_MAX, 0);
        while from < end && !self.closed {
            let taken = self.conn.read_tls(&mut &buffer[from..end])?;
            if taken == 0 {
                break;
            }
            from += taken;
            let state = self.conn.process_new_packets().map_err(|e| self.refuse(socket, e))?;
            self.closed = state.peer_has_closed();
            if state.plaintext_bytes_to_read() > 0 {
                out += self.conn.reader().read(&mut buffer[out..from])?;
            }
        }
        Ok(out)
    }

    /// Whether ciphertext waits for the socket.
    pub(super) fn is_waiting(&self) -> bool {
        self.conn.wants_write()
    }

    /// Sends what the protocol itself has to answer to what was read; false: the socket takes no more now. What goes with
    /// output waits for `write`.
    pub(super) fn answer(&mut self, socket: &Socket) -> io::Result<bool> {
        if self.owed { Ok(true) } else { self.flush(socket) }
    }

    /// Encrypts and sends; how many bytes are done with. Fewer than were encrypted while `is_waiting`: the last is then
    /// reported by the call that sends the rest, and until then it must lead the slices again.
    pub(super) fn write(&mut self, socket: &Socket, slices: &mut [IoSlice<'_>]) -> io::Result<usize> {
        if !self.flush(socket)? {
            return Ok(0);
        }
        let (mut done, mut slices) = (0, slices);
        if std::mem::take(&mut self.owed) && !slices.is_empty() {
            done = 1;
            IoSlice::advance_slices(&mut slices, 1);
        }
        let taken = self.conn.writer().write_vectored(slices)?;
        if taken == 0 {
            return Ok(done);
        }
        if self.flush(socket)? {
            return Ok(done + taken);
        }
        (self.owed, self.waiting) = (true, taken);
        Ok(done + taken - 1)
    }

    /// Sends ciphertext until there is none, or the socket takes no more: false.
    fn flush(&mut self, socket: &Socket) -> io::Result<bool> {
        while self.conn.wants_write() {
            match self.conn.write_tls(&mut Plug(socket)) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.waiting = 0;
        Ok(true)
    }

    /// Says that nothing follows, if the socket takes it.
    pub(super) fn say_goodbye(&mut self, socket: &Socket) {
        self.conn.send_close_notify();
        // An error: the peer is gone, or does not read. It learns of the end by the socket's.
        _ = self.flush(socket);
    }

    /// Tells the peer what is wrong.
    fn refuse(&mut self, socket: &Socket, e: rustls::Error) -> io::Error {
        _ = self.flush(socket); // an error: then it will not know
        io::Error::new(io::ErrorKind::InvalidData, e)
    }
}

/// A socket whose writes raise no signal.
struct Plug<'a>(&'a Socket);

impl Read for Plug<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut socket = self.0;
        socket.read(buffer)
    }
}

impl Write for Plug<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send_with_flags(bytes, MSG_NOSIGNAL)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.send_vectored_with_flags(slices, MSG_NOSIGNAL)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

//! An encrypted socket that is read and written when it is ready, as a plain one is.

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use std::io::{self, Read, Write};
use std::sync::Arc;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// One of them, after its handshake.
pub(super) struct Encrypted {
    socket: TcpStream,
    conn: ClientConnection,
}

impl Encrypted {
    /// Shakes hands. The caller bounds the time.
    pub(super) async fn meet(
        socket: TcpStream,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<Self> {
        let mut this = Self { socket, conn: ClientConnection::new(config, name).map_err(io::Error::other)? };
        loop {
            let wrote = this.flush()?;
            if wrote && !this.conn.is_handshaking() {
                return Ok(this);
            }
            this.ready(if wrote { Interest::READABLE } else { Interest::WRITABLE }).await?;
            if wrote {
                match this.take() {
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Err(e) if e.kind() != io::ErrorKind::WouldBlock => return Err(e),
                    _ => {}
                }
            }
        }
    }

    /// Until it can be read or written, or has to be for its own sake: then `try_read` does that.
    pub(super) async fn ready(&self, interest: Interest) -> io::Result<()> {
        let own = if self.conn.wants_write() { interest | Interest::WRITABLE } else { interest };
        self.socket.ready(own).await.map(drop)
    }

    /// What is there; `WouldBlock`: nothing; 0: the peer has closed.
    pub(super) fn try_read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.flush()?;
        let mut filled = 0;
        loop {
            match self.conn.reader().read(&mut into[filled..]) {
                Ok(0) => return Ok(filled),
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => match self.take() {
                    Ok(0) if filled == 0 => return Ok(0),
                    Ok(0) => return Ok(filled),
                    Ok(_) => {}
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock && filled > 0 => return Ok(filled),
                    Err(e) => return Err(e),
                },
                Err(_) if filled > 0 => return Ok(filled),
                Err(e) => return Err(e),
            }
        }
    }

    /// Takes some bytes; none while the socket takes none.
    pub(super) fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.flush()? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let taken = self.conn.writer().write(bytes)?;
        self.flush()?;
        Ok(taken)
    }

    /// Whether all that is encrypted has gone.
    fn flush(&mut self) -> io::Result<bool> {
        while self.conn.wants_write() {
            match self.conn.write_tls(&mut Plug(&self.socket)) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }

    /// Reads from the socket and decrypts.
    fn take(&mut self) -> io::Result<usize> {
        let came = self.conn.read_tls(&mut Plug(&self.socket))?;
        let state = self.conn.process_new_packets().map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        // What was said before the end is still to be read.
        Ok(if came == 0 && state.plaintext_bytes_to_read() > 0 { 1 } else { came })
    }
}

/// The socket, as rustls wants it.
struct Plug<'a>(&'a TcpStream);

impl Read for Plug<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Plug<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

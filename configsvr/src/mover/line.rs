//! A connection to an instance as the mover needs it: plain bytes both ways, since the stream of a primary is no
//! conversation, and a copy keeps thousands of requests under way.

use super::core::inbox::Inbox;
use super::encrypted::Encrypted;
use crate::agent::link::Access;
use cluster::instance::Addr;
use cluster::resp::reply::text;
use cluster::resp::write;
use std::io;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

/// An answer takes no longer, unless somebody said so: a healthy instance needs less than a millisecond.
pub(super) const ANSWER: Duration = Duration::from_secs(5);
/// Read at once.
const CHUNK: usize = 256 << 10;

/// One connection.
pub(super) struct Line {
    socket: Socket,
    inbox: Inbox,
    chunk: Vec<u8>,
    addr: Addr,
}

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<Encrypted>),
}

impl Line {
    /// Connects and says the password.
    pub(super) async fn open(addr: &Addr, access: &Access) -> Result<Self, String> {
        let socket =
            timeout(ANSWER, Socket::open(addr, access)).await.map_err(|_| format!("{addr}: no connection in time"))?;
        let socket = socket.map_err(|e| format!("{addr}: {e}"))?;
        let mut line = Self { socket, inbox: Inbox::default(), chunk: vec![0; CHUNK], addr: addr.clone() };
        if let Some(password) = &access.password {
            let user = access.user.as_deref().map(str::as_bytes);
            let words: Vec<&[u8]> =
                [Some(&b"AUTH"[..]), user, Some(password.reveal().as_bytes())].into_iter().flatten().collect();
            line.done(&words).await?;
        }
        Ok(line)
    }

    pub(super) fn addr(&self) -> &Addr {
        &self.addr
    }

    /// Asks, and waits for the whole answer. An error that the instance says is an answer.
    pub(super) async fn ask(&mut self, words: &[&[u8]]) -> Result<Vec<u8>, String> {
        let mut request = Vec::new();
        write::request(&mut request, words);
        Ok(self.ask_all(&request, 1).await?.pop().unwrap_or_default())
    }

    /// Asks `n` things at once.
    pub(super) async fn ask_all(&mut self, requests: &[u8], n: usize) -> Result<Vec<Vec<u8>>, String> {
        self.send(requests).await?;
        let mut replies = Vec::with_capacity(n);
        while replies.len() < n {
            replies.push(self.reply().await?);
        }
        Ok(replies)
    }

    /// As `ask`, where an error that the instance says is one.
    pub(super) async fn done(&mut self, words: &[&[u8]]) -> Result<Vec<u8>, String> {
        let reply = self.ask(words).await?;
        if reply.first() == Some(&b'-') {
            let what = String::from_utf8_lossy(words.first().copied().unwrap_or_default()).into_owned();
            return Err(format!("{}: {what}: {}", self.addr, String::from_utf8_lossy(&reply[1..]).trim_end()));
        }
        Ok(reply)
    }

    /// The text of an answer.
    pub(super) async fn say(&mut self, words: &[&[u8]]) -> Result<String, String> {
        let reply = self.done(words).await?;
        Ok(String::from_utf8_lossy(text(&reply).unwrap_or_default()).into_owned())
    }

    pub(super) async fn send(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while !bytes.is_empty() {
            match self.try_write(bytes) {
                Ok(n) => bytes = &bytes[n..],
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    let ready = timeout(ANSWER, self.socket.ready(Interest::WRITABLE)).await;
                    ready.map_err(|_| self.silent())?.map_err(|e| self.said(&e))?;
                }
                Err(e) => return Err(self.said(&e)),
            }
        }
        Ok(())
    }

    pub(super) async fn reply(&mut self) -> Result<Vec<u8>, String> {
        loop {
            if let Some(raw) = self.inbox.pull().map_err(|_| format!("{}: is no Redis server", self.addr))? {
                return Ok(raw.to_vec());
            }
            timeout(ANSWER, self.socket.ready(Interest::READABLE))
                .await
                .map_err(|_| self.silent())?
                .map_err(|e| self.said(&e))?;
            let mut came = Vec::new();
            self.try_read(&mut came).map_err(|e| self.said(&e))?;
            self.inbox.push(&came);
        }
    }

    /// Until it can be read, or written if `writes`.
    pub(super) async fn ready(&self, writes: bool) -> io::Result<()> {
        self.socket.ready(if writes { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE }).await
    }

    /// Appends what is there to `into`; an error where the peer has closed.
    pub(super) fn try_read(&mut self, into: &mut Vec<u8>) -> io::Result<()> {
        loop {
            let read = match &mut self.socket {
                Socket::Tcp(socket) => socket.try_read(&mut self.chunk),
                Socket::Unix(socket) => socket.try_read(&mut self.chunk),
                Socket::Tls(socket) => socket.try_read(&mut self.chunk),
            };
            match read {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    into.extend_from_slice(&self.chunk[..n]);
                    if n < self.chunk.len() || into.len() >= 4 * CHUNK {
                        return Ok(());
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e),
            }
        }
    }

    /// Writes what the socket takes.
    pub(super) fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.socket {
            Socket::Tcp(socket) => socket.try_write(bytes),
            Socket::Unix(socket) => socket.try_write(bytes),
            Socket::Tls(socket) => socket.try_write(bytes),
        }
    }

    /// As an error, for people.
    pub(super) fn said(&self, error: &io::Error) -> String {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => format!("{}: closed the connection", self.addr),
            _ => format!("{}: {error}", self.addr),
        }
    }

    fn silent(&self) -> String {
        format!("{}: no answer within {} s", self.addr, ANSWER.as_secs())
    }
}

impl Socket {
    async fn open(addr: &Addr, access: &Access) -> io::Result<Self> {
        match addr {
            Addr::Tcp(addr) => {
                let socket = TcpStream::connect(addr).await?;
                socket.set_nodelay(true)?;
                match access.tls.instance(*addr) {
                    None => Ok(Self::Tcp(socket)),
                    Some((config, name)) => Ok(Self::Tls(Box::new(Encrypted::meet(socket, config, name).await?))),
                }
            }
            Addr::Unix(path) => Ok(Self::Unix(UnixStream::connect(path).await?)),
        }
    }

    async fn ready(&self, interest: Interest) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.ready(interest).await.map(drop),
            Self::Unix(socket) => socket.ready(interest).await.map(drop),
            Self::Tls(socket) => socket.ready(interest).await,
        }
    }
}

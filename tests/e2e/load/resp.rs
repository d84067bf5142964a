//! A connection of a client: just enough of RESP to write requests and to read replies one by one.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longer than any bound of the proxy's: a reply that has not come by then never will.
pub(crate) const SILENCE: Duration = Duration::from_secs(20);

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    Status(String),
    Error(String),
    Integer(i64),
    Bulk(Option<Vec<u8>>),
    Array(Vec<Reply>),
}

impl Reply {
    pub(crate) fn bulk(text: &str) -> Self {
        Self::Bulk(Some(text.as_bytes().to_vec()))
    }

    pub(crate) fn ok() -> Self {
        Self::Status("OK".to_owned())
    }
}

/// Appends a request.
pub(crate) fn request<W: AsRef<[u8]>>(out: &mut Vec<u8>, words: &[W]) {
    out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        let word = word.as_ref();
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

/// A connection, and what was read from it ahead.
#[derive(Debug)]
pub(crate) struct Connection {
    input: BufReader<TcpStream>,
}

impl Connection {
    pub(crate) fn open(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE))?;
        stream.set_write_timeout(Some(SILENCE))?;
        Ok(Self { input: BufReader::with_capacity(64 << 10, stream) })
    }

    /// A connection that a certain worker serves, where the kernel chooses: tries until it does.
    pub(crate) fn open_at(addr: SocketAddr, worker: u32) -> io::Result<Self> {
        for _ in 0..1000 {
            let mut connection = Self::open(addr)?;
            if connection.worker()? == worker {
                return Ok(connection);
            }
        }
        Err(io::Error::other(format!("none of 1000 connections came to worker {worker}")))
    }

    /// The index of the worker that accepted the connection: the proxy's client ids end with it.
    pub(crate) fn worker(&mut self) -> io::Result<u32> {
        match self.ask(&["CLIENT", "ID"])? {
            Reply::Integer(id) => Ok((id & 1023) as u32),
            other => Err(io::Error::new(ErrorKind::InvalidData, format!("CLIENT ID: {other:?}"))),
        }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.input.get_mut().write_all(bytes)
    }

    pub(crate) fn ask<W: AsRef<[u8]>>(&mut self, words: &[W]) -> io::Result<Reply> {
        let mut bytes = Vec::new();
        request(&mut bytes, words);
        self.send(&bytes)?;
        self.reply()
    }

    pub(crate) fn reply(&mut self) -> io::Result<Reply> {
        let line = self.line()?;
        let (kind, rest) = line.split_at_checked(1).ok_or_else(|| wrong(&line))?;
        let number = || rest.parse::<i64>().map_err(|_| wrong(&line));
        Ok(match kind {
            "+" => Reply::Status(rest.to_owned()),
            "-" => Reply::Error(rest.to_owned()),
            ":" => Reply::Integer(number()?),
            "$" if rest == "-1" => Reply::Bulk(None),
            "$" => Reply::Bulk(Some(self.bytes(number()? as usize)?)),
            "*" => Reply::Array((0..number()?).map(|_| self.reply()).collect::<io::Result<_>>()?),
            _ => return Err(wrong(&line)),
        })
    }

    /// The length of a bulk whose bytes the caller then reads from `body`, `\r\n` included.
    pub(crate) fn bulk_header(&mut self) -> io::Result<usize> {
        let line = self.line()?;
        line.strip_prefix('$').and_then(|n| n.parse().ok()).ok_or_else(|| wrong(&line))
    }

    pub(crate) fn body(&mut self, into: &mut [u8]) -> io::Result<()> {
        self.input.read_exact(into)
    }

    /// Whether the other side has closed, with nothing left to read. Waits for it.
    pub(crate) fn is_over(&mut self) -> io::Result<bool> {
        match self.input.fill_buf() {
            Ok(rest) => Ok(rest.is_empty()),
            Err(e) if e.kind() == ErrorKind::ConnectionReset => Ok(true),
            Err(e) => Err(e),
        }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        self.input.read_until(b'\n', &mut line)?;
        if !line.ends_with(b"\r\n") {
            return Err(io::Error::new(ErrorKind::UnexpectedEof, "the connection ended"));
        }
        line.truncate(line.len() - 2);
        String::from_utf8(line).map_err(|e| io::Error::new(ErrorKind::InvalidData, e))
    }

    fn bytes(&mut self, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len + 2];
        self.input.read_exact(&mut bytes)?;
        bytes.truncate(len);
        Ok(bytes)
    }
}

fn wrong(line: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("not a reply: {line:?}"))
}

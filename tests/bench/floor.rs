//! What a proxy cannot go below: answers GET, SET and MGET out of nothing, with one recv and one send for what a client
//! sent together, in one loop. No instance stands behind it, so its CPU time is what serving the clients alone costs.
//!
//! ```text
//! floor HOST:PORT VALUE_BYTES
//! ```
#![allow(clippy::disallowed_methods, reason = "a program of the measurement")]

use anyhow::{Context, Result};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};

const LISTENER: Token = Token(0);
/// As much as is read at once; more than one turn of redis-benchmark at P64.
const CHUNK_BYTES: usize = 64 * 1024;

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let usage = "floor HOST:PORT VALUE_BYTES";
    let addr = words.next().context(usage)?.parse()?;
    let bytes: usize = words.next().context(usage)?.parse()?;
    let value = format!("${bytes}\r\n{}\r\n", "x".repeat(bytes));
    let mut listener = TcpListener::bind(addr)?;
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let (mut events, mut clients, mut next) = (Events::with_capacity(1024), HashMap::new(), 1);
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((mut stream, _)) = listener.accept() {
                    stream.set_nodelay(true)?;
                    poll.registry().register(&mut stream, Token(next), Interest::READABLE)?;
                    clients.insert(Token(next), Client { stream, rest: Vec::new(), replies: Vec::new() });
                    next += 1;
                }
            } else if clients.get_mut(&event.token()).is_some_and(|client| client.serve(value.as_bytes()).is_none()) {
                clients.remove(&event.token());
            }
        }
    }
}

struct Client {
    stream: TcpStream,
    /// Read, and not a whole request yet.
    rest: Vec<u8>,
    replies: Vec<u8>,
}

impl Client {
    /// One recv, one send. None when the client is gone.
    fn serve(&mut self, value: &[u8]) -> Option<()> {
        let had = self.rest.len();
        self.rest.resize(had + CHUNK_BYTES, 0);
        match self.stream.read(&mut self.rest[had..]) {
            // A full buffer may have left some behind, and readiness is told once.
            Ok(count) if (1..CHUNK_BYTES).contains(&count) => self.rest.truncate(had + count),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.rest.truncate(had);
                return Some(());
            }
            _ => return None,
        }
        let mut at = 0;
        while let Some(length) = self.answer(at, value) {
            at += length;
        }
        self.rest.drain(..at);
        self.stream.write_all(&self.replies).ok()?;
        self.replies.clear();
        Some(())
    }

    /// Answers the request at `at`; its length. None while it is not whole.
    fn answer(&mut self, at: usize, value: &[u8]) -> Option<usize> {
        let request = &self.rest[at..];
        let (words, mut end) = number(request, 0)?;
        let mut name = b' ';
        for word in 0..words {
            let (length, start) = number(request, end)?;
            if word == 0 {
                name = *request.get(start)?;
            }
            end = start + length + 2;
        }
        if request.len() < end {
            return None;
        }
        match name.to_ascii_uppercase() {
            b'G' => self.replies.extend(value),
            b'S' => self.replies.extend(b"+OK\r\n"),
            b'M' => {
                self.replies.extend(format!("*{}\r\n", words - 1).bytes());
                for _ in 1..words {
                    self.replies.extend(value);
                }
            }
            _ => self.replies.extend(b"-ERR only GET, SET and MGET are answered\r\n"),
        }
        Some(end)
    }
}

/// The number after the type byte at `at`, and where its line ends.
fn number(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let line = bytes.get(at + 1..)?;
    let length = line.iter().position(|byte| *byte == b'\r')?;
    (line.len() > length + 1).then_some(())?;
    let value = line[..length].iter().fold(0, |sum, digit| sum * 10 + usize::from(digit.wrapping_sub(b'0')));
    Some((value, at + length + 3))
}

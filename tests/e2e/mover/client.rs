//! A plain connection to a server: requests out, whole replies in.

use anyhow::{Context, Result, bail, ensure};
use cluster::resp::reply::{Cursor, Elements, Step, integer, text};
use cluster::resp::write;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A busy machine may take long; a server that hangs is a failure.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

pub(crate) struct Client {
    stream: TcpStream,
    came: Vec<u8>,
    at: usize,
}

impl Client {
    pub(crate) fn open(addr: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(addr).with_context(|| format!("{addr}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        Ok(Self { stream, came: Vec::new(), at: 0 })
    }

    /// One request in words; its raw reply.
    pub(crate) fn ask(&mut self, words: &[&[u8]]) -> Result<Vec<u8>> {
        Ok(self.ask_all(&[words.iter().map(|w| w.to_vec()).collect()])?.remove(0))
    }

    /// A request written as words with spaces between.
    pub(crate) fn say(&mut self, line: &str) -> Result<Vec<u8>> {
        self.ask(&line.split(' ').map(str::as_bytes).collect::<Vec<_>>())
    }

    /// As `say`, for a text: the reply must be one.
    pub(crate) fn text(&mut self, line: &str) -> Result<String> {
        let reply = self.say(line)?;
        let text = text(&reply).with_context(|| format!("{line}: {}", String::from_utf8_lossy(&reply)))?;
        Ok(String::from_utf8_lossy(text).into_owned())
    }

    /// As `say`, for a number.
    pub(crate) fn number(&mut self, line: &str) -> Result<i64> {
        let reply = self.say(line)?;
        integer(&reply).with_context(|| format!("{line}: {}", String::from_utf8_lossy(&reply)))
    }

    /// Many requests at once.
    pub(crate) fn ask_all(&mut self, requests: &[Vec<Vec<u8>>]) -> Result<Vec<Vec<u8>>> {
        let mut out = Vec::new();
        for words in requests {
            write::request(&mut out, &words.iter().map(Vec::as_slice).collect::<Vec<_>>());
        }
        self.stream.write_all(&out)?;
        requests.iter().map(|_| self.reply()).collect()
    }

    fn reply(&mut self) -> Result<Vec<u8>> {
        let (mut cursor, mut seen) = (Cursor::default(), self.at);
        loop {
            match cursor.step(&self.came[seen..]) {
                Step::Done { len } => {
                    let reply = self.came[self.at..seen + len].to_vec();
                    self.at = seen + len;
                    if self.at == self.came.len() {
                        self.came.clear();
                        self.at = 0;
                    }
                    return Ok(reply);
                }
                Step::More { used } => seen += used,
                Step::Wrong => bail!("no Redis server"),
            }
            let mut chunk = [0; 64 << 10];
            let n = self.stream.read(&mut chunk)?;
            ensure!(n > 0, "the server closed the connection");
            self.came.extend_from_slice(&chunk[..n]);
        }
    }

    /// A field of INFO.
    pub(crate) fn info(&mut self, section: &str, field: &str) -> Result<String> {
        let info = self.text(&format!("INFO {section}"))?;
        let found = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        Ok(found.unwrap_or_default().trim().to_owned())
    }

    /// All keys of the database.
    pub(crate) fn keys(&mut self) -> Result<Vec<Vec<u8>>> {
        let (mut cursor, mut all) = (b"0".to_vec(), Vec::new());
        loop {
            let reply = self.ask(&[b"SCAN", &cursor, b"COUNT", b"5000"])?;
            let parts: Vec<&[u8]> = Elements::new(&reply).context("an array")?.collect();
            all.extend(Elements::new(parts[1]).context("keys")?.filter_map(|key| Some(text(key)?.to_vec())));
            cursor = text(parts[0]).context("a cursor")?.to_vec();
            if cursor == b"0" {
                all.sort();
                all.dedup();
                return Ok(all);
            }
        }
    }
}

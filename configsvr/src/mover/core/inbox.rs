//! Replies, one after another, out of the bytes of a connection.

use cluster::resp::reply::{Cursor, Step};

/// What was used is moved out of the way once it is so much.
const USED_MAX: usize = 1 << 20;

/// Bytes that came, and how far they are understood.
#[derive(Debug, Default)]
pub struct Inbox {
    buf: Vec<u8>,
    /// Where the next reply starts.
    at: usize,
    /// Up to here the cursor has seen it.
    seen: usize,
    cursor: Cursor,
}

/// The peer does not speak RESP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotResp;

impl Inbox {
    pub fn push(&mut self, bytes: &[u8]) {
        if self.at == self.buf.len() || self.at > USED_MAX {
            self.buf.drain(..self.at);
            self.seen -= self.at;
            self.at = 0;
        }
        self.buf.extend_from_slice(bytes);
    }

    /// The next whole reply.
    pub fn pull(&mut self) -> Result<Option<&[u8]>, NotResp> {
        if self.seen == self.buf.len() {
            return Ok(None);
        }
        match self.cursor.step(&self.buf[self.seen..]) {
            Step::Done { len } => {
                let from = self.at;
                self.seen += len;
                self.at = self.seen;
                self.cursor = Cursor::default();
                Ok(Some(&self.buf[from..self.at]))
            }
            Step::More { used } => {
                self.seen += used;
                Ok(None)
            }
            Step::Wrong => Err(NotResp),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_may_be_cut_anywhere() {
        let all = b"+OK\r\n*2\r\n$3\r\nabc\r\n:7\r\n$-1\r\n-ERR no\r\n";
        for cut in 0..all.len() {
            let (mut inbox, mut found) = (Inbox::default(), Vec::new());
            for part in [&all[..cut], &all[cut..]] {
                inbox.push(part);
                while let Some(raw) = inbox.pull().expect("RESP") {
                    found.push(raw.to_vec());
                }
            }
            assert_eq!(found.concat(), all, "cut at {cut}");
            assert_eq!(found.len(), 4);
        }
        let mut inbox = Inbox::default();
        inbox.push(b"hello\r\n");
        assert_eq!(inbox.pull(), Err(NotResp));
    }
}

//! The source's stream of writes: commands, and the offset behind each.

use cluster::resp::request::{Ceilings, Frame, Step};

/// What was used is moved out of the way once it is so much.
const USED_MAX: usize = 1 << 20;

/// Bytes of the stream that came, and how far they are taken.
#[derive(Debug, Default)]
pub(super) struct Journal {
    buf: Vec<u8>,
    /// Where the next command starts.
    at: usize,
    frame: Frame,
    /// The source's offset at `at`.
    pos: u64,
}

impl Journal {
    /// What comes follows `offset`.
    pub(super) fn new(offset: u64) -> Self {
        Self { pos: offset, ..Self::default() }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.at == self.buf.len() || self.at > USED_MAX {
            self.buf.drain(..self.at);
            self.at = 0;
        }
        self.buf.extend_from_slice(bytes);
    }

    /// The offset behind the last command taken.
    pub(super) fn pos(&self) -> u64 {
        self.pos
    }

    /// Bytes that came and are not taken.
    pub(super) fn waiting(&self) -> usize {
        self.buf.len() - self.at
    }

    /// The offset behind the last byte that came.
    pub(super) fn received(&self) -> u64 {
        self.pos + self.waiting() as u64
    }

    /// Takes the next whole command. An error: this is no stream of commands.
    pub(super) fn pull(&mut self) -> Result<Option<&[u8]>, String> {
        loop {
            let from = self.at;
            match self.frame.step(&self.buf[from..], &Ceilings::OPEN) {
                Step::Done { len } => {
                    self.take(len);
                    return Ok(Some(&self.buf[from..from + len]));
                }
                Step::Nothing { len } => self.take(len),
                Step::More { .. } => return Ok(None),
                Step::Inline { .. } => return Err("the source's stream holds a line that is no command".to_owned()),
                Step::Wrong(wrong) => return Err(format!("the source's stream cannot be read: {wrong}")),
            }
        }
    }

    fn take(&mut self, len: usize) {
        self.frame = Frame::default();
        self.at += len;
        self.pos += len as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_those_behind_commands() {
        let (first, second) = (&b"*1\r\n$4\r\nPING\r\n"[..], &b"*2\r\n$3\r\nDEL\r\n$1\r\na\r\n"[..]);
        let mut journal = Journal::new(100);
        journal.push(&[first, &second[..9]].concat());
        assert_eq!(journal.pull(), Ok(Some(first)));
        assert_eq!((journal.pos(), journal.received()), (114, 123));
        assert_eq!(journal.pull(), Ok(None));
        journal.push(&second[9..]);
        assert_eq!(journal.pull(), Ok(Some(second)));
        assert_eq!((journal.pos(), journal.waiting()), (100 + (first.len() + second.len()) as u64, 0));
        journal.push(b"$5\r\n");
        assert!(journal.pull().is_err());
    }
}

//! The worker's end of the mailbox: what cannot be sent at once waits its turn.

use super::poller::{Poller, Source};
use crate::mail::{Mailbox, ToMaster, ToWorker};
use anyhow::Context;
use nix::libc;
use serde::Serialize;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// A message and the descriptor that goes with it.
pub(super) type Letter<M> = (M, Option<OwnedFd>);

/// Letters to and from the master.
#[derive(Debug)]
pub(super) struct Post {
    mailbox: Mailbox,
    unsent: VecDeque<Letter<ToMaster>>,
    /// Letters may wait.
    ready: bool,
    /// The master has closed its end, or died.
    closed: bool,
}

impl Post {
    pub(super) fn new(control: OwnedFd, poller: &Poller) -> anyhow::Result<Self> {
        let mailbox = Mailbox::new(control, true).context("the control socket cannot be used")?;
        poller.watch(&mailbox.as_fd(), Source::Control).context("the control socket cannot be watched")?;
        Ok(Self { mailbox, unsent: VecDeque::new(), ready: true, closed: false })
    }

    pub(super) fn note(&mut self) {
        self.ready = true;
    }

    /// Whether `next` may have something.
    pub(super) fn is_ready(&self) -> bool {
        self.ready
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether all that was said has been sent.
    pub(super) fn is_sent(&self) -> bool {
        self.unsent.is_empty() || self.closed
    }

    /// The next letter from the master, if one waits.
    pub(super) fn next(&mut self) -> Option<Letter<ToWorker>> {
        while self.ready && !self.closed {
            match self.mailbox.recv() {
                Ok(Some(letter)) => return Some(letter),
                Ok(None) => self.closed = true,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.ready = false,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                    tracing::warn!(error = %e, "the master said something that this worker does not understand");
                }
                Err(e) => {
                    tracing::error!(error = %e, "the control socket failed");
                    self.closed = true;
                }
            }
        }
        None
    }

    pub(super) fn say(&mut self, message: ToMaster, fd: Option<OwnedFd>) {
        self.unsent.push_back((message, fd));
        self.send();
    }

    /// Sends what waits, as far as the master has room. To be called now and then.
    pub(super) fn send(&mut self) {
        while let Some((message, fd)) = self.unsent.front() {
            match self.mailbox.send(message, fd.as_ref().map(AsFd::as_fd)) {
                Err(e) if is_passing(&e) => return,
                Err(e) if matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                    self.closed = true;
                    return;
                }
                Err(e) => tracing::error!(error = %e, message = brief(message), "this could not be said to the master"),
                Ok(()) => {}
            }
            self.unsent.pop_front();
        }
    }
}

/// A letter for the log: its kind, and its size. All of it may be much, and somebody's secrets.
pub(super) fn brief<M: Serialize>(message: &M) -> String {
    let json = serde_json::to_string(message).unwrap_or_default();
    let kind = json.trim_start_matches(['{', '"']).split('"').next().unwrap_or_default();
    format!("{kind}, {} bytes", json.len())
}

/// Whether the same letter may go later: the master reads slowly, or too many descriptors are under way.
fn is_passing(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::WouldBlock
        || matches!(e.raw_os_error(), Some(libc::EINTR | libc::ENOBUFS | libc::ENOMEM | libc::ETOOMANYREFS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::Question;

    #[test]
    fn the_log_has_a_letters_kind_and_size_and_nothing_of_what_it_says() {
        let question = Question::Script { body: "secret".repeat(1_000_000) };
        let said = brief(&ToMaster::Ask { ticket: 7, question });
        assert!(said.starts_with("ask, 60") && said.ends_with(" bytes") && said.len() < 30, "{said}");
        assert_eq!(brief(&ToMaster::Ready), "ready, 7 bytes");
    }
}

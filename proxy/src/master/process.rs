//! A worker process as its master holds it: its number, its mailbox, and the page it counts on.

use super::clock;
use super::event::Event;
use super::fleet::{Id, Seat};
use crate::mail::{Mailbox, ToMaster, ToWorker};
use crate::os::{self, SharedPage};
use nix::libc;
use nix::sys::socket::Shutdown;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::SystemTime;

/// Letters kept for a worker that does not read; one that lags so far behind is told no more.
const UNSENT_MAX: usize = 16_384;
/// A thread that only waits for mail needs little.
const STACK_BYTES: usize = 128 << 10;

/// How workers come to be.
#[derive(Debug)]
pub(super) enum Birth {
    /// As processes.
    Spawn,
    /// The one worker runs in this process, on the thread that takes these descriptors.
    Thread(Sender<OwnedFd>),
}

/// Statistics that go from a worker to its successor.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) shared: Arc<SharedPage>,
    pub(super) fd: OwnedFd,
}

impl Page {
    pub(super) fn create() -> io::Result<Self> {
        let (shared, fd) = SharedPage::create()?;
        Ok(Self { shared: Arc::new(shared), fd })
    }

    pub(super) fn of(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self { shared: Arc::new(SharedPage::map(&fd)?), fd })
    }
}

/// A worker that lives, or is about to be reaped.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) seat: Seat,
    pub(super) started: SystemTime,
    pub(super) page: Page,
    mailbox: Arc<Mailbox>,
    /// JSON, and what goes with it.
    unsent: VecDeque<(Vec<u8>, Option<OwnedFd>)>,
}

impl Process {
    /// Starts a worker on this seat.
    pub(super) fn start(id: Id, seat: Seat, page: Page, birth: &Birth, events: &Sender<Event>) -> io::Result<Self> {
        let (ours, theirs) = Mailbox::pair()?;
        let pid = match birth {
            Birth::Spawn => os::spawn_worker(theirs, &format!("twemslot-proxy: worker {seat}"))?,
            Birth::Thread(starter) => {
                starter.send(theirs).map_err(|_| io::Error::other("the worker's thread is gone"))?;
                std::process::id()
            }
        };
        Self::hold(id, seat, pid, page, ours, clock::wall(), events)
    }

    /// Takes up a worker that runs: opens its mail.
    pub(super) fn hold(
        id: Id,
        seat: Seat,
        pid: u32,
        page: Page,
        mailbox: OwnedFd,
        started: SystemTime,
        events: &Sender<Event>,
    ) -> io::Result<Self> {
        let mailbox = Arc::new(Mailbox::new(mailbox, false)?);
        let (theirs, events) = (Arc::clone(&mailbox), events.clone());
        let reader = std::thread::Builder::new().name(format!("mail-{seat}")).stack_size(STACK_BYTES);
        reader.spawn(move || read_mail(id, &theirs, &events))?;
        Ok(Self { pid, seat, started, page, mailbox, unsent: VecDeque::new() })
    }

    /// Sends a letter, now or as soon as the worker has read what came before.
    pub(super) fn tell(&mut self, letter: &ToWorker, fd: Option<OwnedFd>) {
        match serde_json::to_vec(letter) {
            Ok(json) if self.unsent.len() < UNSENT_MAX => self.unsent.push_back((json, fd)),
            Ok(_) => {
                tracing::error!(worker = self.seat, pid = self.pid, "this worker reads no mail; it is told no more")
            }
            Err(e) => tracing::error!(error = %e, "a letter that cannot be written"),
        }
        self.flush();
    }

    /// Sends what waits, as far as the worker takes it.
    pub(super) fn flush(&mut self) {
        while let Some((json, fd)) = self.unsent.front() {
            match self.mailbox.send_bytes(json, fd.as_ref().map(AsFd::as_fd)) {
                Ok(()) => {}
                Err(e) if is_passing(&e) => return,
                Err(e) if matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                    self.unsent.clear(); // it is dead: the signal will say so
                    return;
                }
                Err(e) => tracing::error!(worker = self.seat, pid = self.pid, error = %e, "a letter is lost"),
            }
            self.unsent.pop_front();
        }
    }

    pub(super) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Ends a worker that is a thread: it ends when its mailbox does.
    pub(super) fn hang_up(&self) {
        if let Err(e) = nix::sys::socket::shutdown(self.mailbox.as_fd().as_raw_fd(), Shutdown::Both) {
            tracing::warn!(error = %e, "the worker's mailbox cannot be shut down");
        }
    }

    pub(super) fn mailbox(&self) -> &Mailbox {
        &self.mailbox
    }
}

/// Whether the same letter may go later: the worker reads slowly, or too many descriptors are under way.
fn is_passing(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::WouldBlock
        || matches!(e.raw_os_error(), Some(libc::EINTR | libc::ENOBUFS | libc::ENOMEM | libc::ETOOMANYREFS))
}

/// Turns letters into events until the worker is gone.
fn read_mail(id: Id, mailbox: &Mailbox, events: &Sender<Event>) {
    loop {
        let event = match mailbox.recv::<ToMaster>() {
            Ok(Some((letter, fd))) => Event::Mail(id, letter, fd),
            Ok(None) => {
                _ = events.send(Event::Hangup(id)); // an error: the master has ended
                return;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                tracing::warn!(error = %e, "a worker of another version says what this master does not understand");
                continue;
            }
            Err(e) => {
                tracing::error!(error = %e, "a worker's mail cannot be read");
                return;
            }
        };
        if events.send(event).is_err() {
            return;
        }
    }
}

//! Many clients at once: started, watched while things happen to the proxy, and at the end asked whether anything was
//! lost.

use super::client::{Board, Client, Failure, Incident, lock};
use super::site::Site;
use anyhow::{Context, Result, ensure};
use cluster::group::GroupId;
use configsvr::playground::until;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

/// Within this every client has done something, however busy the machine is.
const PROGRESS_LIMIT: Duration = Duration::from_secs(20);

#[derive(Debug)]
struct Member {
    board: Arc<Board>,
    groups: Vec<GroupId>,
    /// None once it was joined.
    thread: Option<JoinHandle<Client>>,
}

impl Member {
    /// Ends the thread; None if it panicked.
    fn stop(&mut self) -> Option<Client> {
        self.board.stop.store(true, Ordering::Relaxed);
        self.thread.take()?.join().ok()
    }
}

/// A test that fails must not leave clients behind: they would work on at the next one's proxy.
impl Drop for Member {
    fn drop(&mut self) {
        self.stop();
    }
}

/// All clients of a test.
#[derive(Debug, Default)]
pub(crate) struct Crowd {
    members: Vec<Member>,
}

impl Crowd {
    /// So many clients that speak with all groups.
    pub(crate) fn start(site: &Site, count: usize) -> Result<Self> {
        let mut crowd = Self::default();
        crowd.add(site, count, site.addr()?, &site.groups());
        crowd.await_progress(3)?;
        Ok(crowd)
    }

    /// More of them, at an address of their own, that speak with these groups only.
    pub(crate) fn add(&mut self, site: &Site, count: usize, addr: SocketAddr, groups: &[GroupId]) {
        for _ in 0..count {
            let index = self.members.len();
            let tags: Vec<_> = groups.iter().map(|&g| (g, site.tag(g, &format!("c{index}")))).collect();
            let board = Arc::new(Board::default());
            let client = Client::new(index, addr, &tags, Arc::clone(&board));
            let thread = Some(std::thread::spawn(move || client.run()));
            self.members.push(Member { board, groups: groups.to_vec(), thread });
        }
    }

    /// Waits until each client has had some more batches of which nothing failed.
    pub(crate) fn await_progress(&self, batches: u64) -> Result<()> {
        self.await_progress_of(batches, |_| true)
    }

    /// The same for those that speak with nothing but these groups.
    pub(crate) fn await_progress_within(&self, batches: u64, groups: &[GroupId]) -> Result<()> {
        self.await_progress_of(batches, |m| m.groups.iter().all(|g| groups.contains(g)))
    }

    fn await_progress_of(&self, batches: u64, which: impl Fn(&Member) -> bool) -> Result<()> {
        let clean = |m: &Member| m.board.clean.load(Ordering::Relaxed);
        let before: Vec<u64> = self.members.iter().map(clean).collect();
        until("progress of every client", PROGRESS_LIMIT, || {
            let behind = |i: usize| which(&self.members[i]) && clean(&self.members[i]) < before[i] + batches;
            let behind: Vec<usize> = (0..self.members.len()).filter(|&i| behind(i)).collect();
            Ok(if behind.is_empty() { Ok(()) } else { Err(format!("clients {behind:?}; {:?}", self.peek())) })
        })
    }

    /// The last incident, for a person.
    fn peek(&self) -> Option<Incident> {
        self.members.iter().filter_map(|m| lock(&m.board.incidents).last().cloned()).next_back()
    }

    /// How many clients each worker serves, as far as they know.
    pub(crate) fn at_worker(&self, worker: u32) -> usize {
        self.members.iter().filter(|m| m.board.worker.load(Ordering::Relaxed) == u64::from(worker)).count()
    }

    /// What failed since this was last asked.
    pub(crate) fn incidents(&self) -> Vec<Incident> {
        self.members.iter().flat_map(|m| std::mem::take(&mut *lock(&m.board.incidents))).collect()
    }

    /// Nothing may have failed since incidents were last asked for.
    pub(crate) fn nothing_failed(&self) -> Result<()> {
        self.only("nothing", |_| false).map(|_| ())
    }

    /// Only these may have failed; gives them.
    pub(crate) fn only(&self, what: &str, allowed: impl Fn(&Incident) -> bool) -> Result<Vec<Incident>> {
        let faults = self.faults();
        ensure!(faults.is_empty(), "verdict of the checker: wrong replies: {}", some(&faults));
        let (fine, others): (Vec<_>, Vec<_>) = self.incidents().into_iter().partition(allowed);
        ensure!(others.is_empty(), "{what} may fail; {} other things did: {}", others.len(), some(&others));
        Ok(fine)
    }

    fn faults(&self) -> Vec<String> {
        self.members.iter().flat_map(|m| lock(&m.board.faults).clone()).collect()
    }

    /// How long batches took since this was last asked, of clients that speak with nothing but these groups.
    pub(crate) fn delays(&self, groups: &[GroupId]) -> Delays {
        let members = self.members.iter().filter(|m| m.groups.iter().all(|g| groups.contains(g)));
        Delays::new(members.flat_map(|m| std::mem::take(&mut *lock(&m.board.delays))).collect())
    }

    /// Stops all, and compares what is stored with what was acknowledged. Gives the number of requests.
    pub(crate) fn finish(mut self, addr: SocketAddr) -> Result<u64> {
        self.members.iter().for_each(|m| m.board.stop.store(true, Ordering::Relaxed));
        let mut faults = Vec::new();
        let mut requests = 0;
        for member in &mut self.members {
            let client = member.stop().context("a client panicked")?;
            faults.append(&mut lock(&member.board.faults));
            faults.append(&mut client.verify(addr)?);
            requests += member.board.requests.load(Ordering::Relaxed);
        }
        ensure!(faults.is_empty(), "verdict of the checker: {} faults: {}", faults.len(), some(&faults));
        Ok(requests)
    }
}

/// The first few are enough to see what is wrong.
fn some<T: std::fmt::Debug>(items: &[T]) -> String {
    items.iter().take(8).map(|item| format!("\n    {item:?}")).collect()
}

/// Whether it is one of our errors about this group (or about a request to several), soon enough.
pub(crate) fn error_of(group: GroupId, limit: Duration) -> impl Fn(&Incident) -> bool {
    move |i| i.failure != Failure::Broken && i.group.is_none_or(|g| g == group) && i.took <= limit
}

/// How long things took.
#[derive(Debug)]
pub(crate) struct Delays {
    sorted: Vec<Duration>,
}

impl Delays {
    pub(crate) fn new(mut all: Vec<Duration>) -> Self {
        all.sort_unstable();
        Self { sorted: all }
    }

    /// So many in a hundred took no longer.
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let last = self.sorted.len().saturating_sub(1);
        self.sorted.get(last * percent / 100).copied().unwrap_or_default()
    }
}

impl std::fmt::Display for Delays {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [p50, p99, max] = [50, 99, 100].map(|p| self.percentile(p));
        write!(f, "p50 {p50:.1?}, p99 {p99:.1?}, longest {max:.1?} of {}", self.sorted.len())
    }
}

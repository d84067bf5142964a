//! Clients that ask for much: a million requests, thousands of connections, very large values.

use super::crowd::{Crowd, Delays};
use super::probe::{Idle, Probe, idle_clients, most_memory, round_trip, small_gets};

use super::resp::{Connection, Reply, request};
use super::site::{Site, resident};
use super::{say, turn};
use anyhow::{Context, Result, ensure};
use configsvr::playground::until;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::thread::scope;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
/// A small GET of others, while the machine is busy with a client that asks for much.
const OTHERS_P99: Duration = Duration::from_millis(400);
/// What the allocator and the relay's tables may keep of a burst.
const KEPT: u64 = 48 * MIB;
const GIVEN_BACK_LIMIT: Duration = Duration::from_secs(20);

/// One client pipelines a million requests and reads only then. It gets a million right replies in order. Nothing may
/// fail; others are served meanwhile, the worker's memory grows by no more than the replies that wait, and is given
/// back.
#[test]
fn a_million_requests_unread() -> Result<()> {
    const COUNT: usize = 1_000_000;
    let _turn = turn();
    let site = Site::start(2, "")?;
    let crowd = Crowd::start(&site, 6)?;
    let (a, b) = (site.tag(1, "million") + "n", site.tag(2, "million") + "n");
    let ask = |i: usize, out: &mut Vec<u8>| match i % 3 {
        0 => request(out, &["ECHO", &format!("{i:060}")]),
        1 => request(out, &["INCR", &a]),
        _ => request(out, &["INCR", &b]),
    };
    let right = |i: usize| match i % 3 {
        0 => Reply::bulk(&format!("{i:060}")),
        _ => Reply::Integer(i as i64 / 3 + 1),
    };
    let hog = Hog::start(&site)?;
    let mut connection = Connection::open_at(site.addr()?, 0)?;
    write_all(&mut connection, COUNT, ask).context("while it wrote")?;
    for i in 0..COUNT {
        let reply = connection.reply().with_context(|| format!("reply {i}"))?;
        ensure!(reply == right(i), "reply {i} is {reply:?}, not {:?}", right(i));
    }
    hog.finish(&site, "a million requests", 128 * MIB)?;
    crowd.await_progress(3)?;
    crowd.nothing_failed()?;
    crowd.finish(site.addr()?)?;
    Ok(())
}

/// The same with replies of far more than `client_output_max`. That client may be closed, after a right beginning of
/// its replies; nothing else may fail, and the worker's memory stays within the bound.
#[test]
fn a_gigabyte_of_replies_unread() -> Result<()> {
    const COUNT: usize = 1_000_000;
    let _turn = turn();
    let site = Site::start(2, "client_output_max: 64mb\n")?;
    let crowd = Crowd::start(&site, 6)?;
    let key = site.tag(1, "gigabyte");
    let value = "v".repeat(1000);
    let hog = Hog::start(&site)?;
    let mut connection = Connection::open_at(site.addr()?, 0)?;
    ensure!(connection.ask(&["SET", &key, &value])? == Reply::ok(), "SET");
    let written = write_all(&mut connection, COUNT, |_, out| request(out, &["GET", &key]));
    let mut replies = 0;
    let end = loop {
        match connection.reply() {
            Ok(reply) if reply == Reply::bulk(&value) => replies += 1,
            Ok(other) => anyhow::bail!("reply {replies} is {other:?}"),
            Err(e) => break e,
        }
        ensure!(replies < COUNT, "a gigabyte was kept for it");
    };
    say(&format!("closed after {replies} replies (writing: {written:?}; reading: {end})"));
    hog.finish(&site, "a gigabyte of replies", 192 * MIB)?;
    ensure!(site.metric("twemslot_proxy_clients_evicted_total{cause=\"memory\"}")? == 1.0, "not counted");
    crowd.await_progress(3)?;
    crowd.nothing_failed()?;
    crowd.finish(site.addr()?)?;
    Ok(())
}

fn write_all(connection: &mut Connection, count: usize, ask: impl Fn(usize, &mut Vec<u8>)) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    for i in 0..count {
        ask(i, &mut bytes);
        if bytes.len() > 256 << 10 || i + 1 == count {
            connection.send(&bytes)?;
            bytes.clear();
        }
    }
    Ok(())
}

/// What worker 0 does for others, and its memory, while it serves one that asks for much.
struct Hog {
    pid: i32,
    before: u64,
    start: Instant,
    gets: Probe<Delays>,
    memory: Probe<u64>,
}

impl Hog {
    fn start(site: &Site) -> Result<Self> {
        let pid = site.worker_pid(0)?;
        let gets = small_gets(site.addr()?, 0, &site.tag(2, "small"))?;
        Ok(Self { pid, before: resident(pid)?, start: Instant::now(), gets, memory: most_memory(pid) })
    }

    fn finish(self, site: &Site, what: &str, growth_max: u64) -> Result<()> {
        let took = self.start.elapsed();
        let delays = self.gets.found()?;
        let growth = self.memory.found()?.saturating_sub(self.before);
        say(&format!("{what}: {took:.1?}; worker grew by {} MiB; small GETs of others: {delays}", growth / MIB));
        ensure!(delays.percentile(99) <= OTHERS_P99, "others were slow: {delays}");
        ensure!(growth <= growth_max, "the worker grew by {} MiB, more than {}", growth / MIB, growth_max / MIB);
        let limit = self.before + KEPT;
        let back = until("memory given back", GIVEN_BACK_LIMIT, || {
            let now = resident(self.pid)?;
            Ok(if now <= limit { Ok(now) } else { Err(format!("{} MiB are resident", now / MIB)) })
        })?;
        say(&format!("resident: {} MiB before, {} after", self.before / MIB, back / MIB));
        ensure!(site.worker_pid(0)? == self.pid, "the worker has died");
        Ok(())
    }
}

/// Thousands of clients connect, say PING and are idle, while others work. Nothing may fail: a reload and a topology
/// come through, and when the number of workers halves all are handed over.
#[test]
fn idle_connections() -> Result<()> {
    let _turn = turn();
    let count = idle_count()?;
    let mut site = Site::start(2, "clients_max: 15000\n")?;
    let crowd = Crowd::start(&site, 6)?;
    let start = Instant::now();
    let mut idle = idle_clients(site.addr()?, count)?;
    say(&format!("{count} idle clients after {:.1?}", start.elapsed()));
    crowd.await_progress(3)?;
    crowd.nothing_failed().context("while they connected")?;
    say(&format!("batches meanwhile: {}", crowd.delays(&site.groups())));
    site.reload("workers: 2\nclients_max: 15000\nlink_ping_ms: 900\n")?;
    let held = site.put(Some((0, 1023)), true)?;
    let released = site.put(None, false)?;
    crowd.await_progress(3)?;
    crowd.nothing_failed().context("during reload and topologies")?;
    let start = Instant::now();
    site.reload("workers: 1\nclients_max: 15000\n")?;
    site.await_workers(1)?;
    let handed_over = start.elapsed();
    let start = Instant::now();
    idle.iter_mut().try_for_each(Idle::send_ping)?;
    idle.iter_mut().try_for_each(Idle::take_pong).context("an idle client was lost")?;
    let all = start.elapsed();
    crowd.await_progress(3)?;
    crowd.nothing_failed().context("when they were handed over")?;
    say(&format!("PUT {held:.1?} and {released:.1?}; half handed over in {handed_over:.1?}, all pinged in {all:.1?}"));
    crowd.finish(site.addr()?)?;
    Ok(())
}

/// Descriptors for 10,000 clients, and for all else.
const NOFILE_WANTED: u64 = 11_000;

/// As many as descriptors allow: each takes one here, and one in a worker.
fn idle_count() -> Result<usize> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    // Who may raises the limit.
    let raised = hard < NOFILE_WANTED && setrlimit(Resource::RLIMIT_NOFILE, NOFILE_WANTED, NOFILE_WANTED).is_ok();
    let hard = if raised { NOFILE_WANTED } else { hard };
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let count = if hard >= NOFILE_WANTED { 10_000 } else { 5_000.min(hard.saturating_sub(500)) };
    if count < 10_000 {
        say(&format!("only {count} idle clients: RLIMIT_NOFILE is {hard}"));
    }
    ensure!(count >= 1_000, "RLIMIT_NOFILE is {hard}: too low to prove anything (ulimit -n 11000)");
    Ok(count as usize)
}

/// One client reads 64 MiB slowly, another one sends and reads 200 MiB. Their bytes arrive as they were sent, and
/// nothing of others may fail or be slow.
#[test]
fn large_values() -> Result<()> {
    let _turn = turn();
    let site = Site::start(1, "")?;
    let (addr, pid) = (site.addr()?, site.worker_pid(0)?);
    let crowd = Crowd::start(&site, 6)?;
    let before = resident(pid)?;
    let memory = most_memory(pid);
    let gets = small_gets(addr, 0, &site.tag(2, "small"))?;
    let (slow, big) = (site.tag(1, "slow"), site.tag(1, "big"));
    let start = Instant::now();
    scope(|scope| -> Result<()> {
        let reader =
            scope.spawn(|| round_trip(&mut Connection::open(addr)?, &slow, 64 << 20, Duration::from_millis(4)));
        let both = scope.spawn(|| round_trip(&mut Connection::open(addr)?, &big, 200 << 20, Duration::ZERO));
        for (name, thread) in [("the slow reader", reader), ("the large value", both)] {
            thread.join().map_err(|_| anyhow::anyhow!("{name} panicked"))?.context(name)?;
        }
        Ok(())
    })?;
    let (delays, growth) = (gets.found()?, memory.found()?.saturating_sub(before));
    say(&format!("{:.1?}; worker grew by {} MiB; small GETs: {delays}", start.elapsed(), growth / MIB));
    ensure!(delays.percentile(99) <= OTHERS_P99, "others were slow: {delays}");
    crowd.await_progress(3)?;
    crowd.nothing_failed()?;
    until("memory given back", GIVEN_BACK_LIMIT, || {
        let now = resident(pid)?;
        Ok(if now <= before + KEPT { Ok(()) } else { Err(format!("{} MiB are resident", now / MIB)) })
    })?;
    crowd.finish(addr)?;
    Ok(())
}

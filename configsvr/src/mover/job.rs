//! One job: its connections, and the loop that carries bytes between them and `core`.
#![expect(clippy::disallowed_methods, reason = "a shell: reads the clock")]

use super::attach::{self, Attached};
use super::core::limits::{PIECE_BYTES, PIECE_FROM};
use super::core::slots::Slots;
use super::core::{Copier, Fault, Plan};
use super::ground::{self, Ground, REPORT, ended, nothing_yet, run_id};
use super::line::Line;
use super::name::{Name, Part};
use super::scout::{Said, Scout};
use super::{Told, functions, preflight, sweep};
use crate::agent::link::Access;
use crate::control::job::{Goal, Job, Stage, Status};
use cluster::resp::write;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::{MissedTickBehavior, interval, sleep};

/// How often limits are looked at anew.
const TICK: Duration = Duration::from_millis(5);
/// A source drops a replica that says nothing for a minute.
const ACK: Duration = Duration::from_secs(1);
/// The source's primary is ahead and its replica says nothing: it has lost its primary.
const STALL: Duration = Duration::from_secs(10);
/// A lost connection is made again within so long, or the job ends.
const RECONNECT: Duration = Duration::from_secs(10);
const RECONNECT_PAUSE: Duration = Duration::from_millis(200);

/// Runs until it is dropped: also after its end it says how that was, once a report's time.
pub(super) async fn run(ground: Ground) {
    let name = Name::new(&ground.job.task, ground.job.token, ground.job.attempt);
    let mut ends = match prepare_loudly(&ground, &name).await {
        Ok(mut run) => {
            let fault = run.carry().await;
            let mut status = run.copier.status();
            if fault.hopeless && !run.fenced {
                run.take_away(&status).await;
            }
            status.stage = ended(fault);
            status
        }
        Err(fault) => Status { stage: ended(fault), ..nothing_yet() },
    };
    loop {
        ground.report(ends.clone()).await;
        sleep(REPORT * 4).await;
        ends.lag = 0;
    }
}

/// Prepares, and says so meanwhile.
async fn prepare_loudly<'a>(ground: &'a Ground, name: &'a Name) -> Result<Run<'a>, Fault> {
    let mut reports = interval(REPORT);
    let prepared = prepare(ground, name);
    tokio::pin!(prepared);
    loop {
        tokio::select! {
            run = &mut prepared => return run,
            _ = reports.tick() => ground.report(nothing_yet()).await,
        }
    }
}

/// Kills predecessors, purges the target, and attaches to the source.
async fn prepare<'a>(ground: &'a Ground, name: &'a Name) -> Result<Run<'a>, Fault> {
    let (job, access) = (&ground.job, &ground.access);
    let slots = Slots::from(&**job);
    let mut target = name.connect(&job.target.primary, access, Part::Writer).await.map_err(Fault::failed)?;
    (ground.confirm)(job.token).await.map_err(Fault::failed)?;
    let run_id = run_id(&mut target).await.map_err(Fault::failed)?;
    {
        // Before the purge, so that what cannot work has changed nothing.
        let mut source = reading_place(ground, name).await?;
        preflight::check(&mut source, &mut target).await?;
        // By whose clock keys end: copies are read at a replica, and the primary tells it what has ended.
        let mut primary = name.connect(&job.source.primary, access, Part::Reader).await.map_err(Fault::failed)?;
        preflight::clocks(&mut primary, &mut target).await?;
        let drawn = preflight::draw(&mut source).await?;
        if !job.force {
            let replicas = replicas(ground, name).await;
            preflight::room(&source, &mut target, replicas, &slots, &drawn).await?;
        }
        preflight::formats(&mut source, &mut target, &drawn).await?;
        let carried = functions::carry(&mut source, &mut target).await.map_err(Fault::failed)?;
        if !carried.is_empty() {
            tracing::info!(task = job.task, libraries = ?carried, to = %target.addr(), "functions the target did not have");
        }
    }
    sweep::clear(&mut target, &slots, 0).await.map_err(Fault::failed)?;
    let attached = attach::attach(&job.source, name, access).await?;
    name_database(job, name, access).await.map_err(Fault::failed)?;
    let mut source = name.connect(&attached.addr, access, Part::Reader).await.map_err(Fault::failed)?;
    let source_id = ground::run_id(&mut source).await.map_err(Fault::failed)?;
    let found = preflight::look(&mut source).await?;
    let mut copier = Copier::new(Plan {
        slots,
        table: found.table,
        limits: job.limits,
        replid: attached.replid.clone(),
        offset: attached.offset,
        to_scan: found.keys,
        piece_from: PIECE_FROM,
        piece_bytes: PIECE_BYTES,
    });
    copier.stream_said(&attached.first);
    tracing::info!(task = job.task, attempt = job.attempt, at = %attached.addr, offset = attached.offset, "copying slots");
    let scout = Scout::start(job, name, Arc::clone(access), attached.addr.clone());
    Ok(Run {
        ground,
        name,
        copier,
        attached,
        source,
        source_id,
        target,
        run_id,
        scout,
        bytes: Vec::new(),
        fenced: false,
    })
}

/// The stream says which database it speaks of when that changes, and one that attaches in its middle does not know: an
/// empty message out of another database makes it say so. (Where there is only one, every command is of it; then commands
/// make keys dirty instead of being applied, which is right, too.)
async fn name_database(job: &Job, name: &Name, access: &Access) -> Result<(), String> {
    let mut line = name.connect(&job.source.primary, access, Part::Reader).await?;
    if line.ask(&[b"SELECT", b"1"]).await? == b"+OK\r\n" {
        line.ask(&[b"PUBLISH", b"twemslot:moving", b""]).await?;
    }
    Ok(())
}

/// Where the preflight looks at the source: a replica that answers, or the primary.
async fn reading_place(ground: &Ground, name: &Name) -> Result<Line, Fault> {
    for replica in &ground.job.source.replicas {
        if let Ok(line) = name.connect(replica, &ground.access, Part::Reader).await {
            return Ok(line);
        }
    }
    name.connect(&ground.job.source.primary, &ground.access, Part::Reader).await.map_err(Fault::failed)
}

/// The target's replicas, as far as they answer: what comes to the primary comes to them.
async fn replicas(ground: &Ground, name: &Name) -> Vec<Line> {
    let mut lines = Vec::new();
    for replica in &ground.job.target.replicas {
        lines.extend(name.connect(replica, &ground.access, Part::Reader).await);
    }
    lines
}

/// A job under way.
struct Run<'a> {
    ground: &'a Ground,
    name: &'a Name,
    copier: Copier,
    attached: Attached,
    source: Line,
    source_id: String,
    target: Line,
    run_id: String,
    scout: Scout,
    bytes: Vec<u8>,
    /// It was told to drain: the target may own the slots at any moment, and nothing is removed there any more.
    fenced: bool,
}

/// Which connection has something.
enum Woken {
    Stream,
    Source,
    Target,
    Told,
    Scout(Option<Said>),
    Tick,
}

impl Run<'_> {
    /// Carries bytes until there is a fault.
    async fn carry(&mut self) -> Fault {
        let begun = Instant::now();
        let mut told = self.ground.told.clone();
        told.mark_changed();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let (mut reported, mut acked, mut said) = (begun, begun, None);
        let (mut moved, mut moved_at) = (self.copier.received(), begun);
        loop {
            self.copier.step(begun.elapsed().as_millis() as u64);
            if let Some(fence) = self.copier.asks_primary() {
                self.scout.fence(fence);
            }
            if let Err(fault) = self.write().await {
                return fault;
            }
            if let Some(fault) = self.copier.fault() {
                return fault.clone();
            }
            let now = Instant::now();
            if now - acked >= ACK {
                acked = now;
                self.acknowledge();
            }
            if moved != self.copier.received() {
                (moved, moved_at) = (self.copier.received(), now);
            } else if now - moved_at > STALL && self.copier.status().lag > 0 {
                return Fault::failed(format!("{}: its stream stands still", self.attached.addr));
            }
            let changed = said.as_ref().is_none_or(|stage| *stage != self.copier.stage());
            if changed || now - reported >= REPORT {
                reported = now;
                let status = self.copier.status();
                said = Some(status.stage.clone());
                self.ground.report(status).await;
            }
            let woken = tokio::select! {
                _ = self.attached.line.ready(false) => Woken::Stream,
                _ = self.source.ready(!self.copier.to_source.is_empty()) => Woken::Source,
                _ = self.target.ready(!self.copier.to_target.is_empty()) => Woken::Target,
                changed = told.changed() => match changed {
                    Ok(()) => Woken::Told,
                    Err(_) => return Fault::failed("the job was dropped"),
                },
                said = self.scout.hear() => Woken::Scout(said),
                _ = ticks.tick() => Woken::Tick,
            };
            let read = match woken {
                Woken::Stream => self.read_stream().await,
                Woken::Source => self.read_source().await,
                Woken::Target => self.read_target().await,
                Woken::Told => {
                    let Told { goal, limits } = *told.borrow_and_update();
                    self.fenced |= matches!(goal, Goal::Drain { .. });
                    self.copier.limit(limits);
                    self.copier.goal(goal);
                    Ok(())
                }
                Woken::Scout(said) => {
                    self.heard(said);
                    Ok(())
                }
                Woken::Tick => Ok(()),
            };
            if let Err(fault) = read {
                return fault;
            }
        }
    }

    fn heard(&mut self, said: Option<Said>) {
        match said {
            Some(Said::Position { position, fence }) => self.copier.primary_said(position, fence),
            Some(Said::Pinged(ms)) => self.copier.pinged(ms),
            None => {}
        }
    }

    /// Says to the source that its stream is read.
    fn acknowledge(&mut self) {
        let taken = if self.attached.primary { 0 } else { self.copier.taken() };
        let mut bytes = Vec::new();
        write::request(&mut bytes, &[b"REPLCONF", b"ACK", taken.to_string().as_bytes()]);
        // These few bytes fit into an empty socket; if not, the connection is dead, and reading it says so.
        _ = self.attached.line.try_write(&bytes);
    }

    async fn write(&mut self) -> Result<(), Fault> {
        if flush(&mut self.source, &mut self.copier.to_source).is_err() {
            self.source_again().await?;
        }
        if flush(&mut self.target, &mut self.copier.to_target).is_err() {
            self.target_again().await?;
        }
        Ok(())
    }

    async fn read_stream(&mut self) -> Result<(), Fault> {
        self.bytes.clear();
        let read = self.attached.line.try_read(&mut self.bytes);
        self.copier.stream_said(&self.bytes);
        if let Err(e) = read {
            let why = self.attached.line.said(&e);
            self.stream_again(&why).await?;
        }
        Ok(())
    }

    async fn read_source(&mut self) -> Result<(), Fault> {
        self.bytes.clear();
        let read = self.source.try_read(&mut self.bytes);
        self.copier.source_said(&self.bytes);
        if read.is_err() { self.source_again().await } else { Ok(()) }
    }

    async fn read_target(&mut self) -> Result<(), Fault> {
        self.bytes.clear();
        let read = self.target.try_read(&mut self.bytes);
        self.copier.target_said(&self.bytes);
        if read.is_err() { self.target_again().await } else { Ok(()) }
    }

    /// Goes on with the stream where it broke off.
    async fn stream_again(&mut self, why: &str) -> Result<(), Fault> {
        tracing::info!(task = self.ground.job.task, why, "the source's stream broke off");
        let end = Instant::now() + RECONNECT;
        loop {
            let (addr, replid) = (&self.attached.addr, &self.attached.replid);
            match attach::again(addr, replid, self.copier.received(), self.name, &self.ground.access).await {
                Ok(mut attached) => {
                    self.copier.stream_said(&std::mem::take(&mut attached.first));
                    attached.primary = self.attached.primary;
                    self.attached = attached;
                    return Ok(());
                }
                Err(why) if why.contains("does not go on") || Instant::now() > end => return Err(Fault::failed(why)),
                Err(_) => sleep(RECONNECT_PAUSE).await,
            }
        }
    }

    /// Asks again what was asked.
    async fn source_again(&mut self) -> Result<(), Fault> {
        let end = Instant::now() + RECONNECT;
        loop {
            match self.source_anew().await {
                Ok(Some(line)) => {
                    self.source = line;
                    self.copier.source_lost();
                    return Ok(());
                }
                // Its cursors are those of another table of keys, in which ours would skip some.
                Ok(None) => return Err(Fault::failed(format!("{}: was started again", self.attached.addr))),
                Err(fault) if fault.hopeless || Instant::now() > end => return Err(fault),
                Err(_) => sleep(RECONNECT_PAUSE).await,
            }
        }
    }

    /// None: another process answers there.
    async fn source_anew(&self) -> Result<Option<Line>, Fault> {
        let connected = self.name.connect(&self.attached.addr, &self.ground.access, Part::Reader).await;
        let mut line = connected.map_err(Fault::failed)?;
        if run_id(&mut line).await.map_err(Fault::failed)? != self.source_id {
            return Ok(None);
        }
        let there = attach::look(&mut line).await.map_err(Fault::failed)?;
        if there.replid == self.attached.replid { Ok(Some(line)) } else { Err(lost_history(&self.attached.addr)) }
    }

    /// Nothing goes on before somebody comes, and a target that is out of memory refuses its own clients meanwhile: what was
    /// copied goes. The next attempt begins with that anyhow.
    async fn take_away(&mut self, status: &Status) {
        let taken_away = async {
            let mut line = self.target_anew().await?;
            sweep::clear(&mut line, &Slots::from(&*self.ground.job), 0).await
        };
        tokio::pin!(taken_away);
        let mut reports = interval(REPORT);
        let removed = loop {
            tokio::select! {
                removed = &mut taken_away => break removed,
                _ = reports.tick() => {
                    self.ground.report(Status { stage: Stage::Purging, ..status.clone() }).await;
                }
            }
        };
        match removed {
            Ok(keys) => tracing::info!(task = self.ground.job.task, keys, "what was copied was removed at the target"),
            Err(why) => tracing::warn!(task = self.ground.job.task, why, "what was copied stays at the target"),
        }
    }

    /// Another connection to the target, the old one killed: what it was told may have been done or not.
    async fn target_again(&mut self) -> Result<(), Fault> {
        self.copier.target_lost();
        let end = Instant::now() + RECONNECT;
        loop {
            match self.target_anew().await {
                Ok(line) => {
                    self.target = line;
                    self.copier.target_back();
                    return Ok(());
                }
                Err(why) if Instant::now() > end => return Err(Fault::failed(why)),
                Err(_) => sleep(RECONNECT_PAUSE).await,
            }
        }
    }

    async fn target_anew(&self) -> Result<Line, String> {
        let job = &self.ground.job;
        let mut line = self.name.connect(&job.target.primary, &self.ground.access, Part::Writer).await?;
        (self.ground.confirm)(job.token).await?;
        match run_id(&mut line).await? {
            id if id == self.run_id => Ok(line),
            _ => Err(format!("{}: was started again", job.target.primary)),
        }
    }
}

fn lost_history(addr: &cluster::instance::Addr) -> Fault {
    Fault::failed(format!("{addr}: has another history now"))
}

/// Writes what the socket takes.
fn flush(line: &mut Line, bytes: &mut Vec<u8>) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match line.try_write(&bytes[done..]) {
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
            Err(e) => return Err(e),
        }
    }
    bytes.drain(..done);
    Ok(())
}

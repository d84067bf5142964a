//! Slots move on access: the target serves them, and proxies bring each key before it is used. Here the rest is brought, pass
//! after pass over all keys of the source, until two passes met none of these slots.
#![expect(clippy::disallowed_methods, reason = "a shell: reads the clock")]

use super::Told;
use super::core::moving::{BATCH_KEYS, batches};
use super::core::pace::Pace;
use super::core::slots::Slots;
use super::core::{Fault, shown};
use super::ferry::Ferry;
use super::ground::{Ground, REPORT, ended, nothing_yet, run_id};
use super::name::{Name, Part};
use super::{preflight, sweep};
use crate::control::job::{Goal, Stage, Status};
use cluster::resp::reply::integer;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::{interval, sleep};

/// Passes that meet nothing before it is said that nothing is left.
const EMPTY_PASSES: u32 = 2;
/// How often limits are looked at anew.
const TICK: Duration = Duration::from_millis(5);
/// How often both sides are asked how quickly they answer.
const PING: Duration = Duration::from_millis(250);

/// Runs until it is dropped: also after its end it says how that was.
pub(super) async fn run(ground: Ground) {
    let (said, now) = watch::channel(Status { stage: Stage::Fetching, ..nothing_yet() });
    let mut reports = interval(REPORT);
    let fault = {
        let fetched = fetch(&ground, &said);
        tokio::pin!(fetched);
        loop {
            tokio::select! {
                fault = &mut fetched => break fault,
                _ = reports.tick() => {
                    let status = now.borrow().clone();
                    ground.report(status).await;
                }
            }
        }
    };
    let ends = Status { stage: ended(fault), ..now.borrow().clone() };
    loop {
        ground.report(ends.clone()).await;
        sleep(REPORT * 4).await;
    }
}

/// Until there is a fault.
async fn fetch(ground: &Ground, said: &watch::Sender<Status>) -> Fault {
    let mut fetching = match Fetching::begin(ground, said).await {
        Ok(fetching) => fetching,
        Err(fault) => return fault,
    };
    let mut empty = 0;
    loop {
        match fetching.pass().await {
            Err(fault) => break fault,
            Ok(0) => empty += 1,
            Ok(_) => empty = 0,
        }
        if empty >= EMPTY_PASSES {
            break fetching.wait().await;
        }
    }
}

/// A job under way.
struct Fetching<'a> {
    ground: &'a Ground,
    said: &'a watch::Sender<Status>,
    slots: Slots,
    ferry: Ferry,
    /// The processes that answer: the source's, the target's.
    ids: (String, String),
    told: watch::Receiver<Told>,
    pace: Pace,
    begun: Instant,
    pinged: Instant,
}

impl<'a> Fetching<'a> {
    /// Kills predecessors at both ends, and what they may have left on its way.
    async fn begin(ground: &'a Ground, said: &'a watch::Sender<Status>) -> Result<Self, Fault> {
        let (job, access) = (&ground.job, &ground.access);
        let name = Name::new(&job.task, job.token, job.attempt);
        let mut target = name.connect(&job.target.primary, access, Part::Writer).await.map_err(Fault::failed)?;
        let mut source = name.connect(&job.source.primary, access, Part::Writer).await.map_err(Fault::failed)?;
        (ground.confirm)(job.token).await.map_err(Fault::failed)?;
        preflight::places(&mut source, &mut target).await?;
        preflight::is_primary(&mut source).await?;
        let ids =
            (run_id(&mut source).await.map_err(Fault::failed)?, run_id(&mut target).await.map_err(Fault::failed)?);
        let followed = (!job.source.replicas.is_empty(), !job.target.replicas.is_empty());
        let mut ferry = Ferry::new(source, target, access, followed).await?;
        ferry.clear("another attempt begins").await?;
        tracing::info!(task = job.task, attempt = job.attempt, tongue = ?ferry.tongue(), "fetching keys");
        let begun = Instant::now();
        let pace = Pace::new(&job.limits);
        let (slots, told) = (Slots::from(&**job), ground.told.clone());
        Ok(Self { ground, said, slots, ferry, ids, told, pace, begun, pinged: begun })
    }

    /// One pass over all keys of the source: how many of these slots it met.
    async fn pass(&mut self) -> Result<u64, Fault> {
        let size = self.ferry.source.done(&[b"DBSIZE"]).await.map_err(Fault::failed)?;
        let to_scan = integer(&size).unwrap_or(0).max(0) as u64;
        self.said.send_modify(|status| {
            (status.stage, status.scanned, status.to_scan) = (Stage::Fetching, 0, to_scan);
        });
        let (mut cursor, mut seen, mut large) = (b"0".to_vec(), 0, None);
        loop {
            self.may_go_on().await?;
            let (next, all) = sweep::met(&mut self.ferry.source, &cursor).await.map_err(Fault::failed)?;
            let met = all.len() as u64;
            let ours: Vec<Vec<u8>> = all.into_iter().filter(|key| self.slots.hold(key)).collect();
            seen += ours.len() as u64;
            self.carry(ours, &mut large).await?;
            self.said.send_modify(|status| status.scanned += met);
            cursor = next;
            if cursor == b"0" {
                break;
            }
        }
        match large {
            Some((key, bytes)) => Err(Fault::hopeless(format!(
                "{}: {} has {bytes} bytes, and would move in one piece, for which both sides stand still: allow it with \
                 twemslotctl migrations limit {} --value-bytes {bytes}, or remove it",
                self.ferry.source.addr(),
                shown(&key),
                self.ground.job.task
            ))),
            None => Ok(seen),
        }
    }

    /// Brings keys, but for those that are too large: the first of those is for people.
    async fn carry(&mut self, keys: Vec<Vec<u8>>, large: &mut Option<(Vec<u8>, u64)>) -> Result<(), Fault> {
        let limit = self.told.borrow().limits.value_bytes;
        let sizes = self.ferry.sizes(&keys).await?;
        let (some, too_large): (Vec<_>, Vec<_>) =
            keys.into_iter().zip(sizes).partition(|(_, size)| limit == 0 || *size <= limit);
        if large.is_none() {
            *large = too_large.into_iter().next();
        }
        for (batch, bytes) in batches(&some, self.pace.keys_max(BATCH_KEYS)) {
            self.may_go_on().await?;
            let moved = self.ferry.carry(&batch).await?;
            self.pace.asked(self.ms(), batch.len() as u64);
            self.pace.came(bytes);
            self.said.send_modify(|status| {
                (status.copied, status.bytes) = (status.copied + moved, status.bytes + bytes);
            });
        }
        Ok(())
    }

    fn ms(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    /// Waits until people, limits and both servers let it go on.
    async fn may_go_on(&mut self) -> Result<(), Fault> {
        loop {
            let Told { goal, limits } = *self.told.borrow_and_update();
            self.pace.limit(&limits);
            if self.pinged.elapsed() >= PING {
                self.look().await?;
            }
            if goal != Goal::Pause && self.pace.open(self.ms()) {
                return Ok(());
            }
            sleep(TICK).await;
        }
    }

    /// How quickly both answer; and whether they are who they were.
    async fn look(&mut self) -> Result<(), Fault> {
        self.pinged = Instant::now();
        let ms = self.ferry.ping().await?;
        self.pace.pinged(ms);
        Ok(())
    }

    /// Nothing is left; if it is not believed before something happens to a side, all begins anew.
    async fn wait(&mut self) -> Fault {
        // What a proxy had no answer to, and another party brought after all, does not come a second time.
        if let Err(fault) = self.ferry.clear("all have come").await {
            return fault;
        }
        // Also what proxies brought is at a replica by now: nothing of it is lost with the target's primary.
        if let Err(fault) = self.ferry.followed().await {
            return fault;
        }
        match self.same().await {
            Ok(()) => self.said.send_modify(|status| status.stage = Stage::Emptied),
            Err(fault) => return fault,
        }
        let status = self.said.borrow().clone();
        self.ground.report(status).await;
        loop {
            sleep(PING).await;
            if let Err(fault) = self.same().await {
                return fault;
            }
        }
    }

    async fn same(&mut self) -> Result<(), Fault> {
        let source = run_id(&mut self.ferry.source).await.map_err(Fault::failed)?;
        let target = run_id(&mut self.ferry.target).await.map_err(Fault::failed)?;
        preflight::places(&mut self.ferry.source, &mut self.ferry.target).await?;
        match (source, target) == self.ids {
            true => preflight::is_primary(&mut self.ferry.source).await,
            false => Err(Fault::failed("an instance was started again")),
        }
    }
}

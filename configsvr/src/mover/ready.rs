//! Before slots move on access: whether the source can move a key to the target is tried with one that belongs to nobody, and
//! the target is rid of all keys of these slots, at its replicas, too. From then on nothing is changed: proxies begin.

use super::core::Fault;
use super::core::moving::Tongue;
use super::core::slots::Slots;
use super::ferry::Ferry;
use super::ground::{Ground, REPORT, ended, nothing_yet, run_id};
use super::line::Line;
use super::name::{Name, Part};
use super::{functions, preflight, sweep};
use crate::control::job::{Stage, Status};
use tokio::time::{interval, sleep};

/// It is at the source, and then at the target, for a moment.
const TRIAL: &[u8] = b"twemslot:trial";
/// It ends by itself where nobody removes it, in milliseconds.
const TRIAL_MS: &[u8] = b"10000";

/// Runs until it is dropped: also after its end it says how that was.
pub(super) async fn run(ground: Ground) {
    let (mut reports, mut told) = (interval(REPORT), ground.told.clone());
    let stage = {
        let prepared = prepare(&ground);
        tokio::pin!(prepared);
        loop {
            tokio::select! {
                prepared = &mut prepared => break prepared,
                _ = reports.tick() => ground.report(nothing_yet()).await,
            }
        }
    };
    let mut stage = match stage {
        Ok(ready) => Ok(ready),
        Err(fault) => Err(ended(fault)),
    };
    loop {
        let now = match &mut stage {
            Ok((ferry, ids)) => match still(ferry, ids).await {
                Ok(()) => Stage::Tailing,
                Err(fault) => ended(fault),
            },
            Err(stage) => stage.clone(),
        };
        if !matches!(now, Stage::Tailing) {
            stage = Err(now.clone());
        }
        ground.report(Status { stage: now, ..nothing_yet() }).await;
        tokio::select! {
            () = sleep(REPORT) => {}
            // The slots are held: whether all is as it was is looked at now.
            Ok(()) = told.changed() => {}
        }
    }
}

/// Both are there, and the same processes.
async fn still(ferry: &mut Ferry, ids: &(String, String)) -> Result<(), Fault> {
    let now = (run_id(&mut ferry.source).await, run_id(&mut ferry.target).await);
    match (now.0.map_err(Fault::failed)?, now.1.map_err(Fault::failed)?) {
        now if now == *ids => Ok(()),
        _ => Err(Fault::failed("an instance was started again")),
    }
}

async fn prepare(ground: &Ground) -> Result<(Ferry, (String, String)), Fault> {
    let (job, access) = (&ground.job, &ground.access);
    let name = Name::new(&job.task, job.token, job.attempt);
    let slots = Slots::from(&**job);
    let mut target = name.connect(&job.target.primary, access, Part::Writer).await.map_err(Fault::failed)?;
    let mut source = name.connect(&job.source.primary, access, Part::Writer).await.map_err(Fault::failed)?;
    (ground.confirm)(job.token).await.map_err(Fault::failed)?;
    preflight::places(&mut source, &mut target).await?;
    preflight::is_primary(&mut source).await?;
    if preflight::knows(&mut source, "MEMORY").await? {
        let drawn = preflight::draw(&mut source).await?;
        if !job.force {
            preflight::room(&source, &mut target, replicas(ground, &name).await, &slots, &drawn).await?;
        }
        preflight::formats(&mut source, &mut target, &drawn).await?;
    }
    let ids = (run_id(&mut source).await.map_err(Fault::failed)?, run_id(&mut target).await.map_err(Fault::failed)?);
    let followed = (!job.source.replicas.is_empty(), !job.target.replicas.is_empty());
    functions::carry(&mut source, &mut target).await.map_err(Fault::failed)?;
    let mut ferry = Ferry::new(source, target, access, followed).await?;
    trial(&mut ferry).await?;
    let cleared = sweep::clear(&mut ferry.target, &slots, 0).await.map_err(Fault::failed)?;
    // What a replica still has would be taken for newer than the source's, if it were to take over.
    ferry.followed().await?;
    tracing::info!(task = job.task, cleared, tongue = ?ferry.tongue(), "slots can move on access");
    Ok((ferry, ids))
}

async fn trial(ferry: &mut Ferry) -> Result<(), Fault> {
    let key = vec![TRIAL.to_vec()];
    sweep::unlink(&mut ferry.target, &key).await.map_err(Fault::failed)?;
    ferry.source.done(&[b"SET", TRIAL, b"", b"PX", TRIAL_MS]).await.map_err(Fault::failed)?;
    // Replicas are waited for at the end, where one that is not there at this moment is no reason to give up.
    let tried = ferry.carry_one(TRIAL).await;
    let came = ferry.target.done(&[b"EXISTS", TRIAL]).await.map_err(Fault::failed)?;
    sweep::unlink(&mut ferry.source, &key).await.map_err(Fault::failed)?;
    sweep::unlink(&mut ferry.target, &key).await.map_err(Fault::failed)?;
    let (source, target) = (ferry.source.addr().clone(), ferry.target.addr().clone());
    let tongue = if ferry.tongue() == Tongue::Migrate { "MIGRATE" } else { "SLOTSMGRTONE" };
    match tried {
        Err(fault) if fault.hopeless => Err(fault),
        Err(fault) => Err(Fault::hopeless(format!(
            "{source} could not bring a key to {target} with {tongue} ({}): they must reach each other under the addresses \
             that the topology names, with the same password, and without TLS unless the servers use it among themselves; \
             --mode copy needs none of that",
            fault.why
        ))),
        Ok(_) if came != b":1\r\n" => Err(Fault::hopeless(format!(
            "a key that {source} moved to {target} with {tongue} did not come there: another server?"
        ))),
        Ok(_) => Ok(()),
    }
}

/// The target's replicas, as far as they answer.
async fn replicas(ground: &Ground, name: &Name) -> Vec<Line> {
    let mut lines = Vec::new();
    for replica in &ground.job.target.replicas {
        lines.extend(name.connect(replica, &ground.access, Part::Reader).await);
    }
    lines
}

//! What must hold, whatever happens: one decision an epoch, phases in their order, a topology published only when it is
//! committed, a promoted history that continues the recorded one, and no failover of a primary that a majority could reach.

use crate::instances::Instance;
use cluster::instance::Addr;
use configsvr::control::layout::{Failover, FailoverKind, Phase, Token};
use configsvr::store::{Change, Txn};
use std::collections::{BTreeMap, BTreeSet};

/// A primary that answered a majority for so long without a break is not to be replaced: the freshness of an opinion, and
/// what it takes to hear of it.
pub(crate) const REACHED_MS: u64 = 1_100;

/// All that was ever true.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    pub(crate) epoch: u64,
    /// The primaries under each epoch.
    primaries: BTreeMap<u64, BTreeMap<u32, String>>,
    now: BTreeMap<u32, String>,
    pub(crate) failovers: BTreeMap<String, Failover>,
    /// All writes of a history, in their order.
    histories: BTreeMap<String, Vec<u64>>,
    /// Writes that a client was told are done: under which group.
    pub(crate) acked: BTreeMap<u64, u32>,
    /// Those that a failover was entitled to lose.
    pub(crate) forgiven: BTreeSet<u64>,
    /// Which process is recorded as each group's primary.
    pub(crate) processes: BTreeMap<u32, String>,
}

impl Truth {
    /// One revision's changes.
    pub(crate) fn take(&mut self, changes: &[Change], instances: &BTreeMap<Addr, Instance>) -> Result<(), String> {
        for change in changes {
            let Change::Put(entry) = change else { continue };
            if let Some(id) = entry.key.strip_prefix("group-instances/") {
                let json: serde_json::Value = serde_json::from_str(&entry.value).map_err(|e| e.to_string())?;
                let id = id.parse().map_err(|_| "a group's key".to_owned())?;
                self.now.insert(id, json["primary"].as_str().unwrap_or_default().to_owned());
            }
        }
        let mut epoch = None;
        for change in changes {
            let Change::Put(entry) = change else { continue };
            if entry.key == "epoch" {
                let json: serde_json::Value = serde_json::from_str(&entry.value).map_err(|e| e.to_string())?;
                epoch = json["epoch"].as_u64();
            }
            if entry.key.starts_with("failovers/") {
                let record: Failover = serde_json::from_str(&entry.value).map_err(|e| e.to_string())?;
                self.moves(record, instances)?;
            }
        }
        if let Some(epoch) = epoch {
            if epoch < self.epoch {
                return Err(format!("the epoch went back from {} to {epoch}", self.epoch));
            }
            self.epoch = epoch;
            self.primaries.insert(epoch, self.now.clone());
        }
        Ok(())
    }

    fn moves(&mut self, record: Failover, instances: &BTreeMap<Addr, Instance>) -> Result<(), String> {
        let old = self.failovers.get(&record.id);
        let id = &record.id;
        let step = (old.map(|o| o.phase), record.phase);
        let good = match step {
            (None, Phase::Fence) => {
                let other = |f: &&Failover| f.group_id == record.group_id && f.phase.holds();
                if let Some(other) = self.failovers.values().find(other) {
                    return Err(format!("I1: {id} was decided while {} is under way", other.id));
                }
                record.epoch > self.epoch
            }
            (Some(Phase::Fence), Phase::Promote | Phase::Aborted) => true,
            (Some(Phase::Fence), Phase::Repair) => record.kind == FailoverKind::Switchover,
            (Some(Phase::Promote), Phase::Repair | Phase::Fence | Phase::Aborted) => true,
            (Some(Phase::Repair), Phase::Done) => true,
            (Some(a), b) => a == b,
            _ => false,
        };
        if !good {
            return Err(format!("I1: failover {id} went from {:?} to {:?}", step.0, step.1));
        }
        if matches!(step, (Some(Phase::Fence | Phase::Promote), Phase::Repair)) {
            self.committed(&record, instances)?;
        }
        self.failovers.insert(record.id.clone(), record);
        Ok(())
    }

    /// I3, and what may be lost.
    fn committed(&mut self, record: &Failover, instances: &BTreeMap<Addr, Instance>) -> Result<(), String> {
        let candidate = record.candidate.as_ref().ok_or("I3: committed without a candidate")?;
        let Some(heir) = instances.get(candidate) else { return Err(format!("I3: {candidate} is nobody")) };
        if record.replid.is_empty() {
            // A person chose; what the heir does not have is that person's business.
            let gone = self.acked.iter().filter(|(w, g)| **g == record.group_id && !heir.data.contains(w));
            self.forgiven.extend(gone.map(|(w, _)| *w));
            return Ok(());
        }
        let history = self.histories.get(&record.replid).map_or(&[][..], Vec::as_slice);
        let upto = (record.offset.unwrap_or(1) - 1) as usize;
        // It may have died and come back empty since it said so: then there is the next failover.
        let continues = record.continues.as_ref().unwrap_or(&record.replid);
        if heir.second >= upto && heir.replid2 == *continues {
            let has = heir.data.get(..upto);
            if has != history.get(..upto) {
                return Err(format!(
                    "I3: {candidate} does not continue {} ({continues}) up to {upto}: {:?}",
                    record.replid, heir.replid2
                ));
            }
        }
        if record.kind == FailoverKind::Switchover
            && let Some(lost) = history.get(upto..).and_then(|rest| rest.iter().find(|w| self.acked.contains_key(w)))
            && heir.alive
        {
            return Err(format!("a switchover lost the acknowledged write {lost} ({upto} of {})", history.len()));
        }
        self.forgiven.extend(history.get(upto..).unwrap_or_default());
        Ok(())
    }

    /// I4.
    pub(crate) fn pushes(&self, epoch: u64, message: &str) -> Result<(), String> {
        let Some(primaries) = self.primaries.get(&epoch) else {
            return Err(format!("I4: epoch {epoch} is pushed, and was never committed"));
        };
        let json: serde_json::Value = serde_json::from_str(message).map_err(|e| e.to_string())?;
        for group in json["groups"].as_array().into_iter().flatten() {
            let id = group["id"].as_u64().unwrap_or(0) as u32;
            let primary = group["instances"].as_array().into_iter().flatten().find(|i| i["role"] == "primary");
            let primary = primary.and_then(|i| i["addr"].as_str()).unwrap_or_default();
            if primaries.get(&id).is_some_and(|known| known != primary) {
                return Err(format!(
                    "I4: epoch {epoch}, group {id}: {primary} is pushed, {:?} is committed",
                    primaries[&id]
                ));
            }
        }
        Ok(())
    }

    /// I5.
    pub(crate) fn obeys(instance: &mut Instance, token: Token) -> Result<(), String> {
        if instance.fence.is_some_and(|fence| fence > token) {
            return Err(format!("I5: {} obeys {token} after {:?}", instance.addr, instance.fence));
        }
        instance.fence = Some(token);
        Ok(())
    }

    /// A write that an instance took.
    pub(crate) fn wrote(&mut self, replid: &str, at: usize, write: u64) {
        let history = self.histories.entry(replid.to_owned()).or_default();
        history.truncate(at);
        history.push(write);
    }

    /// A history that begins as a part of another.
    pub(crate) fn branches(&mut self, replid: &str, data: &[u64]) {
        self.histories.entry(replid.to_owned()).or_insert_with(|| data.to_vec());
    }
}

/// A decision that a leader just made, if this is one.
pub(crate) fn decision(txn: &Txn) -> Option<Failover> {
    let ops = txn.ops.iter().filter(|op| op.key().starts_with("failovers/"));
    let value = ops.filter_map(|op| match op {
        configsvr::store::Op::Put { value, .. } => serde_json::from_str::<Failover>(value).ok(),
        configsvr::store::Op::Delete { .. } => None,
    });
    value.into_iter().find(|f| f.phase == Phase::Fence && f.kind == FailoverKind::Failover && f.passed_over.is_empty())
}

/// No failover of a primary that a majority could reach.
pub(crate) fn is_just(
    record: &Failover,
    instance: &Instance,
    reached: usize,
    members: usize,
    now: u64,
) -> Result<(), String> {
    let well = instance.answers(now) && now >= instance.well_since + REACHED_MS && instance.run_id == record.old_run_id;
    if well && reached * 2 > members {
        return Err(format!(
            "{} was well for {} ms, {reached} members reach it: {}",
            record.old,
            now - instance.well_since,
            record.why
        ));
    }
    Ok(())
}

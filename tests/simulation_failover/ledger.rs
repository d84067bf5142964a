//! The store: transactions arrive late, are answered or not; what it commits is checked, and told to every watch.

use crate::members::name;
use crate::plant::{self, Plant, foretold};
use crate::truth;
use crate::world::{Due, MEMBERS, Sent, World};
use configsvr::control::event::{DeedId, Event};
use configsvr::store::{Change, Fault, Txn, Verdict};

impl World {
    pub(crate) fn send(&mut self, member: usize, deed: DeedId, mut txn: Txn) {
        if let Some(record) = truth::decision(&txn)
            && let Some(instance) = self.instances.get(&record.old)
            && self.nodes[member]
                .control
                .as_ref()
                .is_some_and(|c| c.view(self.now).failovers.iter().all(|f| f.id != record.id))
        {
            let reaches = |n: &usize| self.reaches_for(&name(*n), &record.old.to_string(), truth::REACHED_MS);
            let reached = (0..MEMBERS).filter(|n| self.nodes[*n].works(self.now) && reaches(n)).count();
            let checked = truth::is_just(&record, instance, reached, MEMBERS, self.now);
            self.must(checked);
        }
        plant::spoil(self.plant, &mut txn);
        if self.plant == Some(Plant::Early) && txn.ops.iter().any(|op| op.key().starts_with("group-instances")) {
            let notice = foretold(&txn, self.store.revision() + 1);
            let life = self.nodes[member].life;
            self.after(0, Due::Tell(member, life, 0, Event::Committed(notice)));
        }
        let (life, delay) = (self.nodes[member].life, self.delay());
        let mut sent = Sent { member, life, deed, txn, honest: true };
        match if self.calm || self.weather_until == 0 { 99 } else { self.rng.below(40) } {
            0 => self.wrote(&sent, Err(Fault::Unavailable("connection refused".to_owned()))),
            1 => self.wrote(&sent, Err(Fault::Unknown("connection reset".to_owned()))),
            2 => {
                sent.honest = false;
                self.after(delay, Due::Store(Box::new(sent)));
            }
            _ => self.after(delay, Due::Store(Box::new(sent))),
        }
    }

    pub(crate) fn wrote(&mut self, sent: &Sent, outcome: Result<Verdict, Fault>) {
        let (deed, delay) = (sent.deed, self.delay());
        self.after(delay, Due::Tell(sent.member, sent.life, 0, Event::Wrote { deed, outcome }));
    }

    pub(crate) fn arrive(&mut self, sent: Sent) {
        let outcome = self.store.commit(&sent.txn);
        if let Some(Verdict::Done(revision)) = outcome {
            self.note(|| format!("store: revision {revision} by m{}", sent.member));
            self.committed();
        }
        let outcome = match outcome {
            Some(_) if !sent.honest => Err(Fault::Unknown("no answer".to_owned())),
            Some(verdict) => Ok(verdict),
            None => Err(Fault::NoLease(0)),
        };
        self.wrote(&sent, outcome);
    }

    /// The last revision is checked, and told to everyone.
    pub(crate) fn committed(&mut self) {
        let Some(commit) = self.store.log.last().cloned() else { return };
        let checked = self.truth.take(&commit.changes, &self.instances);
        self.must(checked);
        self.adopted(&commit.changes);
        for n in 0..MEMBERS {
            self.watch_soon(n);
        }
    }

    /// A restarted primary was accepted, since nobody has more than it has: what it forgot is gone. The same process has
    /// forgotten nothing.
    pub(crate) fn adopted(&mut self, changes: &[Change]) {
        let keys: Vec<&str> = changes
            .iter()
            .filter_map(|c| match c {
                Change::Put(entry) => Some(entry.key.as_str()),
                Change::Delete { .. } => None,
            })
            .collect();
        let accepted = keys.iter().all(|key| key.starts_with("guards/") || *key == "epoch");
        for group in keys.iter().filter_map(|key| key.strip_prefix("guards/")?.parse::<u32>().ok()) {
            let Some((_, process)) = self.guarded(group) else { continue };
            let before = self.truth.processes.insert(group, process.clone());
            if !accepted || before.as_ref() == Some(&process) {
                continue;
            }
            let Some(primary) = self.primaries().get(&group).and_then(|p| self.instances.get(p)) else { continue };
            let acked = self.truth.acked.iter().filter(|(w, g)| **g == group && !primary.data.contains(w));
            let gone: Vec<u64> = acked.map(|(w, _)| *w).collect();
            self.truth.forgiven.extend(gone);
        }
    }
}

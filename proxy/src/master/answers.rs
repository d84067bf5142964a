//! What the admin port is answered.

use super::event::{Answer, Problem, Question, Reply};
use super::fleet::{self, Id, View};
use super::metrics::{Snapshot, WorkerNow};
use super::process::Process;
use super::traffic::Survey;
use super::{Master, clients, clock, store};
use crate::mail::ToWorker;
use crate::os::SharedPage;
use crate::relay::LinkStatus;
use cluster::group::Group;
use cluster::topology::Topology;
use cluster::wire;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// How long workers are waited for when they are asked about their links; one that is late is listed without.
const STATUS_US: u64 = 1_000_000;

/// Somebody who wants to know how all links stand.
#[derive(Debug)]
struct Inquiry {
    waiting: BTreeSet<Id>,
    links: BTreeMap<Id, Vec<LinkStatus>>,
    deadline_us: u64,
    reply: Reply,
}

/// All who want to know, by ticket.
#[derive(Debug, Default)]
pub(super) struct Inquiries {
    last: u64,
    open: BTreeMap<u64, Inquiry>,
}

impl Inquiries {
    /// A worker has answered.
    pub(super) fn note(&mut self, ticket: u64, id: Id, links: Vec<LinkStatus>) {
        if let Some(inquiry) = self.open.get_mut(&ticket) {
            inquiry.waiting.remove(&id);
            inquiry.links.insert(id, links);
        }
    }

    pub(super) fn deadline_us(&self) -> Option<u64> {
        self.open.values().map(|i| i.deadline_us).min()
    }

    /// Takes out those whose wait is over.
    fn over(&mut self, now_us: u64, lives: impl Fn(&Id) -> bool) -> Vec<Inquiry> {
        let is_over = |i: &Inquiry| i.deadline_us <= now_us || !i.waiting.iter().any(&lives);
        let over: Vec<u64> = self.open.iter().filter(|(_, i)| is_over(i)).map(|(&ticket, _)| ticket).collect();
        over.iter().filter_map(|ticket| self.open.remove(ticket)).collect()
    }
}

fn primary_of(group: &Group) -> Option<(u32, String)> {
    Some((group.id, group.primary()?.addr.to_string()))
}

impl Master {
    pub(super) fn answer(&mut self, question: Question, reply: Reply) {
        if let Some(survey) = Survey::of(&question) {
            return self.survey(survey, reply);
        }
        let answer = match question {
            Question::PutTopology { topology, timeout, quiet } => return self.put(*topology, timeout, quiet, reply),
            Question::Workers => return self.inquire(reply),
            Question::Topology => self.topology_text(),
            Question::TopologyStatus => self.topology_status(),
            Question::Config => Answer::Json(Value::Object(self.config.shown.clone())),
            Question::Reload => self.reload_answer(),
            Question::Ready => self.ready(),
            Question::Metrics => Answer::Metrics(Box::new(self.snapshot())),
            Question::SlotsTraffic => self.slots_traffic(),
            Question::HotKeys | Question::BigKeys | Question::Slowlog { .. } => return, // a survey: see above
            Question::Standing => Answer::Standing(Box::new(self.standing())),
        };
        _ = reply.send(answer); // an error: the caller has gone
    }

    fn topology_text(&self) -> Answer {
        match &self.topology {
            Some(topology) => Answer::Text(wire::print(&topology.shown())),
            None => Problem::new(404, "no_topology", "no topology was given yet", "PUT one to this path").into(),
        }
    }

    /// Stores a topology, hands it out, and lets the caller wait until it is served.
    fn put(&mut self, topology: Topology, timeout: Duration, quiet: bool, reply: Reply) {
        let epoch = topology.epoch();
        if let Err(problem) = self.install(topology) {
            _ = reply.send(problem.into());
            return;
        }
        self.barrier.wait(epoch, quiet, self.now_us(), timeout.as_micros() as u64, reply);
    }

    pub(super) fn install(&mut self, topology: Topology) -> Result<(), Problem> {
        let current = self.topology.as_deref().or(self.membership.kept_back.as_deref());
        wire::may_follow(current, &topology).map_err(|refusal| {
            let hint = "read the topology that is served, and send a change of it with a larger epoch";
            Problem::new(409, "conflict", refusal.to_string(), hint)
        })?;
        let epoch = topology.epoch();
        if self.topology.as_deref() != Some(&topology) {
            store::save(&self.topology_path, &topology).map_err(|e| {
                let message = format!("epoch {epoch} cannot be written to {}: {e}", self.topology_path.display());
                Problem::new(500, "not_stored", message, "nothing was changed; make room, or mend the permissions")
            })?;
            tracing::info!(epoch, groups = topology.groups().len(), holds = topology.holds_any(), "topology");
            (self.topology, self.membership.kept_back) = (Some(Arc::new(topology)), None);
            self.step(fleet::Event::Topology { epoch });
        } else if self.fleet.progress(epoch).behind.iter().any(|b| b.why.is_some()) {
            self.step(fleet::Event::Topology { epoch }); // whoever refused it may try again
        }
        Ok(())
    }

    fn topology_status(&self) -> Answer {
        let worker =
            |v: View| json!({"worker": v.seat, "pid": v.pid, "state": v.state, "serving": v.serving, "quiet": v.quiet});
        let workers: Vec<Value> = self.fleet.views().into_iter().map(worker).collect();
        Answer::Json(json!({"epoch": self.epoch(), "workers": workers}))
    }

    fn reload_answer(&mut self) -> Answer {
        match self.reload() {
            Ok(changed) => Answer::Json(json!({ "changed": changed })),
            Err(faults) => {
                let file = self.options.config_path.display();
                let message = format!("{file}: {}", faults.join("; "));
                let hint = "the old settings stay in force; mend every fault and reload again";
                Answer::Problem(Problem { faults, ..Problem::new(422, "invalid_config", message, hint) })
            }
        }
    }

    fn ready(&self) -> Answer {
        let why = match &self.topology {
            _ if self.fleet.stopping() => "the proxy is stopping",
            _ if self.membership.draining => {
                let hint = "send new clients to another proxy; those that are here are served";
                return Problem::new(503, "draining", "draining: the control plane wants no new clients here", hint)
                    .into();
            }
            None if self.membership.kept_back.is_some() => "waits for a configsvr: slots may have moved since it ended",
            None => "no topology was given yet",
            Some(_) if !self.fleet.serves() => "no worker serves the topology yet",
            Some(_) => return Answer::Json(json!({"ready": true, "epoch": self.epoch()})),
        };
        Problem::new(503, "not_ready", why, "send clients to another proxy meanwhile").into()
    }

    /// The statistics of all workers that live or lived, and whether they live; but for this one.
    pub(super) fn pages_without(&self, one: Option<Id>) -> Vec<(Arc<SharedPage>, bool)> {
        let living = self.processes.iter().filter(|(id, _)| Some(**id) != one);
        let living = living.map(|(_, p)| (Arc::clone(&p.page.shared), true));
        let idle = self.pages.values().chain([&self.retired]).map(|p| (Arc::clone(&p.shared), false));
        living.chain(idle).collect()
    }

    fn snapshot(&self) -> Snapshot {
        let views = self.fleet.views();
        Snapshot {
            pages: self.pages_without(None),
            workers_live: views.iter().filter(|v| v.state == "live").count(),
            workers_wanted: self.layout().workers,
            respawns: self.tally.respawns,
            reloads_ok: self.tally.reloads_ok,
            reloads_failed: self.tally.reloads_failed,
            uptime_s: clock::since(self.started).as_secs_f64(),
            started_unix_s: clock::unix_ms(self.started) as f64 / 1000.0,
            epoch: self.epoch().unwrap_or(0),
            epoch_served: views.iter().map(|v| v.serving).min().unwrap_or(0),
            draining: self.fleet.stopping() || self.membership.draining,
            membership: self.membership_now(),
            workers: self.workers_now(),
            buffer_memory_max: self.config.relay.worker_memory_max * self.layout().workers,
            slot_count: self.topology.as_ref().map_or(0, |t| usize::from(t.slot_count())),
            primaries: self.topology.iter().flat_map(|t| t.groups().iter().filter_map(primary_of)).collect(),
        }
    }

    /// The latest worker of each seat: one that drains still holds it, too.
    fn workers_now(&self) -> Vec<WorkerNow> {
        let latest: BTreeMap<usize, &Process> = self.processes.values().map(|p| (p.seat, p)).collect();
        let now = |p: &Process| WorkerNow { seat: p.seat, pid: p.pid, page: Arc::clone(&p.page.shared) };
        latest.into_values().map(now).collect()
    }

    /// Asks every worker how its links stand.
    fn inquire(&mut self, reply: Reply) {
        self.inquiries.last += 1;
        let ticket = self.inquiries.last;
        self.tell_all(&ToWorker::Status { ticket });
        let waiting = self.processes.keys().copied().collect();
        let deadline_us = self.now_us() + STATUS_US;
        self.inquiries.open.insert(ticket, Inquiry { waiting, links: BTreeMap::new(), deadline_us, reply });
    }

    pub(super) fn answer_inquiries(&mut self, now_us: u64) {
        let processes = &self.processes;
        for inquiry in self.inquiries.over(now_us, |id| processes.contains_key(id)) {
            let workers = self.fleet.views().into_iter().map(|v| self.worker_json(&v, inquiry.links.get(&v.id)));
            let workers = Answer::Json(json!({"workers": workers.collect::<Vec<_>>()}));
            _ = inquiry.reply.send(workers);
        }
    }

    fn worker_json(&self, view: &View, links: Option<&Vec<LinkStatus>>) -> Value {
        let process = self.processes.get(&view.id);
        json!({
            "worker": view.seat,
            "pid": view.pid,
            "generation": view.id,
            "state": view.state,
            "started_unix_ms": process.map(|p| clock::unix_ms(p.started)),
            "clients": process.map(clients),
            "restarts": view.restarts,
            "serving": view.serving,
            "quiet": view.quiet,
            "answered": links.is_some(),
            "links": links.map_or(&[][..], Vec::as_slice),
        })
    }
}

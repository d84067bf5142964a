//! The members: a control each, what raft tells it, how far its watch has come, and what its watchers see.

use crate::instances::Instance;
use cluster::instance::Addr;
use configsvr::control::event::{Event, Leadership};
use configsvr::control::health::{Info, Look};
use configsvr::control::layout::Token;
use configsvr::control::{Control, Member};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// One member.
pub(crate) struct Node {
    pub(crate) n: usize,
    pub(crate) control: Option<Control>,
    /// Grows with each start: what was meant for the one before is not heard.
    pub(crate) life: u64,
    /// Stands still until then; what is told it meanwhile it hears afterwards.
    pub(crate) paused_until: u64,
    pub(crate) heard: u64,
    pub(crate) token: Option<Token>,
    pub(crate) shown: usize,
    pub(crate) listed: bool,
    pub(crate) watching: bool,
    pub(crate) watchers: BTreeMap<Addr, Watcher>,
    pub(crate) close: BTreeSet<Addr>,
}

/// What a watcher has seen of an instance.
#[derive(Debug, Default)]
pub(crate) struct Watcher {
    owed_since: Option<u64>,
    refused: Option<(u32, u64)>,
    heard: Option<u64>,
    info: Option<(Arc<Info>, u64)>,
    process: String,
}

impl Watcher {
    /// One look: whether the way is open, and what is there.
    pub(crate) fn look(&mut self, now: u64, open: bool, instance: &Instance, close: bool, same_run_id: bool) -> Look {
        if open && !instance.alive {
            let (times, since) = self.refused.unwrap_or((0, now));
            self.refused = Some((times + 1, since));
            self.owed_since = None;
        } else if open && instance.answers(now) {
            let other = self.process != instance.run_id || self.owed_since.is_some() || self.refused.is_some();
            (self.owed_since, self.refused, self.heard) = (None, None, Some(now));
            let every = if close { 200 } else { 1_000 };
            if other || self.info.as_ref().is_none_or(|(_, at)| now >= at + every) {
                let mut info = instance.info(now);
                if same_run_id {
                    info.run_id = instance.addr.to_string();
                }
                self.info = Some((Arc::new(info), now));
                self.process = instance.run_id.clone();
            }
        } else {
            self.owed_since.get_or_insert(now);
            self.refused = None;
        }
        Look {
            owed_ms: self.owed_since.map(|at| now - at),
            refused: self.refused.map(|(times, at)| (times, now - at)),
            heard_ms: self.heard.map(|at| now - at),
            info: self.info.as_ref().map(|(info, at)| (info.clone(), now - at)),
            fault: None,
        }
    }
}

impl Node {
    pub(crate) fn new(n: usize, seed: u64) -> Self {
        Self {
            n,
            control: Some(control(n, seed)),
            life: 0,
            paused_until: 0,
            heard: 0,
            token: None,
            shown: 0,
            listed: false,
            watching: false,
            watchers: BTreeMap::new(),
            close: BTreeSet::new(),
        }
    }

    pub(crate) fn crash(&mut self) {
        self.control = None;
        self.life += 1;
        self.paused_until = 0;
        (self.token, self.listed, self.watching) = (None, false, false);
        self.watchers.clear();
        self.close.clear();
    }

    pub(crate) fn start(&mut self, seed: u64) {
        self.control = Some(control(self.n, seed ^ self.life));
    }

    /// It lives and moves.
    pub(crate) fn works(&self, now: u64) -> bool {
        self.control.is_some() && now >= self.paused_until
    }

    /// Whether the event may be told now; notes what it says.
    pub(crate) fn admits(&mut self, order: u64, event: &Event) -> bool {
        let Event::Leadership(leadership) = event else { return true };
        if order <= self.heard {
            return false;
        }
        self.heard = order;
        self.token = if let Leadership::Leading(token) = leadership { Some(*token) } else { None };
        true
    }
}

pub(crate) fn name(n: usize) -> String {
    format!("m{n}")
}

pub(crate) fn api(n: usize) -> String {
    format!("127.0.0.1:639{n}")
}

fn control(n: usize, seed: u64) -> Control {
    Control::new(Member { name: name(n), addr: api(n) }, seed + n as u64)
}

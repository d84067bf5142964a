//! The model instances: a process with a history, replication from one to the other, and all that can happen to them. Data
//! is the list of writes; an offset is how many of them there are, plus one.

use crate::rng::Rng;
use cluster::instance::{Addr, Role};
use configsvr::control::event::Order;
use configsvr::control::health::{Info, Load};
use configsvr::control::layout::Token;

/// How many writes a replica takes in one step.
const CHUNK: usize = 8;
/// How long a whole data set takes.
const SYNC_MS: u64 = 800;

/// One server.
#[derive(Debug, Clone)]
pub(crate) struct Instance {
    pub(crate) addr: Addr,
    pub(crate) group: u32,
    pub(crate) alive: bool,
    pub(crate) frozen_until: u64,
    /// Since when it lives and answers, without a break, as this process.
    pub(crate) well_since: u64,
    pub(crate) run_id: String,
    pub(crate) role: Role,
    pub(crate) follows: Option<Addr>,
    pub(crate) link_up: bool,
    pub(crate) link_heard: u64,
    pub(crate) sync_until: Option<u64>,
    pub(crate) replid: String,
    pub(crate) replid2: String,
    /// Up to where `replid2` holds.
    pub(crate) second: usize,
    pub(crate) data: Vec<u64>,
    pub(crate) paused_until: u64,
    /// The greatest token that was ever here, and whether a command of a smaller one followed it.
    pub(crate) fence: Option<Token>,
    lives: u64,
}

impl Instance {
    pub(crate) fn new(group: u32, port: u16, follows: Option<Addr>) -> Self {
        let addr: Addr = format!("127.0.0.1:{port}").parse().expect("an address");
        let role = if follows.is_some() { Role::Replica } else { Role::Primary };
        Self {
            run_id: format!("{addr}/0"),
            replid: format!("h{group}"),
            addr,
            group,
            alive: true,
            frozen_until: 0,
            well_since: 0,
            role,
            follows,
            link_up: true,
            link_heard: 0,
            sync_until: None,
            replid2: String::new(),
            second: 0,
            data: Vec::new(),
            paused_until: 0,
            fence: None,
            lives: 0,
        }
    }

    pub(crate) fn answers(&self, now: u64) -> bool {
        self.alive && now >= self.frozen_until
    }

    pub(crate) fn freeze(&mut self, now: u64, ms: u64) {
        self.frozen_until = self.frozen_until.max(now + ms);
        self.well_since = self.frozen_until;
    }

    pub(crate) fn kill(&mut self) {
        self.alive = false;
        self.link_up = false;
        self.sync_until = None;
    }

    /// Starts again with the first `kept` writes, as what its configuration says: a primary of a history of its own, or
    /// whom it followed.
    pub(crate) fn start(&mut self, now: u64, kept: usize) {
        self.lives += 1;
        self.alive = true;
        (self.frozen_until, self.well_since, self.paused_until) = (0, now, 0);
        self.run_id = format!("{}/{}", self.addr, self.lives);
        self.data.truncate(kept);
        self.link_up = false;
        self.sync_until = None;
        (self.replid, self.replid2) = (format!("h{}", self.run_id), String::new());
        self.fence = None;
    }

    pub(crate) fn info(&self, now: u64) -> Info {
        Info {
            run_id: self.run_id.clone(),
            version: "7.0.15".to_owned(),
            role: self.role,
            follows: self.follows.clone(),
            link_up: self.link_up,
            last_io_s: Some(now.saturating_sub(self.link_heard) / 1000),
            link_down_s: None,
            syncing: self.sync_until.is_some(),
            loading: false,
            replid: self.replid.clone(),
            replid2: self.replid2.clone(),
            second_offset: None,
            offset: self.data.len() as u64 + 1,
            priority: 100,
            load: Load::default(),
        }
    }

    /// An order is executed.
    pub(crate) fn obey(&mut self, now: u64, order: &Order) {
        match order {
            Order::Ping => {}
            Order::Detach => self.follow("127.0.0.1:1".parse().expect("an address")),
            Order::Promote { .. } | Order::Lead { .. } | Order::Succeed { .. } if self.role == Role::Primary => {}
            Order::Promote { .. } | Order::Lead { .. } | Order::Succeed { .. } => {
                (self.role, self.follows, self.link_up, self.sync_until) = (Role::Primary, None, false, None);
                self.second = self.data.len();
                self.lives += 1;
                self.replid2 = std::mem::replace(&mut self.replid, format!("h{}/{}", self.addr, self.lives));
            }
            Order::Follow { primary } | Order::Demote { primary } => {
                self.follow(primary.clone());
                self.paused_until = 0;
            }
            Order::Pause { ms } => self.paused_until = now + ms,
            Order::Resume => self.paused_until = 0,
        }
    }

    fn follow(&mut self, primary: Addr) {
        if self.follows.as_ref() != Some(&primary) || self.role == Role::Primary {
            (self.link_up, self.sync_until) = (false, None);
        }
        (self.role, self.follows) = (Role::Replica, Some(primary));
    }

    /// A step of replication from `primary`, which can be reached.
    pub(crate) fn replicate(&mut self, primary: &Self, now: u64, rng: &mut Rng) {
        if primary.role == Role::Replica && !primary.link_up {
            self.link_up = false;
            return;
        }
        let same = self.replid == primary.replid && self.data.len() <= primary.data.len();
        let continued = primary.replid2 == self.replid && self.data.len() <= primary.second;
        if self.link_up && same {
            let some = rng.below(CHUNK);
            let to = primary.data.len().min(self.data.len() + some);
            self.data.extend_from_slice(&primary.data[self.data.len()..to]);
            self.link_heard = now;
            return;
        }
        self.link_up = false;
        if same || continued {
            (self.replid, self.replid2, self.second) =
                (primary.replid.clone(), primary.replid2.clone(), primary.second);
            (self.link_up, self.link_heard, self.sync_until) = (true, now, None);
            return;
        }
        match self.sync_until {
            None => self.sync_until = Some(now + SYNC_MS),
            Some(until) if now >= until => {
                self.data = primary.data.clone();
                (self.replid, self.replid2, self.second) =
                    (primary.replid.clone(), primary.replid2.clone(), primary.second);
                (self.link_up, self.link_heard, self.sync_until) = (true, now, None);
            }
            Some(_) => {}
        }
    }
}

//! The members: a control each, what raft tells it, and how far its watch has come.

use configsvr::control::event::{CallId, Event, Leadership};
use configsvr::control::layout::Token;
use configsvr::control::{Control, Member};
use configsvr::store::Notice;
use std::collections::BTreeSet;

/// One member.
pub(crate) struct Node {
    pub(crate) n: usize,
    pub(crate) control: Option<Control>,
    /// Grows with each start: what was meant for the one before is not heard.
    pub(crate) life: u64,
    /// What raft told last; a later word is never overtaken by an earlier one.
    pub(crate) heard: u64,
    /// Its token, while raft told it that it leads.
    pub(crate) token: Option<Token>,
    /// Revisions that its watch has shown.
    pub(crate) shown: usize,
    /// Its watch begins with a list.
    pub(crate) listed: bool,
    /// The watch has something on its way.
    pub(crate) watching: bool,
    /// The watch is late by so much.
    pub(crate) lag: u64,
    pub(crate) tick_at: u64,
    /// Calls that it owes an answer.
    pub(crate) calls: BTreeSet<CallId>,
    /// The last epoch its view showed.
    pub(crate) epoch: u64,
}

impl Node {
    pub(crate) fn new(n: usize, seed: u64) -> Self {
        Self {
            n,
            control: Some(control(n, seed)),
            life: 0,
            heard: 0,
            token: None,
            shown: 0,
            listed: false,
            watching: false,
            lag: 0,
            tick_at: u64::MAX,
            calls: BTreeSet::new(),
            epoch: 0,
        }
    }

    pub(crate) fn crash(&mut self) {
        self.control = None;
        self.life += 1;
        (self.token, self.listed, self.watching, self.epoch) = (None, false, false, 0);
    }

    pub(crate) fn start(&mut self, seed: u64) {
        self.control = Some(control(self.n, seed ^ self.life));
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

    pub(crate) fn notices_lost(&mut self) -> Notice {
        self.listed = false;
        Notice::Lost("the store is away".to_owned())
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

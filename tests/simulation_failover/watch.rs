//! What the store committed, on its way to the members.

use crate::world::{Due, World};
use configsvr::control::event::Event;
use configsvr::store::Notice;

impl World {
    pub(crate) fn watch_soon(&mut self, n: usize) {
        if self.nodes[n].watching || self.nodes[n].control.is_none() {
            return;
        }
        self.nodes[n].watching = true;
        let life = self.nodes[n].life;
        let delay = self.rng.range(1, 5);
        self.after(delay, Due::Watch(n, life));
    }

    pub(crate) fn watch(&mut self, n: usize, life: u64) {
        if self.nodes[n].life != life || self.nodes[n].control.is_none() {
            return;
        }
        if self.now < self.nodes[n].paused_until {
            let wait = self.nodes[n].paused_until - self.now;
            return self.after(wait, Due::Watch(n, life));
        }
        self.nodes[n].watching = false;
        if !self.nodes[n].listed {
            self.nodes[n].listed = true;
            self.nodes[n].shown = self.store.log.len();
            let listed = Notice::Listed(self.store.snapshot());
            return self.tell(n, life, 0, Event::Committed(listed));
        }
        for at in self.nodes[n].shown..self.store.log.len() {
            let commit = self.store.log[at].clone();
            self.nodes[n].shown = at + 1;
            let notice = Notice::Changed { revision: commit.revision, changes: commit.changes };
            self.tell(n, life, 0, Event::Committed(notice));
        }
    }
}

//! Requests that wait: for a slot that the topology holds, or for one whose owner changed while earlier requests were
//! in flight at the old one. They wait in their client's order, so two writes to one key are never exchanged.

use super::request::{NONE, Request, RequestId, Stage};
use super::state::Relay;
use super::{Deed, Planted, client::Lane};
use crate::stats::Counter;

impl Relay {
    /// Keeps a request until `release`, or refuses it where too much waits already.
    #[cold]
    pub(super) fn hold(&mut self, id: RequestId, raw: &[u8]) {
        let request = &mut self.requests[id as usize];
        let client = &mut self.clients[request.client as usize];
        let client_full = client.held_bytes + raw.len() > self.settings.hold_client_bytes_max;
        if client_full || self.held_bytes + raw.len() > self.settings.hold_worker_bytes_max {
            let text = "TRYAGAIN twemslot: the slot is held and too many bytes wait for it already; nothing was sent";
            return self.refuse(id, Counter::ErrorsHeldTooLong, text);
        }
        client.held += 1;
        client.held_bytes += raw.len();
        self.held_bytes += raw.len();
        if request.slot == super::request::NO_SLOT {
            client.held_wide += 1;
        } else if self.routes.slots[usize::from(request.slot)].moving {
            client.held_moving += 1;
        }
        debug_assert_eq!(request.stage, Stage::Waiting);
        request.kept = self.pool.keep(raw);
        self.held.push_back(id);
        self.stats.add(Counter::Held, 1);
    }

    /// Routes everything that waits anew, in order; what still has to wait is kept again.
    pub(super) fn release(&mut self) {
        let mut queue = std::mem::take(&mut self.held);
        self.held_bytes = 0;
        if self.planted == Some(Planted::ReleaseBackwards) {
            queue = queue.into_iter().rev().collect();
        }
        for &id in &queue {
            let client = &mut self.clients[self.requests[id as usize].client as usize];
            (client.held, client.held_wide, client.held_moving, client.held_bytes) = (0, 0, 0, 0);
        }
        for id in queue {
            let request = &mut self.requests[id as usize];
            let waited = self.now.us.saturating_sub(since(request));
            let raw = std::mem::take(&mut request.kept);
            let before = self.held.len();
            self.place_again(id, &raw);
            if self.held.len() == before {
                self.stats.add(Counter::HeldUsSum, waited);
            }
            self.pool.give(raw);
        }
        let waiting = self.waiting.clone();
        self.resumable.extend(waiting);
    }

    /// Answers what has waited too long.
    pub(super) fn expire_held(&mut self) {
        let limit = self.settings.hold_timeout_us;
        let mut freed = false;
        while let Some(&id) = self.held.front() {
            let request = &mut self.requests[id as usize];
            let waited = self.now.us.saturating_sub(since(request));
            if waited < limit {
                break;
            }
            self.held.pop_front();
            self.stats.add(Counter::HeldUsSum, waited);
            let raw = std::mem::take(&mut request.kept);
            let client = &mut self.clients[request.client as usize];
            client.held -= 1;
            client.held_bytes -= raw.len();
            self.held_bytes -= raw.len();
            if request.slot == super::request::NO_SLOT {
                client.held_wide -= 1;
                freed |= client.held > 0;
            } else if self.routes.slots[usize::from(request.slot)].moving {
                client.held_moving -= 1;
                freed |= client.held > 0;
            }
            self.pool.give(raw);
            let slot = self.requests[id as usize].slot;
            let text = self.not_fetched(slot, limit).unwrap_or_else(|| held_too_long(limit));
            self.refuse(id, Counter::ErrorsHeldTooLong, &text);
        }
        if freed {
            // What waited behind a split request, or behind keys that do not come, goes first: the client's next one would overtake it.
            self.release();
        }
        for client in self.waiting.clone() {
            let Lane::Waiting { since_us, command, slot } = self.clients[client as usize].lane else { continue };
            if self.expire_blocked(client, command) {
                continue;
            }
            let idle = self.clients[client as usize].head == NONE;
            let waited = self.now.us.saturating_sub(since_us);
            if idle && waited >= limit {
                self.stats.add(Counter::Held, 1);
                self.stats.add(Counter::HeldUsSum, waited);
                let text = self.not_fetched(slot, limit).unwrap_or_else(|| held_too_long(limit));
                self.refuse_waiting(client, &text);
            }
        }
    }

    /// Forgets what a client that is gone had waiting.
    pub(super) fn forget_held(&mut self, client: super::ClientId) {
        let queue = std::mem::take(&mut self.held);
        for id in queue {
            let request = &self.requests[id as usize];
            if request.client == client {
                self.held_bytes -= request.kept.len();
            } else {
                self.held.push_back(id);
            }
        }
    }

    /// Looks whether slots that settle are quiet now, and whether the barrier can be reported.
    pub(super) fn settle(&mut self) {
        if !self.routes.unsettled {
            return;
        }
        let mut settled = false;
        let mut quiet = self.wide_before == 0;
        let mut unsettled = false;
        for (route, load) in self.routes.slots.iter_mut().zip(&self.loads) {
            let in_flight = load.in_flight;
            if route.settling && in_flight == 0 && self.wide_before == 0 {
                route.settling = false;
                settled = true;
            }
            quiet &= !(route.held || route.settling) || in_flight == 0;
            unsettled |= route.settling;
        }
        if quiet
            && self.orphans_are_quiet()
            && let Some(epoch) = self.routes.quiet_owed.take()
        {
            self.deeds.push_back(Deed::Quiet { epoch });
        }
        self.routes.unsettled = unsettled || self.routes.quiet_owed.is_some();
        if settled | self.keys_have_come() {
            self.release();
        }
    }
}

fn held_too_long(limit_us: u64) -> String {
    format!(
        "TRYAGAIN twemslot: the slot was held for {} ms, its group is being changed; nothing was sent",
        limit_us / 1000
    )
}

/// Since when a request waits: it came then, or the last answer to what it asked so far (DBSIZE asks many times).
fn since(request: &Request) -> u64 {
    request.started_us.max(request.sent_us)
}

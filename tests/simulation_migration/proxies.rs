//! The model proxies: they take what may follow, hold what is held, and say that nothing is in flight only when nothing is.
//! One that is cut off from the control plane serves on what it has; one that starts waits for contact first.

use crate::world::Push;
use cluster::beat::{Beat, Sight};
use cluster::instance::Addr;
use cluster::slot::Slot;
use cluster::topology::{SlotState, Topology};
use cluster::wire::{self, Refusal};
use configsvr::control::event::PushFault;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How long one that starts waits for the control plane before it serves what is on its disk.
const PATIENCE_MS: u64 = 2_000;

/// One proxy.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) id: String,
    /// Grows with each start.
    pub(crate) life: u64,
    pub(crate) up: bool,
    pub(crate) frozen_until: u64,
    /// What it serves is what is on its disk: it is written before it is served.
    topology: Option<Arc<Topology>>,
    /// False: it has just started, and has not heard from the control plane yet.
    pub(crate) serves: bool,
    /// It said goodbye, and was not registered again since.
    pub(crate) left: bool,
    started_at: u64,
    /// Requests that were sent and not answered: which slot, where.
    pub(crate) flights: BTreeMap<u64, (Slot, Addr)>,
    /// Pushes that are answered when nothing for held slots is in flight, and until when that is waited for.
    pub(crate) waiting: Vec<(Push, u64)>,
    /// The last success at each address.
    pub(crate) replied: BTreeMap<Addr, u64>,
}

impl Proxy {
    pub(crate) fn new(n: usize) -> Self {
        Self {
            id: format!("p{n}"),
            life: 0,
            up: true,
            frozen_until: 0,
            topology: None,
            serves: false,
            left: true,
            started_at: 1,
            flights: BTreeMap::new(),
            waiting: Vec::new(),
            replied: BTreeMap::new(),
        }
    }

    pub(crate) fn works(&self, now: u64) -> bool {
        self.up && now >= self.frozen_until
    }

    pub(crate) fn crash(&mut self) {
        self.up = false;
        self.life += 1;
        self.frozen_until = 0;
        self.flights.clear();
        self.waiting.clear();
        self.replied.clear();
    }

    pub(crate) fn start(&mut self, now: u64) {
        (self.up, self.serves, self.started_at) = (true, false, now);
    }

    /// Nobody of the control plane answers a starting one: after a while the disk has to do, unless it said goodbye.
    pub(crate) fn lose_patience(&mut self, now: u64) {
        self.serves |= self.up && !self.left && now > self.started_at + PATIENCE_MS;
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.topology.as_ref().map_or(0, |t| t.epoch())
    }

    pub(crate) fn holds(&self) -> bool {
        self.topology.as_ref().is_some_and(|t| t.holds_any())
    }

    /// A topology arrives. The outer error: what must never be.
    pub(crate) fn take(&mut self, message: &str) -> Result<Result<u64, PushFault>, String> {
        let next = wire::parse(message.as_bytes()).map_err(|e| format!("{}: {e:?}", self.id))?;
        match wire::may_follow(self.topology.as_deref(), &next) {
            Ok(()) => {
                // Links to whoever is no primary any more are closed, and with them what was in flight there.
                self.flights
                    .retain(|_, (_, addr)| next.groups().iter().any(|g| g.primary().is_some_and(|p| p.addr == *addr)));
                let epoch = next.epoch();
                self.topology = Some(Arc::new(next));
                Ok(Ok(epoch))
            }
            Err(Refusal::OlderEpoch { current, .. }) => Ok(Err(PushFault::Newer { serving: current })),
            Err(why) => Err(format!("{}: {why}", self.id)),
        }
    }

    /// Where requests for a slot go, and where their keys may still be; None: they wait.
    pub(crate) fn way(&self, slot: Slot) -> Option<(u32, Addr, Option<Addr>)> {
        let topology = self.topology.as_ref().filter(|_| self.serves)?;
        let owner = topology.slots().get(usize::from(slot))?;
        let group = owner.group.filter(|_| owner.state != SlotState::Held)?;
        let primary = |group: u32| Some(topology.group(group)?.primary()?.addr.clone());
        match owner.state {
            SlotState::Moving { target } => Some((target, primary(target)?, Some(primary(group)?))),
            _ => Some((group, primary(group)?, None)),
        }
    }

    /// Nothing is in flight for a slot that is held.
    pub(crate) fn is_quiet(&self) -> bool {
        let Some(topology) = &self.topology else { return true };
        self.flights.values().all(|(slot, _)| topology.slots()[usize::from(*slot)].state != SlotState::Held)
    }

    pub(crate) fn beat(&self, now: u64, reaches: impl Fn(&Addr) -> bool) -> Beat {
        let groups = self.topology.iter().flat_map(|t| t.groups());
        let sight = |addr: &Addr| Sight {
            addr: addr.clone(),
            links_up: u32::from(reaches(addr)),
            links: 1,
            last_reply_ms: self.replied.get(addr).map(|at| now - at),
        };
        Beat {
            id: self.id.clone(),
            version: "0.1.0".to_owned(),
            addr: format!("{}:6380", self.id),
            admin_addr: format!("{}:6381", self.id),
            zone: String::new(),
            epoch: self.epoch(),
            started_at: self.started_at,
            from_disk: false,
            leaving: false,
            instances: groups.filter_map(|g| g.primary()).map(|p| sight(&p.addr)).collect(),
        }
    }
}

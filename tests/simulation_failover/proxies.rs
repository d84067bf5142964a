//! The model proxies: they take what may follow, hold what is held, and write through the primary that they know, if it says
//! that it is one.

use cluster::beat::{Beat, Sight};
use cluster::instance::Addr;
use cluster::topology::{SlotState, Topology};
use cluster::wire::{self, Refusal};
use configsvr::control::event::PushFault;
use std::collections::BTreeMap;

/// One proxy.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) id: String,
    pub(crate) alive_at: u64,
    topology: Option<Topology>,
    /// The last success at each address.
    pub(crate) replied: BTreeMap<Addr, u64>,
}

impl Proxy {
    pub(crate) fn new(n: usize) -> Self {
        Self { id: format!("p{n}"), alive_at: 0, topology: None, replied: BTreeMap::new() }
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.topology.as_ref().map_or(0, Topology::epoch)
    }

    pub(crate) fn holds(&self) -> bool {
        self.topology.as_ref().is_some_and(Topology::holds_any)
    }

    /// A topology arrives. The outer error: what must never be.
    pub(crate) fn take(&mut self, message: &str) -> Result<Result<u64, PushFault>, String> {
        let next = wire::parse(message.as_bytes()).map_err(|e| format!("{}: {e:?}", self.id))?;
        match wire::may_follow(self.topology.as_ref(), &next) {
            Ok(()) => {
                let epoch = next.epoch();
                self.topology = Some(next);
                Ok(Ok(epoch))
            }
            Err(Refusal::OlderEpoch { current, .. }) => Ok(Err(PushFault::Newer { serving: current })),
            Err(why) => Err(format!("{}: {why}", self.id)),
        }
    }

    /// Where a write of this group goes, and to which process if that is known; None: it waits.
    pub(crate) fn way(&self, group: u32) -> Option<(Addr, Option<String>)> {
        let topology = self.topology.as_ref()?;
        let held = topology.slots().iter().any(|s| s.group == Some(group) && s.state == SlotState::Held);
        if held {
            return None;
        }
        topology.group(group)?.primary().map(|p| (p.addr.clone(), p.run_id.clone()))
    }

    /// Whether a link to this process may be used.
    pub(crate) fn takes(&self, addr: &Addr, run_id: &str) -> bool {
        let groups = self.topology.iter().flat_map(|t| t.groups());
        let named = groups.filter_map(|g| g.primary()).find(|p| p.addr == *addr).and_then(|p| p.run_id.as_ref());
        named.is_none_or(|named| named == run_id)
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
            started_at: 0,
            from_disk: false,
            leaving: false,
            instances: groups.filter_map(|g| g.primary()).map(|p| sight(&p.addr)).collect(),
        }
    }
}

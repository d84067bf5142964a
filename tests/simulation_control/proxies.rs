//! The model proxies: they take what may follow, keep it on disk, and say that they live.

use cluster::topology::Topology;
use cluster::wire::{self, Refusal};
use configsvr::control::command::Beat;
use configsvr::control::event::PushFault;

/// One proxy.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) id: String,
    pub(crate) alive: bool,
    /// What it serves; survives a restart.
    topology: Option<Topology>,
    pub(crate) started_at: u64,
}

impl Proxy {
    pub(crate) fn new(n: usize) -> Self {
        Self { id: format!("p{n}"), alive: true, topology: None, started_at: 0 }
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.topology.as_ref().map_or(0, Topology::epoch)
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

    pub(crate) fn beat(&self) -> Beat {
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
            instances: Vec::new(),
        }
    }
}

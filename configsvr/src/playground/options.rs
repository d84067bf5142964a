//! What a playground is to be like, and the plan that follows: its ports and its topology.

use anyhow::{Result, ensure};
use cluster::group::Group;
use cluster::instance::{Addr, Instance, Role};
use cluster::slot::{SLOT_COUNT_DEFAULT, SLOT_COUNT_MAX, Slot, TagRule};
use cluster::wire::{GROUPS_MAX, INSTANCES_MAX, Message, Range, State};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// The first Redis port is this far above the base port: 6401 for 6380.
const REDIS_OFFSET: u16 = 21;
/// So many proxies fit below the ports of configsvr; more come behind the last Redis port.
const PROXIES_BELOW: u16 = 5;
/// The first configsvr's port is this far above the base port: 6390 for 6380.
const CONFIGSVR_OFFSET: u16 = 10;
/// The ports below etcd's are five: members beyond three are there to try out changes of membership.
const CONFIGSVRS_MAX: u16 = 5;
/// Each of etcd's members has a port for clients and one for its peers, up to base + 20.
const ETCD_OFFSET: u16 = 15;
/// Three survive the death of one.
const ETCDS: u16 = 3;

/// Where configSvr keeps the truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StoreKind {
    /// In its own members.
    #[default]
    Embedded,
    /// In an etcd of three members, from the PATH.
    Etcd,
}

/// What to start. `Options::default()` is what `playground up` starts, on ports that are free.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where everything is kept. None: a directory of its own among the temporary files, removed at the end unless a
    /// test fails.
    pub state_dir: Option<PathBuf>,
    /// The first proxy's client port. None: a block of ports that nobody uses, so that playgrounds run side by side.
    pub base_port: Option<u16>,
    pub groups: u16,
    /// Replicas of each group.
    pub replicas: u16,
    pub proxies: u16,
    /// Members of the control plane. 0: none, the proxies serve a topology from a file.
    pub configsvrs: u16,
    pub store: StoreKind,
    /// Start configsvrs without making a cluster: their store stays empty, and proxies have nothing to serve.
    pub bare: bool,
    /// Workers of each proxy. None: `auto`, one for each core.
    pub workers: Option<u16>,
    pub slots: u16,
    /// None: looked for on the PATH.
    pub redis_server: Option<PathBuf>,
    /// None: see `find_binary`.
    pub proxy: Option<PathBuf>,
    /// None: see `find_binary`.
    pub configsvr: Option<PathBuf>,
    /// YAML beside, or in place of, what the playground writes for each proxy.
    pub proxy_conf: String,
    /// YAML beside what the playground writes for each configsvr. With tokens in it the caller makes the cluster: the
    /// playground has none.
    pub configsvr_conf: String,
    /// Lines beside what the playground writes for each Redis.
    pub redis_conf: String,
    /// Whoever holds the playground ends it on TERM, so `down` asks it first.
    pub supervised: bool,
    /// Told of each step.
    pub progress: fn(&str),
}

impl Default for Options {
    fn default() -> Self {
        Self {
            state_dir: None,
            base_port: None,
            groups: 2,
            replicas: 1,
            proxies: 1,
            configsvrs: 0,
            store: StoreKind::Embedded,
            bare: false,
            workers: None,
            slots: SLOT_COUNT_DEFAULT,
            redis_server: None,
            proxy: None,
            configsvr: None,
            proxy_conf: String::new(),
            configsvr_conf: String::new(),
            redis_conf: String::new(),
            supervised: false,
            progress: |_| (),
        }
    }
}

impl Options {
    pub(super) fn check(&self) -> Result<()> {
        let (groups, instances) = (usize::from(self.groups), 1 + usize::from(self.replicas));
        ensure!((1..=GROUPS_MAX).contains(&groups), "{groups} groups: from 1 to {GROUPS_MAX}");
        ensure!(instances <= INSTANCES_MAX, "{} replicas: at most {}", self.replicas, INSTANCES_MAX - 1);
        ensure!((1..=SLOT_COUNT_MAX).contains(&self.slots), "{} slots: from 1 to {SLOT_COUNT_MAX}", self.slots);
        ensure!(self.groups <= self.slots, "{groups} groups cannot share {} slots", self.slots);
        ensure!(self.configsvrs <= CONFIGSVRS_MAX, "{} configsvrs: at most {CONFIGSVRS_MAX}", self.configsvrs);
        ensure!(
            self.configsvrs > 0 || self.store == StoreKind::Embedded,
            "etcd without a configsvr: nobody would use it; add --configsvrs N"
        );
        ensure!(
            self.configsvrs > 0 || !self.bare,
            "bare without a configsvr: there is nothing that a cluster could be made with; add --configsvrs N"
        );
        ensure!(self.workers != Some(0), "0 workers: at least 1, or auto");
        Ok(())
    }

    fn instances(&self) -> u32 {
        u32::from(self.groups) * (1 + u32::from(self.replicas))
    }

    /// How many ports from the base port on are ours.
    pub(super) fn span(&self) -> u32 {
        u32::from(REDIS_OFFSET) + self.instances() + 2 * u32::from(self.proxies.saturating_sub(PROXIES_BELOW))
    }
}

/// Who listens where, all on the loopback address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// Of each proxy: for clients, for admin.
    pub(super) proxies: Vec<(SocketAddr, SocketAddr)>,
    /// Of each group: the primary first.
    pub(super) groups: Vec<Vec<SocketAddr>>,
    pub(super) configsvrs: Vec<SocketAddr>,
    /// Of each member of etcd: for clients, for its peers.
    pub(super) etcds: Vec<(SocketAddr, SocketAddr)>,
}

impl Plan {
    pub(super) fn new(options: &Options, base: u16) -> Result<Self> {
        let last = u32::from(base) + options.span() - 1;
        ensure!(base > 0 && last <= u32::from(u16::MAX), "base port {base}: ports up to {last} would be needed");
        let at = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let size = 1 + options.replicas;
        let first = |group: u16| base + REDIS_OFFSET + group * size;
        let behind = first(options.groups);
        let etcds = if options.store == StoreKind::Etcd { ETCDS } else { 0 };
        let pair = |i: u16| if i < PROXIES_BELOW { base + 2 * i } else { behind + 2 * (i - PROXIES_BELOW) };
        Ok(Self {
            proxies: (0..options.proxies).map(pair).map(|port| (at(port), at(port + 1))).collect(),
            groups: (0..options.groups).map(|g| (0..size).map(|i| at(first(g) + i)).collect()).collect(),
            configsvrs: (0..options.configsvrs).map(|i| at(base + CONFIGSVR_OFFSET + i)).collect(),
            etcds: (0..etcds).map(|i| base + ETCD_OFFSET + 2 * i).map(|port| (at(port), at(port + 1))).collect(),
        })
    }

    pub(super) fn addrs(&self) -> impl Iterator<Item = SocketAddr> {
        let proxies = self.proxies.iter().flat_map(|&(clients, admin)| [clients, admin]);
        let etcds = self.etcds.iter().flat_map(|&(clients, peers)| [clients, peers]);
        proxies.chain(self.groups.iter().flatten().copied()).chain(self.configsvrs.iter().copied()).chain(etcds)
    }

    /// Epoch 1: each group has an equal part of the slots, in one range.
    pub(super) fn topology(&self, slots: u16) -> Message {
        let count = self.groups.len();
        let bound = |i: usize| (i * usize::from(slots) / count) as Slot;
        let instance = |(i, &addr): (usize, &SocketAddr)| Instance {
            addr: Addr::Tcp(addr),
            role: if i == 0 { Role::Primary } else { Role::Replica },
            run_id: None, // a link must survive the instance's restart, and nobody here would tell of a new id
            zone: None,
        };
        let group = |(id, addrs): (u32, &Vec<SocketAddr>)| Group {
            id,
            name: format!("g{id}"),
            instances: addrs.iter().enumerate().map(instance).collect(),
            copies: false,
        };
        let range = |(id, i): (u32, usize)| Range {
            from: bound(i),
            to: bound(i + 1) - 1,
            group: id,
            state: State::Normal,
            target: None,
        };
        Message {
            epoch: 1,
            name: "playground".to_owned(),
            slot_count: slots,
            tag_rule: TagRule::default(),
            groups: (1..).zip(&self.groups).map(group).collect(),
            slots: (1..).zip(0..count).map(range).collect(),
            users: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn plan(groups: u16, replicas: u16, proxies: u16) -> Plan {
        let options = Options { groups, replicas, proxies, ..Options::default() };
        options.check().expect("good options");
        let plan = Plan::new(&options, 6380).expect("fits");
        let span = 6380..6380 + options.span();
        assert!(plan.addrs().all(|a| span.contains(&u32::from(a.port()))), "{plan:?} leaves {span:?}");
        plan
    }

    #[test]
    fn the_ports_that_others_rely_on() {
        let plan = plan(2, 1, 1);
        let ports: Vec<u16> = plan.addrs().map(|a| a.port()).collect();
        assert_eq!(ports, [6380, 6381, 6401, 6402, 6403, 6404]);
    }

    #[test]
    fn ports_never_collide() {
        for proxies in 0..12 {
            let ports: Vec<u16> = plan(3, 2, proxies).addrs().map(|a| a.port()).collect();
            assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), ports.len(), "{ports:?}");
            assert!(!ports.iter().any(|p| (6390..6401).contains(p)), "configsvr's: {ports:?}");
        }
    }

    #[test]
    fn the_whole_picture_has_a_port_for_each() {
        let options = Options { configsvrs: 5, store: StoreKind::Etcd, proxies: 5, ..Options::default() };
        options.check().expect("good options");
        let plan = Plan::new(&options, 6380).expect("fits");
        let ports: BTreeSet<u16> = plan.addrs().map(|a| a.port()).collect();
        assert_eq!(ports.len(), 10 + 5 + 6 + 4, "{ports:?}");
        assert_eq!(plan.configsvrs[0].port(), 6390);
    }

    #[test]
    fn slots_are_spread_evenly_and_all_have_an_owner() {
        for (groups, slots) in [(1, 1), (2, 1024), (3, 1024), (7, 16384), (5, 7)] {
            let plan = Plan::new(&Options { groups, slots, ..Options::default() }, 6380).expect("fits");
            let topology = plan.topology(slots).check().expect("valid");
            let mut counts = vec![0u16; usize::from(groups)];
            for slot in topology.slots() {
                counts[slot.group.expect("owned") as usize - 1] += 1;
            }
            let (least, most) = (counts.iter().min(), counts.iter().max());
            assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 1), "{counts:?}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let bad = [
            Options { groups: 0, ..Options::default() },
            Options { groups: 5, slots: 4, ..Options::default() },
            Options { replicas: 16, ..Options::default() },
            Options { slots: 16385, ..Options::default() },
            Options { workers: Some(0), ..Options::default() },
            Options { bare: true, ..Options::default() },
        ];
        assert!(bad.iter().all(|o| o.check().is_err()));
        assert!(Plan::new(&Options::default(), 65530).is_err());
    }
}

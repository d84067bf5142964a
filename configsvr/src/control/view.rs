//! What one member knows, for those who ask: cheap to share, never changed, replaced as a whole.

use super::command::ProxyView;
use super::event::News;
use super::layout::{Audit, Failover, Guard, Settings, SlotRange, Token};
use super::look::InstanceView;
use super::task::TaskView;
use crate::store::Revision;
use cluster::group::GroupId;
use cluster::instance::Addr;
use cluster::topology::Topology;
use serde::Serialize;
use std::sync::Arc;

/// Everything, as of the last event.
#[derive(Debug, Clone, Default)]
pub struct View {
    pub leading: bool,
    /// Who leads, as far as this member knows: name and API address.
    pub leader: Option<(String, String)>,
    pub token: Option<Token>,
    /// None: no cluster was created yet.
    pub settings: Option<Settings>,
    /// What proxies are to serve: the last valid state of the store. None: no cluster yet.
    pub topology: Option<Arc<Topology>>,
    /// The same as JSON, as it is pushed.
    pub message: Option<Arc<str>>,
    pub groups: Vec<GroupView>,
    /// Shortest list; slots without an owner are in it, with None.
    pub slots: Vec<SlotRange>,
    /// By id. Heartbeats and pushes are known to the leader alone.
    pub proxies: Vec<ProxyView>,
    /// The latest last; a bounded number of them.
    pub audit: Arc<Vec<(Revision, Audit)>>,
    /// As this member sees them.
    pub instances: Vec<InstanceView>,
    pub guards: Vec<Guard>,
    /// The latest last; a bounded number of them.
    pub failovers: Vec<Failover>,
    /// The latest last; a bounded number of them.
    pub migrations: Vec<TaskView>,
    /// Failovers that a majority of members wanted and somebody else's word forbade; since this member started.
    pub vetoes: u64,
    /// What needs somebody's attention now.
    pub alarms: Vec<News>,
    /// What is wrong with the store's contents; then `topology` is the last valid one.
    pub invalid: Vec<String>,
    /// Whether the store was heard of since this member started.
    pub heard: bool,
    /// As of when.
    pub revision: Revision,
    /// Why the store cannot be reached, if it cannot.
    pub store_fault: Option<String>,
}

/// A group, as people see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GroupView {
    pub id: GroupId,
    pub name: String,
    pub primary: Addr,
    pub replicas: Vec<Addr>,
    /// How many slots it owns.
    pub slots: usize,
}

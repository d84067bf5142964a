//! A group: a primary, its replicas, and the slots they own.

use crate::instance::{Instance, Role};
use serde::{Deserialize, Serialize};

/// A group's number; what slots refer to.
pub type GroupId = u32;

/// A primary and its replicas.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    pub id: GroupId,
    /// For people; `g<id>` where none was given.
    #[serde(default)]
    pub name: String,
    pub instances: Vec<Instance>,
    /// It may hold keys of slots that it does not own: copies that a migration makes, or has left. Who counts keys looks
    /// at each then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub copies: bool,
}

impl Group {
    /// The instance that takes writes.
    pub fn primary(&self) -> Option<&Instance> {
        self.instances.iter().find(|i| i.role == Role::Primary)
    }

    pub fn replicas(&self) -> impl Iterator<Item = &Instance> {
        self.instances.iter().filter(|i| i.role == Role::Replica)
    }
}

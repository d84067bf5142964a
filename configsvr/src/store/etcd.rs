//! The store in etcd.

/// How to reach it.
#[derive(Debug, Clone, serde::Deserialize)]
pub struct Options {}

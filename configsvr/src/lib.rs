//! The control plane: one truth, the members that guard it, every proxy in step with it.

pub mod playground;
pub mod server;
pub mod metrics;
pub mod members;
pub mod agent;
pub mod config;
pub mod log;
pub mod http;
pub mod desk;
pub mod consensus;
pub mod control;
pub mod store;

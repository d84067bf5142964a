//! The control plane: one truth, the members that guard it, every proxy in step with it.

pub mod ctl;
pub mod playground;
pub mod server;
pub mod metrics;
pub mod members;
pub mod dashboard;
pub mod door;
pub mod http;
pub mod mover;
pub mod agent;
pub mod desk;
pub mod config;
pub mod supervisor;
pub mod log;
pub mod consensus;
pub mod control;
pub mod store;
pub mod tls;

//! The control plane: one truth, the members that guard it, every proxy in step with it.

pub mod playground;
pub mod http;
pub mod desk;
pub mod control;
pub mod agent;
pub mod config;
pub mod log;
pub mod store;

//! The control plane: one truth, the members that guard it, every proxy in step with it.

pub mod playground;
pub mod desk;
pub mod consensus;
pub mod control;
pub mod store;

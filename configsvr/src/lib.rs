//! The control plane. At this point: a whole local cluster for people and tests.

pub mod playground;

//! The proxy: a master process that owns listeners and topology, and workers that relay.
//!
//! Read top to bottom: each module uses only those declared below it.

pub mod master;
pub mod worker;
pub mod config;
pub mod mail;
pub mod log;
pub mod os;
pub mod relay;
pub mod stats;
pub mod proxy_header;
mod queue;

//! Deeds: what the leader does to instances and proxies, as control asked. Each ends within a bounded time and says how
//! it went; none decides anything.

pub mod order;
pub mod follow;
pub mod watch;
pub mod probe;
pub mod push;
pub mod info;
pub mod link;

//! Deeds: what the leader does to instances and proxies, as control asked. Each ends within a bounded time and says how
//! it went; none decides anything.

pub mod follow;
pub mod probe;
pub mod push;
pub mod link;

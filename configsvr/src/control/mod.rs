//! Control: the decisions of a configsvr. Pure: events and `now` in, actions out.
//!
//! Three rules make it safe, and let it run in a simulation:
//! - only `Event::Committed` changes what is held to be true (`state`); everything else is memory of what is under way,
//!   which may be lost at any moment;
//! - every write carries its fence (the leader's key, the epoch's key, as they were when it was decided), so that the deed
//!   of a deposed leader fails where it arrives;
//! - whoever leads next goes on from what is committed.

pub mod view;
pub mod event;
pub mod command;
pub mod layout;

//! The master.

mod fleet;

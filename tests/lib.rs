//! What the tests share.

pub mod history;

//! What a Redis cluster is, and the language it speaks. Everything here is pure: no socket, clock, file or randomness.
//!
//! Read top to bottom: each module uses only those declared below it.

pub mod change;
pub mod beat;
pub mod wire;
pub mod topology;
pub mod group;
pub mod instance;
pub mod user;
pub mod slot;
pub mod resp;
pub mod tls;

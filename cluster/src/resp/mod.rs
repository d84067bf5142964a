//! The language a cluster speaks (RESP): where a request ends, where a reply ends, and how to write either.
//!
//! Nothing here builds trees or allocates by what a peer announces: parsers find boundaries and can stop and go on
//! at any byte.

pub mod request;
pub mod reply;
pub mod write;
mod number;

//! Consensus: openraft among configSvr's members. It says who leads, and carries what they agree on.

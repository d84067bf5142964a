//! What `embedded` and `memory` are made of: keys, revisions, leases and transactions, without a world.

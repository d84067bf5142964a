//! Mistakes put into the world on purpose: the checkers must see each of them. They are made where control meets the world,
//! as if a precaution of it, of the mover or of a proxy were missing.

use configsvr::store::{Compare, Txn};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plant {
    /// Proxies say that nothing is in flight, whatever is.
    NotQuiet,
    /// Proxies that start serve what is on their disk at once.
    Hasty,
    /// Proxies that said goodbye forget it, and serve what is on their disk when nobody answers.
    NoMark,
    /// The mover says that it is drained as soon as it is told to drain.
    EarlyDrained,
    /// It drains up to where it is, not up to where the source is.
    OldOffset,
    /// It does not wait for the target's replicas, and says that it has.
    NoReplicas,
    /// It goes on after it said that it is drained.
    GoesOn,
    /// Connections of earlier leaders and attempts are not killed.
    NoKill,
    /// The source's keys go when the slots are held.
    EarlySweep,
    /// Transactions compare nothing but the leader.
    NoCompare,
    /// Which proxies there should be is not stored.
    NoRoster,
    /// What is fetched replaces what the target has.
    Replaces,
    /// It is said that all keys have come after one look, whatever was on its way.
    EmptyEarly,
}

impl Plant {
    pub(crate) const ALL: [Self; 13] = [
        Self::NotQuiet,
        Self::Hasty,
        Self::NoMark,
        Self::EarlyDrained,
        Self::OldOffset,
        Self::NoReplicas,
        Self::GoesOn,
        Self::NoKill,
        Self::EarlySweep,
        Self::NoCompare,
        Self::NoRoster,
        Self::Replaces,
        Self::EmptyEarly,
    ];
}

/// What the mistake makes of a transaction.
pub(crate) fn spoil(plant: Option<Plant>, txn: &mut Txn) {
    if plant == Some(Plant::NoCompare) {
        txn.compares
            .retain(|c| matches!(c, Compare::ModifiedAt { key, .. } | Compare::Absent { key } if key == "leader"));
    }
    if plant == Some(Plant::NoRoster) {
        txn.ops.retain(|op| !op.key().starts_with("roster/"));
        txn.compares.retain(
            |c| !matches!(c, Compare::ModifiedAt { key, .. } | Compare::Absent { key } if key.starts_with("roster/")),
        );
    }
}

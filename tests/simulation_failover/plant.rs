//! Mistakes put into the world on purpose: the checkers must see each of them. They are made where control meets the world,
//! as if a precaution of it or of its shell were missing.

use cluster::instance::Role;
use configsvr::control::event::Report;
use configsvr::control::health::Look;
use configsvr::store::{Change, Compare, Entry, Notice, Op, Txn};
use std::sync::Arc;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plant {
    /// Connections of earlier leaders are not killed, and nobody asks a majority before a command is sent.
    NoFence,
    /// Transactions compare nothing but what they replace.
    NoEpochCompare,
    /// Old opinions count as fresh ones.
    StaleVotes,
    /// Every instance claims to continue the history that is asked for.
    AnyHistory,
    /// Who is furthest is not looked at: all say the same.
    NoOffsets,
    /// A topology is pushed before it is committed.
    Early,
    /// A restart is not seen.
    SameRunId,
    /// A switchover does not wait for the candidate.
    NoCatchUp,
    /// Proxies use whatever process answers at an address.
    AnyProcess,
}

impl Plant {
    pub(crate) const ALL: [Self; 9] = [
        Self::NoFence,
        Self::NoEpochCompare,
        Self::StaleVotes,
        Self::AnyHistory,
        Self::NoOffsets,
        Self::Early,
        Self::SameRunId,
        Self::NoCatchUp,
        Self::AnyProcess,
    ];
}

fn compared(compare: &Compare) -> &str {
    match compare {
        Compare::Absent { key } | Compare::ModifiedAt { key, .. } | Compare::ValueIs { key, .. } => key,
        Compare::UnwrittenSince { prefix, .. } => prefix,
    }
}

/// What the mistake makes of a transaction.
pub(crate) fn spoil(plant: Option<Plant>, txn: &mut Txn) {
    let is_claim = txn.ops.iter().any(|op| op.key() == "leader");
    if plant == Some(Plant::NoEpochCompare) && !is_claim {
        txn.compares.retain(|c| !matches!(compared(c), "epoch" | "leader") && !compared(c).starts_with("failovers/"));
    }
}

/// The same of what watchers see.
pub(crate) fn deceive(plant: Option<Plant>, look: &mut Look, asked: &str) {
    if let (Some(Plant::AnyHistory | Plant::NoOffsets), Some((info, age))) = (plant, &look.info) {
        let mut report = Report { before: (**info).clone(), after: (**info).clone() };
        lie(plant, &mut report, asked);
        look.info = Some((Arc::new(report.after), *age));
    }
}

/// What the mistake makes of what an instance says. `asked`: the history that its group is to have.
pub(crate) fn lie(plant: Option<Plant>, report: &mut Report, asked: &str) {
    match plant {
        Some(Plant::AnyHistory) if report.after.role == Role::Replica => {
            // As if nobody compared.
            report.after.replid2 = asked.to_owned();
        }
        Some(Plant::NoOffsets) => report.after.offset = 1_000_000,
        _ => {}
    }
}

/// The notice that a transaction would cause.
pub(crate) fn foretold(txn: &Txn, revision: u64) -> Notice {
    let change = |op: &Op| match op.clone() {
        Op::Put { key, value, lease } => Change::Put(Entry { key, value, modified: revision, lease }),
        Op::Delete { key } => Change::Delete { key },
    };
    Notice::Changed { revision, changes: txn.ops.iter().map(change).collect() }
}

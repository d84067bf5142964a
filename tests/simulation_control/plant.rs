//! Mistakes put into the world on purpose: the checkers must see each of them. They are made on the way between a control
//! and the store, where control's own precautions would be missing if it did not take them.

use configsvr::store::{Change, Compare, Entry, Notice, Op, Revision, Txn};
use serde_json::Value;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plant {
    /// Writes do not compare the leader's record.
    NoLeaderCompare,
    /// Changes do not compare the epoch.
    NoEpochCompare,
    /// Nor anything else.
    NoCompare,
    /// A leader writes its token over any other.
    AnyClaim,
    /// What is too much for one transaction is not kept aside until it is folded.
    NoOverlay,
    /// A transaction is done in two halves.
    Halves,
    /// The audit does not remember idempotency keys.
    ForgetKey,
    /// A control believes that what it wrote is committed, and pushes it.
    Optimist,
    /// The watch leaves a revision out.
    SkipNotice,
    /// A write is answered, but not done.
    LoseWrite,
}

impl Plant {
    pub(crate) const ALL: [Self; 10] = [
        Self::NoLeaderCompare,
        Self::NoEpochCompare,
        Self::NoCompare,
        Self::AnyClaim,
        Self::NoOverlay,
        Self::Halves,
        Self::ForgetKey,
        Self::Optimist,
        Self::SkipNotice,
        Self::LoseWrite,
    ];
}

fn key_of(op: &Op) -> &str {
    match op {
        Op::Put { key, .. } | Op::Delete { key } => key,
    }
}

fn compared(compare: &Compare) -> &str {
    match compare {
        Compare::Absent { key } | Compare::ModifiedAt { key, .. } | Compare::ValueIs { key, .. } => key,
        Compare::UnwrittenSince { prefix, .. } => prefix,
    }
}

/// What the mistake makes of a transaction.
pub(crate) fn spoil(plant: Option<Plant>, txn: &mut Txn) {
    let is_claim = txn.ops.iter().any(|op| key_of(op) == "leader");
    match plant {
        Some(Plant::NoLeaderCompare) if !is_claim => txn.compares.retain(|c| compared(c) != "leader"),
        Some(Plant::NoEpochCompare) => txn.compares.retain(|c| compared(c) != "epoch"),
        Some(Plant::NoCompare) if !is_claim => txn.compares.clear(),
        Some(Plant::AnyClaim) if is_claim => txn.compares.clear(),
        Some(Plant::NoOverlay) => edit_values(txn, "epoch", |epoch| _ = epoch.remove("unfolded")),
        Some(Plant::ForgetKey) => edit_values(txn, "audit/", |audit| _ = audit.remove("idempotency_key")),
        _ => {}
    }
}

fn edit_values(txn: &mut Txn, prefix: &str, edit: impl Fn(&mut serde_json::Map<String, Value>)) {
    for op in &mut txn.ops {
        if let Op::Put { key, value, .. } = op
            && key.starts_with(prefix)
            && let Ok(Value::Object(mut map)) = serde_json::from_str(value)
        {
            edit(&mut map);
            *value = Value::Object(map).to_string();
        }
    }
}

/// The transactions that the store really does.
pub(crate) fn parts(plant: Option<Plant>, txn: &Txn) -> Vec<Txn> {
    if plant != Some(Plant::Halves) || txn.ops.len() < 2 {
        return vec![txn.clone()];
    }
    let (first, second) = txn.ops.split_at(txn.ops.len() / 2);
    let part = |ops: &[Op], compares: Vec<Compare>| Txn { compares, ops: ops.to_vec() };
    vec![part(first, txn.compares.clone()), part(second, Vec::new())]
}

/// The notice that a transaction would cause.
pub(crate) fn foretold(txn: &Txn, revision: Revision) -> Notice {
    let change = |op: &Op| match op.clone() {
        Op::Put { key, value, lease } => Change::Put(Entry { key, value, modified: revision, lease }),
        Op::Delete { key } => Change::Delete { key },
    };
    Notice::Changed { revision, changes: txn.ops.iter().map(change).collect() }
}

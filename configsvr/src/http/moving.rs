//! The words about slots that move: what may be wished, and what a plan says.

use super::documented::{ByWord, EstimateWord, MeasuredWord, ModeWord, PlanWord, RoomWord, SpanWord};
use crate::control::balance::Balance;
use crate::control::measure::{By, Estimate, Measured, Room};
use crate::control::task::{Limits, Mode, NewLimits, Span, Window};
use cluster::group::GroupId;
use cluster::instance::Addr;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Slots that are to change hands: a migration for each move.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewMigrations {
    pub moves: Vec<Moved>,
    /// `copy` by default.
    #[serde(default)]
    #[schema(value_type = ModeWord)]
    pub mode: Mode,
    #[serde(default)]
    pub limits: MigrationLimits,
    /// Only within these hours (UTC).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "22:00-06:00")]
    pub window: Option<Window>,
    /// The epoch they were planned at: refused (409) where the topology has changed since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// Both sides are not compared before the source's keys are removed.
    #[serde(default)]
    pub skip_audit: bool,
    /// Also where the target seems to have too little memory.
    #[serde(default)]
    pub force: bool,
}

/// These slots, or so many of the source's last.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Moved {
    pub from: GroupId,
    pub to: GroupId,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<SpanWord>)]
    pub slots: Vec<Span>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u16>,
}

/// How hard a migration may push. What is not named stays, or is the default.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MigrationLimits {
    /// 0: no limit, which is the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys_per_s: Option<u64>,
    /// 0: no limit, which is the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_s: Option<u64>,
    /// A PING to either side that takes longer slows the copy down. 20 by default; 0: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<u64>,
    /// The largest value that is copied in one piece, in bytes of memory; a larger one that cannot be copied in pieces ends
    /// the copy. 64 MiB by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_bytes: Option<u64>,
}

impl MigrationLimits {
    /// Of a migration that begins.
    pub(super) fn at_first(self) -> Limits {
        let Self { keys_per_s, bytes_per_s, latency_ms, value_bytes } = self;
        NewLimits { keys_per_s, bytes_per_s, latency_ms, value_bytes }.over(Limits::default())
    }
}

/// Everybody gets a part by weight: of the slots, or of what they were measured to cost.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rebalance {
    /// By group; 1 where a group is not named, 0 for one that is to be empty.
    #[serde(default)]
    #[schema(value_type = std::collections::HashMap<String, u32>)]
    pub weights: BTreeMap<GroupId, u32>,
    /// `slots`, `keys`, `memory` or `ops`; slots by default.
    #[serde(default)]
    #[schema(value_type = ByWord)]
    pub by: By,
    /// For `ops`: how long requests are counted, from 1 to 15 seconds; 5 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 15)]
    pub seconds: Option<u64>,
    /// Only these give slots away. Empty: whoever has too much.
    #[serde(default)]
    pub givers: Vec<GroupId>,
    /// Only these get slots. Empty: whoever has too little.
    #[serde(default)]
    pub takers: Vec<GroupId>,
    /// A group that is yet to be added, for the plan; not with `apply`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imagined: Option<Imagined>,
    /// Begin the migrations. Otherwise only the plan is told.
    #[serde(default)]
    pub apply: bool,
    #[serde(default)]
    pub limits: MigrationLimits,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "22:00-06:00")]
    pub window: Option<Window>,
    /// Both sides are not compared before the source's keys are removed.
    #[serde(default)]
    pub skip_audit: bool,
    /// Also where a target has too little memory.
    #[serde(default)]
    pub force: bool,
}

/// A group that is not there yet.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Imagined {
    pub id: GroupId,
    /// Its primary first.
    #[schema(value_type = Vec<String>)]
    pub instances: Vec<Addr>,
}

/// A plan, what it goes by, what it costs; and the migrations that were begun for it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Rebalanced {
    /// It holds for this epoch; `POST /api/v1/migrations` with the moves and this epoch does exactly this.
    pub epoch: u64,
    #[schema(value_type = ByWord)]
    pub by: By,
    #[schema(value_type = PlanWord)]
    pub balance: Balance,
    #[schema(value_type = MeasuredWord)]
    pub measured: Measured,
    /// Null: the keys could not be looked at; `notes` say why.
    #[schema(value_type = Option<EstimateWord>)]
    pub estimate: Option<Estimate>,
    /// Of each instance that keys would come to.
    #[schema(value_type = Vec<RoomWord>)]
    pub room: Vec<Room>,
    pub notes: Vec<String>,
    pub begun: Vec<u64>,
    /// This very wish (by its idempotency key) was begun before: then `begun` and the moves are those of that time, and
    /// nothing was measured.
    #[serde(default)]
    pub repeated: bool,
}

/// What is to change about a migration; what is not named stays.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MigrationChange {
    /// As in `MigrationLimits`.
    pub keys_per_s: Option<u64>,
    pub bytes_per_s: Option<u64>,
    pub latency_ms: Option<u64>,
    pub value_bytes: Option<u64>,
    /// Also where the target seems to have too little memory.
    pub force: Option<bool>,
}

impl MigrationChange {
    pub(super) fn limits(self) -> NewLimits {
        let Self { keys_per_s, bytes_per_s, latency_ms, value_bytes, .. } = self;
        NewLimits { keys_per_s, bytes_per_s, latency_ms, value_bytes }
    }
}

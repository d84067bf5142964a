//! What was asked of either side and is not answered, what came of it, and how replies are read.

use super::{Fault, Key};
use cluster::resp::reply::{Elements, integer, text};
use std::sync::Arc;

/// What a question for a lifetime counts, however long its key.
const LIFETIME_BYTES: usize = 64;

/// What was asked, and how much of the answer has come.
#[derive(Debug)]
pub(super) enum Ask {
    Scan,
    /// Answers come one by one.
    Sizes {
        keys: Vec<Key>,
        answered: usize,
    },
    /// `left`: replies before that of EXEC. `there`: of each key, whether it had a size: that is told of one that has ended
    /// by the clock, too, until its primary has removed it.
    Block {
        keys: Vec<Key>,
        there: Vec<bool>,
        left: usize,
        refused: Option<String>,
    },
    /// The offset at which the pass ended.
    End,
    /// The type of a large value.
    Kind {
        key: Key,
        size: u64,
    },
    /// Names of a large hash's fields.
    Names {
        generation: u64,
    },
    Piece(PieceAsk),
}

/// Copies that came, to be sent when the stream is taken up to their offset.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) offset: u64,
    pub(super) keys: Vec<Key>,
    /// Of each key, whether it has an end: one that was not there may have had one.
    pub(super) mortal: Vec<bool>,
    /// Commands for the target, one a key, in the order of the keys.
    pub(super) commands: Vec<u8>,
    /// Or a piece of a large value.
    pub(super) piece: Option<Piece>,
}

/// A piece that came.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) generation: u64,
    pub(super) from: u64,
    pub(super) named: Named,
    pub(super) raw: Vec<u8>,
}

/// A cursor, and names of fields.
pub(super) type Named = (Vec<u8>, Vec<Vec<u8>>);

/// What is asked for a piece.
#[derive(Debug)]
pub(super) struct PieceAsk {
    pub(super) generation: u64,
    pub(super) from: u64,
    pub(super) named: Named,
    pub(super) left: usize,
}

/// What the target has not answered yet.
#[derive(Debug)]
pub(super) enum Sent {
    Copy {
        key: Key,
        bytes: usize,
    },
    /// `must_hit`: the reply 0 says that the target has not what the source had.
    Command {
        keys: Arc<[Key]>,
        bytes: usize,
        must_hit: bool,
    },
    /// How long a mortal key lives, before a command of these keys, or after it.
    Lifetime {
        keys: Arc<[Key]>,
        before: bool,
    },
    /// For `drain`.
    Barrier,
    Replication,
    Wait,
    /// For `rehearsal`.
    Replicas,
    Caught {
        online: usize,
    },
}

impl Sent {
    /// A command that may carry what is wrong with one key to another.
    pub(super) fn is_wide(&self) -> bool {
        matches!(self, Self::Command { keys, .. } if keys.len() > 1)
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Copy { bytes, .. } | Self::Command { bytes, .. } => *bytes,
            Self::Lifetime { .. } => LIFETIME_BYTES,
            Self::Barrier | Self::Replication | Self::Wait | Self::Replicas | Self::Caught { .. } => 0,
        }
    }
}

/// The offset out of a reply to ROLE.
pub(super) fn offset(raw: &[u8]) -> Result<u64, Fault> {
    let parts: Vec<&[u8]> = Elements::new(raw).map(Iterator::collect).unwrap_or_default();
    let at = match parts.first().and_then(|role| text(role)) {
        Some(b"master") => parts.get(1),
        Some(b"slave") => parts.get(4),
        _ => return Err(said("ROLE", &words(raw))),
    };
    let at = at.and_then(|at| integer(at)).and_then(|at| u64::try_from(at).ok());
    at.ok_or_else(|| Fault::failed("the source's replica has lost its primary"))
}

/// When a key ends, in milliseconds of the source's clock, by PEXPIRETIME or PTTL. None: never.
pub(super) fn until(lifetime: &[u8], time: &[u8], absolute: bool) -> Option<i64> {
    match integer(lifetime)? {
        ..0 => None,
        at if absolute => Some(at.max(1)),
        left => Some(millis(time)? + left.max(1)),
    }
}

/// The milliseconds of a reply to TIME.
fn millis(raw: &[u8]) -> Option<i64> {
    let mut parts = Elements::new(raw)?.map(|part| std::str::from_utf8(text(part)?).ok()?.parse::<i64>().ok());
    Some(parts.next()?? * 1000 + parts.next()?? / 1000)
}

/// An error reply in one line, or what there is instead of one.
pub(super) fn words(raw: &[u8]) -> String {
    String::from_utf8_lossy(&raw[..raw.len().min(200)]).trim_start_matches('-').trim_end().replace(['\r', '\n'], " ")
}

/// A key for people.
pub(in crate::mover) fn shown(key: &[u8]) -> String {
    let cut = &key[..key.len().min(80)];
    format!("\"{}\"{}", cut.escape_ascii(), if cut.len() < key.len() { "..." } else { "" })
}

/// What the source said instead of doing it.
pub(super) fn said(what: &str, words: &str) -> Fault {
    let why = format!("the source refuses {what}: {words}");
    let rights = ["NOPERM", "NOAUTH", "WRONGPASS"].iter().any(|word| words.starts_with(word));
    if rights || words.contains("unknown command") { Fault::hopeless(why) } else { Fault::failed(why) }
}

pub(super) fn too_large(key: &[u8], size: u64, most: u64) -> Fault {
    Fault::hopeless(format!(
        "{} has {size} bytes and cannot be copied in pieces; at most {most} are allowed: raise value_bytes (both \
         sides stall meanwhile) or remove the key",
        shown(key)
    ))
}

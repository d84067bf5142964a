//! Questions that one worker cannot answer alone: what it asks the others of the proxy, and what has come back so far.

use super::request::RequestId;
use cluster::group::GroupId;
use serde::{Deserialize, Serialize};

/// Asked of every other worker by way of the master. Answers are texts; those of all workers, one behind the other, are
/// the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// A line for each client.
    Clients(Box<Filter>),
    /// Close them; a line with their number.
    Kill(Box<Filter>),
    /// Ends the wait of the client of this id, as if its time were over, or with an error; a line with 1 or 0.
    Unblock {
        id: u64,
        error: bool,
    },
    /// The newest entries of the slow log, one a line as JSON.
    Slowlog {
        count: usize,
    },
    /// A line with their number.
    SlowlogLen,
    SlowlogReset,
    /// Somebody wants to see requests: see `monitor`.
    Watch,
    /// The statistics of the other workers as JSON; the master knows.
    Totals,
}

/// Which clients are meant: those that pass every test.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Filter {
    /// Not this one.
    pub skip: Option<u64>,
    pub tests: Vec<Test>,
}

/// A word of CLIENT LIST or CLIENT KILL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Test {
    /// In lower case, as `lib-name`.
    pub what: String,
    /// Those are meant of whom none of the values is true.
    #[serde(default)]
    pub not: bool,
    pub any_of: Vec<String>,
}

impl Filter {
    /// The ids, if it names clients by their ids.
    pub(super) fn ids(&self) -> Option<&[String]> {
        self.tests.iter().find(|test| test.what == "id" && !test.not).map(|test| &test.any_of[..])
    }
}

/// How the answers become a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Form {
    /// All lines as one text.
    Lines,
    /// The sum of the numbers.
    Sum,
    /// OK if any number is above 0, else this error.
    OkOr(&'static str),
    Ok,
    /// At most so many entries of the slow log, newest first.
    Slowlog(usize),
    /// INFO of these sections.
    Info(Vec<String>),
    LatencyHistogram,
}

/// A question that waits for answers.
#[derive(Debug)]
pub(super) struct Inquiry {
    pub(super) ticket: u32,
    pub(super) request: RequestId,
    pub(super) form: Form,
    /// Answers so far, our own first.
    pub(super) text: String,
    /// The other workers have not all answered.
    pub(super) awaits_workers: bool,
    /// The fan that asks all groups, while it is under way.
    pub(super) fan: Option<u32>,
    /// What the groups said.
    pub(super) groups: Vec<(GroupId, Vec<u8>)>,
    pub(super) until_us: u64,
}

impl Inquiry {
    pub(super) fn is_over(&self) -> bool {
        !self.awaits_workers && self.fan.is_none()
    }
}

/// Cuts an answer into pieces that fit into a letter each; there is at least one.
pub fn pieces(text: &str, most: usize) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while rest.len() > most {
        let at = (1..=most).rev().find(|&at| rest.is_char_boundary(at)).unwrap_or(rest.len());
        let (piece, behind) = rest.split_at(at);
        pieces.push(piece);
        rest = behind;
    }
    pieces.push(rest);
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_the_text() {
        for (text, most) in [("", 3), ("abc", 3), ("abcdefg", 3), ("aéüb", 2)] {
            let cut = pieces(text, most);
            assert_eq!(cut.concat(), text);
            assert!(cut.iter().all(|piece| piece.len() <= most), "{cut:?}");
        }
    }
}

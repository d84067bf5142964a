//! Questions that one worker cannot answer alone: what it asks the others of the proxy, and what has come back so far.

use super::command::CommandId;
use super::request::RequestId;
use cluster::group::GroupId;

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
    /// LATENCY HISTOGRAM of these commands; of none: of all.
    LatencyHistogram(Vec<CommandId>),
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

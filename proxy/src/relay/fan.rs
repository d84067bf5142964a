//! A request whose parts are under way to several groups, and how their replies become one.

use super::LinkId;
use super::command::Fan as Kind;
use super::request::{NONE, RequestId};
use cluster::group::GroupId;
use cluster::resp::{reply, write};
use std::borrow::Cow;

/// How the fragments' replies become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Merge {
    /// One array with the keys' values in their order.
    Values,
    /// +OK.
    #[default]
    Ok,
    /// The sum.
    Sum,
    /// The least; and of arrays, the least of each element.
    Least,
    LeastOfEach,
    /// How many clients a message reached: see `PubSub`.
    Published,
    /// INFO of every group: whatever they say, errors too.
    Survey,
    /// The same request to each: see `wide.rs`.
    Groups(Kind),
    /// RANDOMKEY, asked for the so-manieth time.
    RandomKey {
        tries: u8,
    },
    /// SCAN of the so-manieth group, under the owners of this print.
    Scan {
        place: u16,
        owners: u32,
    },
    /// DBSIZE, and the walks that it takes.
    Size(Size),
    /// A step of bringing a key: see `fetch.rs`. Nobody's request, so it has no parent.
    Fetch(u32),
}

/// A count of all keys under way: see `size.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Size {
    /// The so-manieth time that it was begun.
    pub(super) tries: u8,
    /// Slots had changed their owners so often: `Routes::turns`.
    pub(super) turns: u32,
    /// Of the processes whose walks go on.
    pub(super) processes: u32,
    /// Keys counted in the rounds before this one.
    pub(super) keys: i64,
}

/// One fragment.
#[derive(Debug, Default)]
pub(super) struct Part {
    pub(super) link: LinkId,
    pub(super) keys: u32,
    /// The keys' request, behind room for its header, until it is sent.
    pub(super) request: Vec<u8>,
    pub(super) reply: Vec<u8>,
    /// Which of the fan's `ends` is its next value's; `keys` of them are its own.
    pub(super) next: usize,
    /// Whether they are known.
    pub(super) ended: bool,
    /// How much of `reply` has been merged.
    pub(super) merged: usize,
}

/// A request whose fragments are under way.
#[derive(Debug, Default)]
pub(super) struct Fan {
    /// NONE: answered already (an error, a timeout), or its client is gone.
    pub(super) parent: RequestId,
    pub(super) merge: Merge,
    pub(super) pending: u32,
    pub(super) generation: u32,
    /// To which part how many keys went, one after another.
    pub(super) order: Vec<(u32, u32)>,
    pub(super) parts: Vec<Part>,
    /// Where the parts of one request to each group went.
    pub(super) groups: Vec<GroupId>,
    /// Where in its part's reply each value ends, one part after another.
    pub(super) ends: Vec<usize>,
}

/// The error that stands for the whole. "Nothing was sent" is said only where it is true of every part.
pub(super) fn error_of(fan: &Fan) -> Option<Cow<'_, [u8]>> {
    const NOTHING: &[u8] = b"; nothing was sent\r\n";
    let failed = |p: &&Part| p.reply.first() == Some(&b'-');
    let errors = || fan.parts.iter().filter(failed).map(|p| &p.reply[..]);
    let error = errors().find(|e| !e.ends_with(NOTHING)).or_else(|| errors().next())?;
    let in_part = matches!(fan.merge, Merge::Ok | Merge::Sum) && errors().count() < fan.parts.len();
    Some(match error.strip_suffix(NOTHING) {
        Some(start) if in_part => [start, b"; other groups have done their part\r\n"].concat().into(),
        _ => error.into(),
    })
}

/// The reply of a fan whose fragments are all answered, none with an error.
pub(super) fn merged(fan: &mut Fan, out: &mut Vec<u8>) {
    match fan.merge {
        Merge::Ok => out.extend_from_slice(b"+OK\r\n"),
        Merge::Sum => {
            let sums: Option<i64> = fan.parts.iter().map(|p| reply::integer(&p.reply)).sum();
            match sums {
                Some(sum) => write::integer(out, sum),
                None => write::error(out, "ERR twemslot: an instance answered something else than a number"),
            }
        }
        Merge::Least => {
            let least = fan.parts.iter().map(|p| reply::integer(&p.reply)).min().flatten();
            write::integer(out, least.unwrap_or_default());
        }
        Merge::LeastOfEach => least(fan, out),
        Merge::Values => {
            write::array(out, fan.parts.iter().map(|p| p.keys as usize).sum());
            if values(fan, out).is_none() {
                out.clear();
                write::error(out, "ERR twemslot: an instance answered fewer values than it was asked for");
            }
        }
        Merge::Published | Merge::Survey | Merge::Fetch(_) => {}
        Merge::Groups(_) | Merge::RandomKey { .. } | Merge::Size(_) | Merge::Scan { .. } => {}
    }
}

impl Fan {
    /// Whether anybody waits for it.
    pub(super) fn is_wanted(&self) -> bool {
        self.parent != NONE || matches!(self.merge, Merge::Fetch(_))
    }

    /// What its parts hold of replies.
    pub(super) fn bytes(&self) -> usize {
        self.parts.iter().map(|part| part.reply.len()).sum()
    }

    /// Makes room for where the parts' values end, once all parts have their keys.
    pub(super) fn expect_values(&mut self) {
        let mut keys = 0;
        for part in &mut self.parts {
            part.next = keys;
            keys += part.keys as usize;
        }
        self.ends.resize(keys, 0);
    }

    /// The length of the part's reply that `raw` starts with; None: it is not whole, or not what was asked for. Where its
    /// values end is kept for the merge: they are walked over once.
    pub(super) fn values_of(&mut self, part: usize, raw: &[u8]) -> Option<usize> {
        let part = &mut self.parts[part];
        let len = reply::values(raw, self.ends.get_mut(part.next..part.next + part.keys as usize)?)?;
        part.ended = true;
        Some(len)
    }
}

/// The parts' elements in the order of the keys. A call, so that its loop has the registers to itself.
#[inline(never)]
fn values(fan: &mut Fan, out: &mut Vec<u8>) -> Option<()> {
    for at in 0..fan.parts.len() {
        if !fan.parts[at].ended {
            // It came in pieces.
            let reply = std::mem::take(&mut fan.parts[at].reply);
            let len = fan.values_of(at, &reply);
            fan.parts[at].reply = reply;
            len?;
        }
        // Behind the header `*n`.
        let part = &mut fan.parts[at];
        part.merged = memchr::memchr(b'\n', &part.reply)? + 1;
    }
    for &(part, keys) in &fan.order {
        let part = &mut fan.parts[part as usize];
        part.next += keys as usize;
        let end = *fan.ends.get(part.next - 1)?;
        out.extend_from_slice(part.reply.get(part.merged..end)?);
        part.merged = end;
    }
    Some(())
}

/// The least of the first elements, of the second ones ...
pub(super) fn least(fan: &Fan, out: &mut Vec<u8>) {
    let numbers = |raw| reply::Elements::new(raw)?.map(reply::integer).collect::<Option<Vec<i64>>>();
    let replies: Option<Vec<Vec<i64>>> = fan.parts.iter().map(|p| numbers(&p.reply)).collect();
    let Some(replies) = replies.filter(|all| all.iter().all(|r| r.len() == all[0].len())) else {
        return write::error(out, "ERR twemslot: an instance answered something else than numbers");
    };
    write::array(out, replies[0].len());
    for at in 0..replies[0].len() {
        write::integer(out, replies.iter().map(|r| r[at]).min().unwrap_or_default());
    }
}

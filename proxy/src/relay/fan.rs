//! A request whose parts are under way to several groups, and how their replies become one.

use super::LinkId;
use super::request::RequestId;
use cluster::resp::{reply, write};
use std::borrow::Cow;

/// How the fragments' replies become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Merge {
    /// One array with the keys' values in their order.
    Values,
    /// +OK.
    Ok,
    /// The sum.
    Sum,
    /// The first one, less what is secret.
    Settings,
    /// The first one.
    #[default]
    First,
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
        Merge::First => out.extend_from_slice(&fan.parts[0].reply),
        Merge::Sum => {
            let sums: Option<i64> = fan.parts.iter().map(|p| reply::integer(&p.reply)).sum();
            match sums {
                Some(sum) => write::integer(out, sum),
                None => write::error(out, "ERR twemslot: an instance answered something else than a number"),
            }
        }
        Merge::Settings => without_secrets(&fan.parts[0].reply, out),
        Merge::Values => {
            write::array(out, fan.parts.iter().map(|p| p.keys as usize).sum());
            if values(fan, out).is_none() {
                out.clear();
                write::error(out, "ERR twemslot: an instance answered fewer values than it was asked for");
            }
        }
    }
}

impl Fan {
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

/// CONFIG GET's pairs, less those whose value nobody should see.
fn without_secrets(raw: &[u8], out: &mut Vec<u8>) {
    const SECRETS: [&[u8]; 6] = [
        b"requirepass",
        b"masterauth",
        b"primaryauth",
        b"masteruser",
        b"tls-key-file-pass",
        b"tls-client-key-file-pass",
    ];
    let Some(elements) = reply::Elements::new(raw) else { return out.extend_from_slice(raw) };
    let elements: Vec<&[u8]> = elements.collect();
    let open = |pair: &&[&[u8]]| {
        let name = reply::text(pair[0]).unwrap_or_default().to_ascii_lowercase();
        !SECRETS.contains(&name.as_slice())
    };
    let pairs: Vec<&[&[u8]]> = elements.chunks_exact(2).filter(open).collect();
    write::array(out, pairs.len() * 2);
    for pair in pairs {
        out.extend_from_slice(pair[0]);
        out.extend_from_slice(pair[1]);
    }
}

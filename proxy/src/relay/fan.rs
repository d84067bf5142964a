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
    /// The least; and of arrays, the least of each element.
    Least,
    LeastOfEach,
    /// How many clients a message reached: see `PubSub`.
    Published,
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
    /// How much of `reply` has been merged.
    pub(super) merged: usize,
}

/// Keys that follow one another to one owner: those from the end of the run before to `end` in the request.
#[derive(Debug)]
pub(super) struct Run {
    /// The first link to the owner; NONE: there is no owner.
    pub(super) link: LinkId,
    pub(super) keys: u32,
    pub(super) end: usize,
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
        Merge::First | Merge::Published => out.extend_from_slice(&fan.parts[0].reply),
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
        Merge::LeastOfEach => least_of_each(fan, out),
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

/// The parts' elements in the order of the keys.
fn values(fan: &mut Fan, out: &mut Vec<u8>) -> Option<()> {
    for part in &mut fan.parts {
        // Behind the header `*n`.
        part.merged = memchr::memchr(b'\n', &part.reply)? + 1;
        if part.reply.first() != Some(&b'*') {
            return None;
        }
    }
    for &(part, keys) in &fan.order {
        let part = &mut fan.parts[part as usize];
        let values = part.reply.get(part.merged..)?;
        let mut rest = values;
        for _ in 0..keys {
            rest = rest.get(reply::length(rest)?..)?;
        }
        let len = values.len() - rest.len();
        out.extend_from_slice(&values[..len]);
        part.merged += len;
    }
    Some(())
}

/// The least of the first elements, of the second ones ...
fn least_of_each(fan: &Fan, out: &mut Vec<u8>) {
    let numbers = |p: &Part| -> Vec<i64> {
        reply::Elements::new(&p.reply).into_iter().flatten().filter_map(reply::integer).collect()
    };
    let least = fan.parts.iter().map(numbers).reduce(|a, b| a.into_iter().zip(b).map(|(a, b)| a.min(b)).collect());
    let least = least.unwrap_or_default();
    write::array(out, least.len());
    least.into_iter().for_each(|n| write::integer(out, n));
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

//! Whether two servers hold the same, key by key: type, value, time to live, and what a stream's groups know.

use crate::client::Client;
use anyhow::{Context, Result, ensure};
use cluster::resp::reply::{Elements, integer, text};

/// Times to live are told in steps, and before Redis 7 as a span.
const TTL_MS: i64 = 5;
/// Whoever ends so soon may have ended at one of them only.
const SOON_MS: i64 = 2_000;

/// How one key looks.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Look {
    kind: String,
    digest: Vec<u8>,
    until: i64,
    groups: Vec<u8>,
}

fn looks(client: &mut Client, keys: &[Vec<u8>]) -> Result<Vec<Look>> {
    let ask = |words: &[&[u8]]| words.iter().map(|w| w.to_vec()).collect::<Vec<_>>();
    let each = |key: &Vec<u8>| {
        [
            ask(&[b"TYPE", key]),
            ask(&[b"DEBUG", b"DIGEST-VALUE", key]),
            ask(&[b"PEXPIRETIME", key]),
            ask(&[b"XINFO", b"GROUPS", key]),
            ask(&[b"XLEN", key]),
        ]
    };
    let requests: Vec<_> = keys.iter().flat_map(each).collect();
    let replies = client.ask_all(&requests)?;
    let look = |r: &[Vec<u8>]| -> Result<Look> {
        let kind = String::from_utf8_lossy(text(&r[0]).context("a type")?).into_owned();
        let stream = kind == "stream";
        ensure!(r[1].first() == Some(&b'*'), "DEBUG DIGEST-VALUE: {}", String::from_utf8_lossy(&r[1]));
        Ok(Look {
            digest: r[1].clone(),
            until: integer(&r[2]).context("PEXPIRETIME")?,
            groups: if stream { [&r[3][..], &r[4]].concat() } else { Vec::new() },
            kind,
        })
    };
    replies.chunks(5).map(look).collect()
}

/// The keys of either that differ, with how; and how many were compared. `ours` says which count.
pub(crate) fn differences(
    a: &mut Client,
    b: &mut Client,
    ours: impl Fn(&[u8]) -> bool,
) -> Result<(usize, Vec<String>)> {
    let mut keys: Vec<Vec<u8>> = a.keys()?;
    keys.extend(b.keys()?);
    keys.sort();
    keys.dedup();
    keys.retain(|key| ours(key));
    let mut found = Vec::new();
    for some in keys.chunks(500) {
        let (here, there) = (looks(a, some)?, looks(b, some)?);
        let time = a.say("TIME")?;
        let seconds = Elements::new(&time).and_then(|mut e| e.next()).and_then(text).context("TIME")?;
        let now = std::str::from_utf8(seconds)?.parse::<i64>()? * 1000;
        for (key, (x, y)) in some.iter().zip(here.iter().zip(&there)) {
            let ending = [x, y].iter().any(|l| l.until > 0 && l.until < now + SOON_MS);
            // A replica keeps what has ended until it is told, shows it to nobody, and still takes its digest.
            let gone = x.kind == "none" && y.kind == "none";
            let same = x.kind == y.kind && x.digest == y.digest && x.groups == y.groups;
            if !(same && (x.until - y.until).abs() <= TTL_MS || ending || gone) {
                found.push(format!("{}: {x:?} / {y:?}", key.escape_ascii()));
            }
        }
    }
    Ok((keys.len(), found))
}

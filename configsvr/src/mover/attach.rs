//! Attaches to the source's stream of writes without a full copy: PSYNC with an offset that the backlog still has.

use super::core::{Fault, Replication};
use super::line::Line;
use super::name::{Name, Part};
use crate::agent::link::Access;
use crate::control::job::Side;
use cluster::instance::Addr;
use cluster::resp::write;
use std::io;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// A primary that never had a replica has no backlog. Asked for its stream it makes one, and waits before it forks for a
/// full copy (repl-diskless-sync-delay, 5 s unless somebody changed it): who has closed by then has cost nothing.
const SHY: Duration = Duration::from_millis(250);
/// Before the second try, so that it has seen that the first one is over.
const AGAIN: Duration = Duration::from_millis(100);

/// A connection that the source's stream comes over.
pub(super) struct Attached {
    pub(super) line: Line,
    pub(super) addr: Addr,
    /// The source's primary is asked itself: it must not hear acknowledgements, WAIT would count them.
    pub(super) primary: bool,
    pub(super) replid: String,
    pub(super) offset: u64,
    /// What came with the answer.
    pub(super) first: Vec<u8>,
}

/// Attaches to a replica of the source; where none will do, to its primary.
pub(super) async fn attach(source: &Side, name: &Name, access: &Access) -> Result<Attached, Fault> {
    let mut said = name.connect(&source.primary, access, Part::Reader).await.map_err(Fault::failed)?;
    let primary = look(&mut said).await.map_err(Fault::failed)?;
    if !primary.primary {
        return Err(Fault::failed(format!("{} is no primary", source.primary)));
    }
    if primary.replid.is_empty() {
        return Err(Fault::hopeless(format!(
            "{} cannot go on with a stream of writes from where somebody else stands (PSYNC of Redis 4 and later): let its \
             slots move with --mode on-access",
            source.primary
        )));
    }
    for replica in &source.replicas {
        match attach_at(replica, &primary.replid, name, access, None).await {
            Ok(attached) => return Ok(attached),
            Err(why) => tracing::info!(%replica, why, "cannot attach to a replica of the source"),
        }
    }
    let first = attach_at(&source.primary, &primary.replid, name, access, Some(SHY)).await;
    match first {
        Ok(attached) => Ok(Attached { primary: true, ..attached }),
        Err(_) => {
            sleep(AGAIN).await;
            let second = attach_at(&source.primary, &primary.replid, name, access, Some(SHY)).await;
            second.map(|attached| Attached { primary: true, ..attached }).map_err(Fault::failed)
        }
    }
}

/// What INFO replication says.
pub(super) async fn look(line: &mut Line) -> Result<Replication, String> {
    Ok(Replication::read(&line.say(&[b"INFO", b"replication"]).await?))
}

/// `shy`: it is a primary, which is given up after so long.
async fn attach_at(
    addr: &Addr,
    replid: &str,
    name: &Name,
    access: &Access,
    shy: Option<Duration>,
) -> Result<Attached, String> {
    let mut line = name.connect(addr, access, Part::Reader).await?;
    let there = look(&mut line).await?;
    if shy.is_none() && (there.primary || !there.link_up) {
        return Err(format!("{addr}: has no link to its primary"));
    }
    if shy.is_some() {
        // A primary's history may have got its name a moment ago, with the backlog.
        return follow(line, &there.replid, there.offset, shy).await;
    }
    if there.replid != replid {
        return Err(format!("{addr}: follows another history than the primary's"));
    }
    follow(line, replid, there.offset, None).await
}

/// Goes on with a stream behind `offset` on a new connection.
pub(super) async fn again(
    addr: &Addr,
    replid: &str,
    offset: u64,
    name: &Name,
    access: &Access,
) -> Result<Attached, String> {
    let line = name.connect(addr, access, Part::Reader).await?;
    follow(line, replid, offset, None).await
}

async fn follow(mut line: Line, replid: &str, offset: u64, shy: Option<Duration>) -> Result<Attached, String> {
    line.done(&[b"REPLCONF", b"listening-port", b"1"]).await?;
    line.done(&[b"REPLCONF", b"capa", b"eof", b"capa", b"psync2"]).await?;
    let mut request = Vec::new();
    write::request(&mut request, &[b"PSYNC", replid.as_bytes(), (offset + 1).to_string().as_bytes()]);
    line.send(&request).await?;
    let first = timeout(shy.unwrap_or(super::line::ANSWER), first_line(&mut line)).await;
    let addr = line.addr().clone();
    let (said, first) = first.map_err(|_| format!("{addr}: does not go on with its stream"))??;
    let mut words = said.split(' ');
    if words.next() != Some("+CONTINUE") || words.next().is_some_and(|now| now != replid) {
        return Err(format!("{addr}: does not go on with its stream at {offset}: {said}"));
    }
    Ok(Attached { line, addr, primary: false, replid: replid.to_owned(), offset, first })
}

/// The answer to PSYNC, and what came behind it. Empty lines before it only say that the instance is busy.
async fn first_line(line: &mut Line) -> Result<(String, Vec<u8>), String> {
    let mut came = Vec::new();
    loop {
        let wrong = |e: &io::Error| line.said(e);
        line.ready(false).await.map_err(|e| wrong(&e))?;
        line.try_read(&mut came).map_err(|e| line.said(&e))?;
        let blank = came.iter().take_while(|b| **b == b'\n').count();
        came.drain(..blank);
        if let Some(end) = came.windows(2).position(|pair| pair == b"\r\n") {
            let said = String::from_utf8_lossy(&came[..end]).into_owned();
            return Ok((said, came.split_off(end + 2)));
        }
    }
}

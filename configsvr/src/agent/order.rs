//! Orders to instances, each over a connection of its own that is fenced as in `follow`: named after the leader's token,
//! those of other tokens killed, the leadership confirmed, and only then the command. Before and after it the instance says
//! who it is.
#![expect(clippy::disallowed_methods, reason = "a shell: reads the clock")]

use super::follow::fence;
use super::info;
use super::link::{self, Access, said};
use crate::control::event::{Order, Report};
use crate::control::health::{Info, may_lead};
use crate::control::layout::Token;
use crate::control::limits::LAST_CHANCE_MS;
use cluster::instance::{Addr, Role};
use redis::aio::MultiplexedConnection;
use std::future::Future;
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

/// Nobody listens there: what follows it keeps what it has, and asks again every second.
const NOWHERE: (&str, u16) = ("127.0.0.1", 1);
/// Between two looks at a replica that catches up.
const LOOK: Duration = Duration::from_micros(500);

/// Gives one order. `confirm` asks a majority whether the token still leads.
pub async fn give<F>(
    instance: &Addr,
    order: &Order,
    token: Token,
    access: &Access,
    confirm: F,
) -> Result<Report, String>
where
    F: Future<Output = Result<(), String>>,
{
    if *order == Order::Ping {
        let limit = Duration::from_millis(LAST_CHANCE_MS);
        let asked = async {
            let mut link = link::connect(instance, access).await?;
            look(&mut link).await
        };
        let info = timeout(limit, asked).await.map_err(|_| format!("no answer within {LAST_CHANCE_MS} ms"))??;
        return Ok(Report { before: info.clone(), after: info });
    }
    let mut link = link::connect(instance, access).await?;
    fence(&mut link, token).await?;
    let before = match order {
        Order::Succeed { replid, offset, ms } => {
            caught_up(&mut link, replid, *offset, Duration::from_millis(*ms)).await?
        }
        _ => look(&mut link).await?,
    };
    is_still(order, &before)?;
    confirm.await?;
    perform(&mut link, order, &before).await?;
    let after = look(&mut link).await?;
    Ok(Report { before, after })
}

/// Whether it is the one that was chosen: between the choice and the order it may have been restarted.
fn is_still(order: &Order, before: &Info) -> Result<(), String> {
    match order {
        Order::Promote { replid, offset } if !may_lead(before, replid) || before.offset < *offset => {
            Err(format!("does not have the history {replid} up to {offset} any more: {before:?}"))
        }
        Order::Lead { run_id } if before.run_id != *run_id => {
            Err(format!("is another process, {}, not {run_id}", before.run_id))
        }
        _ => Ok(()),
    }
}

/// Lets an instance use so much memory, 0: as much as there is. In its file, too, if it has one; else a note says so.
pub async fn give_memory<F>(
    instance: &Addr,
    bytes: u64,
    token: Token,
    access: &Access,
    confirm: F,
) -> Result<Option<String>, String>
where
    F: Future<Output = Result<(), String>>,
{
    let mut link = link::connect(instance, access).await?;
    fence(&mut link, token).await?;
    confirm.await?;
    say(&mut link, &["CONFIG", "SET", "maxmemory", &bytes.to_string()]).await?;
    let kept = say(&mut link, &["CONFIG", "REWRITE"]).await;
    Ok(kept.err().map(|e| format!("{instance}: until its next start, since its file was not written: {e}")))
}

async fn look(link: &mut MultiplexedConnection) -> Result<Info, String> {
    let text: String = redis::cmd("INFO").query_async(link).await.map_err(said)?;
    info::read(&text)
}

async fn perform(link: &mut MultiplexedConnection, order: &Order, before: &Info) -> Result<(), String> {
    match order {
        Order::Ping => Ok(()),
        Order::Detach => replicaof(link, NOWHERE.0, NOWHERE.1).await,
        Order::Promote { .. } | Order::Lead { .. } | Order::Succeed { .. } if before.role == Role::Primary => Ok(()),
        Order::Promote { .. } | Order::Lead { .. } | Order::Succeed { .. } => {
            say(link, &["REPLICAOF", "NO", "ONE"]).await
        }
        Order::Follow { primary } => follow(link, primary).await,
        Order::Demote { primary } => {
            demote(link, primary).await?;
            _ = say(link, &["CLIENT", "UNPAUSE"]).await; // before Redis 6.2 there is none: the pause ends by itself
            Ok(())
        }
        Order::Pause { ms } => say(link, &["CLIENT", "PAUSE", &ms.to_string(), "WRITE"]).await,
        Order::Resume => say(link, &["CLIENT", "UNPAUSE"]).await,
    }
}

async fn say(link: &mut MultiplexedConnection, words: &[&str]) -> Result<(), String> {
    let Some((name, arguments)) = words.split_first() else { return Ok(()) };
    redis::cmd(name).arg(arguments).query_async::<redis::Value>(link).await.map(drop).map_err(said)
}

async fn follow(link: &mut MultiplexedConnection, primary: &Addr) -> Result<(), String> {
    match primary {
        Addr::Tcp(addr) => replicaof(link, &addr.ip().to_string(), addr.port()).await,
        Addr::Unix(_) => Err(format!("{primary}: an instance cannot follow a unix socket")),
    }
}

/// Whoever writes here must learn that this is over; on a link that stays open it would learn it later. In one step, or
/// somebody would come back and write in between.
async fn demote(link: &mut MultiplexedConnection, primary: &Addr) -> Result<(), String> {
    let Addr::Tcp(addr) = primary else { return follow(link, primary).await };
    let mut both = redis::pipe();
    both.atomic().cmd("REPLICAOF").arg(addr.ip().to_string()).arg(addr.port()).ignore();
    both.cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal").ignore();
    if both.query_async::<()>(link).await.is_ok() {
        return Ok(());
    }
    // A server without transactions of such commands.
    say(link, &["CLIENT", "KILL", "TYPE", "normal"]).await?;
    follow(link, primary).await
}

async fn replicaof(link: &mut MultiplexedConnection, host: &str, port: u16) -> Result<(), String> {
    say(link, &["REPLICAOF", host, &port.to_string()]).await
}

/// Who it is, once it has so much of the history.
async fn caught_up(
    link: &mut MultiplexedConnection,
    replid: &str,
    offset: u64,
    limit: Duration,
) -> Result<Info, String> {
    let end = Instant::now() + limit;
    loop {
        let info = look(link).await?;
        if !may_lead(&info, replid) {
            return Err(format!("cannot continue the history {replid}: {info:?}"));
        }
        if info.offset >= offset {
            return Ok(info);
        }
        if Instant::now() >= end {
            return Err(format!("is {} bytes behind after {} ms", offset - info.offset, limit.as_millis()));
        }
        sleep(LOOK).await;
    }
}

//! Tells an instance to follow another. Redis knows no epochs, so the order of the steps is the fence: a connection is
//! named after the leader's token, those of other tokens are killed, and only then is the leadership confirmed by a
//! majority and the command sent. A deposed leader's connection is dead, or was made after the election and so fails the
//! confirmation.

use super::link::{self, Access, said};
use crate::control::layout::Token;
use cluster::instance::Addr;
use redis::aio::MultiplexedConnection;
use std::future::Future;

/// `confirm` asks a majority whether the token still leads.
pub async fn follow<F>(instance: &Addr, primary: &Addr, token: Token, access: &Access, confirm: F) -> Result<(), String>
where
    F: Future<Output = Result<(), String>>,
{
    let Addr::Tcp(primary) = primary else {
        return Err(format!("{primary}: an instance cannot follow a unix socket: give the primary's IP:PORT"));
    };
    let mut link = link::connect(instance, access).await?;
    fence(&mut link, token).await?;
    confirm.await?;
    let (host, port) = (primary.ip().to_string(), primary.port());
    redis::cmd("REPLICAOF").arg(host).arg(port).query_async::<()>(&mut link).await.map_err(said)
}

/// Names the connection and kills those of other tokens.
pub(super) async fn fence(link: &mut MultiplexedConnection, token: Token) -> Result<(), String> {
    let name = format!("cs:{token}");
    redis::cmd("CLIENT").arg("SETNAME").arg(&name).query_async::<()>(link).await.map_err(said)?;
    let list: String = redis::cmd("CLIENT").arg("LIST").query_async(link).await.map_err(said)?;
    for id in strangers(&list, &name) {
        let killed = redis::cmd("CLIENT").arg("KILL").arg("ID").arg(id).query_async::<i64>(link).await;
        killed.map_err(said)?; // 0: gone by itself
    }
    Ok(())
}

/// The ids of control connections with another name.
fn strangers<'a>(list: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    list.lines().filter_map(move |line| {
        let mut fields = line.split(' ');
        let id = fields.next()?.strip_prefix("id=")?;
        let other = fields.find_map(|f| f.strip_prefix("name="))?;
        (other.starts_with("cs:") && other != name).then_some(id)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_control_connections_of_others_are_strangers() {
        let list = "id=3 addr=127.0.0.1:1 name=cs:a db=0\nid=4 addr=x name= db=0\nid=5 addr=x name=cs:b db=0\nid=6 addr=x name=px:1";
        assert_eq!(strangers(list, "cs:b").collect::<Vec<_>>(), ["3"]);
    }
}

//! A proxy of two workers as a server: what one worker is asked about clients, users and statistics is true of both.

use anyhow::{Context, Result, bail, ensure};
use configsvr::playground::{Options, Playground, info, until};
use redis::{Client, Connection, FromRedisValue, RedisResult, Value, cmd};
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// More than a busy machine takes for anything here.
const PATIENCE: Duration = Duration::from_secs(30);
/// SHA-256 of "secret".
const HASH: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

fn playground(conf: &str) -> Result<Playground> {
    Playground::start(Options { replicas: 0, workers: Some(2), proxy_conf: conf.into(), ..Options::default() })
}

fn ask<T: FromRedisValue>(connection: &mut Connection, text: &str) -> RedisResult<T> {
    let mut words = text.split_whitespace();
    let mut request = cmd(words.next().unwrap_or_default());
    words.for_each(|word| _ = request.arg(word));
    request.query(connection)
}

fn error_of(connection: &mut Connection, text: &str) -> Result<String> {
    match ask::<Value>(connection, text) {
        Err(e) => Ok(e.to_string()),
        Ok(value) => bail!("{text}: no error but {value:?}"),
    }
}

/// A client of each worker: SO_REUSEPORT gives them by chance.
fn one_of_each(addr: SocketAddr, auth: &str) -> Result<(Connection, Connection)> {
    let client = Client::open(format!("redis://{auth}{addr}/"))?;
    let worker = |connection: &mut Connection| ask::<u64>(connection, "CLIENT ID").map(|id| id & 1023);
    let mut first = client.get_connection()?;
    let here = worker(&mut first)?;
    for _ in 0..200 {
        let mut second = client.get_connection()?;
        if worker(&mut second)? != here {
            return Ok((first, second));
        }
    }
    bail!("200 connections came to the same worker")
}

fn field(text: &str, name: &str) -> Result<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(value.with_context(|| format!("{name} is not in {text}"))?.trim().parse()?)
}

#[test]
fn clients_of_all_workers_are_listed_and_killed() -> Result<()> {
    let playground = playground("")?;
    let (mut one, mut two) = one_of_each(playground.proxy_addr()?, "")?;
    ask::<()>(&mut one, "CLIENT SETNAME one")?;
    ask::<()>(&mut two, "CLIENT SETNAME two")?;
    for asker in [&mut one, &mut two] {
        let list: String = ask(asker, "CLIENT LIST")?;
        ensure!(list.contains(" name=one ") && list.contains(" name=two "), "{list}");
    }
    let id: u64 = ask(&mut two, "CLIENT ID")?;
    ensure!(ask::<String>(&mut one, &format!("CLIENT LIST ID {id}"))?.lines().count() == 1);
    ensure!(ask::<u64>(&mut one, &format!("CLIENT KILL ID {id}"))? == 1);
    ensure!(ask::<u64>(&mut one, &format!("CLIENT KILL ID {id}"))? == 0, "it is gone");
    ensure!(ask::<Value>(&mut two, "PING").is_err(), "a killed client is served");
    ensure!(ask::<u64>(&mut one, "CLIENT KILL USER default")? == 0, "others than the asker: none is left");
    ensure!(ask::<String>(&mut one, "PING")? == "PONG");
    playground.stop()
}

#[test]
fn info_and_the_slow_log_are_those_of_the_proxy_and_its_groups() -> Result<()> {
    let playground = playground("slowlog_slower_than_us: 1\noperator_commands: true\n")?;
    let (mut one, mut two) = one_of_each(playground.proxy_addr()?, "")?;
    for n in 0..100 {
        ask::<()>(if n % 2 == 0 { &mut one } else { &mut two }, &format!("SET key:{n} x EX {}", 100 + n % 2))?;
    }
    let info: String = ask(&mut one, "INFO")?;
    ensure!(info.contains("db0:keys=100,expires=100,avg_ttl="), "{info}");
    ensure!(field(&info, "loading")? == 0 && field(&info, "used_memory")? > 1_000_000, "{info}");
    ensure!(info.contains("group1:name=") && info.contains("group2:name="), "{info}");
    // The other worker's page is a tenth of a second old, or so.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let info: String = ask(&mut one, "INFO everything")?;
        let set = info.lines().find(|line| line.starts_with("cmdstat_set:")).unwrap_or_default().to_owned();
        if set.contains("calls=100,") && field(&info, "connected_clients")? == 2 {
            break;
        }
        ensure!(Instant::now() < deadline, "{info}");
    }
    let of_group: String = ask(&mut one, "INFO 2 keyspace")?;
    ensure!(of_group.starts_with("# Keyspace") && of_group.contains("db0:keys="), "{of_group}");
    let (slow_one, slow_two): (u64, u64) = (ask(&mut one, "SLOWLOG LEN")?, ask(&mut two, "SLOWLOG LEN")?);
    ensure!(slow_one >= 50 && slow_two >= slow_one, "{slow_one} {slow_two}: both workers count");
    let entries: Vec<Vec<Value>> = ask(&mut one, "SLOWLOG GET 5")?;
    ensure!(entries.len() == 5 && entries.iter().all(|entry| entry.len() == 6), "{entries:?}");
    ask::<()>(&mut one, "SLOWLOG RESET")?;
    ensure!(ask::<u64>(&mut two, "SLOWLOG LEN")? < 10);
    let keys = |connection: &mut Connection, group: u8| ask::<u64>(connection, &format!("TWEMSLOT ON {group} DBSIZE"));
    ensure!(keys(&mut one, 1)? + keys(&mut two, 2)? == 100, "each group tells its own");
    let place: Vec<String> = ask(&mut one, "TWEMSLOT KEY key:1")?;
    ensure!(place[0].contains("state=normal group=") && place[0].ends_with("link=up"), "{place:?}");
    playground.stop()
}

/// A client that dies while it waits takes nothing with it, nor does one whose request was not sent yet.
#[test]
fn what_is_pushed_after_a_blocked_client_died_is_still_there() -> Result<()> {
    let playground = playground("")?;
    let addr = playground.proxy_addr()?;
    let mut other = one_of_each(addr, "")?.0;
    let blocked = |playground: &Playground| -> Result<u64> {
        let of_each = playground.instances().iter().map(|i| info(i.server.addr(), "clients"));
        of_each.map(|info| Ok(info?.get("blocked_clients").context("blocked_clients")?.parse::<u64>()?)).sum()
    };
    for (n, pop) in ["BLPOP", "BRPOP", "BLMOVE", "BZPOPMIN"].into_iter().enumerate() {
        let request = match pop {
            "BLMOVE" => format!("BLMOVE {{q}}{n} {{q}}to LEFT LEFT 0\r\n"),
            _ => format!("{pop} {{q}}{n} 0\r\n"),
        };
        for behind in ["", "PING\r\n"] {
            let mut dying = TcpStream::connect(addr)?;
            dying.write_all(request.as_bytes())?;
            until("it waits", PATIENCE, || Ok(if blocked(&playground)? == 1 { Ok(()) } else { Err(pop.into()) }))?;
            dying.write_all(behind.as_bytes())?;
            drop(dying); // as the kernel does for a process that is killed
            until("nobody waits for it", PATIENCE, || {
                Ok(if blocked(&playground)? == 0 { Ok(()) } else { Err(format!("{pop}: somebody waits")) })
            })?;
            if pop == "BZPOPMIN" {
                ask::<()>(&mut other, &format!("ZADD {{q}}{n} 1 job"))?;
                ensure!(ask::<u64>(&mut other, &format!("ZCARD {{q}}{n}"))? == 1, "{pop}: the job is gone");
            } else {
                ask::<()>(&mut other, &format!("LPUSH {{q}}{n} job"))?;
                ensure!(ask::<u64>(&mut other, &format!("LLEN {{q}}{n}"))? == 1, "{pop}: the job is gone");
            }
            ask::<()>(&mut other, &format!("DEL {{q}}{n}"))?;
        }
    }
    playground.stop()
}

#[test]
fn a_group_that_is_frozen_does_not_hold_info_up() -> Result<()> {
    let playground = playground("")?;
    let (mut one, _) = one_of_each(playground.proxy_addr()?, "")?;
    let frozen = playground.group(2).next().context("an instance")?.server.addr();
    playground.stop_instance(frozen)?;
    let asked = Instant::now();
    let info: String = ask(&mut one, "INFO")?;
    let took = asked.elapsed();
    playground.cont_instance(frozen)?;
    ensure!(
        took < Duration::from_secs(3) && info.contains("answered=0") && info.contains("answered=1"),
        "{took:?} {info}"
    );
    playground.stop()
}

#[test]
fn monitor_shows_the_requests_of_all_workers() -> Result<()> {
    let playground = playground("operator_commands: true\n")?;
    let (mut one, mut two) = one_of_each(playground.proxy_addr()?, "")?;
    let mut watching = one_of_each(playground.proxy_addr()?, "")?.0;
    ask::<()>(&mut watching, "MONITOR")?;
    ask::<Value>(&mut one, "GET seen-by-one")?;
    ask::<Value>(&mut two, "GET seen-by-two")?;
    watching.set_read_timeout(Some(PATIENCE))?;
    let mut seen = String::new();
    while !(seen.contains("\"GET\" \"seen-by-one\"") && seen.contains("\"GET\" \"seen-by-two\"")) {
        let line: Value = watching.recv_response().with_context(|| format!("seen so far: {seen}"))?;
        seen.push_str(&format!("{line:?}\n").replace("\\\"", "\""));
    }
    playground.stop()
}

#[test]
fn users_may_what_the_configuration_says_and_a_reload_counts_at_once() -> Result<()> {
    let users = |keys: &str| {
        format!(
            "users:\n- {{name: app, password_sha256: {HASH}, categories: [all, -dangerous], keys: ['{keys}']}}\n\
             - {{name: ops, password_sha256: {HASH}, categories: all, keys: '*', channels: '*', admin: true}}\n"
        )
    };
    let mut playground = playground(&users("app:*"))?;
    let addr = playground.proxy_addr()?;
    let mut nobody = Client::open(format!("redis://{addr}/"))?.get_connection()?;
    ensure!(error_of(&mut nobody, "GET app:1")?.contains("Authentication required"));
    let (mut app, mut other) = one_of_each(addr, "app:secret@")?;
    for connection in [&mut app, &mut other] {
        ensure!(ask::<String>(connection, "ACL WHOAMI")? == "app");
        ask::<()>(connection, "SET app:1 x")?;
        ensure!(error_of(connection, "GET other")?.contains("No permissions to access a key"));
        ensure!(error_of(connection, "FLUSHALL")?.contains("no permissions to run the 'flushall' command"));
    }
    let mut ops = Client::open(format!("redis://ops:secret@{addr}/"))?.get_connection()?;
    let list: String = ask(&mut ops, "CLIENT LIST")?;
    ensure!(list.matches(" user=app ").count() == 2 && list.contains(" user=ops "), "{list}");
    ensure!(ask::<String>(&mut ops, "TWEMSLOT ON 1 PING")? == "PONG");
    playground.reload(0, &users("other*"))?;
    let deadline = Instant::now() + PATIENCE;
    while ask::<Value>(&mut app, "GET other").is_err() || ask::<Value>(&mut other, "GET other").is_err() {
        ensure!(Instant::now() < deadline, "the reload changes nothing for connected clients");
    }
    ensure!(error_of(&mut app, "GET app:1")?.contains("No permissions to access a key"));
    playground.stop()
}

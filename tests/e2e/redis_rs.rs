//! redis-rs: every reply is compared with what a model in this process says.

use anyhow::{Context, Result, bail, ensure};
use redis::{Cmd, Commands, Connection, RedisResult, Value, cmd, pipe};
use std::collections::HashMap;
use std::net::SocketAddr;

const BIG: usize = 50 << 20;

pub fn check(addr: SocketAddr) -> Result<()> {
    let client = redis::Client::open(format!("redis://{addr}/"))?;
    let mut connection = client.get_connection()?;
    ensure!(cmd("PING").query::<String>(&mut connection)? == "PONG", "PING");
    cmd("FLUSHALL").exec(&mut connection)?;
    mixed(&mut connection).context("mixed")?;
    binary(&mut connection).context("binary")?;
    big(&mut connection).context("big")?;
    many_keys(&mut connection).context("many keys")?;
    errors(&mut connection).context("errors")?;
    death(&client).context("death")
}

/// Numbers that a failed run can be repeated with.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.below(256) as u8).collect()
    }

    fn value(&mut self) -> Vec<u8> {
        let count = [0, 1, 10, 100, 3000][self.below(5)];
        self.bytes(count)
    }

    fn key(&mut self) -> String {
        format!("rs:{}", self.below(300))
    }
}

fn bulk(value: Option<&Vec<u8>>) -> Value {
    value.map_or(Value::Nil, |bytes| Value::BulkString(bytes.clone()))
}

/// A command and its reply; None for an error.
fn step(model: &mut HashMap<String, Vec<u8>>, random: &mut Random) -> (Cmd, Option<Value>) {
    let (key, value) = (random.key(), random.value());
    match random.below(7) {
        0 | 1 => {
            model.insert(key.clone(), value.clone());
            (cmd("SET").arg(key).arg(value).take(), Some(Value::Okay))
        }
        2 => (cmd("GET").arg(&key).take(), Some(bulk(model.get(&key)))),
        3 => {
            let all = model.entry(key.clone()).or_default();
            all.extend(&value);
            (cmd("APPEND").arg(key).arg(value).take(), Some(Value::Int(all.len() as i64)))
        }
        4 => {
            let keys: Vec<String> = (0..1 + random.below(20)).map(|_| random.key()).collect();
            let values = keys.iter().map(|key| bulk(model.get(key))).collect();
            (cmd("MGET").arg(keys).take(), Some(Value::Array(values)))
        }
        5 => {
            let gone = model.remove(&key).is_some();
            (cmd("DEL").arg(key).arg("rs:none").take(), Some(Value::Int(gone.into())))
        }
        _ => (cmd("NOSUCHCOMMAND").arg(key).take(), None),
    }
}

fn mixed(connection: &mut Connection) -> Result<()> {
    let (mut model, mut random, mut pipeline, mut wanted) = (HashMap::new(), Random(1), pipe(), Vec::new());
    for _ in 0..20_000 {
        let (command, reply) = step(&mut model, &mut random);
        pipeline.add_command(command);
        wanted.push(reply);
    }
    let replies: Vec<RedisResult<Value>> = pipeline.ignore_errors().query(connection)?;
    ensure!(replies.len() == wanted.len(), "{} replies to {} requests", replies.len(), wanted.len());
    for (number, (got, want)) in replies.into_iter().zip(wanted).enumerate() {
        match (got, want) {
            (Err(_), None) => {}
            (Ok(got), Some(want)) if got == want => {}
            (got, want) => bail!("reply {number} of the pipeline: {got:?}, wanted {want:?}"),
        }
    }
    let count: usize = cmd("DBSIZE").query(connection)?;
    ensure!(count == model.len(), "DBSIZE {count}, wanted {}", model.len());
    Ok(())
}

fn binary(connection: &mut Connection) -> Result<()> {
    let mut random = Random(2);
    let lengths = [0, 1, 2, 511, 512, 513, 16383, 16384, 16385, 65535, 65536, 65537, 1 << 20];
    let mut values: Vec<Vec<u8>> = lengths.iter().map(|&length| random.bytes(length)).collect();
    values.push((0..=255).collect());
    for value in values {
        let key = &value[..value.len().min(1000)];
        connection.set::<_, _, ()>(key, &value)?;
        let got: Vec<u8> = connection.get(key)?;
        ensure!(got == value, "GET of {} bytes gives {} other ones", value.len(), got.len());
    }
    Ok(())
}

fn big(connection: &mut Connection) -> Result<()> {
    let value = Random(3).bytes(1 << 20).repeat(50);
    connection.set::<_, _, ()>("big", &value)?;
    ensure!(connection.strlen::<_, usize>("big")? == BIG, "STRLEN of 50 MB");
    ensure!(connection.get::<_, Vec<u8>>("big")? == value, "GET of 50 MB gives other bytes");
    let part: Vec<u8> = connection.getrange("big", 17, 10_000_016)?;
    ensure!(part == value[17..10_000_017], "GETRANGE of 10 MB gives other bytes");
    ensure!(connection.del::<_, usize>("big")? == 1, "DEL");
    Ok(())
}

fn many_keys(connection: &mut Connection) -> Result<()> {
    let mut random = Random(4);
    let pairs: Vec<(String, Vec<u8>)> = (0..5_000).map(|n| (format!("many:{n}"), random.bytes(n % 70))).collect();
    let keys: Vec<&String> = pairs.iter().map(|(key, _)| key).collect();
    connection.mset::<_, _, ()>(&pairs)?;
    let got: Vec<Vec<u8>> = connection.mget(&keys)?;
    ensure!(got.iter().eq(pairs.iter().map(|(_, value)| value)), "MGET of 5,000 gives other values");
    ensure!(connection.exists::<_, usize>(&keys)? == 5_000, "EXISTS of 5,000");
    ensure!(connection.del::<_, usize>(&keys[..1_000])? == 1_000, "DEL of 1,000");
    ensure!(connection.unlink::<_, usize>(&keys[500..2_000])? == 1_000, "UNLINK of 1,500, 500 of them gone");
    Ok(())
}

fn refused(code: &str, got: RedisResult<Value>) -> Result<()> {
    match got {
        Err(error) if error.code() == Some(code) => Ok(()),
        other => bail!("{other:?}, wanted an error {code}"),
    }
}

fn errors(connection: &mut Connection) -> Result<()> {
    let born: i64 = cmd("CLIENT").arg("ID").query(connection)?;
    connection.set::<_, _, ()>("text", "x")?;
    refused("ERR", cmd("NOSUCHCOMMAND").arg("a").query(connection))?;
    refused("WRONGTYPE", connection.lpush("text", 1))?;
    refused("CROSSSLOT", connection.sunion((0..50).map(|n| format!("far:{n}")).collect::<Vec<_>>()))?;
    refused("WRONGTYPE", cmd("BLPOP").arg("text").arg(0).query(connection))?;
    ensure!(connection.get::<_, String>("text")? == "x", "GET after errors");
    let now: i64 = cmd("CLIENT").arg("ID").query(connection)?;
    ensure!(now == born, "errors have cost the connection");
    Ok(())
}

/// A connection that ends with replies unread leaves others alone, and a new one works.
fn death(client: &redis::Client) -> Result<()> {
    let mut witness = client.get_connection()?;
    witness.set::<_, _, ()>("heavy", vec![b'x'; 200_000])?;
    for _ in 0..5 {
        let mut dying = client.get_connection()?;
        let mut request = pipe();
        for _ in 0..100 {
            request.get("heavy");
        }
        dying.send_packed_command(&request.get_packed_pipeline())?;
        drop(dying);
        ensure!(witness.get::<_, Vec<u8>>("heavy")?.len() == 200_000, "GET beside a death");
    }
    Ok(())
}

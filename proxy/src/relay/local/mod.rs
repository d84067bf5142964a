//! What is answered here rather than by an instance; what one worker does not know alone is asked of the others
//! (`inquire`).

mod clients;
mod operator;
mod info;
mod emulation;
mod acl;
mod slow;
mod monitor;
mod identity;
mod inquire;

use super::ClientId;
use super::command::{self, CommandId, Local};
use super::limits::WRONG_PASSWORDS_MAX;
use super::session::database;
use super::state::Relay;
use cluster::resp::request::Args;
use cluster::resp::write;

/// What PING answers without a message.
const PONG: &[u8] = b"+PONG\r\n";
const OK: &[u8] = b"+OK\r\n";

/// CLIENT SETNAME takes no spaces and nothing unprintable: names stand in lists.
const NAME_FAULT: &str = "ERR Client names cannot contain spaces, newlines or special characters.";
/// The longest name we keep: it is part of every idle client's memory.
const NAME_MAX: usize = 256;

/// The header of a map of `n` pairs, which RESP2 has not: there it is a flat array.
fn map(resp3: bool, n: usize, out: &mut Vec<u8>) {
    match resp3 {
        true => write::header(out, b'%', n as i64),
        false => write::array(out, n * 2),
    }
}

impl Relay {
    pub(super) fn local(&mut self, id: ClientId, command: CommandId, local: Local, raw: &[u8]) {
        let args: Vec<&[u8]> = Args::new(raw).collect();
        if self.asks_around(id, command, local, &args) {
            return;
        }
        let mut reply = std::mem::take(&mut self.scratch);
        reply.clear();
        self.compose(id, local, &args, raw, &mut reply);
        let guesses = self.clients[id as usize].wrong_passwords >= WRONG_PASSWORDS_MAX;
        let close = local == Local::Quit || guesses;
        if local == Local::ClientReply {
            self.client_reply(id, &args, &mut reply);
            if reply.is_empty() {
                self.scratch = reply;
                return;
            }
        }
        self.answer_here(id, command, &reply);
        if close {
            self.clients[id as usize].closing = true;
            self.resumable.push(id);
        }
        if reply.capacity() > 1 << 20 {
            reply = Vec::new();
        }
        self.scratch = reply;
    }

    fn compose(&mut self, id: ClientId, local: Local, args: &[&[u8]], raw: &[u8], out: &mut Vec<u8>) {
        match local {
            Local::Ping => match args {
                [_, text] => write::bulk(out, text),
                [_] => out.extend_from_slice(PONG),
                _ => write::error(out, "ERR wrong number of arguments for 'ping' command"),
            },
            Local::Echo => write::bulk(out, args.get(1).copied().unwrap_or_default()),
            Local::Quit => out.extend_from_slice(OK),
            Local::Auth => self.auth(id, &args[1..], out),
            Local::Select => match database(args.get(1).copied()) {
                Ok(()) => out.extend_from_slice(OK),
                Err(text) => write::error(out, text),
            },
            Local::Time => {
                write::array(out, 2);
                write::bulk(out, (self.now.unix_us / 1_000_000).to_string().as_bytes());
                write::bulk(out, (self.now.unix_us % 1_000_000).to_string().as_bytes());
            }
            Local::Hello => self.hello(id, &args[1..], out),
            Local::ClientSetname => self.set_name(id, args.get(2).copied().unwrap_or_default(), out),
            Local::ClientGetname => match &*self.clients[id as usize].name {
                "" if self.clients[id as usize].resp3 => out.extend_from_slice(b"_\r\n"),
                "" => out.extend_from_slice(b"$-1\r\n"),
                name => write::bulk(out, name.as_bytes()),
            },
            Local::ClientId => write::integer(out, self.clients[id as usize].id as i64),
            Local::ClientSetinfo => self.set_info(id, args, out),
            Local::ClientNoEvict | Local::ClientNoTouch => self.set_mode(id, local, args, out),
            Local::ClientReply => {}
            Local::AclWhoami | Local::AclCat | Local::AclList | Local::AclUsers => self.acl(id, local, args, out),
            Local::LatencyNothing => write::array(out, 0),
            Local::LatencyReset => write::integer(out, 0),
            Local::ClusterInfo
            | Local::ClusterKeyslot
            | Local::ClusterLinks
            | Local::ClusterMyid
            | Local::ClusterMyshardid
            | Local::ClusterNodes
            | Local::ClusterShards
            | Local::ClusterSlots
            | Local::ClusterMode => self.emulate(id, local, args, out),
            Local::TwemslotKey => self.where_keys_live(&args[2..], out),
            Local::TwemslotTopology => self.print_topology(out),
            _ => command::introspect(local, raw, self.clients[id as usize].resp3, out),
        }
    }

    /// CLIENT REPLY ON says +OK; OFF and SKIP say nothing.
    fn client_reply(&mut self, id: ClientId, args: &[&[u8]], out: &mut Vec<u8>) {
        let client = &mut self.clients[id as usize];
        let mode = args.get(2).map(|m| m.to_ascii_lowercase()).unwrap_or_default();
        match mode.as_slice() {
            b"on" => {
                (client.reply_off, client.reply_skip) = (false, 0);
                out.extend_from_slice(OK);
            }
            b"off" => client.reply_off = true,
            b"skip" if !client.reply_off => client.reply_skip = 1,
            b"skip" => {}
            _ => write::error(out, "ERR syntax error"),
        }
    }

    fn set_name(&mut self, id: ClientId, name: &[u8], out: &mut Vec<u8>) {
        match std::str::from_utf8(name) {
            Ok(name) if name.len() <= NAME_MAX && name.bytes().all(|b| (b'!'..=b'~').contains(&b)) => {
                self.clients[id as usize].name = name.into();
                out.extend_from_slice(OK);
            }
            _ => write::error(out, NAME_FAULT),
        }
    }

    /// HELLO [2|3 [AUTH user password] [SETNAME name]].
    fn hello(&mut self, id: ClientId, args: &[&[u8]], out: &mut Vec<u8>) {
        let mut rest = args;
        let mut resp3 = self.clients[id as usize].resp3;
        if let Some((version, more)) = args.split_first() {
            match *version {
                b"2" => (rest, resp3) = (more, false),
                b"3" if self.speaks_resp3() => (rest, resp3) = (more, true),
                v if !v.is_empty() && v.iter().all(u8::is_ascii_digit) => {
                    return write::error(out, "NOPROTO unsupported protocol version");
                }
                _ => return write::error(out, "ERR Protocol version is not an integer or out of range"),
            }
        }
        let mut name = None;
        let mut said = Vec::new();
        while let Some((option, more)) = rest.split_first() {
            match (option.to_ascii_lowercase().as_slice(), more) {
                (b"auth", [user, password, more @ ..]) => {
                    said.clear();
                    self.auth(id, &[user, password], &mut said);
                    if said.first() == Some(&b'-') {
                        return out.extend_from_slice(&said);
                    }
                    rest = more;
                }
                (b"setname", [wanted, more @ ..]) => {
                    name = Some(*wanted);
                    rest = more;
                }
                _ => {
                    return write::error(out, &format!("ERR Syntax error in HELLO option '{}'", option.escape_ascii()));
                }
            }
        }
        if !self.clients[id as usize].authenticated {
            return write::error(
                out,
                "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time",
            );
        }
        if let Some(name) = name {
            said.clear();
            self.set_name(id, name, &mut said);
            if said.first() == Some(&b'-') {
                return out.extend_from_slice(&said);
            }
        }
        if self.clients[id as usize].resp3 != resp3 {
            // The link that watches its keys speaks as the client did, and EXEC would be answered on it.
            self.break_watch(id);
        }
        let client = &mut self.clients[id as usize];
        client.resp3 = resp3;
        client.set_common();
        if resp3 {
            self.want_resp3();
            write::header(out, b'%', 7);
        } else {
            write::array(out, 14);
        }
        for (field, value) in [("server", "redis"), ("version", self.redis_version().as_str())] {
            write::bulk(out, field.as_bytes());
            write::bulk(out, value.as_bytes());
        }
        write::bulk(out, b"proto");
        write::integer(out, if resp3 { 3 } else { 2 });
        write::bulk(out, b"id");
        write::integer(out, self.clients[id as usize].id as i64);
        let mode = if self.settings.cluster_nodes.is_empty() { "standalone" } else { "cluster" };
        for (field, value) in [("mode", mode), ("role", "master")] {
            write::bulk(out, field.as_bytes());
            write::bulk(out, value.as_bytes());
        }
        write::bulk(out, b"modules");
        write::array(out, 0);
    }

    /// Whether every group's servers know RESP3 (Redis 6), as far as they have said.
    fn speaks_resp3(&self) -> bool {
        let old = |v: &str| v.split('.').next().and_then(|n| n.parse::<u32>().ok()).is_some_and(|n| n < 6);
        !self.links.iter().any(|(_, l)| old(&l.version))
    }

    /// CLIENT SETINFO LIB-NAME|LIB-VER.
    fn set_info(&mut self, id: ClientId, args: &[&[u8]], out: &mut Vec<u8>) {
        let (Some(field), Some(value)) = (args.get(2), args.get(3)) else {
            return write::error(out, "ERR syntax error");
        };
        let field = field.to_ascii_lowercase();
        let is_name = match field.as_slice() {
            b"lib-name" => true,
            b"lib-ver" => false,
            _ => return write::error(out, &format!("ERR Unrecognized option '{}'", field.escape_ascii())),
        };
        match std::str::from_utf8(value).ok().filter(|v| v.bytes().all(|b| (b'!'..=b'~').contains(&b))) {
            Some(value) => {
                let value = &value[..value.len().min(NAME_MAX)];
                let client = &mut self.clients[id as usize];
                client.library = self.libraries.with(client.library, is_name, value);
                out.extend_from_slice(OK);
            }
            None => {
                let field = String::from_utf8_lossy(&field).into_owned();
                write::error(out, &format!("ERR {field} cannot contain spaces, newlines or special characters."));
            }
        }
    }

    /// CLIENT NO-EVICT and NO-TOUCH, each ON or OFF.
    fn set_mode(&mut self, id: ClientId, local: Local, args: &[&[u8]], out: &mut Vec<u8>) {
        let on = match args.get(2).map(|word| word.to_ascii_lowercase()).as_deref() {
            Some(b"on") => true,
            Some(b"off") => false,
            _ => return write::error(out, "ERR syntax error"),
        };
        if local == Local::ClientNoEvict {
            self.clients[id as usize].no_evict = on;
        } else if on {
            return write::error(
                out,
                "ERR twemslot: CLIENT NO-TOUCH ON is not served: it is a mode of a connection to an instance, and clients share those",
            );
        }
        out.extend_from_slice(OK);
    }
}

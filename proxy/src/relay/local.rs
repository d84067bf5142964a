//! What is answered here, with no instance asked.

use super::ClientId;
use super::command::{self, CommandId, Local};
use super::link::State;
use super::state::Relay;
use crate::stats::{Counter, Gauge};
use cluster::resp::request::Args;
use cluster::resp::write;
use subtle::ConstantTimeEq;

/// What PING answers without a message.
const PONG: &[u8] = b"+PONG\r\n";
const OK: &[u8] = b"+OK\r\n";
const WRONGPASS: &str = "WRONGPASS invalid username-password pair or user is disabled.";

/// CLIENT SETNAME takes no spaces and nothing unprintable: names stand in lists.
const NAME_FAULT: &str = "ERR Client names cannot contain spaces, newlines or special characters.";
/// The longest name we keep: it is part of every idle client's memory.
const NAME_MAX: usize = 256;

impl Relay {
    pub(super) fn local(&mut self, id: ClientId, command: CommandId, local: Local, raw: &[u8]) {
        let mut reply = std::mem::take(&mut self.scratch);
        reply.clear();
        let args: Vec<&[u8]> = Args::new(raw).collect();
        let close = local == Local::Quit;
        self.compose(id, local, &args, raw, &mut reply);
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
            Local::Select => match args.get(1) {
                Some(&b"0") => out.extend_from_slice(OK),
                Some(db) if !db.is_empty() && db.iter().all(u8::is_ascii_digit) => {
                    write::error(out, "ERR DB index is out of range (a cluster has database 0 only)");
                }
                _ => write::error(out, "ERR value is not an integer or out of range"),
            },
            Local::Time => {
                write::array(out, 2);
                write::bulk(out, (self.now.unix_us / 1_000_000).to_string().as_bytes());
                write::bulk(out, (self.now.unix_us % 1_000_000).to_string().as_bytes());
            }
            Local::Hello => self.hello(id, &args[1..], out),
            Local::Info => write::bulk(out, self.info(&args[1..]).as_bytes()),
            Local::ClientSetname => self.set_name(id, args.get(2).copied().unwrap_or_default(), out),
            Local::ClientGetname => match &*self.clients[id as usize].name {
                "" if self.clients[id as usize].resp3 => out.extend_from_slice(b"_\r\n"),
                "" => out.extend_from_slice(b"$-1\r\n"),
                name => write::bulk(out, name.as_bytes()),
            },
            Local::ClientId => write::integer(out, self.clients[id as usize].id as i64),
            Local::ClientSetinfo => set_info(args, out),
            Local::ClientInfo => {
                let client = &self.clients[id as usize];
                let line = format!("id={} addr={} name={} db=0 resp=2\n", client.id, client.peer, client.name);
                write::bulk(out, line.as_bytes());
            }
            Local::ClientReply => {}
            _ => command::introspect(local, raw, out),
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

    fn auth(&mut self, id: ClientId, args: &[&[u8]], out: &mut Vec<u8>) {
        let (user, password) = match args {
            [password] => (&b"default"[..], *password),
            [user, password] => (*user, *password),
            _ => return write::error(out, "ERR syntax error"),
        };
        let Some(wanted) = &self.settings.client_password else {
            if args.len() == 2 && user == b"default" {
                return out.extend_from_slice(OK); // as Redis: the default user has no password
            }
            if args.len() == 2 {
                return write::error(out, WRONGPASS);
            }
            return write::error(
                out,
                "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?",
            );
        };
        if user == b"default" && same(wanted.as_bytes(), password) {
            let client = &mut self.clients[id as usize];
            client.authenticated = true;
            client.set_common();
            out.extend_from_slice(OK);
        } else {
            self.stats.add(Counter::ErrorsAuth, 1);
            write::error(out, WRONGPASS);
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
        for (field, value) in [("mode", "standalone"), ("role", "master")] {
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

    /// The oldest version among the instances: what every group can do.
    fn redis_version(&self) -> String {
        let parse = |v: &str| v.split('.').map(|n| n.parse::<u32>().unwrap_or(0)).collect::<Vec<_>>();
        let known = self.links.iter().map(|(_, l)| l.version.as_str()).filter(|v| !v.is_empty());
        known.min_by_key(|v| parse(v)).unwrap_or("0.0.0").to_owned()
    }

    fn info(&mut self, wanted: &[&[u8]]) -> String {
        let up = self.links.iter().filter(|(_, l)| l.shared() && l.state == State::Up).count();
        let wants = |name: &str| {
            wanted.is_empty()
                || wanted.iter().any(|w| {
                    let w = w.to_ascii_lowercase();
                    w == name.as_bytes() || matches!(w.as_slice(), b"all" | b"default" | b"everything")
                })
        };
        let mut text = String::new();
        let mut section = |name: &str, lines: String| {
            if wants(&name.to_ascii_lowercase()) {
                if !text.is_empty() {
                    text.push_str("\r\n");
                }
                text.push_str(&format!("# {name}\r\n{lines}"));
            }
        };
        let version = self.redis_version();
        section(
            "Server",
            format!(
                "redis_version:{version}\r\nredis_mode:standalone\r\ntwemslot_version:{}\r\narch_bits:64\r\n",
                env!("CARGO_PKG_VERSION")
            ),
        );
        section(
            "Clients",
            format!("connected_clients:{}\r\nmaxclients:{}\r\n", self.clients.len(), self.settings.clients_max),
        );
        section(
            "Memory",
            format!("used_memory:{}\r\nmaxmemory:{}\r\n", self.pool.lent(), self.settings.worker_memory_max),
        );
        section("Persistence", "loading:0\r\n".to_owned());
        section(
            "Stats",
            format!(
                "total_connections_received:{}\r\ntotal_commands_processed:{}\r\ntotal_error_replies:{}\r\n",
                self.stats.get(Counter::ClientsAccepted),
                self.stats.get(Counter::Requests),
                self.stats.get(Counter::RepliesError),
            ),
        );
        section("Replication", "role:master\r\nconnected_slaves:0\r\n".to_owned());
        section("Cluster", "cluster_enabled:0\r\n".to_owned());
        section(
            "Twemslot",
            format!(
                "worker:{}\r\ntopology_epoch:{}\r\nslots:{}\r\nslots_held:{}\r\ngroups:{}\r\nlinks_up:{up}\r\n",
                self.worker,
                self.routes.epoch(),
                self.routes.slot_count(),
                self.stats.gauge(Gauge::SlotsHeld),
                self.routes.targets.len(),
            ),
        );
        text
    }
}

/// CLIENT SETINFO LIB-NAME|LIB-VER: checked as Redis does, kept nowhere yet.
fn set_info(args: &[&[u8]], out: &mut Vec<u8>) {
    let (Some(field), Some(value)) = (args.get(2), args.get(3)) else { return write::error(out, "ERR syntax error") };
    let field = field.to_ascii_lowercase();
    if !matches!(field.as_slice(), b"lib-name" | b"lib-ver") {
        return write::error(out, &format!("ERR Unrecognized option '{}'", field.escape_ascii()));
    }
    if value.iter().all(|b| (b'!'..=b'~').contains(b)) {
        out.extend_from_slice(OK);
    } else {
        let field = String::from_utf8_lossy(&field).into_owned();
        write::error(out, &format!("ERR {field} cannot contain spaces, newlines or special characters."));
    }
}

/// Whether two secrets are equal, in a time that tells nothing about where they differ.
fn same(wanted: &[u8], given: &[u8]) -> bool {
    wanted.len() == given.len() && bool::from(wanted.ct_eq(given))
}

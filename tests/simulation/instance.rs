//! A model instance: an in-memory server that reads requests off its connections, executes them in order, and can be
//! slow, frozen, loading, restarted, demoted, or plain wrong.

use crate::checkers::history::{History, show};
use crate::checkers::owners::{Owners, WorkerUid};
use crate::store::{Store, Wish};
use crate::topology;
use cluster::resp::request::{Args, Ceilings, Frame, Step};
use cluster::resp::write;
use cluster::slot::Slot;
use std::collections::BTreeSet;

pub(crate) struct Instance {
    pub(crate) addr: String,
    pub(crate) store: Store,
    pub(crate) alive: bool,
    pub(crate) primary: bool,
    /// It is a codis-server.
    pub(crate) codis: bool,
    pub(crate) password: Option<String>,
    /// Grows with each restart: part of its run_id.
    pub(crate) run: u32,
    pub(crate) loading_until: u64,
    pub(crate) frozen_until: u64,
    /// Until then connects are refused, or never answered.
    pub(crate) refuses_until: u64,
    pub(crate) ignores_until: u64,
    /// Until then it takes `pause_us` between two requests.
    pub(crate) slow_until: u64,
    pub(crate) pause_us: u64,
    pub(crate) next_id: i64,
    /// How many have ever waited for an element.
    pub(crate) waits: u64,
    /// Connections that lead here.
    pub(crate) links: Vec<usize>,
}

/// The instance's end of a connection.
pub(crate) struct Peer {
    pub(crate) id: i64,
    pub(crate) worker: WorkerUid,
    authenticated: bool,
    pub(crate) input: Vec<u8>,
    frame: Frame,
    pub(crate) output: Vec<u8>,
    /// Messages that come too late: a mistake.
    pub(crate) held_back: Vec<u8>,
    /// What has been queued since MULTI; None within: something was refused.
    queued: Option<Option<Vec<Vec<u8>>>>,
    /// Keys under WATCH, and how often each had changed.
    watched: Vec<(Vec<u8>, usize)>,
    pub(crate) blocked: Option<Blocked>,
    /// Channels, and patterns (true).
    pub(crate) subscriptions: BTreeSet<(bool, Vec<u8>)>,
}

/// A connection that waits for an element.
pub(crate) struct Blocked {
    pub(crate) wish: Wish,
    /// Those who began earlier are served first.
    pub(crate) order: u64,
    pub(crate) until: u64,
}

impl Peer {
    pub(crate) fn new(id: i64, worker: WorkerUid) -> Self {
        Self {
            id,
            worker,
            authenticated: false,
            input: Vec::new(),
            frame: Frame::default(),
            output: Vec::new(),
            held_back: Vec::new(),
            queued: None,
            watched: Vec::new(),
            blocked: None,
            subscriptions: BTreeSet::new(),
        }
    }

    /// The next whole request; None: more bytes are needed.
    pub(crate) fn next_request(&mut self, history: &mut History) -> Option<Vec<u8>> {
        match self.frame.step(&self.input, &Ceilings::OPEN) {
            Step::Done { len } => {
                self.frame = Frame::default();
                Some(self.input.drain(..len).collect())
            }
            Step::More { .. } => None,
            other => {
                history.fail(format!("wire: an instance was sent {}, which is {other:?}", show(&self.input)));
                self.input.clear();
                None
            }
        }
    }
}

impl Peer {
    /// Nothing whole is left to execute. Half a request will never be: its sender is gone; nor will what waits.
    pub(crate) fn is_idle(&mut self) -> bool {
        self.blocked.is_some() || !matches!(self.frame.step(&self.input, &Ceilings::OPEN), Step::Done { .. })
    }
}

/// What an execution wants of the world besides its reply.
pub(crate) enum Effect {
    Reply(Vec<u8>),
    /// CLIENT KILL of another connection of this instance.
    Kill(i64),
    /// CLIENT UNBLOCK of another one; true: with an error.
    Unblock(i64, bool),
    /// There is nothing yet.
    Block(Wish),
    /// A key is to be sent to the instance of this address: by MIGRATE, or by codis' own word, which overwrites.
    Send {
        key: Vec<u8>,
        to: String,
        overwrites: bool,
    },
    /// PUBLISH: channel, and what is said there.
    Publish(Vec<u8>, Vec<u8>),
}

impl Instance {
    pub(crate) fn new(index: usize, primary: bool, password: Option<String>) -> Self {
        Self {
            addr: topology::addr(index),
            store: Store::default(),
            alive: true,
            primary,
            codis: false,
            password,
            run: 1,
            loading_until: 0,
            frozen_until: 0,
            refuses_until: 0,
            ignores_until: 0,
            slow_until: 0,
            pause_us: 0,
            next_id: 3,
            waits: 0,
            links: Vec::new(),
        }
    }

    /// Executes one request.
    pub(crate) fn execute(
        &mut self,
        raw: &[u8],
        peer: &mut Peer,
        now: u64,
        owners: &Owners,
        history: &mut History,
    ) -> Effect {
        let args: Vec<&[u8]> = Args::new(raw).collect();
        let name = args[0].to_ascii_uppercase();
        let mut out = Vec::new();
        if let Some(reply) = self.transaction(&name, raw, peer, now, owners, history) {
            return Effect::Reply(reply);
        }
        if name == b"AUTH" {
            self.auth(&args, peer, &mut out);
        } else if self.password.is_some() && !peer.authenticated {
            write::error(&mut out, "NOAUTH Authentication required.");
        } else if name == b"CLIENT" {
            return client(&args, peer);
        } else if name == b"PING" && !peer.subscriptions.is_empty() {
            write::array(&mut out, 2);
            write::bulk(&mut out, b"pong");
            write::bulk(&mut out, args.get(1).copied().unwrap_or_default());
        } else if let Some(reply) = self.plain(&name, &args) {
            out = reply;
        } else if let Some(reply) = listen(&name, &args, peer) {
            out = reply;
        } else if name == b"PUBLISH" {
            return Effect::Publish(args[1].to_vec(), args[2].to_vec());
        } else if now < self.loading_until {
            write::error(&mut out, "LOADING Redis is loading the dataset in memory");
        } else if !self.primary {
            write::error(&mut out, "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.");
        } else if let Some(sent) = self.sends(&name, &args, peer, owners, history) {
            return sent;
        } else {
            self.witness(&name, &args, peer, owners, history);
            if let Some(wish) = Wish::of(&args) {
                return match self.store.pop(&wish, history) {
                    Some(reply) => Effect::Reply(reply),
                    None if wish.waits_us.is_some() => Effect::Block(wish),
                    None => Effect::Reply(wish.nothing().to_vec()),
                };
            }
            match self.store.execute(&args, history) {
                Some(reply) => out = reply,
                None => {
                    history.fail(format!("wire: an instance was asked {}, which no client asks", show(raw)));
                    write::error(&mut out, "ERR unknown command");
                }
            }
        }
        Effect::Reply(out)
    }

    /// What has to do with keys that are brought elsewhere.
    fn sends(
        &mut self,
        name: &[u8],
        args: &[&[u8]],
        peer: &Peer,
        owners: &Owners,
        history: &mut History,
    ) -> Option<Effect> {
        let to = |args: &[&[u8]]| format!("{}:{}", String::from_utf8_lossy(args[1]), String::from_utf8_lossy(args[2]));
        let mut out = Vec::new();
        match (name, args) {
            (b"SLOTSMGRTONE" | b"SLOTSMGRTTAGONE", _) if !self.codis => write::error(&mut out, "ERR unknown command"),
            (b"SLOTSMGRTONE", [.., key]) => {
                owners.sends(peer.worker, &self.addr, topology::slot(key), history);
                return Some(Effect::Send { key: key.to_vec(), to: to(args), overwrites: true });
            }
            (b"MIGRATE", [.., key]) => {
                owners.sends(peer.worker, &self.addr, topology::slot(key), history);
                let password = self.password.as_ref().map(|password| [b"AUTH", password.as_bytes()]);
                if password.is_some_and(|words| args[6..8] != words[..]) {
                    write::error(&mut out, "ERR Target instance replied with error: NOAUTH Authentication required.");
                    return Some(Effect::Reply(out));
                }
                return Some(Effect::Send { key: key.to_vec(), to: to(args), overwrites: false });
            }
            (b"DEL" | b"UNLINK", [_, key]) if owners.brings(peer.worker, &self.addr, topology::slot(key)) => {
                let was = self.store.send(key, false).is_some();
                write::integer(&mut out, i64::from(was));
            }
            _ => return None,
        }
        Some(Effect::Reply(out))
    }

    /// What a connection that waits is given, if there is something.
    pub(crate) fn serve(&mut self, peer: &Peer, owners: &Owners, history: &mut History) -> Option<Vec<u8>> {
        let wish = &peer.blocked.as_ref()?.wish;
        let reply = self.store.pop(wish, history)?;
        let slots: Vec<Slot> = wish.keys.iter().map(|key| topology::slot(key)).collect();
        owners.executes(peer.worker, &self.addr, &slots, "a pop that has waited", history);
        Some(reply)
    }

    /// WATCH, MULTI, what is queued behind it, and EXEC.
    fn transaction(
        &mut self,
        name: &[u8],
        raw: &[u8],
        peer: &mut Peer,
        now: u64,
        owners: &Owners,
        history: &mut History,
    ) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        let serves = self.primary && now >= self.loading_until && (self.password.is_none() || peer.authenticated);
        match (name, peer.queued.as_mut()) {
            (b"WATCH", None) if serves => {
                let keys = Args::new(raw).skip(1);
                peer.watched.extend(keys.map(|key| (key.to_vec(), history.changes(key))));
                write::simple(&mut out, "OK");
            }
            (b"UNWATCH", None) if serves => {
                peer.watched.clear();
                write::simple(&mut out, "OK");
            }
            (b"MULTI", None) => {
                peer.queued = Some(Some(Vec::new()));
                write::simple(&mut out, "OK");
            }
            (b"EXEC", None) => write::error(&mut out, "ERR EXEC without MULTI"),
            (b"EXEC", Some(queued)) => {
                let queued = queued.take();
                peer.queued = None;
                let watched = std::mem::take(&mut peer.watched);
                let Some(queued) = queued.filter(|_| serves) else {
                    write::error(&mut out, "EXECABORT Transaction discarded because of previous errors.");
                    return Some(out);
                };
                if watched.iter().any(|(key, changes)| history.changes(key) != *changes) {
                    return Some(b"*-1\r\n".to_vec());
                }
                write::array(&mut out, queued.len());
                for raw in queued {
                    match self.execute(&raw, peer, now, owners, history) {
                        Effect::Reply(reply) => out.extend_from_slice(&reply),
                        Effect::Block(wish) => out.extend_from_slice(wish.nothing()),
                        _ => history.fail(format!("wire: {} within a transaction", show(&raw))),
                    }
                }
            }
            (_, Some(queued)) if serves => {
                if let Some(queued) = queued {
                    queued.push(raw.to_vec());
                }
                write::simple(&mut out, "QUEUED");
            }
            (_, Some(queued)) => {
                *queued = None;
                write::error(&mut out, "LOADING Redis is loading the dataset in memory");
            }
            (_, None) => return None,
        }
        Some(out)
    }

    fn auth(&self, args: &[&[u8]], peer: &mut Peer, out: &mut Vec<u8>) {
        match &self.password {
            Some(password) if args.last().copied() == Some(password.as_bytes()) => {
                peer.authenticated = true;
                write::simple(out, "OK");
            }
            Some(_) => write::error(out, "WRONGPASS invalid username-password pair or user is disabled."),
            None => {
                write::error(out, "ERR AUTH <password> called without any password configured for the default user.")
            }
        }
    }

    /// What is answered even while loading, or without looking at data.
    fn plain(&self, name: &[u8], args: &[&[u8]]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        match name {
            b"PING" if args.len() == 1 => write::simple(&mut out, "PONG"),
            b"PING" | b"ECHO" => write::bulk(&mut out, args.get(1).copied().unwrap_or_default()),
            b"SELECT" | b"READONLY" => write::simple(&mut out, "OK"),
            b"ROLE" => self.role(&mut out),
            // It has none of the scripts it is asked for, and takes those it is given.
            b"SCRIPT" if args[1] == b"EXISTS" => {
                write::array(&mut out, args.len() - 2);
                args[2..].iter().for_each(|_| write::integer(&mut out, 0));
            }
            b"SCRIPT" => write::bulk(&mut out, b"sha"),
            b"INFO" => {
                let text =
                    format!("# Server\r\nredis_version:7.0.15\r\nrun_id:{:039}{:x}\r\n", self.run, self.run % 16);
                write::bulk(&mut out, text.as_bytes());
            }
            _ => return None,
        }
        Some(out)
    }

    fn role(&self, out: &mut Vec<u8>) {
        if self.primary {
            out.extend_from_slice(b"*3\r\n$6\r\nmaster\r\n:100\r\n*0\r\n");
        } else {
            out.extend_from_slice(b"*5\r\n$5\r\nslave\r\n$8\r\n10.0.0.9\r\n:6379\r\n$7\r\nconnect\r\n:-1\r\n");
        }
    }

    /// Tells the owners' checker which slots are touched, by whom.
    fn witness(&self, name: &[u8], args: &[&[u8]], peer: &Peer, owners: &Owners, history: &mut History) {
        let what = show(name);
        let slots: Vec<Slot> = match name {
            // It may be asked while a slot is held.
            b"SCAN" => return,
            b"FLUSHALL" | b"FLUSHDB" | b"DBSIZE" | b"KEYS" | b"RANDOMKEY" => {
                return owners.executes_all(peer.worker, &self.addr, &what, history);
            }
            b"MGET" | b"DEL" | b"UNLINK" | b"EXISTS" | b"TOUCH" => {
                args[1..].iter().map(|key| topology::slot(key)).collect()
            }
            b"EVAL" => args.get(3).iter().map(|key| topology::slot(key)).collect(),
            b"MSET" | b"MSETNX" => args[1..].iter().step_by(2).map(|key| topology::slot(key)).collect(),
            _ => args.get(1).iter().map(|key| topology::slot(key)).collect(),
        };
        owners.executes(peer.worker, &self.addr, &slots, &what, history);
    }
}

fn client(args: &[&[u8]], peer: &Peer) -> Effect {
    let word = args.get(1).map(|word| word.to_ascii_uppercase()).unwrap_or_default();
    let mut out = Vec::new();
    match &word[..] {
        b"ID" => write::integer(&mut out, peer.id),
        b"KILL" => {
            let id = args.last().and_then(|id| std::str::from_utf8(id).ok()).and_then(|id| id.parse().ok());
            return Effect::Kill(id.unwrap_or(0));
        }
        b"UNBLOCK" => {
            let id = args.get(2).and_then(|id| std::str::from_utf8(id).ok()).and_then(|id| id.parse().ok());
            return Effect::Unblock(id.unwrap_or(0), args.get(3) == Some(&&b"ERROR"[..]));
        }
        _ => write::simple(&mut out, "OK"),
    }
    Effect::Reply(out)
}

/// Subscribing and its end, and what a connection that listens is told.
fn listen(name: &[u8], args: &[&[u8]], peer: &mut Peer) -> Option<Vec<u8>> {
    let pattern = name.starts_with(b"P");
    let joins = match name {
        b"SUBSCRIBE" | b"PSUBSCRIBE" => true,
        b"UNSUBSCRIBE" | b"PUNSUBSCRIBE" => false,
        _ => return None,
    };
    let mut out = Vec::new();
    for topic in &args[1..] {
        let entry = (pattern, topic.to_vec());
        if joins {
            peer.subscriptions.insert(entry)
        } else {
            peer.subscriptions.remove(&entry)
        };
        write::array(&mut out, 3);
        write::bulk(&mut out, &name.to_ascii_lowercase());
        write::bulk(&mut out, topic);
        write::integer(&mut out, peer.subscriptions.len() as i64);
    }
    Some(out)
}

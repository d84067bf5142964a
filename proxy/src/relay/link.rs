//! A link: our connection to an instance. It queues what goes out, knows whose reply comes next, and says hello
//! before it carries anything: AUTH, its name, its id, ROLE and INFO.

use super::ClientId;
use super::buffer::{Outgoing, Pool};
use super::limits::Settings;
use super::request::{PING, RequestId};
use super::scripts::Sha;
use cluster::group::GroupId;
use cluster::instance::Addr;
use cluster::resp::{reply, write};
use std::collections::VecDeque;

/// How a link stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// The shell opens a socket. Requests queue, for at most the connect timeout.
    Connecting,
    /// The socket is open; hello has been said. Requests queue.
    Greeting,
    Up,
    /// No socket; requests fail at once. A socket is opened again at this time.
    Down {
        until_us: u64,
    },
    /// `CloseLink` has been said, `link_closed` has not been called yet. Requests fail at once.
    Closing,
}

/// What a link is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// All clients' requests.
    Shared,
    /// Shared, but its instance has left the topology: it ends when nothing is in flight.
    Retiring,
    /// One client's large request.
    Exclusive { client: ClientId },
    /// Waiting for the next large request.
    Idle { since_us: u64 },
    /// What it publishes, for all clients that have subscribed.
    PubSub,
    /// To end what the instance may hold of lost connections, where no shared link will.
    Fence,
    /// One request that must not queue behind others, such as SCRIPT KILL.
    Errand,
    /// To be forgotten once its socket is closed.
    Finished,
}

/// Replies of the greeting still to come, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hello {
    Auth,
    /// EXEC, MULTI and DISCARD, by the user we are: may we?
    Right,
    SetName,
    Id,
    Role,
    Info,
    /// RESP3 from here on.
    Protocol,
    /// CLIENT KILL of a connection that was lost.
    Kill(i64),
    /// SCRIPT EXISTS of those that are known, and SCRIPT LOAD of one that it has not.
    Scripts,
    Load,
}

/// What one of our own requests in a link's queue is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Own {
    Ping,
    /// ROLE, after it said READONLY.
    Role,
    /// CLIENT KILL of a connection that was lost.
    Kill(i64),
    /// CLIENT UNBLOCK of a connection on which a client's request blocks.
    Unblock,
    /// SCRIPT LOAD of one that was missing.
    Script,
    /// Part of a client's request whose reply is not its answer: MULTI, and what is queued before EXEC.
    Part,
}

/// What the greeting found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Greeted {
    NotYet,
    /// It is known who it is, and what its role is.
    Introduced,
    /// It has said which scripts it has.
    Scripts,
    /// It has taken a script.
    Loaded,
    /// An errand need know no more.
    Ready,
    /// It has answered CLIENT KILL of this id.
    Asked(i64, Killed),
    /// Not to be used, and why.
    Refused(String),
}

/// What an instance says to CLIENT KILL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Killed {
    /// There is no such connection (any more).
    Gone,
    /// Ask again later.
    NotNow,
    /// It must not, or does not know how.
    Refused,
}

/// One connection to an instance.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) addr: Addr,
    pub(super) group: GroupId,
    /// The group's entry in the stats, or usize::MAX.
    pub(super) entry: usize,
    /// The `run_id` the topology expects, where it says one.
    pub(super) run_id: Option<String>,
    pub(super) state: State,
    pub(super) purpose: Use,
    /// It speaks RESP3, for clients that do.
    pub(super) resp3: bool,
    /// For the shell to write.
    pub(super) out: Outgoing,
    /// Requests that came before the link was up.
    pub(super) queue: Outgoing,
    /// Whose replies come next. Pushed when the bytes are queued, not when they are sent: a reply may be faster.
    pub(super) fifo: VecDeque<RequestId>,
    /// How many at the front of `fifo` have been answered with a timeout.
    pub(super) expired: usize,
    hello: VecDeque<Hello>,
    /// Bytes of a reply that is not whole, and how many of them `cursor` has seen.
    pub(super) input: Vec<u8>,
    pub(super) seen: usize,
    pub(super) cursor: reply::Cursor,
    /// Bytes of the current reply that have been passed on, when it is too large to be kept whole.
    pub(super) streamed: u64,
    pub(super) dirty: bool,
    pub(super) stopped: bool,
    /// Whether this connection has been up: only then may a request have reached the instance.
    pub(super) carried: bool,
    /// Bytes ever queued and ever written: tells which requests cannot have reached the instance.
    pub(super) queued: u64,
    pub(super) written: u64,
    /// When a byte last came, or the socket opened, or a ping was sent; and before that ping or that socket.
    pub(super) heard_us: u64,
    pub(super) heard_before_us: Option<u64>,
    /// When a byte last came, on this connection or one before it.
    pub(super) byte_us: u64,
    pub(super) attempts: u32,
    pub(super) cause: String,
    /// The instance's CLIENT ID for this connection, and the `run_id` of its process; empty: it does not say.
    pub(super) server_id: Option<i64>,
    pub(super) process: String,
    /// How many connections had been lost when this one opened (`Orphans::lost`).
    pub(super) lost_before: u64,
    /// Why it cannot be used, as far as the greeting has shown.
    pub(super) unfit: Option<String>,
    /// CLIENT UNBLOCK was asked for it, perhaps more than once: nobody else is given it.
    pub(super) spent: bool,
    /// It said READONLY: its role is to be asked for again.
    pub(super) doubted: bool,
    /// For each `PING` in `fifo`: what it is.
    pub(super) own: VecDeque<Own>,
    pub(super) version: String,
    /// The process that has all known scripts, as far as this link saw to it; and those it is being asked for.
    pub(super) scripts_of: String,
    pub(super) scripts_asked: Option<Vec<Sha>>,
}

impl Link {
    pub(super) fn new(
        addr: Addr,
        group: GroupId,
        entry: usize,
        run_id: Option<String>,
        purpose: Use,
        now_us: u64,
    ) -> Self {
        Self {
            addr,
            group,
            entry,
            run_id,
            state: State::Connecting,
            purpose,
            resp3: false,
            out: Outgoing::default(),
            queue: Outgoing::default(),
            fifo: VecDeque::new(),
            expired: 0,
            hello: VecDeque::new(),
            input: Vec::new(),
            seen: 0,
            cursor: reply::Cursor::default(),
            streamed: 0,
            dirty: false,
            stopped: false,
            carried: false,
            queued: 0,
            written: 0,
            heard_us: now_us,
            heard_before_us: None,
            byte_us: now_us,
            attempts: 0,
            cause: String::new(),
            server_id: None,
            process: String::new(),
            lost_before: 0,
            unfit: None,
            spent: false,
            doubted: false,
            own: VecDeque::new(),
            version: String::new(),
            scripts_of: String::new(),
            scripts_asked: None,
        }
    }

    pub(super) fn shared(&self) -> bool {
        matches!(self.purpose, Use::Shared | Use::Retiring)
    }

    /// Bytes on their way.
    pub(super) fn output_bytes(&self) -> usize {
        self.out.len() + self.queue.len()
    }

    /// Requests of clients in flight.
    pub(super) fn in_flight(&self) -> usize {
        self.fifo.len().saturating_sub(self.own.len())
    }

    /// Says hello.
    pub(super) fn greet(&mut self, settings: &Settings, name: &str, pool: &mut Pool) {
        let mut bytes = Vec::with_capacity(256);
        let mut say = |step: Hello, args: &[&[u8]]| {
            write::request(&mut bytes, args);
            self.hello.push_back(step);
        };
        if let Some(password) = &settings.instance_password {
            match &settings.instance_user {
                Some(user) => say(Hello::Auth, &[b"AUTH", user.as_bytes(), password.as_bytes()]),
                None => say(Hello::Auth, &[b"AUTH", password.as_bytes()]),
            }
        }
        if settings.instance_user.is_some() && self.purpose != Use::Errand {
            // A transaction goes out in one piece: without MULTI its commands would be done one by one. Outside of one, EXEC
            // is an error that does nothing.
            for name in [&b"EXEC"[..], b"MULTI", b"DISCARD"] {
                say(Hello::Right, &[name]);
            }
        }
        say(Hello::SetName, &[b"CLIENT", b"SETNAME", name.as_bytes()]);
        if self.purpose != Use::Errand {
            // An instance that is busy with a script does not answer these.
            say(Hello::Id, &[b"CLIENT", b"ID"]);
            say(Hello::Role, &[b"ROLE"]);
            say(Hello::Info, &[b"INFO", b"server"]);
        }
        if self.resp3 {
            say(Hello::Protocol, &[b"HELLO", b"3"]);
        }
        self.out.append(pool, &bytes);
        self.state = State::Greeting;
    }

    /// Goes on with the greeting: these lost connections end before this one is used.
    pub(super) fn kill(&mut self, ids: &[i64], pool: &mut Pool) {
        let mut bytes = Vec::new();
        for &id in ids {
            kill_request(&mut bytes, id);
            self.hello.push_back(Hello::Kill(id));
        }
        self.out.append(pool, &bytes);
    }

    /// Goes on with the greeting: which of these scripts are there?
    pub(super) fn ask_for_scripts(&mut self, names: &[Sha], pool: &mut Pool) {
        let mut args: Vec<&[u8]> = vec![b"SCRIPT", b"EXISTS"];
        args.extend(names.iter().map(|sha| &sha[..]));
        let mut bytes = Vec::new();
        write::request(&mut bytes, &args);
        self.out.append(pool, &bytes);
        self.hello.push_back(Hello::Scripts);
    }

    /// Goes on with the greeting: takes these scripts.
    pub(super) fn load_scripts<'a>(&mut self, bodies: impl Iterator<Item = &'a [u8]>, pool: &mut Pool) {
        let mut bytes = Vec::new();
        for body in bodies {
            write::request(&mut bytes, &[b"SCRIPT", b"LOAD", body]);
            self.hello.push_back(Hello::Load);
        }
        self.out.append(pool, &bytes);
    }

    /// Kills on a link in use: what is sent on it afterwards is executed after it.
    pub(super) fn kill_in_turn(&mut self, ids: &[i64], pool: &mut Pool) {
        let mut bytes = Vec::new();
        for &id in ids {
            kill_request(&mut bytes, id);
            self.fifo.push_back(PING);
            self.own.push_back(Own::Kill(id));
        }
        self.heard_before_us = Some(self.heard_us);
        self.queued += bytes.len() as u64;
        self.out.append(pool, &bytes);
    }

    /// When the instance last said something, as far as is known.
    pub(super) fn last_heard_us(&self) -> Option<u64> {
        let certain = self.state == State::Up && self.own.iter().all(|own| *own == Own::Part);
        if certain { Some(self.heard_us) } else { self.heard_before_us }
    }

    /// Whether the next reply answers our greeting.
    pub(super) fn greeting(&self) -> bool {
        !self.hello.is_empty()
    }

    /// Takes the reply to the next step of the greeting.
    pub(super) fn greeted(&mut self, reply: &[u8]) -> Greeted {
        let Some(step) = self.hello.pop_front() else { return Greeted::NotYet };
        if let Some(why) = refusal(step, reply) {
            return Greeted::Refused(why);
        }
        match step {
            _ if self.purpose == Use::Errand && self.hello.is_empty() => return Greeted::Ready,
            Hello::Id => self.server_id = reply::integer(reply),
            Hello::Kill(id) => return Greeted::Asked(id, killed(reply)),
            Hello::Role => {
                if let Some(why) = not_primary(reply) {
                    self.unfit = Some(why);
                }
            }
            Hello::Info => {
                self.introduced(reply::text(reply).unwrap_or_default());
                if !self.resp3 {
                    return Greeted::Introduced;
                }
            }
            Hello::Scripts => return Greeted::Scripts,
            Hello::Load => return Greeted::Loaded,
            Hello::Protocol => return Greeted::Introduced,
            Hello::Auth | Hello::Right | Hello::SetName => {}
        }
        Greeted::NotYet
    }

    /// Who it is.
    fn introduced(&mut self, info: &[u8]) {
        let info = String::from_utf8_lossy(info);
        let field = |name: &str| info.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default().trim().to_owned();
        self.version = field("redis_version:");
        self.process = field("run_id:");
    }

    /// Why it must not be used: it leads to another process than the topology names. It was started again, perhaps without
    /// its data; who decides whether it is to be served is the control plane.
    pub(super) fn stranger(&self) -> Option<String> {
        let expected = self.run_id.as_ref().filter(|id| **id != self.process && !self.process.is_empty())?;
        Some(format!("its run_id is {}, the topology says {expected}: it was started again", self.process))
    }

    /// Forgets the socket and all that was on its way; the requests are the caller's to answer.
    pub(super) fn reset(&mut self, pool: &mut Pool) -> VecDeque<RequestId> {
        (self.server_id, self.unfit, self.scripts_asked) = (None, None, None);
        self.process.clear();
        self.out.clear(pool);
        self.queue.clear(pool);
        self.hello.clear();
        self.own.clear();
        pool.give(std::mem::take(&mut self.input));
        (self.seen, self.cursor, self.streamed, self.expired) = (0, reply::Cursor::default(), 0, 0);
        (self.queued, self.written, self.stopped, self.carried) = (0, 0, false, false);
        std::mem::take(&mut self.fifo)
    }
}

fn kill_request(bytes: &mut Vec<u8>, id: i64) {
    write::request(bytes, &[b"CLIENT", b"KILL", b"ID", id.to_string().as_bytes()]);
}

/// Why an instance that answers ROLE so cannot be used as a primary.
pub(super) fn not_primary(reply: &[u8]) -> Option<String> {
    let role = reply::Elements::new(reply).and_then(|mut e| e.next()).and_then(reply::text);
    let role = String::from_utf8_lossy(role.filter(|role| *role != b"master")?);
    Some(format!("the instance says its role is {role:?}, the topology says primary"))
}

/// What a reply to CLIENT KILL ID says: the number killed, 0 for none such; or an error.
pub(super) fn killed(reply: &[u8]) -> Killed {
    let says = |word: &[u8]| reply.starts_with(word);
    if reply::integer(reply).is_some() || says(b"-ERR No such client") {
        Killed::Gone
    } else if says(b"-BUSY") || says(b"-LOADING") {
        Killed::NotNow
    } else {
        Killed::Refused
    }
}

/// Why a reply to the greeting forbids the link's use. An instance that does not know a command is no reason: Pika
/// and old servers lack some of them.
fn refusal(step: Hello, reply: &[u8]) -> Option<String> {
    let text = reply.strip_prefix(b"-")?;
    let text = String::from_utf8_lossy(text).trim_end().to_owned();
    let no_password_set = text.contains("without any password configured") || text.contains("no password is set");
    match step {
        Hello::Auth if no_password_set => None,
        Hello::Auth => Some(format!("AUTH refused: {text}; check instance_user and instance_password")),
        Hello::Right if text.starts_with("NOPERM") => {
            Some(format!("{text}; allow instance_user to use MULTI, EXEC and DISCARD"))
        }
        Hello::Protocol => Some(format!("it does not speak RESP3: {text}")),
        _ if text.starts_with("NOAUTH") => Some(format!("{text} (set instance_password)")),
        _ if text.starts_with("LOADING") => Some("the instance is loading its data".to_owned()),
        _ if text.starts_with("MASTERDOWN") => Some(text),
        Hello::Kill(_) if text.starts_with("BUSY") => Some(text),
        _ => None,
    }
}

/// When to try again after `attempts` failures: 10 ms doubling to half a second, a quarter up or down so that workers do not
/// knock together. No longer, since a proxy whose machine was cut off gets clients again some 2 s after it is heard (the role
/// haproxy, `haproxy_rise`): its links must be up by then.
pub(super) fn backoff_us(attempts: u32, random: u64) -> u64 {
    let base = (10_000u64 << attempts.min(8)).min(500_000);
    base * 3 / 4 + random % (base / 2)
}

/// The words for a link in an error: its group and address.
pub(super) fn whose(link: &Link) -> String {
    format!("group {} ({})", link.group, link.addr)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backs_off() {
        for random in [0, 1, u64::MAX] {
            assert!((7_500..12_500).contains(&backoff_us(0, random)));
            assert!((375_000..=625_000).contains(&backoff_us(50, random)));
        }
    }

    #[test]
    fn a_user_without_transactions_is_refused() {
        let settings =
            Settings { instance_user: Some("u".into()), instance_password: Some("p".into()), ..Settings::default() };
        let mut link = Link::new("127.0.0.1:1".parse().expect("addr"), 1, 0, None, Use::Shared, 0);
        link.greet(&settings, "px:test", &mut Pool::default());
        assert_eq!(link.greeted(b"+OK\r\n"), Greeted::NotYet);
        assert_eq!(link.greeted(b"-ERR EXEC without MULTI\r\n"), Greeted::NotYet);
        let said = link.greeted(b"-NOPERM User u has no permissions to run the 'multi' command\r\n");
        assert!(matches!(&said, Greeted::Refused(why) if why.contains("allow instance_user")), "{said:?}");
    }

    #[test]
    fn a_replica_is_refused() {
        let mut link = Link::new("127.0.0.1:1".parse().expect("addr"), 1, 0, None, Use::Shared, 0);
        let mut pool = Pool::default();
        link.greet(&Settings::default(), "px:test", &mut pool);
        assert_eq!(link.greeted(b"+OK\r\n"), Greeted::NotYet);
        assert_eq!(link.greeted(b":7\r\n"), Greeted::NotYet);
        assert_eq!(link.greeted(b"*2\r\n$5\r\nslave\r\n$1\r\nx\r\n"), Greeted::NotYet);
        assert_eq!(link.greeted(b"$11\r\nrun_id:abc\r\n\r\n"), Greeted::Introduced);
        let why = link.unfit.expect("unfit");
        assert!(why.contains("slave"), "{why}");
        assert_eq!(link.process, "abc");
    }
}

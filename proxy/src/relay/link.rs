//! A link: our connection to an instance. It queues what goes out, knows whose reply comes next, and says hello
//! before it carries anything: AUTH, its name, its id, ROLE and INFO.

use super::ClientId;
use super::buffer::{Outgoing, Pool};
use super::limits::Settings;
use super::request::{PING, RequestId};
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
    /// To be forgotten once its socket is closed.
    Finished,
}

/// Replies of the greeting still to come, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hello {
    Auth,
    SetName,
    Id,
    KillOld,
    Role,
    Info,
}

/// What the greeting found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Greeted {
    NotYet,
    Ready,
    /// Not to be used, and why.
    Refused(String),
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
    /// When a byte last came, or the socket opened.
    pub(super) heard_us: u64,
    pub(super) attempts: u32,
    pub(super) cause: String,
    /// The instance's CLIENT ID for this connection, and for one that we closed with requests unanswered: that one
    /// is killed before anything is sent, so that what it still holds cannot be applied later.
    pub(super) server_id: Option<i64>,
    pub(super) orphan_id: Option<i64>,
    pub(super) version: String,
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
            attempts: 0,
            cause: String::new(),
            server_id: None,
            orphan_id: None,
            version: String::new(),
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
        self.fifo.len() - usize::from(self.fifo.back() == Some(&PING))
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
        say(Hello::SetName, &[b"CLIENT", b"SETNAME", name.as_bytes()]);
        say(Hello::Id, &[b"CLIENT", b"ID"]);
        if let Some(id) = self.orphan_id {
            say(Hello::KillOld, &[b"CLIENT", b"KILL", b"ID", id.to_string().as_bytes()]);
        }
        say(Hello::Role, &[b"ROLE"]);
        say(Hello::Info, &[b"INFO", b"server"]);
        self.out.append(pool, &bytes);
        self.state = State::Greeting;
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
            Hello::Id => self.server_id = reply::integer(reply),
            Hello::KillOld => self.orphan_id = None,
            Hello::Role => {
                let role = reply::Elements::new(reply).and_then(|mut e| e.next()).and_then(reply::text);
                if let Some(role) = role.filter(|r| *r != b"master") {
                    let role = String::from_utf8_lossy(role).into_owned();
                    return Greeted::Refused(format!(
                        "the instance says its role is {role:?}, the topology says primary"
                    ));
                }
            }
            Hello::Info => return self.introduced(reply::text(reply).unwrap_or_default()),
            Hello::Auth | Hello::SetName => {}
        }
        Greeted::NotYet
    }

    /// The last step: who it is.
    fn introduced(&mut self, info: &[u8]) -> Greeted {
        let info = String::from_utf8_lossy(info);
        let field = |name: &str| info.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default().trim().to_owned();
        self.version = field("redis_version:");
        let run_id = field("run_id:");
        match &self.run_id {
            Some(expected) if *expected != run_id && !run_id.is_empty() => {
                Greeted::Refused(format!("its run_id is {run_id}, the topology expects {expected}: another process"))
            }
            _ => Greeted::Ready,
        }
    }

    /// Forgets the socket and all that was on its way; the requests are the caller's to answer.
    pub(super) fn reset(&mut self, pool: &mut Pool) -> VecDeque<RequestId> {
        if self.fifo.iter().any(|&r| r != PING) {
            self.orphan_id = self.server_id;
        }
        self.server_id = None;
        self.out.clear(pool);
        self.queue.clear(pool);
        self.hello.clear();
        pool.give(std::mem::take(&mut self.input));
        (self.seen, self.cursor, self.streamed, self.expired) = (0, reply::Cursor::default(), 0, 0);
        (self.queued, self.written, self.stopped, self.carried) = (0, 0, false, false);
        std::mem::take(&mut self.fifo)
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
        _ if text.starts_with("NOAUTH") => Some(format!("{text} (set instance_password)")),
        _ if text.starts_with("LOADING") => Some("the instance is loading its data".to_owned()),
        _ if text.starts_with("MASTERDOWN") => Some(text),
        _ => None,
    }
}

/// When to try again after `attempts` failures: 10 ms doubling to 2 s, a quarter up or down so that workers do not
/// knock together.
pub(super) fn backoff_us(attempts: u32, random: u64) -> u64 {
    let base = (10_000u64 << attempts.min(8)).min(2_000_000);
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
            assert!((1_500_000..=2_500_000).contains(&backoff_us(50, random)));
        }
    }

    #[test]
    fn a_replica_is_refused() {
        let mut link = Link::new("127.0.0.1:1".parse().expect("addr"), 1, 0, None, Use::Shared, 0);
        let mut pool = Pool::default();
        link.greet(&Settings::default(), "px:test", &mut pool);
        assert_eq!(link.greeted(b"+OK\r\n"), Greeted::NotYet);
        assert_eq!(link.greeted(b":7\r\n"), Greeted::NotYet);
        let Greeted::Refused(why) = link.greeted(b"*2\r\n$5\r\nslave\r\n$1\r\nx\r\n") else { panic!("taken") };
        assert!(why.contains("slave"), "{why}");
    }
}

//! Stories: the relay's behaviour as texts (`testdata/*.txt`).
//!
//! ```text
//! topology 1 a=n1 b=n2 rest=n1      slots of keys a and b; add `!` to hold one (`b=n2!`); `n1:r2`: the process it expects at
//!                                   n1 says run_id r2; `n1>n3`: n3 is the primary of what was n1's group;
//!                                   `none=n2`: n2's group owns no slot by this word; `b=n1~n2`: it moves from n1 to n2,
//!                                   on access (n2's group must be named by another word, too); `copies=n2`: it may hold
//!                                   keys of slots that are not its own
//! n1 runs r2                        its process is another one from now on: links that open hear this run_id
//! c1> GET a                         the client sends a request (\r \n \xNN are understood; `raw:` sends as it stands)
//! n1< GET a                         the instance has received exactly this, and nothing else
//! n1> $1 x                          the instance replies (blanks are line ends; `_` is a blank, `~` is `_`)
//! c1< $1 x                          the client has received exactly this, and nothing else
//! c1< nothing                       (also for instances)
//! ```
//! `c1> part 500 SET a x*900`: only the first 500 bytes; `c1> more 100`, `c1> rest` send what is left
//! `n1/0`: the oldest link of the instance that is open, rather than the newest. Others: `wait MS`, `c1 closes`, `n1 closes`, `n1 refuses` (from now on), `quiet EPOCH`, `no quiet`, `not quiet EPOCH`, `set KNOB VALUE`, `drain`,
//! `c1 hears TEXT & TEXT` (among other things), `others say TEXT` (to our newest question; `|` is a line end), `another
//! asks JSON` and `and is told TEXT`, `shows TEXT` (to other workers), `boundary c1`, `c1 is closed`, `n1 is closed`,
//! `c1 is stopped`, `c1 reads on`, `lent are at most BYTES` (of buffers). A link greets by itself unless
//! `manual greeting` was said.

use super::limits::Settings;
use super::{Deed, Now, Relay};
use cluster::instance::Addr;
use cluster::resp::{request::Args, write};
use cluster::slot::{TagRule, slot_of};
use cluster::wire;
use std::collections::{BTreeMap, BTreeSet};
use std::io::IoSlice;
use std::sync::Arc;

const SLOTS: u16 = 64;

struct World {
    relay: Relay,
    now: Now,
    clients: BTreeMap<String, u32>,
    /// Open links, by instance, oldest first.
    links: BTreeMap<String, Vec<u32>>,
    deeds: Vec<Deed>,
    greet: bool,
    refusing: BTreeSet<String>,
    /// What instances say of their processes, where they say anything.
    processes: BTreeMap<String, String>,
    unsent: Vec<u8>,
    /// Questions to other workers, and what a question of theirs was told.
    tickets: Vec<u32>,
    said: String,
    at: String,
}

fn addr(instance: &str) -> Addr {
    let n: u16 = instance[1..].parse().expect("instances are n1, n2 ...");
    format!("127.0.0.1:{n}").parse().expect("an address")
}

fn instance(addr: &Addr) -> String {
    format!("n{}", addr.to_string().rsplit(':').next().expect("a port"))
}

impl World {
    fn new() -> Self {
        let now = Now { us: 1_000_000, unix_us: 0 };
        let relay = Relay::new(Settings::default(), 0, 7, now);
        Self {
            relay,
            now,
            clients: BTreeMap::new(),
            links: BTreeMap::new(),
            deeds: Vec::new(),
            greet: true,
            refusing: BTreeSet::new(),
            processes: BTreeMap::new(),
            unsent: Vec::new(),
            tickets: Vec::new(),
            said: String::new(),
            at: String::new(),
        }
    }

    fn line(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match *words.as_slice() {
            ["topology", epoch, ref slots @ ..] => self.topology(epoch.parse().expect("an epoch"), slots),
            [who, ..] if who.ends_with('>') => {
                let text = line[who.len()..].trim();
                if who.starts_with('c') {
                    self.client_says(&who[..who.len() - 1], text)
                } else {
                    self.instance_says(&who[..who.len() - 1], text)
                }
            }
            [who, ..] if who.ends_with('<') => {
                let text = line[who.len()..].trim();
                let name = &who[..who.len() - 1];
                let wanted = if who.starts_with('c') { reply(text) } else { requests(text) };
                let got = if who.starts_with('c') { self.client_output(name) } else { self.link_output(name) };
                assert_eq!(show(&got), show(&wanted), "{}: {line}", self.at);
            }
            ["wait", ms] => self.wait(ms.parse().expect("milliseconds")),
            [client, "closes"] if client.starts_with('c') => {
                let id = self.clients.remove(client).expect("a client");
                self.relay.client_closed(id);
            }
            [client, "finishes"] => self.relay.client_finished(self.clients[client]),
            [client, "hangs", "up"] => self.relay.client_hung_up(self.clients[client]),
            [node, "closes"] => {
                let id = self.link(node).expect("a link");
                self.forget_link(id);
                self.relay.link_closed(id, "closed by the instance");
            }
            ["manual", "greeting"] => self.greet = false,
            ["set", knob, value] => {
                let mut settings = serde_json::to_value(&self.relay.settings).expect("settings");
                settings[knob] = serde_json::from_str(value).unwrap_or_else(|_| value.into());
                self.relay.set_settings(serde_json::from_value(settings).expect("a knob and its value"));
            }
            ["others", "say", ref words @ ..] => self.others_say(&words.join(" ")),
            ["another", "asks", question] => {
                let question = serde_json::from_str(question).expect("a question");
                self.said = self.relay.question(&question);
            }
            ["shows", ref words @ ..] => {
                self.deeds();
                let shown = |d: &Deed| if let Deed::Show { lines } = d { Some(lines.clone()) } else { None };
                let lines: String = self.deeds.iter().filter_map(shown).collect();
                self.deeds.retain(|d| shown(d).is_none());
                let wanted = words.join(" ");
                let right = if wanted == "nothing" { lines.is_empty() } else { lines.contains(&wanted) };
                assert!(right, "{}: shown is {lines:?}", self.at);
            }
            ["and", "is", "told", ref words @ ..] => assert_eq!(self.said.trim_end(), words.join(" "), "{}", self.at),
            [client, "hears", ..] => {
                let heard = String::from_utf8_lossy(&self.client_output(client)).into_owned();
                let words = line.split_once("hears").map_or("", |(_, words)| words);
                for word in words.split('&').map(str::trim) {
                    assert!(heard.contains(word), "{}: {word:?} is not in {heard:?}", self.at);
                }
            }
            ["drain"] => self.relay.drain(),
            ["lent", "are", "at", "most", bytes] => {
                let lent = self.relay.pool.lent();
                assert!(lent <= bytes.parse().expect("bytes"), "{}: {lent}", self.at);
            }
            ["quiet", epoch] => self.expect(Deed::Quiet { epoch: epoch.parse().expect("an epoch") }),
            ["not", "quiet", epoch] => {
                self.deeds();
                let epoch: u64 = epoch.parse().expect("an epoch");
                let said = |d: &Deed| matches!(d, Deed::NotQuiet { epoch: e, .. } if *e == epoch);
                assert!(self.deeds.iter().any(said), "{}: {:?}", self.at, self.deeds);
                assert!(!self.deeds.contains(&Deed::Quiet { epoch }), "{}: {:?}", self.at, self.deeds);
            }
            [node, "refuses"] => {
                self.refusing.insert(node.to_owned());
            }
            [node, "runs", process] => {
                self.processes.insert(node.to_owned(), process.to_owned());
            }
            ["no", "quiet"] => {
                self.deeds();
                assert!(!self.deeds.iter().any(|d| matches!(d, Deed::Quiet { .. })), "{}: {:?}", self.at, self.deeds);
            }
            ["boundary", client] => self.expect(Deed::AtBoundary { client: self.clients[client] }),
            [client, "is", "stopped"] => self.expect(Deed::StopReading { client: self.clients[client] }),
            [client, "reads", "on"] => self.expect(Deed::ReadAgain { client: self.clients[client] }),
            [client, "is", "closed"] if client.starts_with('c') => {
                let id = self.clients.remove(client).expect("a client");
                self.expect(Deed::CloseClient { client: id });
                self.relay.client_closed(id);
            }
            [node, "is", "closed"] => {
                self.deeds();
                let id = self.link(node).expect("a link");
                self.forget_link(id);
                self.expect(Deed::CloseLink { link: id });
                self.relay.link_closed(id, "");
            }
            _ => panic!("{}: what is {line:?}?", self.at),
        }
        self.deeds();
        self.relay.check();
    }

    fn topology(&mut self, epoch: u64, slots: &[&str]) {
        let mut owners = vec![(1u32, wire::State::Normal, None); usize::from(SLOTS)];
        let mut groups: Vec<String> = vec!["n1".into()];
        for word in slots.iter().rev().filter(|word| word.contains('=')) {
            let (key, node) = word.split_once('=').expect("key=instance");
            let (state, node) = match node.strip_suffix('!') {
                Some(node) => (wire::State::Held, node),
                None if node.contains('~') => (wire::State::Moving, node),
                None => (wire::State::Normal, node),
            };
            let (node, target) = node.split_once('~').unwrap_or((node, ""));
            let mut id_of = |node: &str| {
                let found = groups.iter().position(|g| g == node);
                let at = found.unwrap_or_else(|| {
                    groups.push(node.into());
                    groups.len() - 1
                });
                at as u32 + 1
            };
            let group = id_of(node);
            let owner = (group, state, (!target.is_empty()).then(|| id_of(target)));
            match key {
                "none" | "copies" => {}
                "rest" => owners.fill(owner),
                key => owners[usize::from(slot_of(key.as_bytes(), TagRule::Redis, SLOTS))] = owner,
            }
        }
        let slots_named = slots;
        let slots = (0..SLOTS).zip(&owners).map(|(slot, &(group, state, target))| wire::Range {
            from: slot,
            to: slot,
            group,
            state,
            target,
        });
        // Who is not named is not in it.
        let named =
            |node: &str| slots_named.iter().any(|w| w.split(['=', '~']).any(|n| n.trim_end_matches('!') == node));
        let groups = groups.iter().zip(1..).filter(|(node, _)| named(node)).map(|(node, id)| {
            let said = |by: char| slots_named.iter().find_map(|w| w.split_once(by).filter(|(n, _)| n == node));
            let node = said('>').map_or(node.as_str(), |(_, heir)| heir);
            let process = said(':').map_or(String::new(), |(_, id)| format!(r#","run_id":"{id}""#));
            let copies = slots_named.iter().any(|w| w.strip_prefix("copies=") == Some(node));
            let json = format!(
                r#"{{"id":{id},"instances":[{{"addr":"{}","role":"primary"{process}}}],"copies":{copies}}}"#,
                addr(node)
            );
            serde_json::from_str(&json).expect("a group")
        });
        let message = wire::Message {
            epoch,
            name: String::new(),
            slot_count: SLOTS,
            tag_rule: TagRule::Redis,
            groups: groups.collect(),
            slots: slots.collect(),
            users: Vec::new(),
        };
        self.relay.set_topology(Arc::new(message.check().expect("a topology")));
    }

    fn client(&mut self, name: &str) -> u32 {
        if let Some(&id) = self.clients.get(name) {
            return id;
        }
        let id = self.relay.client_opened("10.0.0.1:5");
        self.clients.insert(name.into(), id);
        id
    }

    fn client_says(&mut self, name: &str, text: &str) {
        let id = self.client(name);
        let bytes = match text.split_once(' ') {
            Some(("part", rest)) => {
                let (n, request) = rest.split_once(' ').expect("part N REQUEST");
                let mut bytes = requests(request);
                self.unsent = bytes.split_off(n.parse().expect("a count"));
                bytes
            }
            Some(("more", n)) => {
                let rest = self.unsent.split_off(n.parse().expect("a count"));
                std::mem::replace(&mut self.unsent, rest)
            }
            _ if text == "rest" => std::mem::take(&mut self.unsent),
            _ => text.strip_prefix("raw:").map_or_else(|| requests(text), unescape),
        };
        self.relay.client_sent(id, &bytes);
    }

    fn instance_says(&mut self, name: &str, text: &str) {
        let id = self.link(name).expect("a link");
        self.relay.link_sent(id, &reply(text));
    }

    fn client_output(&mut self, name: &str) -> Vec<u8> {
        let id = self.client(name);
        let bytes = take(|slices| self.relay.client_output(id, slices));
        if !bytes.is_empty() {
            self.relay.client_wrote(id, bytes.len());
        }
        bytes
    }

    /// The instance's newest link, or the one that is named.
    fn link(&self, name: &str) -> Option<u32> {
        match name.split_once('/') {
            Some((node, at)) => self.links.get(node)?.get(at.parse::<usize>().expect("which link")).copied(),
            None => self.links.get(name)?.last().copied(),
        }
    }

    fn forget_link(&mut self, id: u32) {
        self.links.values_mut().for_each(|links| links.retain(|&l| l != id));
    }

    /// What went out on the instance's newest link.
    fn link_output(&mut self, name: &str) -> Vec<u8> {
        self.deeds();
        self.link(name).map_or_else(Vec::new, |id| self.output_of(id))
    }

    fn output_of(&mut self, id: u32) -> Vec<u8> {
        let bytes = take(|slices| self.relay.link_output(id, slices));
        if !bytes.is_empty() {
            self.relay.link_wrote(id, bytes.len());
        }
        bytes
    }

    fn wait(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now.us += 1000;
            self.relay.set_now(self.now);
            if self.now.us >= self.relay.deadline() {
                self.relay.tick();
                self.deeds();
            }
        }
    }

    /// Does connects; keeps the others for `expect`.
    fn deeds(&mut self) {
        while let Some(deed) = self.relay.next_deed() {
            match deed {
                Deed::Connect { link, addr } if self.refusing.contains(&instance(&addr)) => {
                    self.relay.link_closed(link, "connection refused");
                }
                Deed::Connect { link, addr } => {
                    let node = instance(&addr);
                    self.links.entry(node.clone()).or_default().push(link);
                    self.relay.link_opened(link);
                    if self.greet {
                        let hello = self.output_of(link);
                        let n = hello.windows(1).filter(|w| w == b"*").count();
                        let resp3 = hello.windows(5).any(|w| w == b"HELLO");
                        let process = self.processes.get(&node).map_or(String::new(), |id| format!("run_id:{id}\r\n"));
                        let mut hello = b"+OK\r\n:1\r\n*1\r\n$6\r\nmaster\r\n".to_vec();
                        write::bulk(&mut hello, process.as_bytes());
                        let proto = if resp3 { &b"%0\r\n"[..] } else { b"" };
                        let whole = 4 + usize::from(resp3);
                        match n.checked_sub(whole) {
                            Some(auth) => {
                                let auth = b"+OK\r\n".repeat(auth);
                                self.relay.link_sent(link, &[&auth, &hello[..], proto].concat());
                            }
                            None => self.relay.link_sent(link, &b"+OK\r\n".repeat(n)),
                        }
                        while self.relay.links.get(link as usize).is_some_and(|l| l.greeting()) {
                            let kills = self.output_of(link).windows(1).filter(|w| w == b"*").count();
                            self.relay.link_sent(link, &b":1\r\n".repeat(kills));
                        }
                    }
                }
                Deed::Tell { .. } => {}
                Deed::Ask { ticket, .. } => self.tickets.push(ticket),
                deed => self.deeds.push(deed),
            }
        }
    }

    /// All other workers answer the newest question; `|` is a line end.
    fn others_say(&mut self, text: &str) {
        self.deeds();
        let ticket = self.tickets.pop().expect("a question");
        self.relay.others_answered(ticket, &text.replace('|', "\n"), true);
    }

    fn expect(&mut self, deed: Deed) {
        self.deeds();
        let at = self.deeds.iter().position(|d| *d == deed);
        let at = at.unwrap_or_else(|| panic!("{}: {deed:?} is not among {:?}", self.at, self.deeds));
        self.deeds.remove(at);
    }
}

fn take<'a>(fill: impl FnOnce(&mut [IoSlice<'a>]) -> usize) -> Vec<u8> {
    let mut slices = [IoSlice::new(&[]); 64];
    let n = fill(&mut slices);
    slices[..n].iter().flat_map(|s| s.to_vec()).collect()
}

/// `SET a 1; GET a` as requests; `x*N` is a word of N letters x.
fn requests(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    if text == "nothing" {
        return out;
    }
    for request in text.split(';') {
        let args: Vec<Vec<u8>> = request.split_whitespace().map(long).collect();
        let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
        write::request(&mut out, &args);
        assert!(Args::new(&out).next().is_some(), "an empty request");
    }
    out
}

fn long(word: &str) -> Vec<u8> {
    match word.split_once('*') {
        Some((letter, n)) if letter.len() == 1 && !n.is_empty() => letter.repeat(n.parse().expect("a count")).into(),
        _ if word == "\"\"" => Vec::new(),
        _ => unescape(word),
    }
}

fn reply(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    if text != "nothing" {
        for word in text.split_whitespace() {
            out.extend(long(word).iter().map(|&b| match b {
                b'_' => b' ',
                b'~' => b'_',
                b => b,
            }));
            out.extend_from_slice(b"\r\n");
        }
    }
    out
}

fn unescape(text: &str) -> Vec<u8> {
    text.replace("\\r", "\r").replace("\\n", "\n").replace("\\s", " ").into_bytes()
}

fn show(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes).replace("\r\n", " ");
    if text.len() > 500 { format!("{}... {} bytes", &text[..200], bytes.len()) } else { text }
}

#[allow(clippy::disallowed_methods, reason = "a story that is edited needs no new build")]
fn tell(name: &str) {
    let file = format!("{}/src/relay/testdata/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    let story = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{file}: {e}"));
    let mut world = World::new();
    for (n, line) in story.lines().enumerate() {
        let line = line.split(" # ").next().unwrap_or_default().trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(title) = line.strip_prefix("== ") {
            world = World::new();
            world.at = title.into();
            continue;
        }
        world.at = format!("{name}:{}", n + 1);
        world.line(line);
    }
}

macro_rules! stories {
    ($($name:ident),*) => {$(
        #[test]
        fn $name() {
            tell(stringify!($name));
        }
    )*};
}

stories!(
    order,
    split,
    wide,
    held,
    moved,
    lost,
    replaced,
    large,
    timeout,
    closing,
    transactions,
    blocking,
    pubsub,
    resp3,
    server,
    users,
    emulation,
    fetched
);

#[test]
fn the_number_of_subscriptions_has_a_bound() {
    let mut world = World::new();
    world.line("topology 1 rest=n1");
    world.line("c2> SUBSCRIBE first");
    world.line("n1> *3 $9 subscribe $5 first :1");
    let names: String = (0..super::limits::SUBSCRIPTIONS_MAX).map(|n| format!(" {n}")).collect();
    world.line(&format!("c1> SUBSCRIBE{names}"));
    let mut replies = Vec::new();
    for n in 0..super::limits::SUBSCRIPTIONS_MAX {
        replies.extend_from_slice(b"*3\r\n$9\r\nsubscribe\r\n");
        write::bulk(&mut replies, n.to_string().as_bytes());
        write::integer(&mut replies, n as i64 + 1);
    }
    world.link_output("n1");
    let link = world.link("n1").expect("a link");
    replies.chunks(64 << 10).for_each(|piece| world.relay.link_sent(link, piece));
    world.line("c1 hears subscribe & :100000");
    world.line("c1> SUBSCRIBE 7");
    world.line("c1 hears :100000");
    world.line("c1> SUBSCRIBE 7 one-more");
    world.line("c1 hears -ERR twemslot: a client may have 100000 subscriptions");
    world.line("c1> UNSUBSCRIBE");
    world.line("wait 100");
}

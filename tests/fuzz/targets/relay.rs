//! The relay between two sides that say anything, cut anywhere: the input chooses what happens next, and whole
//! requests and replies are at hand so that it gets far. Nothing may panic, and the relay must not contradict itself.

#![no_main]

use cluster::topology::Topology;
use cluster::user::User;
use cluster::wire;
use libfuzzer_sys::fuzz_target;
use proxy::relay::limits::{Declared, Settings};
use proxy::relay::{ClientId, Deed, LinkId, Now, Relay};
use std::collections::{BTreeMap, BTreeSet};
use std::io::IoSlice;
use std::sync::{Arc, OnceLock};

fuzz_target!(|data: &[u8]| {
    let mut shell = Shell::new();
    let mut input = Input(data);
    while let Some(what) = input.byte() {
        shell.event(what, &mut input);
        shell.deeds();
        shell.relay.check();
    }
    shell.end();
});

/// The bytes that choose.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    fn number(&mut self) -> usize {
        usize::from(self.byte().unwrap_or(0))
    }

    fn bytes(&mut self) -> &'a [u8] {
        let len = self.number().min(self.0.len());
        let (bytes, rest) = self.0.split_at(len);
        self.0 = rest;
        bytes
    }
}

const REQUESTS: [&[u8]; 63] = [
    b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n",
    b"*3\r\n$3\r\nSET\r\n$1\r\nb\r\n$1\r\n1\r\n",
    b"*4\r\n$4\r\nMGET\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n",
    b"*5\r\n$4\r\nMSET\r\n$1\r\na\r\n$1\r\n1\r\n$1\r\nd\r\n$1\r\n2\r\n",
    b"*3\r\n$3\r\nDEL\r\n$1\r\na\r\n$1\r\ne\r\n",
    b"*1\r\n$6\r\nDBSIZE\r\n",
    b"*1\r\n$8\r\nFLUSHALL\r\n",
    b"*1\r\n$4\r\nINFO\r\n",
    b"*1\r\n$4\r\nPING\r\n",
    b"*2\r\n$4\r\nECHO\r\n$2\r\nhi\r\n",
    b"*3\r\n$6\r\nCLIENT\r\n$5\r\nREPLY\r\n$3\r\nOFF\r\n",
    b"*3\r\n$6\r\nCLIENT\r\n$5\r\nREPLY\r\n$4\r\nSKIP\r\n",
    b"*3\r\n$6\r\nCLIENT\r\n$5\r\nREPLY\r\n$2\r\nON\r\n",
    b"*2\r\n$4\r\nAUTH\r\n$2\r\npw\r\n",
    b"*2\r\n$5\r\nHELLO\r\n$1\r\n2\r\n",
    b"*2\r\n$7\r\nCOMMAND\r\n$5\r\nCOUNT\r\n",
    b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$70000\r\n",
    b"*1\r\n$4\r\nQUIT\r\n",
    b"get a\r\n",
    b"*2\r\n$6\r\nCLIENT\r\n$4\r\nLIST\r\n",
    b"*4\r\n$6\r\nCLIENT\r\n$4\r\nKILL\r\n$6\r\nSKIPME\r\n$2\r\nno\r\n",
    b"*1\r\n$7\r\nMONITOR\r\n",
    b"*5\r\n$6\r\nMSETNX\r\n$1\r\na\r\n$1\r\n1\r\n$1\r\nd\r\n$1\r\n2\r\n",
    b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n",
    b"*1\r\n$5\r\nMULTI\r\n",
    b"*1\r\n$4\r\nEXEC\r\n",
    b"*1\r\n$7\r\nDISCARD\r\n",
    b"*2\r\n$5\r\nWATCH\r\n$1\r\na\r\n",
    b"*1\r\n$7\r\nUNWATCH\r\n",
    b"*3\r\n$5\r\nBLPOP\r\n$1\r\na\r\n$1\r\n0\r\n",
    b"*3\r\n$5\r\nBLPOP\r\n$1\r\nb\r\n$3\r\n0.1\r\n",
    b"*3\r\n$4\r\nWAIT\r\n$1\r\n1\r\n$2\r\n50\r\n",
    b"*3\r\n$9\r\nSUBSCRIBE\r\n$1\r\na\r\n$1\r\nb\r\n",
    b"*2\r\n$10\r\nPSUBSCRIBE\r\n$2\r\na*\r\n",
    b"*2\r\n$10\r\nSSUBSCRIBE\r\n$1\r\na\r\n",
    b"*1\r\n$11\r\nUNSUBSCRIBE\r\n",
    b"*2\r\n$12\r\nPUNSUBSCRIBE\r\n$2\r\na*\r\n",
    b"*3\r\n$7\r\nPUBLISH\r\n$1\r\na\r\n$2\r\nhi\r\n",
    b"*3\r\n$4\r\nEVAL\r\n$8\r\nreturn 1\r\n$1\r\n0\r\n",
    b"*3\r\n$6\r\nSCRIPT\r\n$4\r\nLOAD\r\n$8\r\nreturn 1\r\n",
    b"*2\r\n$4\r\nSCAN\r\n$1\r\n0\r\n",
    b"*1\r\n$5\r\nRESET\r\n",
    b"AUTH app pw\r\n",
    b"HELLO 3 AUTH app pw SETNAME x\r\n",
    b"ACL WHOAMI\r\n",
    b"XREADGROUP GROUP g c BLOCK 0 STREAMS a >\r\n",
    b"BLMPOP 0 1 a LEFT\r\n",
    b"FCALL f 1 a\r\n",
    b"FUNCTION LIST\r\n",
    b"EVALSHA e0e1f9fabfc9d4800c877a703b823ac0578ff8db 1 a\r\n",
    b"CLIENT UNBLOCK 1\r\n",
    b"PUBSUB NUMSUB a b\r\n",
    b"CLUSTER KEYSLOT a\r\n",
    b"CLUSTER SLOTS\r\n",
    b"CLUSTER SHARDS\r\n",
    b"CLUSTER NODES\r\n",
    b"SORT a BY b*\r\n",
    b"TWEMSLOT ON 1 DBSIZE\r\n",
    b"TWEMSLOT KEY a b\r\n",
    b"JSON.SET a 1\r\n",
    b"SLOWLOG GET\r\n",
    b"RANDOMKEY\r\n",
    b"KEYS *\r\n",
];

const REPLIES: [&[u8]; 22] = [
    b"+OK\r\n",
    b":5\r\n",
    b"*3\r\n$6\r\nmaster\r\n:100\r\n*0\r\n",
    b"$30\r\nredis_version:7.0.15\r\nrun_id:1\r\n",
    b"$1\r\nx\r\n",
    b"$-1\r\n",
    b"*2\r\n$1\r\na\r\n$-1\r\n",
    b"*1\r\n$1\r\na\r\n",
    b"-ERR no\r\n",
    b"-LOADING soon\r\n",
    b"$70000\r\n",
    b"+PONG\r\n",
    b"+QUEUED\r\n",
    b"*-1\r\n",
    b"_\r\n",
    b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n",
    b"*3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:0\r\n",
    b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$2\r\nhi\r\n",
    b"*4\r\n$8\r\npmessage\r\n$2\r\na*\r\n$1\r\na\r\n$2\r\nhi\r\n",
    b">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$2\r\nhi\r\n",
    b"%1\r\n$1\r\na\r\n~1\r\n:1\r\n",
    b"-NOSCRIPT No matching script. Please use EVAL.\r\n",
];

/// The least that does a relay's deeds.
struct Shell {
    relay: Relay,
    now: Now,
    clients: BTreeSet<ClientId>,
    /// Each link that has a socket, and whether it is open.
    links: BTreeMap<LinkId, bool>,
}

impl Shell {
    fn new() -> Self {
        let now = Now { us: 1_000, unix_us: 1_000 };
        let mut shell =
            Self { relay: Relay::new(settings(0), 0, 1, now), now, clients: BTreeSet::new(), links: BTreeMap::new() };
        shell.topology(0);
        shell.deeds();
        shell
    }

    fn event(&mut self, what: u8, input: &mut Input<'_>) {
        let client = self.client(input);
        let link = self.link(input);
        match (what % 18, client, link) {
            (0, ..) if self.clients.len() < 8 => drop(self.clients.insert(self.relay.client_opened("1.2.3.4:5"))),
            (1, Some(client), _) => self.said(client, input.bytes()),
            (2 | 3, Some(client), _) => self.said(client, REQUESTS[input.number() % REQUESTS.len()]),
            (4, Some(client), _) => self.client_gone(client),
            (5, Some(client), _) => self.relay.client_finished(client),
            (6, Some(client), _) => self.write_client(client, input.number() * 16),
            (7, _, Some(link)) => self.answered(link, input.bytes()),
            (8 | 9, _, Some(link)) => self.answered(link, REPLIES[input.number() % REPLIES.len()]),
            (10, _, Some(link)) => self.link_gone(link),
            (11, _, Some(link)) => self.write_link(link, input.number() * 16),
            // A whole greeting, so that links come up often enough.
            (12, _, Some(link)) => {
                if self.links.get(&link) == Some(&false) {
                    self.answered(link, b"");
                }
                REPLIES[..4].iter().for_each(|reply| self.answered(link, reply));
            }
            (13, ..) => self.tick(input.number()),
            (14, ..) => self.topology(input.number()),
            (15, ..) => self.relay.set_settings(settings(input.number())),
            (16, Some(client), _) if input.number() < 16 => {
                self.relay.drain();
                if self.relay.client_hand_over(client).is_some_and(|state| state.id > 0) {
                    self.clients.remove(&client);
                }
            }
            // Much of one byte: the middle of a large value.
            (17, Some(client), _) => self.said(client, &[b'x'; 9000][..input.number() * 35]),
            _ => {}
        }
    }

    fn client(&self, input: &mut Input<'_>) -> Option<ClientId> {
        self.clients.iter().nth(input.number() % self.clients.len().max(1)).copied()
    }

    fn link(&self, input: &mut Input<'_>) -> Option<LinkId> {
        self.links.keys().nth(input.number() % self.links.len().max(1)).copied()
    }

    fn said(&mut self, client: ClientId, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.relay.client_sent(client, bytes);
        }
    }

    fn client_gone(&mut self, client: ClientId) {
        if self.clients.remove(&client) {
            self.relay.client_closed(client);
        }
    }

    fn answered(&mut self, link: LinkId, bytes: &[u8]) {
        match self.links.get_mut(&link) {
            Some(open) if !*open => {
                *open = true;
                self.relay.link_opened(link);
            }
            Some(_) if !bytes.is_empty() => self.relay.link_sent(link, bytes),
            _ => {}
        }
    }

    fn link_gone(&mut self, link: LinkId) {
        if self.links.remove(&link).is_some() {
            self.relay.link_closed(link, "gone");
        }
    }

    fn write_client(&mut self, client: ClientId, most: usize) {
        let mut slices = [IoSlice::new(&[]); 4];
        let count = self.relay.client_output(client, &mut slices);
        let len = slices[..count].iter().map(|slice| slice.len()).sum::<usize>().min(most);
        self.relay.client_wrote(client, len);
    }

    fn write_link(&mut self, link: LinkId, most: usize) {
        let mut slices = [IoSlice::new(&[]); 4];
        let count = self.relay.link_output(link, &mut slices);
        let len = slices[..count].iter().map(|slice| slice.len()).sum::<usize>().min(most);
        self.relay.link_wrote(link, len);
    }

    fn tick(&mut self, ms: usize) {
        self.now.us += ms as u64 * 1_000;
        self.relay.set_now(self.now);
        if self.relay.deadline() <= self.now.us {
            self.relay.tick();
        }
    }

    fn topology(&mut self, choice: usize) {
        let known = TOPOLOGIES.get_or_init(|| (0..12).map(topology).collect());
        self.relay.set_topology(known[choice % 12].clone());
    }

    fn deeds(&mut self) {
        while let Some(deed) = self.relay.next_deed() {
            match deed {
                Deed::Connect { link, .. } => {
                    assert!(self.links.insert(link, false).is_none(), "link {link} has a socket");
                }
                Deed::CloseLink { link } => self.link_gone(link),
                Deed::CloseClient { client } => self.client_gone(client),
                _ => {}
            }
        }
        while self.relay.next_dirty_client().is_some() || self.relay.next_dirty_link().is_some() {}
    }

    /// Everybody leaves: nothing of them stays.
    fn end(&mut self) {
        for client in std::mem::take(&mut self.clients) {
            self.relay.client_closed(client);
        }
        for link in std::mem::take(&mut self.links).into_keys() {
            self.relay.link_closed(link, "the end");
        }
        self.relay.check();
        assert_eq!(self.relay.clients(), 0);
    }
}

/// Made once: reading them would take most of a run's time.
static TOPOLOGIES: OnceLock<Vec<Arc<Topology>>> = OnceLock::new();

/// Two groups; the choice says who owns the middle, what is held, and where the second group's primary is.
fn topology(choice: usize) -> Arc<Topology> {
    let state = ["", r#","state":"held""#, r#","state":"moving","target":2"#][choice % 3];
    let (owner, port) = (if choice % 3 == 2 { 1 } else { 1 + choice / 3 % 2 }, 6402 + choice / 6 % 2);
    let text = format!(
        r#"{{"epoch":{},"slot_count":4,"groups":[
        {{"id":1,"instances":[{{"addr":"127.0.0.1:6401","role":"primary"}}]}},
        {{"id":2,"instances":[{{"addr":"127.0.0.1:{port}","role":"primary"}}]}}],
        "slots":[{{"from":0,"to":0,"group":1}},{{"from":1,"to":2,"group":{owner}{state}}},{{"from":3,"to":3,"group":2}}]}}"#,
        choice + 1
    );
    match wire::parse(text.as_bytes()) {
        Ok(topology) => Arc::new(topology),
        Err(faults) => panic!("{faults:?}"),
    }
}

fn settings(choice: usize) -> Settings {
    Settings {
        client_password: (choice & 1 > 0).then(|| "pw".to_owned()),
        instance_password: (choice & 2 > 0).then(|| "pw".to_owned()),
        links_per_instance: 1 + (choice >> 2 & 1) as u32,
        client_in_flight_max: if choice & 8 > 0 { 2 } else { 1024 },
        client_output_soft: if choice & 16 > 0 { 10 } else { 1 << 20 },
        client_output_max: if choice & 32 > 0 { 5_000 } else { 64 << 20 },
        hold_client_bytes_max: if choice & 64 > 0 { 50 } else { 1 << 20 },
        worker_memory_max: if choice & 128 > 0 { 100_000 } else { 1 << 30 },
        request_timeout_us: 300_000,
        link_dead_us: 900_000,
        users: if choice % 3 == 1 { users() } else { Vec::new() },
        cluster_nodes: if choice % 3 == 2 {
            vec!["127.0.0.1:6380".into(), "127.0.0.1:6480".into()]
        } else {
            Vec::new()
        },
        operator_commands: choice % 5 == 0,
        denied_commands: if choice % 7 == 0 { vec!["SORT".into(), "CLIENT LIST".into()] } else { Vec::new() },
        declared_commands: if choice % 5 == 1 { declared() } else { Vec::new() },
        ..Settings::default()
    }
}

/// One who may do little, one who may do everything.
fn users() -> Vec<User> {
    let one = |name: &str, categories: &str, keys: &str, admin: bool| User {
        name: name.into(),
        // Of "pw".
        password_sha256: vec!["30c952fab122c3f9759f02a6d95c3758b246b4fee239957b2d4fee46e26170c4".into()],
        categories: vec![categories.into()],
        keys: vec![keys.into()],
        channels: vec![keys.into()],
        read_only: !admin,
        admin,
    };
    vec![one("app", "all", "a*", false), one("root", "all", "*", true)]
}

fn declared() -> Vec<Declared> {
    vec![Declared { name: "JSON.SET".into(), first_key: 1, last_key: -1, key_step: 2, all_groups: false, write: true }]
}

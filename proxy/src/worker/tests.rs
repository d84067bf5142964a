//! A whole worker on real sockets: the test is its master, its clients, and its instance.
#![expect(clippy::disallowed_methods, reason = "a shell: the test is clients, instance and master")]

use super::run;
use crate::mail::{Mailbox, ToMaster, ToWorker};
use crate::os::SharedPage;
use crate::relay::limits::Settings;
use crate::relay::{ClientState, Question};
use crate::stats::{Counter, Stats};
use cluster::resp::request::{Args, Ceilings, Frame, Step};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);

/// A worker in a thread, and the master's side of it.
struct Rig {
    mailbox: Option<Mailbox>,
    page: SharedPage,
    listener: TcpListener,
    worker: Option<JoinHandle<anyhow::Result<()>>>,
    dir: tempfile::TempDir,
}

impl Rig {
    /// A worker that listens, and has been told nothing else.
    fn idle() -> Self {
        let (master, worker) = Mailbox::pair().expect("socketpair");
        let (page, page_fd) = SharedPage::create().expect("memfd");
        let rig = Self {
            mailbox: Some(Mailbox::new(master, true).expect("mailbox")),
            page,
            listener: TcpListener::bind("127.0.0.1:0").expect("bind"),
            worker: Some(thread::spawn(|| run(worker))),
            dir: tempfile::tempdir().expect("dir"),
        };
        rig.say(ToWorker::Listen { name: "main".into() }, Some(rig.listener.try_clone().expect("clone").into()));
        rig.say(ToWorker::Hello { worker: 0, log: String::new() }, Some(page_fd));
        rig.say(ToWorker::Settings(Box::default()), None);
        assert_eq!(rig.hear().0, ToMaster::Listening { name: "main".into() });
        assert_eq!(rig.hear().0, ToMaster::Ready);
        rig
    }

    /// A worker that serves one group with one instance.
    fn serving(instance: SocketAddr) -> Self {
        let rig = Self::idle();
        assert_eq!(rig.topology(1, instance), ToMaster::Serving { epoch: 1 });
        let mut client = rig.client();
        let deadline = Instant::now() + PATIENCE;
        while !ask(&mut client, "GET up").starts_with("$2") {
            assert!(Instant::now() < deadline, "the link does not come up");
        }
        rig
    }

    fn topology(&self, epoch: u64, instance: SocketAddr) -> ToMaster {
        let json = format!(
            r#"{{"epoch":{epoch},"groups":[{{"id":1,"instances":[{{"addr":"{instance}","role":"primary"}}]}}],
                "slots":[{{"from":0,"to":1023,"group":1}}]}}"#
        );
        self.offer(epoch, &json)
    }

    /// Tells the worker of a topology file; what it answers.
    fn offer(&self, epoch: u64, json: &str) -> ToMaster {
        let path: PathBuf = self.dir.path().join("topology.json");
        std::fs::write(&path, json).expect("write");
        self.say(ToWorker::Topology { epoch, path: path.display().to_string() }, None);
        loop {
            match self.hear().0 {
                ToMaster::Quiet { .. } | ToMaster::Ask { question: Question::Scripts, .. } => {}
                answer => return answer,
            }
        }
    }

    fn mailbox(&self) -> &Mailbox {
        self.mailbox.as_ref().expect("not given up")
    }

    fn say(&self, message: ToWorker, fd: Option<OwnedFd>) {
        self.mailbox().send(&message, fd.as_ref().map(AsFd::as_fd)).expect("send");
    }

    fn hear(&self) -> (ToMaster, Option<OwnedFd>) {
        let wait = PollTimeout::try_from(PATIENCE).expect("short");
        let heard = poll(&mut [PollFd::new(self.mailbox().as_fd(), PollFlags::POLLIN)], wait).expect("poll");
        assert_eq!(heard, 1, "the worker says nothing");
        self.mailbox().recv().expect("recv").expect("the worker lives")
    }

    /// What it says, without the barrier's reports.
    fn hear_next(&self) -> (ToMaster, Option<OwnedFd>) {
        loop {
            match self.hear() {
                (ToMaster::Quiet { .. } | ToMaster::Ask { question: Question::Scripts, .. }, _) => {}
                other => return other,
            }
        }
    }

    fn client(&self) -> TcpStream {
        let client = TcpStream::connect(self.listener.local_addr().expect("addr")).expect("connect");
        client.set_read_timeout(Some(PATIENCE)).expect("timeout");
        client
    }

    fn counter(&self, counter: Counter) -> u64 {
        Stats::resumed(&self.page.read()).get(counter)
    }

    /// The worker ends by itself.
    fn join(mut self) -> Self {
        let worker = self.worker.take().expect("joined once");
        let deadline = Instant::now() + PATIENCE;
        while !worker.is_finished() {
            assert!(Instant::now() < deadline, "the worker does not end");
            thread::yield_now();
        }
        worker.join().expect("no panic").expect("no error");
        self
    }
}

/// An instance that knows GET: `GET big:N` gives N bytes, other keys give themselves. It owns nothing else.
fn instance() -> SocketAddr {
    instance_that_tells().0
}

/// The same, which tells of everybody who waits in BLPOP, and of their end. There is nothing to pop.
fn instance_that_tells() -> (SocketAddr, Receiver<&'static str>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let addr = listener.local_addr().expect("addr");
    let (teller, told) = channel();
    thread::spawn(move || {
        for link in listener.incoming().flatten() {
            let teller = teller.clone();
            thread::spawn(move || serve(link, &teller));
        }
    });
    (addr, told)
}

fn serve(mut link: TcpStream, teller: &Sender<&'static str>) -> std::io::Result<()> {
    let (mut bytes, mut buffer, mut waits) = (Vec::new(), vec![0; 1 << 16], false);
    loop {
        let mut frame = Frame::default();
        while let Step::Done { len } = frame.step(&bytes, &Ceilings::OPEN) {
            let args: Vec<&[u8]> = Args::new(&bytes[..len]).collect();
            let answer = answer(&args);
            if args[0].eq_ignore_ascii_case(b"BLPOP") {
                waits = true;
                teller.send("it waits").ok();
            }
            bytes.drain(..len);
            frame = Frame::default();
            link.write_all(&answer)?;
        }
        match link.read(&mut buffer)? {
            0 if waits => return teller.send("it is gone").map_err(std::io::Error::other),
            0 => return Ok(()),
            n => bytes.extend_from_slice(&buffer[..n]),
        }
    }
}

fn answer(args: &[&[u8]]) -> Vec<u8> {
    match args {
        [name, key] if name.eq_ignore_ascii_case(b"GET") => {
            let key = String::from_utf8_lossy(key).into_owned();
            match key.strip_prefix("big:").and_then(|n| n.parse::<usize>().ok()) {
                Some(n) => [format!("${n}\r\n").as_bytes(), &vec![b'x'; n], b"\r\n"].concat(),
                None => format!("${}\r\n{key}\r\n", key.len()).into_bytes(),
            }
        }
        [name, ..] if name.eq_ignore_ascii_case(b"ROLE") => b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n".to_vec(),
        [name] if name.eq_ignore_ascii_case(b"PING") => b"+PONG\r\n".to_vec(),
        [name, ..] if name.eq_ignore_ascii_case(b"BLPOP") => Vec::new(),
        _ => b"+OK\r\n".to_vec(),
    }
}

/// One request typed as a line; its reply's first line, and the value if there is one.
fn ask(client: &mut TcpStream, line: &str) -> String {
    client.write_all(format!("{line}\r\n").as_bytes()).expect("write");
    read_reply(client)
}

fn read_reply(client: &mut TcpStream) -> String {
    let first = read_line(client);
    match first.strip_prefix('$').and_then(|n| n.trim().parse::<usize>().ok()) {
        Some(n) => {
            let mut value = vec![0; n + 2];
            client.read_exact(&mut value).expect("value");
            first + &String::from_utf8_lossy(&value)
        }
        None => first,
    }
}

fn read_line(client: &mut TcpStream) -> String {
    let (mut line, mut byte) = (String::new(), [0]);
    while !line.ends_with('\n') {
        client.read_exact(&mut byte).expect("a line");
        line.push(char::from(byte[0]));
    }
    line
}

/// A PROXY header, version 2: this client came through a balancer.
fn header(source: [u8; 4], port: u16) -> Vec<u8> {
    let head = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c";
    [&head[..], &source, &[127, 0, 0, 1], &port.to_be_bytes(), &[0, 1]].concat()
}

#[test]
fn behind_a_balancer_a_client_has_its_own_address() {
    let rig = Rig::idle();
    let settings = Settings { proxy_protocol: vec!["main".into()], ..Settings::default() };
    rig.say(ToWorker::Settings(Box::new(settings)), None);
    assert_eq!(rig.hear_next().0, ToMaster::Ready);

    // The header in pieces, and requests right behind it.
    let mut client = rig.client();
    let bytes = [&header([10, 1, 2, 3], 4660)[..], b"CLIENT ID\r\n"].concat();
    for piece in bytes.chunks(5) {
        client.write_all(piece).expect("write");
        thread::sleep(Duration::from_millis(1));
    }
    assert!(read_reply(&mut client).starts_with(':'));
    assert!(ask(&mut client, "CLIENT INFO").contains("addr=10.1.2.3:4660"));

    // Somebody who says no header, and one who says nothing.
    let mut stranger = rig.client();
    stranger.write_all(b"PING\r\n").expect("write");
    let refused = stranger.read(&mut [0; 16]);
    assert!(refused.as_ref().map_or_else(|e| e.kind() == ErrorKind::ConnectionReset, |n| *n == 0), "{refused:?}");
    let mut silent = rig.client();
    assert_eq!(silent.read(&mut [0; 16]).expect("the end"), 0);
    assert!(ask(&mut client, "PING").starts_with("+PONG"));
    assert_eq!(rig.counter(Counter::ClientsClosed), 0);
}

#[test]
fn a_worker_that_drains_waits_for_headers() {
    let rig = Rig::idle();
    let settings = Settings { proxy_protocol: vec!["main".into()], ..Settings::default() };
    rig.say(ToWorker::Settings(Box::new(settings)), None);
    assert_eq!(rig.hear_next().0, ToMaster::Ready);
    let header = header([10, 1, 2, 3], 4660);
    let mut client = rig.client();
    client.write_all(&header[..20]).expect("write");
    // It is taken in order: this one is known only when the other has been accepted.
    let mut other = rig.client();
    other.write_all(&[&header[..], b"PING\r\n"].concat()).expect("write");
    assert!(read_reply(&mut other).starts_with("+PONG"));
    drop(other);
    rig.say(ToWorker::Drain { hand_over: true }, None);
    client.write_all(&header[20..]).expect("write");
    let (state, fd) = loop {
        match rig.hear_next() {
            (ToMaster::Client(state), fd) if state.peer == "10.1.2.3:4660" => break (state, fd),
            (ToMaster::Client(_), _) => {}
            other => panic!("{other:?}"),
        }
    };
    assert!(fd.is_some(), "{state:?}");
    rig.join();
}

#[test]
fn it_ends_with_its_master() {
    let mut rig = Rig::idle();
    rig.mailbox = None;
    rig.join();
}

#[test]
fn a_worker_without_clients_drains_at_once() {
    let rig = Rig::idle();
    rig.say(ToWorker::Drain { hand_over: false }, None);
    assert_eq!(rig.hear_next().0, ToMaster::Drained);
    assert!(rig.join().counter(Counter::LoopIterations) > 0, "the page is published before the end");
}

#[test]
fn a_bad_topology_changes_nothing() {
    let addr = instance();
    let rig = Rig::serving(addr);
    let refusal = |answer: ToMaster| match answer {
        ToMaster::Refused { why, .. } => why,
        other => panic!("{other:?}"),
    };
    assert!(refusal(rig.offer(2, "{")).contains("topology.json"));
    assert!(refusal(rig.offer(2, r#"{"epoch":2,"slot_count":16,"groups":[],"slots":[]}"#)).contains("fixed"));
    assert_eq!(rig.topology(5, addr), ToMaster::Serving { epoch: 5 });
    assert!(refusal(rig.topology(4, addr)).contains("older"));
    assert_eq!(ask(&mut rig.client(), "GET a"), "$1\r\na\r\n");
}

#[test]
fn a_client_that_shuts_its_side_gets_all_replies() {
    let rig = Rig::serving(instance());
    let mut client = rig.client();
    let requests: String = (0..1000).map(|i| format!("GET k{i}\r\n")).collect();
    client.write_all(requests.as_bytes()).expect("write");
    client.shutdown(Shutdown::Write).expect("shutdown");
    let mut replies = String::new();
    client.read_to_string(&mut replies).expect("read");
    let expected: String = (0..1000).map(|i| format!("${}\r\nk{i}\r\n", format!("k{i}").len())).collect();
    assert_eq!(replies, expected);
}

#[test]
fn nobody_waits_at_an_instance_for_a_client_that_is_gone() {
    let (addr, told) = instance_that_tells();
    let rig = Rig::serving(addr);
    let hear = || told.recv_timeout(PATIENCE).expect("the instance tells");
    let begin = |requests: &[u8]| {
        let mut client = rig.client();
        client.write_all(requests).expect("write");
        assert_eq!(hear(), "it waits");
        // With an unread reply the kernel would say a reset rather than an end, which is seen in another way.
        assert_eq!(read_reply(&mut client), "$1\r\na\r\n");
        client
    };
    drop(begin(b"GET a\r\nBLPOP q 0\r\n"));
    assert_eq!(hear(), "it is gone");
    drop(begin(b"GET a\r\nBLPOP q 0\r\nGET behind\r\n"));
    assert_eq!(hear(), "it is gone");
    let mut client = begin(b"GET a\r\nBLPOP q 0\r\n");
    client.write_all(b"GET unread\r\n").expect("write");
    drop(client);
    assert_eq!(hear(), "it is gone");
    // One that still reads.
    let mut client = begin(b"GET a\r\nBLPOP q 0\r\n");
    client.shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(hear(), "it is gone");
    let mut replies = String::new();
    client.read_to_string(&mut replies).expect("read");
    assert!(replies.starts_with("-ERR twemslot: the link to ") && replies.ends_with("unknown\r\n"), "{replies}");
    // One whose end is there before the instance is asked: it is not, or not for long.
    let mut client = rig.client();
    client.write_all(b"GET a\r\nBLPOP q 0\r\n").expect("write");
    client.shutdown(Shutdown::Write).expect("shutdown");
    let mut replies = String::new();
    client.read_to_string(&mut replies).expect("read");
    assert!(replies.starts_with("$1\r\na\r\n-ERR twemslot: "), "{replies}");
    while let Ok("it waits") = told.recv_timeout(Duration::from_millis(100)) {
        assert_eq!(hear(), "it is gone");
    }
}

#[test]
fn a_slow_reader_of_a_large_reply_hurts_nobody() {
    let rig = Rig::serving(instance());
    let mut slow = rig.client();
    slow.write_all(b"GET big:20000000\r\nGET tail\r\n").expect("write");
    let mut quick = rig.client();
    for i in 0..100 {
        assert_eq!(ask(&mut quick, &format!("GET {:04}", i)), format!("$4\r\n{i:04}\r\n"));
    }
    let large = read_reply(&mut slow);
    assert!(large.len() > 20_000_000 && large.ends_with("xx\r\n"));
    assert_eq!(read_reply(&mut slow), "$4\r\ntail\r\n");
}

#[test]
fn clients_move_to_another_worker_between_two_requests() {
    let addr = instance();
    let (old, new) = (Rig::serving(addr), Rig::serving(addr));
    let mut clients: Vec<TcpStream> = (0..20).map(|_| old.client()).collect();
    for client in &mut clients {
        assert_eq!(ask(client, "GET a"), "$1\r\na\r\n");
    }
    hand_over(old, &new);
    for client in &mut clients {
        assert_eq!(ask(client, "GET b"), "$1\r\nb\r\n");
    }
}

/// Moves all clients of one worker to another, as a master does.
fn hand_over(old: Rig, new: &Rig) {
    old.say(ToWorker::Drain { hand_over: true }, None);
    loop {
        match old.hear_next() {
            (ToMaster::Client(state), fd) => new.say(ToWorker::Client(state), fd),
            (ToMaster::Drained, _) => break,
            (other, _) => panic!("{other:?}"),
        }
    }
    old.join();
}

#[test]
fn clients_that_never_pause_move_without_losing_a_reply() {
    let addr = instance();
    let (mut old, spare) = (Rig::serving(addr), Rig::serving(addr));
    let talk = |mut client: TcpStream, pipeline: usize| {
        thread::spawn(move || {
            for round in 0..300 {
                let requests: String = (0..pipeline).map(|i| format!("GET {round:04}:{i:02}\r\n")).collect();
                client.write_all(requests.as_bytes()).expect("write");
                for i in 0..pipeline {
                    assert_eq!(read_reply(&mut client), format!("$7\r\n{round:04}:{i:02}\r\n"));
                }
            }
        })
    };
    let mut clients: Vec<_> = [1, 1, 1, 1, 16, 16].into_iter().map(|pipeline| talk(old.client(), pipeline)).collect();
    let (mut new, mut moves) = (spare, 0);
    while clients.iter().any(|c| !c.is_finished()) {
        let next = Rig::serving(addr);
        hand_over(old, &new);
        (old, new, moves) = (new, next, moves + 1);
    }
    assert!(moves > 0, "they were done before they could move");
    clients.drain(..).for_each(|client| client.join().expect("every reply was right"));
}

#[test]
fn a_worker_that_closes_its_clients_answers_them_first() {
    let rig = Rig::serving(instance());
    let mut client = rig.client();
    let requests: String = (0..500).map(|i| format!("GET {i:03}\r\n")).collect();
    client.write_all(requests.as_bytes()).expect("write");
    assert_eq!(read_reply(&mut client), "$3\r\n000\r\n", "it has begun");
    rig.say(ToWorker::Drain { hand_over: false }, None);
    let mut replies = String::new();
    client.read_to_string(&mut replies).expect("read");
    assert_eq!(replies.len() + "$3\r\n000\r\n".len(), 500 * "$3\r\n000\r\n".len());
    assert_eq!(rig.hear_next().0, ToMaster::Drained);
    rig.join();
}

#[test]
fn clients_that_wait_on_a_listener_are_served_when_it_goes() {
    let rig = Rig::serving(instance());
    let mut clients: Vec<TcpStream> = (0..100).map(|_| rig.client()).collect();
    rig.say(ToWorker::Unlisten { name: "main".into() }, None);
    assert_eq!(rig.hear_next().0, ToMaster::Unlistened { name: "main".into() });
    for client in &mut clients {
        assert_eq!(ask(client, "PING"), "+PONG\r\n");
    }
}

#[test]
fn a_listener_that_closed_keeps_its_clients_out_of_this_worker() {
    let rig = Rig::serving(instance());
    rig.say(ToWorker::Unlisten { name: "main".into() }, None);
    assert_eq!(rig.hear_next().0, ToMaster::Unlistened { name: "main".into() });
    let accepted = rig.counter(Counter::ClientsAccepted);
    let _waits = rig.client();
    rig.say(ToWorker::Drain { hand_over: false }, None);
    assert_eq!(rig.hear_next().0, ToMaster::Drained);
    let rig = rig.join();
    assert!(rig.counter(Counter::ClientsAccepted) <= accepted.max(1));
    rig.listener.set_nonblocking(true).expect("nonblocking");
    assert!(rig.listener.accept().is_ok(), "it waits for the next worker");
}

#[test]
fn an_adopted_client_may_have_spoken_already() {
    let rig = Rig::serving(instance());
    let door = TcpListener::bind("127.0.0.1:0").expect("bind");
    let mut client = TcpStream::connect(door.local_addr().expect("addr")).expect("connect");
    client.set_read_timeout(Some(PATIENCE)).expect("timeout");
    client.write_all(b"GET early\r\n").expect("write");
    let socket = door.accept().expect("accept").0;
    socket.set_nonblocking(true).expect("nonblocking");
    let json = r#"{"id":9,"peer":"127.0.0.1:1","name":"","authenticated":true}"#;
    let state: ClientState = serde_json::from_str(json).expect("as an earlier version says it");
    rig.say(ToWorker::Client(state), Some(socket.into()));
    assert_eq!(read_reply(&mut client), "$5\r\nearly\r\n");
}

#[test]
fn steady_requests_cost_two_reads_and_two_writes_each() {
    let rig = Rig::serving(instance());
    let mut client = rig.client();
    ask(&mut client, "GET warm");
    let settled = |rig: &Rig| {
        // The page is at most a tenth of a second old while anything happens.
        let deadline = Instant::now() + PATIENCE;
        let mut last = rig.counter(Counter::ReadCalls);
        let mut since = Instant::now();
        while since.elapsed() < Duration::from_millis(300) {
            assert!(Instant::now() < deadline, "the counts do not rest");
            thread::yield_now();
            if rig.counter(Counter::ReadCalls) != last {
                (last, since) = (rig.counter(Counter::ReadCalls), Instant::now());
            }
        }
        (rig.counter(Counter::ReadCalls), rig.counter(Counter::WriteCalls))
    };
    let before = settled(&rig);
    for _ in 0..1000 {
        ask(&mut client, "GET a");
    }
    let after = settled(&rig);
    let (reads, writes) = (after.0 - before.0, after.1 - before.1);
    // Some for the link's ping, and where an instance's reply comes in pieces.
    assert!((2000..2050).contains(&reads) && (2000..2050).contains(&writes), "{reads} reads, {writes} writes");
}

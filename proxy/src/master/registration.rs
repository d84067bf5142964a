//! How this proxy is known to the control plane: a heartbeat a second to one member of configsvr, and what its answer
//! leads to. It runs beside the admin port, on that thread; it asks the master's loop what to say and tells it what
//! was heard, and never touches a worker.

use super::calls::{Call, ask};
use super::event::{Answer, Event, News, Question, Standing};
use crate::config::Control;
use cluster::beat::BeatAnswer;
use cluster::topology::Topology;
use cluster::wire;
use hyper::{Method, StatusCode};
use serde_json::Value;
use std::sync::mpsc::Sender;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

const LEADERS: &str = "/api/v1/topology?leader=true";
const ANYBODYS: &str = "/api/v1/topology";

/// A member that takes longer is not waited for: another one may be well.
const PATIENCE: Duration = Duration::from_secs(1);
/// At the start all members together have this long; then the disk's topology is served.
const START_PATIENCE: Duration = Duration::from_secs(2);
const START_PATIENCE_EACH: Duration = Duration::from_millis(700);
/// Until the registration is on record, it is asked for again this soon.
const REGISTER_EVERY: Duration = Duration::from_millis(50);
/// At the end each of a few members has this long: somebody waits for this process to be gone.
const GOODBYE_PATIENCE: Duration = Duration::from_millis(300);
/// With no member named: looked at again this often, for a reload may name some.
const IDLE: Duration = Duration::from_secs(1);
/// The longest pause while no member answers. Shorter than what proves a proxy dead.
const BACKOFF_MAX_MS: u64 = 5_000;
/// Our own registration is looked at this often.
const CHECK_EVERY: Duration = Duration::from_secs(30);

/// Which member is asked next, and when. Pure.
#[derive(Debug, Default)]
struct Course {
    at: usize,
    /// Calls that failed since the last that did not.
    failures: u32,
    lost: bool,
    /// The newest epoch that could not be had, which has been said.
    complained: u64,
}

impl Course {
    fn member<'a>(&self, members: &'a [String]) -> &'a str {
        members.get(self.at % members.len().max(1)).map_or("", String::as_str)
    }

    /// True: the control plane had been lost, and is back.
    fn answered(&mut self) -> bool {
        self.failures = 0;
        std::mem::take(&mut self.lost)
    }

    /// How long to wait, and whether this is worth saying: once no member has answered.
    fn failed(&mut self, members: usize, beat_ms: u64, random: u64) -> (Duration, bool) {
        self.at = (self.at + 1) % members.max(1);
        self.failures += 1;
        if !self.failures.is_multiple_of(members.max(1) as u32) {
            return (Duration::ZERO, false);
        }
        let rounds = self.failures / members.max(1) as u32;
        let base = (beat_ms << (rounds - 1).min(6)).clamp(1, BACKOFF_MAX_MS.max(beat_ms));
        let wait = base * 3 / 4 + random % (base / 2 + 1);
        (Duration::from_millis(wait), !std::mem::replace(&mut self.lost, true))
    }
}

/// What was heard at the start.
#[derive(Debug, PartialEq)]
pub(super) struct Start {
    /// No slot changes hands without us.
    pub(super) registered: bool,
    pub(super) first: First,
}

#[derive(Debug, PartialEq)]
pub(super) enum First {
    Topology(Box<Topology>),
    /// A member answers, and has none.
    NoneYet,
    /// No member answers; why not, for each.
    NobodyAnswers(String),
}

/// Registers, and asks the members in turn for the topology, before anything is served.
pub(super) fn first_contact(standing: &Standing) -> Start {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(async {
            let registered = register(standing, Instant::now() + START_PATIENCE / 2).await;
            Start { registered, first: ask_in_turn(&standing.control).await }
        }),
        Err(e) => Start { registered: false, first: First::NobodyAnswers(e.to_string()) },
    }
}

/// Beats until the leader has us on record. A topology that is asked for afterwards is safe to serve: whoever wants to
/// change it has to wait for us.
async fn register(standing: &Standing, until: Instant) -> bool {
    loop {
        let mut heard = false;
        for member in &standing.control.configsvrs {
            let patience = until.saturating_duration_since(Instant::now()).min(START_PATIENCE_EACH);
            match timeout(patience, beat(member, standing)).await {
                Ok(Ok(answer)) if answer.registered => return true,
                Ok(Ok(_)) => heard = true,
                Ok(Err(_)) | Err(_) => continue, // the next one; `ask_in_turn` says why
            }
            break;
        }
        if !heard || Instant::now() + REGISTER_EVERY > until {
            return false;
        }
        sleep(REGISTER_EVERY).await;
    }
}

/// What the leader knows, if anybody reaches it: a slot that has moved meanwhile must not be served from where it was.
/// Else what any member knows.
async fn ask_in_turn(control: &Control) -> First {
    let until = Instant::now() + START_PATIENCE;
    let mut faults = Vec::new();
    let asked = control.configsvrs.iter().map(|m| (m, LEADERS)).chain(control.configsvrs.iter().map(|m| (m, ANYBODYS)));
    for (member, path) in asked {
        let patience = until.saturating_duration_since(Instant::now()).min(START_PATIENCE_EACH);
        if patience.is_zero() {
            break;
        }
        match fetch(member, path, control, patience).await {
            Ok(Some(topology)) => return First::Topology(Box::new(topology)),
            Ok(None) => return First::NoneYet,
            Err(why) => faults.push(format!("{member}: {why}")),
        }
    }
    First::NobodyAnswers(faults.join("; "))
}

/// The last word, to whoever hears it. A member that does not is no reason to stay.
pub(super) fn say_goodbye(standing: &Standing) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    runtime.block_on(async {
        for member in standing.control.configsvrs.iter().take(3) {
            if timeout(GOODBYE_PATIENCE, beat(member, standing)).await.is_ok_and(|said| said.is_ok()) {
                return;
            }
        }
    });
}

/// The topology in force; None: there is none yet.
async fn fetch(
    member: &str,
    path: &'static str,
    control: &Control,
    patience: Duration,
) -> Result<Option<Topology>, String> {
    let call =
        Call { method: &Method::GET, path, token: control.token.as_deref(), tls: control.tls.as_ref(), body: "" };
    match ask(member, call, patience).await? {
        (StatusCode::OK, body) => wire::parse(&body).map(Some).map_err(|faults| faults.join("; ")),
        (StatusCode::NOT_FOUND, _) => Ok(None),
        (status, body) => Err(refusal(status, &body)),
    }
}

fn refusal(status: StatusCode, body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(300)]);
    format!("{status}: {}", text.trim())
}

/// Says that we live, for as long as the master does.
pub(super) async fn keep(events: Sender<Event>) {
    let mut course = Course::default();
    let mut check_at = Instant::now() + CHECK_EVERY;
    let mut random = u64::from(std::process::id()) << 16 | 1;
    loop {
        let Some(standing) = standing(&events).await else { return };
        if standing.control.configsvrs.is_empty() {
            sleep(IDLE).await;
            continue;
        }
        random = random.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
        let wait = turn(&events, &mut course, &standing, random >> 33).await;
        if !course.lost && Instant::now() >= check_at {
            check_at = Instant::now() + CHECK_EVERY;
            if !is_right(course.member(&standing.control.configsvrs), &standing).await {
                continue; // mended by the next heartbeat, now
            }
        }
        sleep(wait).await;
    }
}

/// What the master wants said. None: it is gone.
async fn standing(events: &Sender<Event>) -> Option<Box<Standing>> {
    let (reply, asked) = oneshot::channel();
    events.send(Event::Ask(Question::Standing, reply)).ok()?;
    match asked.await {
        Ok(Answer::Standing(standing)) => Some(standing),
        _ => None,
    }
}

/// One heartbeat; how long to wait until the next.
async fn turn(events: &Sender<Event>, course: &mut Course, standing: &Standing, random: u64) -> Duration {
    let control = &standing.control;
    let member = course.member(&control.configsvrs);
    match beat(member, standing).await {
        Ok(answer) => {
            if course.answered() {
                tracing::info!(configsvr = member, "the control plane answers again");
            }
            // An error: the master is gone, which `standing` will notice.
            _ = events.send(Event::News(News { heard: Some(answer.clone()) }));
            if !answer.registered {
                return REGISTER_EVERY; // what is served before may change hands without us
            }
            if answer.epoch > standing.epoch {
                follow(events, course, member, standing, answer.epoch).await;
            }
            Duration::from_millis(answer.next_ms.clamp(100, control.beat_ms.max(100)))
        }
        Err(why) => {
            _ = events.send(Event::News(News { heard: None }));
            let (wait, say) = course.failed(control.configsvrs.len(), control.beat_ms, random);
            if say {
                tracing::warn!(configsvr = member, why, "no configsvr answers: the topology stays as it is");
            }
            wait
        }
    }
}

async fn beat(member: &str, standing: &Standing) -> Result<BeatAnswer, String> {
    let body = serde_json::to_string(&standing.beat).map_err(|e| e.to_string())?;
    let path = format!("/api/v1/proxies/{}/beat", standing.control.id);
    let (token, tls) = (standing.control.token.as_deref(), standing.control.tls.as_ref());
    match ask(member, Call { method: &Method::POST, path: &path, token, tls, body: &body }, PATIENCE).await? {
        (status, body) if status.is_success() => serde_json::from_slice(&body).map_err(|e| e.to_string()),
        (status, body) => Err(refusal(status, &body)),
    }
}

/// There is a newer topology: it is served as if somebody had PUT it.
async fn follow(events: &Sender<Event>, course: &mut Course, member: &str, standing: &Standing, epoch: u64) {
    let why = match fetch(member, ANYBODYS, &standing.control, PATIENCE).await {
        Ok(Some(topology)) if topology.epoch() > standing.epoch => match install(events, topology).await {
            None => return,
            Some(why) => why,
        },
        Ok(_) => "the member does not give it".to_owned(),
        Err(why) => why,
    };
    // Tried again with every heartbeat, said once.
    if course.complained < epoch {
        course.complained = epoch;
        tracing::warn!(configsvr = member, epoch, why, "a newer topology cannot be had");
    }
}

/// None: it is stored and on its way to the workers.
async fn install(events: &Sender<Event>, topology: Topology) -> Option<String> {
    let (reply, asked) = oneshot::channel();
    let question = Question::PutTopology { topology: Box::new(topology), timeout: Duration::ZERO, quiet: false };
    events.send(Event::Ask(question, reply)).ok()?;
    match asked.await {
        // Stored; the workers were not waited for.
        Ok(Answer::Problem(problem)) if problem.status != 504 => Some(problem.message),
        _ => None,
    }
}

/// Whether we are registered there as what we are. A member that cannot say is no reason to doubt.
async fn is_right(member: &str, standing: &Standing) -> bool {
    let path = format!("/api/v1/proxies/{}", standing.control.id);
    let (token, tls) = (standing.control.token.as_deref(), standing.control.tls.as_ref());
    let call = Call { method: &Method::GET, path: &path, token, tls, body: "" };
    let found = match ask(member, call, PATIENCE).await {
        Ok((StatusCode::OK, body)) => serde_json::from_slice::<Value>(&body).unwrap_or_default(),
        Ok((StatusCode::NOT_FOUND, _)) => {
            tracing::warn!(id = standing.beat.id, "not registered with the control plane: registering anew");
            return false;
        }
        _ => return true,
    };
    let same = |key: &str, ours: &str| found.get(key).and_then(Value::as_str).is_none_or(|theirs| theirs == ours);
    let right = same("addr", &standing.beat.addr) && same("admin_addr", &standing.beat.admin_addr);
    if !right {
        let hint = "is there another proxy of this id? set control.id";
        tracing::warn!(id = standing.beat.id, hint, "registered with other addresses: registering anew");
    }
    right
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a configsvr and a master to speak with")]
mod tests {
    use super::super::event::Problem;
    use super::*;
    use crate::config::{Overrides, parse};
    use cluster::beat::Beat;
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener};
    use std::sync::mpsc::{Receiver, channel};

    /// A configsvr: what it is asked comes out here, `answers` says what it answers.
    fn configsvr(answers: impl Fn(&str) -> (u16, String) + Send + 'static) -> (SocketAddr, Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let addr = listener.local_addr().expect("addr");
        let (calls, asked) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let call = read_call(&mut stream);
                let (status, body) = answers(&call);
                let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", body.len());
                _ = stream.write_all(format!("{head}{body}").as_bytes());
                if calls.send(call).is_err() {
                    return;
                }
            }
        });
        (addr, asked)
    }

    fn read_call(stream: &mut impl Read) -> String {
        let (mut bytes, mut part) = (Vec::new(), [0; 4096]);
        loop {
            let n = stream.read(&mut part).expect("a call");
            bytes.extend_from_slice(&part[..n]);
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let length = text.lines().find_map(|l| l.strip_prefix("content-length: ")?.parse::<usize>().ok());
            let body = text.split_once("\r\n\r\n").map(|(_, body)| body.len());
            if n == 0 || body.is_some_and(|body| body >= length.unwrap_or(0)) {
                return text;
            }
        }
    }

    fn topology(epoch: u64) -> String {
        format!(r#"{{"epoch":{epoch},"groups":[],"slots":[]}}"#)
    }

    /// Beats are answered with this epoch and topologies are of it.
    fn of_epoch(epoch: u64, draining: bool) -> impl Fn(&str) -> (u16, String) + Send + 'static {
        move |call| match call.split(' ').nth(1) {
            Some(LEADERS | ANYBODYS) => (200, topology(epoch)),
            Some(path) if path.ends_with("/beat") => {
                (200, format!(r#"{{"epoch":{epoch},"draining":{draining},"registered":true,"next_ms":100}}"#))
            }
            _ => (404, String::new()),
        }
    }

    fn nobody() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port nobody listens on")
    }

    fn control(members: &[SocketAddr]) -> Control {
        let members: Vec<String> = members.iter().map(|m| format!("{:?}", m.to_string())).collect();
        let text =
            format!("control:\n  configsvrs: [{}]\n  token: s3cret\n  id: px-1\n  beat_ms: 100\n", members.join(", "));
        parse(&text, &Overrides::default()).expect("good").control
    }

    fn standing_of(control: Control, epoch: u64) -> Standing {
        let beat = Beat {
            id: control.id.clone(),
            version: "1".into(),
            addr: control.advertise.clone(),
            admin_addr: control.advertise_admin.clone(),
            zone: String::new(),
            epoch,
            started_at: 1,
            from_disk: false,
            leaving: false,
            instances: Vec::new(),
        };
        Standing { control, beat, epoch }
    }

    /// A master that serves epoch 5; what it hears, other than questions about itself, comes out here.
    fn master(control: Control) -> Receiver<Event> {
        let (events, inbox) = channel();
        let (heard, others) = channel();
        std::thread::spawn(move || {
            for event in inbox {
                match event {
                    Event::Ask(Question::Standing, reply) => {
                        _ = reply.send(Answer::Standing(Box::new(standing_of(control.clone(), 5))));
                    }
                    other => {
                        if heard.send(other).is_err() {
                            return;
                        }
                    }
                }
            }
        });
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            runtime.block_on(keep(events));
        });
        others
    }

    const SOON: Duration = Duration::from_secs(20);

    #[test]
    fn the_start_asks_each_member_until_one_answers() {
        let (addr, asked) = configsvr(of_epoch(9, false));
        let start = first_contact(&standing_of(control(&[nobody(), addr]), 0));
        let Start { registered: true, first: First::Topology(found) } = start else { panic!("{start:?}") };
        assert_eq!(found.epoch(), 9);
        let beat = asked.recv_timeout(SOON).expect("asked");
        assert!(beat.starts_with("POST /api/v1/proxies/px-1/beat "), "{beat}");
        let call = asked.recv_timeout(SOON).expect("asked").to_lowercase();
        assert!(
            call.starts_with("get /api/v1/topology?leader=true ") && call.contains("authorization: bearer s3cret"),
            "{call}"
        );
        // Nobody leads: what any member knows.
        let (addr, _asked) = configsvr(|call| match call.contains("leader=true") {
            true => (503, "no leader".into()),
            false => (200, topology(8)),
        });
        let start = first_contact(&standing_of(control(&[addr]), 0));
        let Start { registered: false, first: First::Topology(found) } = start else { panic!("{start:?}") };
        assert_eq!(found.epoch(), 8);
        let (empty, _asked) = configsvr(|_| (404, String::new()));
        let start = first_contact(&standing_of(control(&[empty]), 0));
        assert_eq!(start, Start { registered: false, first: First::NoneYet });
    }

    #[test]
    fn nothing_is_asked_for_before_the_registration_is_on_record() {
        let beats = std::sync::atomic::AtomicU32::new(0);
        let answers = of_epoch(9, false);
        let (addr, asked) = configsvr(move |call| {
            let early = call.contains("/beat") && beats.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < 3;
            if early { (200, r#"{"epoch":9,"draining":false,"next_ms":100}"#.into()) } else { answers(call) }
        });
        let start = first_contact(&standing_of(control(&[addr]), 0));
        assert!(start.registered && matches!(start.first, First::Topology(_)), "{start:?}");
        let calls: Vec<bool> = (0..5).map(|_| asked.recv_timeout(SOON).expect("asked").starts_with("POST")).collect();
        assert_eq!(calls, [true, true, true, true, false]);
    }

    #[test]
    fn with_no_member_there_the_start_goes_on_soon_and_says_why() {
        let (dead, _asked) = configsvr(|_| (503, "no leader".into()));
        // One that accepts and never says anything.
        let silent = TcpListener::bind("127.0.0.1:0").expect("bind");
        let silent_addr = silent.local_addr().expect("addr");
        let members = [nobody(), dead, silent_addr, silent_addr, silent_addr, silent_addr, silent_addr];
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let bounded = runtime.block_on(async {
            let control = control(&members);
            timeout(2 * START_PATIENCE, ask_in_turn(&control)).await
        });
        let First::NobodyAnswers(why) = bounded.expect("it takes too long") else { panic!("who answered?") };
        assert!(why.contains("503") && why.contains("no leader") && why.contains("no answer within"), "{why}");
        assert!(!why.contains("s3cret"), "{why}");
    }

    #[test]
    fn a_heartbeat_says_who_we_are_and_a_newer_epoch_is_fetched() {
        let (addr, asked) = configsvr(of_epoch(6, true));
        let heard = master(control(&[addr]));
        let beat = asked.recv_timeout(SOON).expect("a beat");
        assert!(beat.starts_with("POST /api/v1/proxies/px-1/beat "), "{beat}");
        assert!(beat.contains("authorization: Bearer s3cret"), "{beat}");
        let body = beat.split_once("\r\n\r\n").expect("a body").1;
        assert_eq!(serde_json::from_str::<Beat>(body).expect("a Beat").addr, "127.0.0.1:6380");
        let Ok(Event::News(News { heard: Some(answer) })) = heard.recv_timeout(SOON) else { panic!("no news") };
        assert!(answer.draining);
        match heard.recv_timeout(SOON) {
            Ok(Event::Ask(Question::PutTopology { topology, .. }, reply)) => {
                assert_eq!(topology.epoch(), 6);
                _ = reply.send(Answer::Problem(Problem::new(504, "not_applied_in_time", "", "")));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_goodbye_is_said_to_the_first_who_hears_it() {
        let (good, asked) = configsvr(of_epoch(6, false));
        let mut standing = standing_of(control(&[nobody(), good]), 5);
        standing.beat.leaving = true;
        say_goodbye(&standing);
        let said = asked.recv_timeout(SOON).expect("a beat");
        assert!(said.contains(r#""leaving":true"#), "{said}");
    }

    #[test]
    fn what_is_in_force_already_is_not_fetched() {
        let (addr, asked) = configsvr(of_epoch(5, false));
        let _heard = master(control(&[addr]));
        for _ in 0..3 {
            let call = asked.recv_timeout(SOON).expect("a beat");
            assert!(call.starts_with("POST "), "{call}");
        }
    }

    #[test]
    fn the_next_member_is_asked_when_one_fails() {
        let (bad, _asked) = configsvr(|_| (503, "no leader".into()));
        let (good, asked) = configsvr(of_epoch(5, false));
        let heard = master(control(&[nobody(), bad, good]));
        asked.recv_timeout(SOON).expect("a beat");
        let news = |_| match heard.recv_timeout(SOON) {
            Ok(Event::News(news)) => news.heard.is_some(),
            other => panic!("{other:?}"),
        };
        // It stays with the one that answers.
        assert_eq!((0..4).map(news).collect::<Vec<_>>(), [false, false, true, true]);
    }

    #[test]
    fn a_course_goes_round_backs_off_and_says_things_once() {
        let members = ["a".to_owned(), "b".to_owned()];
        let mut course = Course::default();
        assert_eq!(course.failed(2, 1000, 0), (Duration::ZERO, false));
        assert_eq!(course.member(&members), "b");
        assert_eq!(course.failed(2, 1000, 0), (Duration::from_millis(750), true));
        let mut waits = Vec::new();
        for _ in 0..10 {
            assert_eq!(course.failed(2, 1000, 0), (Duration::ZERO, false));
            let (wait, say) = course.failed(2, 1000, u64::MAX);
            assert!(!say);
            waits.push(wait.as_millis() as u64);
        }
        assert!(waits[0] > 1000 && waits.is_sorted_by_key(|w| w / 2000), "{waits:?}");
        assert!(waits.iter().all(|&w| w <= BACKOFF_MAX_MS * 5 / 4), "{waits:?}");
        assert!(course.answered());
        assert!(!course.answered());
        assert_eq!(course.member(&[]), "");
    }

    #[test]
    fn a_registration_that_is_gone_or_anothers_is_mended() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let right = |status, body: &'static str| {
            let (addr, _asked) = configsvr(move |_| (status, body.into()));
            let standing = standing_of(control(&[addr]), 5);
            runtime.block_on(is_right(&addr.to_string(), &standing))
        };
        assert!(right(200, r#"{"id":"px-1","addr":"127.0.0.1:6380","admin_addr":"127.0.0.1:6381"}"#));
        assert!(!right(200, r#"{"id":"px-1","addr":"10.0.0.9:6380","admin_addr":"127.0.0.1:6381"}"#));
        assert!(!right(404, "{}"));
        assert!(right(500, ""), "one that cannot say is no reason to doubt");
    }
}

//! The configuration: `conf/proxy.yml`, where every key is explained. Read as a whole and checked as a whole; what is
//! wrong is said with line and column, all of it at once, and nothing of a faulty file is used.
#![expect(clippy::disallowed_methods, reason = "a shell: reads the file")]

mod control;
mod tls;
mod users;
mod yaml;

use crate::log::{Format, Level, LogSettings};
use crate::relay::limits::{Declared, Settings};
use cluster::instance::Addr;
pub use control::{Control, HTTPS};
use serde_json::{Map as Json, Value, json};
use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
pub use tls::Tls;
pub use yaml::Fault;
use yaml::{Entry, Node, Place, Reader, one_or_many, text};

/// How many workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workers {
    /// One for each processor this process may use.
    Auto,
    Count(usize),
}

impl Workers {
    /// The number, on this machine.
    pub fn count(self) -> usize {
        match self {
            Self::Auto => std::thread::available_parallelism().map_or(1, usize::from),
            Self::Count(count) => count,
        }
    }
}

/// Who may ask the admin port.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct AdminTokens {
    /// For everything; None: nobody is asked for a token.
    pub all: Option<String>,
    /// For `GET /metrics` and nothing else.
    pub metrics: Option<String>,
}

/// Without the tokens.
impl fmt::Debug for AdminTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminTokens").finish_non_exhaustive()
    }
}

/// What the file says, with defaults for what it does not.
#[derive(Debug, Clone)]
pub struct Config {
    pub listen: Vec<Addr>,
    pub admin: SocketAddr,
    pub admin_tokens: AdminTokens,
    pub workers: Workers,
    pub daemon: bool,
    pub pid_file: Option<PathBuf>,
    pub topology_file: PathBuf,
    pub drain_timeout_us: u64,
    pub log: LogSettings,
    pub relay: Settings,
    pub control: Control,
    pub tls: Tls,
    /// Every key and its value in force, for people; secrets are covered.
    pub shown: Json<String, Value>,
}

/// What the command line says over the file.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    pub listen: Vec<String>,
    pub admin: Option<String>,
    pub workers: Option<String>,
    pub topology_file: Option<String>,
}

impl Overrides {
    fn apply(&self, entries: &mut Vec<Entry>) {
        let scalar = |text: &str| Node::Scalar(text.parse::<u64>().map_or_else(|_| text.into(), Value::from));
        let list = |texts: &[String]| Node::List(texts.iter().map(|t| (Place::default(), scalar(t))).collect());
        let given = [
            ("listen", (!self.listen.is_empty()).then(|| list(&self.listen))),
            ("admin", self.admin.as_deref().map(scalar)),
            ("workers", self.workers.as_deref().map(scalar)),
            ("topology_file", self.topology_file.as_deref().map(scalar)),
        ];
        for (key, node) in given {
            let Some(node) = node else { continue };
            entries.retain(|e| e.key != key);
            entries.push(Entry { key: key.into(), place: Place::default(), node });
        }
    }
}

const ADDRESSES_MAX: usize = 16;
/// Of a key in a declared command.
const PLACE_MAX: u64 = 1_000_000;
/// Of what workers are told of settings, in bytes: it goes in one letter, which the kernel's usual 416 KiB must hold.
const SETTINGS_MAX: usize = 256 * KB;
const WORKERS_MAX: u64 = 512;
const HOUR_MS: u64 = 3_600_000;
const KB: usize = 1 << 10;
const MB: usize = 1 << 20;
const GB: usize = 1 << 30;
/// What a covered secret looks like.
const COVERED: &str = "***";

/// Reads and checks the file.
pub fn load(path: &Path, overrides: &Overrides) -> Result<Config, Vec<Fault>> {
    let text = std::fs::read_to_string(path).map_err(|e| vec![Place::default().fault(format!("cannot read: {e}"))])?;
    parse(&text, overrides)
}

/// As `load`, of a text.
pub fn parse(text: &str, overrides: &Overrides) -> Result<Config, Vec<Fault>> {
    let mut entries = yaml::parse(text).map_err(|fault| vec![fault])?;
    overrides.apply(&mut entries);
    let mut faults = Vec::new();
    let mut reader = Reader::new("", entries, &mut faults);
    let mut config = read(&mut reader);
    config.shown = reader.finish();
    if faults.is_empty() {
        return Ok(config);
    }
    faults.sort();
    Err(faults)
}

fn read(file: &mut Reader<'_>) -> Config {
    let (listen, listen_place) = read_listen(file);
    let (admin, admin_place) = read_admin(file);
    if listen.contains(&Addr::Tcp(admin)) {
        file.fault(admin_place, format!("admin: {admin} is a `listen` address: clients and admins need a port each"));
    }
    let mut seen = BTreeSet::new();
    if let Some(twice) = listen.iter().find(|a| !seen.insert(*a)) {
        file.fault(listen_place, format!("listen: {twice} is named twice"));
    }
    let admin_tokens = read_admin_tokens(file, admin, admin_place);
    let mut tls = file.map("tls", "tls.", |map| tls::read_doors(map, &listen));
    tls.instances = file.map("instance_tls", "instance_tls.", tls::read_instances);
    let control = file.map("control", "control.", |map| control::read(map, &listen, admin, tls.admin));
    let relay = read_relay(file, &control.advertise, &listen);
    Config {
        listen,
        admin,
        admin_tokens,
        workers: read_workers(file),
        daemon: file.flag("daemon", false),
        pid_file: file.text("pid_file").map(|t| t.0.into()),
        topology_file: text_or(file, "topology_file", "topology.json").into(),
        drain_timeout_us: file.ms("drain_timeout_ms", 10_000_000, 0..=HOUR_MS),
        log: file.map("log", "log.", read_log),
        relay,
        control,
        tls,
        shown: Json::new(),
    }
}

fn read_listen(file: &mut Reader<'_>) -> (Vec<Addr>, Place) {
    let found = file.get_placed("listen", |node| match one_or_many(node, str::parse::<Addr>)? {
        list if list.is_empty() => Err("no address: clients would find no door".into()),
        list if list.len() > ADDRESSES_MAX => Err(format!("{} addresses: at most {ADDRESSES_MAX}", list.len())),
        list => Ok(list),
    });
    let (listen, place) = found.unwrap_or_else(|| (vec![local(6380)], Place::default()));
    file.show("listen", listen.iter().map(Addr::to_string).collect::<Vec<_>>());
    (listen, place)
}

fn local(port: u16) -> Addr {
    Addr::Tcp(SocketAddr::from(([127, 0, 0, 1], port)))
}

fn read_admin(file: &mut Reader<'_>) -> (SocketAddr, Place) {
    let found = file.get_placed("admin", |node| match text(node)?.parse::<Addr>()? {
        Addr::Tcp(addr) => Ok(addr),
        Addr::Unix(_) => Err("a unix socket is not possible here: write IP:PORT".into()),
    });
    let (admin, place) = found.unwrap_or_else(|| (SocketAddr::from(([127, 0, 0, 1], 6381)), Place::default()));
    file.show("admin", admin.to_string());
    (admin, place)
}

fn read_workers(file: &mut Reader<'_>) -> Workers {
    let expected = || format!("expected auto, or a number from 1 to {WORKERS_MAX}");
    let workers = file.get("workers", Workers::Auto, |node| match node {
        Node::Scalar(Value::String(word)) if word == "auto" => Ok(Workers::Auto),
        Node::Scalar(Value::Number(n)) => match n.as_u64() {
            Some(count @ 1..=WORKERS_MAX) => Ok(Workers::Count(count as usize)),
            _ => Err(format!("{n}: {}", expected())),
        },
        _ => Err(expected()),
    });
    file.show("workers", if workers == Workers::Auto { "auto".into() } else { json!(workers.count()) });
    workers
}

fn read_log(log: &mut Reader<'_>) -> LogSettings {
    let level = log.get("level", Level::Info, |node| {
        Level::of(&text(node)?).ok_or_else(|| "expected error, warn, info, debug or trace".into())
    });
    log.show("level", level.name());
    let format = log.get("format", Format::Text, |node| match text(node)?.as_str() {
        "text" => Ok(Format::Text),
        "json" => Ok(Format::Json),
        _ => Err("expected text or json".into()),
    });
    log.show("format", if format == Format::Json { "json" } else { "text" });
    LogSettings { level, format, file: log.text("file").map(|t| t.0.into()) }
}

fn read_relay(file: &mut Reader<'_>, advertise: &str, listen: &[Addr]) -> Settings {
    let usual = Settings::default();
    let client_password = secret(file, "client_password", "client_password_file");
    let instance_password = secret(file, "instance_password", "instance_password_file");
    let instance_user = file.text("instance_user");
    if let (Some((_, place)), None) = (&instance_user, &instance_password) {
        file.fault(*place, "instance_user: a user without `instance_password` or `instance_password_file`");
    }
    let settings = Settings {
        users: users::read(file, client_password.is_some()),
        operator_commands: file.flag("operator_commands", usual.operator_commands),
        slowlog_slower_than_us: file.number("slowlog_slower_than_us", usual.slowlog_slower_than_us, 0..=HOUR_MS * 1000),
        key_sample_every: file.number("key_sample_every", usual.key_sample_every, 0..=1_000_000),
        slowlog_max_len: file.number("slowlog_max_len", usual.slowlog_max_len as u64, 1..=100_000) as usize,
        advertise: advertise.to_owned(),
        cluster_nodes: read_cluster(file, advertise),
        client_password,
        instance_user: instance_user.map(|t| t.0),
        instance_password,
        proxy_name: text_or(file, "proxy_name", &usual.proxy_name),
        proxy_protocol: read_proxy_protocol(file, listen),
        links_per_instance: file.number("links_per_instance", usual.links_per_instance.into(), 1..=64) as u32,
        request_timeout_us: file.ms("request_timeout_ms", usual.request_timeout_us, 1..=HOUR_MS),
        link_dead_us: file.ms("link_dead_ms", usual.link_dead_us, 1..=HOUR_MS),
        connect_timeout_us: file.ms("connect_timeout_ms", usual.connect_timeout_us, 1..=HOUR_MS),
        link_ping_us: file.ms("link_ping_ms", usual.link_ping_us, 10..=HOUR_MS),
        hold_timeout_us: file.ms("hold_timeout_ms", usual.hold_timeout_us, 1..=HOUR_MS),
        hold_client_bytes_max: file.size("hold_client_bytes_max", usual.hold_client_bytes_max, KB..=GB),
        hold_worker_bytes_max: file.size("hold_worker_bytes_max", usual.hold_worker_bytes_max, KB..=64 * GB),
        client_in_flight_max: file.number("client_in_flight_max", usual.client_in_flight_max.into(), 1..=65_536) as u32,
        client_output_soft: file.size("client_output_soft", usual.client_output_soft, 16 * KB..=GB),
        client_output_max: file.size("client_output_max", usual.client_output_max, 16 * KB..=64 * GB),
        request_kept_max: file.size("request_kept_max", usual.request_kept_max, 64 * KB..=GB),
        client_idle_us: file.ms("client_idle_ms", usual.client_idle_us, 0..=24 * 30 * HOUR_MS),
        clients_max: file.number("clients_max", usual.clients_max.into(), 1..=10_000_000) as u32,
        worker_memory_max: file.size("worker_memory_max", usual.worker_memory_max, 16 * MB..=1024 * GB),
        denied_commands: read_denied(file),
        declared_commands: read_declared(file),
    };
    check_relay(file, &settings);
    let bytes = serde_json::to_vec(&settings).map_or(0, |json| json.len());
    if bytes > SETTINGS_MAX {
        let text = format!(
            "users, declared_commands and what else concerns requests take {bytes} bytes, at most {SETTINGS_MAX}: keep users in the topology (`twemslotctl users`)"
        );
        file.fault(Place::default(), text);
    }
    settings
}

/// The addresses of `listen` that only load balancers reach.
fn read_proxy_protocol(file: &mut Reader<'_>, listen: &[Addr]) -> Vec<String> {
    let found = file.get_placed("proxy_protocol", |node| one_or_many(node, str::parse::<Addr>));
    let (addrs, place) = found.unwrap_or_default();
    if let Some(other) = addrs.iter().find(|a| !listen.contains(a)) {
        file.fault(place, format!("proxy_protocol: {other} is not among the addresses of `listen`"));
    }
    let names: Vec<String> = addrs.iter().map(Addr::to_string).collect();
    file.show("proxy_protocol", names.clone());
    names
}

/// The proxies that clients which think that this is a Redis Cluster are told of; none: they are told that it is none.
fn read_cluster(file: &mut Reader<'_>, advertise: &str) -> Vec<String> {
    let emulate = file.get("cluster_mode", false, |node| match text(node)?.as_str() {
        "none" => Ok(false),
        "emulate" => Ok(true),
        _ => Err("expected none or emulate".into()),
    });
    file.show("cluster_mode", if emulate { "emulate" } else { "none" });
    let nodes = file.get_placed("cluster_nodes", |node| one_or_many(node, control::host_port));
    let (nodes, place) = nodes.unwrap_or_default();
    file.show("cluster_nodes", nodes.clone());
    match (emulate, nodes.is_empty()) {
        (false, true) => Vec::new(),
        (false, false) => {
            file.fault(place, "cluster_nodes: they are told to nobody without `cluster_mode: emulate`");
            Vec::new()
        }
        (true, false) => nodes,
        (true, true) => {
            let here = advertise.parse::<SocketAddr>().is_ok_and(|addr| !addr.ip().is_unspecified());
            if !here && control::host_port(advertise).is_err() || advertise.starts_with("0.0.0.0:") {
                let why =
                    format!("cluster_mode: {advertise} is no address for others: say the address in `cluster_nodes`");
                file.fault(Place::default(), why);
            }
            vec![advertise.to_owned()]
        }
    }
}

/// Pairs that only make sense in one order.
fn check_relay(file: &mut Reader<'_>, s: &Settings) {
    let pairs = [
        (s.request_timeout_us, s.link_dead_us, "request_timeout_ms", "link_dead_ms"),
        (
            s.hold_client_bytes_max as u64,
            s.hold_worker_bytes_max as u64,
            "hold_client_bytes_max",
            "hold_worker_bytes_max",
        ),
        (s.client_output_soft as u64, s.client_output_max as u64, "client_output_soft", "client_output_max"),
        (s.hold_worker_bytes_max as u64, s.worker_memory_max as u64, "hold_worker_bytes_max", "worker_memory_max"),
        (s.client_output_max as u64, s.worker_memory_max as u64, "client_output_max", "worker_memory_max"),
    ];
    for (less, more, less_key, more_key) in pairs {
        if less > more {
            file.fault(Place::default(), format!("{less_key} is larger than {more_key}: it could never be reached"));
        }
    }
}

fn read_denied(file: &mut Reader<'_>) -> Vec<String> {
    let denied = file.get("denied_commands", Vec::new(), |node| {
        one_or_many(node, |name| if name.trim() == name { Ok(name.to_ascii_uppercase()) } else { Err(spaces(name)) })
    });
    file.show("denied_commands", denied.clone());
    denied
}

fn spaces(name: &str) -> String {
    format!("{name:?}: begins or ends with a space")
}

fn read_declared(file: &mut Reader<'_>) -> Vec<Declared> {
    let (declared, _) = file.items(("declared_commands", "declared_commands."), one_declared, check_declared);
    let shown = declared.iter().map(|d| serde_json::to_value(d).unwrap_or_default()).collect::<Vec<_>>();
    file.show("declared_commands", shown);
    declared
}

fn one_declared(file: &mut Reader<'_>) -> Declared {
    let from_the_end = |node: &Node| match node {
        Node::Scalar(Value::Number(n)) => n.as_i64().and_then(|n| i32::try_from(n).ok()).ok_or("too large".into()),
        _ => Err("expected a whole number; negative: counted from the end".into()),
    };
    Declared {
        name: file.text("name").map(|t| t.0.to_ascii_uppercase()).unwrap_or_default(),
        first_key: file.number("first_key", 0, 0..=PLACE_MAX) as u32,
        last_key: file.get("last_key", 0, from_the_end),
        key_step: file.number("key_step", 1, 0..=PLACE_MAX) as u32,
        all_groups: file.flag("all_groups", false),
        write: file.flag("write", false),
    }
}

fn check_declared(one: &Declared) -> Result<(), String> {
    let name = &one.name;
    if name.is_empty() {
        return Err("a command without a `name`".into());
    }
    if name.trim() != name {
        return Err(spaces(name));
    }
    if one.all_groups && one.first_key != 0 {
        return Err(format!("{name}: `all_groups` is for commands without keys (first_key 0)"));
    }
    if one.first_key > 0 && (one.key_step == 0 || (0..i64::from(one.first_key)).contains(&i64::from(one.last_key))) {
        return Err(format!(
            "{name}: key_step is at least 1, and last_key is not before first_key (or counts from the end: -1)"
        ));
    }
    Ok(())
}

fn text_or(file: &mut Reader<'_>, key: &'static str, default: &str) -> String {
    let text = file.text(key).map_or_else(|| default.to_owned(), |t| t.0);
    file.show(key, text.as_str());
    text
}

fn read_admin_tokens(file: &mut Reader<'_>, admin: SocketAddr, place: Place) -> AdminTokens {
    let all = secret(file, "admin_token", "admin_token_file");
    if all.is_none() && !admin.ip().is_loopback() {
        let why = "admin: other machines reach this address: set `admin_token` or `admin_token_file`, or use 127.0.0.1";
        file.fault(place, why);
    }
    let metrics = placed_secret(file, "metrics_token", "metrics_token_file");
    if let Some((token, place)) = &metrics {
        if all.is_none() {
            let why = "metrics_token: without `admin_token` nobody is asked for a token: set that one, too";
            file.fault(*place, why);
        } else if all.as_ref() == Some(token) {
            let why = "metrics_token: it is that of `admin_token`, and so would do for everything: make another one";
            file.fault(*place, why);
        }
    }
    AdminTokens { all, metrics: metrics.map(|m| m.0) }
}

/// A secret, in the file itself or as the first line of a file of its own.
fn secret(file: &mut Reader<'_>, key: &'static str, file_key: &'static str) -> Option<String> {
    placed_secret(file, key, file_key).map(|found| found.0)
}

fn placed_secret(file: &mut Reader<'_>, key: &'static str, file_key: &'static str) -> Option<(String, Place)> {
    let here = file.get_placed(key, text);
    let there = file.text(file_key);
    let from_file = there.as_ref().and_then(|(path, place)| {
        let found = first_line(Path::new(path));
        found.map_err(|why| file.fault(*place, format!("{file_key}: {path}: {why}"))).ok().map(|text| (text, *place))
    });
    if let (Some(_), Some((_, place))) = (&here, &there) {
        file.fault(*place, format!("`{key}` is given too: keep one of them"));
    }
    let found = here.or(from_file);
    file.show(key, found.as_ref().map(|_| COVERED));
    found
}

fn first_line(path: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(line.to_owned()),
        _ => Err("its first line is empty".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok(text: &str) -> Config {
        parse(text, &Overrides::default()).unwrap_or_else(|faults| panic!("{faults:#?}"))
    }

    fn faults(text: &str) -> Vec<String> {
        let faults = parse(text, &Overrides::default()).expect_err("faulty");
        faults.iter().map(Fault::to_string).collect()
    }

    #[test]
    fn an_empty_file_is_all_defaults() {
        for text in ["", "# nothing\n", "listen:\n"] {
            let config = ok(text);
            assert_eq!((config.listen, config.relay), (vec![local(6380)], Settings::default()));
        }
    }

    #[test]
    fn the_file_we_ship_says_the_defaults() {
        let shipped = ok(include_str!("../../../conf/proxy.yml"));
        assert_eq!(shipped.shown, ok("").shown);
        for key in shipped.shown.keys() {
            let line = |l: &str| l.trim_start_matches("# ").starts_with(&format!("{key}:"));
            assert!(include_str!("../../../conf/proxy.yml").lines().any(line), "{key} is not explained");
        }
    }

    #[test]
    fn values_are_understood() {
        let config = ok(
            "listen: [127.0.0.1:7000, 'unix:/run/t.sock']\nproxy_protocol: 'unix:/run/t.sock'\nworkers: 3\nrequest_timeout_ms: 250\n\
             worker_memory_max: 2gb\nclient_password: secret\nlog: {level: debug, format: json, file: /tmp/l}\n\
             declared_commands:\n- name: json.set\n  first_key: 1\n  last_key: 1\n  write: true\n",
        );
        assert_eq!(config.listen.len(), 2);
        assert_eq!(config.relay.proxy_protocol, ["unix:/run/t.sock"]);
        assert_eq!((config.workers, config.relay.request_timeout_us), (Workers::Count(3), 250_000));
        assert_eq!((config.relay.worker_memory_max, config.log.level), (2 * GB, Level::Debug));
        assert_eq!(config.relay.declared_commands[0].name, "JSON.SET");
        assert_eq!(
            (&config.shown["client_password"], &config.shown["worker_memory_max"]),
            (&json!("***"), &json!("2gb"))
        );
        assert_eq!(config.shown["log"]["file"], json!("/tmp/l"));
    }

    #[test]
    fn an_unknown_key_is_named_with_its_place_and_the_nearest() {
        assert_eq!(
            faults("workers: 2\nreqest_timeout_ms: 5\n"),
            ["line 2 column 1: unknown key `reqest_timeout_ms`: did you mean `request_timeout_ms`?"]
        );
        assert_eq!(
            faults("log:\n  levle: info\n"),
            ["line 2 column 3: unknown key `log.levle`: did you mean `level`?"]
        );
        assert_eq!(
            faults("declared_commands:\n- name: a\n- name: b\n  frist_key: 1\n"),
            ["line 4 column 3: unknown key `declared_commands.frist_key`: did you mean `first_key`?"]
        );
        let far = faults("zzz: 1\n");
        assert!(far[0].starts_with("line 1 column 1: unknown key `zzz`; known are admin, "), "{far:?}");
    }

    #[test]
    fn every_fault_is_listed_in_the_order_of_the_file() {
        let faults = faults(
            "workers: 0\nlisten: [127.0.0.1]\nclient_password: 123\nclient_output_max: 64m\nlog: {level: loud}\n\
             daemon: perhaps\nlink_ping_ms: -1\nadmin: 0.0.0.0:6381\n",
        );
        let words = [
            "line 1 column 1: workers: 0: expected auto, or a number from 1 to 512",
            "line 2 column 1: listen: \"127.0.0.1\" is not an address",
            "line 3 column 1: client_password: is not a text here: put it in quotes",
            "line 4 column 1: client_output_max: expected a size",
            "line 5 column 7: log.level: expected error, warn",
            "line 6 column 1: daemon: expected true or false",
            "line 7 column 1: link_ping_ms: -1: expected a whole number from 10",
            "line 8 column 1: admin: other machines reach this address",
        ];
        assert_eq!(faults.len(), words.len(), "{faults:#?}");
        for (fault, word) in faults.iter().zip(words) {
            assert!(fault.starts_with(word), "{fault} / {word}");
        }
    }

    #[test]
    fn a_key_given_twice_is_refused() {
        let faults = faults("workers: 1\nlisten: 127.0.0.1:7000\nworkers: 2\n");
        assert!(faults[0].starts_with("line 3 column 1: ") && faults[0].contains("workers"), "{faults:?}");
    }

    #[test]
    fn broken_yaml_is_placed() {
        let faults = faults("workers: 1\nlisten: [\n");
        assert!(faults[0].starts_with("line "), "{faults:?}");
        assert!(self::faults("- a\n")[0].contains("key: value"));
    }

    #[test]
    fn what_cannot_be_true_together() {
        assert!(faults("link_dead_ms: 10\n")[0].contains("request_timeout_ms is larger than link_dead_ms"));
        assert!(faults("listen: 127.0.0.1:7\nadmin: 127.0.0.1:7\n")[0].contains("a port each"));
        assert!(faults("listen: [127.0.0.1:7, localhost:7]\n")[0].contains("named twice"));
        assert!(faults("proxy_protocol: 127.0.0.1:7\n")[0].contains("127.0.0.1:7 is not among"));
        assert!(faults("instance_user: app\n")[0].contains("without `instance_password`"));
        assert!(faults("declared_commands:\n- first_key: 1\n")[0].contains("without a `name`"));
        let many: String = (0..4000).map(|i| format!("- name: module.command.{i}\n")).collect();
        assert!(faults(&format!("declared_commands:\n{many}"))[0].contains("at most 262144"));
    }

    #[test]
    fn secrets_come_from_files_too() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("token");
        std::fs::write(&path, "s3cret\nrest\n").expect("write");
        let config = ok(&format!("admin_token_file: {}\nadmin: 0.0.0.0:6381", path.display()));
        assert_eq!(config.admin_tokens.all.as_deref(), Some("s3cret"));
        assert!(!Value::from(config.shown).to_string().contains("s3cret"));
        let both = faults(&format!("admin_token: a\nadmin_token_file: {}\n", path.display()));
        assert!(both[0].contains("keep one"), "{both:?}");
        assert!(faults("client_password_file: /nowhere/x\n")[0].contains("/nowhere/x: No such file"));
        let tokens = ok("admin_token: a\nmetrics_token: b\n").admin_tokens;
        assert_eq!((tokens.all.as_deref(), tokens.metrics.as_deref()), (Some("a"), Some("b")));
        assert!(faults("metrics_token: a\n")[0].contains("set that one, too"));
        assert!(faults("admin_token: a\nworkers: 1\nmetrics_token: a\n")[0].contains("line 3"));
        assert!(faults("admin_token: a\nmetrics_token: a\n")[0].contains("make another one"));
    }

    #[test]
    fn the_command_line_wins() {
        let overrides = Overrides { workers: Some("7".into()), admin: Some("x".into()), ..Overrides::default() };
        let faults = parse("workers: 2\nadmin: 127.0.0.1:1\n", &overrides).expect_err("admin x");
        assert_eq!(faults.len(), 1);
        let overrides = Overrides { listen: vec!["127.0.0.1:9".into()], ..overrides };
        let config = parse("", &Overrides { admin: None, ..overrides }).expect("good");
        assert_eq!((config.workers, config.listen), (Workers::Count(7), vec![local(9)]));
    }
}

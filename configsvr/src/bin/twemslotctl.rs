//! `twemslotctl`: the command line of Twemslot.
#![allow(clippy::print_stdout, reason = "a command line prints")]
#![expect(clippy::disallowed_methods, reason = "a shell: reads files, waits for signals")]

use anyhow::{Context, Result};
use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use configsvr::ctl;
use configsvr::playground::{self, Instance, Options, Playground, Status, StoreKind};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// One address for many Redis groups: the command line.
#[derive(Parser)]
#[command(name = "twemslotctl", version, about)]
struct Cli {
    /// The playground to talk to.
    #[arg(long, global = true, help_heading = ctl::REACH, value_name = "DIR", default_value = DEFAULT_DIR, env = "TWEMSLOT_STATE_DIR")]
    state_dir: PathBuf,
    #[command(flatten)]
    options: ctl::Options,
    #[command(subcommand)]
    command: Command,
}

const DEFAULT_DIR: &str = ".playground";

#[derive(Subcommand)]
enum Command {
    /// A whole cluster of real servers on this machine, to try things out.
    #[command(subcommand)]
    Playground(Act),
    #[command(flatten)]
    Control(ctl::Verb),
    /// Print a shell's completions: `source <(twemslotctl completions bash)`.
    Completions {
        /// Whose.
        shell: Shell,
    },
}

#[derive(Subcommand)]
enum Act {
    /// Start it: Redis groups with replicas, and proxies before them.
    Up(Up),
    /// Stop it. Its data is gone; its logs stay.
    Down,
    /// Show what runs. Ends with 1 unless all is well.
    Status,
}

#[derive(Args)]
struct Up {
    /// Come back once all is ready; `playground down` stops it. Otherwise: stay, until Ctrl-C.
    #[arg(long)]
    detach: bool,
    /// The first proxy's client port; admin is the next one, the first Redis 21 above. auto: ports that are free.
    #[arg(long, value_name = "PORT|auto", default_value = "6380", value_parser = number_or_auto)]
    base_port: Number,
    /// Redis groups; the slots are spread over them evenly.
    #[arg(long, value_name = "N", default_value_t = 2)]
    groups: u16,
    /// Replicas of each group.
    #[arg(long, value_name = "N", default_value_t = 1)]
    replicas: u16,
    /// Proxies, each with a port of its own.
    #[arg(long, value_name = "N", default_value_t = 1)]
    proxies: u16,
    /// Members of the control plane. 0: none, the proxies serve a topology from a file.
    #[arg(long, value_name = "N", default_value_t = 1)]
    configsvrs: u16,
    /// Where the control plane keeps the truth: in its members, or in an etcd of three.
    #[arg(long, value_name = "embedded|etcd", default_value = "embedded", value_parser = store_kind)]
    store: StoreKind,
    /// Make no cluster: the control plane's store stays empty, to create or import one.
    #[arg(long)]
    bare: bool,
    /// Workers of each proxy: a number, or auto for one a core.
    #[arg(long, value_name = "N|auto", default_value = "auto", value_parser = number_or_auto)]
    workers: Number,
    /// Slots of the cluster.
    #[arg(long, value_name = "N", default_value_t = 1024)]
    slots: u16,
    /// The Redis (or Valkey) server to use instead of the one on the PATH.
    #[arg(long, value_name = "PATH")]
    redis_server: Option<PathBuf>,
    /// The proxy to use instead of the one beside this program or on the PATH.
    #[arg(long, value_name = "PATH")]
    proxy: Option<PathBuf>,
    /// The configsvr to use instead of the one beside this program or on the PATH.
    #[arg(long, value_name = "PATH")]
    configsvr: Option<PathBuf>,
    /// YAML that is added to each proxy's configuration, or replaces parts of it.
    #[arg(long, value_name = "FILE")]
    proxy_conf: Option<PathBuf>,
    /// Lines that are added to each Redis's configuration.
    #[arg(long, value_name = "FILE")]
    redis_conf: Option<PathBuf>,
}

/// None: auto.
#[derive(Clone, Copy)]
struct Number(Option<u16>);

fn number_or_auto(text: &str) -> Result<Number, String> {
    match (text, text.parse::<u16>()) {
        ("auto", _) => Ok(Number(None)),
        (_, Ok(n)) if n > 0 => Ok(Number(Some(n))),
        _ => Err("a number from 1 to 65535, or auto".to_owned()),
    }
}

fn store_kind(text: &str) -> Result<StoreKind, String> {
    match text {
        "embedded" => Ok(StoreKind::Embedded),
        "etcd" => Ok(StoreKind::Etcd),
        _ => Err("embedded, or etcd".to_owned()),
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Command::Playground(Act::Up(up)) => start(&cli.state_dir, up),
        Command::Playground(Act::Down) => stop(&cli.state_dir),
        Command::Playground(Act::Status) => show(&cli.state_dir, cli.options.json),
        Command::Control(verb) => return ctl::run(cli.options, cli.state_dir, verb),
        Command::Completions { shell } => complete(shell),
    };
    done.unwrap_or_else(|e| {
        eprintln!("twemslotctl: {e:#}");
        ExitCode::FAILURE
    })
}

fn complete(shell: Shell) -> Result<ExitCode> {
    clap_complete::generate(shell, &mut Cli::command(), "twemslotctl", &mut std::io::stdout());
    Ok(ExitCode::SUCCESS)
}

fn start(dir: &Path, up: Up) -> Result<ExitCode> {
    let (detach, bare) = (up.detach, up.bare);
    let playground = Playground::start(options(dir, up)?)?;
    println!("\n{}", what_next(&playground, dir, bare));
    if detach {
        playground.detach()?;
    } else {
        println!("Ctrl-C stops it.");
        stay(playground)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn options(dir: &Path, up: Up) -> Result<Options> {
    let text = |file: Option<PathBuf>| match file {
        Some(path) => std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display())),
        None => Ok(String::new()),
    };
    Ok(Options {
        state_dir: Some(dir.to_path_buf()),
        base_port: up.base_port.0,
        groups: up.groups,
        replicas: up.replicas,
        proxies: up.proxies,
        configsvrs: up.configsvrs,
        store: up.store,
        bare: up.bare,
        workers: up.workers.0,
        slots: up.slots,
        redis_server: up.redis_server,
        proxy: up.proxy,
        configsvr: up.configsvr,
        proxy_conf: text(up.proxy_conf)?,
        configsvr_conf: String::new(),
        redis_conf: text(up.redis_conf)?,
        supervised: !up.detach,
        progress: |line| println!("{line}"),
    })
}

fn what_next(playground: &Playground, dir: &Path, bare: bool) -> String {
    let mut lines = vec!["Try:".to_owned()];
    match playground.proxies().first() {
        _ if bare => {}
        Some(proxy) => {
            lines.push(format!("  redis-cli -p {} set hello world", proxy.addr().port()));
            lines.extend(proxy.admin_addr().map(|admin| format!("  curl http://{admin}/api/v1/topology")));
            lines.extend(proxy.admin_addr().map(|admin| format!("  curl http://{admin}/metrics")));
        }
        None => {
            let redis = playground.instances().first().map(|i| i.server.addr().port());
            lines.extend(redis.map(|port| format!("  redis-cli -p {port} info replication")));
        }
    }
    // With TWEMSLOT_STATE_DIR set it is needed no less: another terminal may not have it.
    let at = if dir == Path::new(DEFAULT_DIR) { String::new() } else { format!(" --state-dir {}", dir.display()) };
    // As it was called, which is not by its bare name where it is not installed.
    let ctl = std::env::args().next().unwrap_or_else(|| "twemslotctl".into());
    if bare {
        lines.push(format!("  {ctl}{at} cluster create --name shop"));
        for primary in playground.instances().iter().filter(|i| i.primary.is_none()) {
            let of = |i: &&Instance| i.primary == Some(primary.server.addr());
            let replicas = playground.instances().iter().filter(of).map(|i| format!(" --replica {}", i.server.addr()));
            let replicas: String = replicas.collect();
            lines.push(format!("  {ctl}{at} groups add --primary {}{replicas}", primary.server.addr()));
        }
        lines.push(format!("  {ctl}{at} slots spread"));
    }
    if let Some(configsvr) = playground.configsvrs().first() {
        lines.push(format!("  http://{}/ shows it in a browser", configsvr.addr()));
        lines.push(format!("  {ctl}{at} status"));
        lines.push(format!("  {ctl}{at} slots list"));
    }
    lines.push(format!("  {ctl}{at} playground status"));
    lines.push(format!("  {ctl}{at} playground down"));
    lines.join("\n")
}

/// Until someone asks for the end. A server that ends is reported, and the rest stays: people kill things on purpose.
fn stay(mut playground: Playground) -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGCHLD]).context("cannot wait for signals")?;
    for signal in signals.forever() {
        if signal != SIGCHLD {
            break;
        }
        for death in playground.deaths() {
            println!("{death}");
        }
    }
    println!("stopping");
    playground.stop()
}

fn stop(dir: &Path) -> Result<ExitCode> {
    if playground::down(dir, |line| println!("{line}"))? {
        println!("stopped; logs are in {}", dir.join("log").display());
    } else {
        println!("no playground runs in {}", dir.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn show(dir: &Path, json: bool) -> Result<ExitCode> {
    let status = playground::status(dir)?;
    match &status {
        Some(status) if json => println!("{}", serde_json::to_string_pretty(status)?),
        Some(status) => print_table(status),
        None if json => println!("{{\"state_dir\":{},\"healthy\":false,\"processes\":[]}}", serde_json::json!(dir)),
        None => println!("no playground runs in {}: start one with `twemslotctl playground up`", dir.display()),
    }
    Ok(if status.is_some_and(|s| s.healthy) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print_table(status: &Status) {
    println!("{:<12} {:>8}  {:<16} {:<16} STATE", "NAME", "PID", "ADDR", "ADMIN");
    for p in &status.processes {
        let mark = if p.healthy { "" } else { "! " };
        let admin = p.process.admin_addr.as_deref().unwrap_or("-");
        println!("{:<12} {:>8}  {:<16} {admin:<16} {mark}{}", p.process.name, p.process.pid, p.process.addr, p.says);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_scripts_type_is_understood() {
        for line in [
            "status --json",
            "--state-dir d status --json",
            "--api http://a:1 groups add --primary 127.0.0.1:1 --replica 127.0.0.1:2@b --name n --yes --json",
            "groups list --json",
            "slots assign --group 1 --slots 0-99,7 --force --yes",
            "slots list --per-slot --json",
            "instances remove --group g1 127.0.0.1:1 -y",
            "settings set --proxy-ttl 2",
            "migrations start --from 1 --to g2 --count 100 --wait --yes --json",
            "migrations start --from 1 --to 2 --slots 0-9,12 --window 22:00-06:00 --keys-per-s 1000 --dry-run",
            "migrations watch",
            "migrations reverse 3 --wait",
            "rebalance --weight 1=2,2=0 --wait --yes",
            "groups drain g2 --yes",
            "groups drain g2 --remove --by keys --dry-run",
            "groups add --primary 127.0.0.1:1 --rebalance --by ops --seconds 3 --wait --no-audit --yes",
            "rebalance --by memory --from 1 --to 2,g3 --force --dry-run --json",
            "migrations resume 3 --force",
            "members add --id 4 --name m4 --addr 10.0.0.4:6390 --dry-run",
            "store diff a b",
            "store servers --json",
            "import --codis dump.json --name shop",
            "playground status --json",
            "completions bash",
            "doctor",
        ] {
            let words = std::iter::once("twemslotctl").chain(line.split(' '));
            assert!(Cli::try_parse_from(words).map_err(|e| println!("{e}")).is_ok(), "{line}");
        }
    }

    /// What to type for each route. Those without a line are for machines alone.
    const VERBS: [(&str, &str); 59] = [
        ("get /api/v1/audit", "audit"),
        ("get /api/v1/bigkeys", "bigkeys"),
        ("get /api/v1/cluster", "status"),
        ("post /api/v1/cluster", "cluster create --name shop"),
        ("get /api/v1/events", "events"),
        ("get /api/v1/failovers", "failovers list"),
        ("get /api/v1/failovers/{id}", "failovers show 1"),
        ("get /api/v1/groups", "groups list"),
        ("post /api/v1/groups", "groups add --primary 10.0.0.1:1"),
        ("get /api/v1/groups/{id}", "groups show 1"),
        ("patch /api/v1/groups/{id}", "groups rename 1 one"),
        ("delete /api/v1/groups/{id}", "groups remove 1"),
        ("post /api/v1/groups/{id}/failover", "failover 1"),
        ("post /api/v1/groups/{id}/switchover", "switchover 1"),
        ("patch /api/v1/groups/{id}/guard", "guard group 1 --maintenance true"),
        ("post /api/v1/groups/{id}/instances", "instances add --group 1 10.0.0.1:1"),
        ("delete /api/v1/groups/{id}/instances/{addr}", "instances remove --group 1 10.0.0.1:1"),
        ("post /api/v1/groups/{id}/instances/{addr}/follow", "instances follow --group 1 10.0.0.1:1"),
        ("patch /api/v1/groups/{id}/instances/{addr}/guard", "guard instance --group 1 10.0.0.1:1 --never true"),
        ("get /api/v1/groups/{id}/maxmemory", "groups maxmemory g1"),
        ("put /api/v1/groups/{id}/maxmemory", "groups maxmemory g1 4gb"),
        ("get /api/v1/users", "users list"),
        ("put /api/v1/users/{name}", "users set app --password-file - --categories all,-dangerous --keys app:*"),
        ("delete /api/v1/users/{name}", "users remove app"),
        ("get /api/v1/guards", "guard list"),
        ("get /api/v1/hotkeys", "hotkeys"),
        ("post /api/v1/import", "import file"),
        ("get /api/v1/instances", "instances list"),
        ("get /api/v1/members", "members list"),
        ("post /api/v1/members", "members add --id 4 --name m4 --addr 10.0.0.4:6390"),
        ("delete /api/v1/members/{name}", "members remove m4"),
        ("post /api/v1/members/{name}/promote", "members promote m4"),
        ("get /api/v1/migrations", "migrations list"),
        ("post /api/v1/migrations", "migrations start --from 1 --to 2 --count 10"),
        ("get /api/v1/migrations/{id}", "migrations show 1"),
        ("patch /api/v1/migrations/{id}", "migrations limit 1 --keys-per-s 10"),
        ("post /api/v1/migrations/{id}/cancel", "migrations cancel 1"),
        ("post /api/v1/migrations/{id}/pause", "migrations pause 1"),
        ("post /api/v1/migrations/{id}/resume", "migrations resume 1"),
        ("post /api/v1/migrations/{id}/reverse", "migrations reverse 1"),
        ("get /api/v1/proxies", "proxies list"),
        ("get /api/v1/proxies/{id}", "proxies show p1"),
        ("delete /api/v1/proxies/{id}", "proxies remove p1"),
        ("post /api/v1/proxies/{id}/beat", ""),
        ("post /api/v1/proxies/{id}/drain", "proxies drain p1"),
        ("post /api/v1/rebalance", "rebalance"),
        ("get /api/v1/settings", "settings show"),
        ("patch /api/v1/settings", "settings set --proxy-ttl 2"),
        ("get /api/v1/slots", "slots list"),
        ("post /api/v1/slots/assign", "slots assign --group 1 --slots 0-9"),
        ("post /api/v1/slots/spread", "slots spread"),
        ("get /api/v1/slots/traffic", "slots traffic"),
        ("get /api/v1/store/export", "store export"),
        ("post /api/v1/store/import", "store import file"),
        ("get /api/v1/store/servers", "store servers"),
        ("get /api/v1/topology", "topology"),
        ("get /healthz", "health"),
        ("get /readyz", "health"),
        ("get /metrics", "metrics"),
    ];

    #[test]
    fn there_is_a_verb_for_every_route() {
        let document: serde_json::Value = serde_json::from_str(&configsvr::http::document()).expect("JSON");
        let paths = document["paths"].as_object().expect("paths");
        let of_path = |(path, item): (&String, &serde_json::Value)| {
            let methods: Vec<String> = item.as_object().expect("methods").keys().cloned().collect();
            methods.into_iter().filter(|m| m != "parameters").map(|m| format!("{m} {path}")).collect::<Vec<_>>()
        };
        let mut routes: Vec<String> = paths.iter().flat_map(of_path).collect();
        let mut known: Vec<String> = VERBS.iter().map(|(route, _)| (*route).to_owned()).collect();
        routes.sort();
        known.sort();
        assert_eq!(known, routes);
        for (route, line) in VERBS.iter().filter(|(_, line)| !line.is_empty()) {
            let words = std::iter::once("twemslotctl").chain(line.split(' '));
            assert!(Cli::try_parse_from(words).map_err(|e| println!("{e}")).is_ok(), "{route}: {line}");
        }
    }

    /// What each command and argument at and below `command` lacks to be understood from its help alone.
    fn unexplained(command: &clap::Command, path: &str, lacking: &mut Vec<String>) {
        let path = format!("{path} {}", command.get_name());
        if command.get_about().is_none()
            || command.get_about() == ctl::Terms::augment_args(clap::Command::new("")).get_about()
        {
            lacking.push(path.clone());
        }
        let silent = command.get_arguments().filter(|arg| arg.get_help().is_none());
        lacking.extend(silent.map(|arg| format!("{path} {}", arg.get_id())));
        for below in command.get_subcommands() {
            unexplained(below, &path, lacking);
        }
    }

    #[test]
    fn every_command_and_argument_explains_itself() {
        let mut lacking = Vec::new();
        unexplained(&Cli::command(), "", &mut lacking);
        assert_eq!(lacking, Vec::<String>::new());
    }
}

//! The playground, with real servers: what people type, and what the other tests rely on.

use anyhow::{Context, Result};
use configsvr::playground::{Options, Playground, Server, ask, find_binary, http, info, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);

fn redis_only() -> Options {
    Options { proxies: 0, ..Options::default() }
}

fn alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with('Z'))
}

fn gone(pids: &[i32]) -> Result<()> {
    until("the end of all servers", LIMIT, || {
        let left: Vec<i32> = pids.iter().copied().filter(|&pid| alive(pid)).collect();
        Ok(if left.is_empty() { Ok(()) } else { Err(format!("{left:?} are left")) })
    })
}

#[test]
fn groups_are_real_and_in_sync() -> Result<()> {
    let playground = Playground::start(Options { groups: 3, replicas: 2, ..redis_only() })?;
    assert_eq!(playground.instances().len(), 9);
    for id in 1..=3 {
        let servers: Vec<&Server> = playground.group(id).map(|i| &i.server).collect();
        ask(servers[0].addr(), &["SET", "k", "v"])?;
        until("the write at the last replica", LIMIT, || {
            let reply = ask(servers[2].addr(), &["GET", "k"])?;
            Ok(if reply == b"$1\r\nv\r\n" { Ok(()) } else { Err(format!("{reply:?}")) })
        })?;
        assert_eq!(info(servers[1].addr(), "server")?["process_id"], servers[1].pid().to_string());
    }
    let topology = playground.topology().clone().check().map_err(|f| anyhow::anyhow!("{f:?}"))?;
    assert_eq!((topology.epoch(), topology.groups().len(), topology.slot_count()), (1, 3, 1024));
    let (pids, dir) = (pids(&playground), playground.dir().to_path_buf());
    drop(playground);
    assert!(pids.iter().all(|&pid| !alive(pid)), "drop has left servers");
    assert!(!dir.exists(), "drop has left {}", dir.display());
    Ok(())
}

fn pids(playground: &Playground) -> Vec<i32> {
    playground.instances().iter().map(|i| i.server.pid()).collect()
}

#[test]
fn instances_die_freeze_and_come_back() -> Result<()> {
    let mut playground = Playground::start(redis_only())?;
    let (primary, replica) = (playground.instances()[0].server.addr(), playground.instances()[1].server.addr());
    ask(primary, &["SET", "k", "v"])?;
    let before = playground.instances()[0].server.pid();
    playground.kill_instance(primary)?;
    assert!(ask(primary, &["PING"]).is_err() && !alive(before));
    assert_eq!(playground.deaths(), Vec::<String>::new(), "a death on purpose is not reported");
    playground.start_instance(primary)?;
    assert_ne!(playground.instances()[0].server.pid(), before);
    assert_eq!(ask(primary, &["GET", "k"])?, b"$-1\r\n", "a playground keeps nothing");
    assert!(playground.start_instance(primary).is_err(), "it runs already");
    playground.stop_instance(replica)?;
    assert!(ask(replica, &["PING"]).is_err());
    playground.cont_instance(replica)?;
    assert_eq!(ask(replica, &["PING"])?, b"+PONG\r\n");
    playground.stop_instance(replica)?; // and a frozen one does not hold up the end
    let pids = pids(&playground);
    playground.stop()?;
    assert!(pids.iter().all(|&pid| !alive(pid)));
    Ok(())
}

#[test]
fn a_death_is_reported_once() -> Result<()> {
    let mut playground = Playground::start(redis_only())?;
    kill(Pid::from_raw(playground.instances()[0].server.pid()), Signal::SIGKILL)?;
    let report = until("the report", LIMIT, || {
        let deaths = playground.deaths();
        Ok(deaths.into_iter().next().ok_or("none".to_owned()))
    })?;
    assert!(report.contains("has ended (signal: 9"), "{report}");
    assert_eq!(playground.deaths(), Vec::<String>::new());
    Ok(())
}

#[test]
fn many_at_once_never_collide() -> Result<()> {
    let small = || Playground::start(Options { groups: 1, replicas: 0, ..redis_only() });
    let all: Vec<Result<Playground>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(small)).collect();
        threads.into_iter().map(|t| t.join().expect("no panic")).collect()
    });
    let all: Vec<Playground> = all.into_iter().collect::<Result<_>>()?;
    let mut ports: Vec<u16> = all.iter().map(|p| p.instances()[0].server.addr().port()).collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), all.len());
    Ok(())
}

#[test]
fn who_dies_at_start_is_shown_with_its_log() -> Result<()> {
    let options = Options { redis_conf: "no-such-setting yes\n".to_owned(), ..redis_only() };
    let error = format!("{:#}", Playground::start(options).expect_err("a wrong setting"));
    for part in ["redis-", "exit status: 1", "no-such-setting yes", "Bad directive"] {
        assert!(error.contains(part), "{part:?} not in {error}");
    }
    Ok(())
}

#[test]
fn proxies_take_topologies_die_and_come_back() -> Result<()> {
    let mut playground = Playground::start(Options { proxies: 2, workers: Some(1), ..Options::default() })?;
    let admin = playground.admin_addr()?;
    let mut topology = playground.topology().clone();
    assert_eq!(http::get(admin, "/api/v1/topology")?.json()?["epoch"], 1);
    topology.epoch = 5;
    playground.put_topology(&topology)?;
    for proxy in playground.proxies() {
        let admin = proxy.admin_addr().context("a proxy has one")?;
        assert_eq!(http::get(admin, "/api/v1/topology")?.json()?["epoch"], 5);
    }
    topology.epoch = 4;
    let error = playground.put_topology(&topology).expect_err("an older epoch").to_string();
    assert!(error.contains("proxy-1 refuses epoch 4 (409)"), "{error}");
    assert_eq!(playground.topology().epoch, 5);

    playground.reload(0, "log:\n  level: debug\n")?;
    let conf = fs::read_to_string(playground.proxy_conf(0)?)?;
    assert!(conf.contains("level: debug") && conf.contains("listen: ") && !conf.contains("level: info"), "{conf}");

    let (before, workers) = (playground.proxy_pid(0)?, playground.worker_pids(0)?);
    assert!(!workers.is_empty());
    playground.kill_proxy(0)?;
    assert!(http::get(admin, "/readyz").is_err());
    gone(&workers)?;
    playground.start_proxy(0)?;
    assert_ne!(playground.proxy_pid(0)?, before);
    assert_eq!(http::get(admin, "/api/v1/topology")?.json()?["epoch"], 5, "served from its disk");
    let mut pids: Vec<i32> = playground.proxies().iter().map(Server::pid).collect();
    pids.extend(playground.worker_pids(1)?);
    playground.stop()?;
    gone(&pids)
}

#[test]
fn a_proxy_that_cannot_start_is_shown_with_its_log() -> Result<()> {
    let options = Options { proxy_conf: "wrokers: 1\n".to_owned(), ..Options::default() };
    let error = format!("{:#}", Playground::start(options).expect_err("a wrong setting"));
    assert!(error.contains("proxy-1 ended at once") && error.contains("wrokers"), "{error}");
    let options = Options { proxy_conf: "listen: 127.0.0.1:1\n".to_owned(), ..Options::default() };
    assert!(Playground::start(options).is_err(), "the playground's own settings");
    Ok(())
}

/// `twemslotctl` with a state directory of its own.
struct Cli {
    dir: tempfile::TempDir,
}

impl Cli {
    fn new() -> Result<Self> {
        Ok(Self { dir: tempfile::tempdir()? })
    }

    fn command(&self, words: &str) -> Result<Command> {
        let mut command = Command::new(find_binary("twemslotctl")?);
        command.arg("--state-dir").arg(self.dir.path()).arg("playground").args(words.split(' '));
        Ok(command)
    }

    /// What it prints, standard error last; its status.
    fn run(&self, words: &str) -> Result<(String, i32)> {
        let Output { status, stdout, stderr } = self.command(words)?.output()?;
        let text = String::from_utf8(stdout)? + &String::from_utf8(stderr)?;
        Ok((text, status.code().context("killed")?))
    }

    fn json(&self, file: &str) -> Result<serde_json::Value> {
        Ok(serde_json::from_str(&fs::read_to_string(self.dir.path().join(file))?)?)
    }

    fn pids(&self) -> Result<Vec<i32>> {
        let listing = self.json("playground.json")?;
        let processes = listing["processes"].as_array().context("an array")?;
        processes.iter().map(|p| Ok(p["pid"].as_i64().context("a pid")? as i32)).collect()
    }
}

impl Drop for Cli {
    fn drop(&mut self) {
        let _ = self.run("down"); // after a failed assertion
    }
}

const UP: &str = "up --base-port auto --proxies 0 --groups 2 --replicas 1 --detach";

#[test]
fn up_status_down() -> Result<()> {
    let cli = Cli::new()?;
    let (said, code) = cli.run(UP)?;
    assert_eq!(code, 0, "{said}");
    for part in ["Redis ", "group g2: primary 127.0.0.1:", "1024 slots over 2 groups", "Try:", "playground down"] {
        assert!(said.contains(part), "{part:?} not in {said}");
    }
    let listing = cli.json("playground.json")?;
    let first = listing["processes"][0].as_object().context("an object")?;
    assert_eq!(first.keys().collect::<Vec<_>>(), ["addr", "admin_addr", "kind", "name", "pid"]);
    let pids = cli.pids()?;
    assert!(pids.len() == 5 && pids.iter().all(|&pid| alive(pid)), "detached servers live on");

    let (said, code) = cli.run("status --json")?;
    let status: serde_json::Value = serde_json::from_str(&said)?;
    assert_eq!((code, &status["healthy"], &status["processes"][3]["alive"]), (0, &true.into(), &true.into()));
    let (said, code) = cli.run(UP)?;
    assert!(code == 1 && said.contains("already") && said.contains("playground down"), "{said}");

    kill(Pid::from_raw(pids[0]), Signal::SIGKILL)?;
    gone(&pids[..1])?;
    let (said, code) = cli.run("status")?;
    assert!(code == 1 && said.contains("! has ended"), "{said}");
    let (said, code) = cli.run("down")?;
    assert!(code == 0 && said.contains("stopped") && pids.iter().all(|&pid| !alive(pid)), "{said}");
    assert!(cli.run("down")?.0.contains("no playground runs"));
    assert_eq!(cli.run("status")?.1, 1);
    Ok(())
}

#[test]
fn a_stale_directory_is_cleaned_up() -> Result<()> {
    let cli = Cli::new()?;
    assert_eq!(cli.run(UP)?.1, 0);
    let pids = cli.pids()?;
    pids.iter().try_for_each(|&pid| kill(Pid::from_raw(pid), Signal::SIGKILL))?;
    gone(&pids)?;
    let (said, code) = cli.run(UP)?;
    assert!(code == 0 && said.contains("cleaning up after a playground that no longer runs"), "{said}");
    assert_eq!(cli.run("down")?.1, 0);
    Ok(())
}

#[test]
fn a_stranger_with_a_reused_pid_is_not_killed() -> Result<()> {
    let cli = Cli::new()?;
    assert_eq!(cli.run(UP)?.1, 0);
    let pids = cli.pids()?;
    let mut stranger = Command::new("sleep").arg("60").spawn()?;
    let run = cli.dir.path().join("run.json");
    let text = fs::read_to_string(&run)?;
    fs::write(&run, text.replacen(&format!("\"pid\": {}", pids[0]), &format!("\"pid\": {}", stranger.id()), 1))?;
    assert_eq!(cli.run("down")?.1, 0);
    assert!(alive(stranger.id() as i32), "a stranger was killed");
    stranger.kill()?;
    stranger.wait()?;
    assert!(alive(pids[0]), "the test did not take it out of the list");
    kill(Pid::from_raw(pids[0]), Signal::SIGKILL)?;
    gone(&pids)
}

/// A playground in the foreground, once it is up.
fn foreground(cli: &Cli) -> Result<Child> {
    let mut command = cli.command(UP.trim_end_matches(" --detach"))?;
    let mut child = command.stdout(Stdio::null()).process_group(0).spawn()?;
    until("playground.json", LIMIT, || {
        anyhow::ensure!(child.try_wait()?.is_none(), "it has ended");
        Ok(cli.pids().map_err(|e| format!("{e:#}")))
    })?;
    Ok(child)
}

#[test]
fn the_foreground_stops_all_on_a_signal_and_on_down() -> Result<()> {
    for signal in [Some(Signal::SIGINT), Some(Signal::SIGTERM), None] {
        let cli = Cli::new()?;
        let mut child = foreground(&cli)?;
        let pids = cli.pids()?;
        match signal {
            Some(signal) => kill(Pid::from_raw(child.id() as i32), signal)?,
            None => assert_eq!(cli.run("down")?.1, 0),
        }
        assert!(child.wait()?.success(), "{signal:?}");
        assert!(pids.iter().all(|&pid| !alive(pid)), "{signal:?} has left servers");
        assert!(!cli.dir.path().join("run.json").exists());
    }
    Ok(())
}

#[test]
fn a_killed_foreground_leaves_no_servers() -> Result<()> {
    let cli = Cli::new()?;
    let mut child = foreground(&cli)?;
    let pids = cli.pids()?;
    child.kill()?;
    child.wait()?;
    gone(&pids)?;
    let (said, code) = cli.run(UP)?;
    assert!(code == 0 && said.contains("cleaning up"), "{said}");
    Ok(())
}

#[test]
fn what_is_missing_or_busy_is_named_with_the_remedy() -> Result<()> {
    let cli = Cli::new()?;
    let output = cli.command(UP)?.env("PATH", "/nowhere").output()?;
    let said = String::from_utf8(output.stderr)?;
    assert!(!output.status.success() && said.contains("apt-get install redis-server"), "{said}");

    let running = Playground::start(redis_only())?;
    let taken: SocketAddr = running.instances()[0].server.addr();
    let (said, code) = cli.run(&format!("up --proxies 0 --detach --base-port {}", taken.port() - 21))?;
    let holder = format!("{taken} by pid {}", running.instances()[0].server.pid());
    assert!(code == 1 && said.contains(&holder) && said.contains("--base-port"), "{said}");
    Ok(())
}

#[test]
fn a_damaged_state_is_refused_and_foreign_files_stay() -> Result<()> {
    let cli = Cli::new()?;
    let mine = cli.dir.path().join("mine.txt");
    fs::write(&mine, "precious")?;
    fs::write(cli.dir.path().join("run.json"), "{")?;
    for words in [UP, "down", "status"] {
        let (said, code) = cli.run(words)?;
        assert!(code == 1 && said.contains("is damaged"), "{words}: {said}");
    }
    fs::remove_file(cli.dir.path().join("run.json"))?;
    assert_eq!((cli.run(UP)?.1, cli.run("down")?.1), (0, 0));
    assert_eq!(fs::read_to_string(mine)?, "precious");
    Ok(())
}

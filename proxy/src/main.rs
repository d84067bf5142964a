//! `twemslot-proxy`: reads its arguments and becomes a master or, started by one, a worker.

use anyhow::Context;
use clap::Parser;
use proxy::config::{self, Config, Overrides};
use proxy::log;
use proxy::master::{self, Options};
use proxy::os::{self, Side};
use proxy::worker;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::channel;

/// Gives freed pages back to the system, unlike the default after large values.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// One address for many Redis groups.
///
/// Signals: HUP reads the configuration again; TERM and INT finish what is in flight and stop, a second one or QUIT
/// stops at once; USR1 opens the log anew; USR2 lets a new binary take over; TTIN and TTOU say more or less in the log.
#[derive(Debug, Parser)]
#[command(name = "twemslot-proxy", version)]
struct Args {
    /// The configuration.
    #[arg(short, long, value_name = "FILE", default_value = "conf/proxy.yml")]
    config: PathBuf,
    /// Say what is wrong with the configuration, and exit: 0 if nothing is.
    #[arg(short = 't', long)]
    check_config: bool,
    /// Go into the background, whatever the configuration says.
    #[arg(short, long, conflicts_with = "foreground")]
    daemon: bool,
    /// Stay in the foreground, whatever the configuration says.
    #[arg(long)]
    foreground: bool,
    /// One process and one worker, for profilers.
    #[arg(long, conflicts_with = "daemon")]
    single_process: bool,
    /// Where clients connect; may be given several times. Wins over `listen`.
    #[arg(long, value_name = "ADDR")]
    listen: Vec<String>,
    /// Wins over `admin`.
    #[arg(long, value_name = "IP:PORT")]
    admin: Option<String>,
    /// Wins over `workers`.
    #[arg(long, value_name = "auto|N")]
    workers: Option<String>,
    /// Wins over `topology_file`.
    #[arg(long, value_name = "FILE")]
    topology: Option<String>,
    /// With `--check-config`: whether this binary takes over from a master of such a testament, and what it needs bound.
    #[arg(long, hide = true, requires = "check_config")]
    check_testament: Option<u32>,
    /// Says that this process is a worker, and by which descriptor it hears its master.
    #[arg(long, hide = true)]
    worker_fd: Option<RawFd>,
    /// Says that this image follows another in the same process.
    #[arg(long, hide = true)]
    inherit_fd: Option<RawFd>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match args.worker_fd {
        Some(number) => be_worker(number),
        None => be_master(args),
    };
    match done {
        Ok(code) => code,
        Err(e) => {
            // A daemon's standard error leads nowhere.
            match tracing::dispatcher::has_been_set() {
                true => tracing::error!(error = format!("{e:#}"), "failed"),
                false => say(&format!("twemslot-proxy: {e:#}\n"), &mut std::io::stderr()),
            }
            ExitCode::FAILURE
        }
    }
}

fn be_worker(control: RawFd) -> anyhow::Result<ExitCode> {
    worker::run(os::inherited(control).context("the master's socket")?)?;
    Ok(ExitCode::SUCCESS)
}

/// A closed standard stream is no reason to end.
fn say(text: &str, to: &mut dyn Write) {
    _ = to.write_all(text.as_bytes());
}

fn be_master(args: Args) -> anyhow::Result<ExitCode> {
    let overrides =
        Overrides { listen: args.listen, admin: args.admin, workers: args.workers, topology_file: args.topology };
    let name = args.config.display();
    let config = match config::load(&args.config, &overrides) {
        Ok(config) => config,
        Err(faults) => {
            faults.iter().for_each(|fault| say(&format!("{name}: {fault}\n"), &mut std::io::stderr()));
            return Ok(ExitCode::FAILURE);
        }
    };
    if args.check_config {
        if let Some(version) = args.check_testament {
            say(&format!("{}\n", master::claim(version, &config)?), &mut std::io::stdout());
        }
        say(&format!("{name}: ok\n"), &mut std::io::stdout());
        return Ok(ExitCode::SUCCESS);
    }
    let background = (config.daemon || args.daemon) && !args.foreground && !args.single_process;
    let tell_ready = match background && args.inherit_fd.is_none() {
        true => match os::detach()? {
            Side::Caller(pipe) => return wait_until_ready(pipe).map(|()| ExitCode::SUCCESS),
            Side::Daemon(pipe) => Some(pipe),
        },
        false => None,
    };
    let options = Options {
        config_path: std::path::absolute(&args.config)?,
        overrides,
        worker_thread: None,
        tell_ready,
        inherited: args.inherit_fd,
    };
    // Who takes over has workers that serve: it must not end for want of a file.
    let log = match log::start(&config.log) {
        Err(e) if options.inherited.is_some() => {
            say(&format!("{name}: {e}; the log goes to standard error\n"), &mut std::io::stderr());
            log::start(&log::LogSettings { file: None, ..config.log.clone() })?
        }
        log => log?,
    };
    if background && config.log.file.is_none() {
        tracing::warn!("in the background without log.file: nothing will be logged from now on");
    }
    let run = if args.single_process { run_as_threads } else { master::run };
    run(options, config, log).map(|()| ExitCode::SUCCESS)
}

/// Ends when the daemon serves, or when it has said why it does not.
fn wait_until_ready(pipe: OwnedFd) -> anyhow::Result<()> {
    let mut word = [0];
    let got = File::from(pipe).read(&mut word)?;
    anyhow::ensure!(got == 1, "the proxy did not start");
    Ok(())
}

/// The worker on the main thread, where profilers look; the master on another.
fn run_as_threads(mut options: Options, config: Config, log: log::Log) -> anyhow::Result<()> {
    let (starter, starts) = channel::<OwnedFd>();
    options.worker_thread = Some(starter);
    let master = std::thread::Builder::new().name("master".into()).spawn(move || master::run(options, config, log))?;
    for control in starts {
        if let Err(e) = worker::run(control) {
            tracing::error!(error = format!("{e:#}"), "the worker failed");
        }
    }
    master.join().map_err(|_| anyhow::anyhow!("the master panicked"))?
}

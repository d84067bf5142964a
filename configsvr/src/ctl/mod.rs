//! The command line's verbs for a control plane: one for each route of the API, and `doctor`. Results go to standard
//! output, plans and questions to standard error. Ends with 0: done, or all is well; 1: refused, or something is wrong.
#![allow(clippy::print_stdout, reason = "a command line prints")]

mod users;
mod nouns;
mod rebalance;
mod migrations;
mod plans;
mod failovers;
mod status;
mod traffic;
mod plain;
mod records;
mod doctor;
mod settings;
mod push;
mod change;
mod ranges;
mod show;
mod client;
mod https;
mod codis;
mod fault;

pub use change::Terms;
pub use client::Reach;
pub use fault::Fault;

use clap::{Args, Subcommand};
use client::Client;
use fault::Result;
use std::path::PathBuf;
use std::process::ExitCode;

/// The heading of these options in the help of each verb, below the verb's own.
pub const REACH: &str = "Which control plane, and how";

/// Where the API is, and how to speak.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// The API of any configsvr; more than one with commas between. Otherwise: the playground's in the state directory.
    #[arg(long, visible_alias = "endpoint", global = true, help_heading = REACH, value_name = "URL[,URL]", env = "TWEMSLOT_API")]
    pub api: Option<String>,
    /// A file with the token in it. Otherwise: TWEMSLOT_TOKEN.
    #[arg(long, global = true, help_heading = REACH, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// For https: a PEM file of who signed the API's certificate.
    #[arg(long, global = true, help_heading = REACH, value_name = "FILE", env = "TWEMSLOT_CA")]
    pub ca: Option<PathBuf>,
    /// For https, where the API asks for one: our certificate.
    #[arg(long, global = true, help_heading = REACH, value_name = "FILE", env = "TWEMSLOT_CERT")]
    pub cert: Option<PathBuf>,
    /// The key of `--cert`.
    #[arg(long, global = true, help_heading = REACH, value_name = "FILE", env = "TWEMSLOT_KEY")]
    pub key: Option<PathBuf>,
    /// A pushgateway: how migrations went that were waited for is told there.
    #[arg(long, global = true, help_heading = REACH, value_name = "URL", env = "TWEMSLOT_PUSHGATEWAY")]
    pub pushgateway: Option<String>,
    /// Answer in JSON.
    #[arg(long, global = true, help_heading = REACH)]
    pub json: bool,
}

/// What can be asked of a control plane.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// The whole cluster on one screen. Ends with 1 when something is wrong.
    Status,
    /// Begin a cluster, or show it.
    #[command(subcommand)]
    Cluster(nouns::ClusterVerb),
    /// A primary, its replicas, and the slots they own.
    #[command(subcommand)]
    Groups(nouns::GroupsVerb),
    /// The replicas of a group.
    #[command(subcommand)]
    Instances(nouns::InstancesVerb),
    /// Who owns which part of the keys.
    #[command(subcommand)]
    Slots(nouns::SlotsVerb),
    /// The proxies that clients connect to.
    #[command(subcommand)]
    Proxies(nouns::ProxiesVerb),
    /// The configsvrs themselves.
    #[command(subcommand)]
    Members(nouns::MembersVerb),
    /// What holds for the whole cluster.
    #[command(subcommand)]
    Settings(nouns::SettingsVerb),
    /// Whom clients of all proxies may be, and what each may do.
    #[command(subcommand)]
    Users(users::UsersVerb),
    /// Slots that change hands with their keys, while clients write.
    #[command(subcommand)]
    Migrations(migrations::MigrationsVerb),
    /// Each group owns its part of the slots, or of what they cost: the plan, and with a yes the migrations that lead there.
    Rebalance(rebalance::Rebalance),
    /// What happened to primaries, and why.
    #[command(subcommand)]
    Failovers(failovers::FailoversVerb),
    /// Another primary for a group, without loss.
    Switchover(failovers::Replace),
    /// Take a group's primary for dead, now.
    Failover(failovers::Replace),
    /// What failover is to know of groups and instances: maintenance, patience, preferences.
    #[command(subcommand)]
    Guard(failovers::GuardVerb),
    /// Whether anything is done by itself.
    #[command(subcommand)]
    Automation(failovers::AutomationVerb),
    /// The keys asked for most in the last minute, as a sample of the requests tells.
    Hotkeys(traffic::Top),
    /// Keys whose value came or went in one large piece in the last hour.
    Bigkeys(traffic::Top),
    /// The topology in force as JSON: as proxies get it, and as `import` takes it.
    Topology,
    /// Whether each configsvr that was named is alive and ready. Ends with 1 where one is not.
    Health,
    /// The metrics of one configsvr, as Prometheus reads them.
    Metrics,
    /// Who changed what, the latest first.
    Audit(records::Audit),
    /// The news as they happen, until Ctrl-C. Listens again when a member goes away.
    Events,
    /// Take in a whole topology: a topology file, or a Codis 3.x config dump.
    Import(records::Import),
    /// All keys of the store: save, load, compare.
    #[command(subcommand)]
    Store(records::StoreVerb),
    /// Look at versions, clocks, ports and settings of all there is, and say what to do. Ends with 1 if something is bad.
    Doctor(doctor::Doctor),
}

/// Does it. Errors are said.
pub fn run(options: Options, state_dir: PathBuf, verb: Verb) -> ExitCode {
    let Options { api, token_file, ca, cert, key, pushgateway, json } = options;
    let done = act(&Reach { api, state_dir, token_file, ca, cert, key, pushgateway }, json, verb);
    done.unwrap_or_else(|fault| {
        eprintln!("{fault}");
        ExitCode::FAILURE
    })
}

fn act(reach: &Reach, json: bool, verb: Verb) -> Result<ExitCode> {
    if let Verb::Store(records::StoreVerb::Diff { a, b: Some(b) }) = &verb {
        return records::diff_files(a, b, json); // needs no control plane
    }
    let client = &mut Client::find(reach)?;
    match verb {
        Verb::Status => status::show(client, json),
        Verb::Cluster(verb) => nouns::cluster(client, json, verb),
        Verb::Groups(verb) => nouns::groups(client, json, verb),
        Verb::Instances(verb) => nouns::instances(client, json, verb),
        Verb::Slots(verb) => nouns::slots(client, json, verb),
        Verb::Proxies(verb) => nouns::proxies(client, json, verb),
        Verb::Members(verb) => nouns::members(client, json, verb),
        Verb::Settings(verb) => nouns::settings(client, json, verb),
        Verb::Users(verb) => users::users(client, json, verb),
        Verb::Migrations(verb) => migrations::migrations(client, json, verb),
        Verb::Rebalance(what) => rebalance::rebalance(client, json, &what),
        Verb::Failovers(verb) => failovers::failovers(client, json, verb),
        Verb::Switchover(what) => failovers::switchover(client, json, &what),
        Verb::Failover(what) => failovers::failover(client, json, &what),
        Verb::Guard(verb) => failovers::guard(client, json, verb),
        Verb::Automation(verb) => failovers::automation(client, json, verb),
        Verb::Hotkeys(top) => traffic::hot(client, json, &top),
        Verb::Bigkeys(top) => traffic::big(client, json, &top),
        Verb::Topology => plain::topology(client),
        Verb::Health => plain::health(client, json),
        Verb::Metrics => plain::metrics(client),
        Verb::Audit(audit) => records::audit(client, json, &audit),
        Verb::Events => records::events(client, json),
        Verb::Import(import) => records::import(client, json, import),
        Verb::Store(verb) => records::store(client, json, verb),
        Verb::Doctor(doctor) => doctor::run(client, json, &doctor),
    }
}

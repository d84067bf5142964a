//! Where the log goes: lines on standard error, for people or for machines.

use serde::Deserialize;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// What the configuration says of the log.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSettings {
    pub level: Level,
    pub format: Format,
}

/// How much is said.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

/// How a line looks.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    #[default]
    Text,
    Json,
}

/// Starts the log of this process; to be called once.
pub fn start(settings: LogSettings) -> anyhow::Result<()> {
    let ours = match settings.level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    };
    // The libraries' lines are about their inside: errors alone, unless somebody wants everything. openraft has some for
    // each heartbeat that a dead member misses; the members' table says it once.
    let (others, raft) = match settings.level {
        Level::Trace => (ours, ours),
        _ => (ours.min(LevelFilter::ERROR), LevelFilter::OFF),
    };
    let filter = Targets::new().with_default(others).with_target("configsvr", ours).with_target("openraft", raft);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false).with_ansi(false);
    let lines: Box<dyn Layer<_> + Send + Sync> = match settings.format {
        Format::Text => lines.boxed(),
        Format::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).try_init()?;
    Ok(())
}

//! Where the log goes, the same for master and workers: lines on standard error or appended to one file. Each line is
//! one write, so the processes share the file. The level may change, and the file be opened anew, while we run.
#![expect(clippy::disallowed_types, reason = "threads of one process write to one file, line by line")]
#![expect(clippy::disallowed_methods, reason = "a shell: opens the log's file")]

use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

/// How much is said. `quieter` and `louder` are what the signals TTOU and TTIN do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

const LEVELS: [(Level, &str, LevelFilter); 5] = [
    (Level::Error, "error", LevelFilter::ERROR),
    (Level::Warn, "warn", LevelFilter::WARN),
    (Level::Info, "info", LevelFilter::INFO),
    (Level::Debug, "debug", LevelFilter::DEBUG),
    (Level::Trace, "trace", LevelFilter::TRACE),
];

impl Level {
    /// The level of this name.
    pub fn of(name: &str) -> Option<Self> {
        LEVELS.iter().find(|l| l.1 == name).map(|l| l.0)
    }

    pub fn name(self) -> &'static str {
        LEVELS[self as usize].1
    }

    pub fn louder(self) -> Self {
        LEVELS[(self as usize + 1).min(LEVELS.len() - 1)].0
    }

    pub fn quieter(self) -> Self {
        LEVELS[(self as usize).saturating_sub(1)].0
    }

    /// Our own lines at this level; the libraries' only from warnings up, since theirs are about their inside.
    fn filter(self) -> Targets {
        let ours = LEVELS[self as usize].2;
        let others = ours.min(LevelFilter::WARN);
        Targets::new().with_default(others).with_target("proxy", ours).with_target("twemslot_proxy", ours)
    }
}

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    #[default]
    Text,
    Json,
}

/// What the configuration says of the log; also the text of `ToWorker::Hello`, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LogSettings {
    pub level: Level,
    pub format: Format,
    /// None: standard error.
    pub file: Option<PathBuf>,
}

/// The means to change the log of this process.
#[derive(Debug, Clone)]
pub struct Log {
    filter: reload::Handle<Targets, Registry>,
    sink: Arc<Sink>,
}

impl Log {
    pub fn set_level(&self, level: Level) {
        if let Err(e) = self.filter.reload(level.filter()) {
            tracing::error!(error = %e, "the log level stays");
        }
    }

    /// Opens the file anew, after somebody has moved it away. On an error the old file stays in use.
    pub fn reopen(&self) -> io::Result<()> {
        let Some(path) = &self.sink.path else { return Ok(()) };
        let file = open(path)?;
        *self.sink.out.lock().unwrap_or_else(PoisonError::into_inner) = Out::File(file);
        Ok(())
    }
}

/// Starts the log of this process; to be called once.
pub fn start(settings: &LogSettings) -> io::Result<Log> {
    let out = settings.file.as_deref().map_or(Ok(Out::StandardError), |path| open(path).map(Out::File))?;
    let sink = Arc::new(Sink { path: settings.file.clone(), out: Mutex::new(out) });
    let (filter, handle) = reload::Layer::new(settings.level.filter());
    let lines = tracing_subscriber::fmt::layer().with_writer(Writer(Arc::clone(&sink))).with_target(false);
    let lines: Box<dyn Layer<_> + Send + Sync> = match settings.format {
        Format::Text => lines.with_ansi(settings.file.is_none() && io::stderr().is_terminal()).boxed(),
        Format::Json => lines.json().flatten_event(true).boxed(),
    };
    let started = tracing_subscriber::registry().with(filter).with(lines).try_init();
    started.map_err(io::Error::other)?;
    Ok(Log { filter: handle, sink })
}

fn open(path: &Path) -> io::Result<File> {
    let opened = OpenOptions::new().create(true).append(true).open(path);
    opened.map_err(|e| io::Error::new(e.kind(), format!("log file {}: {e}", path.display())))
}

#[derive(Debug)]
struct Sink {
    path: Option<PathBuf>,
    out: Mutex<Out>,
}

#[derive(Debug)]
enum Out {
    StandardError,
    File(File),
}

/// A line's way into the sink.
#[derive(Debug, Clone)]
struct Writer(Arc<Sink>);

impl<'a> MakeWriter<'a> for Writer {
    type Writer = Self;
    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for Writer {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match &mut *self.0.out.lock().unwrap_or_else(PoisonError::into_inner) {
            Out::StandardError => io::stderr().write(line),
            Out::File(file) => file.write(line),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_have_ends() {
        assert_eq!(Level::of("warn").map(Level::louder), Some(Level::Info));
        assert_eq!((Level::Trace.louder(), Level::Error.quieter()), (Level::Trace, Level::Error));
        assert_eq!(Level::of("loud"), None);
    }

    #[test]
    fn a_moved_file_is_left_alone_after_reopen() {
        let dir = tempfile::tempdir().expect("dir");
        let (path, moved) = (dir.path().join("log"), dir.path().join("log.1"));
        let log = start(&LogSettings { file: Some(path.clone()), ..LogSettings::default() }).expect("start");
        tracing::info!("one");
        std::fs::rename(&path, &moved).expect("rename");
        tracing::debug!("too quiet");
        tracing::info!("two");
        log.reopen().expect("reopen");
        log.set_level(Level::Debug);
        tracing::debug!("three");
        let (old, new) = (std::fs::read_to_string(moved).expect("old"), std::fs::read_to_string(path).expect("new"));
        assert!(old.contains("one") && old.contains("two") && !old.contains("quiet"), "{old}");
        assert!(new.contains("three") && !new.contains("one"), "{new}");
    }
}

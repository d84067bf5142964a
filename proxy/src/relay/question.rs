//! The words of a question that one worker asks the others of the proxy.

use serde::{Deserialize, Serialize};

/// Asked of every other worker by way of the master. Answers are texts; those of all workers, one behind the other, are
/// the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// A line for each client.
    Clients(Box<Filter>),
    /// Close them; a line with their number.
    Kill(Box<Filter>),
    /// Ends the wait of the client of this id, as if its time were over, or with an error; a line with 1 or 0.
    Unblock {
        id: u64,
        error: bool,
    },
    /// The newest entries of the slow log, one a line as JSON.
    Slowlog {
        count: usize,
    },
    /// A line with their number.
    SlowlogLen,
    SlowlogReset,
    /// Somebody wants to see requests: see `monitor`.
    Watch,
    /// Hot and big keys, as JSON: see `Sampled`.
    Keys,
    /// None: remember this script, which another worker's client has sent.
    Script {
        body: String,
    },
    /// The scripts that this worker knows, one a line as JSON. Of one worker, the oldest.
    Scripts,
    /// None: a client has said SCRIPT FLUSH.
    ForgetScripts,
    /// The statistics of the other workers as JSON; the master knows.
    Totals,
}

/// Which clients are meant: those that pass every test.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Filter {
    /// Not this one.
    pub skip: Option<u64>,
    pub tests: Vec<Test>,
}

/// A word of CLIENT LIST or CLIENT KILL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Test {
    /// In lower case, as `lib-name`.
    pub what: String,
    /// Those are meant of whom none of the values is true.
    #[serde(default)]
    pub not: bool,
    pub any_of: Vec<String>,
}

impl Filter {
    /// The ids, if it names clients by their ids.
    pub(super) fn ids(&self) -> Option<&[String]> {
        self.tests.iter().find(|test| test.what == "id" && !test.not).map(|test| &test.any_of[..])
    }
}

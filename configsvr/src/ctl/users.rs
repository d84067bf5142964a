//! `users`: whom clients of all proxies may be.

use super::change::{Change, Terms, change};
use super::client::{Client, part};
use super::fault::{Fault, Result};
use super::nouns::{ask, list, plain};
use super::show::table;
use clap::Subcommand;
use cluster::user::{DEFAULT, User};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What the first user does to everybody else.
const NAMELESS: &str = "Once there are users, a client that has not said who it is may do nothing, unless there is a user \
    `default` or its proxy has a client_password. Clients that are connected, too.";

#[derive(Debug, Subcommand)]
pub enum UsersVerb {
    /// A line for each: its passwords, and what it may do.
    List,
    /// Add a user, or say anew what it may do; every proxy serves it at once.
    Set {
        /// Its name, as in AUTH; `default`: whoever names no user.
        name: String,
        /// A file whose first line is the password; - for standard input. Only its hash leaves this machine.
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
        /// What `printf %s PASSWORD | sha256sum` prints; may be given more than once.
        #[arg(long, value_name = "HEX")]
        password_sha256: Vec<String>,
        /// Of commands, as ACL CAT names them: all,-dangerous. The last word on a command counts.
        #[arg(long, value_name = "WORDS", value_delimiter = ',', allow_hyphen_values = true, required = true)]
        categories: Vec<String>,
        /// A pattern of the keys it may use; may be given more than once. None: no key.
        #[arg(long, value_name = "PATTERN")]
        keys: Vec<String>,
        /// A pattern of channels; may be given more than once. None: no channel.
        #[arg(long, value_name = "PATTERN")]
        channels: Vec<String>,
        /// Commands that write are refused.
        #[arg(long)]
        read_only: bool,
        /// May use MONITOR and TWEMSLOT ON.
        #[arg(long)]
        admin: bool,
        #[command(flatten)]
        terms: Terms,
    },
    /// Remove a user. Its clients are closed.
    Remove {
        /// As `users list` names it.
        name: String,
        #[command(flatten)]
        terms: Terms,
    },
}

pub(super) fn users(client: &mut Client, as_json: bool, verb: UsersVerb) -> Result<ExitCode> {
    match verb {
        UsersVerb::List => {
            let all: Vec<User> = client.get("/api/v1/users")?;
            list(as_json, &all, |all| shown(all))
        }
        UsersVerb::Set {
            name,
            password_file,
            mut password_sha256,
            categories,
            keys,
            channels,
            read_only,
            admin,
            terms,
        } => {
            if let Some(file) = password_file {
                password_sha256.push(hash_of(&file)?);
            }
            let body = json!({ "password_sha256": password_sha256, "categories": categories, "keys": keys,
                "channels": channels, "read_only": read_only, "admin": admin });
            let known: Vec<User> = client.get("/api/v1/users")?;
            let first = known.is_empty() && name != DEFAULT;
            let ask = ask("PUT", format!("/api/v1/users/{}", part(&name)), Some(body));
            change(client, as_json, Change { ask, danger: first.then(|| NAMELESS.to_owned()), terms })
        }
        UsersVerb::Remove { name, terms } => {
            change(client, as_json, plain(ask("DELETE", format!("/api/v1/users/{}", part(&name)), None), terms))
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a shell: reads a file")]
fn hash_of(file: &Path) -> Result<String> {
    let read =
        if file == Path::new("-") { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(file) };
    let text =
        read.map_err(|e| Fault::new(format!("{}: {e}", file.display()), "its first line is to be the password"))?;
    let password = text.lines().next().unwrap_or_default();
    if password.is_empty() {
        return Err(Fault::new(
            format!("{}: no password in it", file.display()),
            "its first line is to be the password",
        ));
    }
    Ok(Sha256::digest(password.as_bytes()).iter().fold(String::new(), |mut hex, byte| {
        _ = write!(hex, "{byte:02x}");
        hex
    }))
}

fn shown(users: &[User]) -> String {
    let row = |u: &User| {
        let passwords =
            if u.password_sha256.is_empty() { "any".to_owned() } else { u.password_sha256.len().to_string() };
        let may = match (u.read_only, u.admin) {
            (true, true) => "read, admin",
            (true, false) => "read",
            (false, true) => "all, admin",
            (false, false) => "all",
        };
        let words = [&u.categories, &u.keys, &u.channels].map(|words| words.join(" "));
        let [categories, keys, channels] = words;
        vec![u.name.clone(), passwords, categories, keys, channels, may.to_owned()]
    };
    table(&["USER", "PASSWORDS", "CATEGORIES", "KEYS", "CHANNELS", "MAY"], users.iter().map(row))
}

//! Users: whom clients of a proxy may be, and what each may do. A proxy has them from its configuration and from its topology.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Each is looked at by AUTH, and held by every worker.
pub const USERS_MAX: usize = 1000;
/// The user of clients that have said nothing.
pub const DEFAULT: &str = "default";
/// What stands for a hash where users are shown. It is none, so what was shown cannot be taken for users.
pub const COVERED: &str = "(hidden)";
/// As many patterns, hashes or categories as one user may have, and how long each may be, in bytes.
const WORDS_MAX: usize = 256;
const WORD_BYTES_MAX: usize = 512;

/// The categories of commands, as ACL CAT of Redis and Valkey names them.
pub const CATEGORIES: [&str; 21] = [
    "admin",
    "bitmap",
    "blocking",
    "connection",
    "dangerous",
    "fast",
    "geo",
    "hash",
    "hyperloglog",
    "keyspace",
    "list",
    "pubsub",
    "read",
    "scripting",
    "set",
    "slow",
    "sortedset",
    "stream",
    "string",
    "transaction",
    "write",
];

/// Somebody whom clients may be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    pub name: String,
    /// SHA-256 of each password that will do, as 64 hex digits; none: any password will.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub password_sha256: Vec<String>,
    /// Of commands, as ACL CAT names them: `all`, `read`, `-dangerous`. The last word on a command counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub categories: Vec<String>,
    /// Patterns of the keys that may be used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
    /// Patterns of the channels that may be used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<String>,
    /// Commands that write are refused.
    #[serde(default, skip_serializing_if = "is_false")]
    pub read_only: bool,
    /// May use MONITOR and TWEMSLOT ON.
    #[serde(default, skip_serializing_if = "is_false")]
    pub admin: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

impl User {
    /// What is wrong with it, in one line.
    pub fn check(&self) -> Result<(), String> {
        let name = &self.name;
        if name.is_empty() || name.len() > 128 || !name.bytes().all(|b| (b'!'..=b'~').contains(&b)) {
            return Err("a user needs a `name` of at most 128 letters, without spaces".to_owned());
        }
        if self.password_sha256.is_empty() && name != DEFAULT {
            return Err(format!("{name}: without `password_sha256` everybody could be this user"));
        }
        if self.categories.is_empty() {
            return Err(format!(
                "{name}: no `categories`: it could not ask anything; name `all`, or read, write, connection ..."
            ));
        }
        self.password_sha256.iter().try_for_each(|hash| check_hash(hash)).map_err(|why| format!("{name}: {why}"))?;
        self.categories.iter().try_for_each(|word| check_category(word)).map_err(|why| format!("{name}: {why}"))?;
        for (what, words) in [("passwords", &self.password_sha256), ("keys", &self.keys), ("channels", &self.channels)]
        {
            if words.len() > WORDS_MAX || words.iter().any(|word| word.len() > WORD_BYTES_MAX) {
                return Err(format!("{name}: {what}: at most {WORDS_MAX}, of {WORD_BYTES_MAX} bytes each"));
            }
        }
        Ok(())
    }

    /// For people: hashes are covered.
    #[must_use]
    pub fn shown(&self) -> Self {
        Self { password_sha256: vec![COVERED.to_owned(); self.password_sha256.len()], ..self.clone() }
    }
}

/// Whether this is what `sha256sum` prints.
pub fn check_hash(word: &str) -> Result<(), String> {
    match word.len() == 64 && word.bytes().all(|b| b.is_ascii_hexdigit()) {
        true => Ok(()),
        false => Err("not a SHA-256: 64 hex digits, as `printf %s PASSWORD | sha256sum` prints them".to_owned()),
    }
}

/// Whether this is `all` or a category, perhaps with a `-`.
pub fn check_category(word: &str) -> Result<(), String> {
    let name = word.trim_start_matches('-').to_ascii_lowercase();
    match name == "all" || CATEGORIES.contains(&name.as_str()) {
        true => Ok(()),
        false => Err(format!("{word:?}: expected all, or one of {}", CATEGORIES.join(", "))),
    }
}

/// What is wrong with users that are to be there together; empty: nothing.
pub fn faults(users: &[User]) -> Vec<String> {
    let mut faults: Vec<String> = users.iter().filter_map(|user| user.check().err()).collect();
    let mut names = BTreeSet::new();
    faults.extend(
        users.iter().filter(|user| !names.insert(&user.name)).map(|user| format!("{:?} is named twice", user.name)),
    );
    if users.len() > USERS_MAX {
        faults.push(format!("{} users: at most {USERS_MAX}", users.len()));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(json: &str) -> User {
        serde_json::from_str(json).expect("a user")
    }

    #[test]
    fn what_is_wrong_is_said() {
        let hash = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
        let good = user(&format!(r#"{{"name":"app","password_sha256":["{hash}"],"categories":["all","-dangerous"]}}"#));
        assert_eq!(good.check(), Ok(()));
        assert_eq!(faults(&[good.clone(), good.clone()]), ["\"app\" is named twice"]);
        let shown = good.shown();
        assert!(shown.password_sha256 == [COVERED] && shown.check().is_err_and(|why| why.contains("not a SHA-256")));
        for (bad, why) in [
            (r#"{"name":"a b"}"#, "a user needs a `name`"),
            (r#"{"name":"app","categories":["all"]}"#, "without `password_sha256`"),
            (r#"{"name":"default"}"#, "no `categories`"),
            (r#"{"name":"default","categories":["reed"]}"#, "\"reed\": expected all"),
        ] {
            let said = user(bad).check().expect_err(bad);
            assert!(said.contains(why), "{said}");
        }
    }
}

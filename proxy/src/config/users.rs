//! The `users:` section: whom clients may be, and what each may do.

use super::yaml::{Entry, Node, Place, Reader, one_or_many, text};
use cluster::user::{self, DEFAULT, USERS_MAX, User};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Reads the users. `has_password`: `client_password` is given, which makes a `default` user already.
pub(super) fn read(file: &mut Reader<'_>, has_password: bool) -> Vec<User> {
    let found = file.get_placed("users", |node| {
        let Node::List(items) = node else { return Err("expected a list: `- name: app`".into()) };
        match items.len() {
            n if n > USERS_MAX => Err(format!("{n} users: at most {USERS_MAX}")),
            _ => items.iter().map(|(_, item)| one_user(item)).collect::<Result<Vec<_>, _>>(),
        }
    });
    let (users, place) = found.unwrap_or_default();
    check(file, place, &users, has_password);
    file.show("users", users.iter().map(shown).collect::<Vec<_>>());
    users
}

fn check(file: &mut Reader<'_>, place: Place, users: &[User], has_password: bool) {
    let mut names = BTreeSet::new();
    for user in users {
        if !names.insert(user.name.as_str()) {
            file.fault(place, format!("users: {:?} is named twice", user.name));
        }
    }
    if has_password && names.contains(DEFAULT) {
        file.fault(place, "users: `client_password` makes a user `default` that may do everything: keep one of them");
    }
}

fn one_user(node: &Node) -> Result<User, String> {
    let Node::Map(entries) = node else { return Err("expected `name:` and what the user may do".into()) };
    let mut one = User {
        name: String::new(),
        password_sha256: Vec::new(),
        categories: Vec::new(),
        keys: Vec::new(),
        channels: Vec::new(),
        read_only: false,
        admin: false,
    };
    for entry in entries {
        take(&mut one, entry).map_err(|why| format!("{}: {why}", entry.key))?;
    }
    one.check().map(|()| one)
}

fn take(user: &mut User, entry: &Entry) -> Result<(), String> {
    let words = |read: fn(&str) -> Result<String, String>| one_or_many(&entry.node, read);
    let any = |word: &str| Ok(word.to_owned());
    match entry.key.as_str() {
        "name" => user.name = text(&entry.node)?,
        "password_sha256" => user.password_sha256 = words(hash)?,
        "categories" => user.categories = words(category)?,
        "keys" => user.keys = words(any)?,
        "channels" => user.channels = words(any)?,
        "read_only" => user.read_only = flag(&entry.node)?,
        "admin" => user.admin = flag(&entry.node)?,
        _ => {
            return Err(
                "unknown; known are name, password_sha256, categories, keys, channels, read_only and admin".into()
            );
        }
    }
    Ok(())
}

fn flag(node: &Node) -> Result<bool, String> {
    match node {
        Node::Scalar(Value::Bool(value)) => Ok(*value),
        _ => Err("expected true or false".into()),
    }
}

fn hash(word: &str) -> Result<String, String> {
    user::check_hash(word).map(|()| word.to_ascii_lowercase())
}

fn category(word: &str) -> Result<String, String> {
    user::check_category(word).map(|()| word.to_ascii_lowercase())
}

/// For people: hashes are covered.
fn shown(user: &User) -> Value {
    json!({
        "name": user.name,
        "password_sha256": vec![super::COVERED; user.password_sha256.len()],
        "categories": user.categories,
        "keys": user.keys,
        "channels": user.channels,
        "read_only": user.read_only,
        "admin": user.admin,
    })
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, Fault, Overrides, parse};

    /// Of "secret".
    const HASH: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

    fn of(text: &str) -> Result<Config, Vec<Fault>> {
        parse(text, &Overrides::default())
    }

    #[test]
    fn users_are_read_and_their_hashes_never_shown() {
        let text = format!(
            "users:\n- name: app\n  password_sha256: {HASH}\n  categories: [all, -dangerous]\n  keys: 'app:*'\n\
             - name: default\n  categories: read\n  keys: ['*']\n  read_only: true\n"
        );
        let config = of(&text).expect("good");
        let users = &config.relay.users;
        assert_eq!((users[0].name.as_str(), users[0].keys[0].as_str()), ("app", "app:*"));
        assert_eq!((users[0].password_sha256[0].as_str(), users[1].read_only), (HASH, true));
        let shown = serde_json::Value::Object(config.shown).to_string();
        assert!(shown.contains("app:*") && !shown.contains(HASH), "{shown}");
    }

    #[test]
    fn faults_are_named() {
        for (text, fault) in [
            ("users: app", "expected a list"),
            ("users:\n- name: a\n  categories: all", "without `password_sha256` everybody"),
            ("users:\n- name: a\n  password_sha256: abc", "not a SHA-256"),
            ("users:\n- name: default\n  categories: reed", "\"reed\": expected all, or one of admin, "),
            ("users:\n- name: default", "no `categories`"),
            ("users:\n- name: default\n  categories: all\n- name: default\n  categories: all", "named twice"),
            ("client_password: x\nusers:\n- name: default\n  categories: all", "keep one of them"),
            ("users:\n- name: default\n  paswd: x", "paswd: unknown; known are name,"),
            ("cluster_nodes: a:1", "without `cluster_mode: emulate`"),
            ("cluster_mode: emulate\ncluster_nodes: [a]", "expected HOST:PORT"),
            ("cluster_mode: emulate\nlisten: 0.0.0.0:1", "say the address"),
        ] {
            let faults = of(text).expect_err(text);
            assert!(faults.iter().any(|f| f.to_string().contains(fault)), "{text}: {faults:?}");
        }
        let one = of("cluster_mode: emulate\nlisten: 127.0.0.1:7").expect("good");
        assert_eq!(one.relay.cluster_nodes, ["127.0.0.1:7"]);
    }
}

//! The `users:` section: whom clients may be, and what each may do.

use super::yaml::{Place, Reader, one_or_many};
use cluster::user::{self, DEFAULT, USERS_MAX, User};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Reads the users. `has_password`: `client_password` is given, which makes a `default` user already.
pub(super) fn read(file: &mut Reader<'_>, has_password: bool) -> Vec<User> {
    let (users, place) = file.items(("users", "users."), one_user, User::check);
    if users.len() > USERS_MAX {
        file.fault(place, format!("users: {} of them: at most {USERS_MAX}", users.len()));
    }
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

fn one_user(file: &mut Reader<'_>) -> User {
    let any = |word: &str| Ok(word.to_owned());
    User {
        name: file.text("name").map(|t| t.0).unwrap_or_default(),
        password_sha256: file.get("password_sha256", Vec::new(), |node| one_or_many(node, hash)),
        categories: file.get("categories", Vec::new(), |node| one_or_many(node, category)),
        keys: file.get("keys", Vec::new(), |node| one_or_many(node, any)),
        channels: file.get("channels", Vec::new(), |node| one_or_many(node, any)),
        read_only: file.flag("read_only", false),
        admin: file.flag("admin", false),
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
            (
                "users:\n- name: default\n  password_sha256:\n  categories: all",
                "line 3 column 3: users.password_sha256: is empty",
            ),
            ("users:\n- app", "line 2 column 3: users: expected `name: ...`"),
            (
                "users:\n- name: default\n  categories: all\n- name: b\n  paswd: x",
                "line 5 column 3: unknown key `users.paswd`; known",
            ),
            (
                "users:\n- name: default\n  category: all",
                "line 3 column 3: unknown key `users.category`: did you mean `categories`?",
            ),
            (
                "users:\n- name: default\n  categories: all\n  read_only: maybe",
                "line 4 column 3: users.read_only: expected true",
            ),
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

//! One proxy of the playground: its configuration.

use super::options::Options;
use super::state::StateDir;
use anyhow::{Result, ensure};
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// What only the playground may say: it relies on it.
const OURS: [&str; 4] = ["listen", "admin", "topology_file", "pid_file"];

/// Refuses extra configuration that would take the proxy out of the playground's hands.
pub(super) fn check_extra(extra: &str) -> Result<()> {
    let keys = keys(extra)?;
    for key in OURS {
        ensure!(!keys.contains(key), "extra proxy configuration: {key} is set by the playground (see --base-port)");
    }
    Ok(())
}

/// The configuration of proxy `name`. What `extra` says at its top level replaces ours.
pub(super) fn conf(
    dir: &StateDir,
    name: &str,
    at: (SocketAddr, SocketAddr),
    options: &Options,
    configsvrs: &[SocketAddr],
    extra: &str,
) -> Result<String> {
    let home = dir.proxy(name);
    let workers = options.workers.map_or("auto".to_owned(), |n| n.to_string());
    let mut ours = format!(
        "listen: {}\nadmin: {}\nworkers: {workers}\ntopology_file: \"{}\"\npid_file: \"{}\"\nlog:\n  file: \"{}\"\n  level: info\n",
        at.0,
        at.1,
        home.join("topology.json").display(),
        dir.pid_file(name).display(),
        dir.log(name).display(),
    );
    if !configsvrs.is_empty() {
        let addrs: Vec<String> = configsvrs.iter().map(SocketAddr::to_string).collect();
        ours += &format!("control:\n  id: {name}\n  configsvrs: [{}]\n", addrs.join(", "));
    }
    Ok(format!("# Written by twemslotctl playground.\n{}", merge(&ours, extra)?))
}

/// `base` without the top-level keys that `extra` has, then `extra`.
fn merge(base: &str, extra: &str) -> Result<String> {
    let replaced = keys(extra)?;
    let mut merged = String::new();
    let mut keep = true;
    for line in base.lines() {
        if let Some(key) = key(line) {
            keep = !replaced.contains(key);
        }
        if keep {
            merged.extend([line, "\n"]);
        }
    }
    merged.extend([extra.trim_end(), "\n"]);
    Ok(merged)
}

fn keys(yaml: &str) -> Result<BTreeSet<&str>> {
    for line in yaml.lines() {
        let plain = line.is_empty() || line.starts_with([' ', '#', '-']) || key(line).is_some();
        ensure!(plain, "extra proxy configuration: {line:?} is neither `key: value` nor indented below one");
    }
    Ok(yaml.lines().filter_map(key).collect())
}

/// The key of a line that starts one at the top level.
fn key(line: &str) -> Option<&str> {
    let (key, _) = line.split_once(':')?;
    let word = key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    (word && !key.is_empty() && !key.starts_with('-')).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extra_part_wins() {
        let base = "listen: a\nlog:\n  file: b\n  level: c\nworkers: 1\n";
        let merged = merge(base, "# mine\nlog:\n  level: debug\nnew: 1\n").expect("good");
        assert_eq!(merged, "listen: a\nworkers: 1\n# mine\nlog:\n  level: debug\nnew: 1\n");
        assert_eq!(merge(base, "").expect("good"), format!("{base}\n"));
    }

    #[test]
    fn what_the_playground_relies_on_stays() {
        assert!(check_extra("workers: 3\n").is_ok());
        assert!(check_extra("listen: 0.0.0.0:1\n").is_err());
        assert!(check_extra("{listen: 0.0.0.0:1}\n").is_err());
    }
}

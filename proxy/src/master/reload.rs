//! The configuration, read again while the proxy runs. First everything is checked and bound; only then is anything
//! changed, so that an error leaves all as it was.

use super::admin::Admin;
use super::fleet;
use super::{Birth, Master, admin_tls};
use crate::config::{self, Config};
use crate::mail::ToWorker;
use std::net::TcpListener;

/// Keys that are read at the start only.
const FIXED: [&str; 3] = ["daemon", "pid_file", "topology_file"];

impl Master {
    /// Gives the keys that changed, or every reason why nothing did.
    pub(super) fn reload(&mut self) -> Result<Vec<String>, Vec<String>> {
        let done = self.prepare().map(|(next, admin)| self.adopt(next, admin));
        match &done {
            Ok(changed) => {
                self.tally.reloads_ok += 1;
                tracing::info!(changed = changed.join(" "), "configuration reloaded");
            }
            Err(faults) => {
                self.tally.reloads_failed += 1;
                for fault in faults {
                    let file = self.options.config_path.display();
                    tracing::error!(%file, fault, "reload refused, the old settings stay");
                }
            }
        }
        done
    }

    fn prepare(&mut self) -> Result<(Config, Option<TcpListener>), Vec<String>> {
        if self.fleet.stopping() {
            return Err(vec!["the proxy is stopping".into()]);
        }
        let next = config::load(&self.options.config_path, &self.options.overrides)
            .map_err(|faults| faults.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        let admin = if next.admin == self.config.admin { None } else { Some(Admin::bind(next.admin)) };
        let admin = admin.transpose().map_err(|fault| vec![fault])?;
        let workers = if matches!(self.birth, Birth::Thread(_)) { 1 } else { next.workers.count() };
        self.listeners.ensure(&next.listen, workers)?;
        Ok((next, admin))
    }

    fn adopt(&mut self, next: Config, admin: Option<TcpListener>) -> Vec<String> {
        let changed = changed_keys(&self.config, &next);
        for key in FIXED.iter().filter(|k| changed.iter().any(|c| c == *k)) {
            tracing::warn!(key, "this needs a restart");
        }
        if (&self.config.log.file, self.config.log.format) != (&next.log.file, next.log.format) {
            tracing::warn!("log.file and log.format need a restart");
        }
        let old = std::mem::replace(&mut self.config, next);
        if let Some(Err(e)) = admin.map(|socket| self.admin.move_to(socket)) {
            tracing::error!(error = %e, "the admin port stays");
        }
        self.admin.set_tokens(self.config.admin_tokens.clone());
        if old.log.level != self.config.log.level {
            self.set_level(self.config.log.level);
        }
        if old.tls != self.config.tls {
            // Before anybody listens anew: an address may have become one of TLS.
            self.tell_all(&ToWorker::Tls(Box::new(self.worker_tls())));
            match admin_tls(&self.config.tls) {
                Ok(tls) => self.admin.set_tls(tls),
                Err(e) => tracing::error!(error = e, "the admin port keeps its old certificate"),
            }
        }
        if old.relay != self.config.relay {
            self.tell_all(&ToWorker::Settings(Box::new(self.config.relay.clone())));
        }
        self.step(fleet::Event::Layout(self.layout()));
        changed
    }
}

fn changed_keys(old: &Config, new: &Config) -> Vec<String> {
    let shown = new.shown.iter().filter(|(key, value)| old.shown.get(*key) != Some(value)).map(|(key, _)| key.clone());
    // What is shown of these never changes.
    let secrets = [
        ("admin_token", old.admin_tokens.all != new.admin_tokens.all),
        ("metrics_token", old.admin_tokens.metrics != new.admin_tokens.metrics),
        ("client_password", old.relay.client_password != new.relay.client_password),
        ("control", old.control.token != new.control.token),
        ("users", old.relay.users != new.relay.users),
        ("tls", (&old.tls.listen, old.tls.admin, &old.tls.server) != (&new.tls.listen, new.tls.admin, &new.tls.server)),
        ("instance_tls", old.tls.instances != new.tls.instances),
        ("control", old.control.tls != new.control.tls),
        ("instance_password", old.relay.instance_password != new.relay.instance_password),
    ];
    let mut changed: Vec<String> = shown.chain(secrets.iter().filter(|s| s.1).map(|s| s.0.to_owned())).collect();
    changed.sort();
    changed.dedup();
    changed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Overrides, parse};

    #[test]
    fn changed_keys_are_named_and_secrets_too() {
        let of = |text: &str| parse(text, &Overrides::default()).expect("good");
        let (old, new) = (of("client_password: a\nworkers: 1"), of("client_password: b\nworkers: 1\nproxy_name: x"));
        assert_eq!(changed_keys(&old, &new), ["client_password", "proxy_name"]);
        assert!(changed_keys(&old, &old).is_empty());
    }
}

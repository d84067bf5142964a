//! MONITOR: requests as they come, of all workers, for operators. A sample: so many a second and worker, each cut short;
//! what is left out is counted. While nobody monitors, no request is looked at: clients take the shortest way then.
//!
//! A worker whose clients monitor says so to the others every second; who has not heard it for three stops showing.

use super::super::command::{self, Flags};
use super::super::inquiry::Form;
use super::super::limits::{SHOWN_ARG_BYTES, SHOWN_ARGS};
use super::super::monitors::{BELIEVED_US, SAY_US};
use super::super::question::Question;
use super::super::request::NONE;
use super::super::state::Relay;
use super::super::{ClientId, CommandId, Deed};
use crate::stats::Counter;
use cluster::resp::request::Args;
use std::fmt::Write;

impl Relay {
    /// MONITOR.
    pub(super) fn monitor(&mut self, id: ClientId, command: CommandId) {
        let user = self.clients[id as usize].user;
        if !self.users.get(user).is_some_and(|rights| rights.operator) {
            let text = format!(
                "NOPERM User {} may not use MONITOR: it needs `admin: true` (without users: `operator_commands: true`)",
                self.users.name(user)
            );
            return self.refuse_here(id, command, Counter::ErrorsAuth, &text);
        }
        self.inquire(id, command, Question::Watch, Form::Ok, |_| String::new());
        self.monitors.say_again_us = self.now.us + SAY_US;
        self.start_monitoring(id);
    }

    pub(in super::super) fn start_monitoring(&mut self, id: ClientId) {
        if !self.monitors.here.contains(&id) {
            self.monitors.here.push(id);
        }
        self.watch_all();
    }

    /// The client is gone, or has said RESET.
    pub(in super::super) fn stop_monitoring(&mut self, id: ClientId) {
        if self.monitors.here.contains(&id) {
            self.monitors.here.retain(|&m| m != id);
            self.watch_all();
        }
    }

    /// Another worker has clients that monitor.
    pub(super) fn watch_for_others(&mut self) {
        self.monitors.elsewhere_until_us = self.now.us + BELIEVED_US;
        self.watch_all();
    }

    /// Lets all clients know whether somebody looks.
    fn watch_all(&mut self) {
        let watched = self.monitors.any(self.now.us);
        for (_, client) in &mut self.clients {
            if client.watched != watched {
                client.watched = watched;
                client.set_common();
            }
        }
    }

    pub(in super::super) fn is_watched(&self) -> bool {
        self.monitors.any(self.now.us)
    }

    /// Shows a request to those who monitor.
    #[cold]
    pub(in super::super) fn show_request(&mut self, id: ClientId, raw: &[u8]) {
        let unknown = !self.clients[id as usize].authenticated;
        if unknown || self.monitors.here.contains(&id) || is_secret(raw) {
            return;
        }
        if !self.monitors.has_room(self.now.us) {
            self.monitors.left_out += 1;
            return;
        }
        let client = &self.clients[id as usize];
        let mut line = format!("+{} [0 {}]", seconds(self.now.unix_us), client.peer);
        let mut args = Args::new(raw);
        for arg in args.by_ref().take(SHOWN_ARGS) {
            quote(arg, &mut line);
        }
        if args.next().is_some() {
            line.push_str(" ...");
        }
        line.push_str("\r\n");
        self.show_lines(&line);
        if self.monitors.elsewhere_until_us > self.now.us {
            self.monitors.lines.push_str(&line);
        }
    }

    /// Lines of this worker or of another one.
    fn show_lines(&mut self, lines: &str) {
        for at in 0..self.monitors.here.len() {
            let id = self.monitors.here[at];
            let Some(client) = self.clients.get_mut(id as usize) else { continue };
            // Not into the middle of a reply, and no more than a client takes.
            if client.head != NONE || client.out.len() > self.settings.client_output_soft {
                self.monitors.left_out += 1;
                continue;
            }
            client.out.append(&mut self.pool, lines.as_bytes());
            self.mark_client(id);
        }
    }

    /// What another worker shows.
    pub fn shown_elsewhere(&mut self, lines: &str) {
        self.show_lines(lines);
    }

    pub(in super::super) fn tick_monitors(&mut self) {
        let now = self.now.us;
        if !self.monitors.lines.is_empty() {
            let lines = std::mem::take(&mut self.monitors.lines);
            self.deeds.push_back(Deed::Show { lines });
        }
        if self.monitors.left_out > 0 && self.monitors.second != now / 1_000_000 {
            let left_out = std::mem::take(&mut self.monitors.left_out);
            let line =
                format!("+{} [0 twemslot] \"({left_out} requests are not shown)\"\r\n", seconds(self.now.unix_us));
            self.show_lines(&line);
            if self.monitors.elsewhere_until_us > now {
                self.monitors.lines.push_str(&line);
            }
        }
        if !self.monitors.here.is_empty() && self.monitors.say_again_us <= now {
            self.monitors.say_again_us = now + SAY_US;
            self.deeds.push_back(Deed::Ask { ticket: 0, question: Question::Watch });
        }
        if self.monitors.here.is_empty() && (1..=now).contains(&self.monitors.elsewhere_until_us) {
            self.monitors.elsewhere_until_us = 0;
            self.watch_all();
        }
    }
}

/// Requests that hold passwords, and those of no command.
fn is_secret(raw: &[u8]) -> bool {
    let word = |i| Args::new(raw).nth(i).unwrap_or_default();
    // What TWEMSLOT ON passes on counts as itself.
    let passed_on = word(0).eq_ignore_ascii_case(b"TWEMSLOT") && word(1).eq_ignore_ascii_case(b"ON");
    let Some(id) = command::lookup(word(if passed_on { 3 } else { 0 })) else { return true };
    let command = command::get(id);
    command.flags.contains(Flags::SKIP_MONITOR)
        || matches!(command.name, "auth" | "hello" | "acl" | "config" | "migrate")
}

/// Microseconds as MONITOR prints them.
fn seconds(unix_us: u64) -> String {
    format!("{}.{:06}", unix_us / 1_000_000, unix_us % 1_000_000)
}

/// Appends ` "arg"`, as Redis quotes it, cut short.
fn quote(arg: &[u8], line: &mut String) {
    line.push_str(" \"");
    for &byte in &arg[..arg.len().min(SHOWN_ARG_BYTES)] {
        match byte {
            b'\n' => line.push_str("\\n"),
            b'\r' => line.push_str("\\r"),
            b'\t' => line.push_str("\\t"),
            7 => line.push_str("\\a"),
            8 => line.push_str("\\b"),
            b'"' | b'\\' => {
                line.push('\\');
                line.push(byte.into());
            }
            b' '..=b'~' => line.push(byte.into()),
            _ => _ = write!(line, "\\x{byte:02x}"),
        }
    }
    line.push_str(if arg.len() > SHOWN_ARG_BYTES { "\"..." } else { "\"" });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_quoted_and_cut() {
        let mut line = String::new();
        quote(b"a\"b\\\r\n\x01\xff", &mut line);
        assert_eq!(line, r#" "a\"b\\\r\n\x01\xff""#);
        line.clear();
        quote(&[b'x'; SHOWN_ARG_BYTES + 1], &mut line);
        assert!(line.ends_with("x\"...") && line.len() == SHOWN_ARG_BYTES + 6, "{line}");
    }
}

//! Scripts where they are missing. Instances do not pass scripts on to their replicas, nor from group to group, so what
//! this worker has seen is given to every process that a link newly leads to, before the link carries requests:
//! EVALSHA after a failover finds its script. Functions are data, which replicas have; they need none of this.

use super::command::{self, CommandId};
use super::limits::{INQUIRY_BYTES_MAX, SCRIPT_SHARED_BYTES_MAX};
use super::link::{Own, Use};
use super::question::Question;
use super::request::{PING, RequestId};
use super::scripts::{Sha, sha_of};
use super::state::Relay;
use super::{ClientId, Deed, LinkId};
use cluster::resp::reply;
use cluster::resp::request::Args;
use cluster::resp::write;
use cluster::slot::Slot;

/// The ticket of a question for scripts: it waits for nothing, and no client does.
pub(super) const SCRIPTS_TICKET: u32 = u32::MAX;

impl Relay {
    /// Sends EVAL, EVALSHA, FCALL and their likes on their way.
    pub(super) fn run_script(&mut self, client: ClientId, command: CommandId, slot: Slot, raw: &[u8]) {
        let id = self.open_request(client, command, slot);
        if let Some(sha) = self.note_script(command, raw) {
            // The place of a short reply holds the name until there is one: -NOSCRIPT does not say it.
            self.requests[id as usize].small[..sha.len()].copy_from_slice(&sha);
        }
        self.place(id, client, slot, raw);
    }

    /// Remembers a script that a client has sent; the other workers of the proxy are told, if it is new.
    pub(super) fn saw_script(&mut self, body: &[u8]) {
        if self.scripts.saw(body)
            && body.len() <= SCRIPT_SHARED_BYTES_MAX
            && let Ok(body) = std::str::from_utf8(body)
            && self.scripts.may_be_shared(self.now.us)
        {
            let question = Question::Script { body: body.to_owned() };
            self.deeds.push_back(Deed::Ask { ticket: 0, question });
        }
    }

    /// A worker that is new asks another one for the scripts that the proxy has seen.
    pub fn ask_for_known_scripts(&mut self) {
        self.deeds.push_back(Deed::Ask { ticket: SCRIPTS_TICKET, question: Question::Scripts });
    }

    /// What is known here, for a worker that is new; the least used first, as they came.
    pub(super) fn script_lines(&self) -> String {
        let bodies = self.scripts.bodies().filter_map(|body| std::str::from_utf8(body).ok());
        bodies.filter_map(|body| serde_json::to_string(body).ok()).fold(String::new(), |all, line| all + &line + "\n")
    }

    /// Part of what another worker knows; what was seen here meanwhile stays.
    pub(super) fn told_scripts(&mut self, text: &str, last: bool) {
        if self.scripts_told.len() + text.len() <= INQUIRY_BYTES_MAX {
            self.scripts_told.push_str(text);
        }
        if last {
            let bodies = std::mem::take(&mut self.scripts_told);
            for body in bodies.lines().filter_map(|line| serde_json::from_str::<String>(line).ok()) {
                self.scripts.saw(body.as_bytes());
            }
        }
    }

    /// SCRIPT FLUSH was done: nobody in this proxy knows a script any more.
    pub(super) fn forget_scripts(&mut self) {
        self.scripts = Default::default();
        self.deeds.push_back(Deed::Ask { ticket: 0, question: Question::ForgetScripts });
    }

    /// Remembers the script that a request brings; of one that names its script, the name.
    pub(super) fn note_script(&mut self, command: CommandId, raw: &[u8]) -> Option<Sha> {
        let script = Args::new(raw).nth(1).unwrap_or_default();
        match command::get(command).name {
            "eval" | "eval_ro" => self.saw_script(script),
            "evalsha" | "evalsha_ro" => {
                let sha = sha_of(script).unwrap_or([0; 40]);
                self.scripts.used(&sha);
                return Some(sha);
            }
            _ => {}
        }
        None
    }

    /// A link has been introduced to a process. True: it is asked first which of the known scripts it has.
    pub(super) fn ask_for_scripts(&mut self, id: LinkId) -> bool {
        let link = &mut self.links[id as usize];
        if link.purpose != Use::Shared || link.unfit.is_some() {
            return false;
        }
        let same_process = !link.process.is_empty() && link.scripts_of == link.process;
        if same_process || link.scripts_asked.is_some() || self.scripts.is_empty() {
            link.scripts_of.clone_from(&link.process);
            return false;
        }
        let names = self.scripts.names();
        link.ask_for_scripts(&names, &mut self.pool);
        link.scripts_asked = Some(names);
        self.mark_link(id);
        true
    }

    /// Which of them it has. True: the link goes on.
    pub(super) fn told_of_scripts(&mut self, id: LinkId, reply: &[u8]) -> bool {
        let link = &mut self.links[id as usize];
        let asked = link.scripts_asked.as_deref().unwrap_or_default();
        let there = reply::Elements::new(reply).into_iter().flatten().map(reply::integer);
        let missing = asked.iter().zip(there).filter(|(_, there)| *there == Some(0));
        let bodies: Vec<_> = missing.filter_map(|(sha, _)| self.scripts.body(sha)).collect();
        if bodies.is_empty() {
            return self.introduced(id);
        }
        link.load_scripts(bodies.iter().map(|body| &body[..]), &mut self.pool);
        self.mark_link(id);
        true
    }

    /// An instance does not have the script of a request, which is told so: sent again, it might overtake what its
    /// client sent behind it. If the script is known, the instance gets it for the next time.
    #[cold]
    pub(super) fn script_missing(&mut self, link_id: LinkId, request: RequestId) {
        let request = &self.requests[request as usize];
        let link = &mut self.links[link_id as usize];
        let by_name = matches!(command::get(request.command).name, "evalsha" | "evalsha_ro");
        let Some(sha) = request.small.first_chunk().filter(|_| by_name && link.shared()) else { return };
        let Some(body) = self.scripts.missing(sha, link_id, self.now.us) else { return };
        let mut bytes = Vec::with_capacity(body.len() + 40);
        write::request(&mut bytes, &[b"SCRIPT", b"LOAD", &body]);
        link.fifo.push_back(PING);
        link.own.push_back(Own::Script);
        link.heard_before_us = Some(link.heard_us);
        link.queued += bytes.len() as u64;
        link.out.append(&mut self.pool, &bytes);
        self.mark_link(link_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::Now;
    use crate::relay::limits::Settings;

    #[test]
    fn a_new_worker_learns_what_another_one_knows() {
        let now = Now { us: 1, unix_us: 1 };
        let [mut old, mut new] = [1, 2].map(|worker| Relay::new(Settings::default(), worker, 7, now));
        for body in ["return 1", "return '\u{e9}\n\"'", "return 3"] {
            old.saw_script(body.as_bytes());
        }
        new.saw_script(b"return 4");
        new.next_deed();
        new.ask_for_known_scripts();
        let asked = new.next_deed();
        assert!(matches!(asked, Some(Deed::Ask { ticket: SCRIPTS_TICKET, question: Question::Scripts })), "{asked:?}");
        let text = old.question(&Question::Scripts);
        let (first, second) = text.split_at(9);
        new.others_answered(SCRIPTS_TICKET, first, false);
        new.others_answered(SCRIPTS_TICKET, second, false);
        new.others_answered(SCRIPTS_TICKET, "", true);
        assert_eq!(new.scripts.names().len(), 4);
        assert!(old.scripts.names().iter().all(|name| new.scripts.body(name) == old.scripts.body(name)));
        assert!(new.next_deed().is_none(), "what another worker has said is not told to others again");
    }
}

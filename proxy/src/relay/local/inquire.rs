//! Questions to the other workers of this proxy, and to all groups: asked, waited for within a bound, and made one reply.
//! The request that asked keeps its place in its client's order meanwhile.

use super::super::fan::Part;
use super::super::inquiry::{Form, Inquiry};
use super::super::limits::{INQUIRIES_MAX, INQUIRY_BYTES_MAX, INQUIRY_US};
use super::super::question::{Filter, Question};
use super::super::reload::SCRIPTS_TICKET;
use super::super::request::{NO_SLOT, NONE, RequestId, Stage};
use super::super::state::Relay;
use super::super::{ClientId, CommandId, Deed};
use crate::stats::Counter;
use cluster::resp::{reply, write};

impl Relay {
    /// Asks the other workers on behalf of a client; `own` is what is known here.
    pub(in super::super) fn inquire(
        &mut self,
        client: ClientId,
        command: CommandId,
        question: Question,
        form: Form,
        own: impl FnOnce(&mut Self) -> String,
    ) {
        let Some(request) = self.open_inquiry(client, command) else { return };
        let text = own(self);
        self.note_inquiry(request, question, form, text);
    }

    /// A request that waits for answers; None: it has been refused.
    pub(super) fn open_inquiry(&mut self, client: ClientId, command: CommandId) -> Option<RequestId> {
        if self.inquiries.len() >= INQUIRIES_MAX {
            let text = format!("ERR twemslot: {INQUIRIES_MAX} questions to other workers wait already; try again");
            self.refuse_here(client, command, Counter::ErrorsOverload, &text);
            return None;
        }
        self.stats.add(Counter::RequestsLocal, 1);
        let request = self.open_request(client, command, NO_SLOT);
        self.requests[request as usize].stage = Stage::Asked;
        Some(request)
    }

    pub(super) fn note_inquiry(&mut self, request: RequestId, question: Question, form: Form, text: String) {
        self.last_ticket = self.last_ticket.wrapping_add(1);
        let ticket = self.last_ticket;
        self.inquiries.push(Inquiry {
            ticket,
            request,
            form,
            text,
            awaits_workers: true,
            fan: None,
            groups: Vec::new(),
            until_us: self.now.us + INQUIRY_US,
        });
        self.deeds.push_back(Deed::Ask { ticket, question });
    }

    /// What this worker knows of another one's question.
    pub fn question(&mut self, question: &Question) -> String {
        match question {
            Question::Clients(filter) => self.client_lines(filter),
            Question::Kill(filter) => {
                let killed = self.kill_clients(filter, None);
                self.go_on();
                format!("{killed}\n")
            }
            Question::Unblock { id, error } => {
                let unblocked = self.unblock(*id, *error);
                self.go_on();
                format!("{}\n", u8::from(unblocked))
            }
            Question::Totals => String::new(),
            Question::Script { body } => {
                self.scripts.saw(body.as_bytes());
                String::new()
            }
            Question::Scripts => self.script_lines(),
            Question::ForgetScripts => {
                self.scripts = Default::default();
                String::new()
            }
            Question::Keys => serde_json::to_string(&self.sampled()).unwrap_or_default(),
            Question::Slowlog { count } => self.slowlog.lines(*count),
            Question::SlowlogLen => format!("{}\n", self.slowlog.len()),
            Question::SlowlogReset => {
                self.slowlog.clear();
                String::new()
            }
            Question::Watch => {
                self.watch_for_others();
                String::new()
            }
        }
    }

    /// Part of the answers to the question of this ticket; `last`: nobody will say more.
    pub fn others_answered(&mut self, ticket: u32, text: &str, last: bool) {
        if ticket == SCRIPTS_TICKET {
            return self.told_scripts(text, last);
        }
        let Some(at) = self.inquiries.iter().position(|i| i.ticket == ticket) else { return };
        let inquiry = &mut self.inquiries[at];
        if inquiry.text.len() + text.len() <= INQUIRY_BYTES_MAX {
            inquiry.text.push_str(text);
        }
        inquiry.awaits_workers &= !last;
        if inquiry.is_over() {
            self.finish_inquiry(at);
        }
        self.go_on();
    }

    /// All groups have answered a survey.
    pub(in super::super) fn surveyed(&mut self, request: RequestId, parts: &[Part]) {
        let Some(at) = self.inquiries.iter().position(|i| i.request == request) else { return };
        let inquiry = &mut self.inquiries[at];
        inquiry.fan = None;
        for (group, part) in inquiry.groups.iter_mut().zip(parts) {
            // A copy: the buffer is the pool's, and goes back with the fan.
            group.1 = part.reply.to_vec();
        }
        if inquiry.is_over() {
            self.finish_inquiry(at);
        }
    }

    /// Answers those that have waited long enough with what is there.
    pub(in super::super) fn tick_inquiries(&mut self) {
        while let Some(at) = self.inquiries.iter().position(|i| i.until_us <= self.now.us) {
            self.stop_survey(at);
            self.finish_inquiry(at);
        }
    }

    /// Takes what has come of a survey that is not waited for any longer.
    fn stop_survey(&mut self, at: usize) {
        let Some(fan) = self.inquiries[at].fan.take() else { return };
        let parts = &self.fans[fan as usize].parts;
        for (group, part) in self.inquiries[at].groups.iter_mut().zip(parts) {
            // Half a reply is none.
            group.1 = reply::length(&part.reply).map(|len| part.reply[..len].to_vec()).unwrap_or_default();
        }
        self.orphan_fan(fan);
    }

    /// The client of an inquiry is gone.
    pub(in super::super) fn drop_inquiry(&mut self, request: RequestId) {
        if let Some(at) = self.inquiries.iter().position(|i| i.request == request) {
            let inquiry = self.inquiries.swap_remove(at);
            if let Some(fan) = inquiry.fan {
                self.orphan_fan(fan);
            }
        }
    }

    fn finish_inquiry(&mut self, at: usize) {
        let inquiry = self.inquiries.swap_remove(at);
        let client = self.requests[inquiry.request as usize].client;
        let mut reply = Vec::new();
        self.compose_answers(&inquiry, &mut reply);
        self.answer(inquiry.request, &reply);
        // It may have killed itself.
        if client != NONE {
            self.resumable.push(client);
        }
    }

    fn compose_answers(&mut self, inquiry: &Inquiry, out: &mut Vec<u8>) {
        let sum = || inquiry.text.lines().filter_map(|line| line.parse::<i64>().ok()).sum::<i64>();
        match &inquiry.form {
            Form::Lines => write::bulk(out, inquiry.text.as_bytes()),
            Form::Sum => write::integer(out, sum()),
            Form::OkOr(error) if sum() == 0 => write::error(out, error),
            Form::Ok | Form::OkOr(_) => write::simple(out, "OK"),
            Form::Slowlog(count) => self.slowlog_entries(&inquiry.text, *count, out),
            Form::Info(sections) => {
                let text = self.info(sections, &inquiry.text, &inquiry.groups);
                write::bulk(out, text.as_bytes());
            }
            Form::LatencyHistogram(commands) => {
                let client = self.requests[inquiry.request as usize].client;
                let resp3 = self.clients.get(client as usize).is_some_and(|c| c.resp3);
                self.latency_histogram(commands, &inquiry.text, resp3, out);
            }
        }
    }

    /// Whether a filter is of clients of this worker alone.
    pub(super) fn found_here(&self, filter: &Filter) -> bool {
        let here = |id: &String| self.clients.iter().any(|(_, client)| id.parse() == Ok(client.id));
        filter.ids().is_some_and(|ids| ids.iter().all(here))
    }
}

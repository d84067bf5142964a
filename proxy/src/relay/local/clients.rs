//! CLIENT LIST, INFO and KILL: all clients of the proxy, whichever worker has them.

use super::super::client::Client;
use super::super::command::{self, Local};
use super::super::inquiry::{Filter, Form, Question};
use super::super::request::NONE;
use super::super::session::{Kind, Watch};
use super::super::state::Relay;
use super::super::{ClientId, CommandId};
use crate::stats::Counter;
use std::fmt::Write;

const SYNTAX: &str = "ERR syntax error";

impl Relay {
    pub(super) fn list_clients(&mut self, id: ClientId, command: CommandId, args: &[&[u8]]) {
        match self.filter_of(id, args) {
            Ok(filter) if self.found_here(&filter) => {
                let mut reply = Vec::new();
                cluster::resp::write::bulk(&mut reply, self.client_lines(&filter).as_bytes());
                self.answer_here(id, command, &reply);
            }
            Ok(filter) => {
                let question = Question::Clients(Box::new(filter.clone()));
                self.inquire(id, command, question, Form::Lines, |relay| relay.client_lines(&filter));
            }
            Err(text) => self.refuse_here(id, command, Counter::ErrorsArity, &text),
        }
    }

    /// `CLIENT KILL ADDR:PORT`, or with filters; unless SKIPME says no, the one who asks is spared by filters.
    pub(super) fn kill_by_request(&mut self, id: ClientId, command: CommandId, args: &[&[u8]]) {
        let (filter, form) = match args {
            [addr] => {
                let addr = Some(String::from_utf8_lossy(addr).into_owned());
                (Ok(Filter { addr, ..Filter::default() }), Form::OkOr("ERR No such client"))
            }
            _ => (self.filter_of(id, args), Form::Sum),
        };
        let filter = match filter {
            Ok(mut filter) => {
                let says_skip = args.iter().step_by(2).any(|word| word.eq_ignore_ascii_case(b"skipme"));
                if args.len() > 1 && !says_skip {
                    filter.skip = Some(self.clients[id as usize].id);
                }
                filter
            }
            Err(text) => return self.refuse_here(id, command, Counter::ErrorsArity, &text),
        };
        let question = Question::Kill(Box::new(filter.clone()));
        self.inquire(id, command, question, form, |relay| format!("{}\n", relay.kill_clients(&filter, Some(id))));
    }

    /// Closes clients; how many. The one who asks gets its reply first.
    pub(super) fn kill_clients(&mut self, filter: &Filter, asker: Option<ClientId>) -> usize {
        let meant = |(id, client): (usize, &Client)| self.is_meant(filter, client).then_some(id as ClientId);
        let ids: Vec<ClientId> = self.clients.iter().filter_map(meant).collect();
        for &id in &ids {
            if asker == Some(id) {
                self.clients[id as usize].closing = true;
            } else {
                self.close_client(id);
            }
        }
        ids.len()
    }

    /// What follows CLIENT LIST or CLIENT KILL as words and values. Errors: as Redis says them.
    fn filter_of(&self, id: ClientId, args: &[&[u8]]) -> Result<Filter, String> {
        let mut filter = Filter::default();
        let mut rest = args;
        while let [word, value, more @ ..] = rest {
            rest = more;
            let text = String::from_utf8_lossy(value).into_owned();
            let seconds = || text.parse::<u64>().map_err(|_| "ERR maxage is not an integer or out of range".to_owned());
            match word.to_ascii_lowercase().as_slice() {
                b"id" => {
                    let mut value = Some(*value);
                    while let Some(one) = value.and_then(number) {
                        filter.ids.push(one);
                        value = rest.first().copied().filter(|next| number(next).is_some());
                        rest = if value.is_some() { &rest[1..] } else { rest };
                    }
                    if filter.ids.is_empty() {
                        return Err("ERR client-id should be greater than 0".into());
                    }
                }
                b"type" => filter.kind = Some(kind_of(&text)?),
                b"addr" => filter.addr = Some(text),
                b"laddr" => filter.laddr = Some(text),
                b"name" => filter.name = Some(text),
                b"lib-name" => filter.lib_name = Some(text),
                b"lib-ver" => filter.lib_ver = Some(text),
                b"maxage" => filter.age_s = Some(seconds()?),
                b"idle" => filter.idle_s = Some(seconds()?),
                b"user" if self.users.named(value).is_none() => return Err(format!("ERR No such user '{text}'")),
                b"user" => filter.user = Some(text),
                b"skipme" if value.eq_ignore_ascii_case(b"yes") => filter.skip = Some(self.clients[id as usize].id),
                b"skipme" if value.eq_ignore_ascii_case(b"no") => filter.skip = None,
                _ => return Err(SYNTAX.into()),
            }
        }
        if rest.is_empty() { Ok(filter) } else { Err(SYNTAX.into()) }
    }

    fn is_meant(&self, filter: &Filter, client: &Client) -> bool {
        let is = |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|wanted| wanted == found);
        let seconds = |since_us: u64| self.now.us.saturating_sub(since_us) / 1_000_000;
        let (lib_name, lib_ver) = self.libraries.get(client.library);
        (filter.ids.is_empty() || filter.ids.contains(&client.id))
            && !client.closed
            && filter.skip != Some(client.id)
            && is(&filter.kind, self.kind_of_client(client))
            && is(&filter.addr, &client.peer)
            && is(&filter.laddr, &self.settings.advertise)
            && is(&filter.user, self.users.name(client.user))
            && is(&filter.name, &client.name)
            && is(&filter.lib_name, lib_name)
            && is(&filter.lib_ver, lib_ver)
            && filter.age_s.is_none_or(|least| seconds(client.opened_us) >= least)
            && filter.idle_s.is_none_or(|least| seconds(client.heard_us) >= least)
    }

    fn kind_of_client(&self, client: &Client) -> &'static str {
        let listens = client.session.as_ref().is_some_and(|s| !s.subscriptions.is_empty());
        if listens { "pubsub" } else { "normal" }
    }

    pub(super) fn client_lines(&self, filter: &Filter) -> String {
        let meant: Vec<ClientId> =
            self.clients.iter().filter(|(_, c)| self.is_meant(filter, c)).map(|(id, _)| id as ClientId).collect();
        meant.into_iter().map(|id| self.client_line(id)).collect()
    }

    /// A line of CLIENT LIST. Redis's fields in its order; what has no meaning here has the value of a quiet client.
    pub(super) fn client_line(&self, id: ClientId) -> String {
        let client = &self.clients[id as usize];
        let seconds = |since_us: u64| self.now.us.saturating_sub(since_us) / 1_000_000;
        let command = match client.head {
            NONE => "NULL",
            _ => match self.requests[client.tail as usize].command {
                known if usize::from(known) < command::count() => command::get(known).name,
                _ => "NULL",
            },
        };
        let session = client.session.as_deref();
        let listens = |kind| session.map_or(0, |s| s.subscriptions.iter().filter(|t| t.0 == kind).count());
        let (sub, psub, ssub) = (listens(Kind::Channel), listens(Kind::Pattern), listens(Kind::Shard));
        let multi = session.and_then(|s| s.multi.as_ref()).map_or(-1, |m| i64::from(m.commands));
        let blocked = session.is_some_and(|s| s.blocked.is_some());
        let flags = match (self.monitors.here.contains(&id), sub + psub + ssub > 0, multi >= 0, blocked) {
            (true, ..) => "O",
            (_, true, ..) => "P",
            (_, _, true, _) => "x",
            (.., true) => "b",
            _ => "N",
        };
        let watch = u8::from(client.watch() != Watch::None);
        let resp = if client.resp3 { 3 } else { 2 };
        let (lib_name, lib_ver) = self.libraries.get(client.library);
        let (input, output) = (client.input.len(), client.out.len());
        let mut line = format!(
            "id={} addr={} laddr={} fd={id} name={} age={} idle={} flags={flags} db=0 sub={sub} psub={psub} ssub={ssub} multi={multi} watch={watch} ",
            client.id,
            client.peer,
            self.settings.advertise,
            client.name,
            seconds(client.opened_us),
            seconds(client.heard_us),
        );
        _ = writeln!(
            line,
            "qbuf={input} qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl={output} oll=0 omem={output} tot-mem={} \
             events=r cmd={command} user={} redir=-1 resp={resp} lib-name={lib_name} lib-ver={lib_ver}",
            size_of::<Client>() + client.input.capacity() + output,
            self.users.name(client.user),
        );
        line
    }

    /// CLIENT UNBLOCK ID [TIMEOUT|ERROR], of whichever worker.
    fn unblock_by_request(&mut self, id: ClientId, command: CommandId, args: &[&[u8]]) {
        let Some(target) = args.first().and_then(|a| number(a)) else {
            let text = "ERR value is not an integer or out of range";
            return self.refuse_here(id, command, Counter::ErrorsArity, text);
        };
        let error = match args.get(1).map(|how| how.to_ascii_lowercase()).as_deref() {
            None | Some(b"timeout") => false,
            Some(b"error") => true,
            _ => {
                let text = "ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR";
                return self.refuse_here(id, command, Counter::ErrorsArity, text);
            }
        };
        let question = Question::Unblock { id: target, error };
        let own = |relay: &mut Self| format!("{}\n", u8::from(relay.unblock(target, error)));
        self.inquire(id, command, question, Form::Sum, own);
    }

    /// Takes requests that others must be asked for. False: it is none of them.
    pub(super) fn asks_around(&mut self, id: ClientId, command: CommandId, local: Local, args: &[&[u8]]) -> bool {
        match local {
            Local::ClientList => self.list_clients(id, command, &args[2..]),
            Local::ClientKill => self.kill_by_request(id, command, &args[2..]),
            Local::ClientUnblock => self.unblock_by_request(id, command, &args[2..]),
            Local::Info => self.info_request(id, command, &args[1..]),
            Local::SlowlogGet | Local::SlowlogLen | Local::SlowlogReset => {
                self.slowlog_request(id, command, local, args)
            }
            Local::LatencyHistogram => {
                self.inquire(id, command, Question::Totals, Form::LatencyHistogram, |_| String::new());
            }
            Local::TwemslotOn => self.ask_group(id, command, args),
            Local::Monitor => self.monitor(id, command),
            _ => return false,
        }
        true
    }
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok().filter(|&n| n > 0)
}

/// What a client's TYPE may be, under one name each.
fn kind_of(text: &str) -> Result<String, String> {
    match text.to_ascii_lowercase().as_str() {
        kind @ ("normal" | "pubsub" | "replica") => Ok(kind.to_owned()),
        "master" | "primary" => Ok("primary".to_owned()),
        "slave" => Ok("replica".to_owned()),
        _ => Err(format!("ERR Unknown client type '{text}'")),
    }
}

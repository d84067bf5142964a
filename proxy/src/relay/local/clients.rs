//! CLIENT LIST, INFO and KILL: all clients of the proxy, whichever worker has them.

use super::super::client::Client;
use super::super::command::{self, Local};
use super::super::inquiry::Form;
use super::super::limits::FILTER_BYTES_MAX;
use super::super::question::{Filter, Question, Test};
use super::super::request::{NO_SLOT, NONE};
use super::super::session::{Kind, Watch};
use super::super::state::Relay;
use super::super::{ClientId, CommandId};
use crate::stats::Counter;
use cluster::resp::write;
use std::fmt::Write;

const SYNTAX: &str = "ERR syntax error";

impl Relay {
    pub(super) fn list_clients(&mut self, id: ClientId, command: CommandId, args: &[&[u8]]) {
        match self.filter_of(id, args) {
            Ok(filter) if self.found_here(&filter) => {
                self.answer_about_clients(id, command, |relay| relay.client_lines(&filter));
            }
            Ok(filter) => {
                let question = Question::Clients(Box::new(filter.clone()));
                self.inquire(id, command, question, Form::Lines, |relay| relay.client_lines(&filter));
            }
            Err(text) => self.refuse_here(id, command, Counter::ErrorsArity, &text),
        }
    }

    /// Answers with lines; the request is among those of its client already, for the field `cmd`.
    fn answer_about_clients(&mut self, id: ClientId, command: CommandId, lines: impl FnOnce(&Self) -> String) {
        self.stats.add(Counter::RequestsLocal, 1);
        let request = self.open_request(id, command, NO_SLOT);
        let mut reply = Vec::new();
        write::bulk(&mut reply, lines(self).as_bytes());
        self.answer(request, &reply);
    }

    /// `CLIENT KILL ADDR:PORT`, or with filters; unless SKIPME says no, the one who asks is spared by filters.
    pub(super) fn kill_by_request(&mut self, id: ClientId, command: CommandId, args: &[&[u8]]) {
        let (filter, form) = match args {
            [addr] if addr.len() <= FILTER_BYTES_MAX => {
                let any_of = vec![String::from_utf8_lossy(addr).into_owned()];
                let addr = Test { what: "addr".into(), not: false, any_of };
                (Ok(Filter { skip: None, tests: vec![addr] }), Form::OkOr("ERR No such client"))
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
        let meant =
            |(id, client): (usize, &Client)| self.is_meant(filter, id as ClientId, client).then_some(id as ClientId);
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
        let long = || format!("ERR twemslot: the filter is longer than {FILTER_BYTES_MAX} bytes; use several");
        if args.iter().map(|word| word.len()).sum::<usize>() > FILTER_BYTES_MAX {
            return Err(long());
        }
        let filter = self.words_of(id, args)?;
        let letter = serde_json::to_string(&filter).map_or(usize::MAX, |json| json.len());
        if letter > FILTER_BYTES_MAX { Err(long()) } else { Ok(filter) }
    }

    fn words_of(&self, id: ClientId, args: &[&[u8]]) -> Result<Filter, String> {
        let mut filter = Filter::default();
        let mut rest = args;
        while let [word, value, more @ ..] = rest {
            rest = more;
            let word = String::from_utf8_lossy(word).to_ascii_lowercase();
            let value = String::from_utf8_lossy(value).into_owned();
            if word == "skipme" {
                filter.skip = match value.to_ascii_lowercase().as_str() {
                    "yes" => Some(self.clients[id as usize].id),
                    "no" => None,
                    _ => return Err(SYNTAX.into()),
                };
                continue;
            }
            let (what, not) = word.strip_prefix("not-").map_or((word.as_str(), false), |what| (what, true));
            let mut any_of = vec![self.checked(what, not, value)?];
            while let Some(next) = rest.first().filter(|next| what == "id" && number(next).is_some()) {
                any_of.push(String::from_utf8_lossy(next).into_owned());
                rest = &rest[1..];
            }
            match filter.tests.iter_mut().find(|test| what == "id" && test.what == "id" && test.not == not) {
                Some(test) => test.any_of.append(&mut any_of),
                None => filter.tests.push(Test { what: what.to_owned(), not, any_of }),
            }
        }
        if rest.is_empty() { Ok(filter) } else { Err(SYNTAX.into()) }
    }

    /// The value of a word, as clients are compared with it.
    fn checked(&self, what: &str, not: bool, value: String) -> Result<String, String> {
        match what {
            "id" if number(value.as_bytes()).is_none() => Err("ERR client-id should be greater than 0".into()),
            "type" => kind_of(&value),
            "maxage" | "idle" if !not && value.parse::<u64>().is_err() => {
                Err(format!("ERR {what} is not an integer or out of range"))
            }
            "user" if self.users.named(value.as_bytes()).is_none() => Err(format!("ERR No such user '{value}'")),
            "maxage" | "idle" if not => Err(SYNTAX.into()),
            "id" | "maxage" | "idle" | "user" | "addr" | "laddr" | "ip" | "name" | "flags" | "lib-name" | "lib-ver"
            | "db" | "capa" => Ok(value),
            _ => Err(SYNTAX.into()),
        }
    }

    fn is_meant(&self, filter: &Filter, id: ClientId, client: &Client) -> bool {
        let passes =
            |test: &Test| test.any_of.iter().any(|value| self.is_true_of(id, client, &test.what, value)) != test.not;
        !client.closed && filter.skip != Some(client.id) && filter.tests.iter().all(passes)
    }

    fn is_true_of(&self, id: ClientId, client: &Client, what: &str, value: &str) -> bool {
        let seconds = |since_us: u64| self.now.us.saturating_sub(since_us) / 1_000_000;
        let at_least = |seconds: u64| value.parse().is_ok_and(|least: u64| seconds >= least);
        let (lib_name, lib_ver) = self.libraries.get(client.library);
        match what {
            "id" => value.parse() == Ok(client.id),
            "type" => value == if topics(client).iter().sum::<usize>() > 0 { "pubsub" } else { "normal" },
            "addr" => *client.peer == *value,
            "ip" => client.peer.rsplit_once(':').map_or(&*client.peer, |(ip, _)| ip) == value,
            "laddr" => self.settings.advertise == value,
            "user" => self.users.name(client.user) == value,
            "name" => *client.name == *value,
            "lib-name" => lib_name == value,
            "lib-ver" => lib_ver == value,
            "flags" => value.chars().all(|flag| self.flags_of(id, client).contains(flag)),
            "db" => value == "0",
            "maxage" => at_least(seconds(client.opened_us)),
            "idle" => at_least(seconds(client.heard_us)),
            // Nobody has said that it can follow a redirection.
            _ => false,
        }
    }

    fn flags_of(&self, id: ClientId, client: &Client) -> String {
        let session = client.session.as_deref();
        let mut flags = String::new();
        for (is, flag) in [
            (self.monitors.here.contains(&id), 'O'),
            (topics(client).iter().sum::<usize>() > 0, 'P'),
            (session.is_some_and(|s| s.multi.is_some()), 'x'),
            (session.is_some_and(|s| s.blocked.is_some()), 'b'),
            (client.closing, 'c'),
            (client.no_evict, 'e'),
        ] {
            flags.extend(is.then_some(flag));
        }
        if flags.is_empty() {
            flags.push('N');
        }
        flags
    }

    pub(super) fn client_lines(&self, filter: &Filter) -> String {
        let meant = self.clients.iter().map(|(id, client)| (id as ClientId, client));
        let meant = meant.filter(|(id, client)| self.is_meant(filter, *id, client));
        meant.map(|(id, _)| self.client_line(id)).collect()
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
        let [channels, patterns, shards] = topics(client);
        let multi = session.and_then(|s| s.multi.as_ref()).map_or(-1, |multi| i64::from(multi.commands));
        let watch = u8::from(client.watch() != Watch::None);
        let flags = self.flags_of(id, client);
        let (lib_name, lib_ver) = self.libraries.get(client.library);
        let (input, output) = (client.input.len(), client.out.len());
        let mut line = format!(
            "id={} addr={} laddr={} fd={id} name={} age={} idle={} flags={flags} db=0 sub={channels} psub={patterns} \
             ssub={shards} multi={multi} watch={watch} ",
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
             events=r cmd={command} user={} redir=-1 resp={} lib-name={lib_name} lib-ver={lib_ver}",
            size_of::<Client>() + client.input.capacity() + output,
            self.users.name(client.user),
            if client.resp3 { 3 } else { 2 },
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
            Local::ClientInfo => self.answer_about_clients(id, command, |relay| relay.client_line(id)),
            Local::ClientList => self.list_clients(id, command, &args[2..]),
            Local::ClientKill => self.kill_by_request(id, command, &args[2..]),
            Local::ClientUnblock => self.unblock_by_request(id, command, &args[2..]),
            Local::Info => self.info_request(id, command, &args[1..]),
            Local::SlowlogGet | Local::SlowlogLen | Local::SlowlogReset => {
                self.slowlog_request(id, command, local, args)
            }
            Local::LatencyHistogram => {
                let form = Form::LatencyHistogram(super::slow::commands_named(&args[2..]));
                self.inquire(id, command, Question::Totals, form, |_| String::new());
            }
            Local::TwemslotOn => self.ask_group(id, command, args),
            Local::Monitor => self.monitor(id, command),
            _ => return false,
        }
        true
    }
}

/// How many channels, patterns and shard channels a client listens to.
fn topics(client: &Client) -> [usize; 3] {
    let count = |wanted: Kind| {
        let session = client.session.as_deref();
        session.map_or(0, |s| s.subscriptions.iter().filter(|(kind, _)| *kind == wanted).count())
    };
    [count(Kind::Channel), count(Kind::Pattern), count(Kind::Shard)]
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

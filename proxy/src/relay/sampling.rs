//! Looks at one request in many: which keys it asks for, and how large what goes with them is. Slots of split requests,
//! which are in no slot's count otherwise, are counted here as well.

use super::ClientId;
use super::command::{self, CommandId, Serve};
use super::limits::{LARGE, SAMPLED_KEYS_OF_ONE};
use super::request::{NONE, RequestId, Stage};
use super::samples::Sampled;
use super::state::Relay;
use cluster::resp::request::{Args, Short};
use cluster::slot::Slot;

/// Of the requests that came together, one of the first so many is looked at: finding it means to read those before it.
const AMONG: u64 = 16;

impl Relay {
    /// One of the short requests in `buf`, which are `taken` of a client, is to be looked at.
    #[cold]
    pub(super) fn sample_short(&mut self, client: ClientId, buf: &[u8], taken: u64) {
        let random = self.random();
        let stands_for = self.samples.begin(random);
        let mut rest = buf;
        for _ in 0..(random >> 32) % taken.clamp(1, AMONG) {
            let Some(short) = Short::read(rest).filter(|short| short.len < rest.len()) else { break };
            rest = &rest[short.len..];
        }
        let Some(raw) = Short::read(rest).map(|short| &rest[..short.len]) else { return };
        self.sample(raw, stands_for);
        if raw.len() == rest.len() {
            self.follow_last(client, raw);
        }
    }

    /// A request of any length; it is large, or to be looked at.
    #[cold]
    pub(super) fn sample_whole(&mut self, client: ClientId, raw: &[u8]) {
        if !self.clients.get(client as usize).is_some_and(|c| c.authenticated) {
            return;
        }
        if self.samples.is_due(0) {
            let random = self.random();
            let stands_for = self.samples.begin(random);
            self.sample(raw, stands_for);
            self.follow_last(client, raw);
        }
        if raw.len() > LARGE
            && let Some((command, key, slot)) = self.only_key(raw)
        {
            self.samples.large_request(key, slot, self.now.us, raw.len() as u64, command::get(command).name);
        }
    }

    fn sample(&mut self, raw: &[u8], stands_for: u64) {
        let mut args = Args::new(raw);
        let argc = args.left();
        let Some(id) = args.next().and_then(command::lookup) else { return };
        let command = command::get(id);
        let split = matches!(command.serve, Serve::Split(_));
        let (routes, samples, loads) = (&self.routes, &mut self.samples, &mut self.loads);
        let mut seen = 0;
        let each = |key| {
            let slot = routes.slot_of(key);
            if seen < SAMPLED_KEYS_OF_ONE {
                seen += 1;
                samples.note(key, slot, stands_for);
            }
            if let Some(load) = loads.get_mut(usize::from(slot)).filter(|_| split) {
                load.requests = load.requests.saturating_add(stands_for as u32);
            }
        };
        // An error: the request is refused, and is nobody's load.
        _ = command::for_each_key(command, argc, raw, each);
    }

    /// The size of the reply to the request that a client has sent last is to be seen, if it has one key.
    fn follow_last(&mut self, client: ClientId, raw: &[u8]) {
        let last = self.clients.get(client as usize).map_or(NONE, |c| c.tail);
        if let Some(request) = self.requests.get(last)
            && request.stage == Stage::Sent
            && let Some((command, key, slot)) = self.only_key(raw)
            && request.command == command
        {
            self.samples.follow(last, request.started_us, key, slot);
        }
    }

    /// The command, the key, and its slot, of a request with one key.
    fn only_key<'a>(&self, raw: &'a [u8]) -> Option<(CommandId, &'a [u8], Slot)> {
        let mut args = Args::new(raw);
        let argc = args.left();
        let command = command::lookup(args.next()?)?;
        let (mut key, mut keys) = (None, 0);
        command::for_each_key(command::get(command), argc, raw, |k| (key, keys) = (Some(k), keys + 1)).ok()?;
        let key = key.filter(|_| keys == 1)?;
        Some((command, key, self.routes.slot_of(key)))
    }

    /// A large reply has come, so many bytes, for this request.
    #[cold]
    pub(super) fn sample_large_reply(&mut self, id: RequestId, bytes: u64) {
        let request = &self.requests[id as usize];
        if usize::from(request.command) < command::count() {
            let (started_us, name) = (request.started_us, command::get(request.command).name);
            self.samples.large_reply(id, started_us, self.now.us, bytes, name);
        }
    }

    /// What this worker has seen of its keys.
    pub(super) fn sampled(&self) -> Sampled {
        self.samples.sampled(self.now.us)
    }

    /// Adds what slots were asked for to the statistics.
    pub(super) fn count_loads(&mut self) {
        self.stats.set_slots(self.loads.len());
        for (slot, load) in self.loads.iter_mut().enumerate() {
            self.stats.add_of_slot(slot, u64::from(std::mem::take(&mut load.requests)));
        }
    }
}

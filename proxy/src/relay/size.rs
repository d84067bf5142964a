//! DBSIZE: how many keys there are, each counted once. An instance knows its keys but not their slots, so where a group may
//! hold copies that a move of slots makes there, or has left, it is walked over with SCAN, and only keys of slots that it
//! owns count. Every other group is asked for its own number.
//!
//! A walk takes many rounds; the walks of all such groups go on side by side. Between two rounds slots may change hands, or
//! another process may answer, whose keys are in another order: then it is counted anew, as after a wait for held slots.

use super::command::Fan as Kind;
use super::fan::{Fan, Merge, Part, Size};
use super::limits::{SIZE_ROUND_KEYS, SIZE_TRIES, SIZES_MAX};
use super::request::{NONE, RequestId, Stage};
use super::state::Relay;
use super::wide::NOBODY;
use super::{ClientId, LinkId};
use crate::stats::Counter;
use cluster::group::GroupId;
use cluster::resp::{reply, write};
use cluster::slot::crc32;

const DBSIZE: &[u8] = b"*1\r\n$6\r\nDBSIZE\r\n";

/// What one group is asked in the next round.
struct Ask {
    group: GroupId,
    link: LinkId,
    /// Where its walk goes on. None: it is asked for its number.
    cursor: Option<u64>,
}

impl Relay {
    pub(super) fn count_keys(&mut self, id: RequestId) {
        self.count_anew(id, 1);
    }

    fn count_anew(&mut self, id: RequestId, tries: u8) {
        let client = self.requests[id as usize].client;
        let asks: Vec<Ask> =
            self.places(client).map(|(group, link, copies)| Ask { group, link, cursor: copies.then_some(0) }).collect();
        if asks.is_empty() {
            return self.refuse(id, Counter::ErrorsNoOwner, NOBODY);
        }
        let walks = |fan: &Fan| fan.parent != NONE && matches!(fan.merge, Merge::Size(_));
        let walked = asks.iter().any(|ask| ask.cursor.is_some());
        if walked && self.fans.iter().filter(|(_, fan)| walks(fan)).count() >= SIZES_MAX {
            let text = format!("TRYAGAIN twemslot: {SIZES_MAX} other counts of all keys are under way, and slots move");
            return self.refuse(id, Counter::ErrorsOverload, &text);
        }
        let size = Size { tries, turns: self.routes.turns, processes: 0, keys: 0 };
        self.next_round(id, size, &asks);
    }

    fn next_round(&mut self, id: RequestId, mut size: Size, asks: &[Ask]) {
        let goes_on = |ask: &&Ask| ask.cursor.is_some_and(|cursor| cursor != 0);
        size.processes = self.processes_at(asks.iter().filter(goes_on).map(|ask| ask.link));
        let mut fan = Fan { merge: Merge::Size(size), ..self.new_fan() };
        fan.groups.clear();
        fan.groups.extend(asks.iter().map(|ask| ask.group));
        // `keys`: whether it is in the middle of a walk.
        let part = |ask: &Ask| Part { link: ask.link, keys: u32::from(goes_on(&ask)), ..Part::default() };
        fan.parts.extend(asks.iter().map(part));
        let fan_id = self.open_fan(id, fan);
        for (part, ask) in asks.iter().enumerate() {
            let Some(cursor) = ask.cursor else {
                self.send_part(fan_id, part, DBSIZE);
                continue;
            };
            let (cursor, count) = (cursor.to_string(), SIZE_ROUND_KEYS.to_string());
            let mut request = Vec::with_capacity(64);
            write::request(&mut request, &[b"SCAN", cursor.as_bytes(), b"COUNT", count.as_bytes()]);
            self.send_part(fan_id, part, &request);
        }
    }

    /// The replies of a round are all there, and none is an error. False: the client is not to be answered yet.
    pub(super) fn merge_size(&mut self, fan: &Fan, out: &mut Vec<u8>) -> bool {
        let Merge::Size(mut size) = fan.merge else { return true };
        let client = self.requests[fan.parent as usize].client;
        let on_the_way = fan.parts.iter().filter(|part| part.keys > 0).map(|part| part.link);
        let mut same = size.turns == self.routes.turns && size.processes == self.processes_at(on_the_way);
        let mut rest = Vec::new();
        for (part, &group) in fan.parts.iter().zip(&fan.groups) {
            let Some((keys, cursor)) = self.keys_of(group, &part.reply) else {
                let text = format!("ERR twemslot: group {group} answered DBSIZE or SCAN with something else");
                write::error(out, &text);
                return true;
            };
            // A group that was asked for its number may have begun to get copies since.
            same &= part.reply.first() != Some(&b':') || fan.generation == self.routes.generation;
            size.keys += keys;
            if cursor != 0 {
                rest.push(Ask { group, link: part.link, cursor: Some(cursor) });
            }
        }
        if same && rest.is_empty() {
            if fan.parts.iter().any(|part| part.keys > 0) {
                self.requests[fan.parent as usize].sent_us = 0; // no one request took that time
            }
            write::integer(out, size.keys);
            return true;
        }
        if self.must_wait(client, Kind::Size) {
            let request = &mut self.requests[fan.parent as usize];
            // It waits from now on, however long it has counted.
            (request.stage, request.sent_us) = (Stage::Waiting, self.now.us);
            self.hold(fan.parent, DBSIZE);
        } else if same {
            self.next_round(fan.parent, size, &rest);
        } else if size.tries < SIZE_TRIES {
            self.count_anew(fan.parent, size.tries + 1);
        } else {
            let text = "TRYAGAIN twemslot: slots changed hands again and again while keys were counted";
            write::error(out, text);
            return true;
        }
        false
    }

    /// How many keys of its own a group has told of, and where its walk goes on; 0: it is over.
    fn keys_of(&self, group: GroupId, raw: &[u8]) -> Option<(i64, u64)> {
        if let Some(number) = reply::integer(raw) {
            return Some((number, 0));
        }
        let mut halves = reply::Elements::new(raw)?;
        let cursor = std::str::from_utf8(reply::text(halves.next()?)?).ok()?.parse().ok()?;
        let keys = reply::Elements::new(halves.next()?)?;
        Some((keys.filter(|key| self.owns(group, key)).count() as i64, cursor))
    }

    /// The groups that own slots, the client's way to each, and whether it may hold copies.
    fn places(&self, client: ClientId) -> impl Iterator<Item = (GroupId, LinkId, bool)> {
        self.routes.owners().filter_map(move |target| Some((target.group, self.way_to(target, client)?, target.copies)))
    }

    fn processes_at(&self, links: impl Iterator<Item = LinkId>) -> u32 {
        let processes = links.filter_map(|link| self.links.get(link as usize)).map(|link| link.process.as_str());
        crc32(processes.collect::<Vec<_>>().join(" ").as_bytes())
    }
}

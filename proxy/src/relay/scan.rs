//! The cursor that SCAN gives and takes: a walk over the groups that own slots, in the order of their ids. It says all
//! there is to know, so nothing is remembered here, and any proxy goes on with what another one gave:
//!
//! ```text
//! bit 63  62 .................. 23  22 ...................... 0
//!      0  the instance's own cursor  tag, then the group's place
//! ```
//! The place takes as few bits as there are groups, the tag the rest (9 to 22 bits). The tag is made of who owns which
//! slot and, in the middle of a group, of which process the instance's cursor is: another process has its keys in
//! another order. A cursor whose tag differs starts again from the first group. Keys may then be given twice, which
//! SCAN is free to do; what it must not do is leave one out that stayed all the time.

use cluster::group::GroupId;

/// Bits of an instance's cursor: it is smaller than its hash table, so this is enough for 10^12 keys.
const INSTANCE_BITS: u32 = 40;
const MARK_BITS: u32 = 23;

/// Who owns which slot, as far as a cursor needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Table {
    /// Of each slot's owner, in order.
    pub(super) hash: u64,
    /// How many groups own slots.
    pub(super) groups: usize,
}

/// How far a walk has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Place {
    /// Which of the groups that own slots, from 0.
    pub(super) group: usize,
    /// Where the walk goes on in it; 0: at its start.
    pub(super) instance: u64,
}

/// A cursor as a client writes it.
pub(super) fn parse(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    if digits { std::str::from_utf8(text).ok()?.parse().ok() } else { None }
}

impl Table {
    pub(super) fn new(owners: impl Iterator<Item = Option<GroupId>>, groups: usize) -> Self {
        let hash = owners.fold(fnv(&[]), |hash, owner| {
            let word = owner.map_or(u64::MAX, u64::from);
            word.to_le_bytes().iter().fold(hash, fnv_step)
        });
        Self { hash, groups }
    }

    /// Where a cursor goes on. `process_of` names the process of a group's instance, if it is known.
    pub(super) fn place<'a>(&self, cursor: u64, process_of: impl FnOnce(usize) -> Option<&'a str>) -> Place {
        let mark = cursor & ((1 << MARK_BITS) - 1);
        let group = (mark & ((1 << self.place_bits()) - 1)) as usize;
        let place = Place { group, instance: cursor >> MARK_BITS };
        if cursor >> 63 != 0 || group >= self.groups {
            return Place::default();
        }
        let process = if place.instance == 0 { Some("") } else { process_of(group) };
        match process.and_then(|process| self.cursor(place, process)) {
            Some(same) if same == cursor => place,
            _ => Place::default(),
        }
    }

    /// The cursor for a place, never 0. None: the instance's own is too large.
    pub(super) fn cursor(&self, place: Place, process: &str) -> Option<u64> {
        if place.instance >> INSTANCE_BITS != 0 {
            return None;
        }
        let hash =
            if place.instance == 0 { self.hash } else { process.bytes().fold(self.hash, |h, b| fnv_step(h, &b)) };
        let tags = (1 << (MARK_BITS - self.place_bits())) - 1;
        let tag = (hash ^ (hash >> 32)) % tags + 1;
        Some(place.instance << MARK_BITS | tag << self.place_bits() | place.group as u64)
    }

    /// What a request remembers of the owners that it was sent under.
    pub(super) fn print(&self) -> u32 {
        (self.hash ^ (self.hash >> 32)) as u32
    }

    /// The cursor to give when a group has answered with `instance`, asked under the owners of this print. 0: the walk
    /// is over. None: as `cursor`.
    pub(super) fn next(&self, asked: u32, group: usize, instance: u64, process: &str) -> Option<u64> {
        if asked != self.print() {
            // The slots that moved meanwhile may have come to a group that was asked before.
            self.cursor(Place::default(), "")
        } else if instance != 0 {
            self.cursor(Place { group, instance }, process)
        } else if group + 1 < self.groups {
            self.cursor(Place { group: group + 1, instance: 0 }, "")
        } else {
            Some(0)
        }
    }

    /// Bits that a group's place takes.
    fn place_bits(&self) -> u32 {
        usize::BITS - self.groups.saturating_sub(1).leading_zeros()
    }
}

/// FNV-1a: another proxy, of another version too, must come to the same.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, fnv_step)
}

fn fnv_step(hash: u64, byte: &u8) -> u64 {
    (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(groups: usize, seed: u32) -> Table {
        Table::new((0..64u32).map(|slot| Some((slot + seed) % groups as u32)), groups)
    }

    #[test]
    fn cursors_are_numbers() {
        for (text, cursor) in [("0", Some(0)), ("18446744073709551615", Some(u64::MAX)), ("007", Some(7))] {
            assert_eq!(parse(text.as_bytes()), cursor);
        }
        for text in ["", "-1", "+1", " 1", "1 ", "x", "18446744073709551616"] {
            assert_eq!(parse(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn an_instance_cursor_beyond_the_bits_is_none() {
        let of = |instance| table(2, 0).cursor(Place { group: 1, instance }, "p");
        assert!(of((1 << 40) - 1).is_some());
        assert_eq!(of(1 << 40), None);
    }

    #[test]
    fn owners_and_not_only_their_number_make_the_table() {
        assert_ne!(table(2, 0), table(2, 1));
        let nobody = Table::new([Some(1), None].into_iter(), 1);
        assert_ne!(nobody, Table::new([None, Some(1)].into_iter(), 1));
    }

    proptest! {
        /// Under the same owners and process a cursor leads back to its place; it is never 0, and fits clients that
        /// keep it as a signed number.
        #[test]
        fn comes_back(groups in 1usize..=16_384, at in any::<prop::sample::Index>(), instance in 0u64..1 << 40) {
            let place = Place { group: at.index(groups), instance };
            let cursor = table(groups, 3).cursor(place, "p").expect("it fits");
            prop_assert!(cursor > 0 && cursor < 1 << 63);
            prop_assert_eq!(table(groups, 3).place(cursor, |_| Some("p")), place);
        }

        /// Any number is a cursor: what it does not fit starts anew.
        #[test]
        fn takes_any_number(groups in 0usize..40, cursor in any::<u64>()) {
            let place = table(groups.max(1), 0).place(cursor, |_| Some("p"));
            prop_assert!(place.group < groups.max(1) && place.instance < 1 << 40);
            prop_assert_eq!(Table::default().place(cursor, |_| None), Place::default());
        }

        /// Other owners, or in the middle of a group another process: from the start. A chance of less than 1 in 2^14
        /// is left for these tables.
        #[test]
        fn starts_anew(groups in 2usize..=256, other in 1u32..50, instance in 1u64..1 << 40) {
            let place = Place { group: groups - 1, instance };
            let cursor = table(groups, 0).cursor(place, "p").expect("it fits");
            let (moved, restarted) = (table(groups, other), table(groups, 0));
            if moved != restarted {
                let anew = moved.place(cursor, |_| Some("p"));
                prop_assert!(anew == Place::default() || anew == place && moved.cursor(place, "p") == Some(cursor));
            }
            let anew = restarted.place(cursor, |_| Some("q"));
            prop_assert!(anew == Place::default() || restarted.cursor(place, "q") == Some(cursor));
            prop_assert_eq!(restarted.place(cursor, |_| None), Place::default());
        }
    }
}

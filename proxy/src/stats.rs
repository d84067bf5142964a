//! What a worker counts. The relay owns a `Stats` and adds to plain words; the worker copies the words into its shared
//! page now and then, and the master sums the pages of all workers for `/metrics`. No string is made on the way.

/// Counts of the whole worker; each only grows. The order is the layout of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Counter {
    ClientsAccepted,
    ClientsClosed,
    /// Closed by us because their replies piled up, or memory ran out.
    ClientsClosedForMemory,
    /// Closed by us because their bytes were not RESP.
    ClientsClosedForProtocol,
    ClientsHandedOver,
    ClientBytesIn,
    ClientBytesOut,
    LinkBytesIn,
    LinkBytesOut,
    Requests,
    /// Answered here, with no instance asked.
    RequestsLocal,
    /// Split over groups.
    RequestsSplit,
    /// Too large to share a link: sent on a link of their own.
    RequestsLarge,
    RepliesError,
    /// Errors made here rather than by an instance, by cause.
    ErrorsUnknownCommand,
    ErrorsNotServed,
    ErrorsArity,
    ErrorsCrossSlot,
    ErrorsNoOwner,
    ErrorsLinkDown,
    ErrorsOutcomeUnknown,
    ErrorsTimeout,
    ErrorsOverload,
    ErrorsHeldTooLong,
    ErrorsAuth,
    Held,
    HeldUsSum,
    /// Keys of moving slots that were brought to their target before a command; and steps of that which failed.
    KeysFetched,
    FetchesFailed,
    LinksOpened,
    LinksFailed,
    /// Links lost with requests that the instance may still execute ...
    LinksOrphaned,
    /// ... of which it is certain by now that nothing is left ...
    OrphansEnded,
    /// ... or will never be: the instance left the topology and was not reached.
    OrphansGivenUp,
    TopologiesApplied,
    SettingsApplied,
    LoopIterations,
    LoopEvents,
    LoopStalls,
    ReadCalls,
    WriteCalls,
}

pub const COUNTERS: usize = Counter::WriteCalls as usize + 1;

/// What is the case now; zero when the worker is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Gauge {
    Clients,
    /// Those whose request waits at an instance, as BLPOP does.
    ClientsBlocked,
    RequestsInFlight,
    RequestsHeld,
    SlotsHeld,
    MemoryBytes,
    ClientOutputBytes,
    LinkOutputBytes,
    LinksUp,
    LinksDown,
    /// Lost connections of which an instance may still hold something.
    Orphans,
    TopologyEpoch,
    /// The epoch for which "no request for a held slot is in flight" is true.
    QuietEpoch,
    Draining,
}

pub const GAUGES: usize = Gauge::Draining as usize + 1;

/// Words kept for each command: calls, errors, and microseconds from request to reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum OfCommand {
    Calls,
    Errors,
    UsSum,
}

/// Words kept for each group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum OfGroup {
    /// The group's id plus one; 0: this entry is free.
    IdPlusOne,
    Requests,
    Errors,
    /// Microseconds between request sent and reply read.
    UsSum,
    LinkOpened,
    LinkFailed,
    RepliesLoading,
    RepliesReadOnly,
    RepliesMasterDown,
    BytesIn,
    BytesOut,
    /// Gauges from here on.
    InFlight,
    OutputBytes,
    /// 1 when the link to the primary is usable.
    LinkUp,
    /// Milliseconds since the primary's last reply, plus one; 0: there was none. Not to be summed.
    ReplyAge,
}

/// The first gauge among a group's words.
pub const GROUP_GAUGES_FROM: usize = OfGroup::InFlight as usize;

pub const COMMANDS_MAX: usize = 640;
pub const GROUPS_MAX: usize = 1024;
pub const SLOTS_MAX: usize = 16_384;
/// Buckets of each command's histogram of microseconds: one to each power of two, up to 67 s.
pub const COMMAND_BUCKETS: usize = 27;
const PER_COMMAND: usize = OfCommand::UsSum as usize + 1;
const PER_GROUP: usize = OfGroup::ReplyAge as usize + 1;

/// Buckets of a histogram of microseconds: 8 to each power of two, up to 67 s.
pub const BUCKETS: usize = 208;

/// Which histogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Histogram {
    /// From a request read to its reply written to the client's buffer.
    Total,
    /// From a request put on a link to its reply read.
    Instance,
}

const GAUGES_AT: usize = COUNTERS;
const HISTOGRAMS_AT: usize = GAUGES_AT + GAUGES;
const COMMANDS_AT: usize = HISTOGRAMS_AT + 2 * BUCKETS;
const GROUPS_AT: usize = COMMANDS_AT + COMMANDS_MAX * PER_COMMAND;

const SLOTS_AT: usize = GROUPS_AT + GROUPS_MAX * PER_GROUP;

const OF_COMMANDS_AT: usize = SLOTS_AT + SLOTS_MAX;

/// Words in a page.
pub const WORDS: usize = OF_COMMANDS_AT + COMMANDS_MAX * COMMAND_BUCKETS;

/// Where a gauge stands in a page.
pub const fn gauge_word(gauge: Gauge) -> usize {
    GAUGES_AT + gauge as usize
}

/// The bucket of a duration in microseconds.
#[inline]
pub fn bucket(us: u64) -> usize {
    if us < 8 {
        return us as usize;
    }
    let exponent = 63 - us.leading_zeros() as usize;
    ((exponent - 2) * 8 + (us >> (exponent - 3) & 7) as usize).min(BUCKETS - 1)
}

/// The least duration, in microseconds, that is beyond bucket `i`.
pub fn bucket_end(i: usize) -> u64 {
    let next = i as u64 + 1;
    if next < 8 { next } else { (8 + next % 8) << (next / 8 - 1) }
}

/// One worker's words. Groups take an entry by id the first time they are seen and keep it.
#[derive(Debug, Clone)]
pub struct Stats {
    /// An array: a place in it that is known when this is compiled needs no check.
    words: Box<[u64; WORDS]>,
    groups: usize,
    /// How many slots there are.
    slots: usize,
}

impl Default for Stats {
    fn default() -> Self {
        let words = vec![0; WORDS].into_boxed_slice().try_into();
        Self { words: words.unwrap_or_else(|_| Box::new([0; WORDS])), groups: 0, slots: 0 }
    }
}

impl Stats {
    /// Goes on from the words of an earlier worker's page: counters stay, gauges start at zero.
    pub fn resumed(words: &[u64]) -> Self {
        let mut stats = Self::default();
        if words.len() == WORDS {
            stats.words.copy_from_slice(words);
        }
        stats.words[GAUGES_AT..HISTOGRAMS_AT].fill(0);
        while stats.groups < GROUPS_MAX && stats.of_group(stats.groups, OfGroup::IdPlusOne) != 0 {
            let at = GROUPS_AT + stats.groups * PER_GROUP;
            stats.words[at + GROUP_GAUGES_FROM..at + PER_GROUP].fill(0);
            stats.groups += 1;
        }
        stats
    }

    /// The words of a living worker's page: counters and gauges.
    pub fn of_page(words: &[u64]) -> Self {
        let mut stats = Self::resumed(words);
        if words.len() == WORDS {
            stats.words.copy_from_slice(words);
        }
        stats
    }

    /// Sums another worker's words into these; groups are matched by id.
    pub fn add_all(&mut self, other: &Self) {
        for i in 0..GROUPS_AT {
            self.words[i] += other.words[i];
        }
        for i in SLOTS_AT..WORDS {
            self.words[i] += other.words[i];
        }
        for g in 0..other.groups {
            let id = other.of_group(g, OfGroup::IdPlusOne) - 1;
            let Some(mine) = self.group_entry(id as u32) else { continue };
            for w in 1..PER_GROUP {
                self.words[GROUPS_AT + mine * PER_GROUP + w] += other.words[GROUPS_AT + g * PER_GROUP + w];
            }
        }
    }

    /// What is not zero, without groups and slots: where it stands, and how much.
    pub fn sparse(&self) -> Vec<(u32, u64)> {
        let words = self.words.iter().enumerate().filter(|(at, _)| is_sparse(*at));
        words.filter(|(_, n)| **n > 0).map(|(at, &n)| (at as u32, n)).collect()
    }

    /// Sums what another's `sparse` said into these.
    pub fn add_sparse(&mut self, words: &[(u32, u64)]) {
        for &(at, n) in words {
            if let Some(word) = self.words.get_mut(at as usize).filter(|_| is_sparse(at as usize)) {
                *word += n;
            }
        }
    }

    pub fn words(&self) -> &[u64] {
        &self.words[..]
    }

    /// The words in use but for `rarer`: copying more is a waste.
    pub fn usual(&self) -> &[u64] {
        &self.words[..GROUPS_AT + self.groups * PER_GROUP]
    }

    /// The words of slots and of commands' histograms that are in use, and where each run starts. They are many, and seldom
    /// looked at.
    pub fn rarer(&self) -> [(usize, &[u64]); 2] {
        [(SLOTS_AT, &self.words[SLOTS_AT..SLOTS_AT + self.slots]), (OF_COMMANDS_AT, &self.words[OF_COMMANDS_AT..])]
    }

    #[inline]
    pub fn add(&mut self, counter: Counter, n: u64) {
        self.words[counter as usize] += n;
    }

    pub fn get(&self, counter: Counter) -> u64 {
        self.words[counter as usize]
    }

    #[inline]
    pub fn set(&mut self, gauge: Gauge, value: u64) {
        self.words[GAUGES_AT + gauge as usize] = value;
    }

    pub fn gauge(&self, gauge: Gauge) -> u64 {
        self.words[GAUGES_AT + gauge as usize]
    }

    /// Records `n` equal durations.
    #[inline]
    pub fn observe(&mut self, histogram: Histogram, us: u64, n: u64) {
        self.words[HISTOGRAMS_AT + histogram as usize * BUCKETS + bucket(us)] += n;
    }

    pub fn histogram(&self, histogram: Histogram) -> &[u64] {
        let at = HISTOGRAMS_AT + histogram as usize * BUCKETS;
        &self.words[at..at + BUCKETS]
    }

    /// `command` is a `CommandId`.
    #[inline]
    pub fn add_of_command(&mut self, command: u16, word: OfCommand, n: u64) {
        let command = usize::from(command).min(COMMANDS_MAX - 1);
        self.words[COMMANDS_AT + command * PER_COMMAND + word as usize] += n;
    }

    pub fn of_command(&self, command: u16, word: OfCommand) -> u64 {
        self.words[COMMANDS_AT + usize::from(command).min(COMMANDS_MAX - 1) * PER_COMMAND + word as usize]
    }

    /// How many slots there are.
    pub fn set_slots(&mut self, slots: usize) {
        self.slots = slots.min(SLOTS_MAX);
    }

    /// More requests for a slot.
    #[inline]
    pub fn add_of_slot(&mut self, slot: usize, requests: u64) {
        if let Some(word) = self.words[SLOTS_AT..].get_mut(slot) {
            *word += requests;
        }
    }

    /// Requests for each slot that can be.
    pub fn of_slots(&self) -> &[u64] {
        &self.words[SLOTS_AT..]
    }

    /// Records `n` requests of a command that took equally long.
    #[inline]
    pub fn observe_of_command(&mut self, command: u16, us: u64, n: u64) {
        let bucket = (64 - us.leading_zeros() as usize).min(COMMAND_BUCKETS - 1);
        self.words[histogram_of(command) + bucket] += n;
    }

    /// How many requests of a command took less than each power of two of microseconds, and no less than the one before.
    pub fn histogram_of_command(&self, command: u16) -> &[u64] {
        let at = histogram_of(command);
        &self.words[at..at + COMMAND_BUCKETS]
    }

    /// The entry of a group id, taken now if need be; None when all are taken.
    pub fn group_entry(&mut self, id: u32) -> Option<usize> {
        let wanted = u64::from(id) + 1;
        if let Some(found) = (0..self.groups).find(|&g| self.of_group(g, OfGroup::IdPlusOne) == wanted) {
            return Some(found);
        }
        if self.groups == GROUPS_MAX {
            return None;
        }
        let entry = self.groups;
        self.groups += 1;
        self.words[GROUPS_AT + entry * PER_GROUP] = wanted;
        Some(entry)
    }

    /// Entries in use, from 0.
    pub fn groups(&self) -> usize {
        self.groups
    }

    #[inline]
    pub fn add_of_group(&mut self, entry: usize, word: OfGroup, n: u64) {
        self.words[GROUPS_AT + entry * PER_GROUP + word as usize] += n;
    }

    pub fn set_of_group(&mut self, entry: usize, word: OfGroup, value: u64) {
        self.words[GROUPS_AT + entry * PER_GROUP + word as usize] = value;
    }

    pub fn of_group(&self, entry: usize, word: OfGroup) -> u64 {
        self.words[GROUPS_AT + entry * PER_GROUP + word as usize]
    }
}

/// Whether a word is said to other workers: not those of groups and slots.
fn is_sparse(at: usize) -> bool {
    !(GROUPS_AT..OF_COMMANDS_AT).contains(&at)
}

/// Where a command's histogram stands in a page.
fn histogram_of(command: u16) -> usize {
    let command = usize::from(command).min(COMMANDS_MAX - 1);
    OF_COMMANDS_AT + command * COMMAND_BUCKETS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_what_they_say() {
        for us in (0..100_000).chain([1 << 20, 1 << 25, 66_000_000]) {
            let i = bucket(us);
            assert!(us < bucket_end(i), "{us} in {i}");
            assert!(i == 0 || us >= bucket_end(i - 1), "{us} in {i}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn a_commands_times_are_kept_by_powers_of_two() {
        let mut stats = Stats::default();
        for us in [0, 1, 2, 3, 1000, u64::MAX] {
            stats.observe_of_command(5, us, 1);
        }
        let filled: Vec<usize> = (0..COMMAND_BUCKETS).filter(|&i| stats.histogram_of_command(5)[i] > 0).collect();
        assert_eq!(filled, [0, 1, 2, 10, COMMAND_BUCKETS - 1]);
        assert_eq!(stats.histogram_of_command(5)[2], 2);
        assert_eq!(stats.of_command(5, OfCommand::Calls) + stats.of_command(6, OfCommand::Calls), 0);
    }

    #[test]
    fn a_restart_keeps_counts_and_forgets_gauges() {
        let mut stats = Stats::default();
        stats.add(Counter::Requests, 5);
        stats.set(Gauge::Clients, 3);
        let g = stats.group_entry(7).expect("room");
        stats.add_of_group(g, OfGroup::Requests, 2);
        stats.set_of_group(g, OfGroup::LinkUp, 1);
        let next = Stats::resumed(stats.words());
        assert_eq!((next.get(Counter::Requests), next.gauge(Gauge::Clients)), (5, 0));
        assert_eq!((next.of_group(0, OfGroup::Requests), next.of_group(0, OfGroup::LinkUp)), (2, 0));
        let mut sum = Stats::default();
        sum.group_entry(1);
        sum.add_all(&next);
        sum.add_all(&next);
        assert_eq!((sum.get(Counter::Requests), sum.of_group(1, OfGroup::Requests)), (10, 4));
        sum.add_sparse(&next.sparse());
        sum.add_sparse(&[(u32::MAX, 1)]);
        assert_eq!((sum.get(Counter::Requests), sum.of_group(1, OfGroup::Requests)), (15, 4));
    }
}

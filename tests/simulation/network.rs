//! Sockets as a program sees them: bytes go in at one end as far as there is room and come out at the other in
//! pieces of any size.

use crate::rng::Rng;
use std::collections::VecDeque;
use std::io::IoSlice;

/// One direction of a connection.
pub(crate) struct Pipe {
    bytes: VecDeque<u8>,
    capacity: usize,
    /// The writer has said that nothing follows.
    pub(crate) ended: bool,
}

impl Pipe {
    pub(crate) fn new(rng: &mut Rng) -> Self {
        Self { bytes: VecDeque::new(), capacity: *rng.pick(&[512, 4096, 65_536, 262_144]), ended: false }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn has_room(&self) -> bool {
        self.bytes.len() < self.capacity
    }

    /// Takes a part of what is offered; 0 only where there is no room.
    pub(crate) fn write(&mut self, rng: &mut Rng, offered: &[IoSlice<'_>]) -> usize {
        let room = self.capacity.saturating_sub(self.bytes.len());
        let total: usize = offered.iter().map(|slice| slice.len()).sum();
        let mut most = room.min(total);
        if most > 0 && rng.one_in(4) {
            most = rng.cut(most);
        }
        let mut left = most;
        for slice in offered {
            let part = &slice[..slice.len().min(left)];
            self.bytes.extend(part);
            left -= part.len();
        }
        most
    }

    /// A piece of what is there; empty where nothing is.
    pub(crate) fn read(&mut self, rng: &mut Rng) -> Vec<u8> {
        if self.bytes.is_empty() {
            return Vec::new();
        }
        let len = rng.cut(self.bytes.len());
        self.bytes.drain(..len).collect()
    }

    /// Loses what was on its way, from a random byte on.
    pub(crate) fn tear(&mut self, rng: &mut Rng) {
        let keep = rng.below(self.bytes.len() + 1);
        self.bytes.truncate(keep);
        self.ended = true;
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.ended = true;
    }
}

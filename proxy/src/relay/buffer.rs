//! Buffers. A pool lends chunks, so that steady traffic allocates nothing and an idle connection owns nothing; an
//! `Outgoing` is a queue of chunks on their way to a socket.

use std::collections::VecDeque;
use std::io::IoSlice;

/// What small replies and single requests fit in: one page.
pub(super) const SMALL: usize = 4 << 10;
/// What bulk traffic goes in: a `send` of this size costs as little per byte as a larger one.
pub(super) const CHUNK: usize = 64 << 10;
/// Free buffers kept for reuse, 4 MiB of each size; what is more goes back to the system.
const SMALL_FREE_MAX: usize = 1024;
const CHUNK_FREE_MAX: usize = 64;

/// Lends buffers and counts what is lent.
#[derive(Debug, Default)]
pub(super) struct Pool {
    small: Vec<Vec<u8>>,
    chunks: Vec<Vec<u8>>,
    lent: usize,
}

impl Pool {
    /// Bytes of buffers that are lent out.
    pub(super) fn lent(&self) -> usize {
        self.lent
    }

    fn take(&mut self, at_least: usize) -> Vec<u8> {
        let (free, size) = if at_least <= SMALL { (&mut self.small, SMALL) } else { (&mut self.chunks, CHUNK) };
        let buffer = if at_least <= CHUNK { free.pop() } else { None };
        let buffer = buffer.unwrap_or_else(|| Vec::with_capacity(size.max(at_least)));
        self.lent += buffer.capacity();
        buffer
    }

    /// A buffer with a copy of `bytes`.
    pub(super) fn keep(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut buffer = self.take(bytes.len());
        buffer.extend_from_slice(bytes);
        buffer
    }

    /// Adds to a buffer, exchanging it for a larger one where needed.
    pub(super) fn extend(&mut self, buffer: &mut Vec<u8>, bytes: &[u8]) {
        let wanted = buffer.len() + bytes.len();
        if wanted > buffer.capacity() {
            // Doubling keeps the copying linear for values that arrive in many pieces.
            let size = if wanted <= CHUNK { wanted } else { wanted.max(buffer.capacity() * 2) };
            let mut larger = self.take(size);
            larger.extend_from_slice(buffer);
            self.give(std::mem::replace(buffer, larger));
        }
        buffer.extend_from_slice(bytes);
    }

    /// Takes a buffer back.
    pub(super) fn give(&mut self, mut buffer: Vec<u8>) {
        self.lent = self.lent.saturating_sub(buffer.capacity());
        buffer.clear();
        match buffer.capacity() {
            SMALL if self.small.len() < SMALL_FREE_MAX => self.small.push(buffer),
            CHUNK if self.chunks.len() < CHUNK_FREE_MAX => self.chunks.push(buffer),
            _ => {}
        }
    }

    /// Gives free buffers back to the system, down to `keep` of each size.
    pub(super) fn trim(&mut self, keep: usize) {
        self.small.truncate(keep);
        self.chunks.truncate(keep);
    }
}

/// Bytes on their way to a socket.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    first: Vec<u8>,
    rest: VecDeque<Vec<u8>>,
    /// Bytes of `first` that are written.
    written: usize,
    len: usize,
}

impl Outgoing {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[inline]
    pub(super) fn append(&mut self, pool: &mut Pool, bytes: &[u8]) {
        self.len += bytes.len();
        if self.rest.is_empty() && bytes.len() <= self.first.capacity() - self.first.len() {
            self.first.extend_from_slice(bytes);
        } else {
            self.append_slowly(pool, bytes);
        }
    }

    fn append_slowly(&mut self, pool: &mut Pool, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let last = self.rest.back_mut().unwrap_or(&mut self.first);
            let room = (last.capacity() - last.len()).min(bytes.len());
            let (now, later) = bytes.split_at(room);
            last.extend_from_slice(now);
            bytes = later;
            if bytes.is_empty() {
                return;
            }
            if self.first.capacity() == 0 {
                self.first = pool.take(bytes.len().min(CHUNK));
            } else {
                // The first buffer did not do: bulk traffic.
                self.rest.push_back(pool.take(CHUNK));
            }
        }
    }

    /// Moves all of `other` behind what is here.
    pub(super) fn append_all(&mut self, pool: &mut Pool, other: &mut Self) {
        if self.len == 0 {
            self.clear(pool);
            std::mem::swap(self, other);
            return;
        }
        self.len += other.len;
        let first = std::mem::take(&mut other.first);
        if first.len() > other.written {
            self.rest.push_back(pool.keep(&first[other.written..]));
        }
        pool.give(first);
        self.rest.append(&mut other.rest);
        *other = Self::default();
    }

    /// What to write next, as far as `slices` has room; how many were filled.
    pub(super) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        if self.len == 0 {
            return 0;
        }
        let parts = std::iter::once(&self.first[self.written..]).chain(self.rest.iter().map(Vec::as_slice));
        let mut filled = 0;
        for (slice, part) in slices.iter_mut().zip(parts.filter(|p| !p.is_empty())) {
            *slice = IoSlice::new(part);
            filled += 1;
        }
        filled
    }

    /// `n` bytes have been written.
    pub(super) fn wrote(&mut self, pool: &mut Pool, n: usize) {
        debug_assert!(n <= self.len, "more written than there was");
        self.len -= n.min(self.len);
        self.written += n;
        while self.written >= self.first.len() && self.first.capacity() > 0 {
            self.written -= self.first.len();
            let next = self.rest.pop_front().unwrap_or_default();
            pool.give(std::mem::replace(&mut self.first, next));
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self, pool: &mut Pool) {
        pool.give(std::mem::take(&mut self.first));
        for chunk in self.rest.drain(..) {
            pool.give(chunk);
        }
        if self.rest.capacity() > 64 {
            self.rest = VecDeque::new();
        }
        (self.written, self.len) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(out: &Outgoing) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); 64];
        let n = out.slices(&mut slices);
        slices[..n].iter().flat_map(|s| s.to_vec()).collect()
    }

    proptest! {
        /// What goes in comes out, in order, however it is written; and everything lent comes back.
        #[test]
        fn a_queue(steps in proptest::collection::vec((0usize..200_000, 0usize..150_000), 1..8)) {
            let (mut pool, mut out, mut model) = (Pool::default(), Outgoing::default(), Vec::new());
            for (i, (add, take)) in steps.into_iter().enumerate() {
                let bytes = vec![i as u8; add];
                out.append(&mut pool, &bytes);
                model.extend_from_slice(&bytes);
                prop_assert_eq!(all(&out), &model[..]);
                let n = take.min(model.len());
                out.wrote(&mut pool, n);
                model.drain(..n);
                prop_assert_eq!(out.len(), model.len());
            }
            let n = out.len();
            out.wrote(&mut pool, n);
            prop_assert_eq!(pool.lent(), 0);
        }
    }
}

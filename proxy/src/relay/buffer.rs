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

    #[inline(never)]
    fn take(&mut self, at_least: usize) -> Vec<u8> {
        let (free, size) = if at_least <= SMALL { (&mut self.small, SMALL) } else { (&mut self.chunks, CHUNK) };
        let buffer = if at_least <= CHUNK { free.pop() } else { None };
        let buffer = buffer.unwrap_or_else(|| Vec::with_capacity(size.max(at_least)));
        self.lent += buffer.capacity();
        buffer
    }

    /// A buffer with a copy of `bytes`.
    #[inline(always)]
    pub(super) fn keep(&mut self, bytes: &[u8]) -> Vec<u8> {
        if bytes.len() <= SMALL
            && let Some(mut buffer) = self.small.pop()
        {
            self.lent += SMALL;
            buffer.extend_from_slice(bytes);
            return buffer;
        }
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
    #[inline]
    pub(super) fn give(&mut self, mut buffer: Vec<u8>) {
        if buffer.capacity() == SMALL && self.small.len() < SMALL_FREE_MAX {
            self.lent = self.lent.saturating_sub(SMALL);
            buffer.clear();
            self.small.push(buffer);
        } else {
            self.give_chunk(buffer);
        }
    }

    #[inline(never)]
    fn give_chunk(&mut self, mut buffer: Vec<u8>) {
        self.lent = self.lent.saturating_sub(buffer.capacity());
        buffer.clear();
        if buffer.capacity() == CHUNK && self.chunks.len() < CHUNK_FREE_MAX {
            self.chunks.push(buffer);
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
    /// What new bytes are appended to; it is empty only if all is.
    tail: Vec<u8>,
    /// Full buffers before it, none of them empty: bulk traffic only.
    full: VecDeque<Vec<u8>>,
    /// Bytes of the first buffer that are written.
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

    #[inline(always)]
    pub(super) fn append(&mut self, pool: &mut Pool, bytes: &[u8]) {
        if bytes.len() > self.tail.capacity() - self.tail.len() {
            return self.append_slowly(pool, bytes);
        }
        self.len += bytes.len();
        self.tail.extend_from_slice(bytes);
    }

    #[inline(never)]
    fn append_slowly(&mut self, pool: &mut Pool, bytes: &[u8]) {
        if self.len == 0 && bytes.len() <= SMALL {
            self.len = bytes.len();
            self.tail = pool.keep(bytes);
        } else {
            self.append_bulk(pool, bytes);
        }
    }

    #[inline(never)]
    fn append_bulk(&mut self, pool: &mut Pool, bytes: &[u8]) {
        self.len += bytes.len();
        let (now, mut bytes) = bytes.split_at(bytes.len().min(self.tail.capacity() - self.tail.len()));
        self.tail.extend_from_slice(now);
        while !bytes.is_empty() {
            // If the first buffer did not do, it is bulk traffic.
            let size = if self.tail.is_empty() { bytes.len().min(CHUNK) } else { CHUNK };
            let (now, later) = bytes.split_at(bytes.len().min(size));
            let full = std::mem::replace(&mut self.tail, pool.take(size));
            if !full.is_empty() {
                self.full.push_back(full);
            }
            self.tail.extend_from_slice(now);
            bytes = later;
        }
    }

    /// Moves all of `other`, of which nothing has been written, behind what is here.
    pub(super) fn append_all(&mut self, pool: &mut Pool, other: &mut Self) {
        debug_assert_eq!(other.written, 0, "bytes would be sent twice");
        if self.len == 0 {
            self.clear(pool);
            std::mem::swap(self, other);
        } else if other.len > 0 {
            self.len += other.len;
            self.full.push_back(std::mem::take(&mut self.tail));
            self.full.append(&mut other.full);
            self.tail = std::mem::take(&mut other.tail);
            *other = Self::default();
        }
    }

    /// What to write next, if it is in one piece: nearly always.
    #[inline(always)]
    pub(super) fn piece(&self) -> Option<&[u8]> {
        if self.full.is_empty() { Some(&self.tail[self.written..]) } else { None }
    }

    /// What to write next, as far as `slices` has room; how many were filled.
    pub(super) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let parts = self.full.iter().chain(std::iter::once(&self.tail)).filter(|p| !p.is_empty());
        let mut filled = 0;
        for (slice, part) in slices.iter_mut().zip(parts) {
            *slice = IoSlice::new(if filled == 0 { &part[self.written..] } else { part });
            filled += 1;
        }
        filled
    }

    /// `n` bytes have been written.
    #[inline(always)]
    pub(super) fn wrote(&mut self, pool: &mut Pool, n: usize) {
        debug_assert!(n <= self.len, "more written than there was");
        self.len -= n.min(self.len);
        self.written += n;
        if !self.full.is_empty() {
            self.give_written(pool);
        }
        if self.len == 0 {
            self.written = 0;
            pool.give(std::mem::take(&mut self.tail));
        }
    }

    #[inline(never)]
    fn give_written(&mut self, pool: &mut Pool) {
        while let Some(first) = self.full.front()
            && self.written >= first.len()
        {
            self.written -= first.len();
            pool.give(self.full.pop_front().unwrap_or_default());
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self, pool: &mut Pool) {
        pool.give(std::mem::take(&mut self.tail));
        for chunk in self.full.drain(..) {
            pool.give(chunk);
        }
        if self.full.capacity() > 64 {
            self.full = VecDeque::new();
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
                prop_assert!(out.piece().is_none_or(|piece| piece == model));
            }
            let n = out.len();
            out.wrote(&mut pool, n);
            prop_assert_eq!(pool.lent(), 0);
        }
    }
}

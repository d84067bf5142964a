//! A queue of ids that is filled and then emptied, turn by turn, as the loop does with all it has to do: a vector and
//! how far it has been read, which is cheaper than a ring.

/// Ids that were taken are forgotten at the latest when there are so many of them.
const TAKEN_MAX: usize = 1024;

/// First in, first out.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    ids: Vec<u32>,
    /// How many at the front have been taken.
    taken: usize,
}

impl Queue {
    pub(crate) fn len(&self) -> usize {
        self.ids.len() - self.taken
    }

    #[inline]
    pub(crate) fn push(&mut self, id: u32) {
        self.ids.push(id);
    }

    #[inline]
    pub(crate) fn pop(&mut self) -> Option<u32> {
        let id = *self.ids.get(self.taken)?;
        self.taken += 1;
        if self.taken == self.ids.len() || self.taken == TAKEN_MAX {
            self.forget_taken();
        }
        Some(id)
    }

    #[inline]
    fn forget_taken(&mut self) {
        if self.taken == self.ids.len() {
            self.ids.clear();
        } else {
            self.ids.drain(..self.taken);
        }
        self.taken = 0;
    }

    /// Takes `id` out, wherever it stands.
    pub(crate) fn remove(&mut self, id: u32) {
        self.forget_taken();
        self.ids.retain(|&i| i != id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    proptest! {
        #[test]
        fn is_a_queue(turns in proptest::collection::vec((0u32..3000, 0usize..3000, any::<bool>()), 1..8)) {
            let (mut queue, mut model, mut next) = (Queue::default(), VecDeque::new(), 0);
            for (pushed, popped, remove) in turns {
                for _ in 0..pushed {
                    queue.push(next);
                    model.push_back(next);
                    next += 1;
                }
                if remove && let Some(middle) = model.get(model.len() / 2).copied() {
                    queue.remove(middle);
                    model.retain(|&i| i != middle);
                }
                for _ in 0..popped {
                    prop_assert_eq!(queue.pop(), model.pop_front());
                    prop_assert!(queue.taken < TAKEN_MAX, "what was taken is kept");
                }
                prop_assert_eq!(queue.len(), model.len());
            }
        }
    }
}

//! Popped: every element that an instance has taken out of a list for somebody was given to the one who asked, once, or
//! its asker was told that the end of its request is unknown (an error that says so, or a connection lost).

use std::collections::BTreeMap;

/// As the history counts them.
type Step = u64;
type Token = u64;

/// What somebody asked for: the tag of its keys, and whether elements go to another list.
pub(crate) type Class = (Vec<u8>, bool);

struct Taken {
    class: Class,
    step: Step,
    told: bool,
}

#[derive(Default)]
pub(crate) struct Pops {
    taken: BTreeMap<(Token, bool), Taken>,
    /// Requests whose end their clients do not know, by when they were asked.
    unknown: BTreeMap<Class, Vec<Step>>,
}

/// The keys that one request may name have one tag.
pub(crate) fn class_of(key: &[u8], moved: bool) -> Class {
    (key.split(|&b| b == b'}').next().unwrap_or_default().to_vec(), moved)
}

impl Pops {
    /// An element is moved once at most in a run: no list that gets elements so gives them to another.
    pub(super) fn taken(&mut self, token: Token, key: &[u8], moved: bool, step: Step) -> Result<(), String> {
        let taken = Taken { class: class_of(key, moved), step, told: false };
        match self.taken.insert((token, moved), taken) {
            Some(_) => Err(format!("popped: t{token:x} was taken out of {} twice", key.escape_ascii())),
            None => Ok(()),
        }
    }

    /// A client that asked at `issued` was given an element. The step at which it was taken; None: it was not, or it
    /// was given to somebody before.
    pub(super) fn told(&mut self, token: Token, class: &Class, issued: Step) -> Option<Step> {
        let taken = self.taken.get_mut(&(token, class.1)).filter(|taken| taken.class == *class)?;
        let first = !std::mem::replace(&mut taken.told, true);
        (first && taken.step > issued).then_some(taken.step)
    }

    pub(super) fn unknown(&mut self, class: &Class, issued: Step) {
        self.unknown.entry(class.clone()).or_default().push(issued);
    }

    /// At the end of all: whatever was given to nobody needs somebody who asked before, and knows that he does not know.
    pub(crate) fn settle(&mut self) -> Result<(), String> {
        let mut lost: BTreeMap<&Class, Vec<(Step, Token)>> = BTreeMap::new();
        for ((token, _), taken) in self.taken.iter().filter(|(_, taken)| !taken.told) {
            lost.entry(&taken.class).or_default().push((taken.step, *token));
        }
        self.unknown.values_mut().for_each(|steps| steps.sort_unstable());
        for (class, mut lost) in lost {
            lost.sort_unstable();
            let asked = self.unknown.get(class).map_or(&[][..], Vec::as_slice);
            for (nth, (step, token)) in lost.iter().enumerate() {
                if asked.partition_point(|issued| issued < step) <= nth {
                    let (tag, what) = (class.0.escape_ascii(), if class.1 { "moved" } else { "popped" });
                    return Err(format!(
                        "popped: t{token:x} of {tag}}} was {what} at step {step}, and given to nobody"
                    ));
                }
            }
        }
        Ok(())
    }

    /// How many were taken, and given to who asked.
    pub(crate) fn count(&self) -> usize {
        self.taken.values().filter(|taken| taken.told).count()
    }
}

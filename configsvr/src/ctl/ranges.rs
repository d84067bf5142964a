//! Slots, as people write them.

use cluster::slot::Slot;

/// `0-511,600`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranges(pub(super) Vec<(Slot, Slot)>);

pub(super) fn ranges(text: &str) -> Result<Ranges, String> {
    let number = |text: &str| text.trim().parse::<Slot>().map_err(|_| format!("{text:?} is not a slot's number"));
    let range = |text: &str| -> Result<(Slot, Slot), String> {
        let (from, to) = text.split_once('-').unwrap_or((text, text));
        let (from, to) = (number(from)?, number(to)?);
        if from <= to { Ok((from, to)) } else { Err(format!("{from}-{to}: from the lower to the higher, please")) }
    };
    text.split(',').map(range).collect::<Result<_, _>>().map(Ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        assert_eq!(ranges("0-511,600, 7 - 9"), Ok(Ranges(vec![(0, 511), (600, 600), (7, 9)])));
        for (text, why) in [("", "not a slot"), ("9-1", "lower"), ("1-2-3", "not a slot"), ("99999", "not a slot")] {
            assert!(ranges(text).expect_err(text).contains(why), "{text}");
        }
    }
}

//! What one client appended to one list of its own, and whether the list shows it: every acknowledged append once and
//! in order, one whose outcome is unknown at most once, a refused one never.

/// What became of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Acknowledged,
    Unknown,
    Refused,
}

/// All appends to one list, by token: tokens count from 0 in the order in which they were sent.
#[derive(Debug, Default)]
pub(crate) struct Appends {
    /// By which connection of the client, and with what outcome.
    sent: Vec<(u32, Outcome)>,
    acknowledged: u64,
    unknown: u64,
    length_last: u64,
}

impl Appends {
    /// The token of the next append. Until it is settled its outcome is unknown.
    pub(crate) fn send(&mut self, connection: u32) -> usize {
        self.sent.push((connection, Outcome::Unknown));
        self.unknown += 1;
        self.sent.len() - 1
    }

    pub(crate) fn refused(&mut self, token: usize) {
        self.sent[token].1 = Outcome::Refused;
        self.unknown -= 1;
    }

    /// Acknowledged, with the list's length after it.
    pub(crate) fn acknowledged(&mut self, token: usize, length: u64) -> Result<(), String> {
        self.sent[token].1 = Outcome::Acknowledged;
        self.unknown -= 1;
        self.acknowledged += 1;
        let longest = self.acknowledged + self.unknown;
        let range = self.length_last.max(self.acknowledged - 1) + 1..=longest;
        self.length_last = length;
        if range.contains(&length) { Ok(()) } else { Err(format!("length {length} is not within {range:?}")) }
    }

    /// Every fault of the list as it was read at the end.
    pub(crate) fn check(&self, list: &[usize]) -> Vec<String> {
        let mut faults = Vec::new();
        let mut seen = vec![false; self.sent.len()];
        let mut acknowledged_last = None;
        let mut last_of = std::collections::BTreeMap::new();
        for &token in list {
            let Some(&(connection, outcome)) = self.sent.get(token) else {
                faults.push(format!("{token} was never sent"));
                continue;
            };
            if std::mem::replace(&mut seen[token], true) {
                faults.push(format!("{token} is there twice"));
            } else if last_of.insert(connection, token).is_some_and(|last| last > token) {
                faults.push(format!("{token} is behind a later one of its connection"));
            }
            match outcome {
                Outcome::Refused => faults.push(format!("{token} was refused, and is there")),
                Outcome::Acknowledged if acknowledged_last.is_some_and(|last| last > token) => {
                    faults.push(format!("{token} is behind a later one"));
                }
                Outcome::Acknowledged => acknowledged_last = Some(token),
                Outcome::Unknown => {}
            }
        }
        let lost = (0..self.sent.len()).filter(|&t| self.sent[t].1 == Outcome::Acknowledged && !seen[t]);
        faults.extend(lost.map(|token| format!("{token} was acknowledged, and is lost")));
        faults
    }
}

/// A checker that finds nothing proves nothing.
#[test]
fn each_fault_of_a_list_is_found() {
    let mut appends = Appends::default();
    let tokens: Vec<usize> = [0, 0, 0, 1, 1].into_iter().map(|connection| appends.send(connection)).collect();
    appends.refused(tokens[1]);
    assert_eq!(appends.acknowledged(tokens[0], 1), Ok(()));
    assert_eq!(appends.acknowledged(tokens[3], 2), Ok(()));
    assert!(appends.acknowledged(tokens[4], 2).is_err(), "a length twice");
    assert_eq!(appends.check(&[0, 3, 4]), Vec::<String>::new());
    assert_eq!(appends.check(&[0, 3, 2, 4]), Vec::<String>::new(), "unknown ones may come late");
    for (list, fault) in [
        (&[0, 3][..], "4 was acknowledged, and is lost"),
        (&[0, 3, 4, 4], "4 is there twice"),
        (&[3, 0, 4], "0 is behind a later one"),
        (&[2, 0, 3, 4], "0 is behind a later one of its connection"),
        (&[0, 1, 3, 4], "1 was refused, and is there"),
        (&[0, 3, 4, 9], "9 was never sent"),
    ] {
        let faults = appends.check(list);
        assert!(faults.iter().any(|f| f == fault), "{fault:?} not in {faults:?}");
    }
}

//! Client libraries, by name and version, as CLIENT SETINFO says them: thousands of clients are made with a few, so a
//! client holds an index.

use super::limits::LIBRARIES_MAX;

/// All that have been named. The first is the one that nobody has named.
#[derive(Debug)]
pub(super) struct Libraries {
    all: Vec<(Box<str>, Box<str>)>,
}

impl Default for Libraries {
    fn default() -> Self {
        Self { all: vec![("".into(), "".into())] }
    }
}

impl Libraries {
    /// Its name and version.
    pub(super) fn get(&self, library: u16) -> (&str, &str) {
        self.all.get(usize::from(library)).map_or(("", ""), |(name, version)| (name, version))
    }

    /// The index of the same library with another name, or another version; that of nobody's where too many are
    /// remembered already.
    pub(super) fn with(&mut self, library: u16, is_name: bool, value: &str) -> u16 {
        let (name, version) = self.get(library);
        let (name, version) =
            if is_name { (value.to_owned(), version.to_owned()) } else { (name.to_owned(), value.to_owned()) };
        self.of(&name, &version)
    }

    pub(super) fn of(&mut self, name: &str, version: &str) -> u16 {
        let known = self.all.iter().position(|(n, v)| **n == *name && **v == *version);
        match known {
            Some(at) => at as u16,
            None if self.all.len() < LIBRARIES_MAX => {
                self.all.push((name.into(), version.into()));
                (self.all.len() - 1) as u16
            }
            None => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_clients_share_a_few() {
        let mut libraries = Libraries::default();
        let named = libraries.with(0, true, "redis-py");
        let whole = libraries.with(named, false, "8.1.0");
        assert_eq!(libraries.get(whole), ("redis-py", "8.1.0"));
        assert_eq!(libraries.of("redis-py", "8.1.0"), whole);
        for n in 0..2 * LIBRARIES_MAX {
            libraries.of("x", &n.to_string());
        }
        assert_eq!((libraries.all.len(), libraries.of("y", "")), (LIBRARIES_MAX, 0));
    }
}

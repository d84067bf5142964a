//! A YAML file as a tree whose every value knows its line and column, and a reader that takes keys out of it one by
//! one and collects every fault on the way: a person mends a file once, not once a fault.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map as Json, Value};
use serde_saphyr::{Location, Spanned};
use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;

/// A fault of the file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// Line and column from 1; 0: not from a place in the file.
    pub line: u64,
    pub column: u64,
    pub text: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {} column {}: ", self.line, self.column)?;
        }
        f.write_str(&self.text)
    }
}

/// Where a value stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Place {
    line: u64,
    column: u64,
}

impl Place {
    pub(super) fn fault(self, text: impl Into<String>) -> Fault {
        Fault { line: self.line, column: self.column, text: text.into() }
    }
}

impl From<Location> for Place {
    fn from(at: Location) -> Self {
        Self { line: at.line(), column: at.column() }
    }
}

/// A value of the tree.
#[derive(Debug, Clone)]
pub(super) enum Node {
    /// Null, a truth value, a number or a text.
    Scalar(Value),
    List(Vec<(Place, Node)>),
    Map(Vec<Entry>),
}

/// A key of a map, with its value.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) place: Place,
    pub(super) node: Node,
}

/// Reads a whole document, which must be a map or empty.
pub(super) fn parse(text: &str) -> Result<Vec<Entry>, Fault> {
    match serde_saphyr::from_str::<Option<Node>>(text) {
        Ok(Some(Node::Map(entries))) => Ok(entries),
        Ok(None | Some(Node::Scalar(Value::Null))) => Ok(Vec::new()),
        Ok(Some(_)) => Err(Place { line: 1, column: 1 }.fault("expected `key: value` lines")),
        Err(e) => {
            let place = e.location().map(Place::from).unwrap_or_default();
            let text = e.without_snippet().to_string();
            let text = text.split_once(": ").filter(|(head, _)| head.starts_with("line ")).map_or(&*text, |(_, t)| t);
            Err(place.fault(text))
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }
    fn visit_bool<E>(self, v: bool) -> Result<Node, E> {
        Ok(Node::Scalar(v.into()))
    }
    fn visit_i64<E>(self, v: i64) -> Result<Node, E> {
        Ok(Node::Scalar(v.into()))
    }
    fn visit_u64<E>(self, v: u64) -> Result<Node, E> {
        Ok(Node::Scalar(v.into()))
    }
    fn visit_f64<E>(self, v: f64) -> Result<Node, E> {
        Ok(Node::Scalar(v.into()))
    }
    fn visit_str<E>(self, v: &str) -> Result<Node, E> {
        Ok(Node::Scalar(v.into()))
    }
    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }
    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = seq.next_element::<Spanned<Node>>()? {
            list.push((item.referenced.into(), item.value));
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            entries.push(Entry { key: key.value, place: key.referenced.into(), node: map.next_value()? });
        }
        Ok(Node::Map(entries))
    }
}

/// Takes keys out of a map. A key that is absent, or null, has its default.
pub(super) struct Reader<'a> {
    /// `log.` within that map, for messages.
    prefix: &'static str,
    entries: Vec<Entry>,
    asked: BTreeSet<&'static str>,
    faults: &'a mut Vec<Fault>,
    /// What each key came to, for people.
    pub(super) shown: Json<String, Value>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(prefix: &'static str, entries: Vec<Entry>, faults: &'a mut Vec<Fault>) -> Self {
        Self { prefix, entries, asked: BTreeSet::new(), faults, shown: Json::new() }
    }

    /// The value of `key` as `read` understands it; on a fault, which is noted, the default.
    pub(super) fn get<T>(&mut self, key: &'static str, default: T, read: impl Fn(&Node) -> Result<T, String>) -> T {
        self.get_placed(key, read).map_or(default, |found| found.0)
    }

    /// As `get`, with the place, for checks that come later.
    pub(super) fn get_placed<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&Node) -> Result<T, String>,
    ) -> Option<(T, Place)> {
        let entry = self.take(key)?;
        match read(&entry.node) {
            Ok(value) => Some((value, entry.place)),
            Err(why) => {
                self.fault(entry.place, format!("{}{key}: {why}", self.prefix));
                None
            }
        }
    }

    /// A map of its own under `key`; what it held is read by `read`.
    pub(super) fn map<T>(&mut self, key: &'static str, prefix: &'static str, read: impl Fn(&mut Reader<'_>) -> T) -> T {
        let entries = self.get(key, Vec::new(), |node| match node {
            Node::Map(entries) => Ok(entries.clone()),
            _ => Err("expected a map of its own, indented below".into()),
        });
        let mut inner = Reader::new(prefix, entries, self.faults);
        let value = read(&mut inner);
        let shown = inner.finish();
        self.shown.insert(key.into(), shown.into());
        value
    }

    /// The maps of the list under `key`, each read by `read`, and then looked at by `check` if nothing was wrong with it.
    /// Its keys are named behind `prefix` in messages. With the place of the list.
    pub(super) fn items<T>(
        &mut self,
        (key, prefix): (&'static str, &'static str),
        read: impl Fn(&mut Reader<'_>) -> T,
        check: impl Fn(&T) -> Result<(), String>,
    ) -> (Vec<T>, Place) {
        let list = self.get_placed(key, |node| match node {
            Node::List(items) => Ok(items.clone()),
            _ => Err("expected a list: `- name: ...`".into()),
        });
        let (items, place) = list.unwrap_or_default();
        let mut found = Vec::new();
        for (at, node) in items {
            let Node::Map(entries) = node else {
                self.fault(at, format!("{key}: expected `name: ...` and what else there is to say of it"));
                continue;
            };
            let before = self.faults.len();
            // A template that came to nothing must not mean "none".
            for empty in entries.iter().filter(|entry| matches!(entry.node, Node::Scalar(Value::Null))) {
                self.fault(empty.place, format!("{prefix}{}: is empty", empty.key));
            }
            let mut inner = Reader::new(prefix, entries, self.faults);
            let one = read(&mut inner);
            inner.finish();
            match check(&one) {
                _ if self.faults.len() > before => {}
                Ok(()) => found.push(one),
                Err(why) => self.fault(at, format!("{key}: {why}")),
            }
        }
        (found, place)
    }

    /// A whole number within `range`.
    pub(super) fn number(&mut self, key: &'static str, default: u64, range: RangeInclusive<u64>) -> u64 {
        let value = self.get(key, default, |node| number(node, &range));
        self.show(key, value);
        value
    }

    /// A duration in milliseconds, given in microseconds.
    pub(super) fn ms(&mut self, key: &'static str, default_us: u64, range_ms: RangeInclusive<u64>) -> u64 {
        self.number(key, default_us / 1000, range_ms) * 1000
    }

    /// A number of bytes, as `64mb` or plain.
    pub(super) fn size(&mut self, key: &'static str, default: usize, range: RangeInclusive<usize>) -> usize {
        let value = self.get(key, default, |node| size(node, &range));
        self.show(key, print_size(value));
        value
    }

    /// A truth value.
    pub(super) fn flag(&mut self, key: &'static str, default: bool) -> bool {
        let value = self.get(key, default, |node| match node {
            Node::Scalar(Value::Bool(value)) => Ok(*value),
            _ => Err("expected true or false".into()),
        });
        self.show(key, value);
        value
    }

    /// A text that is not empty.
    pub(super) fn text(&mut self, key: &'static str) -> Option<(String, Place)> {
        let found = self.get_placed(key, text);
        self.show(key, found.as_ref().map(|f| f.0.clone()));
        found
    }

    pub(super) fn show(&mut self, key: &str, value: impl Into<Value>) {
        self.shown.insert(key.into(), value.into());
    }

    pub(super) fn fault(&mut self, place: Place, text: impl Into<String>) {
        self.faults.push(place.fault(text));
    }

    fn take(&mut self, key: &'static str) -> Option<Entry> {
        self.asked.insert(key);
        let at = self.entries.iter().position(|e| e.key == key)?;
        let entry = self.entries.swap_remove(at);
        (!matches!(entry.node, Node::Scalar(Value::Null))).then_some(entry)
    }

    /// Notes every key that nobody asked for; gives what each key came to.
    pub(super) fn finish(self) -> Json<String, Value> {
        for entry in &self.entries {
            let nearest = self.asked.iter().map(|known| (strsim::damerau_levenshtein(known, &entry.key), known)).min();
            let hint = match nearest {
                Some((distance, known)) if distance <= 2 + known.len() / 6 => format!(": did you mean `{known}`?"),
                _ => format!("; known are {}", self.asked.iter().copied().collect::<Vec<_>>().join(", ")),
            };
            self.faults.push(entry.place.fault(format!("unknown key `{}{}`{hint}", self.prefix, entry.key)));
        }
        self.shown
    }
}

/// A text that is not empty. A number is refused rather than turned into text: `007` would become `7`.
pub(super) fn text(node: &Node) -> Result<String, String> {
    match node {
        Node::Scalar(Value::String(text)) if text.is_empty() => Err("is empty".into()),
        Node::Scalar(Value::String(text)) => Ok(text.clone()),
        Node::Scalar(Value::Number(_) | Value::Bool(_)) => Err("is not a text here: put it in quotes".into()),
        _ => Err("expected a text".into()),
    }
}

/// One text or a list of them, each understood by `read`.
pub(super) fn one_or_many<T>(node: &Node, read: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    match node {
        Node::List(items) => items.iter().map(|(_, item)| text(item).and_then(|t| read(&t))).collect(),
        _ => Ok(vec![text(node).and_then(|t| read(&t))?]),
    }
}

fn number(node: &Node, range: &RangeInclusive<u64>) -> Result<u64, String> {
    let Node::Scalar(Value::Number(n)) = node else { return Err(expected("a whole number", range)) };
    n.as_u64().filter(|n| range.contains(n)).ok_or_else(|| format!("{n}: {}", expected("a whole number", range)))
}

fn expected<T: fmt::Display>(what: &str, range: &RangeInclusive<T>) -> String {
    format!("expected {what} from {} to {}", range.start(), range.end())
}

const UNITS: [(&str, usize); 4] = [("gb", 1 << 30), ("mb", 1 << 20), ("kb", 1 << 10), ("b", 1)];

fn size(node: &Node, range: &RangeInclusive<usize>) -> Result<usize, String> {
    let bytes = match node {
        Node::Scalar(Value::Number(n)) => n.as_u64().and_then(|n| usize::try_from(n).ok()),
        Node::Scalar(Value::String(text)) => size_of_text(&text.to_ascii_lowercase()),
        _ => None,
    };
    let bytes = bytes.ok_or("expected a size, as 512kb, 64mb, 1gb or a number of bytes")?;
    if range.contains(&bytes) {
        return Ok(bytes);
    }
    Err(format!("{}: from {} to {}", print_size(bytes), print_size(*range.start()), print_size(*range.end())))
}

fn size_of_text(text: &str) -> Option<usize> {
    let (digits, unit) = UNITS.iter().find_map(|u| Some((text.strip_suffix(u.0)?, u.1)))?;
    digits.trim_end().parse::<usize>().ok()?.checked_mul(unit)
}

/// As short as it goes without rounding.
fn print_size(bytes: usize) -> String {
    let unit = UNITS.iter().find(|u| bytes >= u.1 && bytes.is_multiple_of(u.1)).unwrap_or(&UNITS[3]);
    format!("{}{}", bytes / unit.1, unit.0)
}

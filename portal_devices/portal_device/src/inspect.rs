//! The inspect view: a tree of named values, in the order given.
//!
//! Serialises as a map, so that `--json` and a terminal view take the same
//! tree, and is read back from one by whoever asked for it over a socket.
//!
//! Distrusted: text and names in a tree that was read back, and names that a
//! tree took from a region. What is shown goes through [`Plain`]. A tree that is
//! read back has at most [`ENTRIES_MAX`] entries; how deep it may be is its
//! parser's to limit.

use serde::de::DeserializeSeed;
use serde::de::MapAccess;
use serde::de::SeqAccess;
use serde::de::Visitor;
use serde::ser::SerializeMap;
use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
use std::fmt::Write as _;

/// Most entries of a tree that is read back: 64 regions of 1024 peers have some
/// 800,000.
pub const ENTRIES_MAX: usize = 1 << 20;

/// A value in the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A number shown in decimal.
    Number(u64),
    /// A number shown in hexadecimal: an address or a register.
    Hex(u64),
    /// Yes or no.
    Flag(bool),
    /// Text.
    Text(Cow<'static, str>),
    /// A subtree.
    Node(Node),
    /// Nothing there.
    Absent,
}

/// Named values in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    entries: Vec<(Cow<'static, str>, Value)>,
}

/// A number that an operator reads in hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hex(pub u64);

impl Node {
    /// A node with no entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an entry at the end.
    pub fn with(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<Value>) -> Self {
        self.push(name, value);
        self
    }

    /// Adds an entry at the end.
    pub fn push(&mut self, name: impl Into<Cow<'static, str>>, value: impl Into<Value>) {
        self.entries.push((name.into(), value.into()));
    }

    /// The entries, in order.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries
            .iter()
            .map(|(name, value)| (name.as_ref(), value))
    }

    /// The value at a path of names joined by `/`.
    pub fn get(&self, path: &str) -> Option<&Value> {
        let (head, rest) = match path.split_once('/') {
            Some((head, rest)) => (head, Some(rest)),
            None => (path, None),
        };
        let value = &self.entries.iter().find(|(name, _)| name == head)?.1;
        match (rest, value) {
            (None, value) => Some(value),
            (Some(rest), Value::Node(node)) => node.get(rest),
            (Some(_), _) => None,
        }
    }

    /// The subtree at a path of names joined by `/`, to add to it.
    pub fn subtree(&mut self, path: &str) -> Option<&mut Node> {
        let (head, rest) = match path.split_once('/') {
            Some((head, rest)) => (head, Some(rest)),
            None => (path, None),
        };
        let (_, value) = self.entries.iter_mut().find(|(name, _)| name == head)?;
        match (rest, value) {
            (None, Value::Node(node)) => Some(node),
            (Some(rest), Value::Node(node)) => node.subtree(rest),
            _ => None,
        }
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, depth: usize) -> fmt::Result {
        for (name, value) in &self.entries {
            let (indent, name) = (depth.saturating_mul(2), Plain(name));
            match value {
                Value::Node(node) => {
                    writeln!(f, "{:indent$}{name}:", "")?;
                    node.write(f, depth.saturating_add(1))?;
                }
                value => writeln!(f, "{:indent$}{name}: {value}", "")?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, 0)
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Number(n) => write!(f, "{n}"),
            Value::Hex(n) => write!(f, "{n:#x}"),
            Value::Flag(b) => write!(f, "{b}"),
            Value::Text(t) => write!(f, "{}", Plain(t)),
            Value::Absent => f.write_str("-"),
            Value::Node(node) => write!(f, "{node}"),
        }
    }
}

/// Text that somebody else chose, on its way to a terminal: whatever a terminal
/// could take for a command, and what makes text look different from what it is
/// (bidirectional marks, characters without width), is shown as `\u{...}`.
#[derive(Clone, Copy, Debug)]
pub struct Plain<'a>(pub &'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if is_plain(c) {
                f.write_char(c)?;
            } else {
                write!(f, "{}", c.escape_unicode())?;
            }
        }
        Ok(())
    }
}

/// Whether `c` shows as itself and as nothing else.
pub fn is_plain(c: char) -> bool {
    let hidden = matches!(
        c,
        '\u{00ad}'
            | '\u{034f}'
            | '\u{061c}'
            | '\u{115f}'
            | '\u{1160}'
            | '\u{17b4}'
            | '\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e0fff}'
    );
    !c.is_control() && !hidden
}

impl serde::Serialize for Node {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.entries.len()))?;
        for (name, value) in &self.entries {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl serde::Serialize for Value {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Number(n) | Value::Hex(n) => serializer.serialize_u64(*n),
            Value::Flag(b) => serializer.serialize_bool(*b),
            Value::Text(t) => serializer.serialize_str(t),
            Value::Node(node) => node.serialize(serializer),
            Value::Absent => serializer.serialize_none(),
        }
    }
}

impl<'de> serde::Deserialize<'de> for Node {
    /// A map becomes a node, and so does a list, with the names 0, 1, ...; a
    /// number that is no u64 becomes text. More than [`ENTRIES_MAX`] entries are
    /// an error.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let left = Cell::new(ENTRIES_MAX);
        match ReadValue(&left).deserialize(deserializer)? {
            Value::Node(node) => Ok(node),
            _ => Err(serde::de::Error::custom("a tree is a map or a list")),
        }
    }
}

/// Reads a value as long as entries are left.
#[derive(Clone, Copy)]
struct ReadValue<'a>(&'a Cell<usize>);

impl ReadValue<'_> {
    /// One entry more.
    fn count<E: serde::de::Error>(self) -> Result<(), E> {
        let left = self.0.get().checked_sub(1);
        let left = left.ok_or_else(|| E::custom(format!("more than {ENTRIES_MAX} entries")))?;
        self.0.set(left);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for ReadValue<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ReadValue<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, true, false, text, null, a map or a list")
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Value, E> {
        Ok(Value::Flag(flag))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Number(number))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Text(number.to_string().into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Value::Text(number.to_string().into()))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned().into()))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::Text(text.into()))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Absent)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut node = Node::new();
        while let Some(name) = map.next_key::<String>()? {
            self.count()?;
            node.push(name, map.next_value_seed(self)?);
        }
        Ok(Value::Node(node))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut node = Node::new();
        while let Some(value) = list.next_element_seed(self)? {
            self.count()?;
            node.push(node.entries.len().to_string(), value);
        }
        Ok(Value::Node(node))
    }
}

impl From<u64> for Value {
    fn from(n: u64) -> Self {
        Value::Number(n)
    }
}

impl From<u32> for Value {
    fn from(n: u32) -> Self {
        Value::Number(n.into())
    }
}

impl From<u16> for Value {
    fn from(n: u16) -> Self {
        Value::Number(n.into())
    }
}

impl From<Hex> for Value {
    fn from(n: Hex) -> Self {
        Value::Hex(n.0)
    }
}

impl From<bool> for Value {
    fn from(b: bool) -> Self {
        Value::Flag(b)
    }
}

impl From<&'static str> for Value {
    fn from(t: &'static str) -> Self {
        Value::Text(t.into())
    }
}

impl From<String> for Value {
    fn from(t: String) -> Self {
        Value::Text(t.into())
    }
}

impl From<Node> for Value {
    fn from(node: Node) -> Self {
        Value::Node(node)
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Value::Absent, Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Node {
        Node::new()
            .with("id", 3u16)
            .with(
                "bar0",
                Node::new()
                    .with("gpa", Some(Hex(0xc000_0000)))
                    .with("mapped", true),
            )
            .with("peer", None::<u64>)
    }

    #[test]
    fn paths_lead_to_values() {
        let tree = tree();
        assert_eq!(tree.get("bar0/gpa"), Some(&Value::Hex(0xc000_0000)));
        assert_eq!(tree.get("bar0/gpa/deeper"), None);
        assert_eq!(tree.get("bar1"), None);
        let mut tree = tree;
        assert_eq!(tree.subtree("id"), None, "a number");
        let bar0 = tree.subtree("bar0").expect("a subtree");
        bar0.push("reads", 7u64);
        assert_eq!(tree.get("bar0/reads"), Some(&Value::Number(7)));
    }

    #[test]
    fn text_and_json_show_the_same_order() {
        let tree = tree();
        assert_eq!(
            tree.to_string(),
            "id: 3\nbar0:\n  gpa: 0xc0000000\n  mapped: true\npeer: -\n"
        );
        assert_eq!(
            serde_json::to_string(&tree).expect("a tree serialises"),
            r#"{"id":3,"bar0":{"gpa":3221225472,"mapped":true},"peer":null}"#
        );
    }

    #[test]
    fn what_was_written_is_read_back_in_order() {
        let text = r#"{"z":1,"a":{"b":true,"c":null},"list":["x",-1,2.5],"10":0,"9":0}"#;
        let tree: Node = serde_json::from_str(text).expect("a tree");
        let names: Vec<_> = tree.entries().map(|(name, _)| name).collect();
        assert_eq!(names, ["z", "a", "list", "10", "9"]);
        assert_eq!(tree.get("a/b"), Some(&Value::Flag(true)));
        assert_eq!(tree.get("a/c"), Some(&Value::Absent));
        assert_eq!(tree.get("list/1"), Some(&Value::Text("-1".into())));
        for bad in ["1", "null", "{", r#"{"a":}"#] {
            assert!(serde_json::from_str::<Node>(bad).is_err(), "{bad}");
        }
        let deep = format!("{}1{}", r#"{"a":"#.repeat(1000), "}".repeat(1000));
        assert!(serde_json::from_str::<Node>(&deep).is_err(), "too deep");
        let long = |entries| format!("[{}0]", "0,".repeat(entries - 1));
        assert!(serde_json::from_str::<Node>(&long(ENTRIES_MAX)).is_ok());
        let error = serde_json::from_str::<Node>(&long(ENTRIES_MAX + 1));
        assert!(error.is_err_and(|e| e.to_string().contains("entries")));
    }

    #[test]
    fn nothing_that_a_terminal_obeys_is_printed() {
        let hostile = "a\x1b[2J\x07\r\n\u{9b}31m\u{202e}b\u{200b}\u{7f}";
        let tree = Node::new().with(hostile.to_owned(), hostile.to_owned());
        let shown = tree.to_string();
        assert!(
            shown.ends_with('\n') && shown.lines().count() == 1,
            "{shown}"
        );
        assert!(shown.trim_end().chars().all(is_plain), "{shown:?}");
        assert!(shown.contains("\\u{1b}[2J"), "{shown}");
        assert_eq!(Plain("größe 3 µs").to_string(), "größe 3 µs");
    }
}

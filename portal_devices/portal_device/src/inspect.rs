//! The inspect view: a tree of named values, in the order given.
//!
//! Serialises as a map, so that `--json` and a terminal view take the same
//! tree.

use serde::ser::SerializeMap;
use std::borrow::Cow;
use std::fmt;

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

    fn write(&self, f: &mut fmt::Formatter<'_>, depth: usize) -> fmt::Result {
        for (name, value) in &self.entries {
            let indent = depth.saturating_mul(2);
            match value {
                Value::Number(n) => writeln!(f, "{:indent$}{name}: {n}", "")?,
                Value::Hex(n) => writeln!(f, "{:indent$}{name}: {n:#x}", "")?,
                Value::Flag(b) => writeln!(f, "{:indent$}{name}: {b}", "")?,
                Value::Text(t) => writeln!(f, "{:indent$}{name}: {t}", "")?,
                Value::Absent => writeln!(f, "{:indent$}{name}: -", "")?,
                Value::Node(node) => {
                    writeln!(f, "{:indent$}{name}:", "")?;
                    node.write(f, depth.saturating_add(1))?;
                }
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
}

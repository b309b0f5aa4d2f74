//! Taking typed values out of a TOML table. Every key must be taken; what is left
//! over is a flaw that names the key and the nearest one that exists.

use super::source::Flaw;
use super::source::Located;
use bytesize::ByteSize;
use std::ops::Range;
use toml::Spanned;
use toml::de::DeTable;
use toml::de::DeValue;

/// One table while it is being read.
pub(crate) struct Reader<'t, 'i> {
    table: &'t DeTable<'i>,
    span: Range<usize>,
    path: String,
    asked: Vec<&'static str>,
}

/// The table's own name, once known, stands in every later flaw's key.
impl<'t, 'i> Reader<'t, 'i> {
    pub(crate) fn new(table: &'t DeTable<'i>, span: Range<usize>, path: &str) -> Self {
        Self {
            table,
            span,
            path: path.to_owned(),
            asked: Vec::new(),
        }
    }

    /// Renames the table in flaws from here on.
    pub(crate) fn name(&mut self, path: String) {
        self.path = path;
    }

    fn key(&self, name: &str) -> String {
        match self.path.as_str() {
            "" => name.to_owned(),
            path => format!("{path}.{name}"),
        }
    }

    fn get(&mut self, name: &'static str) -> Option<Located<&'t DeValue<'i>>> {
        self.asked.push(name);
        let (_, value) = self.table.iter().find(|(k, _)| k.get_ref() == name)?;
        Some(Located {
            value: value.get_ref(),
            span: value.span(),
            key: self.key(name),
        })
    }

    /// The flaw of a key that must be there and is not; points at the table.
    pub(crate) fn missing(&self, name: &str, hint: &str) -> Flaw {
        Flaw {
            span: self.span.clone(),
            key: self.key(name),
            what: "is missing".to_owned(),
            hint: Some(hint.to_owned()),
        }
    }

    /// Takes a string.
    pub(crate) fn string(
        &mut self,
        name: &'static str,
        flaws: &mut Vec<Flaw>,
    ) -> Option<Located<String>> {
        let at = self.get(name)?;
        match at.value {
            DeValue::String(s) => Some(at.map(|_| s.clone().into_owned())),
            other => {
                flaws.push(at.flaw(format!("is {}, not a string", kind(other))));
                None
            }
        }
    }

    /// Takes `true` or `false`.
    pub(crate) fn flag(
        &mut self,
        name: &'static str,
        flaws: &mut Vec<Flaw>,
    ) -> Option<Located<bool>> {
        let at = self.get(name)?;
        match at.value {
            DeValue::Boolean(b) => Some(at.map(|_| *b)),
            other => {
                flaws.push(at.flaw(format!("is {}, not true or false", kind(other))));
                None
            }
        }
    }

    /// Takes a whole number within `limits`, written as a number or, for those
    /// that TOML's 64 signed bits cannot hold, as a string (`"0x1000000000"`).
    pub(crate) fn number(
        &mut self,
        name: &'static str,
        limits: Range<u64>,
        flaws: &mut Vec<Flaw>,
    ) -> Option<Located<u64>> {
        let at = self.get(name)?;
        let number = match at.value {
            DeValue::Integer(i) => {
                u64::from_str_radix(&i.as_str().replace('_', ""), i.radix()).ok()
            }
            DeValue::String(s) => parse_number(s),
            other => {
                flaws.push(at.flaw(format!("is {}, not a number", kind(other))));
                return None;
            }
        };
        match number {
            Some(n) if limits.contains(&n) => Some(at.map(|_| n)),
            Some(n) => {
                flaws.push(at.flaw(format!(
                    "{n} is not between {} and {}",
                    limits.start,
                    limits.end - 1
                )));
                None
            }
            None => {
                flaws.push(at.flaw("is no whole number of at most 64 bits").hint(
                    "numbers are decimal, or hexadecimal with 0x; digits may be grouped with _",
                ));
                None
            }
        }
    }

    /// Takes a number of bytes: a number, or a string with a unit (`"64 MiB"`).
    pub(crate) fn size(
        &mut self,
        name: &'static str,
        flaws: &mut Vec<Flaw>,
    ) -> Option<Located<u64>> {
        let at = self.get(name)?;
        let bytes = match at.value {
            DeValue::Integer(i) => {
                u64::from_str_radix(&i.as_str().replace('_', ""), i.radix()).ok()
            }
            DeValue::String(s) => parse_number(s).or_else(|| parse_size(s)),
            other => {
                flaws.push(at.flaw(format!("is {}, not a number of bytes", kind(other))));
                return None;
            }
        };
        if bytes.is_none() {
            flaws.push(
                at.flaw("is no number of bytes")
                    .hint("write bytes as a number, or a number with KiB, MiB or GiB: \"64 MiB\""),
            );
        }
        bytes.map(|b| at.map(|_| b))
    }

    /// Takes an array of tables, each as a reader of its own.
    pub(crate) fn tables(
        &mut self,
        name: &'static str,
        flaws: &mut Vec<Flaw>,
    ) -> Vec<Reader<'t, 'i>> {
        let Some(at) = self.get(name) else {
            return Vec::new();
        };
        let DeValue::Array(array) = at.value else {
            let hint = format!("write [[{}]] for each one", at.key);
            flaws.push(
                at.flaw(format!("is {}, not a list of tables", kind(at.value)))
                    .hint(hint),
            );
            return Vec::new();
        };
        let mut readers = Vec::new();
        for (i, item) in array.iter().enumerate() {
            let path = format!("{}[{i}]", at.key);
            match item.get_ref() {
                DeValue::Table(table) => readers.push(Reader::new(table, item.span(), &path)),
                other => flaws.push(Flaw {
                    span: item.span(),
                    key: path,
                    what: format!("is {}, not a table", kind(other)),
                    hint: None,
                }),
            }
        }
        readers
    }

    /// Whether the table has this key; does not count as taking it.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.table.iter().any(|(k, _)| k.get_ref() == name)
    }

    /// Whether the key is there; it counts as read.
    pub(crate) fn take(&mut self, name: &'static str) -> bool {
        self.get(name).is_some()
    }

    /// Where the table stands.
    pub(crate) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// Reports every key that nobody asked for.
    pub(crate) fn finish(self, flaws: &mut Vec<Flaw>) {
        for (key, _) in self.table.iter() {
            if self.asked.iter().any(|a| a == key.get_ref()) {
                continue;
            }
            let hint = match nearest(key.get_ref(), &self.asked) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known keys here: {}", self.asked.join(", ")),
            };
            flaws.push(Flaw {
                span: Spanned::span(key),
                key: self.key(key.get_ref()),
                what: "is no key of this table".to_owned(),
                hint: Some(hint),
            });
        }
    }
}

impl<T> Located<T> {
    /// Another value at the same place.
    pub(crate) fn map<U>(self, with: impl FnOnce(T) -> U) -> Located<U> {
        Located {
            value: with(self.value),
            span: self.span,
            key: self.key,
        }
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// A whole number of at most 64 bits, decimal or with `0x`.
pub(crate) fn parse_number(text: &str) -> Option<u64> {
    let digits = text.trim().replace('_', "");
    if digits.starts_with('+') {
        return None;
    }
    match digits.strip_prefix("0x") {
        // `from_str_radix` would take a second sign.
        Some(hex) if !hex.starts_with('+') => u64::from_str_radix(hex, 16).ok(),
        Some(_) => None,
        None => digits.parse().ok(),
    }
}

/// A number of bytes with its unit: `64 MiB`, `1GiB`, `512 kB`.
pub(crate) fn parse_size(text: &str) -> Option<u64> {
    text.trim().parse::<ByteSize>().ok().map(|b| b.as_u64())
}

/// The known word nearest to `word`, when few letters differ.
pub(crate) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).max(1);
    known
        .iter()
        .map(|k| (distance(word, k), *k))
        .filter(|(d, k)| *d <= limit && *d < k.len().min(word.len()))
        .min_by_key(|(d, _)| *d)
        .map(|(_, k)| k)
}

/// Levenshtein distance; the first row of the classic table is enough memory.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// A string that is one of these words.
pub(super) fn choice(
    table: &mut Reader<'_, '_>,
    key: &'static str,
    among: &[&str],
    flaws: &mut Vec<Flaw>,
) -> Option<Located<String>> {
    let found = table.string(key, flaws)?;
    if among.contains(&found.value.as_str()) {
        return Some(found);
    }
    let hint = match nearest(&found.value, among) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => format!("it is one of \"{}\"", among.join("\", \"")),
    };
    flaws.push(
        found
            .flaw(format!("{:?} is not known", found.value))
            .hint(hint),
    );
    None
}

/// A default, standing where its table stands.
pub(super) fn absent(table: &Reader<'_, '_>, value: u64) -> Located<u64> {
    Located {
        value,
        span: table.span(),
        key: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(parse_number("0x10_0000_0000"), Some(0x10_0000_0000));
        assert_eq!(parse_number("0xffff_ffff_ffff_ffff"), Some(u64::MAX));
        assert_eq!(parse_number("4_096"), Some(4096));
        for bad in [
            "",
            "-1",
            "+1",
            "0x+1",
            "1.5",
            "0x",
            "18446744073709551616",
            "12 MiB",
        ] {
            assert_eq!(parse_number(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("64 MiB"), Some(64 << 20));
        assert_eq!(parse_size("1GiB"), Some(1 << 30));
        assert_eq!(parse_size("64 MB"), Some(64_000_000));
        for bad in ["", "MiB", "64 MiBs", "-1 MiB", "many"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }

    #[test]
    fn near_words() {
        assert_eq!(nearest("sise", &["name", "size", "peers"]), Some("size"));
        assert_eq!(
            nearest("parttition", &["region", "partition"]),
            Some("partition")
        );
        assert_eq!(nearest("colour", &["name", "size"]), None);
        assert_eq!(nearest("c", &["a", "b"]), None);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}

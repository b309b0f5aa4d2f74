//! The text of a configuration file, and flaws that point into it.

use std::fmt;
use std::ops::Range;

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Located<T> {
    /// The value.
    pub value: T,
    /// Its bytes in the file.
    pub span: Range<usize>,
    /// Its key, from the file's root: `partition.a.ram`.
    pub key: String,
}

/// Something wrong with a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flaw {
    /// Where, in bytes of the file.
    pub span: Range<usize>,
    /// The key, from the file's root; empty when the text is no TOML.
    pub key: String,
    /// The value and the limit that it breaks.
    pub what: String,
    /// What to write instead.
    pub hint: Option<String>,
}

impl<T> Located<T> {
    /// A flaw of this value.
    pub(crate) fn flaw(&self, what: impl Into<String>) -> Flaw {
        Flaw {
            span: self.span.clone(),
            key: self.key.clone(),
            what: what.into(),
            hint: None,
        }
    }
}

impl Flaw {
    /// The same flaw with advice.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Everything that is wrong with one file, in the order of its lines.
#[derive(Debug, thiserror::Error)]
pub(crate) struct Flaws {
    file: String,
    text: String,
    flaws: Vec<Flaw>,
}

impl Flaws {
    /// Takes the flaws of `text`, which came from `file`.
    pub(crate) fn new(file: &str, text: &str, mut flaws: Vec<Flaw>) -> Self {
        flaws.sort_by_key(|f| (f.span.start, f.span.end));
        flaws.dedup();
        Self {
            file: file.to_owned(),
            text: text.to_owned(),
            flaws,
        }
    }
}

impl fmt::Display for Flaws {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = match self.flaws.len() {
            1 => "1 flaw".to_owned(),
            n => format!("{n} flaws"),
        };
        write!(f, "{count} in {}", self.file)?;
        for flaw in &self.flaws {
            writeln!(f)?;
            let place = Place::of(&self.text, &flaw.span);
            let key = if flaw.key.is_empty() {
                String::new()
            } else {
                format!("{}: ", flaw.key)
            };
            let Place { line, column, .. } = place;
            writeln!(f, "{}:{line}:{column}: {key}{}", self.file, flaw.what)?;
            let Excerpt { text, at, width } = place.excerpt();
            writeln!(f, "{line:>5} | {text}")?;
            write!(f, "      | {}{}", " ".repeat(at), "^".repeat(width))?;
            if let Some(hint) = &flaw.hint {
                write!(f, "\n      = {hint}")?;
            }
        }
        Ok(())
    }
}

/// Characters of a line that are shown around a flaw.
const SHOWN: usize = 96;

/// The part of a line that a flaw is in.
struct Excerpt {
    text: String,
    /// Characters before the flaw.
    at: usize,
    /// Characters of the flaw that are shown.
    width: usize,
}

struct Place<'t> {
    line: usize,
    column: usize,
    width: usize,
    text: &'t str,
}

impl<'t> Place<'t> {
    fn of(text: &'t str, span: &Range<usize>) -> Self {
        let at = (0..=span.start.min(text.len()))
            .rev()
            .find(|&i| text.is_char_boundary(i))
            .unwrap_or(0);
        let start = text[..at].rfind('\n').map_or(0, |i| i + 1);
        let end = text[at..].find('\n').map_or(text.len(), |i| at + i);
        let line_text = text[start..end].trim_end_matches('\r');
        let column = text[start..at].chars().count() + 1;
        let marked = text.get(at..span.end.clamp(at, end)).unwrap_or_default();
        Self {
            line: text[..start].matches('\n').count() + 1,
            column,
            width: marked.trim_end().chars().count().max(1),
            text: line_text,
        }
    }
}

impl Place<'_> {
    /// A line of reasonable length whole, of another one the flaw's beginning.
    fn excerpt(&self) -> Excerpt {
        let chars = self.text.chars().count();
        let skip = match self.column - 1 {
            before if chars > SHOWN => before.saturating_sub(SHOWN / 3),
            _ => 0,
        };
        let shown = self.text.chars().skip(skip).take(SHOWN);
        let dots = |yes: bool| if yes { "..." } else { "" };
        let (left, right) = (dots(skip > 0), dots(chars - skip > SHOWN));
        let at = self.column - 1 - skip;
        Excerpt {
            text: format!("{left}{}{right}", shown.collect::<String>()),
            at: at + left.len(),
            width: self.width.min(SHOWN - at).max(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flaw(span: Range<usize>) -> Flaw {
        Flaw {
            span,
            key: "a.b".to_owned(),
            what: "wrong".to_owned(),
            hint: Some("right".to_owned()),
        }
    }

    #[test]
    fn points_at_line_and_column() {
        let text = "one = 1\ntwo = \"é\" # x\nthree = 3";
        let shown = Flaws::new("f.toml", text, vec![flaw(14..18)]).to_string();
        let expected = "1 flaw in f.toml\nf.toml:2:7: a.b: wrong\n    2 | two = \"é\" # x\n      |       ^^^\n      = right";
        assert_eq!(shown, expected);
    }

    #[test]
    fn spans_past_the_end_or_inside_a_character_do_not_panic() {
        let text = "é";
        for span in [0..99, 1..2, 99..100, 2..2] {
            let _ = Flaws::new("f", text, vec![flaw(span)]).to_string();
        }
        let _ = Flaws::new("f", "", vec![flaw(0..0)]).to_string();
    }

    #[test]
    fn of_a_long_line_the_flaw_is_shown() {
        let text = format!("key = \"{}\"", "é".repeat(5000));
        for span in [6..text.len(), 4006..4008, text.len() - 3..text.len()] {
            let shown = Flaws::new("f", &text, vec![flaw(span.clone())]).to_string();
            let longest = shown.lines().map(|line| line.chars().count()).max();
            assert!(longest.is_some_and(|it| it < 120), "{span:?}: {shown}");
            assert!(shown.contains("..."), "{shown}");
        }
    }

    #[test]
    fn flaws_come_in_the_order_of_the_lines() {
        let shown = Flaws::new("f", "a\nb\n", vec![flaw(2..3), flaw(0..1)]).to_string();
        assert!(shown.find("f:1:1").unwrap() < shown.find("f:2:1").unwrap());
    }
}

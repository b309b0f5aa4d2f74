//! Added lines and where they go.
//!
//! A place is a line that contains some words in order. Nobody else's text is
//! needed to describe it: the words are names of interfaces.

use serde::Deserialize;
use std::path::PathBuf;

/// Lines to add to one file.
#[derive(Debug, Deserialize)]
pub(super) struct Edit {
    /// The file, relative to the checkout.
    pub file: PathBuf,
    /// The place in our own words, for a reader and for the report.
    pub place: String,
    /// Only lines below the first that contains these words count; then the
    /// first match is taken. Without it the match has to be the only one.
    #[serde(default)]
    below: Vec<String>,
    /// Where, relative to the line found.
    #[serde(flatten)]
    at: At,
    /// The lines.
    text: String,
}

/// Where lines go.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum At {
    /// Behind the line that contains these words.
    After(Vec<String>),
    /// Before it.
    Before(Vec<String>),
    /// In place of it.
    Instead(Vec<String>),
}

impl Edit {
    /// The place as the report names it.
    pub(super) fn shown(&self) -> String {
        format!("{}, {}", self.file.display(), self.place)
    }

    /// `text` with the lines, or `None` when they are in it already.
    ///
    /// # Errors
    /// Why there is no such place.
    pub(super) fn apply(&self, text: &str) -> Result<Option<String>, String> {
        let mut lines: Vec<&str> = text.lines().collect();
        let added: Vec<&str> = self.text.lines().collect();
        if lines
            .windows(added.len().max(1))
            .any(|there| there == added.as_slice())
        {
            return Ok(None);
        }
        let (at, replaced) = match &self.at {
            At::After(words) => (self.find(&lines, words)? + 1, 0),
            At::Before(words) => (self.find(&lines, words)?, 0),
            At::Instead(words) => (self.find(&lines, words)?, 1),
        };
        lines.splice(at..at + replaced, added);
        let mut text = lines.join("\n");
        text.push('\n');
        Ok(Some(text))
    }

    fn find(&self, lines: &[&str], words: &[String]) -> Result<usize, String> {
        let has = |line: &str, words: &[String]| {
            let mut rest = line;
            words
                .iter()
                .all(|word| match rest.split_once(word.as_str()) {
                    Some((_, behind)) => {
                        rest = behind;
                        true
                    }
                    None => false,
                })
        };
        let start = if self.below.is_empty() {
            0
        } else {
            let start = lines.iter().position(|line| has(line, &self.below));
            start.ok_or_else(|| format!("no line has {:?}", self.below))? + 1
        };
        let mut found = (start..lines.len()).filter(|&i| has(lines[i], words));
        let first = found
            .next()
            .ok_or_else(|| format!("no line has {words:?}"))?;
        match found.next() {
            Some(second) if self.below.is_empty() => Err(format!(
                "lines {} and {} both have {words:?}",
                first + 1,
                second + 1
            )),
            _ => Ok(first),
        }
    }
}

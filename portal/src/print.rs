//! Standard output that may be a closed pipe.

use crate::exit::Failure;
use crate::exit::Kind;
use serde::Serialize;
use std::io::Write as _;

/// Prints one line. A reader that has gone (`portal ... | head`) ends the
/// output, not the work.
pub(crate) fn line(text: impl AsRef<str>) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{}", text.as_ref());
}

/// Prints one line of output that goes on for ever. `false` once nobody reads.
pub(crate) fn read_line(text: &str) -> bool {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).is_ok()
}

/// Prints one JSON value, with text of others in it, on one line. What a terminal
/// could obey is escaped as JSON does it.
///
/// # Errors
/// When the value cannot be written as JSON.
pub(crate) fn plain_json(value: &impl Serialize) -> Result<(), Failure> {
    line(escaped(&text(value)?));
    Ok(())
}

/// JSON's structure is ASCII, so that what is escaped here is inside a string.
fn escaped(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if portal_device::inspect::is_plain(c) {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    out
}

/// Prints one JSON value on one line.
///
/// # Errors
/// When the value cannot be written as JSON.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    line(text(value)?);
    Ok(())
}

fn text(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|e| {
        Failure::new(
            Kind::Failed,
            format!("cannot write the result as JSON: {e}"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_plain_and_means_the_same() {
        let hostile = "a\x1b[2J\n\u{9b}31m\u{202e}\u{e0041}\\ \"é\u{7f}";
        let text = escaped(&serde_json::to_string(hostile).expect("JSON"));
        assert!(
            text.chars().all(portal_device::inspect::is_plain),
            "{text:?}"
        );
        let back: String = serde_json::from_str(&text).expect("JSON");
        assert_eq!(back, hostile);
    }
}

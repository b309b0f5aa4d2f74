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

/// Prints one JSON value on one line.
///
/// # Errors
/// When the value cannot be written as JSON.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(|e| {
        Failure::new(
            Kind::Failed,
            format!("cannot write the result as JSON: {e}"),
        )
    })?;
    line(text);
    Ok(())
}

//! How a step of the pipeline ends.

/// How a step ended.
pub(crate) enum Ended {
    /// It passed.
    Passed,
    /// It failed; the text says what, with the command.
    Failed(String),
    /// It did not run here, and why.
    Skipped(String),
}

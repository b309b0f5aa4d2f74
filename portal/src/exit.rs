//! How the command ends: exit codes by kind of failure, and errors that say what
//! to do.

use std::fmt;
use std::process::ExitCode;

/// The end of `portal --help`.
pub(crate) const HELP: &str = "\
Start here:
  portal demo                    two virtual machines, one region, what it costs
  portal demo --file film.mkv    the bytes of a file from one to the other, checked
  portal doctor                  what this host has and lacks

Exit codes:
  0   ok
  1   it ran and the result is bad (a hash differs, a bench gate is missed)
  2   the command line is wrong
  3   a configuration or an input file is wrong
  4   this host lacks something (run `portal doctor`)
  5   a partition stopped with a fault
  6   a region breaks one of its invariants
  7   a step took longer than its deadline
  130 interrupted";

/// What kind of thing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It ran and the result is bad.
    Failed = 1,
    /// The command line is wrong in a way that its parser cannot see.
    Usage = 2,
    /// A configuration or an input file is wrong.
    Input = 3,
    /// This host lacks something.
    Host = 4,
    /// A partition stopped with a fault.
    Guest = 5,
    /// A region breaks one of its invariants.
    Region = 6,
    /// A step took longer than its deadline.
    Deadline = 7,
    /// Ctrl-C or SIGTERM, where that is no way to end.
    Interrupted = 130,
}

impl From<Kind> for ExitCode {
    fn from(kind: Kind) -> Self {
        Self::from(kind as u8)
    }
}

/// Why a command failed: the thing, the value, the limit; and what to do.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Decides the exit code.
    pub kind: Kind,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure of `kind`.
    pub(crate) fn new(kind: Kind, what: impl fmt::Display) -> Self {
        Self {
            kind,
            what: what.to_string(),
            hint: None,
        }
    }

    /// The same with advice.
    pub(crate) fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.what)?;
        if let Some(hint) = &self.hint {
            write!(f, "\n  {}", hint.replace('\n', "\n  "))?;
        }
        Ok(())
    }
}

/// What a command returns.
pub(crate) type Outcome = Result<(), Failure>;

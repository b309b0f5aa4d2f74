//! How a test of the matrix ends when it does not pass.

use std::fmt;
use std::io;
use std::path::Path;

/// Why a test did not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotPassed {
    /// It does not apply, or this machine cannot run it.
    Skipped(String),
    /// It ran and something is wrong.
    Failed(String),
}

impl NotPassed {
    /// A test that is skipped.
    pub fn skipped(why: impl fmt::Display) -> Self {
        Self::Skipped(why.to_string())
    }

    /// A test that failed.
    pub fn failed(why: impl fmt::Display) -> Self {
        Self::Failed(why.to_string())
    }

    /// What a test fails with when the system refuses something about a file.
    pub fn of_file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Failed(format!("{}: {error}", path.display()))
    }
}

impl fmt::Display for NotPassed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Skipped(why) => write!(f, "skipped: {why}"),
            Self::Failed(why) => f.write_str(why),
        }
    }
}

/// What a test returns.
pub type Passed<T = ()> = Result<T, NotPassed>;

/// Fails the test unless `holds`.
///
/// # Errors
/// [`NotPassed::Failed`] with what `why` says.
pub fn check(holds: bool, why: impl FnOnce() -> String) -> Passed {
    if holds {
        Ok(())
    } else {
        Err(NotPassed::Failed(why()))
    }
}

//! What can go wrong while measuring.
//!
//! No peer is distrusted here: both ends of every benchmark are ours. A ring
//! that reports a violation during a benchmark is therefore a bug, and arrives
//! as [`BenchError::Broken`].

/// Why a benchmark gave no figure.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The host lacks something that this goal needs; the text says what and
    /// what to do about it.
    #[error("{0}")]
    Unavailable(String),
    /// A system call failed.
    #[error("{what}: {source}")]
    Os {
        /// What was being done.
        what: &'static str,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The code under measurement failed, or gave a wrong answer.
    #[error("{0}")]
    Broken(String),
    /// One side waited for the other for longer than any sample takes.
    #[error("the other side did not answer (waited for {0})")]
    Stuck(&'static str),
}

impl BenchError {
    /// Makes a closure that wraps a system call's error.
    pub(crate) fn os<E: Into<std::io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Os {
            what,
            source: source.into(),
        }
    }

    /// Wraps the error of code under measurement.
    pub(crate) fn broken(what: &str, source: impl std::fmt::Display) -> Self {
        Self::Broken(format!("{what}: {source}"))
    }
}

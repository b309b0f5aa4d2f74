//! `portal ls`, `inspect` and `top`: looking at what runs.
//!
//! What is shown comes from regions and sockets of others; `portal_observe`
//! bounds and escapes it.

mod inspect;
mod ls;
pub(crate) mod metrics;
mod top;

use crate::cli;
use crate::exit::Failure;
use crate::exit::Kind;
use crate::exit::Outcome;
use portal_observe::socket;
use portal_observe::socket::SocketSource;
use portal_observe::source::FileSource;
use portal_observe::source::Joined;
use portal_observe::source::Source;
use portal_observe::source::SourceError;
use std::path::PathBuf;

/// Carries out `portal ls`.
///
/// # Errors
/// [`Kind::Host`] when there is nothing to look at.
pub(crate) fn ls(args: &cli::Ls) -> Outcome {
    ls::run(args)
}

/// Carries out `portal inspect`.
///
/// # Errors
/// [`Kind::Usage`] for a path that leads nowhere, [`Kind::Host`] when there is
/// nothing to look at.
pub(crate) fn inspect(args: &cli::Inspect) -> Outcome {
    inspect::run(args)
}

/// Carries out `portal top`.
///
/// # Errors
/// [`Kind::Host`] when there is nothing to look at, or no terminal to use.
pub(crate) fn top(args: &cli::Top) -> Outcome {
    top::run(args)
}

/// Where sockets are found when no path is given.
fn folder() -> PathBuf {
    let socket = portal_client::default_socket();
    socket.parent().map_or_else(PathBuf::new, Into::into)
}

/// What was asked for, or else everything that is found, which may be nothing.
fn sources(at: &cli::Where) -> Result<Vec<Box<dyn Source>>, Failure> {
    if let Some(path) = &at.file {
        let source = FileSource::open(path).map_err(|e| failure(&e))?;
        return Ok(vec![Box::new(source)]);
    }
    if let Some(path) = &at.socket {
        let source = SocketSource::open(path).map_err(|e| Failure::new(Kind::Host, e))?;
        return Ok(vec![Box::new(source)]);
    }
    let found = socket::find(&folder());
    let boxed = |source| Box::new(source) as Box<dyn Source>;
    Ok(found.into_iter().map(boxed).collect())
}

fn nothing() -> String {
    format!("nothing runs: no Portal socket in {}", folder().display())
}

/// The same as one source.
fn source(at: &cli::Where) -> Result<Box<dyn Source>, Failure> {
    let mut sources = sources(at)?;
    match (sources.len(), sources.pop()) {
        (_, None) => {
            let hint = "start something (portal serve, portal run --control PATH), or say where \
                        to look: --socket PATH, or --file PATH for a region file";
            Err(Failure::new(Kind::Host, nothing()).hint(hint))
        }
        (1, Some(only)) => Ok(only),
        (_, Some(last)) => {
            sources.push(last);
            Ok(Box::new(Joined::new(sources)))
        }
    }
}

fn failure(error: &SourceError) -> Failure {
    match error {
        SourceError::Backing(error) => crate::region::failure(error),
        SourceError::Region { .. } => Failure::new(Kind::Region, error),
        _ => Failure::new(Kind::Host, error),
    }
}

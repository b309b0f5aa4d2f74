//! The wish to stop, as an fd that becomes readable.

use crate::ServeError;
use rustix::io::Errno;
use signal_hook::consts::SIGINT;
use signal_hook::consts::SIGTERM;
use std::io;
use std::os::unix::net::UnixStream;

/// A socket that becomes readable at the first SIGINT or SIGTERM.
///
/// # Errors
/// [`ServeError::Os`].
pub fn on_signals() -> Result<UnixStream, ServeError> {
    let fail = |error: io::Error| ServeError::Os {
        what: "watch for signals",
        errno: Errno::from_io_error(&error).unwrap_or(Errno::IO),
    };
    let (read, write) = UnixStream::pair().map_err(fail)?;
    for signal in [SIGINT, SIGTERM] {
        let write = write.try_clone().map_err(fail)?;
        signal_hook::low_level::pipe::register(signal, write).map_err(fail)?;
    }
    Ok(read)
}

//! Sockets that a service manager made before it started this process.
//!
//! Specification: `sd_listen_fds(3)`: fds from 3 up, their number in
//! `LISTEN_FDS`, meant for the process in `LISTEN_PID`, names (separated by
//! colons) in `LISTEN_FDNAMES`.

#![expect(unsafe_code, reason = "takes fds by number, as sd_listen_fds(3) says")]

use crate::ServeError;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::os::fd::RawFd;

/// The first passed fd.
const FIRST: RawFd = 3;

/// Most fds that are looked at: sockets of as many regions as a switchboard has, and
/// pieces of memory that were stored.
const MOST: RawFd = 4096;

/// The environment's words, apart from it for tests.
#[derive(Debug, Default)]
pub(crate) struct Words {
    pub(crate) pid: Option<String>,
    pub(crate) fds: Option<String>,
    pub(crate) names: Option<String>,
}

impl Words {
    fn of_environment() -> Self {
        let word = |key| std::env::var(key).ok();
        Self {
            pid: word("LISTEN_PID"),
            fds: word("LISTEN_FDS"),
            names: word("LISTEN_FDNAMES"),
        }
    }

    /// The name of each fd; empty when nothing is passed to this process.
    pub(crate) fn read(&self, me: u32) -> Result<Vec<String>, ServeError> {
        let mine = self.pid.as_ref().is_some_and(|p| p.parse() == Ok(me));
        let Some(fds) = self.fds.as_ref().filter(|_| mine) else {
            return Ok(Vec::new());
        };
        let wrong = |reason| Err(ServeError::Activation { reason });
        let count = match fds.parse::<RawFd>() {
            Ok(count @ 0..=MOST) => count,
            _ => return wrong(format!("LISTEN_FDS={fds} is no number from 0 to {MOST}")),
        };
        let names = self.names.as_deref().unwrap_or_default();
        let names = names.split(':').map(str::to_owned);
        let unnamed = std::iter::repeat_with(String::new);
        Ok((0..count)
            .zip(names.chain(unnamed))
            .map(|(_, n)| n)
            .collect())
    }
}

/// The passed fds with their names, as duplicates that are closed on exec.
pub(crate) fn passed() -> Result<Vec<(String, OwnedFd)>, ServeError> {
    let names = Words::of_environment().read(std::process::id())?;
    let mut passed = Vec::new();
    for (number, name) in (FIRST..).zip(names) {
        // SAFETY: borrowed for one `fcntl`, which refuses a number that is no
        // open fd. Nobody closes it meanwhile: the service manager gave it to
        // this process, and nothing else here takes it.
        let given = unsafe { BorrowedFd::borrow_raw(number) };
        let fd = rustix::io::fcntl_dupfd_cloexec(given, 0)
            .map_err(ServeError::os("take a passed socket"))?;
        passed.push((name, fd));
    }
    Ok(passed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(pid: &str, fds: &str, names: &str) -> Words {
        let word = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Words {
            pid: word(pid),
            fds: word(fds),
            names: word(names),
        }
    }

    #[test]
    fn only_what_is_meant_for_this_process() {
        let read = |w: Words| w.read(7).expect("is well formed");
        assert!(read(words("", "", "")).is_empty());
        assert!(read(words("8", "2", "a:b")).is_empty(), "another's");
        assert!(read(words("7", "", "")).is_empty());
        assert_eq!(read(words("7", "2", "a:b")), ["a", "b"]);
        assert_eq!(read(words("7", "3", "a")), ["a", "", ""]);
        assert_eq!(read(words("7", "1", "a:b:c")), ["a"]);
    }

    #[test]
    fn counts_are_bounded() {
        for count in ["-1", "4097", "many", "99999999999"] {
            let error = words("7", count, "").read(7).expect_err(count);
            assert!(error.to_string().contains(count), "{error}");
        }
    }
}

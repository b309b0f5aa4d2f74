//! The loop of the terminal view: samples, keys, frames.
//!
//! The terminal is given back however the loop ends: by a key, SIGTERM, an error,
//! or a panic (whose message is printed on the terminal as it was before).

use crate::model::Model;
use crate::source::Source;
use crate::source::SourceError;
use crate::top::Do;
use crate::top::Top;
use ratatui::crossterm::event;
use ratatui::crossterm::event::Event;
use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::time::Timespec;
use signal_hook::consts::SIGHUP;
use signal_hook::consts::SIGTERM;
use std::fs::File;
use std::io;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

/// Longest time until a signal is seen.
const WATCH: Duration = Duration::from_millis(100);

/// Why the view ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TerminalError {
    /// Nothing could be looked at, from the start.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The terminal cannot be used as one.
    #[error("cannot use this terminal: {0}; --plain needs none")]
    Terminal(#[from] io::Error),
}

/// Shows `source` until a key or a signal ends it. A source that goes away later
/// is tried again at every interval, and its error shown.
///
/// # Errors
/// [`TerminalError`].
pub fn run(source: &mut dyn Source, interval: Duration) -> Result<(), TerminalError> {
    let mut model = Model::new();
    let mut top = Top::new(source.title());
    // Before the terminal is taken, so that an error is just a line.
    top.update(model.take(source.sample()?));
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let mut terminal = ratatui::try_init()?;
    let shown = turn(source, interval, &mut model, &mut top, &mut terminal, &stop);
    ratatui::try_restore()?;
    Ok(shown?)
}

fn turn(
    source: &mut dyn Source,
    interval: Duration,
    model: &mut Model,
    top: &mut Top,
    terminal: &mut ratatui::DefaultTerminal,
    stop: &AtomicBool,
) -> io::Result<()> {
    let keys = keys()?;
    let mut due = Instant::now() + interval;
    let mut drawn = false;
    while !stop.load(Ordering::Relaxed) {
        if !drawn {
            terminal.draw(|frame| top.draw(frame))?;
            drawn = true;
        }
        let left = due.saturating_duration_since(Instant::now());
        if hung_up(&keys, left.min(WATCH))? {
            break;
        }
        while event::poll(Duration::ZERO)? {
            // A key, or another size.
            drawn = false;
            if let Event::Key(key) = event::read()?
                && top.key(key) == Do::Quit
            {
                return Ok(());
            }
        }
        if Instant::now() < due {
            continue;
        }
        match source.sample() {
            Ok(sample) => top.update(model.take(sample)),
            Err(error) => top.lose(&error.to_string()),
        }
        drawn = false;
        due = Instant::now() + interval;
    }
    Ok(())
}

/// The terminal that keys come from, as crossterm chooses it.
fn keys() -> io::Result<OwnedFd> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        stdin.as_fd().try_clone_to_owned()
    } else {
        Ok(File::open("/dev/tty")?.into())
    }
}

/// Waits for a key; `true` when the terminal has gone. Waited for here, because
/// crossterm reads the end of a terminal for ever.
fn hung_up(keys: &OwnedFd, longest: Duration) -> io::Result<bool> {
    let timeout = Timespec {
        tv_sec: longest.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: longest.subsec_nanos().into(),
    };
    let mut fds = [PollFd::new(keys, PollFlags::IN)];
    match rustix::event::poll(&mut fds, Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    let gone = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
    Ok(fds[0].revents().intersects(gone))
}

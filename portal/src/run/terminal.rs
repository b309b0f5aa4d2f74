//! The terminal as the console of one partition: what is typed goes to its serial
//! port byte by byte, Ctrl-C too; Ctrl-] ends the run.
//!
//! Where standard input is no terminal (a pipe, a file) its bytes go in as they
//! are, up to its end. A thread reads, since a read cannot be polled portably;
//! it holds nothing but its end of a channel.

use crate::exit::Failure;
use crate::exit::Kind;
use portal_vmm::Partition;
use rustix::termios;
use rustix::termios::OptionalActions;
use rustix::termios::Termios;
use std::collections::VecDeque;
use std::io;
use std::io::Read as _;
use std::sync::mpsc;

/// Ctrl-], as in telnet.
const END: u8 = 0x1D;
/// Bytes read at once, and reads that wait for the guest to take them.
const CHUNK: usize = 256;
const CHUNKS: usize = 16;

/// The terminal, in raw mode while this lives if it is one.
pub(super) struct Terminal {
    typed: mpsc::Receiver<Vec<u8>>,
    waiting: VecDeque<u8>,
    before: Option<Termios>,
}

impl Terminal {
    /// Takes standard input over.
    ///
    /// # Errors
    /// [`Kind::Failed`] when the terminal's mode cannot be set or no thread started.
    pub(super) fn open() -> Result<Self, Failure> {
        let failed = |e: io::Error| Failure::new(Kind::Failed, format!("terminal: {e}"));
        let (to, typed) = mpsc::sync_channel(CHUNKS);
        let mut this = Self {
            typed,
            waiting: VecDeque::new(),
            before: None,
        };
        let input = io::stdin();
        if termios::isatty(&input) {
            let before = termios::tcgetattr(&input).map_err(|e| failed(e.into()))?;
            let mut raw = before.clone();
            raw.make_raw();
            // Output goes on as before: a new line begins at the left.
            raw.output_modes = before.output_modes;
            this.before = Some(before);
            termios::tcsetattr(&input, OptionalActions::Now, &raw).map_err(|e| failed(e.into()))?;
        }
        std::thread::Builder::new()
            .name("terminal".to_owned())
            .spawn(move || read(&to))
            .map_err(failed)?;
        Ok(this)
    }

    /// Hands what was typed to the partition; true when the run is to end.
    pub(super) fn pump(&mut self, partition: &Partition) -> bool {
        while self.waiting.len() < CHUNK
            && let Ok(typed) = self.typed.try_recv()
        {
            if self.before.is_some() && typed.contains(&END) {
                return true;
            }
            self.waiting.extend(typed);
        }
        let taken = partition.console_input(self.waiting.make_contiguous());
        self.waiting.drain(..taken);
        false
    }
}

fn read(to: &mpsc::SyncSender<Vec<u8>>) {
    let mut chunk = [0; CHUNK];
    loop {
        match io::stdin().lock().read(&mut chunk) {
            Ok(0) => return,
            Ok(len) => {
                let typed = chunk.iter().take(len).copied().collect();
                if to.send(typed).is_err() {
                    return;
                }
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // Nothing is left to do about a terminal that has gone.
            let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}

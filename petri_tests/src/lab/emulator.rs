//! L1's QEMU as a process: run to its end, and looked at meanwhile.
//!
//! One that has to be ended because nothing happens is asked first where its CPUs are:
//! that is what somebody needs who looks for the reason.

use super::LabError;
use super::file_error;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

/// How often it is looked at.
const POLL: Duration = Duration::from_millis(100);
/// How long it may take to say where its CPUs are.
const ANSWER: Duration = Duration::from_secs(30);
/// Three times: CPUs that go round in a circle differ, those that stand still do not.
const WHERE: &str = "\
stop
info registers -a
cont
stop
info registers -a
cont
stop
info registers -a
quit
";

/// What is to become of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// It goes on.
    On,
    /// It has done what it was to do, and is killed.
    Enough,
    /// It does nothing any more.
    Still,
}

/// Runs it until it ends, `look` says otherwise or `limit` is over. Where its CPUs were
/// goes to the file `cpus`, if it had to be ended.
///
/// # Errors
/// [`Failure`] when it does not end by itself, or badly.
pub(super) fn run(
    mut command: Command,
    limit: Duration,
    cpus: &Path,
    look: &mut dyn FnMut() -> Look,
) -> Result<(), Failure> {
    let _ = std::fs::remove_file(cpus);
    let answers = File::create(cpus).map_err(|e| Failure::Lab(file_error(cpus)(e)))?;
    let mut child = command
        .args(["-monitor", "stdio"])
        .stdin(Stdio::piped())
        .stdout(answers)
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| {
            let program = command.get_program().display();
            Failure::Ended(format!("{program} does not start: {e}"))
        })?;
    let until = Instant::now() + limit;
    let ended = loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => break Ok(()),
            Ok(Some(status)) => {
                let mut said = String::new();
                if let Some(mut pipe) = child.stderr.take() {
                    let _ = std::io::Read::read_to_string(&mut pipe, &mut said);
                }
                break Err(Failure::Ended(format!(
                    "QEMU ended with {status}: {}",
                    said.trim()
                )));
            }
            Ok(None) if Instant::now() < until => {
                std::thread::sleep(POLL);
                match look() {
                    Look::On => {}
                    Look::Enough => {
                        kill(&mut child);
                        break Ok(());
                    }
                    Look::Still => {
                        ask(&mut child);
                        return Err(Failure::Still);
                    }
                }
            }
            Ok(None) => {
                ask(&mut child);
                return Err(Failure::Late);
            }
            Err(e) => break Err(Failure::Ended(format!("cannot wait for QEMU: {e}"))),
        }
    };
    let _ = std::fs::remove_file(cpus);
    ended
}

/// Why it did not end well.
#[derive(Debug)]
pub(super) enum Failure {
    /// It did nothing any more, and was killed.
    Still,
    /// Its time was over, and it was killed.
    Late,
    /// It ended badly.
    Ended(String),
    /// It could not be started as it should.
    Lab(LabError),
}

/// Has it say where its CPUs are, and end.
fn ask(child: &mut Child) {
    if let Some(mut monitor) = child.stdin.take() {
        let _ = monitor.write_all(WHERE.as_bytes());
        let until = Instant::now() + ANSWER;
        while Instant::now() < until && matches!(child.try_wait(), Ok(None)) {
            std::thread::sleep(POLL);
        }
    }
    kill(child);
}

fn kill(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

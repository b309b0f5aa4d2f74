//! Running a command with a deadline, in a process group of its own, so that a
//! deadline or Ctrl-C ends everything that it started.

use anyhow::Context;
use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::kill_process_group;
use std::fmt::Write as _;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Write as _;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

/// What to do with the command's standard output besides keeping it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Echo {
    /// Pass each line on as it comes.
    Yes,
    /// Only keep it.
    No,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Its exit status.
    pub status: ExitStatus,
    /// Everything it wrote to standard output.
    pub stdout: String,
    /// Whether the deadline ended it.
    pub timed_out: bool,
}

impl Outcome {
    /// Whether it ended by itself, with success.
    pub(crate) fn ok(&self) -> bool {
        self.status.success() && !self.timed_out
    }
}

/// How often a deadline and Ctrl-C are looked at.
const POLL: Duration = Duration::from_millis(20);

/// Runs `command` until it ends or `limit` has passed. Standard error passes
/// through; standard output is kept.
///
/// # Errors
/// When it cannot be started, or Ctrl-C or SIGTERM arrived while it ran.
pub(crate) fn run(command: &mut Command, limit: Duration, echo: Echo) -> anyhow::Result<Outcome> {
    use std::os::unix::process::CommandExt as _;
    let interrupted = interrupted_flag()?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start `{}`", shown(command)))?;
    let reader = child.stdout.take().map(|out| {
        std::thread::spawn(move || {
            let mut kept = String::new();
            let mut lines = BufReader::new(out);
            let mut line = Vec::new();
            while lines.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                let text = String::from_utf8_lossy(&line);
                if echo == Echo::Yes {
                    let mut stdout = std::io::stdout().lock();
                    // A closed terminal is no reason to stop the command.
                    let _ = stdout.write_all(text.as_bytes());
                    let _ = stdout.flush();
                }
                kept.push_str(&text);
                line.clear();
            }
            kept
        })
    });
    let ended = wait(&mut child, limit, &interrupted);
    if !matches!(ended, Ok((_, false))) {
        end_group(&mut child);
    }
    let stdout = reader.and_then(|r| r.join().ok()).unwrap_or_default();
    let (status, timed_out) = ended?;
    Ok(Outcome {
        status,
        stdout,
        timed_out,
    })
}

fn wait(
    child: &mut Child,
    limit: Duration,
    interrupted: &AtomicBool,
) -> anyhow::Result<(ExitStatus, bool)> {
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((status, false));
        }
        if interrupted.load(Ordering::Relaxed) {
            anyhow::bail!("interrupted");
        }
        if Instant::now() >= end {
            end_group(child);
            return Ok((child.wait()?, true));
        }
        std::thread::sleep(POLL);
    }
}

fn end_group(child: &mut Child) {
    if let Some(group) = Pid::from_raw(child.id().cast_signed()) {
        // It may have ended in between; then there is nothing left to end.
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.wait();
}

/// Set by the first Ctrl-C or SIGTERM, also between two commands.
fn interrupted_flag() -> anyhow::Result<Arc<AtomicBool>> {
    static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    let mut new = false;
    let flag = FLAG.get_or_init(|| {
        new = true;
        Arc::default()
    });
    if new {
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(flag))?;
        }
    }
    Ok(Arc::clone(flag))
}

/// The command as one would type it, with the environment it adds.
pub(crate) fn shown(command: &Command) -> String {
    let mut text = String::new();
    for (key, value) in command.get_envs() {
        // A search path is long and the reader's own will do.
        if let Some(value) = value.filter(|_| key != "PATH") {
            let _ = write!(
                text,
                "{}={} ",
                key.display(),
                quoted(&value.to_string_lossy())
            );
        }
    }
    text.push_str(&command.get_program().to_string_lossy());
    for arg in command.get_args() {
        text.push(' ');
        text.push_str(&quoted(&arg.to_string_lossy()));
    }
    text
}

fn quoted(word: &str) -> String {
    if word.is_empty() || word.contains(|c: char| c.is_whitespace() || "'\"$&|;<>()*?".contains(c))
    {
        format!("'{}'", word.replace('\'', r"'\''"))
    } else {
        word.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_output_and_status() {
        let out = run(
            Command::new("sh").args(["-c", "echo one; echo two; exit 3"]),
            Duration::from_secs(10),
            Echo::No,
        )
        .unwrap();
        assert_eq!(out.stdout, "one\ntwo\n");
        assert_eq!(out.status.code(), Some(3));
        assert!(!out.ok());
    }

    #[test]
    fn a_deadline_ends_what_the_command_started_too() {
        let before = Instant::now();
        let out = run(
            // The grandchild holds the pipe open for as long as it lives.
            Command::new("sh").args(["-c", "sleep 60 & wait"]),
            Duration::from_millis(100),
            Echo::No,
        )
        .unwrap();
        assert!(out.timed_out && !out.ok());
        assert!(before.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn shows_a_command_that_can_be_pasted() {
        let mut c = Command::new("cargo");
        c.args(["doc", "--cfg", "a b"])
            .env("RUSTDOCFLAGS", "-D warnings");
        assert_eq!(
            shown(&c),
            "RUSTDOCFLAGS='-D warnings' cargo doc --cfg 'a b'"
        );
    }
}

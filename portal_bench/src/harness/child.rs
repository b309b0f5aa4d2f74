//! A second process of this same executable, for goals that compare with one.
//!
//! The parent starts `/proc/self/exe` with the job in an environment variable;
//! [`serve_if_child`], called first thing in `main`, finds it there. The two
//! talk over the child's standard input and output, a line at a time, while
//! nothing is measured: the parent writes how many messages are to be answered,
//! the child says `ready` before and `done` after.

use super::machine;
use crate::BenchError;
use serde::Deserialize;
use serde::Serialize;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::path::PathBuf;
use std::process::ChildStdin;
use std::process::ChildStdout;
use std::process::Command;
use std::process::Stdio;

/// Where a child finds its job.
const JOB: &str = "PORTAL_BENCH_JOB";

/// What a child is for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Job {
    /// Answers messages.
    Echo {
        /// The core that it stays on.
        core: usize,
        /// A file of the region, openable by path (the parent's /proc/PID/fd/N).
        region: String,
    },
    /// Serves a region, with its sockets and state in this folder.
    Switchboard {
        /// The folder.
        folder: PathBuf,
    },
}

/// The parent's end.
#[derive(Debug)]
pub(crate) struct Child {
    process: std::process::Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Child {
    /// Starts a child and waits until it is ready.
    pub(crate) fn start(job: &Job) -> Result<Self, BenchError> {
        let text = serde_json::to_string(job).map_err(|e| BenchError::broken("job", e))?;
        let mut process = Command::new("/proc/self/exe")
            .env(JOB, text)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(BenchError::os("starting a second process"))?;
        let (Some(asks), Some(answers)) = (process.stdin.take(), process.stdout.take()) else {
            return Err(BenchError::Broken("the child has no pipes".into()));
        };
        let mut child = Self {
            process,
            asks,
            answers: BufReader::new(answers),
        };
        child.hear("ready")?;
        Ok(child)
    }

    /// Has the child answer `count` messages; returns once it spins for them.
    pub(crate) fn ask(&mut self, count: usize) -> Result<(), BenchError> {
        writeln!(self.asks, "{count}").map_err(BenchError::os("asking a second process"))?;
        self.hear("ready")
    }

    /// Waits until the child has answered everything and sleeps again.
    pub(crate) fn done(&mut self) -> Result<(), BenchError> {
        self.hear("done")
    }

    /// Its resident memory in KiB.
    pub(crate) fn resident_kib(&self) -> Result<f64, BenchError> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))
            .map_err(BenchError::os("reading a second process's status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        kib.ok_or_else(|| BenchError::Broken("no VmRSS in /proc/PID/status".into()))
    }

    fn hear(&mut self, word: &str) -> Result<(), BenchError> {
        let mut line = String::new();
        self.answers
            .read_line(&mut line)
            .map_err(BenchError::os("reading from a second process"))?;
        if line.trim() == word {
            return Ok(());
        }
        Err(BenchError::Broken(format!(
            "the second process said {:?} instead of {word:?}",
            line.trim()
        )))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It may be spinning for a message that will not come. Both fail only
        // when it is gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Does a child's work and returns true, when this process was started as one;
/// false in every other process. Programs that call [`run`](crate::run) call
/// this first.
pub fn serve_if_child() -> bool {
    let Ok(text) = std::env::var(JOB) else {
        return false;
    };
    if let Err(error) = serve(&text) {
        // The parent reads this in place of the word that it waits for.
        println!("{error}");
    }
    true
}

fn serve(text: &str) -> Result<(), BenchError> {
    let job: Job = serde_json::from_str(text).map_err(|e| BenchError::broken("job", e))?;
    let (core, region) = match &job {
        Job::Echo { core, region } => (*core, region),
        Job::Switchboard { folder } => {
            return crate::goals::attach::serve(folder, || println!("ready"));
        }
    };
    machine::pin(core)?;
    let mut echo = crate::goals::process::Echo::attach(region)?;
    println!("ready");
    for line in std::io::stdin().lines() {
        let line = line.map_err(BenchError::os("reading the parent's line"))?;
        let count = line
            .trim()
            .parse()
            .map_err(|e| BenchError::broken("the parent's line", e))?;
        println!("ready");
        echo.answer(count)?;
        println!("done");
    }
    Ok(())
}

//! Running every harness with its controls, and the page and rows that come of it.

use super::harness;
use super::harness::Harness;
use super::harness::Verdict;
use super::line::Line;
use super::longer;
use super::threats::THREATS;
use super::threats::Threat;
use super::turns;
use crate::workspace;
use anyhow::Context;
use serde::Serialize;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;

/// Where the result goes.
pub(crate) struct Output {
    /// One JSON object a row on standard output instead of the table.
    pub json: bool,
    /// The page to write.
    pub page: Option<PathBuf>,
}

/// One row: a harness and its controls, or a threat with nothing built.
#[derive(Debug, Serialize)]
struct Row {
    threat: String,
    title: &'static str,
    what: Option<String>,
    cases: u64,
    failures: u64,
    seed: u64,
    /// How long the harness ran.
    seconds: f64,
    /// 95% upper bound of the failure rate, where nothing failed.
    bound: Option<f64>,
    /// Guards that were taken out, with the failures that followed.
    controls: Vec<ControlRun>,
    state: State,
    /// Why, where the state is not `held`.
    why: Option<String>,
}

#[derive(Debug, Serialize)]
struct ControlRun {
    guard: String,
    cases: u64,
    failures: u64,
    seconds: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// No failure, and every control failed as it must.
    Held,
    /// No failure, and no control that shows that there could be one.
    NoControl,
    /// Not run on this host.
    Skipped,
    /// A failure, or a control that did not fail.
    Broken,
    /// No harness exists.
    NotBuilt,
}

/// Runs everything; returns how many rows held and how many are broken.
///
/// # Errors
/// When the tests do not build, a harness cannot be started, or the page cannot
/// be written.
pub(crate) fn run(full: bool, seed: u64, output: &Output) -> anyhow::Result<(usize, usize)> {
    let started = Instant::now();
    let harnesses = harness::find(full)?;
    eprintln!("built in {} s", started.elapsed().as_secs());
    let mut ran = turns::run_all(&harnesses, full, seed)?.into_iter();
    let mut rows = Vec::new();
    for threat in &THREATS {
        let own = harnesses.iter().filter(|h| h.threat == threat.number);
        rows.extend(rows_of(threat, own.zip(&mut ran)));
    }
    if output.json {
        for row in &rows {
            println!("{}", serde_json::to_string(row)?);
        }
    } else {
        print!("{}", table(&rows));
    }
    if let Some(path) = &output.page {
        let mut text = page(&rows, full, seed, started.elapsed());
        text.push_str(&longer::section(&longer::read()?));
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let held = rows.iter().filter(|r| r.state == State::Held).count();
    let broken = rows.iter().filter(|r| r.state == State::Broken).count();
    Ok((held, broken))
}

fn rows_of<'a>(
    threat: &Threat,
    ran: impl Iterator<Item = (&'a Harness, harness::Ran)>,
) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for (harness, ran) in ran {
        if harness.control {
            add_control(threat, &mut rows, &harness.test, ran);
        } else {
            add_harness(threat, &mut rows, &harness.test, ran);
        }
    }
    for row in &mut rows {
        if row.state == State::Held && row.controls.is_empty() {
            row.state = State::NoControl;
            row.why = Some("no negative control yet".to_owned());
        }
    }
    if rows.is_empty() {
        rows.push(Row::empty(threat, State::NotBuilt, "not built yet"));
    }
    rows
}

fn add_harness(threat: &Threat, rows: &mut Vec<Row>, test: &str, ran: harness::Ran) {
    let first = rows.len();
    for line in ran.lines.into_iter().filter(|l| l.control.is_none()) {
        rows.push(Row::of(threat, line, ran.took));
    }
    match ran.verdict {
        Verdict::Held => {}
        Verdict::Skipped(why) => rows.push(Row::empty(
            threat,
            State::Skipped,
            &format!("{test}: {why}"),
        )),
        Verdict::Broken(why) => {
            if rows.len() == first {
                rows.push(Row::empty(threat, State::Broken, ""));
            }
            for row in &mut rows[first..] {
                row.state = State::Broken;
                row.why = Some(format!("{test}: {why}"));
            }
        }
    }
}

fn add_control(threat: &Threat, rows: &mut Vec<Row>, test: &str, ran: harness::Ran) {
    if let Verdict::Broken(why) = ran.verdict {
        rows.push(Row::empty(threat, State::Broken, &format!("{test}: {why}")));
        return;
    }
    for line in ran.lines {
        let row = rows
            .iter_mut()
            .find(|r| r.what.as_ref() == Some(&line.what));
        let control = ControlRun {
            guard: line.control.unwrap_or_default(),
            cases: line.cases,
            failures: line.failures,
            seconds: ran.took.as_secs_f64(),
        };
        match row {
            Some(row) => row.controls.push(control),
            None => rows.push(Row::empty(
                threat,
                State::Broken,
                &format!(
                    "{test}: a control of \"{}\", which no harness ran",
                    line.what
                ),
            )),
        }
    }
}

impl Row {
    fn of(threat: &Threat, line: Line, took: Duration) -> Self {
        Self {
            threat: threat.id(),
            title: threat.what,
            bound: line.bound(),
            what: Some(line.what),
            cases: line.cases,
            failures: line.failures,
            seed: line.seed,
            seconds: took.as_secs_f64(),
            controls: Vec::new(),
            state: State::Held,
            why: None,
        }
    }

    fn empty(threat: &Threat, state: State, why: &str) -> Self {
        Self {
            threat: threat.id(),
            title: threat.what,
            what: None,
            cases: 0,
            failures: 0,
            seed: 0,
            seconds: 0.0,
            bound: None,
            controls: Vec::new(),
            state,
            why: Some(why.to_owned()),
        }
    }

    /// The columns after the threat's own, as the page and the table show them.
    fn columns(&self) -> [String; 6] {
        let why = self.why.clone().unwrap_or_default();
        let first_line = why.lines().next().unwrap_or_default().to_owned();
        let state = match self.state {
            State::Held => "held".to_owned(),
            State::Broken => format!("BROKEN: {first_line}"),
            State::NotBuilt => "not built yet".to_owned(),
            State::Skipped => format!("skipped: {first_line}"),
            State::NoControl => "held, but no negative control yet".to_owned(),
        };
        let Some(what) = &self.what else {
            let none = String::new;
            return [none(), none(), none(), none(), none(), state];
        };
        let mut controls = String::new();
        for c in &self.controls {
            let sep = if controls.is_empty() { "" } else { "; " };
            let _ = write!(controls, "{sep}{}: {} of {}", c.guard, c.failures, c.cases);
        }
        [
            what.clone(),
            self.cases.to_string(),
            self.failures.to_string(),
            self.bound.map_or(String::new(), |b| format!("{b:.1e}")),
            controls,
            state,
        ]
    }
}

fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows {
        let [what, cases, failures, bound, controls, state] = row.columns();
        let _ = writeln!(text, "{:<4} {}: {state}", row.threat, row.title);
        if row.what.is_some() {
            let _ = writeln!(
                text,
                "     {what}: {cases} cases, {failures} failures, rate below {bound}, seed {}, {:.1} s",
                row.seed, row.seconds
            );
        }
        if !controls.is_empty() {
            let seconds: f64 = row.controls.iter().map(|c| c.seconds).sum();
            let _ = writeln!(
                text,
                "     without {controls} failed, as it must, {seconds:.1} s"
            );
        }
        if row.state == State::Broken
            && let Some(why) = &row.why
        {
            let _ = writeln!(text, "     {}", why.replace('\n', "\n     "));
        }
    }
    text
}

/// The Guide's page. Lines of a table cannot be wrapped; the rest is.
fn page(rows: &[Row], full: bool, seed: u64, took: Duration) -> String {
    let form = if full { "full" } else { "short" };
    let mut text = format!(
        "# Evidence\n\n\
         <!-- Written by `cargo flowey evidence`; changes by hand are lost. -->\n\n\
         One row for each threat of the [trust model](trust.md): what ran against it, how\n\
         often, and that the same harness fails when the guard is taken out. No failure in\n\
         n independent cases bounds the rate of failures below 3/n with 95% confidence.\n\n\
         This is the {form} form, run with seed {seed} at commit `{}` in {} s on {}.\n\
         Repeat it with `cargo flowey evidence{}`.\n\n\
         | threat | what ran | cases | failures | rate below | guard taken out: failures | result |\n\
         |---|---|---|---|---|---|---|\n",
        commit(),
        took.as_secs(),
        machine(),
        if full { " --full" } else { "" },
    );
    for row in rows {
        let _ = write!(text, "| {} {} |", row.threat, row.title);
        for column in row.columns() {
            let _ = write!(text, " {} |", column.replace('|', "\\|"));
        }
        text.push('\n');
    }
    text
}

fn commit() -> String {
    let git = |args: &[&str]| {
        let out = Command::new("git")
            .args(args)
            .current_dir(workspace::root())
            .output()
            .ok()?;
        out.status
            .success()
            .then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
    };
    git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned())
}

fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let version = kernel.split(['-', '+']).next().unwrap_or_default().trim();
    format!("{cores} x86-64 cores, Linux {version}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(control: Option<&str>, failures: u64) -> Line {
        Line {
            threat: "T4".to_owned(),
            what: "one field forged".to_owned(),
            control: control.map(str::to_owned),
            cases: 300,
            failures,
            seed: 7,
        }
    }

    fn held(lines: Vec<Line>) -> harness::Ran {
        harness::Ran {
            lines,
            verdict: Verdict::Held,
            took: Duration::ZERO,
        }
    }

    #[test]
    fn a_control_joins_the_row_of_its_harness() {
        let threat = &THREATS[3];
        let mut rows = Vec::new();
        add_harness(threat, &mut rows, "t4_x", held(vec![line(None, 0)]));
        add_control(
            threat,
            &mut rows,
            "control_t4_x",
            held(vec![line(Some("epoch"), 41)]),
        );
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].controls[0].failures, 41);
        let text = page(&rows, false, 7, Duration::from_secs(1));
        assert!(text.contains("| one field forged | 300 | 0 | 1.0e-2 | epoch: 41 of 300 | held |"));
    }

    #[test]
    fn a_control_without_its_harness_is_broken() {
        let mut rows = Vec::new();
        add_control(
            &THREATS[3],
            &mut rows,
            "control_t4_x",
            held(vec![line(Some("epoch"), 41)]),
        );
        assert_eq!(rows[0].state, State::Broken);
    }

    #[test]
    fn a_harness_that_dies_before_its_line_is_a_broken_row() {
        let mut rows = Vec::new();
        let ran = harness::Ran {
            lines: Vec::new(),
            verdict: Verdict::Broken("exit status: 101\npanicked".to_owned()),
            took: Duration::ZERO,
        };
        add_harness(&THREATS[0], &mut rows, "t1_x", ran);
        assert_eq!(rows[0].state, State::Broken);
        assert!(table(&rows).contains("panicked"));
    }
}

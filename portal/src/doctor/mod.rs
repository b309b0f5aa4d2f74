//! `portal doctor`: what this host has, what each missing thing costs, and what
//! to do about it.
//!
//! Everything is probed by asking for it, never inferred from a version. Nothing
//! is changed on the host.

mod kvm;
mod limits;
mod memory;
mod processor;
mod sandbox;

use crate::exit::Failure;
use crate::exit::Kind;
use crate::exit::Outcome;
use crate::print;
use serde::Serialize;

pub(crate) use kvm::open as open_kvm;

/// How much a missing thing matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// It is there.
    Have,
    /// It is absent; things work without it, at the cost that the row names.
    Lacks,
    /// It is absent, and no partition can run without it.
    Missing,
}

/// One thing that was looked for.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    /// `kvm`, `memory`, `processor`, `limits` or `sandbox`.
    pub group: &'static str,
    /// What was looked for.
    pub name: &'static str,
    /// Whether it is there.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What its absence costs; absent where it is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<String>,
    /// What to do about it; absent where nothing can be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Row {
    fn have(group: &'static str, name: &'static str, found: impl Into<String>) -> Self {
        Self {
            group,
            name,
            state: State::Have,
            found: found.into(),
            cost: None,
            remedy: None,
        }
    }

    fn lacks(
        group: &'static str,
        name: &'static str,
        found: impl Into<String>,
        cost: impl Into<String>,
    ) -> Self {
        Self {
            state: State::Lacks,
            cost: Some(cost.into()),
            ..Self::have(group, name, found)
        }
    }

    fn missing(mut self) -> Self {
        self.state = State::Missing;
        self
    }

    fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

#[derive(Serialize)]
struct Report {
    /// Whether partitions can run here.
    usable: bool,
    rows: Vec<Row>,
}

/// Probes everything and prints it.
///
/// # Errors
/// [`Kind::Host`] when something is missing without which no partition runs.
pub(crate) fn run(json: bool) -> Outcome {
    let mut rows = kvm::probe();
    rows.extend(memory::probe());
    rows.extend(processor::probe());
    rows.extend(limits::probe());
    rows.extend(sandbox::probe());
    let missing: Vec<&str> = rows
        .iter()
        .filter(|r| r.state == State::Missing)
        .map(|r| r.name)
        .collect();
    let missing = missing.join(", ");
    let usable = missing.is_empty();
    if json {
        print::json(&Report { usable, rows })?;
    } else {
        show(&rows);
    }
    if usable {
        return Ok(());
    }
    Err(Failure::new(
        Kind::Host,
        format!("no partition can run on this host without: {missing}"),
    ))
}

fn show(rows: &[Row]) {
    let mut group = "";
    for row in rows {
        if row.group != group {
            group = row.group;
            print::line(format!("\n{group}"));
        }
        let mark = match row.state {
            State::Have => "  ok     ",
            State::Lacks => "  lacks  ",
            State::Missing => "  MISSING",
        };
        print::line(format!("{mark}  {:<26} {}", row.name, row.found));
        if let Some(cost) = &row.cost {
            print::line(format!("{:39}cost: {cost}", ""));
        }
        if let Some(remedy) = &row.remedy {
            print::line(format!("{:39}do:   {remedy}", ""));
        }
    }
}

//! The conformance matrix: tests x VMMs, as a table, as JSON, and as a page of the
//! Guide.

use crate::ended::NotPassed;
use crate::ended::Passed;
use crate::scenario;
use crate::scenario::Scenario;
use crate::vmm::Vmm;
use serde::Deserialize;
use serde::Serialize;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

/// How a cell ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It passed.
    Pass,
    /// It failed.
    Fail,
    /// It did not run.
    Skip,
}

/// One cell of the matrix.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// The row.
    pub test: String,
    /// The column.
    pub vmm: Vmm,
    /// How it ended.
    pub result: Verdict,
    /// How long it took.
    pub seconds: f64,
    /// Why it did not pass; empty when it did.
    pub reason: String,
}

impl Cell {
    /// A cell that ended like this.
    pub fn new(scenario: &Scenario, vmm: Vmm, ended: &Passed, took: Duration) -> Self {
        let (result, reason) = match ended {
            Ok(()) => (Verdict::Pass, String::new()),
            Err(NotPassed::Failed(why)) => (Verdict::Fail, why.clone()),
            Err(NotPassed::Skipped(why)) => (Verdict::Skip, why.clone()),
        };
        let seconds = match result {
            Verdict::Skip => 0.0,
            Verdict::Pass | Verdict::Fail => (took.as_secs_f64() * 10.0).round() / 10.0,
        };
        Self {
            test: scenario.name.to_owned(),
            vmm,
            result,
            seconds,
            reason,
        }
    }

    fn shown(&self) -> String {
        match self.result {
            Verdict::Pass => format!("pass {:.1} s", self.seconds),
            Verdict::Fail => format!("FAIL {:.1} s", self.seconds),
            Verdict::Skip => "skip".to_owned(),
        }
    }
}

/// The cells that were run or skipped.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Matrix {
    /// In no order.
    pub cells: Vec<Cell>,
}

impl Matrix {
    /// That cell.
    pub fn cell(&self, test: &str, vmm: Vmm) -> Option<&Cell> {
        self.cells.iter().find(|c| c.test == test && c.vmm == vmm)
    }

    /// Adds the cells of an earlier run that this one has not.
    pub fn keep(&mut self, earlier: Self) {
        for cell in earlier.cells {
            if self.cell(&cell.test, cell.vmm).is_none() {
                self.cells.push(cell);
            }
        }
    }

    /// How many cells ended so.
    pub fn count(&self, result: Verdict) -> usize {
        self.cells.iter().filter(|c| c.result == result).count()
    }

    /// Reads what [`Self::write`] wrote.
    ///
    /// # Errors
    /// When the file cannot be read or is no matrix.
    pub fn read(path: &Path) -> io::Result<Self> {
        serde_json::from_slice(&fs::read(path)?).map_err(io::Error::other)
    }

    /// Writes it as a JSON array of cells, in the order of rows and columns.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&mut self, path: &Path) -> io::Result<()> {
        let row = |test: &str| scenario::ALL.iter().position(|s| s.name == test);
        self.cells.sort_by_key(|c| (row(&c.test), c.vmm));
        let mut text = serde_json::to_string_pretty(&self).map_err(io::Error::other)?;
        text.push('\n');
        fs::write(path, text)
    }

    /// The table for a terminal, and below it a line for each cell that did not
    /// pass, the same reasons together.
    pub fn table(&self) -> String {
        let rows = scenario::ALL
            .iter()
            .filter(|s| Vmm::ALL.iter().any(|&v| self.cell(s.name, v).is_some()));
        let mut text = format!("{:<28}", "");
        for vmm in Vmm::ALL {
            let _ = write!(text, "{:<14}", vmm.name());
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
        for scenario in rows {
            let _ = write!(text, "{:<28}", scenario.name);
            for vmm in Vmm::ALL {
                let cell = self.cell(scenario.name, vmm);
                let _ = write!(text, "{:<14}", cell.map_or("-".to_owned(), Cell::shown));
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
        for (result, reason, who) in self.reasons() {
            let word = if result == Verdict::Fail {
                "FAIL"
            } else {
                "skip"
            };
            let _ = writeln!(text, "{word} {}: {reason}", who.join(", "));
        }
        let _ = writeln!(
            text,
            "{} passed, {} failed, {} skipped",
            self.count(Verdict::Pass),
            self.count(Verdict::Fail),
            self.count(Verdict::Skip)
        );
        text
    }

    fn reasons(&self) -> Vec<(Verdict, &str, Vec<String>)> {
        let mut found: Vec<(Verdict, &str, Vec<String>)> = Vec::new();
        let not_passed = self.cells.iter().filter(|c| c.result != Verdict::Pass);
        for cell in not_passed {
            let who = format!("{}/{}", cell.test, cell.vmm);
            let same = found
                .iter_mut()
                .find(|(result, reason, _)| (*result, *reason) == (cell.result, &cell.reason));
            match same {
                Some((_, _, all)) => all.push(who),
                None => found.push((cell.result, &cell.reason, vec![who])),
            }
        }
        found
    }

    /// The page of the Guide.
    pub fn page(&self) -> String {
        let mut text = String::from(PAGE);
        text.push_str("\n| test |");
        for vmm in Vmm::ALL {
            let _ = write!(text, " `{vmm}` |");
        }
        text.push_str(" holds when it passes |\n|---|---|---|---|---|\n");
        for scenario in scenario::ALL {
            let _ = write!(text, "| `{}` |", scenario.name);
            for vmm in Vmm::ALL {
                let shown = match self.cell(scenario.name, vmm).map(|c| c.result) {
                    Some(Verdict::Pass) => "pass",
                    Some(Verdict::Fail) => "**fail**",
                    Some(Verdict::Skip) => "skip",
                    None => "not run",
                };
                let _ = write!(text, " {shown} |");
            }
            let _ = writeln!(text, " {} |", scenario.what);
        }
        let reasons = self.reasons();
        if !reasons.is_empty() {
            text.push_str("\n## What did not pass, and why\n\n");
        }
        for (result, reason, who) in reasons {
            let word = if result == Verdict::Fail {
                "failed"
            } else {
                "skipped"
            };
            let who: Vec<String> = who.iter().map(|w| format!("`{w}`")).collect();
            let _ = writeln!(text, "- {word}: {}: {reason}", who.join(", "));
        }
        text
    }
}

const PAGE: &str = "# Conformance

The same tests with every VMM. `cargo flowey lab --page` runs them and writes this
page; `target/lab/matrix.json` has each cell with its time.

`portal_vmm` and `openvmm` run inside L1, a Debian machine under QEMU's TCG with a
nested `/dev/kvm`; stock `qemu` runs on the host under TCG where a test needs no
nesting, and inside L1 beside the others where it does. Guests are Debian's cloud
kernel with the same RAM disk and the same static `portal-guest` everywhere. `openvmm`
is the program that `PORTAL_OPENVMM` names; its guests with pmem run Debian's 6.12.
";

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(test: &str, vmm: Vmm, ended: Passed) -> Cell {
        let scenario = scenario::named(test).expect("a scenario");
        Cell::new(scenario, vmm, &ended, Duration::from_millis(1234))
    }

    fn some() -> Matrix {
        Matrix {
            cells: vec![
                cell("reboot", Vmm::Qemu, Err(NotPassed::skipped("no qemu"))),
                cell("boot", Vmm::Qemu, Err(NotPassed::skipped("no qemu"))),
                cell("boot", Vmm::PortalVmm, Ok(())),
                cell("reboot", Vmm::PortalVmm, Err(NotPassed::failed("hangs"))),
            ],
        }
    }

    #[test]
    fn table_has_each_cell_and_each_reason_once() {
        let table = some().table();
        assert!(table.contains("boot                        pass 1.2 s    skip          -\n"));
        assert!(table.contains("skip reboot/qemu, boot/qemu: no qemu\n"));
        assert!(table.contains("FAIL reboot/portal_vmm: hangs\n"));
        assert!(table.ends_with("1 passed, 1 failed, 2 skipped\n"));
    }

    #[test]
    fn json_names_what_a_reader_needs_in_the_order_of_the_rows() {
        let file = tempfile::NamedTempFile::new().unwrap();
        some().write(file.path()).unwrap();
        let value: serde_json::Value =
            serde_json::from_slice(&fs::read(file.path()).unwrap()).unwrap();
        let first = serde_json::json!({
            "test": "boot", "vmm": "portal_vmm", "result": "pass", "seconds": 1.2, "reason": ""
        });
        assert_eq!(value[0], first);
        assert_eq!(Matrix::read(file.path()).unwrap().cells.len(), 4);
    }

    #[test]
    fn what_an_earlier_run_found_stays_unless_it_ran_again() {
        let mut now = Matrix {
            cells: vec![cell("reboot", Vmm::PortalVmm, Ok(()))],
        };
        now.keep(some());
        assert_eq!(now.cells.len(), 4);
        let reboot = now.cell("reboot", Vmm::PortalVmm).map(|c| c.result);
        assert_eq!(reboot, Some(Verdict::Pass));
    }

    #[test]
    fn page_says_what_was_not_run() {
        let page = some().page();
        assert!(page.contains("| `boot` | pass | skip | not run | Debian's kernel"));
        assert!(page.contains("- failed: `reboot/portal_vmm`: hangs\n"));
    }

    #[test]
    fn names_of_tests_are_unique() {
        let mut names: Vec<_> = scenario::ALL.iter().map(|s| s.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), scenario::ALL.len());
    }
}

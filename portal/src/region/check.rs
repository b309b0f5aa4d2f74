//! `portal region check`: an fsck for region files.

use super::failure;
use crate::exit::Failure;
use crate::exit::Kind;
use crate::exit::Outcome;
use crate::print;
use hv_shmem::check::Finding;
use hv_shmem::check::Remedy;
use hv_shmem::check::Report;
use hv_shmem::check::check_file;
use serde::Serialize;
use std::path::Path;

/// What was found, for programs.
#[derive(Serialize)]
struct Checked {
    file: String,
    /// Whether no invariant is broken (any more).
    sound: bool,
    findings: Vec<Found>,
    /// Findings beyond those listed.
    more: u64,
    repaired: usize,
    peers: u32,
    sections: u32,
    rings: u32,
    arenas: u32,
    spans: u64,
}

/// One finding.
#[derive(Serialize)]
struct Found {
    code: &'static str,
    severity: String,
    place: String,
    what: String,
    /// What a repair would do.
    #[serde(skip_serializing_if = "Option::is_none")]
    repair: Option<&'static str>,
    /// What the repair did.
    #[serde(skip_serializing_if = "Option::is_none")]
    repaired: Option<&'static str>,
}

impl From<&Finding> for Found {
    fn from(finding: &Finding) -> Self {
        let (repair, repaired) = match finding.remedy {
            Remedy::None => (None, None),
            Remedy::Possible(what) => (Some(what), None),
            Remedy::Done(what) => (None, Some(what)),
        };
        Self {
            code: finding.code.as_str(),
            severity: finding.severity.to_string(),
            place: finding.place.to_string(),
            what: finding.what.clone(),
            repair,
            repaired,
        }
    }
}

/// Checks, and repairs when asked to.
///
/// # Errors
/// [`Kind::Region`] when an invariant is broken (and was not repaired),
/// [`Kind::Input`] for what is no file, or is in use and was to be repaired.
pub(super) fn run(path: &Path, repair: bool, json: bool) -> Outcome {
    let report = check_file(path, repair).map_err(|e| failure(&e))?;
    if json {
        print::json(&checked(path, &report))?;
    } else {
        show(path, &report);
    }
    if report.is_sound() {
        return Ok(());
    }
    let shown = path.display();
    let broken = Failure::new(Kind::Region, format!("{shown}: an invariant is broken"));
    let possible = |f: &Finding| matches!(f.remedy, Remedy::Possible(_));
    Err(match report.findings.iter().any(possible) {
        true => broken.hint(format!(
            "stop whoever uses it, then: portal region check {shown} --repair"
        )),
        false if repair => broken.hint("the rest cannot be repaired; create it again"),
        false => broken.hint("this cannot be repaired; create it again"),
    })
}

fn checked(path: &Path, report: &Report) -> Checked {
    let at = &report.looked_at;
    Checked {
        file: path.display().to_string(),
        sound: report.is_sound(),
        findings: report.findings.iter().map(Found::from).collect(),
        more: report.more,
        repaired: report.repaired(),
        peers: at.peers,
        sections: at.sections,
        rings: at.rings,
        arenas: at.arenas,
        spans: at.spans,
    }
}

fn show(path: &Path, report: &Report) {
    for finding in &report.findings {
        print::line(finding.to_string());
    }
    if report.more > 0 {
        print::line(format!("and {} more", report.more));
    }
    let at = &report.looked_at;
    let verdict = match (report.is_sound(), report.repaired()) {
        (true, 0) => "sound".to_owned(),
        (true, n) => format!("sound after {n} repairs"),
        (false, _) => "NOT SOUND".to_owned(),
    };
    print::line(format!(
        "{}: {verdict}; looked at {} peers, {} sections, {} rings, {} arenas, {} spans",
        path.display(),
        at.peers,
        at.sections,
        at.rings,
        at.arenas,
        at.spans,
    ));
}

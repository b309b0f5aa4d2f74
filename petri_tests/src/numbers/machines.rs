//! An L1 a part: another one where it dies, stands still or loses too much.

use super::Part;
use super::Run;
use super::Saved;
use crate::lab::JobResult;
use crate::lab::LabError;
use crate::left;
use crate::programs::Programs;
use crate::session;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

/// What starts the line with what a turn took.
pub(super) const LINE: &str = "##taken ";
/// What stands in its place when a turn failed.
const TAKEN: &str = "taken";
const LOST: &str = "lost";
/// What one L1 may take: several times what a quiet machine needs.
const LIMIT: Duration = Duration::from_secs(360);
/// How long nothing may be said in it. A turn that fails says so before.
const PATIENCE: Duration = Duration::from_secs(100);
/// Machines that a part may take.
const TRIES: usize = 4;

/// Measures parts, and keeps what each turn took in `saved`; whether every VMM that is
/// there had a turn in each of them. Consoles stay in folders below `folder`.
///
/// # Errors
/// [`LabError`] when L1 cannot be started at all, or `saved` not be written.
pub fn measure(
    programs: &Programs,
    parts: &[Part],
    folder: &Path,
    saved: &mut Saved,
) -> Result<bool, LabError> {
    let mut whole = true;
    for &part in parts.iter().filter(|part| part.is_possible(programs)) {
        whole &= one(programs, part, folder, saved)?;
    }
    Ok(whole)
}

fn one(
    programs: &Programs,
    part: Part,
    folder: &Path,
    saved: &mut Saved,
) -> Result<bool, LabError> {
    for n in 1..=TRIES {
        let at = folder.join(format!("{part}-{n}"));
        let _ = std::fs::remove_dir_all(&at);
        let mut machine = session::equipped(programs)?;
        machine.tsc().patience(PATIENCE).limit(LIMIT);
        for turn in part.jobs(programs.openvmm.is_some()) {
            machine.job(&turn.name, &turn.command, turn.deadline);
        }
        println!("{part}: L1 number {n}, in {}", at.display());
        let start = Instant::now();
        saved.runs.push(Run::new(part));
        let mut kept = Ok(());
        let ended = machine.run_watched(&at, &mut |job| {
            if let Some(run) = saved.runs.last_mut() {
                job_ended(run, job, &at);
                run.seconds = start.elapsed().as_secs();
            }
            let written = saved.write();
            kept = std::mem::replace(&mut kept, Ok(())).and(written);
        });
        kept?;
        let Some(run) = saved.runs.last_mut() else {
            return Ok(false);
        };
        run.seconds = start.elapsed().as_secs();
        match ended {
            Ok(_) => {}
            Err(
                error @ (LabError::Died { .. } | LabError::Still { .. } | LabError::Machine { .. }),
            ) => {
                println!("{part}: {error}");
                run.died = Some(error.short());
            }
            Err(error) => {
                saved.runs.pop();
                return Err(error);
            }
        }
        let whole = part.is_whole(programs.openvmm.is_some(), &run.taken);
        saved.write()?;
        if whole {
            return Ok(true);
        }
    }
    println!("{part}: not whole in any of {TRIES} machines");
    Ok(false)
}

/// Takes what a turn left.
fn job_ended(run: &mut Run, job: &JobResult, folder: &Path) {
    for (name, rest) in left::unpack(&job.output, &folder.join(&job.name)) {
        match (name.as_str(), serde_json::from_str(&rest)) {
            (TAKEN, Ok(taken)) => run.taken.push(taken),
            (TAKEN | LOST, _) => run.lost.push(rest),
            _ => {}
        }
    }
    if job.timed_out() {
        run.lost.push(format!("{}: not done in time", job.name));
    }
    let (taken, lost) = (run.taken.len(), run.lost.len());
    println!(
        "{}: {} has ended; {taken} taken, {lost} lost",
        run.part, job.name
    );
}

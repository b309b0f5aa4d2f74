//! `portal demo`: two partitions on one region, what they can do with it, and
//! what it costs.

mod baseline;
mod file;
mod measure;
mod neighbours;
mod pair;
mod picture;
mod report;

pub(crate) use report::grouped;
pub(crate) use report::time;

use crate::cli;
use crate::doctor;
use crate::exit::Failure;
use crate::exit::Outcome;
use crate::print;
use portal_vmm::Kvm;

/// Other work of so many cores is said, because it shows in the figures.
const DISTURBING: f64 = 0.2;

/// Runs the demo, or sends a file.
///
/// # Errors
/// [`crate::exit::Kind::Host`] where no partition can run, `Input` for a file
/// that cannot be read, `Guest` when a partition stops, `Failed` when what came
/// out differs from what went in.
pub(crate) fn run(args: &cli::Demo) -> Outcome {
    if let Some(path) = &args.file {
        // The file first: what is wrong with it does not depend on the host.
        let source = file::open(path)?;
        let kvm = open_kvm()?;
        return file::run(&kvm, args.confinement.sandbox(), source, args.json);
    }
    let kvm = open_kvm()?;
    let report = measure::run(&kvm, args.confinement.sandbox())?;
    if args.json {
        return print::json(&report);
    }
    print::line(picture::TEXT);
    print::line(report.text());
    if let Some(others) = report.others.filter(|cores| *cores > DISTURBING) {
        print::line(format!(
            "\nOther work kept {others:.1} cores of this machine busy meanwhile, and shows in the \
             figures: on a quiet\nmachine they are smaller, and the ratios steadier."
        ));
    }
    print::line(
        "\nEach figure stands beside a baseline of the same run, taken in turns with it.\n\
         More: portal demo --file PATH, portal bench, portal doctor.",
    );
    Ok(())
}

/// A demo needs no machine of its own kind.
fn open_kvm() -> Result<Kvm, Failure> {
    doctor::open_kvm().map_err(|failure| {
        let mend = failure.hint.as_deref().unwrap_or_default();
        let hint = format!(
            "{mend}\nor see the demo in an emulated machine: cargo flowey demo-lab, in the \
             source tree"
        );
        failure.hint(hint.trim_start())
    })
}

//! A guest agent of one's own in a partition.
//!
//! The agent is `agents/primes`: one `no_std` file. `build.rs` turns it into a flat
//! image; this program boots that image, shows what it prints and takes its exit
//! code.
//!
//!     cargo run --release --package portal_examples --example own_agent

use anyhow::bail;
use portal_vmm::Console;
use portal_vmm::Image;
use portal_vmm::Kvm;
use portal_vmm::Outcome;
use portal_vmm::PartitionBuilder;
use std::process::ExitCode;
use std::time::Duration;

fn main() -> anyhow::Result<ExitCode> {
    let kvm = match Kvm::open() {
        Ok(kvm) => kvm,
        Err(error) => {
            eprintln!("{error}");
            return Ok(ExitCode::from(4));
        }
    };
    let (console, printed) = Console::capture();
    let mut partition =
        PartitionBuilder::new("primes", Image::Flat(portal_examples::PRIMES.into()))
            .ram(16 << 20)
            .cmdline("below=100000")
            .console(console)
            .deadline(Duration::from_secs(20))
            .build(&kvm)?;
    partition.start()?;
    let outcome = partition.wait(Duration::from_secs(20));
    let text = printed.text();
    print!("{text}");
    match outcome {
        Some(Outcome::Exited(0)) if text.starts_with("9592 primes below 100000") => {
            Ok(ExitCode::SUCCESS)
        }
        other => bail!("the partition ended with {other:?}"),
    }
}

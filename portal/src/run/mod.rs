//! `portal run`: partitions, regions and devices from a TOML file.

use crate::cli;
use crate::config;
use crate::config::Config;
use crate::config::Flaws;
use crate::exit::Failure;
use crate::exit::Kind;
use crate::exit::Outcome;
use crate::print;
use std::path::Path;

/// Largest configuration file; a person writes them.
const FILE_MAX: u64 = 1 << 20;

/// Reads the file and runs what it describes.
///
/// # Errors
/// [`Kind::Input`] for a flaw in the file, [`Kind::Host`] where KVM is not usable,
/// [`Kind::Guest`] when a partition stops with a fault.
pub(crate) fn run(args: &cli::Run) -> Outcome {
    let config = read(&args.file)?;
    if args.check {
        print::line(format!(
            "{}: {} partitions, {} regions, no flaw",
            args.file.display(),
            config.partitions.len(),
            config.regions.len()
        ));
        return Ok(());
    }
    Err(Failure::new(Kind::Failed, "x"))
}

fn read(path: &Path) -> Result<Config, Failure> {
    let input = |what: String| Failure::new(Kind::Input, what);
    let shown = path.display();
    let found = std::fs::metadata(path).map_err(|e| input(format!("cannot open {shown}: {e}")))?;
    if !found.is_file() {
        return Err(input(format!("{shown} is no file")));
    }
    if found.len() > FILE_MAX {
        return Err(input(format!(
            "{shown} has {} bytes; a configuration has at most {FILE_MAX}",
            found.len()
        )));
    }
    let text = std::fs::read(path).map_err(|e| input(format!("cannot read {shown}: {e}")))?;
    let text = String::from_utf8(text).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        input(format!("{shown} is no text: byte {at} is not UTF-8"))
    })?;
    let name = shown.to_string();
    let config = config::parse(&name, &text).map_err(|e| input(e.to_string()))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let flaws = config::host::check(&config, folder);
    if flaws.is_empty() {
        Ok(config)
    } else {
        Err(input(Flaws::new(&name, &text, flaws).to_string()))
    }
}

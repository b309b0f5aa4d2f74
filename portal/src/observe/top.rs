//! `portal top`: how fast, how full, what stands still.

use super::failure;
use super::source;
use crate::cli;
use crate::exit::Failure;
use crate::exit::Kind;
use crate::exit::Outcome;
use crate::print;
use portal_device::inspect::Plain;
use portal_observe::lines;
use portal_observe::model::Model;
use portal_observe::sample::Sample;
use portal_observe::source::Source;
use portal_observe::terminal;
use portal_observe::terminal::TerminalError;
use std::io::IsTerminal as _;
use std::time::Duration;

pub(super) fn run(args: &cli::Top) -> Outcome {
    let mut source = source(&args.at)?;
    let interval = Duration::from_secs_f64(args.interval);
    if args.once {
        return once(&mut *source, interval);
    }
    if args.plain || !std::io::stdout().is_terminal() {
        return plain(&mut *source, interval);
    }
    terminal::run(&mut *source, interval).map_err(|error| match error {
        TerminalError::Source(error) => failure(&error),
        other => Failure::new(Kind::Host, other),
    })
}

/// Two samples, one interval apart, and the tables of the second.
fn once(source: &mut dyn Source, interval: Duration) -> Outcome {
    let mut model = Model::new();
    model.take(source.sample().map_err(|e| failure(&e))?);
    std::thread::sleep(interval);
    let picture = model.take(source.sample().map_err(|e| failure(&e))?);
    for line in lines::full(&picture) {
        print::line(line);
    }
    Ok(())
}

/// A few lines an interval, until nobody reads them any more. A source that goes
/// away after the first look is told and tried again.
fn plain(source: &mut dyn Source, interval: Duration) -> Outcome {
    let mut model = Model::new();
    let mut sample: Result<Sample, String> = Ok(source.sample().map_err(|e| failure(&e))?);
    loop {
        let shown = match sample {
            Ok(sample) => lines::brief(&model.take(sample)),
            Err(error) => vec![format!("  {}", Plain(&error))],
        };
        if !shown.iter().all(|line| print::read_line(line)) {
            return Ok(());
        }
        std::thread::sleep(interval);
        sample = source.sample().map_err(|e| e.to_string());
    }
}

//! `portal run`: partitions, regions and devices from a TOML file.
//!
//! The file is the user's; what guests do is contained by `portal_vmm`. Tasks run
//! one after the other on the main thread, which also watches for signals.

mod build;
mod observed;
mod signals;
mod tasks;
mod terminal;

use crate::cli;
use crate::config;
use crate::config::Config;
use crate::config::Flaws;
use crate::doctor;
use crate::exit::Failure;
use crate::exit::Kind;
use crate::exit::Outcome;
use crate::print;
use build::Built;
use portal_vmm::Outcome as Ended;
use signals::Stop;
use std::io;
use std::path::Path;
use std::time::Duration;
use terminal::Terminal;

/// Largest configuration file; a person writes them.
const FILE_MAX: u64 = 1 << 20;
/// How often partitions and signals are looked at while nothing is to be done.
const WATCH: Duration = Duration::from_millis(20);

/// Reads the file and runs what it describes.
///
/// # Errors
/// [`Kind::Input`] for a flaw in the file, [`Kind::Host`] where KVM is not usable,
/// [`Kind::Guest`] when a partition stops with a fault.
pub(crate) fn run(args: &cli::Run) -> Outcome {
    let config = read(&args.file)?;
    if args.check {
        print::line(format!(
            "{}: partitions: {}, regions: {}; no flaw",
            args.file.display(),
            config.partitions.len(),
            config.regions.len()
        ));
        return Ok(());
    }
    let kvm = doctor::open_kvm()?;
    let stop = Stop::listen()?;
    let folder = args.file.parent().unwrap_or(Path::new(""));
    let plan = build::Plan {
        kvm: &kvm,
        config: &config,
        folder,
        sandbox: args.confinement.sandbox(),
    };
    let mut built = build::build(plan, &stop).map_err(short_of_files)?;
    // Its path goes when it is dropped.
    let _control = built.watched.serve(args)?;
    let worked = tasks::await_agents(&mut built).and_then(|()| tasks::run(&config, &mut built));
    if worked.is_ok() && !args.until_done && !stop.asked() {
        watch(&mut built, &config, &stop)?;
    }
    let ended = finish(&mut built);
    match (stop.asked(), worked) {
        // What a stop broke off is no failure.
        (true, _) | (false, Ok(())) => ended,
        // How a partition ended says more than the wait that it broke.
        (false, Err(failure)) => ended.and(Err(failure)),
    }
}

/// Adds what to do about a limit of this process that was met on the way.
fn short_of_files(failure: Failure) -> Failure {
    let said = io::Error::from(rustix::io::Errno::MFILE).to_string();
    if failure.hint.is_some() || !failure.what.contains(&said) {
        return failure;
    }
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let limit = limit.current.unwrap_or(u64::MAX);
    failure.hint(format!(
        "this process may have {limit} files open; raise the limit: ulimit -n"
    ))
}

/// Looks after partitions until all have ended or a stop is asked for.
fn watch(built: &mut Built<'_>, config: &Config, stop: &Stop) -> Outcome {
    let on_terminal = |p: &&config::Partition| p.console == config::Output::Terminal;
    let on_terminal = config.partitions.iter().find(on_terminal);
    let mut terminal = on_terminal.map(|_| Terminal::open()).transpose()?;
    match terminal {
        Some(_) => print::line("running; Ctrl-] stops"),
        None => print::line("running; Ctrl-C stops"),
    }
    while !stop.asked() {
        // Looked at first: what ends later may be a reset.
        let out = |r: &build::Running| r.partition.wait(Duration::ZERO).is_some();
        let over = built.partitions.iter().all(out);
        let restarted = built.restart();
        if over && restarted.is_empty() {
            break;
        }
        for name in restarted {
            print::line(format!("{name}: reset itself, starts again"));
        }
        let of_terminal = |r: &&build::Running| {
            on_terminal.is_some_and(|on_terminal| on_terminal.name.value == r.name)
        };
        let partition = built.partitions.iter().find(of_terminal);
        if let (Some(terminal), Some(running)) = (&mut terminal, partition)
            && terminal.pump(&running.partition)
        {
            break;
        }
        std::thread::sleep(WATCH);
    }
    Ok(())
}

/// Stops what still runs and says how each partition ended.
fn finish(built: &mut Built<'_>) -> Outcome {
    let mut worst = built.lost.pop().map_or(Ok(()), Err);
    for running in &built.partitions {
        let outcome = match running.partition.wait(Duration::ZERO) {
            Some(outcome) => outcome,
            None => running.partition.stop().map_err(|e| build::vmm(&e))?,
        };
        print::line(format!("{}: {outcome}", running.name));
        let kind = match outcome {
            // A reset that has not started again was meant to end it.
            Ended::Exited(0) | Ended::PoweredOff | Ended::Reset | Ended::Stopped => continue,
            Ended::Exited(_) => Kind::Failed,
            Ended::Deadline(_) => Kind::Deadline,
            Ended::Faulted(_) => Kind::Guest,
        };
        let fault_stands = matches!(
            &worst,
            Err(Failure {
                kind: Kind::Guest,
                ..
            })
        );
        if !fault_stands {
            let what = format!("partition {:?} {outcome}", running.name);
            worst = Err(Failure::new(kind, what));
        }
    }
    worst
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

//! `portal serve`: regions for stock QEMU and host programs, until a signal.

use crate::cli;
use crate::config;
use crate::exit::Failure;
use crate::exit::Kind;
use crate::exit::Outcome;
use crate::observe;
use crate::print;
use bytesize::ByteSize;
use portal_observe::socket::SocketSource;
use portal_serve::ClientLimits;
use portal_serve::Daemon;
use portal_serve::Options;
use portal_serve::PortalSocket;
use portal_serve::RegionConfig;
use portal_serve::ServeError;
use std::collections::HashSet;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Duration;

/// Serves until SIGINT or SIGTERM.
///
/// # Errors
/// [`Kind::Input`] for a region that cannot be, [`Kind::Host`] when its socket
/// cannot be made.
pub(crate) fn run(args: &cli::Serve) -> Outcome {
    possible(&args.regions)?;
    let stop = portal_serve::stop::on_signals().map_err(|e| failure(&e))?;
    let options = Options {
        portal: match &args.portal_socket {
            Some(path) => PortalSocket::At(path.clone()),
            None => PortalSocket::Default,
        },
        state: args.state.clone(),
        clients: ClientLimits {
            grace: Duration::from_secs(args.grace.into()),
            ..ClientLimits::default()
        },
        ..Options::default()
    };
    let daemon = Daemon::new(&args.regions, &options).map_err(|e| failure(&e))?;
    if let Some(folder) = args.state.as_deref().filter(|it| !in_memory(it)) {
        eprintln!(
            "WARNING: {} is on a disk. After a crash of the host, what is kept there would speak \
             of peers that are gone: use a folder on /run or /dev/shm.",
            folder.display()
        );
    }
    for region in &args.regions {
        let found = daemon.sockets().find(|(name, _)| *name == region.name);
        introduce(region, found.map(|(_, socket)| socket));
    }
    if let Some(socket) = daemon.portal_socket() {
        print::line(format!("Portal socket {}", place(socket)));
    }
    if let Some(address) = args.metrics {
        let Some(Some(socket)) = daemon.portal_socket() else {
            let what = "--metrics asks through the Portal socket, and this one has no path that \
                        is known here: it was passed by the service manager";
            let hint = "leave it out, or start it without socket activation";
            return Err(Failure::new(Kind::Usage, what).hint(hint));
        };
        // As any other client; the switchboard has no thread to wait for it.
        let source = SocketSource::later(socket);
        observe::metrics::serve(address, Box::new(source))?;
    }
    daemon
        .run(stop.as_fd(), &mut |notice| print::line(notice.to_string()))
        .map_err(|e| failure(&e))
}

/// Whether these regions can be served together, by this host at all.
fn possible(regions: &[RegionConfig]) -> Outcome {
    let mut names = HashSet::new();
    let twice = regions.iter().find(|region| !names.insert(region.name));
    if let Some(RegionConfig { name, .. }) = twice {
        let what = format!("--region {name} is given twice; the names of regions differ");
        return Err(Failure::new(Kind::Usage, what));
    }
    let needed = regions
        .iter()
        .fold(0u64, |sum, it| sum.saturating_add(it.size));
    match config::host::whole_memory() {
        Some(there) if needed > there => {
            let what = format!(
                "the regions have {} together, this host has {} of memory and swap",
                ByteSize(needed).display().iec(),
                ByteSize(there).display().iec()
            );
            Err(Failure::new(Kind::Host, what).hint("give them a smaller size="))
        }
        _ => Ok(()),
    }
}

/// Whether a folder is on a file system in memory (tmpfs, ramfs).
fn in_memory(folder: &Path) -> bool {
    const IN_MEMORY: [u32; 2] = [0x0102_1994, 0x8584_58f6];
    // What cannot be asked is not complained of.
    rustix::fs::statfs(folder).map_or(true, |found| IN_MEMORY.contains(&(found.f_type as u32)))
}

/// Says what is served: where QEMU joins, if it can.
fn introduce(region: &RegionConfig, socket: Option<Option<&Path>>) {
    let (name, vectors) = (region.name, region.vectors);
    let what = format!("{name}: {} bytes, {} peers", region.size, region.peers);
    let Some(socket) = socket else {
        print::line(format!("{what}, sections enforced"));
        return;
    };
    print::line(format!(
        "{what}, {vectors} vectors each; socket {}",
        place(socket)
    ));
    if let Some(path) = socket {
        print::line(format!(
            "  qemu-system-x86_64 ... -chardev socket,path={},id={name} \
             -device ivshmem-doorbell,chardev={name},vectors={vectors}",
            path.display()
        ));
    }
}

fn place(socket: Option<&Path>) -> String {
    match socket {
        Some(path) => path.display().to_string(),
        None => "passed by the service manager".to_owned(),
    }
}

fn failure(error: &ServeError) -> Failure {
    let kind = if error.is_input() {
        Kind::Input
    } else {
        Kind::Host
    };
    Failure::new(kind, error)
}

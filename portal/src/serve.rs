//! `portal serve`: regions for stock QEMU and host programs, until a signal.

use crate::cli;
use crate::exit::Failure;
use crate::exit::Kind;
use crate::exit::Outcome;
use crate::print;
use portal_serve::Daemon;
use portal_serve::Limits;
use portal_serve::RegionConfig;
use portal_serve::ServeError;
use std::os::fd::AsFd as _;

/// Serves until SIGINT or SIGTERM.
///
/// # Errors
/// [`Kind::Input`] for a region that cannot be, [`Kind::Host`] when its socket
/// cannot be made.
pub(crate) fn run(args: &cli::Serve) -> Outcome {
    let stop = portal_serve::stop::on_signals().map_err(|e| failure(&e))?;
    let daemon = Daemon::new(&args.regions, Limits::default()).map_err(|e| failure(&e))?;
    for (region, (_, socket)) in args.regions.iter().zip(daemon.sockets()) {
        let socket = socket.map(|path| path.display().to_string());
        introduce(region, socket.as_deref());
    }
    daemon
        .run(stop.as_fd(), &mut |notice| print::line(notice.to_string()))
        .map_err(|e| failure(&e))
}

fn introduce(region: &RegionConfig, socket: Option<&str>) {
    let (name, vectors) = (region.name, region.vectors);
    print::line(format!(
        "{name}: {} bytes, {} peers, {vectors} vectors each; socket {}",
        region.size,
        region.peers,
        socket.unwrap_or("passed by the service manager")
    ));
    if let Some(path) = socket {
        print::line(format!(
            "  qemu-system-x86_64 ... -chardev socket,path={path},id={name} \
             -device ivshmem-doorbell,chardev={name},vectors={vectors}"
        ));
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

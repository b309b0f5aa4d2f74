//! The daemon as a process of its own, with clients over real sockets: what they
//! get, what hostile ones cannot do (T15, T16), and stock QEMU beside a host
//! program.

mod behaviour;
mod client;
mod daemon;
mod harness;
mod hostile;
mod hostile_portal;
mod portal;
mod qemu;
mod restart;
mod seat;
mod start;
mod systemd;

/// The process that [`daemon::Daemon`] starts.
#[test]
#[ignore = "no check: the daemon process that the other tests start"]
fn daemon_process() {
    daemon::serve_as_told();
}

/// The process that [`restart`] starts.
#[test]
#[ignore = "no check: the other end of a ring in another test"]
fn sender_process() {
    restart::send_as_told();
}

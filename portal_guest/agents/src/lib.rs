//! The built-in agents of the WARP kernel: one program that does what peer 0
//! commands (`portal_agent_abi`): ping and pong, calls in place, doorbells there
//! and back, and streams of spans with or without BLAKE3.
//!
//! ```text
//!  boot -> attach -> join -> rings to peer 0 -> [ command -> job -> answer ]* -> exit
//! ```
//!
//! Distrusted: every other peer, the host's commands included; whatever does not
//! check out becomes a failed status in the answer. No job waits longer
//! than its idle limit without progress. Left out: more than one job at a time.
#![no_std]

mod agent;
mod bytes;
mod doorbell;
mod failure;
mod idle;
mod in_place;
mod laps;
mod link;
mod ping;
mod serve;
mod sink;
mod source;

use portal_warp::ExitCode;
use portal_warp::Machine;
use portal_warp::println;

/// Exit code when the partition has nothing to work with.
pub const EXIT_NO_REGION: u32 = 1;
/// Exit code when the host left before it said so.
pub const EXIT_HOST_GONE: u32 = 2;

portal_warp::entry!(main);

fn main(machine: Machine) -> ExitCode {
    match agent::Agent::start(&machine) {
        Ok(agent) => serve::serve(agent),
        Err(failure) => {
            println!("WARP: no region to work in: {failure}");
            ExitCode(EXIT_NO_REGION)
        }
    }
}

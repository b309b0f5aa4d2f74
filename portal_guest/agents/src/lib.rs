//! The built-in agents of the WARP kernel.
#![no_std]

use portal_warp::ExitCode;
use portal_warp::Machine;

portal_warp::entry!(main);

fn main(machine: Machine) -> ExitCode {
    portal_warp::println!(
        "WARP: vCPU {} of {}, {} regions, arguments: {}",
        machine.boot().vcpu_index,
        machine.boot().vcpu_count,
        machine.boot().region_count,
        machine.command_line(),
    );
    ExitCode(0)
}

//! WARP: a kernel small enough to read in one sitting, and what a ring-3 agent
//! in a partition builds on.
//!
//! An agent is a `no_std` library crate with one line that names its main
//! function; `portal_warp_image` links it with this crate into a flat image that
//! `portal_vmm` boots:
//!
//! ```
//! # mod agent {
//! // With `#![no_std]` on top, this is the whole crate.
//! use portal_warp::{ExitCode, Machine};
//!
//! portal_warp::entry!(main);
//!
//! fn main(machine: Machine) -> ExitCode {
//!     portal_warp::println!("hello from vCPU {}", machine.boot().vcpu_index);
//!     ExitCode(0)
//! }
//! # }
//! ```
//!
//! The agent runs in ring 3 with SSE (and AVX where the host has it), a 256 KiB
//! stack with a guard page, no heap, and all guest physical memory mapped at its
//! own address. [`Machine`] gives it time, the console, its regions, and through
//! [`ivshmem`] its doorbells. It ends by returning its exit code, by [`exit()`], or
//! by a panic, which prints and exits with [`kernel::EXIT_PANIC`].
//!
//! Built for the workspace itself (`cargo test`, `cargo clippy`) the crate is an
//! ordinary library without kernel and entry point; `--cfg warp_image`, which
//! `portal_warp_image` sets, adds those.
#![no_std]

pub mod console;
pub mod ivshmem;
pub mod kernel;
pub mod machine;
#[cfg(warp_image)]
mod memory;
pub mod pci;
pub mod region;
mod start;
pub mod syscall;
pub mod time;

pub use machine::Machine;
pub use syscall::exit;

/// What the partition ends with: the value that its VMM sees at the exit port.
/// 0 is success; values from 0xE000_0000 up belong to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitCode(pub u32);

/// Names the agent's main function: `fn(Machine) -> ExitCode`.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        /// Called by the WARP kernel's start code in ring 3.
        #[unsafe(no_mangle)]
        extern "Rust" fn warp_main(machine: $crate::Machine) -> $crate::ExitCode {
            let main: fn($crate::Machine) -> $crate::ExitCode = $main;
            main(machine)
        }
    };
}

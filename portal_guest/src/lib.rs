//! What runs inside a partition: the WARP kernel with the built-in agents, built
//! from source with this crate and ready to boot; and the library for user space of
//! a stock Linux.
//!
//! | crate | what |
//! |---|---|
//! | `portal_warp` (`warp/`) | the kernel, and the ring-3 library that agents build on |
//! | `portal_agents` (`agents/`) | the built-in agent: ping, pong, doorbells, source, sink |
//! | `portal_agent_abi` (`abi/`) | what agents and their driver agree on |
//! | `portal_warp_image` (`image/`) | from an agent's crate to a flat image, for build scripts |
//! | `portal_trial` (`trial/`) | an agent for the kernel's tests |
//! | `portal_guest_linux` (`linux/`) | regions in Linux user space, here as [`linux`] |
//! | `portal_guest_program` (`program/`) | `portal-guest`, a static program on top of it |
//! | `portal_guest` | the image |
//!
//! ```
//! // What `portal run` boots where a file says `guest = "warp"`.
//! let image: &[u8] = portal_guest::warp::image();
//! assert!(!image.is_empty());
//! ```
//!
//! Specification: `portal_boot_abi` (how an image starts), Intel SDM volume 3.
//! Trust: the guest trusts its VMM and distrusts every other peer of a region; the
//! VMM distrusts the image. Left out: the host's side (`portal_host`, `portal_vmm`).

pub mod warp;

pub use portal_guest_linux as linux;

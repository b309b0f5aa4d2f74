//! The tests of the matrix: each is written once and runs with every VMM that has
//! what it needs.

mod attach;
mod boot;
pub mod durable;
mod exchange;
mod group;
mod host_process;
mod hostile;
mod ivshmem2;
mod pmem;
mod pmem_rings;
mod pmem_served;
mod pulse;
mod returns;
mod saved;
mod warp;
mod wrong_options;

pub(crate) use exchange::first_guest;
pub(crate) use exchange::guest_with;
pub(crate) use group::Group;

use crate::ended::Passed;
use crate::lab::Lab;
use crate::vmm::Vmm;
use std::time::Duration;

/// Where a test runs with a VMM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On the host itself: stock QEMU with TCG.
    OnHost,
    /// Inside L1, where Linux guests have KVM.
    Inside,
    /// Nowhere, and why.
    Nowhere(&'static str),
}

/// A row of the matrix.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What holds when it passes.
    pub what: &'static str,
    /// Its deadline on a loaded machine; a quiet one needs a fraction.
    pub limit: Duration,
    /// Where it runs with which VMM.
    pub place: fn(Vmm) -> Place,
    /// Runs it.
    pub run: fn(&Lab, Vmm) -> Passed,
}

/// Every row, in order.
pub const ALL: &[Scenario] = &[
    boot::BOOT,
    boot::TWO_CPUS,
    boot::REBOOT,
    exchange::IVSHMEM_V1,
    ivshmem2::IVSHMEM_V2,
    ivshmem2::READ_ONLY,
    pmem::PMEM_DAX,
    pmem_rings::PMEM_EXCHANGE,
    pmem_served::PMEM_SERVED,
    durable::PMEM_DURABLE,
    attach::ATTACH_DETACH,
    returns::KILLED_GUEST,
    pulse::SAVE_RESTORE,
    saved::TWO_RESTORED,
    saved::RESTORE_REFUSED,
    host_process::GUESTS_AND_HOST,
    host_process::ALL_KINDS,
    host_process::SWITCHBOARD_KILLED,
    hostile::HOSTILE,
    wrong_options::WRONG_OPTIONS,
    warp::KVM_TESTS,
    warp::DEMO,
];

/// The row that needs `portal_vmm`'s tests brought.
pub const KVM_TESTS: &str = warp::KVM_TESTS.name;

/// The row of this name.
pub fn named(name: &str) -> Option<&'static Scenario> {
    ALL.iter().find(|scenario| scenario.name == name)
}

/// Where a test runs that only needs guests.
fn anywhere(vmm: Vmm) -> Place {
    match vmm {
        Vmm::Qemu => Place::OnHost,
        Vmm::PortalVmm | Vmm::OpenVmm => Place::Inside,
    }
}

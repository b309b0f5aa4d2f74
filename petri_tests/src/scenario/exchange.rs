//! Two guests on one region: they find it by name, ring each other and send bytes
//! through its rings, with the same program everywhere.

use super::Scenario;
use super::anywhere;
use super::group::Group;
use crate::ended::Passed;
use crate::ended::check;
use crate::guest::Guest;
use crate::lab::Lab;
use crate::vmm::Vmm;
use serde_json::Value;
use std::time::Duration;

pub(super) const IVSHMEM_V1: Scenario = Scenario {
    name: "ivshmem_v1_exchange",
    what: "two guests ring each other by interrupts and exchange 64 MiB through rings over \
           ivshmem v1, hashes equal (INTx by `uio_pci_generic` where the VMM has it, else \
           MSI-X by VFIO)",
    limit: Duration::from_secs(150),
    place: anywhere,
    run: ivshmem_v1,
};

/// Bytes that cross.
pub(super) const BYTES: u64 = 64 << 20;
/// Size of the region.
pub(super) const REGION: u64 = 16 << 20;

/// What hears doorbells under this VMM.
pub(crate) const fn bell(vmm: Vmm) -> &'static str {
    match vmm {
        Vmm::PortalVmm => "uio",
        Vmm::Qemu | Vmm::OpenVmm => "vfio",
    }
}

/// How other guests of a [`Group`] call its first one, which has this name: a VMM's own
/// partitions have their names, and the first at a switchboard has the first number.
pub(crate) const fn first_guest(vmm: Vmm, name: &str) -> &str {
    match vmm {
        Vmm::PortalVmm => name,
        Vmm::Qemu | Vmm::OpenVmm => "0",
    }
}

/// A guest that hears doorbells as it can under this VMM.
pub(crate) fn guest(name: &str, vmm: Vmm) -> Guest {
    guest_with(name, bell(vmm))
}

/// A guest that hears doorbells in this way.
pub(crate) fn guest_with(name: &str, bell: &str) -> Guest {
    let mut guest = Guest::new(name).ivshmem("lake");
    if bell == "vfio" {
        guest.iommu = true;
        // The emulated IOMMU remaps no interrupts, which VFIO wants to be told.
        guest = guest
            .modules(&["vfio_pci", "vfio_iommu_type1"])
            .line("echo 1 > /sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts");
    }
    if bell == "igb-uio" {
        // By itself the driver maps every BAR uncached, which a BAR cannot be that the
        // program has mapped write-back.
        guest = guest
            .modules(&["igb_uio"])
            .line("rmmod igb_uio && insmod /modules/igb_uio.ko wc_activate=1");
    }
    guest
}

fn ivshmem_v1(lab: &Lab, vmm: Vmm) -> Passed {
    let program = format!("portal-guest --json --region lake --bell {}", bell(vmm));
    let to = first_guest(vmm, "a");
    let a = guest("a", vmm)
        .step("pong", 90, &format!("{program} pong"))
        .step("recv", 90, &format!("{program} recv --wait sleep"))
        .step("ls", 20, "portal-guest --json ls");
    let b = guest("b", vmm)
        .step(
            "ping",
            90,
            &format!("{program} ping --to {to} --wait sleep --count 200"),
        )
        .step(
            "send",
            90,
            &format!("{program} send --to {to} --bytes 64MiB --wait sleep"),
        );
    let mut group = Group::start(lab, vmm, &[a, b], REGION)?;
    let ping = group.json(1, "ping", lab)?;
    // An answer that is there before the program has gone to sleep wakes nobody.
    let count = |what: &str| ping["trips"][what].as_u64().unwrap_or(0);
    let (slept, unheard) = (count("slept"), count("unheard"));
    check(slept >= 20 && unheard <= slept / 2, || {
        format!("of 200 round trips {slept} slept, and {unheard} of those heard no doorbell")
    })?;
    group.json(0, "pong", lab)?;
    same_bytes(
        &group.json(0, "recv", lab)?,
        &group.json(1, "send", lab)?,
        BYTES,
    )?;
    let ls = group.json(0, "ls", lab)?;
    check(ls["carriers"][0]["name"] == "lake", || {
        format!("ls finds no region: {ls}")
    })?;
    group.ends_well(lab)
}

/// Both ends have all bytes and the same hash.
pub(super) fn same_bytes(received: &Value, sent: &Value, bytes: u64) -> Passed {
    let whole = |side: &Value| side["bytes"] == bytes;
    let hash = |side: &Value| side["blake3"].as_str().map(str::to_owned);
    check(
        whole(received) && whole(sent) && hash(sent).is_some() && hash(received) == hash(sent),
        || format!("sent {sent}, received {received}"),
    )
}

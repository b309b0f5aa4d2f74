//! A served region as virtio-pmem of two guests, one of which may only read.

use super::Place;
use super::Scenario;
use super::group::Group;
use super::pmem::MODULES;
use super::pmem::PMEM_DAX;
use crate::ended::Passed;
use crate::ended::check;
use crate::guest::Device;
use crate::guest::Guest;
use crate::lab::Lab;
use crate::vmm::Vmm;
use hv_shmem::header::MAGIC;
use hv_shmem::layout::HEADER_AT;
use std::time::Duration;

pub(super) const PMEM_SERVED: Scenario = Scenario {
    name: "pmem_served_region",
    what: "two guests have a region of a switchboard as virtio-pmem, both find its header; what \
           the one stores the other reads; that one may only read, and what it stores has no \
           effect",
    limit: Duration::from_secs(120),
    place: |vmm| match vmm {
        Vmm::Qemu => Place::Nowhere("its pmem is a file, and a switchboard gives descriptors"),
        Vmm::PortalVmm => Place::Nowhere(
            "it enforces the sections of what a switchboard serves, and a pmem device that writes \
             maps a region as one",
        ),
        Vmm::OpenVmm => (PMEM_DAX.place)(vmm),
    },
    run: served,
};

const SIZE: u64 = 32 << 20;
const BLOCK: u64 = 4096;
/// The block in which the guests meet: the region's last.
const MEET: u64 = SIZE / BLOCK - 1;
const NAME: &str = "lake";

fn guest(name: &str, writable: bool) -> Guest {
    Guest::new(name)
        .modules(MODULES)
        .device(Device::PmemRegion {
            region: NAME.to_owned(),
            writable,
        })
        .step(
            "header",
            30,
            &format!(
                "{} | hexdump -n 8 -e '8/1 \"%02x\"'",
                read(HEADER_AT / BLOCK)
            ),
        )
}

/// A command that has one block of the device, past the guest's page cache.
fn read(block: u64) -> String {
    format!("dd if=/dev/pmem0 bs={BLOCK} skip={block} count=1 iflag=direct 2>/dev/null")
}

/// A command that fills one block with a letter.
fn fill(block: u64, letter: char) -> String {
    format!(
        "dd if=/dev/zero bs={BLOCK} count=1 2>/dev/null | tr '\\0' {letter} | \
         dd of=/dev/pmem0 bs={BLOCK} seek={block} iflag=fullblock oflag=direct conv=fsync \
         2>/dev/null"
    )
}

fn served(lab: &Lab, vmm: Vmm) -> Passed {
    let sum = format!("{} | sha256sum", read(MEET));
    let store = format!("{} && {sum}", fill(MEET, 'P'));
    let writer = guest("writer", true).step("store", 30, &store);
    let reader = guest("reader", false)
        .step(
            "see",
            90,
            &format!(
                "until [ \"$({} | head -c 1)\" = P ]; do sleep 0.2; done; {sum}",
                read(MEET)
            ),
        )
        .step("spoil", 30, &format!("{}; true", fill(MEET, 'X')))
        .step("after", 30, &sum);
    let mut group = Group::served(lab, SIZE)?;
    group.join(lab, vmm, &reader)?;
    // One boots after the other.
    group.says(0, "##up", lab)?;
    group.join(lab, vmm, &writer)?;
    let magic: String = MAGIC
        .to_le_bytes()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    for n in 0..2 {
        let (running, guest) = group.at(n)?;
        let header = running.passed(guest, "header", lab.until)?;
        check(header.trim() == magic, || {
            format!("guest {n} finds {header:?} where the region's header is")
        })?;
    }
    let mut said = |n: usize, step: &str| {
        let (running, guest) = group.at(n)?;
        running.passed(guest, step, lab.until)
    };
    let stored = said(1, "store")?;
    let seen = said(0, "see")?;
    let after = said(0, "after")?;
    check(seen == stored && after == stored, || {
        format!("stored {stored:?}; the reader sees {seen:?}, and {after:?} after its own store")
    })?;
    group.ends_well(lab)
}

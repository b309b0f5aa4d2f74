// Copyright (c) Microsoft Corporation.
// Licensed under the MIT License.

//! Tests of region devices and of persistent memory.
//!
//! The regions are files: a region that is served needs a switchboard, which is
//! no part of OpenVMM.

use anyhow::Context;
use openvmm_defs::config::PcieDeviceConfig;
use petri::PetriVmBuilder;
use petri::openvmm::OpenVmmPetriBackend;
use petri::pipette::cmd;
use pipette_client::PipetteClient;
use portal_resources::PciModel;
use portal_resources::PortalPciHandle;
use portal_resources::RegionAccess;
use portal_resources::RegionSource;
use virtio_resources::VirtioPciDeviceHandle;
use virtio_resources::pmem::VirtioPmemHandle;
use vm_resource::IntoResource;
use vm_resource::Resource;
use vm_resource::kind::PciDeviceHandleKind;
use vmm_test_macros::openvmm_test;

const REGION_LEN: u64 = 4 * 1024 * 1024;

/// A PCI function as the guest sees it.
#[derive(Debug, PartialEq)]
struct Function {
    path: String,
    /// The lengths of BARs 0 to 5, 0 for one that is not there.
    bars: Vec<u64>,
}

/// The functions with this vendor and device ID, in the order of their
/// addresses.
async fn functions(agent: &PipetteClient, id: &str) -> anyhow::Result<Vec<Function>> {
    const PCI_SYSFS_PATH: &str = "/sys/bus/pci/devices";
    let sh = agent.unix_shell();
    let mut functions = Vec::new();
    for address in cmd!(sh, "ls {PCI_SYSFS_PATH}").read().await?.lines() {
        let path = format!("{PCI_SYSFS_PATH}/{address}");
        let vendor = cmd!(sh, "cat {path}/vendor").read().await?;
        let device = cmd!(sh, "cat {path}/device").read().await?;
        if format!("{}:{}", vendor.trim(), device.trim()) != id {
            continue;
        }
        let resource = cmd!(sh, "cat {path}/resource").read().await?;
        let bars = resource
            .lines()
            .take(6)
            .map(bar_len)
            .collect::<Result<_, _>>();
        let bars = bars.with_context(|| format!("{path}: {resource}"))?;
        functions.push(Function { path, bars });
    }
    Ok(functions)
}

/// The length of the BAR that one line of a `resource` file describes.
fn bar_len(line: &str) -> anyhow::Result<u64> {
    let mut words = line.split_whitespace().map(|word| {
        let digits = word.strip_prefix("0x").context("no hexadecimal number")?;
        Ok::<_, anyhow::Error>(u64::from_str_radix(digits, 16)?)
    });
    let start = words.next().context("no start")??;
    let end = words.next().context("no end")??;
    let flags = words.next().context("no flags")??;
    Ok(if flags == 0 { 0 } else { end - start + 1 })
}

fn region_file() -> anyhow::Result<(tempfile::NamedTempFile, String)> {
    let file = tempfile::NamedTempFile::new()?;
    file.as_file().set_len(REGION_LEN)?;
    let path = file
        .path()
        .to_str()
        .context("path is not UTF-8")?
        .to_owned();
    Ok((file, path))
}

/// Boots with a device on each of two root ports, lets the guest enable the
/// functions with this ID, and expects that it sees the same after another
/// save and restore as before. (Petri has done one by itself at boot.)
async fn boot_with(
    config: PetriVmBuilder<OpenVmmPetriBackend>,
    devices: [Resource<PciDeviceHandleKind>; 2],
    id: &str,
    expected_bars: &[(usize, u64)],
) -> anyhow::Result<()> {
    let (mut vm, agent) = config
        .modify_backend(|b| {
            b.with_pcie_root_topology(1, 1, 2).with_custom_config(|c| {
                for (i, resource) in devices.into_iter().enumerate() {
                    let port_name = format!("s0rc0rp{i}");
                    c.pcie_devices.push(PcieDeviceConfig {
                        port_name,
                        resource,
                    });
                }
            })
        })
        .run()
        .await?;

    let before = functions(&agent, id).await?;
    tracing::info!(?before, "functions before save and restore");
    assert_eq!(before.len(), 2);
    for Function { path, bars } in &before {
        for &(bar, len) in expected_bars {
            assert_eq!(bars[bar], len, "BAR {bar} of {path}");
        }
        // With memory decoding on, the region has to come back where it was.
        // A driver may have done so already.
        let sh = agent.unix_shell();
        let enable = format!("echo 1 > {path}/enable || grep -q '^[1-9]' {path}/enable");
        cmd!(sh, "sh -c {enable}").run().await?;
    }

    // The agent's vsock connection does not survive the pulse.
    drop(agent);
    vm.backend().verify_save_restore().await?;
    let agent = vm.backend().wait_for_agent(false).await?;
    assert_eq!(functions(&agent, id).await?, before);

    agent.power_off().await?;
    vm.wait_for_clean_teardown().await?;
    Ok(())
}

/// Two region devices on PCIe root ports: one that the guest can write to, and
/// one that it can only read.
#[openvmm_test(linux_direct_x64)]
async fn portal_region_from_file(
    config: PetriVmBuilder<OpenVmmPetriBackend>,
) -> anyhow::Result<()> {
    let (_file, path) = region_file()?;
    let device = |access| {
        PortalPciHandle {
            source: RegionSource::File { path: path.clone() },
            model: PciModel::IvshmemV1,
            access,
            vectors: 0,
            peer: None,
        }
        .into_resource()
    };
    let devices = [
        device(RegionAccess::ReadWrite),
        device(RegionAccess::ReadOnly),
    ];
    // Registers; no doorbells and so no MSI-X table; the region.
    let bars = [(0, 256), (1, 0), (2, REGION_LEN)];
    boot_with(config, devices, "0x1af4:0x1110", &bars).await
}

/// Two persistent memory devices on PCIe root ports: one that the guest can
/// write to, and one that it can only read.
#[openvmm_test(linux_direct_x64)]
async fn portal_pmem_from_file(config: PetriVmBuilder<OpenVmmPetriBackend>) -> anyhow::Result<()> {
    let files = [region_file()?, region_file()?];
    let device = |i: usize, writable| {
        let pmem = VirtioPmemHandle {
            path: files[i].1.clone(),
            writable,
        };
        VirtioPciDeviceHandle(pmem.into_resource()).into_resource()
    };
    let devices = [device(0, true), device(1, false)];
    boot_with(config, devices, "0x1af4:0x105b", &[(4, REGION_LEN)]).await
}

// Copyright (c) Microsoft Corporation.
// Licensed under the MIT License.

//! `--portal`: from the command line to device handles.

use crate::cli_args::PortalAccessCli;
use crate::cli_args::PortalCli;
use crate::cli_args::PortalKindCli;
use anyhow::Context as _;
use openvmm_defs::config::PcieDeviceConfig;
use openvmm_defs::config::PcieMmioRangeConfig;
use openvmm_defs::config::PciePortConfig;
use openvmm_defs::config::PcieRootComplexConfig;
use portal_resources::PciModel;
use portal_resources::PortalPciHandle;
use portal_resources::RegionAccess;
use portal_resources::RegionSource;
use virtio_resources::VirtioPciDeviceHandle;
use vm_resource::IntoResource;
use vm_resource::Resource;
use vm_resource::kind::PciDeviceHandleKind;
use vm_resource::kind::VirtioDeviceHandle;

/// Vectors when the option does not say.
const DEFAULT_VECTORS: u16 = 2;
/// The most that a switchboard takes.
const MOST_VECTORS: u16 = 64;
/// Address space for regions below the root complex that is made for devices
/// without a port.
const HIGH_MMIO: u64 = 16 << 30;
/// The same for their registers.
const LOW_MMIO: u64 = 4 << 20;

/// The devices of the `--portal` options. Those without a port get a root
/// complex of their own, with a port each.
pub(crate) fn devices(
    options: &[PortalCli],
    complexes: &mut Vec<PcieRootComplexConfig>,
) -> anyhow::Result<Vec<PcieDeviceConfig>> {
    let mut ports = Vec::new();
    let mut devices = Vec::new();
    for option in options {
        let port_name = option.pcie_port.clone().unwrap_or_else(|| {
            let name = format!("portal{}", ports.len());
            ports.push(port(name.clone()));
            name
        });
        devices.push(PcieDeviceConfig {
            port_name,
            resource: resource(option).with_context(|| format!("--portal {option:?}"))?,
        });
    }
    if !ports.is_empty() {
        complexes.push(root_complex(complexes, ports)?);
    }
    Ok(devices)
}

fn resource(option: &PortalCli) -> anyhow::Result<Resource<PciDeviceHandleKind>> {
    let source = source(option)?;
    let access = match option.access {
        PortalAccessCli::ReadOnly => RegionAccess::ReadOnly,
        PortalAccessCli::ReadWrite => RegionAccess::ReadWrite,
    };
    let model = match option.kind {
        PortalKindCli::Pmem => return pmem(option, source, access),
        PortalKindCli::Ivshmem => PciModel::IvshmemV1,
        PortalKindCli::Ivshmem2 => PciModel::IvshmemV2,
    };
    let from_file = matches!(source, RegionSource::File { .. });
    anyhow::ensure!(
        !(from_file && model == PciModel::IvshmemV2),
        "kind=ivshmem2 needs a switchboard: a file has no peers whose state it could show"
    );
    let vectors = match (from_file, option.vectors) {
        (true, None | Some(0)) => 0,
        (true, Some(_)) => anyhow::bail!("vectors: a region from a file has no doorbells"),
        (false, vectors) => vectors.unwrap_or(DEFAULT_VECTORS),
    };
    anyhow::ensure!(
        from_file || (1..=MOST_VECTORS).contains(&vectors),
        "vectors={vectors}: has to be 1 to {MOST_VECTORS}"
    );
    Ok(PortalPciHandle {
        source,
        model,
        access,
        vectors,
    }
    .into_resource())
}

/// A file as persistent memory: nothing but a virtio-pmem device.
fn pmem(
    option: &PortalCli,
    source: RegionSource,
    access: RegionAccess,
) -> anyhow::Result<Resource<PciDeviceHandleKind>> {
    anyhow::ensure!(
        option.vectors.is_none(),
        "vectors: a pmem device has no doorbells"
    );
    let RegionSource::File { path } = source else {
        anyhow::bail!(
            "kind=pmem takes file=<path>: a switchboard's regions are memory, and nothing in \
             them lasts"
        );
    };
    let pmem: Resource<VirtioDeviceHandle> = virtio_resources::pmem::VirtioPmemHandle {
        path,
        writable: access == RegionAccess::ReadWrite,
    }
    .into_resource();
    Ok(VirtioPciDeviceHandle(pmem).into_resource())
}

fn source(option: &PortalCli) -> anyhow::Result<RegionSource> {
    match (&option.region, &option.switchboard, &option.file) {
        (Some(region), Some(socket), None) => Ok(RegionSource::Switchboard {
            socket: absolute(socket)?,
            region: region.clone(),
        }),
        (None, None, Some(path)) => Ok(RegionSource::File {
            path: absolute(path)?,
        }),
        _ => anyhow::bail!("expected region=<name>,switchboard=<path> or file=<path>"),
    }
}

/// The device may be made in a process with another working directory.
fn absolute(path: &str) -> anyhow::Result<String> {
    let path = std::path::absolute(path).with_context(|| format!("path '{path}'"))?;
    let path = path.into_os_string().into_string();
    path.map_err(|path| anyhow::anyhow!("path {path:?} is not UTF-8"))
}

fn port(name: String) -> PciePortConfig {
    PciePortConfig {
        name,
        devfn: None,
        hotplug: false,
        acs_capabilities_supported: None,
        cxl: false,
        pasid: false,
    }
}

fn root_complex(
    others: &[PcieRootComplexConfig],
    ports: Vec<PciePortConfig>,
) -> anyhow::Result<PcieRootComplexConfig> {
    let segment = others
        .iter()
        .map(|other| other.segment.checked_add(1))
        .max();
    Ok(PcieRootComplexConfig {
        index: others.len() as u32,
        name: "portal".into(),
        segment: segment
            .map_or(Some(0), |next| next)
            .context("no PCI segment is left")?,
        start_bus: 0,
        end_bus: 255,
        low_mmio: PcieMmioRangeConfig::Dynamic { size: LOW_MMIO },
        high_mmio: PcieMmioRangeConfig::Dynamic { size: HIGH_MMIO },
        ports,
        cxl: None,
        iommu: None,
        vnode: None,
        preserve_bars: false,
    })
}

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
use openvmm_defs::config::PcieSwitchConfig;
use portal_resources::PciModel;
use portal_resources::PortalPciHandle;
use portal_resources::PortalPmemHandle;
use portal_resources::RegionAccess;
use portal_resources::RegionSource;
use virtio_resources::VirtioPciDeviceHandle;
use virtio_resources::pmem::VirtioPmemHandle;
use vm_resource::IntoResource;
use vm_resource::Resource;
use vm_resource::kind::PciDeviceHandleKind;
use vm_resource::kind::VirtioDeviceHandle;

/// Vectors when the option does not say.
const DEFAULT_VECTORS: u16 = 2;
/// The most that a switchboard takes.
const MOST_VECTORS: u16 = 64;
/// What memory is mapped in.
const PAGE: u64 = 4096;
/// What Linux takes persistent memory in.
const PMEM_UNIT: u64 = 2 << 20;
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
    switches: &[PcieSwitchConfig],
) -> anyhow::Result<Vec<PcieDeviceConfig>> {
    let mut ports = Vec::new();
    let mut devices = Vec::new();
    for option in options {
        if let Some(port) = &option.pcie_port {
            has_port(port, complexes, switches).with_context(|| shown(option))?;
        }
        let port_name = option.pcie_port.clone().unwrap_or_else(|| {
            let name = format!("portal{}", ports.len());
            ports.push(port(name.clone()));
            name
        });
        devices.push(PcieDeviceConfig {
            port_name,
            resource: resource(option).with_context(|| shown(option))?,
        });
    }
    if !ports.is_empty() {
        complexes.push(root_complex(complexes, ports)?);
    }
    Ok(devices)
}

fn has_port(
    port: &str,
    complexes: &[PcieRootComplexConfig],
    switches: &[PcieSwitchConfig],
) -> anyhow::Result<()> {
    let of_complexes = complexes.iter().flat_map(|complex| &complex.ports);
    let of_switches = switches.iter().flat_map(|switch| &switch.ports);
    let all: Vec<_> = of_complexes
        .chain(of_switches)
        .map(|port| port.name.as_str())
        .collect();
    anyhow::ensure!(
        !all.is_empty(),
        "pcie_port={port}: there are no ports; make one with --pcie-root-port, or leave pcie_port \
         out"
    );
    anyhow::ensure!(
        all.contains(&port),
        "pcie_port={port}: there is no such port; there are: {}",
        all.join(", ")
    );
    Ok(())
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
    if let RegionSource::File { path } = &source {
        let len = file_len(path)?;
        anyhow::ensure!(
            len.is_power_of_two() && len >= PAGE,
            "{path} has {len} bytes: behind a BAR it has to be a power of two, at least {PAGE}; \
             see truncate(1)"
        );
    }
    anyhow::ensure!(
        !(from_file && model == PciModel::IvshmemV2),
        "kind=ivshmem2 needs a switchboard: a file has no peers whose state it could show"
    );
    let vectors = match (from_file, option.vectors) {
        (true, None | Some(0)) => 0,
        (true, Some(vectors)) => {
            anyhow::bail!("vectors={vectors}: a region from a file has no doorbells")
        }
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
        peer: option.peer,
    }
    .into_resource())
}

/// A region as persistent memory; from a file it is a virtio-pmem device as any
/// other.
fn pmem(
    option: &PortalCli,
    source: RegionSource,
    access: RegionAccess,
) -> anyhow::Result<Resource<PciDeviceHandleKind>> {
    if let Some(vectors) = option.vectors {
        anyhow::bail!("vectors={vectors}: a pmem device has no doorbells");
    }
    let pmem: Resource<VirtioDeviceHandle> = match source {
        RegionSource::File { path } => {
            let len = file_len(&path)?;
            anyhow::ensure!(
                len != 0 && len % PMEM_UNIT == 0,
                "{path} has {len} bytes: a pmem device takes a multiple of {PMEM_UNIT}; see \
                 truncate(1)"
            );
            VirtioPmemHandle {
                path,
                writable: access == RegionAccess::ReadWrite,
            }
            .into_resource()
        }
        RegionSource::Switchboard { socket, region } => PortalPmemHandle {
            socket,
            region,
            access,
            peer: option.peer,
        }
        .into_resource(),
    };
    Ok(VirtioPciDeviceHandle(pmem).into_resource())
}

fn source(option: &PortalCli) -> anyhow::Result<RegionSource> {
    match (&option.region, &option.switchboard, &option.file) {
        (Some(region), Some(socket), None) => Ok(RegionSource::Switchboard {
            socket: absolute(socket)?,
            region: region.clone(),
        }),
        (None, None, Some(_)) if option.peer.is_some() => {
            anyhow::bail!("peer: a region from a file has no peers")
        }
        (None, None, Some(path)) => Ok(RegionSource::File {
            path: absolute(path)?,
        }),
        (Some(_), None, None) => anyhow::bail!("switchboard=<path> is missing"),
        (None, Some(_), None) => anyhow::bail!("region=<name> is missing"),
        (None, None, None) => {
            anyhow::bail!("expected region=<name>,switchboard=<path> or file=<path>")
        }
        (_, _, Some(_)) => anyhow::bail!(
            "file=<path> stands in place of region=<name>,switchboard=<path>, not beside it"
        ),
    }
}

/// The option as far as an error needs it.
fn shown(option: &PortalCli) -> String {
    let keys = [
        ("region", &option.region),
        ("switchboard", &option.switchboard),
        ("file", &option.file),
    ];
    let keys: Vec<_> = keys
        .iter()
        .filter_map(|(key, value)| Some(format!("{key}={}", value.as_ref()?)))
        .collect();
    format!("--portal {}", keys.join(","))
}

/// Length of a file that guests can map, in bytes.
fn file_len(path: &str) -> anyhow::Result<u64> {
    let metadata = fs_err::metadata(path)?;
    anyhow::ensure!(metadata.is_file(), "{path} is not a regular file");
    Ok(metadata.len())
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::str::FromStr as _;

    fn error(option: &str) -> String {
        let option = PortalCli::from_str(option).unwrap();
        let mut complexes = vec![root_complex(&[], vec![port("rp0".into())]).unwrap()];
        format!("{:#}", devices(&[option], &mut complexes, &[]).unwrap_err())
    }

    fn file(len: u64) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(len).unwrap();
        file
    }

    #[test]
    fn an_error_names_what_is_wrong() {
        let served = "region=lake,switchboard=/s";
        for (option, expected) in [
            ("region=lake".to_owned(), "switchboard=<path> is missing"),
            ("switchboard=/s".to_owned(), "region=<name> is missing"),
            ("kind=pmem".to_owned(), "expected region=<name>"),
            (format!("{served},file=/f"), "not beside it"),
            (format!("{served},vectors=0"), "vectors=0: has to be 1 to"),
            (format!("{served},vectors=65"), "vectors=65: has to be 1 to"),
            (format!("{served},kind=pmem,vectors=2"), "no doorbells"),
            (format!("{served},pcie_port=rp1"), "there are: rp0"),
            ("file=/f,peer=1".to_owned(), "a file has no peers"),
            ("file=/nowhere/lake".to_owned(), "/nowhere/lake"),
            ("file=/".to_owned(), "not a regular file"),
        ] {
            let error = error(&option);
            assert!(error.contains(expected), "{option}: {error}");
        }
        for (len, kind) in [
            (0, "ivshmem"),
            (5000, "ivshmem"),
            (0, "pmem"),
            (PMEM_UNIT + PAGE, "pmem"),
        ] {
            let file = file(len);
            let error = error(&format!("file={},kind={kind}", file.path().display()));
            assert!(error.contains(&format!("has {len} bytes")), "{error}");
        }
        assert!(PortalCli::from_str("file=/f,kind=foo").is_err());
        assert!(PortalCli::from_str("file=/f,access=wo").is_err());
        assert!(PortalCli::from_str("file=/f,colour=red").is_err());
    }

    #[test]
    fn devices_without_a_port_get_a_root_complex() {
        let file = file(3 * PMEM_UNIT);
        let file = file.path().display();
        let options = [
            "region=lake,switchboard=/s".to_owned(),
            "region=lake,switchboard=/s,kind=pmem,access=ro,pcie_port=rp0".to_owned(),
            format!("file={file},kind=pmem"),
        ]
        .map(|option| PortalCli::from_str(&option).unwrap());
        let mut complexes = vec![root_complex(&[], vec![port("rp0".into())]).unwrap()];
        let devices = devices(&options, &mut complexes, &[]).unwrap();
        let devices: Vec<_> = devices
            .iter()
            .map(|device| (device.port_name.as_str(), device.resource.id()))
            .collect();
        assert_eq!(
            devices,
            [
                ("portal0", "portal"),
                ("rp0", "virtio"),
                ("portal1", "virtio")
            ]
        );
        let [_, complex] = &complexes[..] else {
            panic!("one root complex more")
        };
        assert_eq!(complex.ports.len(), 2);
    }
}

//! PCI functions as sysfs shows them (`Documentation/PCI/sysfs-pci.rst`).
//!
//! Trusted: the kernel of this guest. Left out: everything that needs no region.

use crate::GuestError;
use std::fs;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::path::PathBuf;

/// Offset of the command register in configuration space.
const COMMAND: u64 = 0x04;
/// Command: answer memory accesses.
const MEMORY: u16 = 1 << 1;
/// Command: bus master.
const MASTER: u16 = 1 << 2;
/// Command: INTx disable.
const INTX_DISABLE: u16 = 1 << 10;
/// Offset of the interrupt pin.
const INTERRUPT_PIN: u64 = 0x3d;
/// Flag of a line of the `resource` file: memory (and not ports).
const IORESOURCE_MEM: u64 = 0x200;

/// A range of bus addresses, as the `resource` file gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bar {
    /// First address.
    pub start: u64,
    /// Bytes.
    pub len: u64,
}

/// A PCI function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    folder: PathBuf,
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
}

impl Function {
    /// All functions below `sysfs` (normally `/sys`), by address. None when there
    /// is no PCI.
    pub fn all(sysfs: &Path) -> Vec<Self> {
        let folder = sysfs.join("bus/pci/devices");
        let Ok(entries) = fs::read_dir(folder) else {
            return Vec::new();
        };
        let mut found: Vec<Self> = entries
            .flatten()
            .filter_map(|entry| {
                let folder = entry.path();
                let id = |name| hex(&fs::read_to_string(folder.join(name)).ok()?);
                let (vendor, device) = (id("vendor")?, id("device")?);
                Some(Self {
                    vendor: u16::try_from(vendor).ok()?,
                    device: u16::try_from(device).ok()?,
                    folder,
                })
            })
            .collect();
        found.sort_by(|a, b| a.folder.cmp(&b.folder));
        found
    }

    /// Its address, as `0000:00:03.0`.
    pub fn address(&self) -> String {
        let name = self.folder.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// A file of its folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A memory BAR; `None` when it has none of that number.
    pub fn bar(&self, bar: usize) -> Option<Bar> {
        let text = fs::read_to_string(self.file("resource")).ok()?;
        let mut words = text.lines().nth(bar)?.split_whitespace().map(hex);
        let (start, end, flags) = (words.next()??, words.next()??, words.next()??);
        let len = end.checked_sub(start)?.checked_add(1)?;
        (flags & IORESOURCE_MEM != 0 && start != 0).then_some(Bar { start, len })
    }

    /// The driver that has it.
    pub fn driver(&self) -> Option<String> {
        let target = fs::read_link(self.file("driver")).ok()?;
        Some(target.file_name()?.to_string_lossy().into_owned())
    }

    /// The IOMMU group's number; `None` without an IOMMU.
    pub fn iommu_group(&self) -> Option<String> {
        let target = fs::read_link(self.file("iommu_group")).ok()?;
        Some(target.file_name()?.to_string_lossy().into_owned())
    }

    /// Whether it can interrupt by INTx: the interrupt pin is not 0.
    pub fn has_intx(&self) -> bool {
        let mut pin = [0];
        let read = File::open(self.file("config"))
            .and_then(|config| config.read_exact_at(&mut pin, INTERRUPT_PIN));
        read.is_ok() && pin != [0]
    }

    /// Opens configuration space for reading and writing.
    ///
    /// # Errors
    /// [`GuestError::Os`]: it takes the rights of root.
    pub fn config(&self) -> Result<Config, GuestError> {
        let path = self.file("config");
        let file = File::options().read(true).write(true).open(&path);
        Ok(Config {
            file: file.map_err(GuestError::os("open", &path))?,
            path,
            command: 0,
        })
    }

    /// Gives it to `driver` and takes it from another one.
    ///
    /// # Errors
    /// [`GuestError::NoInterrupts`] when the driver is not loaded or does not take
    /// it.
    pub fn bind(&self, driver: &'static str) -> Result<(), GuestError> {
        if self.driver().as_deref() == Some(driver) {
            return Ok(());
        }
        let failed = |why: String| GuestError::NoInterrupts {
            device: self.address(),
            driver,
            why,
        };
        let bus = self.folder.parent().and_then(Path::parent);
        let bus = bus.ok_or_else(|| failed("it is on no bus".to_owned()))?;
        if !bus.join("drivers").join(driver).exists() {
            return Err(failed(format!(
                "the driver is not loaded (modprobe {driver})"
            )));
        }
        let write = |path: PathBuf, text: &str| {
            fs::write(&path, text).map_err(|e| failed(format!("write to {}: {e}", path.display())))
        };
        // For this function alone: a `new_id` would give the driver every function
        // of the kind.
        write(self.file("driver_override"), driver)?;
        if self.driver().is_some() {
            write(self.file("driver/unbind"), &self.address())?;
        }
        write(bus.join("drivers_probe"), &self.address())?;
        match self.driver() {
            Some(bound) if bound == driver => Ok(()),
            _ => Err(failed("the driver does not take it (see dmesg)".to_owned())),
        }
    }
}

/// Configuration space, open.
#[derive(Debug)]
pub struct Config {
    file: File,
    path: PathBuf,
    command: u16,
}

impl Config {
    /// Makes it answer memory accesses.
    ///
    /// # Errors
    /// [`GuestError::Os`].
    pub fn decode_memory(&self) -> Result<(), GuestError> {
        self.change(0, MEMORY)
    }

    /// Lets INTx through: `uio_pci_generic` disables it at each interrupt. To be
    /// called after [`Self::remember`]: writes the command register without reading
    /// it, because each access is an exit to the VMM.
    ///
    /// # Errors
    /// [`GuestError::Os`].
    pub fn enable_intx(&self) -> Result<(), GuestError> {
        let command = (self.command & !INTX_DISABLE).to_le_bytes();
        let written = self.file.write_all_at(&command, COMMAND);
        written.map_err(GuestError::os("configure", &self.path))
    }

    /// Keeps the command register as it is now, once a driver has the function and
    /// nobody else changes it.
    ///
    /// # Errors
    /// [`GuestError::Os`].
    pub fn remember(mut self) -> Result<Self, GuestError> {
        let mut command = [0; 2];
        let read = self.file.read_exact_at(&mut command, COMMAND);
        read.map_err(GuestError::os("read", &self.path))?;
        self.command = u16::from_le_bytes(command);
        Ok(self)
    }

    /// Makes it bus master, which messages of MSI-X need.
    ///
    /// # Errors
    /// [`GuestError::Os`].
    pub fn master(&self) -> Result<(), GuestError> {
        self.change(0, MASTER)
    }

    fn change(&self, clear: u16, set: u16) -> Result<(), GuestError> {
        let changed: io::Result<()> = (|| {
            let mut command = [0; 2];
            self.file.read_exact_at(&mut command, COMMAND)?;
            let old = u16::from_le_bytes(command);
            let new = (old & !clear) | set;
            if new != old {
                self.file.write_all_at(&new.to_le_bytes(), COMMAND)?;
            }
            Ok(())
        })();
        changed.map_err(GuestError::os("configure", &self.path))
    }
}

/// A hexadecimal number with 0x, as sysfs writes them.
fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_what_its_files_say() {
        let sysfs = tempfile::tempdir().unwrap();
        let folder = sysfs.path().join("bus/pci/devices/0000:00:04.0");
        fs::create_dir_all(&folder).unwrap();
        assert!(Function::all(sysfs.path()).is_empty(), "no ids");
        fs::write(folder.join("vendor"), "0x1af4\n").unwrap();
        fs::write(folder.join("device"), "0x1110\n").unwrap();
        let resource = "0x00000000febfd000 0x00000000febfd0ff 0x0000000000040200\n\
                        0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
                        0x000000000000c000 0x000000000000c03f 0x0000000000040101\n\
                        nonsense\n\
                        0x0000000000002000 0x0000000000001000 0x0000000000040200\n";
        fs::write(folder.join("resource"), resource).unwrap();
        let [function] = &Function::all(sysfs.path())[..] else {
            panic!("one function");
        };
        assert_eq!(function.address(), "0000:00:04.0");
        assert_eq!((function.vendor, function.device), (0x1af4, 0x1110));
        let registers = Bar {
            start: 0xfebf_d000,
            len: 256,
        };
        assert_eq!(function.bar(0), Some(registers));
        for absent in 1..6 {
            assert_eq!(function.bar(absent), None, "{absent}");
        }
        assert_eq!(function.driver(), None);
        assert!(!function.has_intx());
        let refused = function.bind("uio_pci_generic").unwrap_err().to_string();
        assert!(refused.contains("modprobe uio_pci_generic"), "{refused}");
    }

    #[test]
    fn the_command_register_changes_by_bits() {
        let sysfs = tempfile::tempdir().unwrap();
        let folder = sysfs.path().join("bus/pci/devices/0000:00:04.0");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("vendor"), "0x1af4\n").unwrap();
        fs::write(folder.join("device"), "0x1110\n").unwrap();
        let mut space = vec![0; 256];
        space[5] = 0x04;
        space[0x3d] = 1;
        fs::write(folder.join("config"), &space).unwrap();
        let function = Function::all(sysfs.path()).remove(0);
        assert!(function.has_intx());
        let config = function.config().unwrap();
        config.decode_memory().unwrap();
        config.master().unwrap();
        let read = || fs::read(folder.join("config")).unwrap()[4..6].to_vec();
        assert_eq!(read(), [0x06, 0x04]);
        config.remember().unwrap().enable_intx().unwrap();
        assert_eq!(read(), [0x06, 0x00]);
    }
}

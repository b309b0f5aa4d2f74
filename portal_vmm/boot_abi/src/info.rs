//! [`BootInfo`]: the one structure the VMM leaves in guest memory for a vCPU.
//!
//! Little-endian, fixed offsets, no padding that is not named. The VMM writes it
//! once before the first instruction; the guest may do with it what it likes
//! afterwards.

use core::mem::offset_of;
use core::mem::size_of;

/// First eight bytes of a [`BootInfo`]: `PORTALBI` in ASCII.
pub const MAGIC: u64 = u64::from_le_bytes(*b"PORTALBI");
/// Version of this layout. Moves when an offset or a meaning changes.
pub const VERSION: u32 = 1;
/// Regions that one partition can have at fixed addresses. Regions behind a BAR
/// do not count: the guest finds those on the PCI bus.
pub const MAX_REGIONS: usize = 8;

/// [`BootInfo::flags`] bit 0: `CR4.OSXSAVE` is set and [`BootInfo::xcr0`] loaded.
pub const FLAG_XSAVE: u64 = 1 << 0;
/// [`BootInfo::flags`] bit 1: the guest's TSC reads the same as the host's, so
/// time stamps of several partitions and of host threads may be compared.
pub const FLAG_TSC_IS_HOST: u64 = 1 << 1;

/// [`RegionInfo::flags`] bit 0: one memory slot, everything writable; only checks
/// keep peers apart.
pub const REGION_FLAT: u32 = 1 << 0;
/// [`RegionInfo::flags`] bit 1: the host's pages and the other peers' sections
/// are read-only in the second stage; a write there does not reach memory.
pub const REGION_SECTIONED: u32 = 1 << 1;

/// A region mapped at a fixed guest physical address. 32 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RegionInfo {
    /// +0, 8 bytes: guest physical address of the region's first byte.
    pub gpa: u64,
    /// +8, 8 bytes: length of the region in bytes.
    pub size: u64,
    /// +16, 8 bytes: epoch under which the host admitted this partition.
    pub epoch: u64,
    /// +24, 4 bytes: `REGION_*` bits.
    pub flags: u32,
    /// +28, 2 bytes: the peer id that this partition has in the region.
    pub peer: u16,
    /// +30, 2 bytes: zero.
    pub reserved: u16,
}

/// What a vCPU is told at its entry. 384 bytes; `RDI` holds its address.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootInfo {
    /// +0, 8 bytes: [`MAGIC`].
    pub magic: u64,
    /// +8, 4 bytes: [`VERSION`].
    pub version: u32,
    /// +12, 4 bytes: size of this structure in bytes.
    pub size: u32,
    /// +16, 8 bytes: RAM of the partition in bytes, both ranges together
    /// (see [`crate::low_ram`] and [`crate::high_ram`]).
    pub ram_bytes: u64,
    /// +24, 8 bytes: frequency of the guest's TSC in Hz; 0 when the host does not know.
    pub tsc_hz: u64,
    /// +32, 4 bytes: number of this vCPU, from 0; also its APIC id.
    pub vcpu_index: u32,
    /// +36, 4 bytes: vCPUs of the partition.
    pub vcpu_count: u32,
    /// +40, 8 bytes: base of the ECAM (bus 0 only); 0 when there is no PCI bus.
    pub ecam_gpa: u64,
    /// +48, 8 bytes: where the image was put ([`crate::IMAGE_GPA`]).
    pub image_gpa: u64,
    /// +56, 8 bytes: length of the image in bytes. Memory behind it is zero.
    pub image_bytes: u64,
    /// +64, 8 bytes: address of the command line (UTF-8, also NUL-terminated).
    pub cmdline_gpa: u64,
    /// +72, 4 bytes: length of the command line in bytes without the NUL.
    pub cmdline_len: u32,
    /// +76, 4 bytes: entries of [`BootInfo::regions`] that mean something.
    pub region_count: u32,
    /// +80, 8 bytes: `FLAG_*` bits.
    pub flags: u64,
    /// +88, 8 bytes: value of `XCR0`; 0 without [`FLAG_XSAVE`].
    pub xcr0: u64,
    /// +96, 32 bytes: zero.
    pub reserved: [u64; 4],
    /// +128, 8 x 32 bytes: the regions at fixed addresses.
    pub regions: [RegionInfo; MAX_REGIONS],
}

/// Why a [`BootInfo`] is not one that this crate understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootInfoError {
    /// The first eight bytes are not [`MAGIC`]; holds what they are.
    Magic(u64),
    /// Made by a VMM of another [`VERSION`]; holds that version.
    Version(u32),
    /// Shorter than this structure; holds the size it claims, in bytes.
    Size(u32),
    /// More regions than [`MAX_REGIONS`]; holds the count.
    Regions(u32),
}

impl BootInfo {
    /// A `BootInfo` with its fixed fields set and everything else zero.
    pub const fn new() -> Self {
        Self {
            magic: MAGIC,
            version: VERSION,
            size: size_of::<Self>() as u32,
            ram_bytes: 0,
            tsc_hz: 0,
            vcpu_index: 0,
            vcpu_count: 0,
            ecam_gpa: 0,
            image_gpa: 0,
            image_bytes: 0,
            cmdline_gpa: 0,
            cmdline_len: 0,
            region_count: 0,
            flags: 0,
            xcr0: 0,
            reserved: [0; 4],
            regions: [RegionInfo {
                gpa: 0,
                size: 0,
                epoch: 0,
                flags: 0,
                peer: 0,
                reserved: 0,
            }; MAX_REGIONS],
        }
    }

    /// Whether the VMM that made this speaks this version of the layout.
    ///
    /// # Errors
    /// [`BootInfoError`] names the first field that does not fit.
    pub const fn check(&self) -> Result<(), BootInfoError> {
        if self.magic != MAGIC {
            return Err(BootInfoError::Magic(self.magic));
        }
        if self.version != VERSION {
            return Err(BootInfoError::Version(self.version));
        }
        if (self.size as usize) < size_of::<Self>() {
            return Err(BootInfoError::Size(self.size));
        }
        if self.region_count as usize > MAX_REGIONS {
            return Err(BootInfoError::Regions(self.region_count));
        }
        Ok(())
    }

    /// The bytes as they lie in guest memory.
    pub fn to_bytes(&self) -> [u8; size_of::<Self>()] {
        let mut out = [0u8; size_of::<Self>()];
        put(&mut out, offset_of!(Self, magic), &self.magic.to_le_bytes());
        put(
            &mut out,
            offset_of!(Self, version),
            &self.version.to_le_bytes(),
        );
        put(&mut out, offset_of!(Self, size), &self.size.to_le_bytes());
        put(
            &mut out,
            offset_of!(Self, ram_bytes),
            &self.ram_bytes.to_le_bytes(),
        );
        put(
            &mut out,
            offset_of!(Self, tsc_hz),
            &self.tsc_hz.to_le_bytes(),
        );
        put(
            &mut out,
            offset_of!(Self, vcpu_index),
            &self.vcpu_index.to_le_bytes(),
        );
        put(
            &mut out,
            offset_of!(Self, vcpu_count),
            &self.vcpu_count.to_le_bytes(),
        );
        put(
            &mut out,
            offset_of!(Self, ecam_gpa),
            &self.ecam_gpa.to_le_bytes(),
        );
        put(
            &mut out,
            offset_of!(Self, image_gpa),
            &self.image_gpa.to_le_bytes(),
        );
        put(
            &mut out,
            offset_of!(Self, image_bytes),
            &self.image_bytes.to_le_bytes(),
        );
        put(
            &mut out,
            offset_of!(Self, cmdline_gpa),
            &self.cmdline_gpa.to_le_bytes(),
        );
        put(
            &mut out,
            offset_of!(Self, cmdline_len),
            &self.cmdline_len.to_le_bytes(),
        );
        put(
            &mut out,
            offset_of!(Self, region_count),
            &self.region_count.to_le_bytes(),
        );
        put(&mut out, offset_of!(Self, flags), &self.flags.to_le_bytes());
        put(&mut out, offset_of!(Self, xcr0), &self.xcr0.to_le_bytes());
        for (index, region) in self.regions.iter().enumerate() {
            let at = offset_of!(Self, regions) + index * size_of::<RegionInfo>();
            put(&mut out, at, &region.gpa.to_le_bytes());
            put(&mut out, at + 8, &region.size.to_le_bytes());
            put(&mut out, at + 16, &region.epoch.to_le_bytes());
            put(&mut out, at + 24, &region.flags.to_le_bytes());
            put(&mut out, at + 28, &region.peer.to_le_bytes());
        }
        out
    }
}

impl Default for BootInfo {
    fn default() -> Self {
        Self::new()
    }
}

fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    for (to, from) in out.iter_mut().skip(at).zip(bytes) {
        *to = *from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_the_documented_ones() {
        assert_eq!(size_of::<RegionInfo>(), 32);
        assert_eq!(offset_of!(RegionInfo, gpa), 0);
        assert_eq!(offset_of!(RegionInfo, size), 8);
        assert_eq!(offset_of!(RegionInfo, epoch), 16);
        assert_eq!(offset_of!(RegionInfo, flags), 24);
        assert_eq!(offset_of!(RegionInfo, peer), 28);
        assert_eq!(offset_of!(RegionInfo, reserved), 30);
        assert_eq!(size_of::<BootInfo>(), 384);
        let want = [
            (offset_of!(BootInfo, magic), 0),
            (offset_of!(BootInfo, version), 8),
            (offset_of!(BootInfo, size), 12),
            (offset_of!(BootInfo, ram_bytes), 16),
            (offset_of!(BootInfo, tsc_hz), 24),
            (offset_of!(BootInfo, vcpu_index), 32),
            (offset_of!(BootInfo, vcpu_count), 36),
            (offset_of!(BootInfo, ecam_gpa), 40),
            (offset_of!(BootInfo, image_gpa), 48),
            (offset_of!(BootInfo, image_bytes), 56),
            (offset_of!(BootInfo, cmdline_gpa), 64),
            (offset_of!(BootInfo, cmdline_len), 72),
            (offset_of!(BootInfo, region_count), 76),
            (offset_of!(BootInfo, flags), 80),
            (offset_of!(BootInfo, xcr0), 88),
            (offset_of!(BootInfo, reserved), 96),
            (offset_of!(BootInfo, regions), 128),
        ];
        for (is, must_be) in want {
            assert_eq!(is, must_be);
        }
    }

    #[test]
    fn bytes_carry_every_field_at_its_offset() {
        let mut info = BootInfo::new();
        info.ram_bytes = 0x1122_3344_5566_7788;
        info.vcpu_index = 3;
        info.region_count = 2;
        info.xcr0 = 7;
        info.regions[1] = RegionInfo {
            gpa: 0x10_0000_0000,
            size: 0x20_0000,
            epoch: 9,
            flags: REGION_SECTIONED,
            peer: 0x0102,
            reserved: 0,
        };
        let bytes = info.to_bytes();
        assert_eq!(&bytes[0..8], b"PORTALBI");
        assert_eq!(bytes[12..16], 384u32.to_le_bytes());
        assert_eq!(bytes[16..24], info.ram_bytes.to_le_bytes());
        assert_eq!(bytes[32], 3);
        assert_eq!(bytes[76], 2);
        assert_eq!(bytes[88], 7);
        assert_eq!(bytes[160..168], 0x10_0000_0000u64.to_le_bytes());
        assert_eq!(bytes[176], 9);
        assert_eq!(bytes[184], 2);
        assert_eq!(bytes[188..190], [2, 1]);
    }

    #[test]
    fn check_refuses_what_it_does_not_know() {
        let good = BootInfo::new();
        assert_eq!(good.check(), Ok(()));
        let bad = BootInfo { magic: 1, ..good };
        assert_eq!(bad.check(), Err(BootInfoError::Magic(1)));
        let bad = BootInfo { version: 7, ..good };
        assert_eq!(bad.check(), Err(BootInfoError::Version(7)));
        let bad = BootInfo { size: 383, ..good };
        assert_eq!(bad.check(), Err(BootInfoError::Size(383)));
        let bad = BootInfo {
            region_count: 9,
            ..good
        };
        assert_eq!(bad.check(), Err(BootInfoError::Regions(9)));
    }
}

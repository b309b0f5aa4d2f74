//! The PCI bus: a host bridge at 00:00.0 and one device a slot behind it, reached
//! through ECAM (PCI Express Base 5.0, 7.2.2) and through ports CF8h/CFCh (PCI
//! Local Bus 3.0, 3.2.2.3.2).
//!
//! Only the decoding is here: which slot, which offset, which widths. Every
//! access is cut into naturally aligned pieces of 1, 2 or 4 bytes, so that a
//! device never sees a width that PCI does not have.

/// Device numbers of one bus; 0 is the host bridge.
pub(crate) const SLOTS: usize = 32;
/// Bytes of one function's configuration space.
const FUNCTION: u64 = 4096;
/// The host bridge's ids: Intel 82G33, which guests know as a plain bridge.
const BRIDGE: [u8; 16] = [
    0x86, 0x80, 0xC0, 0x29, // vendor 8086h, device 29C0h
    0x00, 0x00, 0x00, 0x00, // command, status
    0x00, 0x00, 0x00, 0x06, // revision 0, class 06h 00h 00h
    0x00, 0x00, 0x00, 0x00, // type 0
];
/// The address port and the first of the four data ports.
const ADDRESS_PORT: u16 = 0xCF8;
const DATA_PORT: u16 = 0xCFC;

/// Whose configuration space an access goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Function {
    /// The host bridge.
    Bridge,
    /// Function 0 of slot 1 to 31.
    Slot(usize),
    /// Nothing there: reads as ones.
    Absent,
}

/// Function and register of an offset into the ECAM of bus 0.
pub(crate) fn ecam(offset: u64) -> (Function, u16) {
    let register = (offset % FUNCTION) as u16;
    let number = (offset / FUNCTION % 8) as usize;
    let slot = (offset / FUNCTION / 8) as usize;
    (function(slot, number), register)
}

fn function(slot: usize, number: usize) -> Function {
    match (slot, number) {
        (0, 0) => Function::Bridge,
        (slot, 0) if slot < SLOTS => Function::Slot(slot),
        _ => Function::Absent,
    }
}

/// A register of the host bridge, which nothing can change.
pub(crate) fn bridge_register(register: u16, len: u8) -> u64 {
    let bytes = BRIDGE.iter().skip(register.into()).take(len.into());
    let mut value = [0; 8];
    for (to, from) in value.iter_mut().zip(bytes) {
        *to = *from;
    }
    u64::from_le_bytes(value)
}

/// The latch behind port CF8h.
#[derive(Debug, Default)]
pub(crate) struct ConfigPorts {
    address: u32,
}

/// What an access to ports CF8h to CFFh comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PortAccess {
    /// The address latch.
    Latch,
    /// Configuration space: function and register of the first byte.
    Config(Function, u16),
    /// Decoded by nobody.
    Nothing,
}

impl ConfigPorts {
    /// What `len` bytes at `port` reach; `None` for ports of someone else.
    pub(crate) fn decode(&self, port: u16, len: usize) -> Option<PortAccess> {
        match port {
            ADDRESS_PORT if len == 4 => Some(PortAccess::Latch),
            ADDRESS_PORT..DATA_PORT => Some(PortAccess::Nothing),
            DATA_PORT..0xD00 if self.address & 1 << 31 != 0 && len <= 4 => {
                let bus = self.address >> 16 & 0xFF;
                let slot = (self.address >> 11 & 31) as usize;
                let number = (self.address >> 8 & 7) as usize;
                let register = (self.address & 0xFC) as u16 + (port - DATA_PORT);
                let function = match bus {
                    0 => function(slot, number),
                    _ => Function::Absent,
                };
                Some(PortAccess::Config(function, register))
            }
            DATA_PORT..0xD00 => Some(PortAccess::Nothing),
            _ => None,
        }
    }

    pub(crate) fn latch(&self) -> u32 {
        self.address
    }

    /// Sets the latch. Bits 24 to 30 and 0 to 1 are reserved and read as zero.
    pub(crate) fn set_latch(&mut self, value: u32) {
        self.address = value & 0x80FF_FFFC;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ecam_offsets_name_slot_function_and_register() {
        assert_eq!(ecam(0), (Function::Bridge, 0));
        assert_eq!(ecam(1 << 15 | 0x10), (Function::Slot(1), 0x10));
        assert_eq!(ecam(31 << 15 | 0xFFF), (Function::Slot(31), 0xFFF));
        assert_eq!(ecam(1 << 15 | 1 << 12), (Function::Absent, 0));
        assert_eq!(ecam(1 << 12), (Function::Absent, 0));
    }

    #[test]
    fn ports_reach_the_same_functions() {
        let mut ports = ConfigPorts::default();
        assert_eq!(ports.decode(0xCFC, 4), Some(PortAccess::Nothing));
        ports.set_latch(0x8000_0800 | 0x13);
        assert_eq!(ports.latch(), 0x8000_0810);
        let device = Function::Slot(1);
        assert_eq!(
            ports.decode(0xCFE, 2),
            Some(PortAccess::Config(device, 0x12))
        );
        ports.set_latch(0x8001_0800);
        let absent = PortAccess::Config(Function::Absent, 0);
        assert_eq!(ports.decode(0xCFC, 4), Some(absent));
        assert_eq!(ports.decode(0xCF8, 4), Some(PortAccess::Latch));
        assert_eq!(ports.decode(0xCF8, 1), Some(PortAccess::Nothing));
        assert_eq!(ports.decode(0xCF7, 1), None);
        assert_eq!(ports.decode(0xD00, 1), None);
    }

    #[test]
    fn the_bridge_has_a_vendor_and_ends() {
        assert_eq!(bridge_register(0, 4), 0x29C0_8086);
        assert_eq!(bridge_register(0x0A, 2), 0x0600);
        assert_eq!(bridge_register(0x40, 4), 0);
        assert_eq!(bridge_register(0xFFFF, 4), 0);
    }
}

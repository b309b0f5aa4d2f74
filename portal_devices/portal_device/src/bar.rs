//! What a binding may know of a device's BARs before it sizes them.

/// Address width and prefetchability of a BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BarKind {
    /// 32-bit memory, not prefetchable.
    Memory32,
    /// 64-bit memory, prefetchable; takes the next BAR index too.
    Memory64Prefetchable,
}

/// What stands behind a BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BarBacking {
    /// Registers: accesses are trapped.
    Registers,
    /// The region: mapped.
    Region,
}

/// One base address register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct BarInfo {
    /// Index, 0 to 5.
    pub bar: u8,
    /// Bytes; a power of two, and also the alignment.
    pub len: u64,
    /// Width and prefetchability.
    pub kind: BarKind,
    /// What is behind it.
    pub backing: BarBacking,
}

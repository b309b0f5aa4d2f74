//! Saved state: bytes with a device kind and a version, and the reader that
//! takes them apart.
//!
//! All numbers are little-endian at fixed offsets; a layout never changes under
//! the same version. There is no checksum: integrity is the business of whoever
//! stores the bytes, and a hostile writer would forge it. Every field is
//! checked by the device that reads it.

/// What saving a device comes to. Every device has to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Saved {
    /// Here it is.
    State(SavedState),
    /// Not at this moment: work is under way that ends with a later input.
    Busy,
    /// This device has no saved state, for this reason.
    Never(&'static str),
}

/// A saved device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedState {
    /// Which device wrote it: a four-byte tag.
    pub device: u32,
    /// Version of the layout of `bytes`.
    pub version: u32,
    /// The state.
    pub bytes: Vec<u8>,
}

/// Why a saved state was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// Another kind of device wrote it.
    #[error("saved state is of device {found:#010x}, this is {expected:#010x}")]
    WrongDevice {
        /// Tag in the state.
        found: u32,
        /// Tag of this device.
        expected: u32,
    },
    /// A version that this build does not know.
    #[error("saved state has version {found}, this build reads 1 to {newest}")]
    WrongVersion {
        /// Version in the state.
        found: u32,
        /// Newest version known.
        newest: u32,
    },
    /// The bytes end inside a field, or go on behind the last.
    #[error(
        "saved state is {found} bytes long at field {field}, which is not what the layout says"
    )]
    WrongLength {
        /// Field that was being read.
        field: &'static str,
        /// Length of the bytes.
        found: usize,
    },
    /// A field holds what this device can never hold.
    #[error("saved state: {field} is {value:#x}, the limit is {limit:#x}")]
    OutOfRange {
        /// Field.
        field: &'static str,
        /// Its value.
        value: u64,
        /// The limit.
        limit: u64,
    },
    /// The state is of a device configured otherwise.
    #[error("saved state: {field} is {value:#x}, this device has {expected:#x}")]
    Mismatch {
        /// Field.
        field: &'static str,
        /// Its value.
        value: u64,
        /// What this device has.
        expected: u64,
    },
}

impl SavedState {
    /// Starts reading: checks tag and version.
    pub fn open(&self, device: u32, newest: u32) -> Result<Reader<'_>, RestoreError> {
        if self.device != device {
            return Err(RestoreError::WrongDevice {
                found: self.device,
                expected: device,
            });
        }
        if self.version == 0 || self.version > newest {
            return Err(RestoreError::WrongVersion {
                found: self.version,
                newest,
            });
        }
        Ok(Reader {
            bytes: &self.bytes,
            at: 0,
        })
    }
}

/// Takes fields from the front; every read is checked.
#[derive(Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], RestoreError> {
        let short = RestoreError::WrongLength {
            field,
            found: self.bytes.len(),
        };
        let end = self.at.checked_add(N).ok_or(short.clone())?;
        let bytes = self.bytes.get(self.at..end).ok_or(short.clone())?;
        self.at = end;
        bytes.try_into().map_err(|_| short)
    }

    /// A byte.
    pub fn u8(&mut self, field: &'static str) -> Result<u8, RestoreError> {
        self.take::<1>(field).map(u8::from_le_bytes)
    }

    /// Two bytes.
    pub fn u16(&mut self, field: &'static str) -> Result<u16, RestoreError> {
        self.take(field).map(u16::from_le_bytes)
    }

    /// Four bytes.
    pub fn u32(&mut self, field: &'static str) -> Result<u32, RestoreError> {
        self.take(field).map(u32::from_le_bytes)
    }

    /// Eight bytes.
    pub fn u64(&mut self, field: &'static str) -> Result<u64, RestoreError> {
        self.take(field).map(u64::from_le_bytes)
    }

    /// A byte that is 0 or 1.
    pub fn flag(&mut self, field: &'static str) -> Result<bool, RestoreError> {
        match self.u8(field)? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(RestoreError::OutOfRange {
                field,
                value: value.into(),
                limit: 1,
            }),
        }
    }

    /// Four bytes of which only the bits in `mask` may be set.
    pub fn bits32(&mut self, field: &'static str, mask: u32) -> Result<u32, RestoreError> {
        let value = self.u32(field)?;
        if value & !mask != 0 {
            return Err(RestoreError::OutOfRange {
                field,
                value: value.into(),
                limit: mask.into(),
            });
        }
        Ok(value)
    }

    /// A number that has to be what this device was configured with.
    pub fn same(
        &mut self,
        field: &'static str,
        value: u64,
        expected: u64,
    ) -> Result<(), RestoreError> {
        if value == expected {
            Ok(())
        } else {
            Err(RestoreError::Mismatch {
                field,
                value,
                expected,
            })
        }
    }

    /// Checks that nothing is left.
    pub fn end(self) -> Result<(), RestoreError> {
        if self.at == self.bytes.len() {
            Ok(())
        } else {
            Err(RestoreError::WrongLength {
                field: "end",
                found: self.bytes.len(),
            })
        }
    }
}

/// Appends fields.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Nothing written yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A byte.
    pub fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    /// A byte that is 0 or 1.
    pub fn flag(&mut self, value: bool) {
        self.bytes.push(value.into());
    }

    /// Two bytes.
    pub fn u16(&mut self, value: u16) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// Four bytes.
    pub fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// Eight bytes.
    pub fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// The state.
    pub fn finish(self, device: u32, version: u32) -> SavedState {
        SavedState {
            device,
            version,
            bytes: self.bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> SavedState {
        let mut writer = Writer::new();
        writer.u64(7);
        writer.flag(true);
        writer.finish(0x1234, 2)
    }

    #[test]
    fn what_was_written_is_read() {
        let state = state();
        let mut reader = state.open(0x1234, 2).expect("same device and version");
        assert_eq!(reader.u64("seven"), Ok(7));
        assert_eq!(reader.flag("yes"), Ok(true));
        assert_eq!(reader.end(), Ok(()));
    }

    #[test]
    fn every_truncation_and_extension_is_refused() {
        let read = |state: &SavedState| {
            let mut reader = state.open(0x1234, 2)?;
            reader.u64("seven")?;
            reader.flag("yes")?;
            reader.end()
        };
        for len in 0..state().bytes.len() {
            let mut short = state();
            short.bytes.truncate(len);
            assert!(
                matches!(read(&short), Err(RestoreError::WrongLength { .. })),
                "{len}"
            );
        }
        let mut long = state();
        long.bytes.push(0);
        assert!(matches!(
            read(&long),
            Err(RestoreError::WrongLength { field: "end", .. })
        ));
    }

    #[test]
    fn foreign_tags_versions_and_flags_are_refused() {
        let mut state = state();
        assert!(matches!(
            state.open(1, 2),
            Err(RestoreError::WrongDevice { .. })
        ));
        assert!(matches!(
            state.open(0x1234, 1),
            Err(RestoreError::WrongVersion { .. })
        ));
        state.version = 0;
        assert!(matches!(
            state.open(0x1234, 2),
            Err(RestoreError::WrongVersion { .. })
        ));
        state.version = 2;
        if let Some(last) = state.bytes.last_mut() {
            *last = 2;
        }
        let mut reader = state.open(0x1234, 2).expect("same device and version");
        reader.u64("seven").expect("eight bytes are there");
        assert!(matches!(
            reader.flag("yes"),
            Err(RestoreError::OutOfRange { .. })
        ));
    }
}

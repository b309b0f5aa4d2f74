//! Names of regions and peers: 32 bytes in host pages, NUL-padded.
//!
//! A name ends up in logs, file names and terminals, so only printable ASCII
//! without `/` is a name. The host writes names; a reader still checks them.

use core::fmt;

/// Bytes that a name takes in host pages. 32 keeps the peer entry at one
/// cache line.
pub const NAME_BYTES: usize = 32;

/// A checked name: 1 to 32 bytes of printable ASCII without blanks and `/`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name([u8; NAME_BYTES]);

/// Why some bytes are not a [`Name`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing before the padding.
    #[error("a name needs at least one byte")]
    Empty,
    /// More bytes than host pages keep.
    #[error("the name has {len} bytes; the limit is 32")]
    TooLong {
        /// Length given, in bytes.
        len: usize,
    },
    /// A byte that is not printable ASCII, or is a blank or `/`.
    #[error("byte {value:#04x} at position {at} of the name is a blank, '/' or no printable ASCII")]
    Byte {
        /// Index of the byte.
        at: usize,
        /// The byte.
        value: u8,
    },
}

impl Name {
    /// Checks a string.
    ///
    /// # Errors
    /// [`NameError`] says which rule the string breaks.
    pub const fn new(name: &str) -> Result<Self, NameError> {
        let from = name.as_bytes();
        if from.is_empty() {
            return Err(NameError::Empty);
        }
        if from.len() > NAME_BYTES {
            return Err(NameError::TooLong { len: from.len() });
        }
        let mut bytes = [0; NAME_BYTES];
        let mut i = 0;
        while i < from.len() {
            if !from[i].is_ascii_graphic() || from[i] == b'/' {
                return Err(NameError::Byte {
                    at: i,
                    value: from[i],
                });
            }
            bytes[i] = from[i];
            i += 1;
        }
        Ok(Self(bytes))
    }

    /// Checks the 32 bytes of a table: a name, then only zeros.
    ///
    /// # Errors
    /// [`NameError`] says which rule the bytes break.
    pub fn from_padded(bytes: &[u8; NAME_BYTES]) -> Result<Self, NameError> {
        let len = bytes
            .iter()
            .rposition(|&b| b != 0)
            .map_or(0, |last| last + 1);
        for (at, &value) in bytes[..len].iter().enumerate() {
            if !value.is_ascii_graphic() || value == b'/' {
                return Err(NameError::Byte { at, value });
            }
        }
        if len == 0 {
            return Err(NameError::Empty);
        }
        Ok(Self(*bytes))
    }

    /// The 32 bytes, NUL-padded.
    pub const fn padded(&self) -> &[u8; NAME_BYTES] {
        &self.0
    }

    /// The name without its padding.
    pub fn as_str(&self) -> &str {
        let len = self.0.iter().position(|&b| b == 0).unwrap_or(NAME_BYTES);
        // Only ASCII gets in, so this cannot fail; a lossy answer beats a panic.
        core::str::from_utf8(&self.0[..len]).unwrap_or("?")
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

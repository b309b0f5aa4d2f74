//! Numbers and names to and from the bytes of one message.

use crate::MESSAGE_MAX;
use hv_shmem::name::NAME_BYTES;
use hv_shmem::name::Name;

/// Bytes in front of every body.
pub(crate) const HEADER: usize = 8;

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// Shorter than a header, or longer than any message.
    #[error("a message of {len} bytes; one has {HEADER} to {MESSAGE_MAX}")]
    Length {
        /// Bytes there.
        len: usize,
    },
    /// The header's length is not that of the message.
    #[error("a message of {len} bytes says that it has {said}")]
    SaidLength {
        /// Bytes there.
        len: usize,
        /// The header's number.
        said: u32,
    },
    /// No message has this number.
    #[error("message kind {kind:#06x} is not known")]
    Kind {
        /// The number.
        kind: u16,
    },
    /// The body ends too early or too late for its kind.
    #[error("the body of message {kind:#06x} has the wrong length")]
    Body {
        /// The kind.
        kind: u16,
    },
    /// A field holds what it cannot mean.
    #[error("{field} is {value:#x}, which means nothing")]
    Field {
        /// The field.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
    /// Other descriptors than the body says.
    #[error("{found} file descriptors came with the message; {expected} belong to it")]
    Fds {
        /// How many came.
        found: usize,
        /// How many belong.
        expected: usize,
    },
}

/// A message being written.
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn new(kind: u16) -> Self {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend(kind.to_le_bytes());
        bytes.extend([0; HEADER - 2]);
        Self(bytes)
    }

    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    pub(crate) fn u8(self, value: u8) -> Self {
        self.bytes(&[value])
    }

    pub(crate) fn u16(self, value: u16) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u32(self, value: u32) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u64(self, value: u64) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn name(self, name: &Name) -> Self {
        self.bytes(name.padded())
    }

    /// The whole message, its length in place.
    pub(crate) fn end(mut self) -> Vec<u8> {
        debug_assert!(self.0.len() <= MESSAGE_MAX, "every body is bounded");
        let len = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        if let Some(at) = self.0.get_mut(4..HEADER) {
            at.copy_from_slice(&len.to_le_bytes());
        }
        self.0
    }
}

/// A body being read.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    kind: u16,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Checks the header.
    pub(crate) fn new(message: &'a [u8]) -> Result<Self, Malformed> {
        let len = message.len();
        if len > MESSAGE_MAX {
            return Err(Malformed::Length { len });
        }
        let Some((header, rest)) = message.split_first_chunk::<HEADER>() else {
            return Err(Malformed::Length { len });
        };
        let [k0, k1, z0, z1, l0, l1, l2, l3] = *header;
        let said = u32::from_le_bytes([l0, l1, l2, l3]);
        if usize::try_from(said) != Ok(len) {
            return Err(Malformed::SaidLength { len, said });
        }
        let zero = u16::from_le_bytes([z0, z1]);
        if zero != 0 {
            return Err(Malformed::Field {
                field: "the header's zero",
                value: zero.into(),
            });
        }
        Ok(Self {
            kind: u16::from_le_bytes([k0, k1]),
            rest,
        })
    }

    pub(crate) fn kind(&self) -> u16 {
        self.kind
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let kind = self.kind;
        let (taken, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(Malformed::Body { kind })?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn flag(&mut self, field: &'static str) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(Malformed::Field {
                field,
                value: value.into(),
            }),
        }
    }

    pub(crate) fn name(&mut self, field: &'static str) -> Result<Name, Malformed> {
        let bytes: [u8; NAME_BYTES] = self.array()?;
        Name::from_padded(&bytes).map_err(|_| Malformed::Field {
            field,
            value: bytes[0].into(),
        })
    }

    /// What is left of the body.
    pub(crate) fn tail(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    pub(crate) fn end(self) -> Result<(), Malformed> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Malformed::Body { kind: self.kind })
        }
    }
}

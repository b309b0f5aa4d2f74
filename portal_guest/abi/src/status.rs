//! How a command ended.

/// The status of an answer: 0 is success, negative values say what failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Status {
    /// Done.
    Done = 0,
    /// No progress within the idle limit.
    TimedOut = -1,
    /// The other peer wrote what no honest peer writes; the agent has left it.
    Violation = -2,
    /// The command could not be understood.
    BadCommand = -3,
    /// The region or a ring in it could not be used.
    Region = -4,
    /// The partition has no doorbells, or not that vector.
    NoDoorbell = -5,
    /// A span did not resolve.
    Span = -6,
    /// The agent's section has no room for what the command needs.
    NoRoom = -7,
    /// The other peer is gone or has ended early.
    PeerGone = -8,
}

impl Status {
    /// The status with this number.
    pub const fn from_i32(value: i32) -> Option<Self> {
        Some(match value {
            0 => Self::Done,
            -1 => Self::TimedOut,
            -2 => Self::Violation,
            -3 => Self::BadCommand,
            -4 => Self::Region,
            -5 => Self::NoDoorbell,
            -6 => Self::Span,
            -7 => Self::NoRoom,
            -8 => Self::PeerGone,
            _ => return None,
        })
    }

    /// What to tell a person.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::TimedOut => "no progress within the idle limit",
            Self::Violation => "the other peer broke the protocol",
            Self::BadCommand => "the command was not understood",
            Self::Region => "the region or a ring in it could not be used",
            Self::NoDoorbell => "the partition has no such doorbell",
            Self::Span => "a span did not resolve",
            Self::NoRoom => "the agent's section has no room for this",
            Self::PeerGone => "the other peer is gone",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_agree() {
        for value in -8..=0 {
            let status = Status::from_i32(value).unwrap();
            assert_eq!(status as i32, value);
        }
        assert_eq!(Status::from_i32(1), None);
        assert_eq!(Status::from_i32(-9), None);
    }
}

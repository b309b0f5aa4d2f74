//! The messages, to and from bytes.
//!
//! Offsets below are in the body. Names are 32 bytes, padded with zeros.

use crate::FDS_MAX;
use crate::MESSAGE_MAX;
use crate::VECTORS_MAX;
use crate::wire::HEADER;
use crate::wire::Malformed;
use crate::wire::Reader;
use crate::wire::Writer;
use hv_shmem::backing::Part;
use hv_shmem::layout::PeerId;
use hv_shmem::name::Name;
use hv_shmem::peers::PeerKind;
use hv_shmem::peers::Rights;
use std::fmt;
use uuid::Uuid;

/// First bytes of [`Request::Hello`]'s body: "PRTL".
const MAGIC: u32 = u32::from_le_bytes(*b"PRTL");

/// Stands for "any" where a peer id can be asked for.
const ANY: u32 = u32::MAX;

/// Most bytes of a refusal's text.
pub const TEXT_MAX: usize = 1024;

/// Most bytes of the inspect tree in one message.
pub const TREE_MAX: usize = MESSAGE_MAX - HEADER - 1;

/// What a client shows to come back as the peer that it was. It is worth as much
/// as the peer's place; [`fmt::Debug`] does not show it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Token(pub [u8; 16]);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Token {
    /// Whether the two are the same, in a time that does not depend on where they
    /// differ.
    pub fn matches(&self, other: &Self) -> bool {
        let differ = |sum, (a, b): (&u8, &u8)| sum | (a ^ b);
        self.0.iter().zip(&other.0).fold(0, differ) == 0
    }
}

/// Asks to be a peer. Descriptors: the event fds that it hears on, when it brings
/// its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Join {
    /// The region.
    pub region: Name,
    /// Its own name, which no other live peer of the region may have.
    pub name: Name,
    /// Partition or host process.
    pub kind: PeerKind,
    /// What it wants to do.
    pub rights: Rights,
    /// The id that it has to have, or any.
    pub id: Option<PeerId>,
    /// Vectors that it hears, 0 to 64.
    pub vectors: u16,
    /// Whether it brings its own event fds, one a vector; else the switchboard
    /// makes them.
    pub own: bool,
}

/// Asks to be the peer again that it was before the switchboard ended.
/// Descriptors: the event fds that it hears on, then those that it passes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reattach {
    /// The region.
    pub region: Name,
    /// Its UUID: a region that was made anew is another one.
    pub uuid: Uuid,
    /// The id that it has.
    pub peer: PeerId,
    /// The epoch that it lives under.
    pub epoch: u32,
    /// Its token.
    pub token: Token,
    /// Vectors that it hears; as many as when it joined.
    pub vectors: u16,
    /// Event fds that it passes on ([`Admitted::bells`]).
    pub passed_on: u16,
}

/// From client to switchboard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// The first message: the versions that the client speaks.
    Hello {
        /// The oldest.
        oldest: u16,
        /// The newest.
        newest: u16,
    },
    /// Which regions are there?
    List,
    /// See [`Join`].
    Join(Join),
    /// See [`Reattach`].
    Reattach(Reattach),
    /// Its section is formatted (or it ends its quiescing).
    Ready,
    /// It takes no new work.
    Quiesce,
    /// It leaves. The connection stays for other requests.
    Leave,
    /// It hears on other events from now on. Descriptors: these events, as many as
    /// when it joined.
    HearOn {
        /// How many.
        vectors: u16,
    },
    /// Its word in the state table of ivshmem v2.
    Publish {
        /// The word; 0 says that it is not there.
        state: u32,
    },
    /// The inspect tree, as JSON.
    Inspect,
    /// The memory of a region, for reading only, without being a peer of it.
    Watch {
        /// The region.
        region: Name,
    },
}

mod ask {
    pub(super) const HELLO: u16 = 0x01;
    pub(super) const LIST: u16 = 0x02;
    pub(super) const JOIN: u16 = 0x03;
    pub(super) const REATTACH: u16 = 0x04;
    pub(super) const READY: u16 = 0x05;
    pub(super) const QUIESCE: u16 = 0x06;
    pub(super) const LEAVE: u16 = 0x07;
    pub(super) const INSPECT: u16 = 0x08;
    pub(super) const WATCH: u16 = 0x09;
    pub(super) const HEAR_ON: u16 = 0x0a;
    pub(super) const PUBLISH: u16 = 0x0b;
}

fn kind_of(reader: &mut Reader<'_>) -> Result<PeerKind, Malformed> {
    let value = reader.u8()?;
    PeerKind::from_u8(value).ok_or(Malformed::Field {
        field: "the kind of peer",
        value: value.into(),
    })
}

fn rights_of(reader: &mut Reader<'_>) -> Result<Rights, Malformed> {
    let value = reader.u32()?;
    Rights::from_bits(value).ok_or(Malformed::Field {
        field: "the set of rights",
        value: value.into(),
    })
}

fn vectors_of(reader: &mut Reader<'_>) -> Result<u16, Malformed> {
    let value = reader.u16()?;
    if usize::from(value) > VECTORS_MAX {
        return Err(Malformed::Field {
            field: "the number of vectors",
            value: value.into(),
        });
    }
    Ok(value)
}

impl Request {
    /// The message's bytes.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Hello { oldest, newest } => Writer::new(ask::HELLO)
                .u32(MAGIC)
                .u16(*oldest)
                .u16(*newest)
                .end(),
            Self::List => Writer::new(ask::LIST).end(),
            Self::Join(join) => Writer::new(ask::JOIN)
                .name(&join.region)
                .name(&join.name)
                .u32(join.rights.bits())
                .u32(join.id.map_or(ANY, |id| id.0.into()))
                .u16(join.vectors)
                .u8(join.kind as u8)
                .u8(join.own.into())
                .end(),
            Self::Reattach(back) => Writer::new(ask::REATTACH)
                .name(&back.region)
                .bytes(back.uuid.as_bytes())
                .bytes(&back.token.0)
                .u32(back.epoch)
                .u16(back.peer.0)
                .u16(back.vectors)
                .u16(back.passed_on)
                .end(),
            Self::Ready => Writer::new(ask::READY).end(),
            Self::Quiesce => Writer::new(ask::QUIESCE).end(),
            Self::Leave => Writer::new(ask::LEAVE).end(),
            Self::HearOn { vectors } => Writer::new(ask::HEAR_ON).u16(*vectors).end(),
            Self::Publish { state } => Writer::new(ask::PUBLISH).u32(*state).end(),
            Self::Inspect => Writer::new(ask::INSPECT).end(),
            Self::Watch { region } => Writer::new(ask::WATCH).name(region).end(),
        }
    }

    /// Reads a message that came with `fds` descriptors.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(message: &[u8], fds: usize) -> Result<Self, Malformed> {
        let mut r = Reader::new(message)?;
        let request = match r.kind() {
            ask::HELLO => {
                let magic = r.u32()?;
                if magic != MAGIC {
                    return Err(Malformed::Field {
                        field: "the magic number",
                        value: magic.into(),
                    });
                }
                Self::Hello {
                    oldest: r.u16()?,
                    newest: r.u16()?,
                }
            }
            ask::LIST => Self::List,
            ask::JOIN => Self::Join(Join {
                region: r.name("the region's name")?,
                name: r.name("the peer's name")?,
                rights: rights_of(&mut r)?,
                id: match r.u32()? {
                    ANY => None,
                    id => Some(PeerId(u16::try_from(id).map_err(|_| Malformed::Field {
                        field: "the peer id",
                        value: id.into(),
                    })?)),
                },
                vectors: vectors_of(&mut r)?,
                kind: kind_of(&mut r)?,
                own: r.flag("the flag of own events")?,
            }),
            ask::REATTACH => Self::Reattach(Reattach {
                region: r.name("the region's name")?,
                uuid: Uuid::from_bytes(r.array()?),
                token: Token(r.array()?),
                epoch: r.u32()?,
                peer: PeerId(r.u16()?),
                vectors: vectors_of(&mut r)?,
                passed_on: vectors_of(&mut r)?,
            }),
            ask::READY => Self::Ready,
            ask::QUIESCE => Self::Quiesce,
            ask::LEAVE => Self::Leave,
            ask::INSPECT => Self::Inspect,
            ask::WATCH => Self::Watch {
                region: r.name("the region's name")?,
            },
            ask::HEAR_ON => Self::HearOn {
                vectors: vectors_of(&mut r)?,
            },
            ask::PUBLISH => Self::Publish { state: r.u32()? },
            kind => return Err(Malformed::Kind { kind }),
        };
        r.end()?;
        expect_fds(fds, request.fds())?;
        Ok(request)
    }

    /// Descriptors that belong to it.
    pub fn fds(&self) -> usize {
        match self {
            Self::Join(join) if join.own => join.vectors.into(),
            Self::HearOn { vectors } => (*vectors).into(),
            Self::Reattach(back) => usize::from(back.vectors) + usize::from(back.passed_on),
            _ => 0,
        }
    }
}

fn expect_fds(found: usize, expected: usize) -> Result<(), Malformed> {
    if found == expected {
        Ok(())
    } else {
        Err(Malformed::Fds { found, expected })
    }
}

/// A region, as the list shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionInfo {
    /// Its name.
    pub name: Name,
    /// Its identity.
    pub uuid: Uuid,
    /// Bytes.
    pub size: u64,
    /// Bytes of the common section.
    pub common: u64,
    /// Peer ids.
    pub peers: u16,
    /// How many of them live.
    pub live: u16,
    /// Vectors of a peer that joins by the compatibility socket.
    pub vectors: u16,
    /// Whether each section has a descriptor of its own, so that others' are
    /// read-only by mapping.
    pub sectioned: bool,
    /// Whether it has a compatibility socket.
    pub compatible: bool,
}

/// A client is a peer. Descriptors: the event fds that it hears on, when the
/// switchboard made them. When it brought its own: those on which peers of the
/// compatibility socket ring it, which know no others; what rings there is for the
/// client to pass on to its own. None where such peers cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// The region's identity.
    pub uuid: Uuid,
    /// Its id.
    pub peer: PeerId,
    /// The epoch that it lives under.
    pub epoch: u32,
    /// What it may do.
    pub rights: Rights,
    /// What it shows to come back.
    pub token: Token,
    /// Pieces of memory that follow in [`Reply::Memory`]; 0 after a reattach.
    pub pieces: u16,
    /// Event fds beside this message.
    pub bells: u16,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
#[non_exhaustive]
pub enum RefusalCode {
    /// No common protocol version.
    Version = 1,
    /// No region has this name.
    NoSuchRegion = 2,
    /// Every id is in use.
    Full = 3,
    /// The id that was asked for is taken or does not exist.
    Id = 4,
    /// Another peer has this name.
    NameTaken = 5,
    /// The region does not let this kind of peer in.
    Kind = 6,
    /// More rights than the region gives.
    Rights = 7,
    /// More vectors than the region gives.
    Vectors = 8,
    /// The switchboard is short of something (descriptors, memory).
    Resources = 9,
    /// Not now: no peer yet, a peer already, or a step that a peer's life has not.
    Step = 10,
    /// The life that was to be taken up again is over, or never was.
    Expired = 11,
    /// A descriptor is no event fd.
    NotAnEvent = 12,
    /// A reason that this version has no code for.
    Other = 0xffff,
}

impl RefusalCode {
    fn of(value: u16) -> Self {
        use RefusalCode as C;
        let all = [
            C::Version,
            C::NoSuchRegion,
            C::Full,
            C::Id,
            C::NameTaken,
            C::Kind,
            C::Rights,
            C::Vectors,
            C::Resources,
            C::Step,
            C::Expired,
            C::NotAnEvent,
        ];
        let found = all.into_iter().find(|code| *code as u16 == value);
        found.unwrap_or(C::Other)
    }
}

/// A refusal in words: names the thing, the value and the limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// Which kind of reason.
    pub code: RefusalCode,
    /// The reason; at most [`TEXT_MAX`] bytes go over the wire.
    pub text: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(code: RefusalCode, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { code, text }
    }
}

/// From switchboard to client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The answer to a hello: the version that is spoken from here on.
    Welcome {
        /// The version.
        version: u16,
    },
    /// One region of the list.
    Region(RegionInfo),
    /// The list is complete.
    EndOfList,
    /// See [`Admitted`].
    Admitted(Admitted),
    /// The answer to [`Request::Watch`].
    Watching {
        /// The region's identity.
        uuid: Uuid,
        /// Pieces of memory that follow in [`Reply::Memory`].
        pieces: u16,
    },
    /// Pieces of the region's memory, each with a descriptor; `true` where it is
    /// open for writing. A piece that is no part of a region is the whole of a
    /// flat one.
    Memory(Vec<(Option<Part>, bool)>),
    /// A peer is there. For the same epoch once more: it came back.
    /// Descriptors: the event fds to ring it by, vector 0 first.
    Joined {
        /// Its id.
        peer: PeerId,
        /// Its epoch.
        epoch: u32,
        /// Its name.
        name: Name,
        /// What it is.
        kind: PeerKind,
        /// Event fds beside this message.
        bells: u16,
    },
    /// A peer has formatted its section.
    Ready {
        /// Its id.
        peer: PeerId,
    },
    /// A peer takes no new work.
    Quiescing {
        /// Its id.
        peer: PeerId,
    },
    /// A peer's life is over.
    Gone {
        /// Its id.
        peer: PeerId,
        /// The epoch that is over.
        epoch: u32,
    },
    /// Every peer that was there has been told.
    Current,
    /// Ready, quiesce or leave: done.
    Done,
    /// The request is refused; nothing has changed. In the place of a
    /// [`Reply::Memory`]: it cannot be sent any more, and who was joining is no peer.
    Refused(Refusal),
    /// A piece of the inspect tree, which is JSON in UTF-8.
    Tree {
        /// Whether it is the last.
        last: bool,
        /// The piece: [`TREE_MAX`] bytes, or less if it is the last.
        text: Vec<u8>,
    },
}

mod tell {
    pub(super) const WELCOME: u16 = 0x81;
    pub(super) const REGION: u16 = 0x82;
    pub(super) const END_OF_LIST: u16 = 0x83;
    pub(super) const ADMITTED: u16 = 0x84;
    pub(super) const MEMORY: u16 = 0x85;
    pub(super) const JOINED: u16 = 0x86;
    pub(super) const READY: u16 = 0x87;
    pub(super) const QUIESCING: u16 = 0x88;
    pub(super) const GONE: u16 = 0x89;
    pub(super) const CURRENT: u16 = 0x8a;
    pub(super) const DONE: u16 = 0x8b;
    pub(super) const REFUSED: u16 = 0x8c;
    pub(super) const TREE: u16 = 0x8d;
    pub(super) const WATCHING: u16 = 0x8e;
}

/// The number of a piece of memory: a section is its peer's number.
fn piece_number(piece: Option<Part>) -> u32 {
    match piece {
        None => 0x1_0000,
        Some(Part::HostPages) => 0x1_0001,
        Some(Part::Common) => 0x1_0002,
        Some(Part::Tail) => 0x1_0003,
        Some(Part::Section(peer)) => peer.0.into(),
    }
}

fn piece_of(number: u32) -> Result<Option<Part>, Malformed> {
    match (number, u16::try_from(number)) {
        (0x1_0000, _) => Ok(None),
        (0x1_0001, _) => Ok(Some(Part::HostPages)),
        (0x1_0002, _) => Ok(Some(Part::Common)),
        (_, Ok(peer)) => Ok(Some(Part::Section(PeerId(peer)))),
        _ => Err(Malformed::Field {
            field: "the piece of memory",
            value: number.into(),
        }),
    }
}

impl Reply {
    /// The message's bytes.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Welcome { version } => Writer::new(tell::WELCOME).u16(*version).end(),
            Self::Region(region) => Writer::new(tell::REGION)
                .name(&region.name)
                .bytes(region.uuid.as_bytes())
                .u64(region.size)
                .u64(region.common)
                .u16(region.peers)
                .u16(region.live)
                .u16(region.vectors)
                .u8(region.sectioned.into())
                .u8(region.compatible.into())
                .end(),
            Self::EndOfList => Writer::new(tell::END_OF_LIST).end(),
            Self::Admitted(a) => Writer::new(tell::ADMITTED)
                .bytes(a.uuid.as_bytes())
                .bytes(&a.token.0)
                .u32(a.epoch)
                .u32(a.rights.bits())
                .u16(a.peer.0)
                .u16(a.pieces)
                .u16(a.bells)
                .end(),
            Self::Watching { uuid, pieces } => Writer::new(tell::WATCHING)
                .bytes(uuid.as_bytes())
                .u16(*pieces)
                .end(),
            Self::Memory(pieces) => {
                let one = |w: Writer, (piece, writable): &(Option<Part>, bool)| {
                    w.u32(piece_number(*piece)).u8((*writable).into())
                };
                pieces.iter().fold(Writer::new(tell::MEMORY), one).end()
            }
            Self::Joined {
                peer,
                epoch,
                name,
                kind,
                bells,
            } => Writer::new(tell::JOINED)
                .name(name)
                .u32(*epoch)
                .u16(peer.0)
                .u16(*bells)
                .u8(*kind as u8)
                .end(),
            Self::Ready { peer } => Writer::new(tell::READY).u16(peer.0).end(),
            Self::Quiescing { peer } => Writer::new(tell::QUIESCING).u16(peer.0).end(),
            Self::Gone { peer, epoch } => Writer::new(tell::GONE).u32(*epoch).u16(peer.0).end(),
            Self::Current => Writer::new(tell::CURRENT).end(),
            Self::Done => Writer::new(tell::DONE).end(),
            Self::Refused(refusal) => {
                let end = refusal.text.floor_char_boundary(TEXT_MAX);
                let text = refusal.text.as_bytes();
                Writer::new(tell::REFUSED)
                    .u16(refusal.code as u16)
                    .bytes(text.get(..end).unwrap_or(text))
                    .end()
            }
            Self::Tree { last, text } => {
                Writer::new(tell::TREE).u8((*last).into()).bytes(text).end()
            }
        }
    }

    /// Reads a message that came with `fds` descriptors.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(message: &[u8], fds: usize) -> Result<Self, Malformed> {
        let mut r = Reader::new(message)?;
        let reply = match r.kind() {
            tell::WELCOME => Self::Welcome { version: r.u16()? },
            tell::REGION => Self::Region(RegionInfo {
                name: r.name("the region's name")?,
                uuid: Uuid::from_bytes(r.array()?),
                size: r.u64()?,
                common: r.u64()?,
                peers: r.u16()?,
                live: r.u16()?,
                vectors: r.u16()?,
                sectioned: r.flag("the flag of sections")?,
                compatible: r.flag("the flag of compatibility")?,
            }),
            tell::END_OF_LIST => Self::EndOfList,
            tell::ADMITTED => Self::Admitted(Admitted {
                uuid: Uuid::from_bytes(r.array()?),
                token: Token(r.array()?),
                epoch: r.u32()?,
                rights: rights_of(&mut r)?,
                peer: PeerId(r.u16()?),
                pieces: r.u16()?,
                bells: vectors_of(&mut r)?,
            }),
            tell::WATCHING => Self::Watching {
                uuid: Uuid::from_bytes(r.array()?),
                pieces: r.u16()?,
            },
            tell::MEMORY => {
                let mut pieces = Vec::new();
                for _ in 0..fds.min(FDS_MAX) {
                    let piece = piece_of(r.u32()?)?;
                    pieces.push((piece, r.flag("the flag of writing")?));
                }
                Self::Memory(pieces)
            }
            tell::JOINED => Self::Joined {
                name: r.name("the peer's name")?,
                epoch: r.u32()?,
                peer: PeerId(r.u16()?),
                bells: vectors_of(&mut r)?,
                kind: kind_of(&mut r)?,
            },
            tell::READY => Self::Ready {
                peer: PeerId(r.u16()?),
            },
            tell::QUIESCING => Self::Quiescing {
                peer: PeerId(r.u16()?),
            },
            tell::GONE => Self::Gone {
                epoch: r.u32()?,
                peer: PeerId(r.u16()?),
            },
            tell::CURRENT => Self::Current,
            tell::DONE => Self::Done,
            tell::REFUSED => {
                let code = RefusalCode::of(r.u16()?);
                // What stands in for bytes that are no text is longer than they are.
                let mut text = String::from_utf8_lossy(r.tail()).into_owned();
                text.truncate(text.floor_char_boundary(TEXT_MAX));
                Self::Refused(Refusal { code, text })
            }
            tell::TREE => Self::Tree {
                last: r.flag("the flag of the last piece")?,
                text: r.tail().to_vec(),
            },
            kind => return Err(Malformed::Kind { kind }),
        };
        r.end()?;
        expect_fds(fds, reply.fds())?;
        Ok(reply)
    }

    /// Descriptors that belong to it.
    pub fn fds(&self) -> usize {
        match self {
            Self::Admitted(admitted) => admitted.bells.into(),
            Self::Memory(pieces) => pieces.len(),
            Self::Joined { bells, .. } => (*bells).into(),
            _ => 0,
        }
    }
}

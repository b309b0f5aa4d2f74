//! Bytes from the host to an agent, as spans of the host's arena.
//!
//! A span is written, granted, and its descriptor pushed into ring 18; the agent
//! gives it back through the arena's return ring. So many spans are under way at
//! once that neither side waits for the other.

use crate::Controller;
use crate::HostError;
use hv_shmem::arena::ArenaError;
use hv_shmem::arena::RETURN_RING;
use hv_shmem::arena::ReturnReceiver;
use hv_shmem::backing::MappedMem;
use hv_shmem::layout::PeerId;
use hv_shmem::own_section::RingSpec;
use hv_shmem::region::RingError;
use hv_shmem::ring::ENTRY_SLOT;
use hv_shmem::ring::RingKind;
use hv_shmem::ring::RingLayout;
use hv_shmem::ring::SendError;
use hv_shmem::ring::SubmitEntry;
use hv_shmem::ring::SubmitSender;
use portal_agent_abi::STREAM_RING;
use portal_agent_abi::STREAM_SLOTS;
use portal_agent_abi::stream;
use std::io::Read;
use std::time::Duration;

/// What was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streamed {
    /// Bytes.
    pub bytes: u64,
    /// Spans.
    pub spans: u64,
}

/// How bytes are sent.
#[derive(Debug, Clone, Copy)]
pub struct StreamOptions {
    /// Bytes of each span but the last.
    pub span_bytes: usize,
    /// Spans under way at once, 1 to [`STREAM_SLOTS`].
    pub window: u32,
    /// Longest wait for the agent to make progress.
    pub limit: Duration,
}

impl Default for StreamOptions {
    /// 1 MiB spans, four at once, ten seconds.
    fn default() -> Self {
        Self {
            span_bytes: 1 << 20,
            window: 4,
            limit: Duration::from_secs(10),
        }
    }
}

/// A stream while it runs.
struct Stream {
    to: PeerId,
    spans: SubmitSender<MappedMem>,
    returns: Option<ReturnReceiver<MappedMem>>,
    /// Spans that the agent holds.
    under_way: u64,
    sequence: u64,
}

impl Controller {
    /// Sends everything that `from` gives, to an agent that was told to take a
    /// stream from the host; once for each such command, whose answer is to be
    /// taken before the next one. `sent` is called with each piece of bytes, in order,
    /// before the agent can see it. A stream that fails leaves nothing behind: what
    /// the agent still held is taken back.
    ///
    /// # Errors
    /// [`HostError::Input`], [`HostError::Arena`] when the host's section has no
    /// room for one span, [`HostError::TooSlow`], [`HostError::Ended`],
    /// [`HostError::Receive`], [`HostError::OutOfTurn`].
    pub fn stream(
        &mut self,
        to: PeerId,
        from: &mut dyn Read,
        options: StreamOptions,
        sent: impl FnMut(&[u8]),
    ) -> Result<Streamed, HostError> {
        let mut stream = Stream::open(self, to)?;
        let result = self.send_all(&mut stream, from, options, sent);
        if result.is_err() {
            stream.abandon(self);
        }
        result
    }

    fn send_all(
        &mut self,
        stream: &mut Stream,
        from: &mut dyn Read,
        options: StreamOptions,
        mut sent: impl FnMut(&[u8]),
    ) -> Result<Streamed, HostError> {
        let to = stream.to;
        self.wait(to, "the start of the stream", options.limit, |this| {
            stream.meet(this)
        })?;
        let window = u64::from(options.window.clamp(1, STREAM_SLOTS));
        let mut buffer = vec![0; options.span_bytes.max(1)];
        let mut total = 0;
        loop {
            let filled = fill(from, &mut buffer).map_err(HostError::Input)?;
            let Some(bytes) = buffer.get(..filled).filter(|b| !b.is_empty()) else {
                break;
            };
            while stream.under_way >= window {
                self.wait(to, "room in the stream", options.limit, |this| {
                    stream.take_back(this)
                })?;
            }
            sent(bytes);
            let span = loop {
                match self.arena.alloc_unfilled(bytes.len() as u64) {
                    Ok(span) => break span,
                    // The window is larger than the section: as many as fit.
                    Err(ArenaError::OutOfMemory { .. }) if stream.under_way > 0 => {
                        self.wait(to, "room in the arena", options.limit, |this| {
                            stream.take_back(this)
                        })?;
                    }
                    Err(error) => return Err(error.into()),
                }
            };
            self.arena
                .view(&span)?
                .write(0, bytes)
                .map_err(ArenaError::from)?;
            let span = self.arena.fill(&span, bytes.len() as u64)?;
            self.arena.grant(&span, to)?;
            stream.under_way += 1;
            let entry = stream::data(stream.sequence, span);
            stream.push(self, &entry, options.limit)?;
            stream.sequence += 1;
            total += bytes.len() as u64;
        }
        let end = stream::end(stream.sequence, total);
        stream.push(self, &end, options.limit)?;
        while stream.under_way > 0 {
            self.wait(to, "the end of the stream", options.limit, |this| {
                stream.take_back(this)
            })?;
        }
        Ok(Streamed {
            bytes: total,
            spans: stream.sequence,
        })
    }
}

impl Stream {
    /// After a failure: closes the rings, so that no later command finds them, and
    /// takes every span back.
    fn abandon(&self, host: &mut Controller) {
        host.own.close_ring(self.to, STREAM_RING);
        host.own.leave_ring(self.to, RETURN_RING);
        host.arena.reclaim(self.to);
        if let Some(agent) = host.agents.get_mut(&self.to) {
            agent.streaming = false;
        }
    }

    fn open(host: &mut Controller, to: PeerId) -> Result<Self, HostError> {
        let agent = host.agents.get_mut(&to).ok_or(HostError::NoSuchAgent(to))?;
        agent.streaming = true;
        let place = host.own.create_ring(RingSpec {
            id: STREAM_RING,
            to,
            kind: RingKind::Submit,
            layout: RingLayout::Inline,
            slot_size: ENTRY_SLOT,
            slots: STREAM_SLOTS,
        })?;
        Ok(Self {
            to,
            spans: SubmitSender::new(place)?,
            returns: None,
            under_way: 0,
            sequence: 0,
        })
    }

    fn push(
        &mut self,
        host: &mut Controller,
        entry: &SubmitEntry,
        limit: Duration,
    ) -> Result<(), HostError> {
        let to = self.to;
        host.wait(to, "room in the stream's ring", limit, |_| {
            match self.spans.try_send(entry) {
                Ok(()) => Ok(Some(())),
                Err(SendError::Full) => Ok(None),
                Err(source) => Err(HostError::Send { agent: to, source }),
            }
        })?;
        if self.spans.flush().must_ring {
            host.ring(to)?;
        }
        Ok(())
    }

    /// Both sides have accepted the other's ring.
    fn meet(&mut self, host: &mut Controller) -> Result<Option<()>, HostError> {
        if self.returns.is_none() {
            match host.own.accept_return_ring(self.to) {
                Ok(ring) => self.returns = Some(ring),
                Err(RingError::NotThere { .. } | RingError::Accepted { .. }) => return Ok(None),
                Err(e) => return Err(e.into()),
            }
        }
        let Some(line) = host.own.cursor(self.to, STREAM_RING)? else {
            return Ok(None);
        };
        self.spans.set_cursor(line)?;
        Ok(Some(()))
    }

    /// Takes back what the agent is done with; `None` when there was nothing.
    fn take_back(&mut self, host: &mut Controller) -> Result<Option<()>, HostError> {
        let to = self.to;
        let Some(returns) = &mut self.returns else {
            return Ok(None);
        };
        let taken = host
            .arena
            .take_returns(returns)
            .map_err(|source| HostError::Receive { agent: to, source })?;
        if let Some(source) = taken.fault {
            return Err(HostError::Returned { agent: to, source });
        }
        // The arena has lent no more than that.
        self.under_way = self.under_way.saturating_sub(taken.spans);
        if taken.spans == 0 {
            returns.ring().arm();
            return Ok(None);
        }
        if returns.ring().flush().must_ring {
            host.ring(to)?;
        }
        Ok(Some(()))
    }
}

/// Reads until the buffer is full or nothing is left.
fn fill(from: &mut dyn Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|r| !r.is_empty()) {
        match from.read(rest) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

//! The serial console: a 16550 (by `vm-superio`) whose output goes to a
//! [`Console`] of the caller's choice.
//!
//! Its interrupt is an event that the kernel turns into an edge of COM1's input,
//! where one is wired; a flat image polls. What the guest writes is untrusted
//! bytes: they are passed on as they are, held back at most one line, and a
//! capture has a limit. Input that the guest does not take waits, up to a limit.

use hv_shmem::doorbell::Doorbell as _;
use hv_shmem::doorbell::DoorbellError;
use hv_shmem::doorbell::EventFd;
use portal_boot_abi::CONSOLE_PORT;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::io::Write;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use vm_superio::Serial;
use vm_superio::Trigger;

/// Longest line that is held back; a longer one is passed on in pieces.
const LINE_MAX: usize = 1024;
/// Most bytes that a capture keeps; a guest that writes more loses the rest.
const CAPTURE_MAX: usize = 1 << 20;
/// Most input bytes that wait for the guest.
const INPUT_MAX: usize = 64 << 10;
/// Registers of a 16550.
const REGISTERS: u16 = 8;

/// Where a partition's console output goes.
pub enum Console {
    /// Nowhere.
    Discard,
    /// As it comes.
    Raw(Box<dyn Write + Send>),
    /// Line by line, each with this in front.
    Lines {
        /// Put in front of each line.
        prefix: String,
        /// Where the lines go.
        to: Box<dyn Write + Send>,
    },
}

impl Console {
    /// Lines to standard output, each with `prefix` in front.
    pub fn stdout(prefix: impl Into<String>) -> Self {
        Self::Lines {
            prefix: prefix.into(),
            to: Box::new(io::stdout()),
        }
    }

    /// Bytes to a file.
    pub fn file(file: std::fs::File) -> Self {
        Self::Raw(Box::new(file))
    }

    /// Each line to a function. It runs on the vCPU's thread, inside its sandbox.
    pub fn callback(call: impl FnMut(&[u8]) + Send + 'static) -> Self {
        Self::Lines {
            prefix: String::new(),
            to: Box::new(Callback(call)),
        }
    }

    /// Bytes to memory, and the means to look at them at any time.
    pub fn capture() -> (Self, Captured) {
        let captured = Captured::default();
        (Self::Raw(Box::new(captured.clone())), captured)
    }
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Discard => "Discard",
            Self::Raw(_) => "Raw",
            Self::Lines { .. } => "Lines",
        })
    }
}

struct Callback<F>(F);

impl<F: FnMut(&[u8])> Write for Callback<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (self.0)(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a guest has written, up to 1 MiB.
#[derive(Clone, Debug, Default)]
pub struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    /// The output so far.
    pub fn text(&self) -> String {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = CAPTURE_MAX.saturating_sub(kept.len());
        kept.extend(bytes.iter().take(room));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The writer behind the UART.
struct Sink {
    console: Console,
    line: Vec<u8>,
}

impl Sink {
    fn pass_line_on(&mut self) -> io::Result<()> {
        if let Console::Lines { prefix, to } = &mut self.console {
            let mut out = Vec::with_capacity(prefix.len() + self.line.len());
            out.extend_from_slice(prefix.as_bytes());
            out.extend_from_slice(&self.line);
            self.line.clear();
            to.write_all(&out)?;
            to.flush()?;
        }
        Ok(())
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.console {
            Console::Discard => {}
            Console::Raw(to) => to.write_all(bytes)?,
            Console::Lines { .. } => {
                for byte in bytes {
                    self.line.push(*byte);
                    if *byte == b'\n' || self.line.len() >= LINE_MAX {
                        self.pass_line_on()?;
                    }
                }
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.console {
            Console::Raw(to) => to.flush(),
            Console::Discard | Console::Lines { .. } => Ok(()),
        }
    }
}

/// The interrupt line of the UART, if it goes anywhere.
struct Line(Option<EventFd>);

impl Trigger for Line {
    type E = DoorbellError;

    fn trigger(&self) -> Result<(), DoorbellError> {
        match &self.0 {
            Some(event) => event.ring(),
            None => Ok(()),
        }
    }
}

/// The UART at its eight ports.
pub(crate) struct Uart {
    serial: Serial<Line, vm_superio::serial::NoEvents, Sink>,
    /// Input that the guest has had no room for.
    waiting: VecDeque<u8>,
    /// Writes that the sink refused.
    lost: u64,
}

impl Uart {
    /// `interrupt` is signalled for each interrupt.
    pub(crate) fn new(console: Console, interrupt: Option<EventFd>) -> Self {
        let sink = Sink {
            console,
            line: Vec::new(),
        };
        Self {
            serial: Serial::new(Line(interrupt), sink),
            waiting: VecDeque::new(),
            lost: 0,
        }
    }

    /// Register number of a port; `None` for ports of someone else.
    pub(crate) fn register(port: u16) -> Option<u8> {
        let offset = port.checked_sub(CONSOLE_PORT)?;
        (offset < REGISTERS).then_some(offset as u8)
    }

    /// `out` to a register; string instructions bring several bytes.
    pub(crate) fn write(&mut self, register: u8, data: &[u8]) {
        for byte in data {
            if self.serial.write(register, *byte).is_err() {
                self.lost = self.lost.saturating_add(1);
            }
        }
    }

    pub(crate) fn read(&mut self, register: u8, data: &mut [u8]) {
        for byte in data {
            *byte = self.serial.read(register);
        }
        self.feed();
    }

    /// Bytes typed at the console; returns how many were taken.
    pub(crate) fn input(&mut self, bytes: &[u8]) -> usize {
        let room = INPUT_MAX.saturating_sub(self.waiting.len());
        let taken = bytes.len().min(room);
        self.waiting.extend(bytes.iter().take(taken));
        self.feed();
        taken
    }

    /// Moves waiting input into the UART's buffer, as far as it has room.
    fn feed(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let room = self.serial.fifo_capacity().min(self.waiting.len());
        let next: Vec<u8> = self.waiting.iter().take(room).copied().collect();
        if let Ok(taken) = self.serial.enqueue_raw_bytes(&next) {
            self.waiting.drain(..taken);
        }
    }

    /// Passes on what is held back of an unfinished line.
    pub(crate) fn finish(&mut self) {
        let sink = self.serial.writer_mut();
        if !sink.line.is_empty() {
            sink.line.push(b'\n');
            if sink.pass_line_on().is_err() {
                self.lost = self.lost.saturating_add(1);
            }
        }
    }

    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_of(console: Console, output: &[u8]) {
        let mut uart = Uart::new(console, None);
        uart.write(0, output);
        uart.finish();
        assert_eq!(uart.lost(), 0);
    }

    #[test]
    fn lines_get_their_prefix_also_when_unfinished() {
        let captured = Captured::default();
        let console = Console::Lines {
            prefix: "a| ".to_owned(),
            to: Box::new(captured.clone()),
        };
        text_of(console, b"one\ntwo");
        assert_eq!(captured.text(), "a| one\na| two\n");
    }

    #[test]
    fn a_line_without_an_end_is_passed_on_in_pieces() {
        let captured = Captured::default();
        let console = Console::Lines {
            prefix: String::new(),
            to: Box::new(captured.clone()),
        };
        let mut uart = Uart::new(console, None);
        uart.write(0, &[b'x'; LINE_MAX + 1]);
        assert_eq!(captured.text().len(), LINE_MAX);
    }

    #[test]
    fn a_capture_stops_growing() {
        let (console, captured) = Console::capture();
        text_of(console, &vec![b'x'; CAPTURE_MAX + 10]);
        assert_eq!(captured.text().len(), CAPTURE_MAX);
    }

    #[test]
    fn input_waits_for_room_and_raises_the_interrupt() {
        let event = EventFd::new().unwrap();
        let mut uart = Uart::new(Console::Discard, Some(event.try_clone().unwrap()));
        // Interrupt for received data.
        uart.write(1, &[1]);
        let text: Vec<u8> = (0..200).collect();
        assert_eq!(uart.input(&text), 200);
        assert!(event.take().unwrap());
        let mut got = Vec::new();
        let mut status = [0];
        loop {
            uart.read(5, &mut status);
            if status[0] & 1 == 0 {
                break;
            }
            let mut byte = [0];
            uart.read(0, &mut byte);
            got.extend(byte);
        }
        assert_eq!(got, text);
        assert_eq!(uart.input(&vec![b'x'; 2 * INPUT_MAX]), INPUT_MAX);
    }

    #[test]
    fn only_its_own_ports_are_the_uarts() {
        assert_eq!(Uart::register(0x3F7), None);
        assert_eq!(Uart::register(0x3F8), Some(0));
        assert_eq!(Uart::register(0x3FF), Some(7));
        assert_eq!(Uart::register(0x400), None);
    }
}

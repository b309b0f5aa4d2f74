//! The serial console, for people: each call costs microseconds to hundreds of them.

use core::fmt;

/// Writes to the console through the kernel, a line buffer at a time.
#[derive(Debug)]
pub struct Console {
    line: [u8; 128],
    used: usize,
}

impl Console {
    /// An empty buffer in front of the console.
    pub const fn new() -> Self {
        Self {
            line: [0; 128],
            used: 0,
        }
    }

    /// Sends what is buffered.
    pub fn flush(&mut self) {
        if let Some(text) = self.line.get(..self.used) {
            crate::syscall::print(text);
        }
        self.used = 0;
    }
}

impl Default for Console {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            if self.used == self.line.len() {
                self.flush();
            }
            if let Some(to) = self.line.get_mut(self.used) {
                *to = byte;
                self.used += 1;
            }
        }
        Ok(())
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Prints formatted text on the console.
#[macro_export]
macro_rules! print {
    ($($arg:tt)*) => {{
        let mut console = $crate::console::Console::new();
        // The console takes everything: there is no error to lose.
        let _ = ::core::fmt::Write::write_fmt(&mut console, ::core::format_args!($($arg)*));
    }};
}

/// Prints formatted text and a newline on the console.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($arg:tt)*) => {
        $crate::print!("{}\n", ::core::format_args!($($arg)*))
    };
}

//! Stock QEMU as it is: two machines without guests, and a host program, on one
//! socket. QEMU's own test protocol (`-qtest`) plays the guest's loads and stores.

use crate::client::Client;
use crate::daemon::Daemon;
use crate::daemon::PATIENCE;
use crate::daemon::until;
use hv_shmem::layout::PeerId;
use hv_shmem::mem::SharedMem;
use hv_shmem::region::AttachOptions;
use hv_shmem::region::PortalRegion;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Write as _;
use std::path::Path;
use std::process::Child;
use std::process::ChildStdin;
use std::process::ChildStdout;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;

const QEMU: &str = "qemu-system-x86_64";
const BAR0: u64 = 0xfe00_0000;
const BAR1: u64 = 0xfe00_1000;
const BAR2: u64 = 0xe000_0000;

struct Qemu {
    child: Arc<Mutex<Child>>,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Qemu {
    /// A machine with a doorbell device in slot 4, its BARs in place.
    fn start(socket: &Path, vectors: usize) -> Self {
        let chardev = format!("socket,path={},id=lake", socket.display());
        let device = format!("ivshmem-doorbell,chardev=lake,vectors={vectors},addr=4");
        let mut child = Command::new(QEMU)
            .args(["-machine", "pc,accel=tcg", "-S", "-m", "32", "-nodefaults"])
            .args(["-display", "none", "-qtest", "stdio", "-qtest-log", "none"])
            .args(["-chardev", &chardev, "-device", &device])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("QEMU starts");
        let input = child.stdin.take().expect("piped");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let child = Arc::new(Mutex::new(child));
        let watched = Arc::downgrade(&child);
        std::thread::spawn(move || {
            std::thread::sleep(PATIENCE);
            if let Some(child) = watched.upgrade() {
                let _ = child.lock().expect("no panic").kill();
            }
        });
        let mut this = Self {
            child,
            input,
            output,
        };
        for (register, value) in [
            (0x10, BAR0),
            (0x14, BAR1),
            (0x18, BAR2),
            (0x1c, 0),
            (0x04, 6),
        ] {
            this.config_write(register, value);
        }
        // The MSI-X capability: on, every vector still masked.
        let msix = this.config_read(0x34) & 0xff;
        assert_eq!(this.config_read(msix) & 0xff, 0x11, "MSI-X");
        let control = this.config_read(msix);
        this.config_write(msix, control | 0x8000_0000);
        this
    }

    fn say(&mut self, words: &str) -> u64 {
        writeln!(self.input, "{words}").expect("QEMU lives");
        let mut line = String::new();
        self.output.read_line(&mut line).expect("QEMU lives");
        let answer = line.trim().strip_prefix("OK");
        let answer = answer.unwrap_or_else(|| panic!("{words}: {line:?}")).trim();
        let digits = answer.trim_start_matches("0x");
        u64::from_str_radix(digits, 16).unwrap_or(0)
    }

    fn config_read(&mut self, register: u64) -> u64 {
        self.say(&format!(
            "outl 0xcf8 {:#x}",
            0x8000_0000u64 | 4 << 11 | register
        ));
        self.say("inl 0xcfc")
    }

    fn config_write(&mut self, register: u64, value: u64) {
        self.say(&format!(
            "outl 0xcf8 {:#x}",
            0x8000_0000u64 | 4 << 11 | register
        ));
        self.say(&format!("outl 0xcfc {value:#x}"));
    }

    /// IVPosition.
    fn id(&mut self) -> i64 {
        self.say(&format!("readl {:#x}", BAR0 + 8)) as i64
    }

    fn ring(&mut self, peer: i64, vector: u64) {
        let value = (peer as u64) << 16 | vector;
        self.say(&format!("writel {:#x} {value:#x}", BAR0 + 12));
    }

    /// Vectors that were rung and wait, since they are masked.
    fn pending(&mut self) -> u64 {
        self.say(&format!("readq {:#x}", BAR1 + 0x800))
    }

    fn load(&mut self, at: u64) -> u64 {
        self.say(&format!("readq {:#x}", BAR2 + at))
    }

    fn store(&mut self, at: u64, value: u64) {
        self.say(&format!("writeq {:#x} {value:#x}", BAR2 + at));
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        if let Ok(mut child) = self.child.lock() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn two_stock_qemu_and_a_host_program_share_ring_and_outlive_each_other() {
    if Command::new(QEMU).arg("--version").output().is_err() {
        println!("skipped: no {QEMU}; apt-get install qemu-system-x86");
        return;
    }
    let mut daemon = Daemon::lake("size=1048576,peers=4,vectors=2,common=4096");
    let socket = daemon.socket();
    let mut a = Qemu::start(&socket, 2);
    let mut b = Qemu::start(&socket, 2);
    assert_eq!((a.id(), b.id()), (0, 1));
    let host = Client::join(&socket, 2).expect("room");
    assert_eq!((host.id, host.others.len()), (2, 2));

    let mem = host.map();
    let header = mem.load_u64(0x1000, hv_shmem::mem::Ordering::Acquire);
    assert_eq!(a.load(0x1000), header, "the Portal header, through BAR2");
    let region = PortalRegion::attach(mem.clone(), AttachOptions::default());
    let region = region.expect("a Portal region");
    let at = region.layout().common.start;
    a.store(at, 0x1122_3344_5566_7788);
    assert_eq!(b.load(at), 0x1122_3344_5566_7788, "from QEMU to QEMU");
    assert_eq!(
        mem.load_u64(at, hv_shmem::mem::Ordering::Acquire),
        0x1122_3344_5566_7788
    );

    a.ring(1, 1);
    until("QEMU hears QEMU", || b.pending() == 0b10);
    b.ring(2, 0);
    until("a host program hears QEMU", || host.was_rung(0));
    host.ring(0, 0);
    until("QEMU hears a host program", || a.pending() == 0b01);

    drop(a);
    until("the peer table says that it is dead", || {
        region.live_epoch(PeerId(0)).is_none()
    });
    let mut again = Qemu::start(&socket, 2);
    assert_eq!(again.id(), 0, "the one that was killed is back");
    assert_eq!(
        again.load(at),
        0x1122_3344_5566_7788,
        "and finds the memory"
    );
    // A doorbell that nobody had heard may still wait in the bell.
    b.ring(0, 1);
    until("the new one hears the old one", || {
        again.pending() & 0b10 != 0
    });

    assert!(daemon.stop().success());
    b.ring(0, 0);
    until("without the daemon, doorbells go on", || {
        again.pending() == 0b11
    });
    b.ring(2, 1);
    until("to host programs too", || host.was_rung(1));
}

//! The fences around vCPU threads: what the device of a test tries there is
//! refused, kills the process, or (with the fences off) works.
#![expect(
    unsafe_code,
    reason = "images are assembled into the test binary; bare system calls"
)]

mod guest;

use guest::PATIENCE;
use guest::hypervisor;
use guest::partition;
use portal_device::BarBacking;
use portal_device::BarInfo;
use portal_device::BarKind;
use portal_device::Device;
use portal_device::Effect;
use portal_device::Effects;
use portal_device::Input;
use portal_device::RestoreError;
use portal_device::Saved;
use portal_device::SavedState;
use portal_device::inspect::Node;
use portal_vmm::Denied;
use portal_vmm::Outcome;
use portal_vmm::ResolvedDevice;
use portal_vmm::Sandbox;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::Mutex;

// Stores once to BAR 0 of the device in slot 1.
image!(
    poke,
    "mov edx, 0xE0008010",
    "mov ebx, [rdx]",
    "and ebx, 0xFFFFFFF0",
    "mov dword ptr [rbx], 1",
    "xor eax, eax",
    "out 0xf4, eax",
);

/// What an attempt came to: 0 or an error number.
type Attempts = Vec<(&'static str, i32)>;

/// A device that tries what a guest in its place would try.
struct Burglar {
    gpa: u64,
    bars: [BarInfo; 1],
    found: Arc<Mutex<Attempts>>,
}

fn attempts() -> Attempts {
    let errno = |done: bool| match done {
        true => 0,
        false => io::Error::last_os_error().raw_os_error().unwrap_or(-1),
    };
    let open = std::fs::File::open("/proc/self/status");
    let open = open.map_or_else(|error| error.raw_os_error().unwrap_or(-1), |_| 0);
    // SAFETY: a new socket, or an error.
    let socket = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0) };
    let socket = errno(socket >= 0);
    // SAFETY: a new mapping that nothing uses.
    let mapped = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    let executable = errno(mapped != libc::MAP_FAILED);
    // SAFETY: signal 0 to the parent only asks whether it is there.
    let signal = errno(unsafe { libc::kill(libc::getppid(), 0) } == 0);
    vec![
        ("open", open),
        ("socket", socket),
        ("executable memory", executable),
        ("kill", signal),
    ]
}

impl Device for Burglar {
    fn step(&mut self, input: Input, effects: &mut Effects) {
        match input {
            Input::ConfigRead { offset: 0x10, .. } => effects.answer(self.gpa),
            Input::ConfigWrite {
                offset: 0x10,
                value,
                ..
            } => self.gpa = u64::from(value),
            Input::Attach => effects.push(Effect::Trap {
                bar: 0,
                gpa: self.gpa,
                len: 4096,
            }),
            Input::BarWrite { .. } => *self.found.lock().unwrap() = attempts(),
            _ => {}
        }
    }

    fn bars(&self) -> &[BarInfo] {
        &self.bars
    }

    fn save(&self) -> Saved {
        Saved::Never("a test")
    }

    fn restore(&mut self, _: &SavedState, _: &mut Effects) -> Result<(), RestoreError> {
        Err(RestoreError::WrongDevice {
            found: 0,
            expected: 1,
        })
    }

    fn inspect(&self) -> Node {
        Node::new()
    }

    fn counters(&self, _: &mut dyn FnMut(&'static str, u64)) {}
}

/// Runs the device under these fences; what its attempts came to.
fn run(sandbox: Sandbox) -> Option<Attempts> {
    let hypervisor = hypervisor()?;
    let found = Arc::new(Mutex::new(Attempts::new()));
    let burglar = Burglar {
        gpa: 0,
        bars: [BarInfo {
            bar: 0,
            len: 4096,
            kind: BarKind::Memory32,
            backing: BarBacking::Registers,
        }],
        found: found.clone(),
    };
    let mut partition = partition("fenced", poke())
        .sandbox(sandbox)
        .device(ResolvedDevice {
            name: "burglar".to_owned(),
            device: Box::new(burglar),
            slot: None,
            region: None,
            storage: None,
            fabric: None,
            member: None,
        })
        .build(&hypervisor)
        .unwrap();
    partition.start().unwrap();
    assert_eq!(partition.wait(PATIENCE), Some(Outcome::Exited(0)));
    let found = found.lock().unwrap().clone();
    assert_eq!(found.len(), 4);
    Some(found)
}

#[test]
fn forbidden_calls_are_refused() {
    if let Some(found) = run(Sandbox::default()) {
        for (what, errno) in found {
            assert_eq!(errno, libc::EPERM, "{what}");
        }
    }
}

#[test]
fn landlock_alone_refuses_files_only() {
    let only = Sandbox {
        seccomp: false,
        ..Sandbox::default()
    };
    if let Some(found) = run(only) {
        assert_eq!(found[0], ("open", libc::EACCES));
        assert_eq!(found[1], ("socket", 0));
    }
}

#[test]
fn without_fences_everything_works() {
    // Negative control of the tests above.
    if let Some(found) = run(Sandbox::OFF) {
        for (what, errno) in found {
            assert_eq!(errno, 0, "{what}");
        }
    }
}

#[test]
fn a_forbidden_call_can_end_the_process() {
    if hypervisor().is_none() {
        return;
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "ends_by_sigsys", "--ignored"])
        .output()
        .unwrap();
    assert_eq!(child.status.signal(), Some(libc::SIGSYS), "{child:?}");
}

#[test]
#[ignore = "run by a_forbidden_call_can_end_the_process in a process of its own"]
fn ends_by_sigsys() {
    let kill = Sandbox {
        denied: Denied::Kill,
        ..Sandbox::default()
    };
    run(kill);
}

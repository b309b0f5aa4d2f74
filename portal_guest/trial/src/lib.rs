//! An agent that does to the WARP kernel what its tests want to see: the command
//! line's `do=...` says what.
#![no_std]
#![expect(
    unsafe_code,
    reason = "most trials are instructions or accesses that must not succeed"
)]

use core::arch::asm;
use core::hint::black_box;
use core::ptr;
use portal_warp::ExitCode;
use portal_warp::Machine;
use portal_warp::println;
use portal_warp::time;

portal_warp::entry!(main);

/// Exit code of a trial that nobody knows.
const UNKNOWN: u32 = 99;
/// Exit code of a trial whose access or instruction succeeded.
const SURVIVED: u32 = 98;

/// A byte of the data segment.
static mut DATA: [u8; 16] = [0xC3; 16];

fn main(machine: Machine) -> ExitCode {
    let trial = machine.argument("do").unwrap_or("");
    match trial {
        "hello" => hello(&machine),
        "sleep" => sleep(&machine),
        "clock" => clock(&machine),
        "memory" => memory(&machine),
        "simd" => simd(),
        "long-line" => {
            for _ in 0..100 {
                portal_warp::print!("0123456789");
            }
            println!();
            ExitCode(0)
        }
        "panic" => panic!("on purpose"),
        "exit" => portal_warp::exit(7),
        _ => {
            fault(trial);
            ExitCode(if known(trial) { SURVIVED } else { UNKNOWN })
        }
    }
}

fn known(trial: &str) -> bool {
    [
        "divide",
        "opcode",
        "null",
        "kernel-read",
        "kernel-write",
        "text-write",
        "data-run",
        "read-only",
        "stack",
        "privileged",
        "no-ram",
    ]
    .contains(&trial)
}

/// Does what the kernel has to report.
fn fault(trial: &str) {
    let at = |address: u64| ptr::with_exposed_provenance_mut::<u64>(address as usize);
    // SAFETY: none of these is safe: that is the trial. Each ends the partition.
    unsafe {
        match trial {
            "divide" => asm!(
                "div ecx",
                in("ecx") 0,
                inout("eax") 1 => _,
                inout("edx") 0 => _,
            ),
            "opcode" => asm!("ud2"),
            "null" => ptr::write_volatile(at(8), 1),
            "kernel-read" => {
                black_box(ptr::read_volatile(at(0x10_0000)));
            }
            "kernel-write" => ptr::write_volatile(at(0x10_5000), 1),
            "text-write" => ptr::write_volatile(at(main as *const () as u64 & !7), 1),
            "data-run" => {
                let code = (&raw const DATA).expose_provenance();
                asm!("call {}", in(reg) code);
            }
            "read-only" => ptr::write_volatile(at(portal_warp::kernel::INFO_VA), 1),
            "stack" => {
                black_box(recurse(0));
            }
            "privileged" => asm!("hlt"),
            "no-ram" => ptr::write_volatile(at(0x2000_0000), 1),
            _ => {}
        }
    }
}

fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 512]);
    if depth == u64::MAX {
        return 0;
    }
    recurse(depth + 1) + frame[0]
}

fn hello(machine: &Machine) -> ExitCode {
    let boot = machine.boot();
    println!(
        "hello vcpu={} ram={} apic={} args={}",
        boot.vcpu_index,
        boot.ram_bytes,
        machine.apic_id(),
        machine.command_line()
    );
    ExitCode(42)
}

/// Halts by the timer: a row of sleeps, none too short, none much too long.
fn sleep(machine: &Machine) -> ExitCode {
    let clock = machine.clock();
    for microseconds in [0, 1, 50, 1000, 20_000] {
        for _ in 0..3 {
            let before = time::now();
            machine.sleep(clock.after(microseconds));
            let took = clock.nanoseconds(time::now() - before) / 1000;
            println!("asked {microseconds} took {took}");
            if took < microseconds || took > microseconds + 500_000 {
                return ExitCode(1);
            }
        }
    }
    // A wait for an interrupt that never comes ends by its deadline.
    let seen = machine.interrupts(5);
    if machine.wait(5, seen, clock.after(3000)) != seen {
        return ExitCode(2);
    }
    ExitCode(0)
}

fn clock(machine: &Machine) -> ExitCode {
    let clock = machine.clock();
    let mut last = time::now_ordered();
    let end = clock.after(2000);
    while !end.passed() {
        let now = time::now_ordered();
        if now < last {
            return ExitCode(1);
        }
        last = now;
    }
    ExitCode(u32::from(end.left() != 0))
}

/// RAM behind the image is there, zero, writable, and given out once.
fn memory(machine: &Machine) -> ExitCode {
    let Some(first) = machine.take(1000, |index| index as u64) else {
        return ExitCode(1);
    };
    let Some(second) = machine.take(1000, |_| 7_u64) else {
        return ExitCode(2);
    };
    if first.iter().enumerate().any(|(i, v)| *v != i as u64) || second.iter().any(|v| *v != 7) {
        return ExitCode(3);
    }
    if machine.take(usize::MAX, |_| 0_u8).is_some() || machine.take(1 << 40, |_| 0_u8).is_some() {
        return ExitCode(4);
    }
    if machine.take_at_most(usize::MAX, || 0_u8).is_empty() {
        return ExitCode(5);
    }
    copies()
}

/// `memcpy` and its kin over every length and overlap that has its own path.
fn copies() -> ExitCode {
    let mut buffer = [0_u8; 1200];
    let fill = |buffer: &mut [u8; 1200]| {
        for (i, byte) in buffer.iter_mut().enumerate() {
            *byte = (i * 7 % 251) as u8;
        }
    };
    for len in (0..40).chain([63, 64, 65, 255, 256, 257, 500]) {
        for (from, to) in [
            (0, 600),
            (600, 0),
            (100, 101),
            (101, 100),
            (100, 117),
            (117, 100),
        ] {
            fill(&mut buffer);
            buffer.copy_within(black_box(from..from + len), black_box(to));
            for (i, byte) in buffer.iter().enumerate() {
                let source = if i >= to && i < to + len {
                    i - to + from
                } else {
                    i
                };
                if *byte != (source * 7 % 251) as u8 {
                    println!("len {len} from {from} to {to}: byte {i} is {byte}");
                    return ExitCode(6);
                }
            }
        }
        buffer.fill(0);
        if let Some(part) = buffer.get_mut(1..=black_box(len)) {
            part.fill(black_box(9));
        }
        if buffer.iter().filter(|b| **b == 9).count() != len || buffer[0] != 0 {
            return ExitCode(7);
        }
        let mut other = buffer;
        if black_box(&other) != black_box(&buffer) {
            return ExitCode(8);
        }
        other[len] ^= 1;
        if black_box(&other) == black_box(&buffer) {
            return ExitCode(9);
        }
    }
    ExitCode(0)
}

/// Vector registers survive what ring 0 does in between.
fn simd() -> ExitCode {
    let (mut low, mut high): (u64, u64);
    // SAFETY: loads one register, makes a system call, and stores the register.
    unsafe {
        asm!(
            "movq xmm15, {one}",
            "punpcklqdq xmm15, xmm15",
            "mov eax, 77",
            "call warp_gate",
            "movq {low}, xmm15",
            "psrldq xmm15, 8",
            "movq {high}, xmm15",
            one = in(reg) 0x1122_3344_5566_7788_u64,
            low = out(reg) low,
            high = out(reg) high,
            out("xmm15") _,
            out("rax") _, out("rcx") _, out("rdx") _, out("rsi") _, out("rdi") _,
        );
    }
    low ^= 0x1122_3344_5566_7788;
    high ^= 0x1122_3344_5566_7788;
    ExitCode(u32::from(low | high != 0))
}

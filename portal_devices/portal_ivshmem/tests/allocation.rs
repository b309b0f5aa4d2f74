//! The register-read path allocates nothing, and neither does a trapped
//! doorbell.
#![expect(unsafe_code, reason = "a global allocator that counts")]

use portal_device::Access;
use portal_device::Device;
use portal_device::Effects;
use portal_device::Input;
use portal_ivshmem::DeniedWrite;
use portal_ivshmem::IvshmemV1;
use portal_ivshmem::IvshmemV1Config;
use portal_ivshmem::Window;
use std::alloc::GlobalAlloc;
use std::alloc::Layout;
use std::alloc::System;
use std::cell::Cell;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to `System` unchanged; counting touches a
// const-initialised thread-local only, which does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn reads_and_doorbells_allocate_nothing() {
    let mut device = IvshmemV1::new(IvshmemV1Config {
        peer: 1,
        region_len: 1 << 20,
        windows: Window::flat(1 << 20, Access::ReadWrite),
        denied_write: DeniedWrite::Drop,
        vectors: 4,
        intx: true,
    })
    .expect("valid");
    let mut effects = Effects::new();
    let write = |offset, value| Input::ConfigWrite {
        offset,
        len: 4,
        value,
    };
    for input in [
        Input::Attach,
        Input::PeerJoined {
            peer: 2,
            vectors: 4,
        },
        write(0x10, 0xc000_0000),
        write(0x14, 0xc001_0000),
        write(0x1c, 0x10),
        write(0x04, 6),
    ] {
        effects.clear();
        device.step(input, &mut effects);
    }
    let before = ALLOCATIONS.get();
    drop(Vec::<u8>::with_capacity(1));
    assert_eq!(ALLOCATIONS.get(), before + 1, "the counter counts");
    for round in 0..1000u16 {
        for input in [
            Input::ConfigRead {
                offset: 4 * (round % 64),
                len: 4,
            },
            Input::Rung { vector: round % 4 },
            Input::BarWrite {
                bar: 0,
                offset: 0,
                len: 4,
                value: (round & 1).into(),
            },
            Input::BarRead {
                bar: 0,
                offset: 4 * u64::from(round % 8),
                len: 4,
            },
            Input::BarRead {
                bar: 1,
                offset: 8 * u64::from(round % 300),
                len: 8,
            },
            Input::BarWrite {
                bar: 0,
                offset: 12,
                len: 4,
                value: (2 << 16) | 1,
            },
        ] {
            effects.clear();
            device.step(input, &mut effects);
        }
    }
    assert_eq!(ALLOCATIONS.get(), before + 1);
}

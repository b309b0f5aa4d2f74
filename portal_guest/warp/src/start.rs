//! Where ring 3 begins, and where it ends when it panics.

#[cfg(warp_image)]
mod image {
    #![expect(
        unsafe_code,
        reason = "the start code is called by assembly and calls the agent by name"
    )]

    use crate::ExitCode;
    use crate::Machine;
    use crate::kernel;

    unsafe extern "Rust" {
        fn warp_main(machine: Machine) -> ExitCode;
    }

    #[unsafe(no_mangle)]
    extern "C" fn warp_start() -> ! {
        match Machine::new() {
            Ok(machine) => {
                // SAFETY: defined by `entry!` with this signature; the linker
                // refuses an image without it.
                let code = unsafe { warp_main(machine) };
                crate::exit(code.0)
            }
            Err(error) => {
                crate::println!("WARP: boot info refused: {error:?}");
                crate::exit(kernel::EXIT_BOOT_INFO)
            }
        }
    }

    #[panic_handler]
    fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
        crate::println!("WARP: {info}");
        crate::exit(kernel::EXIT_PANIC)
    }
}

//! What each object needs besides its programs. The programs exist only for the BPF target; the host compiles the
//! package with an empty `main`, for the lints' sake.
#![cfg(target_arch = "bpf")]

/// The kernel keeps some helpers for programs under the GPL and knows this spelling of the dual licence
/// (`license_is_gpl_compatible`, include/linux/license.h).
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// The compiler wants one; no reachable path panics, or the verifier would refuse the program.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

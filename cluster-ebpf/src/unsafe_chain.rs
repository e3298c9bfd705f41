//! The user's program behind ours (`xdp = "chain"`): it is called where ours would let a frame pass.
//!
//! A map of programs takes programs of one kind, so there is one for those that know frames in several buffers and one for
//! those that do not.

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::map;
use aya_ebpf::maps::ProgramArray;
use aya_ebpf::programs::XdpContext;

#[map(name = "chain")]
pub(crate) static CHAIN: ProgramArray = ProgramArray::with_max_entries(1, 0);

#[map(name = "chain_linear")]
pub(crate) static CHAIN_LINEAR: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// What the user's program says; `XDP_PASS` where there is none.
#[inline(always)]
pub(crate) fn ask_next(context: &XdpContext, chain: &ProgramArray) -> u32 {
    // SAFETY: the context is the one that the kernel gave to this program, and the map outlives it. The call returns only
    // if the place is empty.
    unsafe { chain.tail_call(context, 0) };
    xdp_action::XDP_PASS
}

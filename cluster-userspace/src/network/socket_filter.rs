//! Filters of classic BPF, which drop what a socket does not want before it is queued. They take no privilege, unlike
//! the other kind of BPF, so that a witness has them too.

use std::io;
use std::os::fd::OwnedFd;

use super::unsafe_socket_options;

/// One instruction.
pub(super) type Instruction = libc::sock_filter;

/// As the target of a jump: drop the packet.
pub(super) const DROP: u8 = u8::MAX;

/// How much is loaded.
#[derive(Clone, Copy, Debug)]
pub(super) enum Size {
    Byte,
    Half,
    Word,
}

/// Loads a big-endian number of the packet. One that lies beyond the packet's end drops it.
pub(super) fn load(size: Size, at: usize) -> Instruction {
    load_from(size, at as u32)
}

/// Loads from where the packet does not count: the IP header ([`libc::SKF_NET_OFF`]) or what the kernel knows of it
/// ([`libc::SKF_AD_OFF`]).
pub(super) fn load_special(size: Size, area: i32, at: i32) -> Instruction {
    load_from(size, (area + at).cast_unsigned())
}

fn load_from(size: Size, at: u32) -> Instruction {
    let size = match size {
        Size::Byte => libc::BPF_B,
        Size::Half => libc::BPF_H,
        Size::Word => libc::BPF_W,
    };
    statement(libc::BPF_LD | size | libc::BPF_ABS, at)
}

/// Loads the packet's length.
pub(super) fn load_length() -> Instruction {
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_LEN, 0)
}

/// An instruction that does not jump.
pub(super) fn statement(code: u32, k: u32) -> Instruction {
    Instruction { code: code as u16, jt: 0, jf: 0, k }
}

/// Skips as many instructions as it says for what was loaded being equal to `value`, or not.
pub(super) fn if_equal(value: u32, equal: u8, other: u8) -> Instruction {
    jump(libc::BPF_JEQ | libc::BPF_K, value, equal, other)
}

/// Drops all but what is equal to `value`.
pub(super) fn keep_if_equal(value: u32) -> Instruction {
    if_equal(value, 0, DROP)
}

/// Drops all but what is equal to the index register.
pub(super) fn keep_if_equal_to_index() -> Instruction {
    jump(libc::BPF_JEQ | libc::BPF_X, 0, 0, DROP)
}

/// Drops what is greater than `value`.
pub(super) fn drop_if_greater(value: u32) -> Instruction {
    jump(libc::BPF_JGT | libc::BPF_K, value, DROP, 0)
}

/// Drops what is less than `value`.
pub(super) fn drop_if_less(value: u32) -> Instruction {
    jump(libc::BPF_JGE | libc::BPF_K, value, 0, DROP)
}

fn jump(code: u32, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code: (libc::BPF_JMP | code) as u16, jt, jf, k }
}

/// Attaches a filter that keeps what comes to the end of `instructions`.
///
/// # Errors
/// When the kernel refuses: `EINVAL` for a program it does not understand, `ENOMEM` for want of memory.
pub(super) fn attach(socket: &OwnedFd, instructions: &[Instruction]) -> io::Result<()> {
    let mut program = instructions.to_vec();
    program.push(statement(libc::BPF_RET | libc::BPF_K, u32::MAX));
    program.push(statement(libc::BPF_RET | libc::BPF_K, 0));
    // Jumps count from the next instruction; the last instruction drops.
    let last = program.len() - 1;
    for (at, instruction) in program.iter_mut().enumerate() {
        if u32::from(instruction.code) & 0x07 != libc::BPF_JMP {
            continue;
        }
        let to_drop = u8::try_from(last - at - 1).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        for target in [&mut instruction.jt, &mut instruction.jf] {
            if *target == DROP {
                *target = to_drop;
            }
        }
    }
    unsafe_socket_options::attach_filter(socket, &mut program)
}

/// Attaches a filter that drops everything. What it drops is still counted.
///
/// # Errors
/// As [`attach`].
pub(super) fn attach_drop_all(socket: &OwnedFd) -> io::Result<()> {
    unsafe_socket_options::attach_filter(socket, &mut [statement(libc::BPF_RET | libc::BPF_K, 0)])
}

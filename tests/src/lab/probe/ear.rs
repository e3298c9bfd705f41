//! An ear on a switch port: every frame that comes from the leg's owner, with the kernel's stamp.

use std::io::IoSliceMut;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use anyhow::Context as _;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};

use super::worker::Stop;
use crate::lab::clock::Moment;
use crate::lab::topology::{Lab, Link};
use crate::lab::unsafe_calls::{attach_filter, frames_lost, packet_socket, run_in_real_time};

/// How much of a frame is heard: all of an ARP packet or a neighbour advertisement, and every other one's headers.
const LENGTH: usize = 128;

/// What an ear has heard.
pub(super) enum Heard<'frame> {
    /// A frame, the first [`LENGTH`] bytes of it, that reached the port then.
    Frame(Moment, &'frame [u8]),
    /// So many frames were lost for want of room.
    Lost(u64),
}

/// Opens an ear on the switch port of `owner` on `link`. It hears what the owner sends, cut or not, as long as there is a
/// carrier.
pub(super) fn open(lab: &Lab, owner: &str, link: Link) -> anyhow::Result<OwnedFd> {
    let port = lab.leg(owner, link).port;
    let socket = lab.switch().run(|| {
        let socket = packet_socket(&port)?;
        setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
        Ok(socket)
    });
    socket.with_context(|| format!("listening on the switch port {port}"))
}

/// As [`open`], for ARP and ICMPv6 alone, so that it costs little where there is much traffic.
pub(super) fn open_for_neighbours(lab: &Lab, owner: &str, link: Link) -> anyhow::Result<OwnedFd> {
    let socket = open(lab, owner, link)?;
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let load = |size: u32, at: u32| statement(libc::BPF_LD | size | libc::BPF_ABS, at);
    let equal = |value: u32, jt: u8, jf: u8| libc::sock_filter {
        jt,
        jf,
        ..statement(libc::BPF_JMP | libc::BPF_JEQ, value)
    };
    let mut program = [
        load(libc::BPF_H, 12),
        equal(0x0806, 3, 0),
        equal(0x86dd, 0, 3),
        load(libc::BPF_B, 20),
        equal(58, 0, 1),
        statement(libc::BPF_RET, LENGTH as u32),
        statement(libc::BPF_RET, 0),
    ];
    attach_filter(socket.as_fd(), &mut program).context("filtering what is heard")?;
    Ok(socket)
}

/// Listens until it is told to stop and the socket is empty.
pub(super) fn listen(stop: &Stop, socket: &OwnedFd, mut note: impl FnMut(Heard<'_>)) {
    // It need not be prompt, for the kernel stamps the frames, but it must not lose any.
    let _ = run_in_real_time(super::echo::PRIORITY);
    let mut frame = [0; LENGTH];
    let mut control = nix::cmsg_space!(nix::sys::time::TimeSpec);
    loop {
        let mut parts = [IoSliceMut::new(&mut frame)];
        let received =
            recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT).map(
                |message| {
                    let stamp = message.cmsgs().ok().and_then(|mut messages| {
                        messages.find_map(|message| match message {
                            ControlMessageOwned::ScmTimestampns(stamp) => Some(stamp),
                            _ => None,
                        })
                    });
                    (message.bytes, stamp)
                },
            );
        match received {
            Ok((length, stamp)) => {
                let at = stamp.map_or_else(Moment::now, |stamp| {
                    let stamp = std::time::Duration::from(stamp).as_nanos();
                    Moment::from_realtime(u64::try_from(stamp).unwrap_or(u64::MAX))
                });
                note(Heard::Frame(at, frame.get(..length).unwrap_or_default()));
            }
            Err(Errno::EAGAIN | Errno::ENETDOWN) => {
                let mut waiting = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
                // A failure only shows as a wait that was too short.
                let _ = poll(&mut waiting, PollTimeout::from(20u8));
                let lost = frames_lost(socket.as_fd()).unwrap_or(0);
                note(Heard::Lost(u64::from(lost)));
                // What had reached the port by then has been read: the socket was just seen empty.
                if stop.asked() {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}

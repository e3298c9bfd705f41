//! What a BPF program does with one frame: the frame, the lease, what becomes of it, what is counted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cluster_common::Verdict;
use cluster_common::maps::Nic;
use cluster_tests::programs::{NETWORK_CARD, Programs};
use cluster_userspace::dataplane::DATAPLANE_OBJECT;

pub(crate) const DROP: u32 = 1;
pub(crate) const PASS: u32 = 2;
pub(crate) const TX: u32 = 3;
pub(crate) const NEXT: u32 = u32::MAX;
pub(crate) const SHOT: u32 = 2;

pub(crate) const MAC: [u8; 6] = NETWORK_CARD.mac;
pub(crate) const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xcc];
pub(crate) const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xdd];
/// Of the cluster's other node.
pub(crate) const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x0b];
/// The VIPs of the group, one of each family.
pub(crate) const VIP: [u8; 4] = [10, 77, 0, 100];
pub(crate) const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x100);
pub(crate) const GROUP: u32 = 7;

const VIRTUAL_ID: u8 = 0x33;
/// The group's virtual Ethernet addresses, of each family.
pub(crate) const VIRTUAL_MACS: [[u8; 6]; 2] =
    [[0, 0, 0x5e, 0, 1, VIRTUAL_ID], [0, 0, 0x5e, 0, 2, VIRTUAL_ID]];

/// Valid as long as the machine runs.
pub(crate) const HELD: u64 = u64::MAX;
pub(crate) const DARK: u64 = 0;
/// Ran out just after the machine had started.
pub(crate) const LAPSED: u64 = 1;

/// A frame, and what is to become of it.
pub(crate) struct Row {
    what: &'static str,
    frame: Vec<u8>,
    lease: u64,
    nic: Nic,
    has_virtual_mac: bool,
    action: u32,
    /// The frame afterwards, where it is another.
    output: Option<Vec<u8>>,
    counted: Option<Verdict>,
    served: Option<IpAddr>,
    /// What is counted of a stranger besides, and his Ethernet address.
    rival: Option<(Verdict, [u8; 6])>,
}

pub(crate) fn row(what: &'static str, frame: Vec<u8>, lease: u64, action: u32) -> Row {
    Row {
        what,
        frame,
        lease,
        nic: NETWORK_CARD,
        has_virtual_mac: false,
        action,
        output: None,
        counted: None,
        served: None,
        rival: None,
    }
}

impl Row {
    pub(crate) fn counts(self, verdict: Verdict) -> Self {
        Self { counted: Some(verdict), ..self }
    }

    pub(crate) fn gives(self, output: Vec<u8>) -> Self {
        Self { output: Some(output), ..self }
    }

    pub(crate) fn serves(self, client: impl Into<IpAddr>) -> Self {
        Self { served: Some(client.into()), ..self }
    }

    pub(crate) fn tells_of(self, verdict: Verdict, rival: [u8; 6]) -> Self {
        Self { rival: Some((verdict, rival)), ..self }
    }

    pub(crate) fn on(self, nic: Nic) -> Self {
        Self { nic, ..self }
    }

    /// The VIPs appear under [`VIRTUAL_MACS`].
    pub(crate) fn virtually(self) -> Self {
        Self { has_virtual_mac: true, ..self }
    }
}

/// The programs for received frames do what the rows say, the one for kernels that know no frames in several buffers too.
pub(crate) fn check_ingress(rows: &[Row]) {
    let mut programs = loaded();
    for row in rows {
        if row.frame.len() <= 2000 {
            row.check(&mut programs, "cluster_linear");
        }
        row.check(&mut programs, "cluster_ingress");
    }
}

/// The program for frames that leave does what the rows say.
pub(crate) fn check_egress(rows: &[Row]) {
    let mut programs = loaded();
    for row in rows {
        row.check(&mut programs, "cluster_egress");
    }
}

fn loaded() -> Programs {
    let mut programs = Programs::load(DATAPLANE_OBJECT).expect("the kernel takes the programs");
    programs.set_vip(Ipv4Addr::from(VIP).into(), 24, GROUP).expect("set the VIP");
    programs.set_vip(VIP6.into(), 64, GROUP).expect("set the VIP");
    programs.set_kin(&[PEER_MAC]).expect("set the cluster's addresses");
    programs
}

impl Row {
    fn check(&self, programs: &mut Programs, program: &str) {
        let Self { what, frame, lease, nic, has_virtual_mac, action, output, counted, served, rival } = self;
        programs.set_nic(*nic).expect("set the card's address");
        programs.set_virtual_mac(GROUP, VIRTUAL_ID, *has_virtual_mac).expect("set the virtual addresses");
        programs.set_lease(GROUP, *lease).expect("set the lease");
        programs.reset_counters(GROUP).expect("forget the row before");
        let ran = programs.run(program, frame, 1).expect("the program runs");
        assert_eq!(ran.action, *action, "{program}: {what}: action");
        assert_eq!(ran.frame, *output.as_ref().unwrap_or(frame), "{program}: {what}: frame");
        let mut verdicts = [0; Verdict::COUNT];
        if let Some(verdict) = counted {
            verdicts[*verdict as usize] = 1;
        }
        if let Some((verdict, _)) = rival {
            verdicts[*verdict as usize] = 1;
        }
        assert_eq!(
            programs.verdicts(GROUP).expect("read the counters"),
            verdicts,
            "{program}: {what}: counters"
        );
        let noted = programs.served(GROUP).expect("read who was served");
        assert_eq!(noted, served.iter().copied().collect::<Vec<_>>(), "{program}: {what}: served");
        let claims = programs.claims(GROUP).expect("read who claimed a VIP");
        let macs: Vec<_> = claims.iter().map(|(_, mac)| *mac).collect();
        assert_eq!(macs, rival.iter().map(|(_, mac)| *mac).collect::<Vec<_>>(), "{program}: {what}: rival");
        assert!(
            claims.iter().all(|(vip, _)| *vip == IpAddr::from(VIP) || *vip == VIP6),
            "{program}: {what}: {claims:?}"
        );
        for group in (0..256).filter(|group| *group != GROUP) {
            assert_eq!(
                programs.verdicts(group).expect("read the counters"),
                [0; Verdict::COUNT],
                "{what}: {group}"
            );
        }
    }
}

/// The frame with some bytes replaced.
pub(crate) fn with(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

/// The frame cut off, or padded, to this length.
pub(crate) fn short(mut frame: Vec<u8>, length: usize) -> Vec<u8> {
    frame.resize(length, 0);
    frame
}

//! What nodes tell each other of a group's table: the body of a message of the kind [`crate::wire::Kind::Spread`].
//! `docs/wire-format.md` says it byte by byte.

use crate::identity::{Epoch, GroupId, NodeId};
use crate::wire::MAX_COUNTER;

use super::{BUCKETS, Bucket, Buckets, Load, MAX_MEMBERS, NOBODY, Table, Version};

/// Datagrams that a table is split into.
pub const PARTS: usize = 32;
/// All of them, a bit for each.
pub const ALL_PARTS: u32 = u32::MAX;
/// Datagrams that a node's report of where it has flows is split into.
pub const HALVES: usize = 2;

const BUCKETS_A_PART: usize = BUCKETS / PARTS;
const WORDS_A_HALF: usize = BUCKETS / 64 / HALVES;
const HEAD: usize = 24;
const PART_LENGTH: usize = HEAD + 2 * MAX_MEMBERS + 2 * BUCKETS_A_PART;
const STATUS_LENGTH: usize = HEAD + 20;
const HALF_LENGTH: usize = HEAD + 8 * WORDS_A_HALF;

/// One message.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Of which group.
    pub group: GroupId,
    /// Of which of its tables; a number of 0 is none.
    pub version: Version,
    /// What it says.
    pub content: Content<'a>,
}

/// What a message says.
#[derive(Clone, Copy, Debug)]
pub enum Content<'a> {
    /// A part of the entry's table.
    Part(Part<'a>),
    /// Which parts a member has, and what it has to do.
    Status {
        /// A bit for each part.
        have: u32,
        /// What the sender has to do for the group.
        load: Load,
    },
    /// In which buckets a member has flows, looked at since it has that table.
    Busy(Half<'a>),
}

/// A part of a table, as it came.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// Which, below [`PARTS`].
    pub index: usize,
    bytes: &'a [u8],
}

/// Half of a report, as it came.
#[derive(Clone, Copy, Debug)]
pub struct Half<'a> {
    /// Which, below [`HALVES`].
    pub index: usize,
    bytes: &'a [u8],
}

impl<'a> Message<'a> {
    /// Parses a body; `None` for what no sender writes.
    #[must_use]
    pub fn parse(body: &'a [u8]) -> Option<Self> {
        let (head, rest) = body.split_first_chunk::<HEAD>()?;
        let index = usize::from(head[1]);
        let content = match (head[0], body.len()) {
            (1, PART_LENGTH) if index < PARTS => Content::Part(Part { index, bytes: rest }),
            (2, STATUS_LENGTH) => {
                let packets = u64::from_be_bytes(*rest[8..].first_chunk()?);
                let load = Load { flows: u32_of(&rest[4..])?, packets, rate: u32_of(&rest[16..])? };
                Content::Status { have: u32_of(rest)?, load }
            }
            (3, HALF_LENGTH) if index < HALVES => Content::Busy(Half { index, bytes: rest }),
            _ => return None,
        };
        let counter = u64::from_be_bytes(*head[8..].first_chunk()?);
        let node = NodeId(u16::from_be_bytes([head[16], head[17]]));
        let version = Version { epoch: Epoch { counter, node }, number: u32_of(&head[20..])? };
        (counter < MAX_COUNTER).then_some(Self { group: GroupId(u32_of(&head[4..8])?), version, content })
    }
}

impl Part<'_> {
    /// Takes it into a table that is put together of parts. Places that nobody has are nobody's there too.
    pub fn take_into(&self, table: &mut Table) {
        let (members, buckets) = self.bytes.split_at(2 * MAX_MEMBERS);
        for (member, bytes) in table.members.iter_mut().zip(members.as_chunks::<2>().0) {
            *member = Some(NodeId(u16::from_be_bytes(*bytes))).filter(|node| node.0 != 0);
        }
        let start = self.index * BUCKETS_A_PART;
        let places = &mut table.buckets[start..start + BUCKETS_A_PART];
        for (bucket, &[first, second]) in places.iter_mut().zip(buckets.as_chunks::<2>().0) {
            let known = |place: u8| if usize::from(place) < MAX_MEMBERS { place } else { NOBODY };
            *bucket = Bucket { first: known(first), second: known(second) };
        }
    }
}

impl Half<'_> {
    /// Takes it into a report.
    pub fn take_into(&self, busy: &mut Buckets) {
        let start = self.index * WORDS_A_HALF;
        let words = &mut busy.words_mut()[start..start + WORDS_A_HALF];
        for (word, bytes) in words.iter_mut().zip(self.bytes.as_chunks::<8>().0) {
            *word = u64::from_be_bytes(*bytes);
        }
    }
}

/// Appends the body of a part of a table.
pub fn emit_part(out: &mut Vec<u8>, group: GroupId, version: Version, table: &Table, part: usize) {
    emit_head(out, 1, part, group, version);
    for member in table.members {
        out.extend_from_slice(&member.map_or(0, |node| node.0).to_be_bytes());
    }
    let start = part * BUCKETS_A_PART;
    for bucket in &table.buckets[start..start + BUCKETS_A_PART] {
        out.extend_from_slice(&[bucket.first, bucket.second]);
    }
}

/// Appends the body of a status.
pub fn emit_status(out: &mut Vec<u8>, group: GroupId, version: Version, have: u32, load: Load) {
    emit_head(out, 2, 0, group, version);
    out.extend_from_slice(&have.to_be_bytes());
    out.extend_from_slice(&load.flows.to_be_bytes());
    out.extend_from_slice(&load.packets.to_be_bytes());
    out.extend_from_slice(&load.rate.to_be_bytes());
}

/// Appends the body of half of a report.
pub fn emit_half(out: &mut Vec<u8>, group: GroupId, version: Version, busy: &Buckets, half: usize) {
    emit_head(out, 3, half, group, version);
    for word in &busy.words()[half * WORDS_A_HALF..(half + 1) * WORDS_A_HALF] {
        out.extend_from_slice(&word.to_be_bytes());
    }
}

fn emit_head(out: &mut Vec<u8>, kind: u8, index: usize, group: GroupId, version: Version) {
    // All indices are below 32.
    out.extend_from_slice(&[kind, index as u8, 0, 0]);
    out.extend_from_slice(&group.0.to_be_bytes());
    out.extend_from_slice(&version.epoch.counter.to_be_bytes());
    out.extend_from_slice(&version.epoch.node.0.to_be_bytes());
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(&version.number.to_be_bytes());
}

fn u32_of(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::super::Member;
    use super::*;
    use proptest::prelude::*;

    const GROUP: GroupId = GroupId(0x0102_0304);
    const VERSION: Version = Version { epoch: Epoch { counter: 7, node: NodeId(2) }, number: 3 };

    fn table() -> Table {
        let mut table = Table::default();
        table.rebalance(&[1, 2, 300].map(|node| Member { node: NodeId(node), weight: 1, busy: None }));
        table
    }

    #[test]
    fn a_table_goes_over_in_parts_in_any_order() {
        let table = table();
        let mut arrived = Table::default();
        for part in (0..PARTS).rev() {
            let mut body = Vec::new();
            emit_part(&mut body, GROUP, VERSION, &table, part);
            assert!(crate::wire::HEADER_LEN + body.len() + crate::wire::TAG_LEN <= crate::wire::MAX_LEN);
            let message = Message::parse(&body).unwrap();
            assert_eq!((message.group, message.version), (GROUP, VERSION));
            let Content::Part(part) = message.content else { panic!("{message:?}") };
            part.take_into(&mut arrived);
        }
        assert_eq!(arrived, table);
    }

    #[test]
    fn a_status_and_a_report_go_over() {
        let mut body = Vec::new();
        let load = Load { flows: 1234, packets: 1 << 40, rate: 77 };
        emit_status(&mut body, GROUP, VERSION, 0xf0, load);
        let message = Message::parse(&body).unwrap();
        assert!(
            matches!(message.content, Content::Status { have: 0xf0, load: parsed } if parsed == load),
            "{message:?}"
        );
        let mut busy = Buckets::default();
        for bucket in [0, 63, 8191, 8192, BUCKETS - 1] {
            busy.insert(bucket);
        }
        let mut arrived = Buckets::default();
        for half in 0..HALVES {
            let mut body = Vec::new();
            emit_half(&mut body, GROUP, VERSION, &busy, half);
            let Content::Busy(half) = Message::parse(&body).unwrap().content else { panic!("no report") };
            half.take_into(&mut arrived);
        }
        assert_eq!(arrived, busy);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut body in proptest::collection::vec(any::<u8>(), 0..1300), kind in 0_u8..5, length in 0_usize..4) {
            let length = [PART_LENGTH, STATUS_LENGTH, HALF_LENGTH, body.len()][length];
            body.resize(length, 0);
            if let Some(first) = body.first_mut() {
                *first = kind;
            }
            match Message::parse(&body).map(|message| message.content) {
                Some(Content::Part(part)) => {
                    let mut table = Table::default();
                    part.take_into(&mut table);
                    // What came may be anything: it has to be usable.
                    table.rebalance(&[Member { node: NodeId(1), weight: 1, busy: None }]);
                }
                Some(Content::Busy(half)) => half.take_into(&mut Buckets::default()),
                Some(Content::Status { .. }) | None => {}
            }
        }
    }
}

//! Weighted rendezvous hashing: of several nodes each bucket is nearest to one, and a node that comes or goes is the nearest for
//! its own buckets only.

use crate::identity::NodeId;

/// Bits behind the binary point of logarithms.
const POINT: u32 = 16;

/// What [`distance`] wants of a weight; a division is the dearest part of it.
pub(super) fn reciprocal(weight: u32) -> u64 {
    (1 << 40) / u64::from(weight.max(1))
}

/// What of a draw is a node's.
pub(super) fn of_node(node: NodeId) -> u64 {
    mix(u64::from(node.0) << 32)
}

/// What of a draw is a bucket's.
pub(super) fn of_bucket(bucket: usize) -> u64 {
    mix(bucket as u64)
}

/// What a node draws for a bucket: uniform, and each pair's own. Of nodes of one weight the nearest is the one that draws most. Both
/// halves are mixed well, so that one multiplication is enough to join them.
pub(super) fn draw(of_bucket: u64, of_node: u64) -> u64 {
    let product =
        u128::from(of_bucket ^ of_node) * u128::from(0xa076_1d64_78bd_642f_u64 ^ of_bucket.rotate_left(32));
    (product >> 64) as u64 ^ product as u64
}

/// How far a node of a weight with this reciprocal is from a bucket for which it has drawn this: −log2(u) / weight with u uniform in
/// (0, 1] (Schindelhauer and Schomaker 2005).
pub(super) fn distance(drawn: u64, reciprocal: u64) -> u64 {
    // At most 2 to the 22nd.
    let below_one = (u64::from(u64::BITS) << POINT) - log2(drawn | 1);
    below_one * reciprocal
}

/// The base-2 logarithm, [`POINT`] bits behind the point, to within 0.008.
fn log2(number: u64) -> u64 {
    let zeros = number.leading_zeros();
    let whole = u64::from(u64::BITS - 1 - zeros);
    // What is behind the leading one, as a fraction.
    let fraction = ((number << zeros) << 1) >> (u64::BITS - POINT);
    let one = 1 << POINT;
    // A parabola through both ends (0.344 is the height that errs least).
    let bulge = (((fraction * (one - fraction)) >> POINT) * 22_545) >> POINT;
    (whole << POINT) + fraction + bulge
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood 2014).
const fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms_are_close() {
        for number in [1, 2, 3, 5, 1000, 0xffff, u64::MAX / 3, u64::MAX] {
            let exact = (number as f64).log2();
            let found = log2(number) as f64 / f64::from(1 << POINT);
            assert!((exact - found).abs() < 0.008, "{number}: {found}, not {exact}");
        }
    }

    /// Every node draws most for its share of the buckets, and whoever draws most among all does so among any few of them.
    #[test]
    fn draws_are_each_pairs_own() {
        let mut most = [0; 32];
        let mut second = [[0_u32; 32]; 32];
        for bucket in 0..super::super::BUCKETS {
            let drawn = |node: usize| draw(of_bucket(bucket), of_node(NodeId(node as u16 + 1)));
            let mut order: Vec<usize> = (0..32).collect();
            order.sort_by_key(|&node| std::cmp::Reverse(drawn(node)));
            most[order[0]] += 1;
            second[order[0]][order[1]] += 1;
        }
        // 512 is fair, with a standard deviation of 22; of each pair 16.5, with one of 4.
        assert!(most.iter().all(|&count| (400..=624).contains(&count)), "{most:?}");
        for (node, others) in second.iter().enumerate() {
            for (other, &count) in others.iter().enumerate().filter(|(other, _)| *other != node) {
                assert!((1..=40).contains(&count), "{node} and then {other}: {count}");
            }
        }
    }

    #[test]
    fn buckets_are_nearest_in_proportion_to_the_weights() {
        let mut nearest = [0; 3];
        for bucket in 0..super::super::BUCKETS {
            let drawn = |place: usize| draw(of_bucket(bucket), of_node(NodeId(place as u16 + 1)));
            let at = |place: usize| distance(drawn(place), reciprocal([1, 2, 5][place]));
            let place = (0..3).min_by_key(|&place| at(place)).unwrap();
            nearest[place] += 1;
        }
        for (found, fair) in nearest.into_iter().zip([2048_f64, 4096.0, 10_240.0]) {
            assert!((f64::from(found) / fair - 1.0).abs() < 0.08, "{nearest:?}");
        }
    }
}

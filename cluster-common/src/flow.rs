//! To which bucket of an active/active group's table a flow belongs; the same in the programs, in the daemon and in the
//! tests' reference.

/// Buckets of a table; a power of two.
pub const BUCKETS: usize = 16_384;

/// A flow, as a packet to a VIP shows it. Addresses and ports are as they lie in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flow {
    /// The client's address; one of IPv4 is in the first word.
    pub source: [u32; 4],
    /// The VIP.
    pub destination: [u32; 4],
    /// The ports, the source's in the lower half; the identifier of an echo; or 0.
    pub ports: u32,
    /// The protocol's number.
    pub protocol: u8,
}

/// By what a flow is told from others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    /// Everything.
    Flow,
    /// The client's address alone.
    Source,
}

impl Flow {
    /// Its bucket, below [`BUCKETS`]. The seed is the table's.
    #[inline(always)]
    #[must_use]
    pub const fn bucket(&self, by: By, seed: u64) -> usize {
        let [a, b, c, d] = self.source;
        let mut hash = mix(seed ^ pair(a, b) ^ pair(c, d).rotate_left(29));
        if matches!(by, By::Flow) {
            let [a, b, c, d] = self.destination;
            let rest = pair(self.ports, self.protocol as u32);
            hash = mix(hash ^ rest ^ pair(a, b).rotate_left(17) ^ pair(d, c));
        }
        (hash >> (u64::BITS - BUCKETS.trailing_zeros())) as usize
    }
}

#[inline(always)]
const fn pair(high: u32, low: u32) -> u64 {
    (high as u64) << 32 | low as u64
}

/// Multiplicative hashing, twice: the product's upper bits depend on every bit.
#[inline(always)]
const fn mix(number: u64) -> u64 {
    let product = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (product ^ product >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93)
}

#[cfg(test)]
mod tests {
    use std::vec;

    use super::*;

    /// 30 000 flows of 100 clients, as a load test makes them: no bucket has many, and each third of the table a third of them.
    #[test]
    fn flows_spread_evenly() {
        let mut buckets = vec![0_u32; BUCKETS];
        for number in 0..30_000_u32 {
            let client = u32::from_ne_bytes([10, 77, 0, 50 + (number % 100) as u8]);
            let port = (32_768 + number / 100) as u16;
            let ports = u32::from(port.to_be()) | u32::from(80_u16.to_be()) << 16;
            let flow =
                Flow { source: [client, 0, 0, 0], destination: [0x6400_4d0a, 0, 0, 0], ports, protocol: 6 };
            buckets[flow.bucket(By::Flow, 7)] += 1;
        }
        assert!(buckets.iter().all(|&flows| flows < 16), "{:?}", buckets.iter().max());
        for third in buckets.chunks(BUCKETS / 3) {
            let (flows, fair) =
                (third.iter().sum::<u32>(), 10_000.0 * third.len() as f64 / (BUCKETS / 3) as f64);
            assert!((f64::from(flows) - fair).abs() < 400.0, "{flows} of {fair}");
        }
    }

    #[test]
    fn by_source_the_ports_do_not_matter() {
        let flow = |ports| Flow { source: [1, 2, 3, 4], destination: [5; 4], ports, protocol: 6 };
        let buckets =
            |by| (0..100).map(|ports| flow(ports).bucket(by, 7)).collect::<std::collections::BTreeSet<_>>();
        assert_eq!(buckets(By::Source).len(), 1);
        assert!(buckets(By::Flow).len() > 90);
    }
}

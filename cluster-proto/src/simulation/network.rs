//! Who reaches whom: paths for heartbeats, the service link's ports, cuts, loss and delay.

use super::clock::TrueTime;
use super::plan::Quality;
use super::random::Random;

/// The network between the nodes. Cuts are counted, so that two that overlap both have to end.
#[derive(Clone, Debug)]
pub(super) struct Network {
    nodes: usize,
    /// For each path whether it runs over the service link.
    paths: Vec<bool>,
    /// By sender, receiver and path.
    ways: Vec<Way>,
    /// By node.
    pub(super) ports: Vec<Ports>,
    /// By pair, both directions: the service link itself.
    links_cut: Vec<u32>,
    quality: Quality,
}

#[derive(Clone, Copy, Default, Debug)]
struct Way {
    cut: u32,
    slower_by: TrueTime,
    bad: bool,
}

#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Ports {
    pub(super) service_in_cut: u32,
    pub(super) service_out_cut: u32,
    pub(super) private_cut: u32,
    /// The interface is down or gone.
    pub(super) service_down: bool,
}

/// What becomes of a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    Lost,
    /// It arrives after this long, and perhaps again after that long.
    Arrives(TrueTime, Option<TrueTime>),
}

impl Network {
    pub(super) fn new(nodes: usize, paths: &[bool], quality: Quality) -> Self {
        Self {
            nodes,
            paths: paths.to_vec(),
            ways: vec![Way::default(); nodes * nodes * paths.len()],
            ports: vec![Ports::default(); nodes],
            links_cut: vec![0; nodes * nodes],
            quality,
        }
    }

    /// From here on nothing is lost, doubled or late.
    pub(super) fn heal(&mut self, beat: TrueTime) {
        let Quality { delay, jitter, .. } = self.quality;
        let (delay, jitter) = (delay.min(beat / 8), jitter.min(beat / 8));
        let well = Quality { doubled: 0, late: 0, turns_bad: 0, loss_good: 0, loss_bad: 0, ..self.quality };
        self.quality = Quality { delay, jitter, ..well };
    }

    fn way(&self, from: usize, to: usize, path: usize) -> usize {
        (from * self.nodes + to) * self.paths.len() + path
    }

    pub(super) fn paths(&self) -> usize {
        self.paths.len()
    }

    /// Cuts a path in one direction, or mends it.
    pub(super) fn cut(&mut self, from: usize, to: usize, path: usize, begins: bool) {
        let way = self.way(from, to, path);
        count(&mut self.ways[way].cut, begins);
    }

    /// Cuts the service link between two nodes for ARP and NS, or mends it.
    pub(super) fn cut_link(&mut self, one: usize, other: usize, begins: bool) {
        count(&mut self.links_cut[one * self.nodes + other], begins);
        count(&mut self.links_cut[other * self.nodes + one], begins);
    }

    /// Slows a direction down, or ends that.
    pub(super) fn slow(&mut self, from: usize, to: usize, by: TrueTime, begins: bool) {
        for path in 0..self.paths.len() {
            let way = self.way(from, to, path);
            self.ways[way].slower_by = if begins { by } else { 0 };
        }
    }

    /// What becomes of a heartbeat.
    pub(super) fn datagram(&mut self, random: &mut Random, from: usize, to: usize, path: usize) -> Fate {
        let ports_open = self.ports_open(from, to, path);
        let way = self.way(from, to, path);
        let quality = self.quality;
        let way = &mut self.ways[way];
        if way.cut > 0 || !ports_open {
            return Fate::Lost;
        }
        let turns = if way.bad { quality.turns_good } else { quality.turns_bad };
        way.bad ^= random.per_million(turns);
        if random.per_million(if way.bad { quality.loss_bad } else { quality.loss_good }) {
            return Fate::Lost;
        }
        let slower_by = way.slower_by;
        let delay = |random: &mut Random| {
            let late = if random.per_million(quality.late) { random.between(0, quality.latest) } else { 0 };
            quality.delay + random.between(0, quality.jitter) + late + slower_by
        };
        let first = delay(random);
        let second = random.per_million(quality.doubled).then(|| delay(random));
        Fate::Arrives(first, second)
    }

    /// How long a frame that asks who has an address, or says so, takes from one node to another, if it arrives.
    pub(super) fn arp(&mut self, random: &mut Random, from: usize, to: usize) -> Option<TrueTime> {
        let open =
            self.service_out(from) && self.service_in(to) && self.links_cut[from * self.nodes + to] == 0;
        let lost = random.per_million(self.quality.loss_good);
        (open && !lost).then(|| self.quality.delay + random.between(0, self.quality.jitter))
    }

    /// Whether heartbeats pass as they should on one of the first so many paths.
    pub(super) fn is_open(&self, from: usize, to: usize, paths: usize) -> bool {
        (0..paths.min(self.paths.len())).any(|path| {
            let way = &self.ways[self.way(from, to, path)];
            way.cut == 0 && way.slower_by == 0 && self.ports_open(from, to, path)
        })
    }

    fn ports_open(&self, from: usize, to: usize, path: usize) -> bool {
        if self.paths[path] {
            self.service_out(from) && self.service_in(to)
        } else {
            self.ports[from].private_cut == 0 && self.ports[to].private_cut == 0
        }
    }

    /// Whether a node can talk to clients on the service link.
    pub(super) fn reaches_clients(&self, node: usize) -> bool {
        self.service_out(node) && self.service_in(node)
    }

    /// The delay of one way on the service link.
    pub(super) fn delay(&self) -> TrueTime {
        self.quality.delay + self.quality.jitter
    }

    fn service_out(&self, node: usize) -> bool {
        self.ports[node].service_out_cut == 0 && !self.ports[node].service_down
    }

    fn service_in(&self, node: usize) -> bool {
        self.ports[node].service_in_cut == 0 && !self.ports[node].service_down
    }
}

pub(super) fn count(counter: &mut u32, begins: bool) {
    *counter = if begins { *counter + 1 } else { counter.saturating_sub(1) };
}

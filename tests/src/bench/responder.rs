//! `cluster-lab bench responder`: how many questions who has a VIP are answered in a second, by the product's ingress program and by
//! the kernel's own responder, on the same wire in the same run.
//!
//! A veth connects a node directly with the client, whose end asks and counts ([`super::traffic`]). In each round the
//! responders have the VIP in turn: the kernel with the address on its interface and no program on it, the product as a
//! cluster of one node, and for comparison the barest program that answers ARP at all.

use std::time::Duration;

use anyhow::ensure;
use serde::Serialize;

use super::traffic::{Asker, BareResponder, Exchange, Question};
use super::wire::{CLIENT_MAC, WIRE, connect};
use crate::lab::cluster::{Cluster, ClusterSettings};
use crate::lab::probe::question::{arp_request, neighbour_solicitation};
use crate::lab::topology::Node;
use crate::lab::{Family, Lab, Moment};

/// How long a cluster may take to serve.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a responder is left alone before it is asked.
const STEADY: Duration = Duration::from_millis(500);

/// From how many processors is asked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Offer {
    /// From one, which answers too: no question is put before there is time to answer it.
    OneProcessor,
    /// From two, more than can be answered.
    TwoProcessors,
}

impl Offer {
    /// Both.
    pub const ALL: [Self; 2] = [Self::OneProcessor, Self::TwoProcessors];

    /// How it is called in the results.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::OneProcessor => "one processor",
            Self::TwoProcessors => "two processors, overloaded",
        }
    }

    /// How many times as much as the kernel the product has to answer.
    #[must_use]
    pub fn bound(self) -> f64 {
        match self {
            Self::OneProcessor => 4.0,
            Self::TwoProcessors => 1.8,
        }
    }

    fn processors(self) -> usize {
        match self {
            Self::OneProcessor => 1,
            Self::TwoProcessors => 2,
        }
    }
}

/// Who answers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Responder {
    /// The kernel itself.
    Kernel,
    /// The product's program.
    Product,
    /// A program that answers every ARP request and looks nothing up.
    Bare,
}

impl Responder {
    /// All.
    pub const ALL: [Self; 3] = [Self::Kernel, Self::Product, Self::Bare];

    fn is_measured(self, family: Family) -> bool {
        self != Self::Bare || family == Family::Ipv4
    }
}

/// What is to be measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many rounds.
    pub rounds: usize,
    /// For how long is asked each time.
    pub length: Duration,
}

/// One measurement.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Measured {
    /// Who answered.
    pub responder: Responder,
    /// By ARP or by neighbour discovery.
    pub family: Family,
    /// From how many processors.
    pub offer: Offer,
    /// Questions.
    pub asked: u64,
    /// Answers.
    pub answered: u64,
    /// Answers a second.
    pub per_second: f64,
}

/// All measurements, and what could not be measured and why.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Results {
    /// The measurements.
    pub measured: Vec<Measured>,
    /// What of the product could not be measured.
    pub refused: Vec<(Family, String)>,
}

/// Measures, and says on stderr how it goes.
///
/// # Errors
/// When the wire cannot be made or nobody answers.
pub fn run(plan: Plan) -> anyhow::Result<Results> {
    let lab = Lab::with_nodes(&["a"])?;
    let node = lab.node("a");
    connect(&lab, node)?;
    let mut asker = Asker::on(lab.client(), WIRE)?;
    let mut results = Results::default();
    for round in 1..=plan.rounds {
        for (family, responder) in
            Family::ALL.into_iter().flat_map(|family| Responder::ALL.map(|who| (family, who)))
        {
            let refused = results.refused.iter().any(|(refused, _)| *refused == family);
            if !responder.is_measured(family) || (refused && responder == Responder::Product) {
                continue;
            }
            let measured = match responder {
                Responder::Kernel => {
                    with_kernel(node, family, || measure(&mut asker, plan, family, responder))?
                }
                Responder::Bare => {
                    let _answering = BareResponder::on(&node.namespace, WIRE)?;
                    measure(&mut asker, plan, family, responder)?
                }
                Responder::Product => {
                    let cluster = Cluster::with_configuration(&lab, &configuration(&lab, family))?;
                    if let Some(reason) = cluster.refusal()? {
                        eprintln!("{}: {reason}", family.label());
                        results.refused.push((family, reason));
                        continue;
                    }
                    with_product(cluster, || measure(&mut asker, plan, family, responder))?
                }
            };
            for Measured { offer, asked, answered, per_second, .. } in &measured {
                eprintln!(
                    "round {round}: {responder:?}, {}, {}: {:.2} million a second, {answered} of {asked}",
                    family.label(),
                    offer.label(),
                    per_second / 1e6
                );
            }
            results.measured.extend(measured);
        }
    }
    Ok(results)
}

fn measure(
    asker: &mut Asker,
    plan: Plan,
    family: Family,
    responder: Responder,
) -> anyhow::Result<Vec<Measured>> {
    (Moment::now() + STEADY).sleep();
    let question = question(family);
    let mut measured = Vec::new();
    for offer in Offer::ALL {
        let Exchange { asked, answered, took } = asker.ask(&question, offer.processors(), plan.length)?;
        ensure!(answered > 0, "{responder:?} answered none of {asked} questions, {}", family.label());
        let per_second = answered as f64 / took.as_secs_f64();
        measured.push(Measured { responder, family, offer, asked, answered, per_second });
    }
    Ok(measured)
}

/// The question: a whole frame that the asker's programs send.
fn question(family: Family) -> Question {
    match family {
        Family::Ipv4 => {
            let mut frame =
                arp_request(CLIENT_MAC, CLIENT_MAC, [10, 79, 0, 50].into(), [10, 79, 0, 100].into());
            // The shortest frame that Ethernet has.
            frame.resize(60, 0);
            Question { frame, program: "ask_arp" }
        }
        Family::Ipv6 => {
            let address = |last| [0xfd79, 0, 0, 0, 0, 0, 0, last].into();
            let frame = neighbour_solicitation(CLIENT_MAC, CLIENT_MAC, address(0x50), address(0x100));
            Question { frame, program: "ask_neighbour" }
        }
    }
}

/// The VIP as `ip` and the configuration write it.
fn vip(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "10.79.0.100/24",
        Family::Ipv6 => "fd79::100/64",
    }
}

/// Measures while the kernel has the VIP.
fn with_kernel<T>(
    node: &Node,
    family: Family,
    measure: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let at_once = if family == Family::Ipv6 { " nodad" } else { "" };
    node.namespace.execute(&format!("ip address add {} dev {WIRE}{at_once}", vip(family)))?;
    let measured = measure();
    node.namespace.execute(&format!("ip address delete {} dev {WIRE}", vip(family)))?;
    measured
}

/// Measures while the product has it.
fn with_product<T>(
    mut cluster: Cluster<'_>,
    measure: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    cluster.start("a")?;
    cluster.await_role("a", "active", PATIENCE)?;
    let measured = measure();
    let (_, status) = cluster.stop("a")?;
    ensure!(status.success(), "clusterd ended with {status}: {}", cluster.output("a"));
    measured
}

/// The lab's configuration, with the wire as the interface that clients use.
fn configuration(lab: &Lab, family: Family) -> String {
    let text = ClusterSettings { vips: vec![family], ..ClusterSettings::default() }.toml(lab);
    let own = crate::lab::Link::Public.interface();
    text.replace(&format!("interface = \"{own}\""), &format!("interface = \"{WIRE}\""))
        .replace(family.vip_with_prefix(), vip(family))
}

/// The median of the answers a second of these measurements, and the largest share of questions that were not answered.
#[must_use]
pub fn summary(results: &Results, responder: Responder, family: Family, offer: Offer) -> Option<(f64, f64)> {
    let of_these = |one: &&Measured| (one.responder, one.family, one.offer) == (responder, family, offer);
    let these: Vec<&Measured> = results.measured.iter().filter(of_these).collect();
    let rate = super::cost::median(these.iter().map(|one| one.per_second).collect())?;
    let lost =
        these.iter().map(|one| 1.0 - one.answered as f64 / one.asked.max(1) as f64).fold(0.0, f64::max);
    Some((rate, lost))
}

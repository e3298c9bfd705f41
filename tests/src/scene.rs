//! A cluster under observation: daemons, their service, a client, who answers for the VIPs, ears on every node's ports and the
//! canary. What the lab's tests share; what must be true is said by the tests.

use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::lab::clock::Window;
use crate::lab::cluster::{ClusterSettings, Timing};
use crate::lab::probe::requests::Outage;
use crate::lab::probe::{AnswerProbe, Canary, Capture, EchoServer, RequestProbe, answers, requests};
use crate::lab::{Cluster, Lab, Link, Moment};

/// How long anything may take that is not measured.
pub const SOON: Duration = Duration::from_secs(10);

/// A running cluster of the lab's nodes and everything that looks at it.
#[derive(Debug)]
pub struct Scene<'lab> {
    /// The lab.
    pub lab: &'lab Lab,
    /// The daemons.
    pub cluster: Cluster<'lab>,
    /// The client, which asks the first of the group's VIPs.
    pub client: RequestProbe,
    /// Who answers for the VIPs.
    pub answers: AnswerProbe,
    /// What leaves each node in the VIPs' name: the node, the link, the ear.
    pub ears: Vec<(String, Link, Capture)>,
    /// Whether the machine stood still.
    pub canary: Canary,
    timing: Timing,
    _servers: Vec<EchoServer>,
}

/// One fault and what the client saw of it.
#[derive(Clone, Debug)]
pub struct Trial {
    /// The longest time without an answer.
    pub outage: Outage,
    /// The longest that the machine, or the client itself, stood still meanwhile.
    pub stall: Duration,
}

impl Trial {
    /// The outage without the longest time that the machine stood still meanwhile: what is the cluster's own doing at
    /// most, on a machine whose processors are taken away for milliseconds at a time.
    #[must_use]
    pub fn own(&self) -> Duration {
        self.outage.length.saturating_sub(self.stall)
    }
}

impl<'lab> Scene<'lab> {
    /// Starts the daemons and everything else, and waits until the client is served.
    ///
    /// # Errors
    /// When something does not start or the nodes do not agree.
    pub fn start(lab: &'lab Lab, settings: &ClusterSettings) -> anyhow::Result<Self> {
        Self::start_cluster(Cluster::new(lab, settings)?, settings)
    }

    /// As [`Scene::start`], with a cluster whose daemons have not been started.
    ///
    /// # Errors
    /// When something does not start or the nodes do not agree.
    pub fn start_cluster(mut cluster: Cluster<'lab>, settings: &ClusterSettings) -> anyhow::Result<Self> {
        let lab = cluster.lab();
        let canary = Canary::start()?;
        let vips = settings.addresses();
        let asked = *vips.first().context("a scene's group has a VIP")?;
        let served = lab.nodes().iter().flat_map(|node| vips.iter().map(move |vip| (node, *vip)));
        let servers = served.map(|(node, vip)| EchoServer::start(node, vip));
        let servers = servers.collect::<anyhow::Result<Vec<_>>>()?;
        let mut ears = Vec::new();
        for node in lab.nodes() {
            for link in Link::ALL {
                ears.push((node.name.clone(), link, Capture::start(lab, &node.name, link)?));
            }
        }
        let answers = AnswerProbe::start_with_all(lab, &vips, answers::INTERVAL)?;
        cluster.start_all()?;
        cluster.await_settled(SOON)?;
        let client = RequestProbe::start_with(lab, asked, requests::INTERVAL)?;
        client.await_service(None, SOON)?;
        Ok(Self { lab, cluster, client, answers, ears, canary, timing: settings.timing, _servers: servers })
    }

    /// Waits until one node is active, the others passive, and the client is served by it; returns its name.
    ///
    /// # Errors
    /// When that does not come about.
    pub fn settle(&mut self) -> anyhow::Result<String> {
        let active = self.cluster.await_settled(SOON)?;
        self.client.await_service(Some(&active), SOON)?;
        // A node that has just started is not ready for everything yet; that is not what the trials are about.
        (Moment::now() + self.timing.dead_after * 3).sleep();
        Ok(active)
    }

    /// Runs `fault` and waits until the client is served by `served_by` afterwards.
    ///
    /// # Errors
    /// When the fault fails or nobody serves.
    pub fn trial(
        &mut self,
        served_by: &str,
        fault: impl FnOnce(&mut Self) -> anyhow::Result<()>,
    ) -> anyhow::Result<Trial> {
        let from = Moment::now() - Duration::from_millis(20);
        fault(self)?;
        self.client.await_service(Some(served_by), SOON)?;
        // What comes after the first answer belongs to it: a second gap would be as bad.
        (Moment::now() + self.timing.dead_after * 2).sleep();
        let window = Window::since(from);
        let stall = self.canary.worst(window, false).max(self.client.longest_pause(window));
        Ok(Trial { outage: self.client.outage(window), stall })
    }

    /// What the client saw from `from` until now, answers that are still on their way included.
    #[must_use]
    pub fn outage_since(&self, from: Moment) -> Outage {
        let window = Window::since(from);
        (window.to + Duration::from_millis(50)).sleep();
        self.client.outage(window)
    }

    /// Stops asking, and says what was ever answered twice.
    ///
    /// # Errors
    /// When a request was answered by two nodes, or the probe did not run.
    pub fn never_two_answers(&mut self) -> anyhow::Result<()> {
        self.answers.stop();
        let asked: Vec<usize> =
            Link::ALL.iter().map(|&link| self.answers.asked(link, Window::ALWAYS)).collect();
        ensure!(asked.iter().all(|&asked| asked > 100), "it was asked only {asked:?} times who has the VIPs");
        ensure!(!self.answers.answers(Window::ALWAYS).is_empty(), "nobody ever answered who has the VIPs");
        let double = self.answers.double_answers();
        ensure!(
            double.is_empty(),
            "{} requests were answered twice, the first: {:?}",
            double.len(),
            double[0]
        );
        Ok(())
    }

    /// Checks that nothing with the VIP as its source left a node in that window.
    ///
    /// # Errors
    /// When something did.
    pub fn silent(&self, node: &str, window: Window) -> anyhow::Result<()> {
        for (owner, link, ear) in &self.ears {
            if owner != node {
                continue;
            }
            let seen = ear.sightings(window);
            if let Some(first) = seen.first() {
                let after = first.at.since(window.from);
                anyhow::bail!(
                    "{} frames left node {node} on the {link:?} link in the VIP's name, the first {after:?} after it \
                     had to be silent: {first:?}",
                    seen.len()
                );
            }
        }
        Ok(())
    }

    /// The transitions and lapses each daemon has gone through since its start.
    ///
    /// # Errors
    /// When a daemon does not answer.
    pub fn transitions(&self) -> anyhow::Result<Vec<u64>> {
        self.lab.nodes().iter().map(|node| self.cluster.upsets(&node.name)).collect()
    }
}

/// The middle one, of an even number the lower of the two.
#[must_use]
pub fn median(mut values: Vec<Duration>) -> Duration {
    values.sort_unstable();
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or_default()
}

/// How many trials a test makes: so many unless `CLUSTER_TRIALS` says otherwise.
#[must_use]
pub fn trials(unless_told: usize) -> usize {
    std::env::var("CLUSTER_TRIALS").ok().and_then(|text| text.parse().ok()).unwrap_or(unless_told)
}

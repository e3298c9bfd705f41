//! The costs of the ingress program as a page, as data and as a chart.

use serde_json::json;

use super::chart::{Bar, Chart, Group};
use super::report::{Machine, Report};
use crate::bench_xdp::XdpCosts;

/// The report of these costs.
#[must_use]
pub fn report(costs: &XdpCosts) -> Report {
    let machine = Machine::this();
    let markdown = format!(
        "# The cost of a packet in the ingress program\n\n\
         Measured by `cargo xtask bench xdp --write` on {machine}, with `BPF_PROG_TEST_RUN`: the median of {} rounds of {} \
         runs\nfor each kind of packet, all kinds in turn in every round. The kernel's own work around a program is in every \
         figure, the\nempty program's too, so that the multiples are what can be compared from machine to machine. Where the\nnode has 10 000 VIPs, half of them of each family, every round is about others of them.\n\n{}\n\
         ![The costs as a chart](xdp.svg)\n",
        costs.rounds,
        costs.repeat,
        costs.markdown()
    );
    Report {
        name: "xdp",
        markdown,
        json: json!({ "machine": machine, "costs": costs }),
        svg: Some(chart(costs).svg()),
    }
}

fn chart(costs: &XdpCosts) -> Chart {
    let empty = Group { label: "empty program".to_owned(), bars: vec![bar(0, costs.empty_ns, 1.0)] };
    let packets = costs
        .packets
        .iter()
        .map(|packet| Group { label: packet.name.to_owned(), bars: vec![bar(1, packet.ns, packet.ratio)] });
    Chart {
        title: "The cost of a packet in the ingress program".to_owned(),
        axis: "nanoseconds per packet, logarithmic, and the multiple of the empty program".to_owned(),
        series: vec!["empty program".to_owned(), "ingress program".to_owned()],
        groups: std::iter::once(empty).chain(packets).collect(),
    }
}

fn bar(series: usize, ns: f64, ratio: f64) -> Bar {
    Bar { series, value: ns, worst: None, label: format!("{ns:.1} ns, {ratio:.1}×") }
}

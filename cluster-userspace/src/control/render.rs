//! Answers for people: aligned, stable, one fact in one place, with colours only where they are wanted.

use std::fmt::Write;
use std::time::Duration;

use super::event::EventRecord;
use super::plan::{Plan, Share};
use super::stats::Stats;
use super::status::{PeerStatus, Status};

/// Whether text is coloured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Paint {
    /// Plain text.
    Plain,
    /// With the terminal's own colours (ECMA-48 SGR).
    Colours,
}

#[derive(Clone, Copy, Default)]
enum Style {
    #[default]
    Plain,
    Heading,
    Good,
    Attention,
    Bad,
}

impl Paint {
    fn apply(self, style: Style, text: &str) -> String {
        let code = match (self, style) {
            (Self::Plain, _) | (Self::Colours, Style::Plain) => return text.to_owned(),
            (Self::Colours, Style::Heading) => "1",
            (Self::Colours, Style::Good) => "32",
            (Self::Colours, Style::Attention) => "33",
            (Self::Colours, Style::Bad) => "31",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// A `status` over several lines.
#[must_use]
pub fn status(status: &Status, paint: Paint) -> String {
    let mut text = String::new();
    let up = duration(Duration::from_millis(status.uptime_ms));
    let node = paint.apply(Style::Heading, &status.node);
    // Writing into a String cannot fail, so the results are dropped here and below.
    let witness = status.kind == "witness";
    // A daemon of an earlier version does not say what it is.
    let kind = if witness { "witness" } else { "node" };
    _ = writeln!(text, "{kind} {node}, clusterd {}, up {up}", status.version);
    if witness {
        _ = write!(text, "votes and never serves");
    } else {
        _ = write!(text, "interface {}, XDP {}", status.interface, status.xdp);
        if let Some(chain) = &status.chain {
            _ = write!(text, ", chained to {chain}");
        }
    }
    match status.service.as_deref() {
        Some("cut") => _ = write!(text, ", {}", paint.apply(Style::Bad, "service link cut")),
        Some("answered") => _ = write!(text, ", service link without heartbeats, but answered"),
        _ => {}
    }
    if let Some(cpu) = status.cpu {
        _ = write!(text, ", heartbeats on CPU {cpu}");
    }
    let quorum = &status.quorum;
    _ = writeln!(
        text,
        "\nquorum {}, {} of {} voters reachable{}",
        quorum.mode,
        quorum.reachable,
        quorum.voters,
        quorum.needed.map_or_else(String::new, |needed| format!(", {needed} needed"))
    );
    if let Some(change) = &quorum.change {
        let from = change.from.join(", ");
        let behind: Vec<&str> =
            status.peers.iter().filter(|peer| !peer.same_settings).map(|peer| peer.name.as_str()).collect();
        let waiting = match &behind[..] {
            [] => String::new(),
            behind => format!("; other files on {}", behind.join(", ")),
        };
        let what = format!("voters are being changed ({}), before: {from}{waiting}", change.phase);
        _ = writeln!(text, "{}", paint.apply(Style::Attention, &what));
    }
    if status.drained {
        _ = writeln!(
            text,
            "{}",
            paint.apply(Style::Attention, "drained: takes no group until `clusterctl undrain`")
        );
    }
    _ = write!(text, "\n{}", groups(status).text(paint));
    for group in &status.groups {
        if let Some(rival) = &group.rival {
            let seen = duration(Duration::from_millis(rival.last_seen_ms));
            let what = format!(
                "{}: a stranger, MAC {} on {}, claims {}, last {seen} ago",
                group.name, rival.mac, rival.interface, rival.address
            );
            _ = writeln!(text, "{}", paint.apply(Style::Bad, &what));
        }
    }
    if status.groups.iter().any(|group| group.spread.is_some()) {
        _ = write!(text, "\n{}", spreads(status).text(paint));
    }
    if !status.peers.is_empty() {
        _ = write!(text, "\n{}", peers(&status.peers).text(paint));
    }
    let dropped = dropped(status);
    if !dropped.is_empty() {
        _ = writeln!(text, "\ndatagrams dropped: {dropped}");
    }
    for (heading, mark, style, items) in [
        ("warnings", "!", Style::Attention, &status.warnings),
        ("protects from", "+", Style::Good, &status.protection.protects),
        ("does not protect from", "-", Style::Plain, &status.protection.not),
    ] {
        if !items.is_empty() {
            _ = writeln!(text, "\n{}", paint.apply(Style::Heading, heading));
            for item in items {
                _ = writeln!(text, "  {} {item}", paint.apply(style, mark));
            }
        }
    }
    text
}

fn groups(status: &Status) -> Table {
    let mut table =
        Table::new(&["GROUP", "ROLE", "HOLDER", "EPOCH", "LEASE", "LAPSES", "SINCE", "CAUSE", "VIPS"]);
    for group in &status.groups {
        let role = match group.role.as_str() {
            "active" => Style::Good,
            "init" => Style::Attention,
            "fault" => Style::Bad,
            _ => Style::Plain,
        };
        let (holder, holder_style) = match &group.holder {
            Some(holder) => (holder.clone(), Style::Plain),
            None => ("nobody known".to_owned(), Style::Attention),
        };
        let mut cause = group.cause.clone();
        if group.by_hand {
            cause.push_str(" (by hand)");
        }
        if let Some(left) = group.letting_go_ms {
            let left = duration(Duration::from_millis(left));
            cause.push_str(&format!(", serves connections for {left} more"));
        }
        table.row([
            (group.name.clone(), Style::Heading),
            (group.role.clone(), role),
            (holder, holder_style),
            (group.epoch.clone().unwrap_or_else(|| "-".to_owned()), Style::Plain),
            (group.lease_ms.map_or_else(|| "-".to_owned(), millis), Style::Plain),
            (group.lapses.to_string(), if group.lapses > 0 { Style::Attention } else { Style::Plain }),
            (duration(Duration::from_millis(group.since_ms)), Style::Plain),
            (cause, Style::Plain),
            (group.vips.join(" "), Style::Plain),
        ]);
    }
    table
}

/// Over which nodes active/active groups are spread.
fn spreads(status: &Status) -> Table {
    let shown = |number: Option<u32>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let mut table =
        Table::new(&["SPREAD", "TABLE", "NODE", "SHARE", "BUCKETS", "BEFORE", "CONNECTIONS", "PACKETS/S"]);
    for group in &status.groups {
        let Some(spread) = &group.spread else { continue };
        let mut first = [
            (group.name.clone(), Style::Heading),
            match &spread.version {
                Some(version) => (version.clone(), Style::Plain),
                None => ("none yet".to_owned(), Style::Attention),
            },
        ];
        for member in &spread.members {
            let [name, version] = std::mem::replace(&mut first, std::array::from_fn(|_| Default::default()));
            let entry = if group.holder.as_deref() == Some(&member.name) { " (entry)" } else { "" };
            table.row([
                name,
                version,
                (format!("{}{entry}", member.name), Style::Plain),
                (format!("{:.1} %", member.share * 100.0), Style::Plain),
                (member.buckets.to_string(), Style::Plain),
                (member.seconds.to_string(), Style::Plain),
                (shown(member.flows), Style::Plain),
                (shown(member.packets_per_second), Style::Plain),
            ]);
        }
    }
    table
}

/// One line for each path; the peer itself stands in its first.
fn peers(peers: &[PeerStatus]) -> Table {
    let mut table = Table::new(&[
        "PEER",
        "STATE",
        "LAST HEARD",
        "WORST GAP",
        "MARGIN",
        "PATH",
        "LINK",
        "STATE",
        "RTT",
        "LOST",
    ]);
    for peer in peers {
        let style = match peer.state.as_str() {
            "alive" => Style::Good,
            "dead" => Style::Bad,
            _ => Style::Attention,
        };
        let heard = peer.last_heard_ms.map_or_else(|| "never".to_owned(), millis);
        let name =
            if peer.kind == "witness" { format!("{} (witness)", peer.name) } else { peer.name.clone() };
        let (gap, margin) = match peer.margin_ms {
            Some(margin) => (millis(peer.worst_gap_ms), millis(margin)),
            None => ("-".to_owned(), "-".to_owned()),
        };
        // The worst gap is longer than half of what it may be.
        let close = peer.margin_ms.is_some_and(|margin| margin < peer.worst_gap_ms);
        let mut first = [
            (name, Style::Heading),
            (peer.state.clone(), style),
            (heard, Style::Plain),
            (gap, Style::Plain),
            (margin, if close { Style::Attention } else { Style::Plain }),
        ];
        for path in &peer.paths {
            let [name, state, heard, gap, margin] =
                std::mem::replace(&mut first, std::array::from_fn(|_| Default::default()));
            let up = if path.state == "up" { Style::Good } else { Style::Bad };
            table.row([
                name,
                state,
                heard,
                gap,
                margin,
                (format!("{} -> {}", path.local, path.remote), Style::Plain),
                (if path.service { "service" } else { "private" }.to_owned(), Style::Plain),
                (path.state.clone(), up),
                (path.rtt_us.map_or_else(|| "-".to_owned(), |rtt| millis(rtt as f64 / 1000.0)), Style::Plain),
                (path.lost.to_string(), Style::Plain),
            ]);
        }
    }
    table
}

fn dropped(status: &Status) -> String {
    let dropped = &status.datagrams_dropped;
    let kinds = [
        ("malformed", dropped.malformed),
        ("other version", dropped.version),
        ("forged", dropped.forged),
        ("other cluster", dropped.other_cluster),
        ("unknown node", dropped.unknown_node),
        ("our own id", dropped.own_id),
        ("replayed", dropped.replayed),
        ("old incarnation", dropped.old_incarnation),
        ("unproven", dropped.unproven),
    ];
    let some: Vec<_> =
        kinds.iter().filter(|(_, count)| *count > 0).map(|(kind, count)| format!("{count} {kind}")).collect();
    some.join(", ")
}

/// A `plan` as a table.
#[must_use]
pub fn plan(plan: &Plan, paint: Paint) -> String {
    let has_shares = plan.groups.iter().any(|group| group.shares.is_some());
    let columns = ["GROUP", "NOW", "PLANNED", "ORDER", "SHARES"];
    let mut table = Table::new(if has_shares { &columns } else { &columns[..4] });
    for group in &plan.groups {
        let shown = |node: &Option<String>| node.clone().unwrap_or_else(|| "nobody".to_owned());
        let style = match (&group.planned, group.planned == group.holder) {
            (None, _) => Style::Bad,
            (Some(_), true) => Style::Plain,
            (Some(_), false) => Style::Attention,
        };
        let share = |share: &Share| format!("{} {:.0} %", share.name, share.share * 100.0);
        let shares: Vec<String> = group.shares.iter().flatten().map(share).collect();
        let (name, holder) = ((group.name.clone(), Style::Heading), (shown(&group.holder), Style::Plain));
        let (planned, order) = ((shown(&group.planned), style), (group.order.join(", "), Style::Plain));
        if has_shares {
            table.row([name, holder, planned, order, (shares.join(", "), Style::Plain)]);
        } else {
            table.row([name, holder, planned, order]);
        }
    }
    let without = match plan.without.as_slice() {
        [] => "all nodes there".to_owned(),
        gone => format!("without {}", gone.join(", ")),
    };
    format!("{without}\n\n{}", table.text(paint))
}

/// A `stats` over several lines.
#[must_use]
pub fn stats(stats: &Stats, paint: Paint) -> String {
    let mut table = Table::new(&["GROUP", "PACKETS", "COUNT"]);
    for group in &stats.groups {
        let mut name = (group.name.clone(), Style::Heading);
        let announced = [
            ("announcements_sent".to_owned(), group.announcements),
            ("lease_lapses".to_owned(), group.lapses),
        ];
        let counters =
            group.packets.iter().map(|(verdict, count)| (verdict.clone(), *count)).chain(announced);
        for (verdict, count) in counters {
            table.row([
                std::mem::take(&mut name),
                (verdict, Style::Plain),
                (count.to_string(), Style::Plain),
            ]);
        }
    }
    // A witness has no data plane, and so no counters of groups.
    let mut text = if stats.groups.is_empty() { String::new() } else { format!("{}\n", table.text(paint)) };
    let mut table = Table::new(&["HEARTBEATS", "COUNT"]);
    for (kind, count) in &stats.heartbeats {
        table.row([(kind.clone(), Style::Plain), (count.to_string(), Style::Plain)]);
    }
    text.push_str(&table.text(paint));
    let mut table = Table::new(&["PEER", "WORST GAP", "LATELY", "MARGIN", "LOW MARGINS", "RTT", "LOST"]);
    for peer in &stats.peers {
        table.row([
            (peer.name.clone(), Style::Heading),
            (millis(peer.worst_gap_ms), Style::Plain),
            (millis(peer.recent_gap_ms), Style::Plain),
            (peer.margin_ms.map_or_else(|| "-".to_owned(), millis), Style::Plain),
            (peer.low_margins.to_string(), Style::Plain),
            (peer.rtt_us.map_or_else(|| "-".to_owned(), |rtt| millis(rtt as f64 / 1000.0)), Style::Plain),
            (peer.lost.to_string(), Style::Plain),
        ]);
    }
    if !stats.peers.is_empty() {
        _ = write!(text, "\n{}", table.text(paint));
    }
    let of = &stats.heartbeat_loop;
    let realtime = if of.realtime { "real-time" } else { "not real-time" };
    _ = writeln!(
        text,
        "\nheartbeat loop: {realtime}, {} wakeups, at worst {} late, {} socket overflows",
        of.wakeups,
        millis(of.worst_delay_ms),
        of.socket_overflows
    );
    text
}

/// One event in a line, with its time of day.
#[must_use]
pub fn event(event: &EventRecord, paint: Paint) -> String {
    format!("{}  {}", event.time, occurrence(event, paint))
}

/// What happened, without when: for a log that has a clock of its own.
#[must_use]
pub fn occurrence(event: &EventRecord, paint: Paint) -> String {
    let body = &event.body;
    let or = |field: &Option<String>| field.clone().unwrap_or_else(|| "?".to_owned());
    let (group, peer) = (or(&body.group), or(&body.peer));
    let lasted = body.duration_us.map_or_else(|| "?".to_owned(), |micros| millis(micros as f64 / 1000.0));
    let path = || {
        let ends = body.path.as_ref().map(|path| format!("{} -> {}", path.local, path.remote));
        ends.unwrap_or_else(|| "?".to_owned())
    };
    let (style, what) = match body.kind.as_str() {
        "transition" => {
            let style = match body.to.as_deref() {
                Some("active") => Style::Good,
                Some("fault") => Style::Bad,
                _ => Style::Plain,
            };
            (
                style,
                format!(
                    "{group}: {} -> {} ({}){}",
                    or(&body.from),
                    or(&body.to),
                    or(&body.cause),
                    tenure(event)
                ),
            )
        }
        "lapse" => (Style::Bad, format!("{group}: the lease ran out; dark until it is renewed")),
        "regained" => {
            (Style::Attention, format!("{group}: the lease was renewed after {lasted} of darkness"))
        }
        "alone" => (Style::Attention, "no peer is heard: leases are renewed without one".to_owned()),
        "not_alone" => (Style::Plain, "leases are no longer renewed without a peer".to_owned()),
        "peer_up" => (Style::Good, format!("{peer} is alive")),
        "peer_down" => (Style::Bad, format!("{peer} is silent")),
        "path_up" => (Style::Plain, format!("path to {peer} up: {}", path())),
        "path_down" => (Style::Attention, format!("path to {peer} down: {}", path())),
        "probe_answered" => (
            Style::Attention,
            format!(
                "{group}: not taken, node with MAC {} answers for the VIP on the service link",
                or(&body.mac)
            ),
        ),
        "rival" => (
            Style::Bad,
            format!(
                "{group}: a stranger, MAC {} on {}, claims {}",
                or(&body.mac),
                or(&body.interface),
                or(&body.address)
            ),
        ),
        "dual_holder" => {
            (Style::Bad, format!("{group}: {peer} held it too, in epoch {}, and yields", or(&body.epoch)))
        }
        "handover" => (Style::Plain, format!("{group}: being handed to {peer} ({})", or(&body.cause))),
        "handover_failed" => (Style::Attention, format!("{group}: {peer} did not take it; it stayed")),
        "service" => (Style::Plain, format!("service link: {}", or(&body.service))),
        "overslept" => (Style::Attention, format!("the heartbeat loop woke {lasted} late")),
        "reservation_failed" => {
            let why = body.message.as_ref().map_or_else(String::new, |why| format!(": {why}"));
            (Style::Bad, format!("epochs cannot be reserved on disk; soon this node can take no group{why}"))
        }
        "lease_too_short" => (
            Style::Attention,
            format!(
                "the lease is too short for a round trip of {lasted} to {peer}: lapses are to be expected when its vote \
                 is needed{}",
                body.message.as_ref().map_or_else(String::new, |fitting| format!("; {fitting}"))
            ),
        ),
        "margin_low" => (
            Style::Attention,
            format!("{peer} was not heard for {lasted}, more than half of dead_after, and came back"),
        ),
        "settings_agree" => (Style::Good, format!("{peer} has this host's nodes and timings in its file")),
        "settings_differ" => (Style::Attention, format!("{peer} has other nodes or timings in its file")),
        "wire_version" => (
            Style::Bad,
            format!("{peer}: {}", body.message.as_deref().unwrap_or("its messages cannot be read")),
        ),
        "missed" => (Style::Attention, format!("{} events were missed", body.count.unwrap_or(0))),
        // The daemon's own, and those of a newer daemon.
        kind => match (&body.message, &body.group) {
            (Some(message), Some(group)) => (Style::Plain, format!("{group}: {message}")),
            (Some(message), None) => (Style::Plain, message.clone()),
            (None, _) => (Style::Plain, kind.to_owned()),
        },
    };
    paint.apply(style, &what)
}

/// The epoch and the steps of a takeover.
fn tenure(event: &EventRecord) -> String {
    let mut text = String::new();
    if let Some(epoch) = &event.body.epoch {
        _ = write!(text, ", epoch {epoch}");
    }
    let steps: Vec<_> = event.body.timeline_us.iter().flat_map(|timeline| timeline.steps()).collect();
    if steps.len() > 1 {
        let steps = steps.iter().map(|(name, at)| format!("{name} +{:.3}", *at as f64 / 1000.0));
        _ = write!(text, "; {} ms", steps.collect::<Vec<_>>().join(", "));
    }
    text
}

/// `38.2 ms`, `0.21 ms`; from a second on as [`duration`] has it.
fn millis(millis: f64) -> String {
    match millis {
        ms if ms >= 1000.0 => duration(Duration::from_millis(ms as u64)),
        ms if ms >= 1.0 => format!("{ms:.1} ms"),
        ms => format!("{ms:.2} ms"),
    }
}

/// Two units at most: `991 ms`, `12 s`, `1 h 3 min`, `4 d 2 h`.
fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min {} s", seconds % 60),
        3600..86_400 => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// Rows of cells, as wide as their widest and two spaces apart.
struct Table {
    rows: Vec<Vec<(String, Style)>>,
}

impl Table {
    fn new(heading: &[&str]) -> Self {
        Self { rows: vec![heading.iter().map(|cell| ((*cell).to_owned(), Style::Heading)).collect()] }
    }

    fn row<const COLUMNS: usize>(&mut self, cells: [(String, Style); COLUMNS]) {
        self.rows.push(cells.into());
    }

    fn text(&self, paint: Paint) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|(cell, _)| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, style), width) in row.iter().zip(&widths) {
                line.push_str(&paint.apply(*style, cell));
                line.extend(std::iter::repeat_n(' ', width + 2 - cell.chars().count()));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

//! Bar charts in SVG, drawn by hand so that they need nothing to be looked at but a browser.

use std::fmt::Write as _;

/// A chart of horizontal bars in groups, on a logarithmic scale.
#[derive(Clone, Debug)]
pub struct Chart {
    /// What is shown.
    pub title: String,
    /// What the numbers mean, with their unit.
    pub axis: String,
    /// The names of the series, in the order of their colours.
    pub series: Vec<String>,
    /// The groups from top to bottom.
    pub groups: Vec<Group>,
}

/// Bars that belong together.
#[derive(Clone, Debug)]
pub struct Group {
    /// What they have in common.
    pub label: String,
    /// The bars from top to bottom.
    pub bars: Vec<Bar>,
}

/// One bar.
#[derive(Clone, Debug)]
pub struct Bar {
    /// The place of its series in [`Chart::series`].
    pub series: usize,
    /// Its length.
    pub value: f64,
    /// The worst of the values that it stands for, drawn as a thin line.
    pub worst: Option<f64>,
    /// What is written beside it.
    pub label: String,
}

const WIDTH: f64 = 940.0;
const LEFT: f64 = 190.0;
const RIGHT: f64 = 210.0;
const BAR: f64 = 14.0;
const GAP: f64 = 12.0;
const COLOURS: [&str; 6] = ["#1b7f5c", "#5fb98f", "#d98324", "#e8b57a", "#7a6ea8", "#8c8c8c"];

impl Chart {
    /// The chart as an SVG document.
    #[must_use]
    pub fn svg(&self) -> String {
        let values =
            self.groups.iter().flat_map(|group| &group.bars).flat_map(|bar| [Some(bar.value), bar.worst]);
        let values: Vec<f64> = values.flatten().filter(|value| *value > 0.0).collect();
        let least = values.iter().copied().fold(f64::INFINITY, f64::min).min(1e9);
        let most = values.iter().copied().fold(0.0, f64::max).max(least * 1.01);
        let (low, high) = (least.log10().floor(), most.log10().ceil().max(least.log10().floor() + 1.0));
        let scale = (WIDTH - LEFT - RIGHT) / (high - low);
        let across = |value: f64| LEFT + (value.max(10f64.powf(low)).log10() - low) * scale;

        let top = 64.0 + 18.0 * (self.series.len() as f64 / 3.0).ceil();
        let bars: usize = self.groups.iter().map(|group| group.bars.len()).sum();
        let bottom = top + bars as f64 * (BAR + 2.0) + self.groups.len() as f64 * GAP;
        let height = bottom + 40.0;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
             <text x=\"16\" y=\"26\" font-size=\"16\" font-weight=\"bold\">{}</text>\n\
             <text x=\"16\" y=\"44\" fill=\"#555555\">{}</text>\n",
            escaped(&self.title),
            escaped(&self.axis)
        );
        for (place, name) in self.series.iter().enumerate() {
            let (x, y) = (16.0 + 270.0 * (place % 3) as f64, 62.0 + 18.0 * (place / 3) as f64);
            let _ = writeln!(
                svg,
                "<rect x=\"{x}\" y=\"{}\" width=\"12\" height=\"12\" fill=\"{}\"/><text x=\"{}\" y=\"{y}\">{}</text>",
                y - 10.0,
                colour(place),
                x + 18.0,
                escaped(name)
            );
        }
        let mut power = low;
        while power <= high {
            let x = across(10f64.powf(power));
            let _ = writeln!(
                svg,
                "<line x1=\"{x:.1}\" y1=\"{top}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\" stroke=\"#dddddd\"/>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#555555\">{}</text>",
                bottom + 18.0,
                10f64.powf(power)
            );
            power += 1.0;
        }
        let mut y = top + GAP / 2.0;
        for group in &self.groups {
            let middle = y + group.bars.len() as f64 * (BAR + 2.0) / 2.0 + 4.0;
            let label = escaped(&group.label);
            let _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{middle:.1}\" text-anchor=\"end\">{label}</text>",
                LEFT - 10.0
            );
            for bar in &group.bars {
                let end = across(bar.value);
                let width = (end - LEFT).max(1.0);
                let fill = colour(bar.series);
                let _ = writeln!(
                    svg,
                    "<rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR}\" fill=\"{fill}\"/>"
                );
                let worst = bar.worst.map_or(end, &across);
                if worst > end {
                    let level = y + BAR / 2.0;
                    let _ = writeln!(
                        svg,
                        "<line x1=\"{end:.1}\" y1=\"{level:.1}\" x2=\"{worst:.1}\" y2=\"{level:.1}\" stroke=\"{fill}\" \
                         stroke-width=\"2\"/>"
                    );
                }
                let _ = writeln!(
                    svg,
                    "<text x=\"{:.1}\" y=\"{:.1}\" font-size=\"11\">{}</text>",
                    worst.max(end) + 6.0,
                    y + BAR - 3.0,
                    escaped(&bar.label)
                );
                y += BAR + 2.0;
            }
            y += GAP;
        }
        svg.push_str("</svg>\n");
        svg
    }
}

fn colour(series: usize) -> &'static str {
    COLOURS[series % COLOURS.len()]
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longer_values_have_longer_bars_and_text_is_escaped() {
        let bar = |value: f64| Bar { series: 0, value, worst: Some(value * 2.0), label: "a < b".to_owned() };
        let groups = vec![Group { label: "g".to_owned(), bars: vec![bar(1.0), bar(10.0), bar(100.0)] }];
        let chart =
            Chart { title: "t".to_owned(), axis: "ms".to_owned(), series: vec!["s".to_owned()], groups };
        let svg = chart.svg();
        let widths: Vec<f64> = svg
            .lines()
            .filter(|line| line.contains("height=\"14\""))
            .filter_map(|line| line.split("width=\"").nth(1)?.split('"').next()?.parse().ok())
            .collect();
        assert_eq!(widths.len(), 3);
        assert!(widths[0] < widths[1] && widths[1] < widths[2], "{widths:?}");
        assert!(svg.contains("a &lt; b") && !svg.contains("a < b"));
    }
}

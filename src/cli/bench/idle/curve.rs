//! The curves as an SVG picture: latency and CPU use over the window, a line for each think time.
//! It needs nothing besides itself, and follows the reader's choice of light or dark.

use std::fmt::Write;

use super::report::{Cell, Report};

const WIDTH: f64 = 1120.0;
const HEIGHT: f64 = 400.0;
/// A panel's part of the picture: from the top, and how high and wide.
const TOP: f64 = 96.0;
const PLOT_HEIGHT: f64 = 240.0;
const PLOT_WIDTH: f64 = 290.0;
/// Room at the left of each panel for its scale.
const LEFT: f64 = 64.0;

const STYLE: &str = "\
svg{--ground:#fff;--text:#1f2328;--faint:#d5d9de;font:12px system-ui,sans-serif;\
--c0:#0b62c4;--c1:#c2410c;--c2:#15803d;--c3:#a21caf;--c4:#92650a;--c5:#0e7490;background:var(--ground)}\
@media(prefers-color-scheme:dark){svg{--ground:#14171b;--text:#e3e6ea;--faint:#3a4048;\
--c0:#6cb1ff;--c1:#ff9a6b;--c2:#6fd58b;--c3:#e58df5;--c4:#e6bd5a;--c5:#5cc8dc}}\
text{fill:var(--text)}.title{font-size:15px;font-weight:600}.axis{stroke:var(--faint);fill:none}\
.end{text-anchor:end}.mid{text-anchor:middle}.small{font-size:10px}.line{fill:none;stroke-width:2}\
.s0{stroke:var(--c0)}.s1{stroke:var(--c1)}.s2{stroke:var(--c2)}\
.s3{stroke:var(--c3)}.s4{stroke:var(--c4)}.s5{stroke:var(--c5)}\
.d0{fill:var(--c0)}.d1{fill:var(--c1)}.d2{fill:var(--c2)}\
.d3{fill:var(--c3)}.d4{fill:var(--c4)}.d5{fill:var(--c5)}";

/// How many colours there are; further lines begin anew.
const COLOURS: usize = 6;

/// How values become heights.
enum Scale {
    /// Decades, from the first value to the second.
    Log(f64, f64),
    /// From 0 to this.
    Linear(f64),
}

impl Scale {
    /// A logarithmic one that has all values in it.
    fn around(values: impl Iterator<Item = f64> + Clone) -> Self {
        let least = values.clone().fold(f64::INFINITY, f64::min).max(0.1);
        let most = values.fold(0.0, f64::max).max(least * 2.0);
        let (least, most) = if least.is_finite() {
            (least, most)
        } else {
            (1.0, 10.0)
        };
        Scale::Log(round(least, false), round(most, true))
    }

    /// The height in the picture.
    fn y(&self, value: f64) -> f64 {
        let part = match self {
            Scale::Log(low, high) => (value.max(*low) / low).ln() / (high / low).ln(),
            Scale::Linear(high) => value / high,
        };
        TOP + PLOT_HEIGHT * (1.0 - part.clamp(0.0, 1.0))
    }

    /// Values to be named at the side.
    fn ticks(&self) -> Vec<f64> {
        match self {
            Scale::Linear(high) => (0..=4).map(|n| high * f64::from(n) / 4.0).collect(),
            Scale::Log(low, high) => {
                let within = |tick: &f64| (low * 0.999..=high * 1.001).contains(tick);
                let ticks = |steps: &[f64]| -> Vec<f64> {
                    let all = (-1..9).flat_map(|n| steps.iter().map(move |m| m * 10f64.powi(n)));
                    all.filter(within).collect()
                };
                // As many as can be read.
                let all = [&STEPS[..8], &[1.0, 2.0, 5.0], &[1.0]].map(ticks);
                let few = all.iter().find(|ticks| ticks.len() <= 8);
                few.or(all.last()).cloned().unwrap_or_default()
            }
        }
    }
}

/// Round numbers of a decade.
const STEPS: [f64; 9] = [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0];

/// The nearest round number that isn't below (`up`) or above.
fn round(value: f64, up: bool) -> f64 {
    let decade = 10f64.powf(value.log10().floor());
    let steps = STEPS.map(|step| step * decade);
    match up {
        true => steps.into_iter().find(|step| *step >= value * 0.999),
        false => steps.into_iter().rev().find(|step| *step <= value * 1.001),
    }
    .unwrap_or(value)
}

/// The picture.
pub fn draw(report: &Report) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         aria-label=\"Latency and CPU use over the window of halt polling\"><style>{STYLE}</style>\n\
         <text class=\"title\" x=\"16\" y=\"26\">A halted guest answers: latency and CPU use over the \
         window of halt polling</text>\n"
    );
    legend(&mut svg, report);
    let all = || report.cells.iter();
    let p50 = Scale::around(all().map(|cell| cell.latency_us.p50));
    let p99 = Scale::around(all().map(|cell| cell.latency_us.p99));
    let cpu = Scale::Linear(100.0);
    panel(&mut svg, report, 0, "p50, us", &p50, |cell| {
        cell.latency_us.p50
    });
    panel(&mut svg, report, 1, "p99, us", &p99, |cell| {
        cell.latency_us.p99
    });
    panel(
        &mut svg,
        report,
        2,
        "CPU of the vCPU's thread, %",
        &cpu,
        |cell| cell.cpu_percent,
    );
    svg += "</svg>\n";
    svg
}

fn legend(svg: &mut String, report: &Report) {
    let mut x = 16.0;
    let _ = writeln!(svg, "<text x=\"{x}\" y=\"52\">think time:</text>");
    x += 76.0;
    for (index, cells) in report.by_think().enumerate() {
        let (colour, think) = (index % COLOURS, cells[0].think_us);
        let _ = writeln!(
            svg,
            "<circle class=\"d{colour}\" cx=\"{x}\" cy=\"48\" r=\"4\"/>\
             <text x=\"{}\" y=\"52\">{think} us</text>",
            x + 9.0
        );
        x += 90.0;
    }
}

/// One diagram: the windows from left to right, `value` from bottom to top.
fn panel(
    svg: &mut String,
    report: &Report,
    index: usize,
    title: &str,
    scale: &Scale,
    value: impl Fn(&Cell) -> f64,
) {
    let left = LEFT + index as f64 * (PLOT_WIDTH + LEFT + 6.0);
    let right = left + PLOT_WIDTH;
    let bottom = TOP + PLOT_HEIGHT;
    let _ = writeln!(
        svg,
        "<text x=\"{left}\" y=\"{}\">{title}</text>",
        TOP - 14.0
    );
    for tick in scale.ticks() {
        let y = scale.y(tick);
        let _ = writeln!(
            svg,
            "<path class=\"axis\" d=\"M{left:.0} {y:.1}H{right:.0}\"/>\
             <text class=\"end\" x=\"{:.0}\" y=\"{:.1}\">{tick}</text>",
            left - 6.0,
            y + 4.0
        );
    }
    let windows = report.by_think().next().unwrap_or_default();
    let step = PLOT_WIDTH / windows.len().max(1) as f64;
    let x = |column: usize| left + step * (column as f64 + 0.5);
    for (column, cell) in windows.iter().enumerate() {
        let _ = writeln!(
            svg,
            "<text class=\"mid small\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            x(column),
            bottom + 18.0,
            cell.window
        );
    }
    let _ = writeln!(
        svg,
        "<text class=\"mid\" x=\"{:.1}\" y=\"{:.1}\">window</text>",
        f64::midpoint(left, right),
        bottom + 38.0
    );
    for (line, cells) in report.by_think().enumerate() {
        let colour = line % COLOURS;
        let points = cells.iter().enumerate();
        let points = points.map(|(column, cell)| (x(column), scale.y(value(cell)), cell));
        // The host's own window has no place on the way from off to the longest.
        let path = points.clone().filter(|(_, _, cell)| cell.window != "host");
        let path: Vec<_> = path.map(|(x, y, _)| format!("{x:.1},{y:.1}")).collect();
        let path = path.join(" ");
        let _ = writeln!(
            svg,
            "<polyline class=\"line s{colour}\" points=\"{path}\"/>"
        );
        for (x, y, cell) in points {
            let _ = writeln!(
                svg,
                "<circle class=\"d{colour}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\">\
                 <title>think {} us, window {}: {:.1}</title></circle>",
                cell.think_us,
                cell.window,
                value(cell)
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::*;

    #[test]
    fn each_value_has_its_point_within_the_picture() {
        let svg = draw(&report());
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        // Six cells in three panels, and two in the legend.
        assert_eq!(svg.matches("<circle").count(), 6 * 3 + 2);
        assert_eq!(svg.matches("<polyline").count(), 2 * 3);
        assert_eq!(
            svg.matches("<title>think 100 us, window 50us: 30.0")
                .count(),
            2 // p50 and p99
        );
        for (key, most) in [("cx=\"", WIDTH), ("cy=\"", HEIGHT)] {
            for part in svg.split(key).skip(1) {
                let at: f64 = part.split('"').next().unwrap().parse().unwrap();
                assert!((0.0..=most).contains(&at), "{key}{at}");
            }
        }
    }

    #[test]
    fn a_scale_has_all_values_between_round_ones() {
        let scale = Scale::around([3.0, 7.0, 130.0].into_iter());
        let ticks = scale.ticks();
        assert_eq!(ticks, [5.0, 10.0, 20.0, 50.0, 100.0]);
        assert_eq!(scale.y(3.0), TOP + PLOT_HEIGHT);
        assert_eq!(scale.y(150.0), TOP);
        for values in [vec![], vec![0.0], vec![5.0]] {
            let scale = Scale::around(values.into_iter());
            assert!(scale.ticks().len() > 1 && scale.y(5.0).is_finite());
        }
    }

    #[test]
    fn nothing_measured_is_drawn_too() {
        let mut report = report();
        report.cells.clear();
        let svg = draw(&report);
        assert!(!svg.contains("NaN"), "{svg}");
    }
}

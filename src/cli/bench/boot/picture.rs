//! The report's pictures, as SVG: phases as bars, values as histograms. Colours are the page's
//! (html.rs), so that they follow its light or dark scheme.

use std::fmt::Write;

use super::html::escape;
use super::quantile::{Quantile, Summary};
use crate::cli::bench::units::ms;

/// The width of all pictures, in SVG's units.
const WIDTH: f64 = 860.0;
/// Room beside the first and the last tick, for half of their numbers.
const EDGE: f64 = 32.0;
/// How many colours the page has for parts.
const COLOURS: usize = 10;

/// A part of a bar.
pub struct Part<'a> {
    pub name: &'a str,
    /// How long, in microseconds.
    pub us: f64,
    /// Which of the page's colours.
    pub colour: usize,
}

/// One bar whose parts are as wide as they take long; labels where there is room.
pub fn bar(label: &str, parts: &[Part]) -> String {
    const HEIGHT: f64 = 46.0;
    let total: f64 = parts.iter().map(|part| part.us).sum::<f64>().max(1.0);
    let mut svg = open(HEIGHT, label);
    let mut x = 0.0;
    for part in parts {
        let width = part.us / total * WIDTH;
        let (name, share) = (escape(part.name), part.us / total * 100.0);
        let time = ms(part.us);
        let _ = write!(
            svg,
            "<g class=\"part c{}\"><title>{name}: {time} ms, {share:.1} %</title>\
             <rect x=\"{x:.2}\" y=\"0\" width=\"{:.2}\" height=\"{HEIGHT}\"/>",
            part.colour % COLOURS,
            (width - 1.0).max(0.5),
        );
        let middle = x + width / 2.0;
        if width > 8.0 * (part.name.len() as f64 + 1.0) {
            let _ = write!(
                svg,
                "<text x=\"{middle:.2}\" y=\"20\">{name}</text><text x=\"{middle:.2}\" y=\"37\">{time} ms</text>"
            );
        }
        svg += "</g>";
        x += width;
    }
    svg + "</svg>"
}

/// Values to be shown above one another on one axis.
pub struct Row<'a> {
    pub label: String,
    pub values: &'a [u64],
    /// Which of the page's colours.
    pub colour: usize,
}

/// A histogram for each row, with its quantiles, on a common axis in milliseconds.
pub fn histograms(label: &str, rows: &[Row]) -> String {
    const ROW: f64 = 128.0;
    const BARS: f64 = 80.0;
    const TOP: f64 = 34.0;
    const BINS: usize = 60;
    let all: Vec<u64> = rows.iter().flat_map(|row| row.values).copied().collect();
    let (low, step, ticks) = axis(&all);
    let span = step * ticks as f64;
    let place = |us: f64| EDGE + (us - low) / span * (WIDTH - 2.0 * EDGE);
    let bottom = ROW * rows.len() as f64;
    let mut svg = open(bottom + 26.0, label);
    for tick in 0..=ticks {
        let us = low + step * tick as f64;
        let x = place(us);
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{bottom}\"/>\
             <text class=\"tick\" x=\"{x:.1}\" y=\"{:.1}\">{} ms</text>",
            bottom + 18.0,
            short_ms(us, step)
        );
    }
    for (index, row) in rows.iter().enumerate() {
        let top = ROW * index as f64;
        let base = top + TOP + BARS;
        let mut bins = [0u32; BINS];
        for us in row.values {
            let bin = (*us as f64 - low) / span * BINS as f64;
            bins[(bin as usize).min(BINS - 1)] += 1;
        }
        let most = f64::from(bins.iter().copied().max().unwrap_or(1).max(1));
        let width = (WIDTH - 2.0 * EDGE) / BINS as f64;
        let _ = write!(
            svg,
            "<text class=\"label\" x=\"{EDGE}\" y=\"{:.1}\">{}</text><g class=\"part c{}\">",
            top + 14.0,
            escape(&row.label),
            row.colour % COLOURS
        );
        for (bin, count) in bins.iter().enumerate().filter(|(_, count)| **count > 0) {
            let height = f64::from(*count) / most * BARS;
            let from = low + span * bin as f64 / BINS as f64;
            let _ = write!(
                svg,
                "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\"><title>{count} from {} to {} ms</title></rect>",
                place(from) + 0.5,
                base - height,
                width - 1.0,
                ms(from),
                ms(from + span / BINS as f64)
            );
        }
        let _ = write!(
            svg,
            "</g><line class=\"axis\" x1=\"{EDGE}\" x2=\"{:.1}\" y1=\"{base}\" y2=\"{base}\"/>",
            WIDTH - EDGE
        );
        svg += &marks(row.values, top + TOP, base, &place);
    }
    svg + "</svg>"
}

/// The quantiles of a row, each a line with its name above; names that would touch are left out,
/// the median's never.
fn marks(values: &[u64], top: f64, base: f64, place: &dyn Fn(f64) -> f64) -> String {
    const NAME: f64 = 78.0;
    let summary = Summary::of(values);
    let marks = [
        ("p50", summary.p50),
        ("p99", summary.p99),
        ("p90", summary.p90),
    ];
    let mut taken: Vec<f64> = Vec::new();
    let mut svg = String::new();
    for (name, us) in marks {
        let x = place(us);
        let _ = write!(
            svg,
            "<line class=\"mark\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top:.1}\" y2=\"{base:.1}\"><title>{name}: {} ms</title></line>",
            ms(us)
        );
        let middle = x.clamp(NAME / 2.0, WIDTH - NAME / 2.0);
        if taken.iter().all(|other| (other - middle).abs() > NAME) {
            let _ = write!(
                svg,
                "<text class=\"tick\" x=\"{middle:.1}\" y=\"{:.1}\">{name} {}</text>",
                top - 4.0,
                ms(us)
            );
            taken.push(middle);
        }
    }
    svg
}

/// One dot for each run, in their order: whether the times drift.
pub fn dots(label: &str, values: &[u64]) -> String {
    const HEIGHT: f64 = 150.0;
    let (low, step, ticks) = axis(values);
    let span = step * ticks as f64;
    let place = |us: f64| HEIGHT - 8.0 - (us - low) / span * (HEIGHT - 16.0);
    let mut svg = open(HEIGHT + 20.0, label);
    for tick in 0..=ticks {
        let us = low + step * tick as f64;
        let y = place(us);
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"64\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text class=\"tick end\" x=\"58\" y=\"{:.1}\">{} ms</text>",
            y + 4.0,
            short_ms(us, step)
        );
    }
    let room = (WIDTH - 84.0) / values.len().max(2).saturating_sub(1) as f64;
    svg += "<g class=\"part c0\">";
    for (run, us) in values.iter().enumerate() {
        let (x, y) = (74.0 + room * run as f64, place(*us as f64));
        let _ = write!(
            svg,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"><title>run {}: {} ms</title></circle>",
            run + 1,
            ms(*us as f64)
        );
    }
    let (first, last) = (1, values.len());
    let _ = write!(
        svg,
        "</g><text class=\"tick\" x=\"74\" y=\"{y}\">{first}</text>\
         <text class=\"tick end\" x=\"{WIDTH}\" y=\"{y}\">run {last}</text>",
        y = HEIGHT + 16.0
    );
    svg + "</svg>"
}

fn open(height: f64, label: &str) -> String {
    let label = escape(label);
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{label}\" xmlns=\"http://www.w3.org/2000/svg\">"
    )
}

/// A round start, a round step, and how many steps hold all values.
fn axis(values: &[u64]) -> (f64, f64, u32) {
    let of = |quantile: Quantile| quantile.of(&super::quantile::sorted(values));
    let (min, max) = match values.is_empty() {
        true => (0.0, 1.0),
        false => (of(Quantile::MIN), of(Quantile::MAX)),
    };
    let rough = ((max - min) / 6.0).max(min / 200.0).max(1.0);
    let mut power = 1.0;
    while power * 10.0 <= rough {
        power *= 10.0;
    }
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
    let step = steps
        .into_iter()
        .find(|step| *step >= rough)
        .unwrap_or(rough);
    let low = (min / step).floor() * step;
    let ticks = ((max - low) / step).floor() as u32 + 1;
    (low, step, ticks)
}

/// A tick's number, with no more digits than its step needs.
fn short_ms(us: f64, step: f64) -> String {
    let digits = match step {
        step if step >= 1000.0 => 0,
        step if step >= 100.0 => 1,
        step if step >= 10.0 => 2,
        _ => 3,
    };
    format!("{:.digits$}", us / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_is_round_and_holds_all() {
        for values in [
            &[][..],
            &[7],
            &[0, 0],
            &[40_000, 41_234],
            &[1, 1_000_000],
            &[500, 500, 501],
        ] {
            let (low, step, ticks) = axis(values);
            let high = low + step * f64::from(ticks);
            assert!((1..=14).contains(&ticks), "{values:?}: {ticks}");
            for value in values {
                assert!(low <= *value as f64 && *value as f64 <= high, "{values:?}");
            }
        }
    }

    #[test]
    fn a_bar_is_as_wide_as_its_parts_are_long() {
        let part = |name, us, colour| Part { name, us, colour };
        let svg = bar(
            "phases",
            &[part("a<b", 1000.0, 0), part("guest", 3000.0, 1)],
        );
        assert!(
            svg.contains("width=\"214.00\"") && svg.contains("width=\"644.00\""),
            "{svg}"
        );
        assert!(
            svg.contains("a&lt;b: 1.000 ms, 25.0 %") && !svg.contains("a<b"),
            "{svg}"
        );
    }

    #[test]
    fn every_value_is_in_a_histogram() {
        let values: Vec<u64> = (0..500).map(|n| 40_000 + n * n % 3001).collect();
        let row = |label: &str| Row {
            label: label.to_owned(),
            values: &values,
            colour: 0,
        };
        let svg = histograms("boots", &[row("mote"), row("other")]);
        let counts = svg.match_indices("<title>").filter_map(|(at, tag)| {
            let text = &svg[at + tag.len()..];
            text.split_once(" from ")
                .and_then(|(count, _)| count.parse::<usize>().ok())
        });
        assert_eq!(counts.sum::<usize>(), 1000);
        assert_eq!(dots("runs", &values).matches("<circle").count(), 500);
    }
}

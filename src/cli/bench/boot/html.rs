//! The figures as a page with pictures: one file, nothing loaded from elsewhere, light or dark as the
//! reader has it.

use super::picture::{self, Part, Row};
use super::quantile::Summary;
use super::report::Report;
use super::samples::{FIRST_RUN, SEEN, Series, is_part};
use super::text;

const STYLE: &str = include_str!("page.css");

/// The whole page; the baseline's boots are drawn beside the new ones.
pub fn page(report: &Report, baseline: Option<&Report>) -> String {
    let mut body = format!(
        "<h1>Boot time</h1><p class=\"under\">{}, taken {}</p>",
        escape(&text::title(report)),
        date(report.taken)
    );
    body += &headline(report);
    body += &gates(report);
    body += &phases(report);
    body += &distribution(report, baseline);
    body += &tables(report);
    let facts = text::facts(report);
    let facts = facts
        .iter()
        .map(|(what, value)| format!("<dt>{what}</dt><dd>{}</dd>", escape(value)));
    body += &format!(
        "<h2>Host and guest</h2><dl>{}</dl>",
        facts.collect::<String>()
    );
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>Boot time: mote {}</title>\
         <style>\n{STYLE}</style></head>\n<body><main>{body}</main></body></html>\n",
        escape(&report.mote)
    )
}

/// The figures that one looks for first.
fn headline(report: &Report) -> String {
    let mut cards = String::new();
    let mut card = |value: String, unit: &str, what: &str| {
        let (value, what) = (escape(&value), escape(what));
        cards += &format!(
            "<div class=\"card\"><b>{value}<small> {unit}</small></b><span>{what}</span></div>"
        );
    };
    if let Some(series) = report.phase(report.whole()) {
        let summary = series.summary();
        card(
            crate::cli::bench::units::ms(summary.p50),
            "ms",
            &format!("{} p50", series.name),
        );
        card(crate::cli::bench::units::ms(summary.p99), "ms", "p99");
    }
    if let Some(series) = report.phase(FIRST_RUN) {
        card(
            crate::cli::bench::units::ms(series.summary().p50),
            "ms",
            "of it mote's part, p50",
        );
    }
    if let Some(series) = report.count("exits") {
        card(
            format!("{}", series.summary().p50),
            "",
            "exits to user space, p50",
        );
    }
    if let Some(versus) = &report.versus {
        card(
            format!("{:.2}", versus.ratio),
            "×",
            "the other monitor's time, p50",
        );
    }
    format!("<div class=\"cards\">{cards}</div>")
}

fn gates(report: &Report) -> String {
    if report.gates.is_empty() {
        return String::new();
    }
    let row = |gate: &super::gate::Verdict| {
        let (class, word) = match gate.passed {
            true => ("passed", "✓ passed"),
            false => ("failed", "✗ failed"),
        };
        let (name, found) = (escape(&gate.gate), escape(&gate.found));
        format!(
            "<tr><td class=\"{class}\">{word}</td><td><code>{name}</code></td><td>{found}</td></tr>"
        )
    };
    let rows: String = report.gates.iter().map(row).collect();
    format!("<h2>Gates</h2><div class=\"wide\"><table class=\"words\">{rows}</table></div>")
}

/// The boot in its parts, and mote's part once more, in which the parts are too short to be seen.
fn phases(report: &Report) -> String {
    let middle = middle_half(report);
    let parts = text::seen_phases(report).filter(|series| is_part(&series.name));
    let parts: Vec<_> = parts
        .enumerate()
        .map(|(colour, series)| Part {
            name: &series.name,
            us: mean(series, &middle),
            colour,
        })
        .collect();
    // The guest's parts begin where mote's ends.
    let guests = ["first-run-", "init-"];
    let (guests, ours): (Vec<_>, Vec<_>) = parts
        .into_iter()
        .partition(|part| guests.iter().any(|start| part.name.starts_with(start)));
    let mut whole = vec![Part {
        name: "mote",
        us: ours.iter().map(|part| part.us).sum(),
        colour: 0,
    }];
    whole.extend(guests.into_iter().enumerate().map(|(index, part)| Part {
        colour: 8 + index,
        ..part
    }));
    let key = ours.iter().chain(&whole[1..]).map(|part| {
        let (name, time) = (escape(part.name), crate::cli::bench::units::ms(part.us));
        format!(
            "<li><i class=\"c{}\"></i><b>{name}</b> {time} ms <span>{}</span></li>",
            part.colour,
            escape(text::meaning(part.name))
        )
    });
    format!(
        "<h2>Where the time goes</h2><p>Above the whole boot, below mote's part of it: averages of the \
         middle half of the boots, {} of {}.</p>{}{}<ul class=\"key\">{}</ul>",
        middle.len(),
        report.plan.runs,
        picture::bar("The whole boot", &whole),
        picture::bar("mote's part", &ours),
        key.collect::<String>()
    )
}

/// Which runs were neither among the fastest nor among the slowest quarter. Averages of them add up,
/// which medians don't, and no stray boot is in them.
fn middle_half(report: &Report) -> Vec<usize> {
    let values = report
        .phase(report.whole())
        .map_or(&[][..], |series| &series.values);
    let mut runs: Vec<usize> = (0..values.len()).collect();
    runs.sort_unstable_by_key(|run| values[*run]);
    let quarter = runs.len() / 4;
    runs[quarter..runs.len() - quarter].to_vec()
}

fn mean(series: &Series, runs: &[usize]) -> f64 {
    let sum: f64 = runs.iter().map(|run| series.values[*run] as f64).sum();
    sum / runs.len().max(1) as f64
}

fn distribution(report: &Report, baseline: Option<&Report>) -> String {
    let whole = match &report.versus {
        Some(_) => SEEN,
        None => report.whole(),
    };
    let Some(series) = report.phase(whole) else {
        return String::new();
    };
    let mut rows = vec![Row {
        label: format!("mote, {} boots", series.values.len()),
        values: &series.values,
        colour: 0,
    }];
    if let Some(versus) = &report.versus {
        let name = super::monitor::short_name(&versus.command);
        rows.push(Row {
            label: format!("{name}, {} boots", versus.seen.values.len()),
            values: &versus.seen.values,
            colour: 8,
        });
    }
    if let Some(old) = baseline.and_then(|baseline| baseline.phase(whole)) {
        rows.push(Row {
            label: format!("the baseline, {} boots", old.values.len()),
            values: &old.values,
            colour: 9,
        });
    }
    let name = escape(whole);
    let versus = report.versus.as_ref().map_or_else(String::new, |versus| {
        let (ratio, command) = (escape(&text::ratio(versus)), escape(&versus.command));
        format!("<p>{ratio}.</p><p class=\"wide\"><code>{command}</code></p>")
    });
    format!(
        "<h2>How the times are spread</h2><p><b>{name}</b>: {}.</p>{versus}{}<h2>Run by run</h2>\
         <p>One dot for each of mote's boots, in their order: times that drift are the host's doing.</p>{}",
        escape(text::meaning(whole)),
        picture::histograms("How the times are spread", &rows),
        picture::dots("Times run by run", &series.values)
    )
}

fn tables(report: &Report) -> String {
    let head = |what: &str| {
        let names = Summary::NAMES.map(|name| format!("<th>{name}</th>"));
        format!("<tr><th>{what}</th>{}</tr>", names.concat())
    };
    let row = |name: &str, cells: [String; 5], more: &str| {
        let cells = cells.map(|cell| format!("<td>{cell}</td>"));
        let (name, more) = (escape(name), escape(more));
        let class = if is_part(name.as_str()) {
            ""
        } else {
            " class=\"total\""
        };
        format!(
            "<tr{class}><th title=\"{more}\">{name}</th>{}</tr>",
            cells.concat()
        )
    };
    let phases = text::seen_phases(report).map(|series| {
        row(
            &series.name,
            text::times(series),
            text::meaning(&series.name),
        )
    });
    let counts = text::seen_counts(report).map(|series| {
        let spread = if series.is_constant() {
            "the same in all runs"
        } else {
            ""
        };
        row(&series.name, text::numbers(series), spread)
    });
    let versus = report.versus.as_ref().map_or_else(String::new, |versus| {
        let rows = text::compared(report, versus).map(|(name, cells)| row(&name, cells, ""));
        format!(
            "<div class=\"wide\"><table>{}{}</table></div>",
            head("from start to marker, ms"),
            rows.concat()
        )
    });
    let uncounted = report.not_counted.as_ref().map_or_else(String::new, |why| {
        format!("<p>System calls were not counted: {}</p>", escape(why))
    });
    format!(
        "<h2>Figures</h2>{versus}<div class=\"wide\"><table>{}{}</table></div>\
         <div class=\"wide\"><table>{}{}</table></div>{uncounted}",
        head("times, ms"),
        phases.collect::<String>(),
        head("counts"),
        counts.collect::<String>()
    )
}

/// A moment as a date and a time, in UTC (civil_from_days, H. Hinnant, "chrono-Compatible Low-Level
/// Date Algorithms").
fn date(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, march) = (day - (153 * month + 2) / 5 + 1, month < 10);
    let month = if march { month + 3 } else { month - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    let (hour, minute) = (rest / 3600, rest / 60 % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

/// Text as HTML has it, in an element or in an attribute.
pub fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe += "&amp;",
            '<' => safe += "&lt;",
            '>' => safe += "&gt;",
            '"' => safe += "&quot;",
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::super::gate::Verdict;
    use super::super::report::tests::report;
    use super::*;

    #[test]
    fn a_page_is_one_file_with_all_that_was_found() {
        let mut new = report(&[5000, 6000], &[40_000, 50_000], &[42, 42]);
        new.host.cpu = "<b>\"CPU\" & more".to_owned();
        new.gates = vec![Verdict {
            gate: "--budget p95=40ms".to_owned(),
            passed: false,
            found: "exec-to-init p95 is 49.50 ms".to_owned(),
        }];
        let page = page(&new, Some(&report(&[5000], &[45_000], &[42])));
        for part in [
            "prefers-color-scheme: dark",
            "exec-to-init p50",
            "✗ failed",
            "&lt;b&gt;&quot;CPU&quot; &amp; more",
            "the baseline, 1 boots",
        ] {
            assert!(page.contains(part), "{part}");
        }
        // Nothing comes from elsewhere, and nothing runs.
        let links = page.matches("http").count();
        assert_eq!(links, page.matches("http://www.w3.org/2000/svg").count());
        for word in ["<script", "<link", "<img", "@import", "url("] {
            assert!(!page.contains(word), "{word}");
        }
        for tag in ["svg", "table", "div", "ul", "dl", "p", "g"] {
            let count = |text: &str| page.matches(text).count();
            let opened = count(&format!("<{tag}>")) + count(&format!("<{tag} "));
            assert_eq!(opened, count(&format!("</{tag}>")), "{tag}");
        }
    }

    #[test]
    fn a_date_is_the_calendar_s() {
        assert_eq!(date(0), "1970-01-01 00:00 UTC");
        assert_eq!(date(951_827_696), "2000-02-29 12:34 UTC");
        assert_eq!(date(1_767_225_599), "2025-12-31 23:59 UTC");
    }
}

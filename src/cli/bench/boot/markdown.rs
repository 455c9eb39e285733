//! The figures as Markdown, for a job's summary or a comment on a change.

use super::quantile::Summary;
use super::report::Report;
use super::text;

/// The whole report.
pub fn page(report: &Report) -> String {
    let mut page = format!("### {}\n\n", plain(&text::title(report)));
    if !report.gates.is_empty() {
        page += "| | gate | found |\n|---|---|---|\n";
        for gate in &report.gates {
            let word = if gate.passed { "ok" } else { "**failed**" };
            page += &format!(
                "| {word} | `{}` | {} |\n",
                code(&gate.gate),
                plain(&gate.found)
            );
        }
        page.push('\n');
    }
    if let Some(versus) = &report.versus {
        page += &format!("{}\n\n", plain(&text::ratio(versus)));
        page += &table("from start to marker, ms", text::compared(report, versus));
    }
    let phases = text::seen_phases(report).map(|series| (series.name.clone(), text::times(series)));
    page += &table("times, ms", phases);
    let counts =
        text::seen_counts(report).map(|series| (series.name.clone(), text::numbers(series)));
    page += &table("counts", counts);
    if let Some(why) = &report.not_counted {
        page += &format!("System calls were not counted: {}\n\n", plain(why));
    }
    for (what, value) in text::facts(report) {
        page += &format!("- {what}: {}\n", plain(&value));
    }
    page
}

fn table(title: &str, rows: impl IntoIterator<Item = (String, [String; 5])>) -> String {
    let mut table = format!("| {title} | {} |\n|---|", Summary::NAMES.join(" | "));
    table += &"--:|".repeat(Summary::NAMES.len());
    table.push('\n');
    for (name, cells) in rows {
        table += &format!("| {} | {} |\n", plain(&name), cells.join(" | "));
    }
    table.push('\n');
    table
}

/// Text that stays in its cell and is nothing but text: no link, no image, no emphasis.
fn plain(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' => safe.push(' '),
            '<' => safe += "&lt;",
            '&' => safe += "&amp;",
            '|' | '\\' | '`' | '*' | '[' | ']' => safe.extend(['\\', c]),
            c => safe.push(c),
        }
    }
    safe
}

/// Text between backticks, in a cell.
fn code(text: &str) -> String {
    let line = text.replace(['\n', '\r'], " ");
    line.replace('`', "'").replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::super::gate::Verdict;
    use super::super::report::tests::report;
    use super::*;

    #[test]
    fn tables_are_whole_whatever_is_in_them() {
        let mut report = report(&[5000, 6000], &[40_000, 50_000], &[42, 42]);
        report.gates = vec![Verdict {
            gate: "--budget a|b".to_owned(),
            passed: false,
            found: "<script>\nalert".to_owned(),
        }];
        report.host.cpu = "![x](//a/b.png) `*a* & \\".to_owned();
        let page = page(&report);
        assert!(
            page.contains("| **failed** | `--budget a\\|b` | &lt;script> alert |"),
            "{page}"
        );
        assert!(
            page.contains(r"!\[x\](//a/b.png) \`\*a\* &amp; \\"),
            "{page}"
        );
        assert!(page.contains("| exec-to-init | 40.00 | 45.00 |"), "{page}");
        for line in page.lines().filter(|line| line.starts_with("| exec")) {
            assert_eq!(line.matches('|').count(), 7, "{line}");
        }
    }
}

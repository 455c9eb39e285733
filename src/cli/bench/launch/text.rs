//! The figures as tables: for a terminal, and as Markdown.

use std::fmt::Write;

use motevm::footprint::{Amounts, size};

use super::Until;
use super::report::{LaunchReport, Spread};

/// Rows of cells, of which the first row is the head.
type Table = Vec<Vec<String>>;

/// For a terminal.
pub fn plain(report: &LaunchReport) -> String {
    written(report, |table| {
        let columns = table.first().map_or(0, Vec::len);
        let width = |column: usize| {
            let cells = table.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in table {
            let mut line = String::new();
            for (index, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let _ = match index {
                    0 => write!(line, "{cell:<width$}"),
                    _ => write!(line, "  {cell:>width$}"),
                };
            }
            text += line.trim_end();
            text.push('\n');
        }
        text
    })
}

/// For a page.
pub fn markdown(report: &LaunchReport) -> String {
    written(report, |table| {
        let mut text = String::new();
        for (index, row) in table.iter().enumerate() {
            let _ = writeln!(text, "| {} |", row.join(" | "));
            if index == 0 {
                let _ = writeln!(text, "|---|{}", "---:|".repeat(row.len() - 1));
            }
        }
        text
    })
}

fn written(report: &LaunchReport, table: impl Fn(&Table) -> String) -> String {
    let mut text = format!(
        "{} VMs, {} at a time, up in {:.2} s: {:.1} VMs per second\n\n",
        report.count, report.parallel, report.seconds, report.vms_per_second
    );
    text += &table(&times(report));
    let Some(memory) = &report.memory else {
        return text;
    };
    text += "\nMemory of one VM, the mean of all, when all were up:\n\n";
    let mut rows = vec![row([
        "",
        "resident",
        "private",
        "shared",
        "proportional",
        "huge pages",
    ])];
    let uses = memory.uses.iter().map(|of| (of.what.title(), &of.amounts));
    for (title, amounts) in uses.chain([("total", &memory.total)]) {
        rows.push(amounts_row(title, amounts));
    }
    text += &table(&rows);
    let Spread { mean, min, max, .. } = memory.private_besides_kib;
    let _ = writeln!(
        text,
        "\nPrivate besides the guest's pages: {} ({} to {}).",
        size(mean),
        size(min),
        size(max)
    );
    if let Some(kib) = memory.host_kib {
        let kib = u64::try_from(kib).unwrap_or(0);
        let _ = writeln!(
            text,
            "For each VM the host has {} less memory available, with what its kernel keeps for it.",
            size(kib)
        );
    }
    for note in &memory.notes {
        let _ = writeln!(text, "Note: {note}.");
    }
    text
}

fn times(report: &LaunchReport) -> Table {
    let up = match report.until {
        Until::Init => "start to init, seen from outside",
        Until::Run => "start to first KVM_RUN, seen from outside",
    };
    let mut rows = vec![row(["milliseconds", "min", "p50", "p90", "p99", "max"])];
    for (title, spread) in [
        ("exec to first KVM_RUN", report.exec_to_first_run_us),
        ("exec to init", report.exec_to_init_us),
        (up, report.start_to_up_us),
    ] {
        let Some(Spread {
            min,
            p50,
            p90,
            p99,
            max,
            ..
        }) = spread
        else {
            continue;
        };
        let mut cells = vec![title.to_owned()];
        let ms = |us: u64| format!("{:.1}", us as f64 / 1000.0);
        cells.extend([min, p50, p90, p99, max].map(ms));
        rows.push(cells);
    }
    rows
}

fn amounts_row(title: &str, amounts: &Amounts) -> Vec<String> {
    let cells = [
        amounts.in_memory_kib(),
        amounts.private_kib(),
        amounts.shared_kib(),
        amounts.proportional_kib,
        amounts.huge_kib(),
    ];
    let cells = cells.map(|kib| if kib == 0 { "-".to_owned() } else { size(kib) });
    [title.to_owned()].into_iter().chain(cells).collect()
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

//! The table for people, the short form for `--timings`, and the sentence.

use std::fmt::{self, Write};

use super::{Amounts, Footprint, Row, What};

/// A column of the table.
type Column = (&'static str, fn(&Amounts) -> u64);

const COLUMNS: [Column; 8] = [
    ("resident", Amounts::in_memory_kib),
    ("private", Amounts::private_kib),
    ("dirty", |a| a.private_dirty_kib),
    ("shared", Amounts::shared_kib),
    ("dirty", |a| a.shared_dirty_kib),
    ("proportional", |a| a.proportional_kib),
    ("huge pages", Amounts::huge_kib),
    ("swapped", |a| a.swap_kib),
];
/// How many columns are always there.
const ALWAYS: usize = 6;

/// A number of KiB, for people.
pub fn size(kib: u64) -> String {
    let mib = kib as f64 / 1024.0;
    match kib {
        0..10_240 => format!("{kib} KiB"),
        10_240..10_485_760 => format!("{mib:.1} MiB"),
        _ => format!("{:.1} GiB", mib / 1024.0),
    }
}

impl fmt::Display for Footprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let always = COLUMNS[..ALWAYS].iter();
        let used = COLUMNS[ALWAYS..]
            .iter()
            .filter(|(_, amount)| amount(&self.total) > 0);
        let columns: Vec<_> = always.chain(used).collect();
        let titles: Vec<_> = self.rows.iter().map(|row| self.title(row)).collect();
        let width = titles.iter().map(|title| title.chars().count()).max();
        let width = width.unwrap_or(0).max(5);
        let line = |f: &mut fmt::Formatter<'_>, title: &str, amounts: &Amounts| {
            let mut text = format!("{title:<width$}");
            for (name, amount) in &columns {
                let cell = match amount(amounts) {
                    0 => "-".to_owned(),
                    kib => size(kib),
                };
                let _ = write!(text, "  {cell:>0$}", name.len().max(9));
            }
            writeln!(f, "{text}")
        };
        let mut head = format!("{:<width$}", "");
        for (name, _) in &columns {
            let _ = write!(head, "  {name:>0$}", name.len().max(9));
        }
        writeln!(f, "{head}")?;
        for (row, title) in self.rows.iter().zip(&titles) {
            line(f, title, &row.amounts)?;
        }
        line(f, "total", &self.total)?;
        writeln!(f, "\n{}", self.sentence())?;
        for note in &self.notes {
            writeln!(f, "Note: {note}.")?;
        }
        Ok(())
    }
}

impl Footprint {
    /// What it costs, in words.
    pub fn sentence(&self) -> String {
        let who = match self.vms {
            0 => "This process runs no VM; it".to_owned(),
            1 => "This VM".to_owned(),
            n => format!("These {n} VMs together"),
        };
        let verb = if self.vms > 1 { "cost" } else { "costs" };
        let private = self.private_guest_kib + self.private_besides_kib;
        let mut text = format!(
            "{who} {verb} the host {} that no other process uses: {} of the guest's and {} besides.",
            size(private),
            size(self.private_guest_kib),
            size(self.private_besides_kib)
        );
        let shared = self.total.shared_kib();
        if shared > 0 {
            let part = self.total.proportional_kib;
            let part =
                part.saturating_sub(self.total.private_clean_kib + self.total.private_dirty_kib);
            let _ = write!(
                text,
                " It shares {} with others; its part of that is {}.",
                size(shared),
                size(part)
            );
        }
        if self.page_cache_kib > 0 {
            let _ = write!(
                text,
                " Of all this, {} are pages of files, which the host has in its page cache anyway.",
                size(self.page_cache_kib)
            );
        }
        text
    }

    /// The uses in one line, in KiB: resident, and in brackets what is private.
    pub fn short(&self) -> String {
        let mut parts = Vec::new();
        for what in What::ALL {
            let amounts = self.of_use(what);
            if amounts.in_memory_kib() > 0 {
                let (resident, private) = (amounts.in_memory_kib(), amounts.private_kib());
                parts.push(format!("{} {resident} ({private})", what.title()));
            }
        }
        parts.join(", ")
    }

    fn title(&self, row: &Row) -> String {
        let mut title = row.what.title().to_owned();
        if self.vms > 1 && row.vm > 0 {
            title = format!("VM {} {title}", row.vm);
        }
        match (&row.name, row.what) {
            (Some(name), What::Stack) => title + " of " + &printable(name),
            (Some(name), _) => title + " " + &printable(base_name(name)),
            (None, _) => title,
        }
    }
}

/// The last part of a path, with the kernel's remark on a file that is gone.
fn base_name(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

/// Another process's names go to a terminal: nothing but what can be seen, and not without end.
pub fn printable(name: &str) -> String {
    let shown = |c: char| if c.is_control() { '?' } else { c };
    name.chars().map(shown).take(48).collect()
}

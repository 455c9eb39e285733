//! The figures, for people as a table and for programs as JSON.

use std::fmt;
use std::time::Duration;

use motevm::config::HaltPoll;
use motevm::machine::Halts;
use serde::Serialize;

use super::measure::Sample;
use super::place::{HostFacts, Pressure, ratio, us};

/// All that was measured, and where.
#[derive(Debug, Serialize)]
pub struct Report {
    pub host: HostFacts,
    /// In how many turns each cell was measured.
    pub rounds: u32,
    /// The host's CPUs of the guest and of the asking thread, where they were given.
    pub pin: Option<[usize; 2]>,
    /// One for each window and think time, by think time.
    pub cells: Vec<Cell>,
}

/// The requests of one window and think time. Times are in microseconds.
#[derive(Debug, Serialize)]
pub struct Cell {
    pub window: String,
    pub think_us: f64,
    /// The pause as it was, on average.
    pub thought_us: f64,
    pub requests: u64,
    pub latency_us: Latency,
    /// Of the vCPU's thread, for each request.
    pub cpu_us: f64,
    /// Of the vCPU's thread, in the whole time.
    pub cpu_percent: f64,
    /// What KVM counted, where it does.
    pub halts: Option<Halts>,
}

/// From request to answer.
#[derive(Debug, Serialize)]
pub struct Latency {
    pub min: f64,
    pub mean: f64,
    pub p50: f64,
    pub p99: f64,
    #[serde(rename = "p99.9")]
    pub p99_9: f64,
    pub max: f64,
}

impl Cell {
    pub fn new(think: Duration, window: HaltPoll, sample: &Sample) -> Self {
        let requests = sample.latency.len();
        let at = |quantile| sample.latency.value_at_quantile(quantile) as f64 / 1000.0;
        Cell {
            window: window.to_string(),
            think_us: us(think),
            thought_us: ratio(us(sample.thought), requests as f64),
            requests,
            latency_us: Latency {
                min: sample.latency.min() as f64 / 1000.0,
                mean: sample.latency.mean() / 1000.0,
                p50: at(0.5),
                p99: at(0.99),
                p99_9: at(0.999),
                max: sample.latency.max() as f64 / 1000.0,
            },
            cpu_us: ratio(us(sample.cpu), requests as f64),
            cpu_percent: 100.0 * ratio(us(sample.cpu), us(sample.wall)),
            halts: sample.halts,
        }
    }
}

impl Report {
    pub fn new(
        cells: Vec<Cell>,
        rounds: u32,
        pin: Option<[usize; 2]>,
        pressure: &Pressure,
    ) -> Self {
        Report {
            host: HostFacts::read(pressure),
            rounds,
            pin,
            cells,
        }
    }

    /// The cells, by think time.
    pub fn by_think(&self) -> impl Iterator<Item = &[Cell]> {
        self.cells.chunk_by(|a, b| a.think_us == b.think_us)
    }

    /// Where this was measured, in a line.
    pub fn place(&self) -> String {
        let host = &self.host;
        let window = host.halt_poll_ns.map_or("unknown".to_owned(), |ns| {
            HaltPoll::Window(Duration::from_nanos(ns)).to_string()
        });
        let pin = self.pin.map_or("not pinned".to_owned(), |[guest, asker]| {
            format!("guest on CPU {guest}, asker on CPU {asker}")
        });
        format!(
            "Linux {}, {} ({} CPUs), {}; the host's own window: {window}; {pin}",
            host.kernel,
            host.cpu,
            host.cpus,
            match host.hardware {
                true => "KVM with hardware",
                false => "KVM without hardware: only comparisons within this table mean something",
            }
        )
    }

    /// What makes the figures worth less, if anything does.
    pub fn caveat(&self) -> Option<String> {
        let percent = self
            .host
            .pressure_percent
            .filter(|percent| *percent > BUSY)?;
        Some(format!(
            "other tasks waited for a CPU in {percent:.0} % of the time: KVM stops a poll as soon as one \
             does, so that windows do little here"
        ))
    }

    /// For each think time, what the best window brings and costs beside none.
    pub fn verdicts(&self) -> Vec<String> {
        self.by_think().filter_map(verdict).collect()
    }
}

/// With less pressure than this, polls are hardly disturbed: the guest and its asker cause some.
const BUSY: f64 = 20.0;

/// Fewer wake-ups than this that a poll saw are too few to change the median.
const SEEN: f64 = 0.1;

/// A gain of less than this is noise.
const WORTH: f64 = 0.9;

fn verdict(cells: &[Cell]) -> Option<String> {
    let off = cells.iter().find(|cell| cell.window == "off")?;
    let polled = cells
        .iter()
        .filter(|cell| !["off", "host"].contains(&&*cell.window));
    // Without a poll that saw a wake-up, what differs is chance.
    let polled = polled.filter(|cell| cell.halts.is_none_or(|h| h.share_in_time() > SEEN));
    let (think, before) = (off.think_us, off.latency_us.p50);
    let mut polled = polled.filter(|cell| cell.latency_us.p50 < WORTH * before);
    let least = polled
        .clone()
        .map(|cell| cell.latency_us.p50)
        .fold(f64::INFINITY, f64::min);
    // Of those that are as good, the first, as the shortest is where they are in order.
    let best = polled.find(|cell| cell.latency_us.p50 * WORTH < least);
    Some(match best {
        Some(best) => format!(
            "think {think} us: a window of {} answers in {:.1} us instead of {before:.1} (p50), \
             for {:.1} us of CPU a request instead of {:.1}",
            best.window, best.latency_us.p50, best.cpu_us, off.cpu_us
        ),
        None => {
            format!("think {think} us: no window answers sooner than none does ({before:.1} us)")
        }
    })
}

/// The columns of the table.
pub const COLUMNS: [&str; 9] = [
    "think us",
    "window",
    "p50 us",
    "p99 us",
    "p99.9 us",
    "CPU us",
    "CPU %",
    "in time %",
    "vain us",
];

/// What the columns mean.
pub const LEGEND: &str = "p50, p99, p99.9: from the request to the answer. CPU: of the vCPU's thread, for \
each request and of the whole time. In time: halts whose wake-up a poll of KVM's saw. Vain: CPU polled \
for nothing, for each halt.";

impl Cell {
    /// A line of the table.
    pub fn columns(&self) -> [String; 9] {
        let halts = self.halts.unwrap_or_default();
        let counted = |value: f64| self.halts.map_or("-".to_owned(), |_| format!("{value:.1}"));
        [
            format!("{}", self.think_us),
            self.window.clone(),
            format!("{:.1}", self.latency_us.p50),
            format!("{:.1}", self.latency_us.p99),
            format!("{:.1}", self.latency_us.p99_9),
            format!("{:.1}", self.cpu_us),
            format!("{:.1}", self.cpu_percent),
            counted(100.0 * halts.share_in_time()),
            counted(halts.vain_us()),
        ]
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "a halted guest answers; {}", self.place())?;
        let mut line = |columns: &[String]| {
            let line: String = columns.iter().map(|text| format!("{text:>11}")).collect();
            writeln!(f, "{}", line.trim_end())
        };
        line(&COLUMNS.map(str::to_owned))?;
        for cells in self.by_think() {
            cells.iter().try_for_each(|cell| line(&cell.columns()))?;
            line(&[])?;
        }
        for line in self.verdicts().into_iter().chain(self.caveat()) {
            writeln!(f, "{line}")?;
        }
        writeln!(f, "{LEGEND}")
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Two think times and three windows, each with its own answers.
    pub fn report() -> Report {
        let mut cells = Vec::new();
        for (think, fast) in [(0, 10), (100, 30)] {
            for (window, ns) in [("host", 30), ("off", 30), ("50us", fast)] {
                let mut sample = Sample::new();
                sample.latency.record_n(ns * 1000, 100).unwrap();
                sample.cpu = Duration::from_micros(ns * 50);
                sample.wall = Duration::from_micros(ns * 100);
                let think = Duration::from_micros(think);
                cells.push(Cell::new(think, window.parse().unwrap(), &sample));
            }
        }
        Report::new(cells, 2, Some([2, 3]), &Pressure::unknown())
    }

    #[test]
    fn the_table_has_each_cell_and_says_what_pays() {
        let report = report();
        let text = report.to_string();
        assert!(text.contains("guest on CPU 2, asker on CPU 3"), "{text}");
        let rows = text.lines().filter(|line| line.contains(" 50.0 "));
        assert_eq!(rows.count(), 6, "{text}");
        assert!(
            text.contains("a window of 50us answers in 10.0 us instead of 30.0"),
            "{text}"
        );
        assert!(
            text.contains("think 100 us: no window answers sooner"),
            "{text}"
        );
    }

    #[test]
    fn programs_find_the_figures_by_name() {
        let json = serde_json::to_value(report()).unwrap();
        let cell = &json["cells"][2];
        assert_eq!(cell["window"], "50us");
        assert_eq!(cell["requests"], 100);
        assert_eq!(cell["cpu_us"], 5.0);
        assert!(cell["latency_us"]["p99.9"].as_f64().unwrap() >= 10.0);
        assert!(cell["halts"].is_null());
    }

    #[test]
    fn a_window_in_which_no_poll_saw_anything_is_no_gain() {
        let mut report = report();
        let halts = |polls_in_time| {
            Some(Halts {
                halts: 100,
                polls_in_time,
                ..Halts::default()
            })
        };
        report.cells[2].halts = halts(90);
        assert!(report.verdicts()[0].contains("a window of 50us"));
        report.cells[2].halts = halts(1);
        assert!(report.verdicts()[0].contains("no window"));
    }

    #[test]
    fn a_busy_host_is_told() {
        let mut report = report();
        assert_eq!(report.caveat(), None);
        report.host.pressure_percent = Some(97.6);
        assert!(report.to_string().contains("waited for a CPU in 98 %"));
    }

    #[test]
    fn no_requests_are_no_division() {
        let cell = Cell::new(Duration::ZERO, HaltPoll::Host, &Sample::new());
        assert_eq!(
            (cell.cpu_us, cell.cpu_percent, cell.thought_us),
            (0.0, 0.0, 0.0)
        );
        assert!(cell.columns().iter().all(|text| !text.contains("NaN")));
    }
}

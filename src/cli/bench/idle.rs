//! `mote bench idle`: how soon a halted guest answers and what CPU time that takes, over windows of
//! halt polling and times between requests.

mod curve;
mod guest;
mod measure;
mod page;
mod place;
mod report;

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueHint};
use motevm::Host;
use motevm::config::HaltPoll;
use motevm::machine::has_windows;
use motevm::placement;

use self::guest::Guest;
use self::measure::{Asker, Sample};
use self::place::Pressure;
use self::report::{Cell, Report};
use crate::cli::bench::files;
use crate::cli::bench::progress::Progress;
use crate::cli::{CliError, Status, print};

/// Arguments of `mote bench idle`.
#[derive(Args, Debug)]
pub struct IdleArgs {
    /// Windows of halt polling: times, off or host
    #[arg(
        long,
        value_name = "TIMES",
        value_delimiter = ',',
        default_value = "host,off,10us,20us,50us,100us,200us,500us"
    )]
    windows: Vec<HaltPoll>,
    /// Times between an answer and the next request
    #[arg(
        long,
        value_name = "TIMES",
        value_delimiter = ',',
        default_value = "0us,10us,50us,100us,500us,1ms",
        value_parser = parse_think
    )]
    think: Vec<Duration>,
    /// Requests for each window and time, 1 to 10000000
    #[arg(long, value_name = "N", default_value_t = 2000,
        value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    requests: u32,
    /// In how many rounds, in each of which all windows have their turn, 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 10,
        value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// The host's CPU for the guest, and one for the asking thread
    #[arg(long, value_name = "GUEST,ASKER", value_parser = parse_pin)]
    pin: Option<[usize; 2]>,
    /// Write all figures as JSON; - is standard output, in place of the table, here and below
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    json: Option<PathBuf>,
    /// Draw the curves, as a picture of its own
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    svg: Option<PathBuf>,
    /// Curves and figures in one page
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    html: Option<PathBuf>,
}

/// The longest time between requests: nothing is learned from longer ones.
const MAX_THINK: Duration = Duration::from_secs(1);

/// Requests before each turn that don't count: KVM finds its window again.
const WARM_UP: u32 = 20;

/// Runs the benchmark.
pub fn run(args: &IdleArgs) -> Result<Status, CliError> {
    let outputs = [
        ("--json", &args.json),
        ("--svg", &args.svg),
        ("--html", &args.html),
    ];
    files::check(&outputs)?;
    let of_host = |e: &dyn std::fmt::Display| CliError::new(Status::Host, e);
    let host = Host::open().map_err(|e| of_host(&e))?;
    if !has_windows(&host) && args.windows.iter().any(|window| *window != HaltPoll::Host) {
        return Err(CliError::new(
            Status::Host,
            "--windows: this host's KVM has no window for each VM (KVM_CAP_HALT_POLL, Linux 5.9 and \
             later): --windows host measures the one that it has",
        ));
    }
    let [guest_cpu, asker_cpu] = args.pin.map_or([None; 2], |pin| pin.map(Some));
    if let Some(pin) = args.pin {
        check_pin(pin)?;
    }
    let asker = Asker::new(asker_cpu).map_err(|e| CliError::usage(format!("--pin: {e}")))?;
    let guests = args.windows.iter();
    let guests = guests.map(|window| Guest::start(&host, *window, guest_cpu));
    let guests = guests
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| of_host(&e))?;

    let thinks = args.think.len();
    let mut cells: Vec<_> = (0..thinks * guests.len()).map(|_| Sample::new()).collect();
    let total = args.rounds.saturating_mul(cells.len() as u32);
    let progress = Progress::of(total, "measurements");
    let pressure = Pressure::start();
    for round in 0..args.rounds {
        // What is left over is spread over the first rounds.
        let requests = args.requests / args.rounds;
        let requests = requests + u32::from(round < args.requests % args.rounds);
        for (index, sample) in cells.iter_mut().enumerate() {
            let (think, guest) = (args.think[index / guests.len()], index % guests.len());
            progress.say(format!("think {think:?}, window {}", args.windows[guest]));
            if requests > 0 {
                let asked = asker.ask(&guests[guest], think, WARM_UP, &mut Sample::new());
                let asked = asked.and_then(|()| asker.ask(&guests[guest], think, requests, sample));
                asked.map_err(|e| of_host(&e))?;
            }
            progress.step();
        }
    }
    drop(progress);
    drop(guests);

    let cells = cells.into_iter().enumerate().map(|(index, sample)| {
        let window = args.windows[index % args.windows.len()];
        Cell::new(args.think[index / args.windows.len()], window, &sample)
    });
    let report = Report::new(cells.collect(), args.rounds, args.pin, &pressure);
    let [json, svg, html] = outputs;
    files::write(json, || files::json(&report))?;
    files::write(svg, || Ok(curve::draw(&report)))?;
    files::write(html, || Ok(page::page(&report)))?;
    if !files::take_stdout(&outputs) {
        print("figures", |out| write!(out, "{report}"))?;
    }
    Ok(Status::Success)
}

/// Refuses CPUs that this process can't be on.
fn check_pin(pin: [usize; 2]) -> Result<(), CliError> {
    let allowed = placement::thread::current().map_err(|e| CliError::new(Status::Host, e))?;
    let is_allowed = |cpu: &usize| u16::try_from(*cpu).is_ok_and(|cpu| allowed.contains(cpu));
    match pin.iter().find(|cpu| !is_allowed(cpu)) {
        Some(cpu) => Err(CliError::usage(format!(
            "--pin {},{}: CPU {cpu} is offline, or not for this process, which has {allowed}",
            pin[0], pin[1]
        ))),
        None => Ok(()),
    }
}

fn parse_think(text: &str) -> Result<Duration, String> {
    let think = match text {
        "0" => Ok(Duration::ZERO),
        _ => humantime::parse_duration(text),
    };
    match think {
        Ok(think) if think <= MAX_THINK => Ok(think),
        Ok(_) => Err(format!("is too long; {MAX_THINK:?} is the most")),
        Err(_) => Err("must be times with their units, such as 0us,50us,1ms".to_owned()),
    }
}

fn parse_pin(text: &str) -> Result<[usize; 2], String> {
    let cpus = text.split(',').map(str::parse);
    let cpus: Result<Vec<usize>, _> = cpus.collect();
    let pair = cpus.ok().and_then(|cpus| cpus.try_into().ok());
    pair.ok_or_else(|| "must be two numbers of CPUs, such as 2,3".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units_and_cpus_are_two() {
        assert_eq!(parse_think("0"), Ok(Duration::ZERO));
        assert_eq!(parse_think("0us"), Ok(Duration::ZERO));
        assert_eq!(parse_think("1ms"), Ok(Duration::from_millis(1)));
        assert!(parse_think("5").is_err() && parse_think("2s").is_err());
        assert_eq!(parse_pin("2,3"), Ok([2, 3]));
        for text in ["", "2", "2,", "2,3,4", "a,b", "-1,2"] {
            assert!(parse_pin(text).is_err(), "{text}");
        }
    }
}

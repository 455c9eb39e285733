//! How long a container takes from `ctr run --rm` to its end, beside runc, in turn in the same run. It is printed; no test
//! fails for being slow.

use std::time::{Duration, Instant};

use crate::ctr::finish;
use crate::world::World;

const ROUNDS: usize = 5;

pub fn beside_runc(world: &World) {
    let runtimes = ["io.containerd.runc.v2".to_owned(), World::runtime()];
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..ROUNDS {
        for (runtime, times) in runtimes.iter().zip(&mut times) {
            let command = world.command_by(
                runtime,
                &["--rm"],
                &format!("time-{round}"),
                &["echo", "hello"],
            );
            let begin = Instant::now();
            assert_eq!(finish(command, &[]).success(), "hello\n");
            times.push(begin.elapsed());
        }
    }
    println!(
        "| ctr run --rm, {ROUNDS} times in turn | least | half | most |\n|---|---:|---:|---:|"
    );
    for (runtime, times) in runtimes.iter().zip(&mut times) {
        times.sort();
        let [least, half, most] = [0, ROUNDS / 2, ROUNDS - 1].map(|at| milliseconds(times[at]));
        println!("| {runtime} | {least} | {half} | {most} |");
    }
    // What it is made of, as the shim tells it.
    let log = world.daemon().log();
    for line in log
        .lines()
        .filter(|line| line.contains("time-") && line.contains(" ms for "))
    {
        println!("{line}");
    }
}

fn milliseconds(time: Duration) -> String {
    format!("{} ms", time.as_millis())
}

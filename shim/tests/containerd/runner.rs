//! What runs the tests: it chooses them by their names, and has each one looked at for what it left.

use std::any::Any;
use std::process::ExitCode;
use std::time::Instant;

use crate::Test;
use crate::place;
use crate::world::World;

/// Says that tests of `kind` can't run, and why; a failure where `MOTE_REQUIRE` names the kind.
pub fn not_run(kind: &str, test: &str, obstacle: &str) {
    let required = std::env::var("MOTE_REQUIRE").unwrap_or_default();
    let required = required.split(',').any(|word| word == kind);
    assert!(!required, "MOTE_REQUIRE={kind}, but {obstacle}");
    eprintln!("NOT RUN (kind {kind}): {test}: {obstacle}");
}

/// What is to be run, of cargo's usual arguments.
struct Chosen {
    words: Vec<String>,
    skip: Vec<String>,
    exact: bool,
    list: bool,
}

impl Chosen {
    fn from_arguments() -> Self {
        let (mut words, mut skip) = (Vec::new(), Vec::new());
        let (mut exact, mut list) = (false, false);
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--exact" => exact = true,
                "--list" => list = true,
                "--skip" => skip.extend(arguments.next()),
                "--test-threads" | "--format" | "--color" | "-Z" => drop(arguments.next()),
                option if option.starts_with('-') => {}
                _ => words.push(argument),
            }
        }
        Chosen {
            words,
            skip,
            exact,
            list,
        }
    }

    fn has(&self, name: &str) -> bool {
        let is = |word: &String| match self.exact {
            true => name == word,
            false => name.contains(word.as_str()),
        };
        (self.words.is_empty() || self.words.iter().any(is)) && !self.skip.iter().any(is)
    }
}

pub fn main(tests: &'static [Test]) -> ExitCode {
    let chosen = Chosen::from_arguments();
    let tests: Vec<_> = tests.iter().filter(|(name, _)| chosen.has(name)).collect();
    if chosen.list {
        tests.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    if let Some(obstacle) = place::obstacle() {
        for (name, _) in &tests {
            not_run("containerd", name, &obstacle);
        }
        println!("test result: ok. 0 passed; 0 failed");
        return ExitCode::SUCCESS;
    }
    if !place::is_inside() {
        return place::run_inside();
    }
    place::furnish();
    println!("\nrunning {} tests by {}", tests.len(), World::runtime());
    let mut world = World::start();
    let mut failed = Vec::new();
    for (name, test) in &tests {
        let begin = Instant::now();
        let run = || std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.judge(*test)));
        let result = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name((*name).to_owned());
            thread.spawn_scoped(scope, run).unwrap().join().unwrap()
        });
        let word = if result.is_ok() { "ok" } else { "FAILED" };
        println!(
            "test {name} ... {word} ({:.1} s)",
            begin.elapsed().as_secs_f32()
        );
        if let Err(reason) = result {
            failed.push(*name);
            println!("{}", text(&*reason));
            world.tell();
            world.start_over();
        }
    }
    world.end();
    let word = if failed.is_empty() { "ok" } else { "FAILED" };
    let passed = tests.len() - failed.len();
    println!(
        "\ntest result: {word}. {passed} passed; {} failed",
        failed.len()
    );
    failed.iter().for_each(|name| println!("    {name}"));
    ExitCode::from(u8::from(!failed.is_empty()))
}

fn text(reason: &(dyn Any + Send)) -> &str {
    let text = reason.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| reason.downcast_ref().copied())
        .unwrap_or("it panicked")
}

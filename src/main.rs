//! The `mote` command: parses its arguments, calls the subcommand, exits with its status.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    let exec = cli::exec_time::of_this_process();
    cli::main(exec)
}

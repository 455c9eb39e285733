//! The `mote` command: parses its arguments, calls the subcommand, exits with its status.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    let exec = cli::exec_time::of_this_process();
    one_malloc_arena();
    cli::main(exec)
}

/// Threads here allocate little and seldom: an arena for each would only cost address space and
/// four system calls per thread.
fn one_malloc_arena() {
    #[cfg(target_env = "gnu")]
    // SAFETY: called before any other thread exists.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

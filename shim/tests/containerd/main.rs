//! Containers that a real containerd starts by the shim: what its user sees of them, and what is left of them, which is
//! nothing. resources/containerd.sh gets containerd; where KVM can't run Linux, resources/on-kvm.sh runs this
//! (docs/testing.md).
//!
//! One containerd serves all tests, which come one after the other, in namespaces of their own. So this has a runner of
//! its own, which takes the arguments of cargo's usual one. `MOTE_TEST_RUNTIME=io.containerd.runc.v2` runs the same by
//! runc: what fails then, too, is not the shim's fault. `MOTE_TEST_ROOTFS=virtiofs` gives guests their root file systems
//! the other way, `MOTE_LONG=1` takes as many containers as a day has: 20 at once, 200 in a row.

mod counts;
mod cri;
mod ctr;
mod daemon;
mod events;
mod faults;
mod image;
mod many;
mod network;
mod output;
mod place;
mod pods;
#[path = "../../../tests/common/pty.rs"]
mod pty;
mod runner;
mod sandbox;
mod spec;
mod start_time;
mod task;
mod terminal;
mod throughput;
mod versions;
mod volumes;
mod world;

use std::process::ExitCode;

use world::World;

/// A test, by its name.
type Test = (&'static str, fn(&World));

macro_rules! tests {
    ($($module:ident: $($name:ident)*;)*) => {
        &[$($((concat!(stringify!($module), "::", stringify!($name)), $module::$name as fn(&World)),)*)*]
    };
}

/// All of them, the simplest first.
const TESTS: &[Test] = tests! {
    output: runc_runs_one_too says_hello_and_gives_its_status a_large_output_is_whole input_reaches_the_program
        errors_come_apart_from_output;
    task: a_second_program_runs_beside_the_first a_signal_reaches_the_program a_killed_program_has_a_status
        it_is_listed_and_measured it_stands_still_while_paused;
    spec: it_has_its_environment_folder_and_user it_has_a_hostname_of_its_own a_read_only_root_stays_as_it_is
        writes_end_with_the_container capabilities_are_containerds_default seccomp_forbids_what_it_names
        memory_is_limited hooks_run_on_the_host;
    volumes: a_volume_goes_both_ways a_read_only_volume_stays_as_it_is later_mounts_come_where_that_is_asked_for
        what_volumes_are_in_stays_as_it_is a_containers_own_disks_have_no_names;
    terminal: a_terminal_has_the_users_size_and_keys;
    network: it_runs_without_a_network it_reaches_the_bridge_and_is_reached;
    events: they_come_once_and_in_order;
    many: no_fast_exit_is_lost a_missing_program_is_named many_at_once many_in_a_row;
    faults: a_killed_monitor_is_an_exit a_guest_that_does_not_answer_is_ended a_killed_shim_leaves_nothing
        a_killed_shim_leaves_nothing_elsewhere containerd_finds_it_again;
    pods: a_pod_is_one_machine containers_end_one_by_one each_pod_has_its_size what_cannot_be_is_refused
        containerd_2_runs_one;
    versions: containerd_1_7_runs_it containerd_2_runs_it;
    start_time: beside_runc;
    throughput: beside_runc;
};

fn main() -> ExitCode {
    runner::main(TESTS)
}

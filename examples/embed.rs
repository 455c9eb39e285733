//! Embeds mote: several VMs in one process, each ended by its guest or by a time limit.
//!
//!     cargo run --example embed -- VMLINUX ROOTFS [HOW_MANY]
//!
//! The guests' consoles go to files; how each VM ended and how long it took to boot is printed.

use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use motevm::config::{Console, Disk};
use motevm::{BuildOptions, Host, VmConfig, build};

const TIME_LIMIT: Duration = Duration::from_secs(120);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(kernel), Some(rootfs)) = (arguments.next(), arguments.next()) else {
        return Err("usage: embed VMLINUX ROOTFS [HOW_MANY]".into());
    };
    let count = arguments.next().map_or(Ok(2), |count| count.parse())?;

    // One Host for the whole process: what it asked KVM, it remembers for all VMs.
    let host = Host::open()?;
    std::thread::scope(|scope| {
        for number in 0..count {
            let config = config(&kernel, &rootfs, number);
            let host = &host;
            scope.spawn(move || match run(host, &config) {
                Ok(told) => println!("VM {number}: {told}"),
                Err(error) => eprintln!("VM {number}: {error}"),
            });
        }
    });
    Ok(())
}

fn config(kernel: &str, rootfs: &str, number: u32) -> VmConfig {
    let mut config = VmConfig::default();
    config.boot.kernel = Some(kernel.into());
    config.boot.cmdline = Some("mote.demo".to_owned());
    config.rootfs = Some(Disk {
        read_only: true,
        ..Disk::at(rootfs)
    });
    let log: PathBuf = std::env::temp_dir().join(format!("mote-embed-{number}.log"));
    config.console = Console::File(log);
    config
}

fn run(host: &Host, config: &VmConfig) -> Result<String, Box<dyn std::error::Error>> {
    let mut vm = build(host, config, BuildOptions::default())?;
    // run() returns when the guest has ended; anyone with a Stopper can end it before.
    let stopper = vm.stopper();
    let (ended, watch) = mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        if watch.recv_timeout(TIME_LIMIT) == Err(mpsc::RecvTimeoutError::Timeout) {
            stopper.stop();
        }
    });
    let exit = vm.run()?;
    drop(ended);
    let _ = watchdog.join();
    let boot = vm
        .report()
        .exec_to_init_us
        .map_or("never".to_owned(), |us| format!("{us} us"));
    Ok(format!("{exit:?}, init reached after {boot}"))
}

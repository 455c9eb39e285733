//! Several VMs in one process, each driven from threads of its own: paused and resumed, asked how it is, and ended.
//!
//!     cargo run --example several -- VMLINUX ROOTFS [HOW_MANY]
//!
//! One thread runs each VM, another controls it. A program with an async runtime does the same by its
//! `spawn_blocking` (docs/embedding.md).

use std::thread;
use std::time::Duration;

use motevm::config::{Console, Disk, RateLimit, Size};
use motevm::{BuildOptions, Control, Exit, Host, VmConfig, build};

type Failed = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failed> {
    let mut arguments = std::env::args().skip(1);
    let (Some(kernel), Some(rootfs)) = (arguments.next(), arguments.next()) else {
        return Err("usage: several VMLINUX ROOTFS [HOW_MANY]".into());
    };
    let count = arguments
        .next()
        .map_or(Ok(2), |count| count.parse::<u32>())?;
    let host = Host::open()?;
    thread::scope(|scope| {
        for number in 0..count {
            let (host, config) = (&host, config(&kernel, &rootfs));
            scope.spawn(move || match live(host, &config) {
                Ok(exit) => println!("VM {number}: {exit:?}"),
                Err(error) => eprintln!("VM {number}: {error}"),
            });
        }
    });
    Ok(())
}

fn config(kernel: &str, rootfs: &str) -> VmConfig {
    let mut config = VmConfig {
        memory: Size::mib(128).into(),
        console: Console::None,
        rootfs: Some(Disk {
            read_only: true,
            ..Disk::at(rootfs)
        }),
        ..VmConfig::default()
    };
    config.boot.kernel = Some(kernel.into());
    // The guest does nothing, until it is ended.
    config.boot.cmdline = Some("mote.run=\"sleep 1000000\"".to_owned());
    config
}

/// The life of one VM: this thread runs it, and another one controls it.
fn live(host: &Host, config: &VmConfig) -> Result<Exit, Failed> {
    let mut vm = build(host, config, BuildOptions::default())?;
    let control = vm.control();
    let driver = thread::spawn(move || {
        let result = drive(&control);
        control.stop(); // also where something went wrong
        result
    });
    let exit = vm.run()?;
    driver.join().expect("the thread that controls the VM")?;
    Ok(exit)
}

fn drive(control: &Control) -> Result<(), Failed> {
    for _ in 0..10 {
        control.pause()?;
        control.resume()?;
    }
    thread::sleep(Duration::from_secs(1));
    control.set_drive_limits("vda", RateLimit::default())?;
    let metrics = control.metrics().render();
    let exits = metrics
        .lines()
        .filter(|line| line.starts_with("mote_vm_exits_total"));
    println!(
        "{:?}: {}",
        control.state(),
        exits.collect::<Vec<_>>().join(", ")
    );
    Ok(())
}

//! What the KVM tests share: a tiny assembler with a kernel file around its code, which each
//! architecture has its own of, and a VM of it.

use std::path::Path;
use std::time::Duration;

use motevm::config::{Console, VmConfig};
use motevm::{BuildOptions, Exit, Host, Vm, build};

mod kinds;

pub use kinds::can_run;

// The same names in each: `Code`, and where things are in its guests.
#[allow(dead_code)] // each test binary uses its own part
#[cfg_attr(target_arch = "x86_64", path = "x86_64.rs")]
#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
mod native;

#[allow(unused_imports)] // tests/linux has no tiny guests
pub use native::*;

/// How long a tiny guest and its monitor may take: the host may be slow, and have much else to do.
#[allow(dead_code)] // each test binary uses its own part
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The host, or `None` (said aloud) where tests with tiny guests can't run.
#[allow(dead_code)] // each test binary uses its own part
pub fn kvm() -> Option<Host> {
    match Host::open() {
        Ok(host) => Some(host),
        Err(e) => {
            can_run("kvm", Some(e.to_string()));
            None
        }
    }
}

/// Runs a guest that never ends by itself, and stops it soon after.
#[allow(dead_code)] // each test binary uses its own part
pub fn run_and_stop(vm: &mut Vm) -> Exit {
    let stopper = vm.stopper();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        stopper.stop();
    });
    let exit = vm.run().unwrap();
    thread.join().unwrap();
    exit
}

#[allow(dead_code)] // each test binary uses its own part
impl Code {
    /// One write to the serial port for each byte.
    pub fn print(self, text: &str) -> Self {
        text.bytes().fold(self, Code::print_one)
    }

    /// A kernel file of this code.
    pub fn kernel(&self) -> Vec<u8> {
        self.kernel_of_size(0)
    }

    /// A VM that runs this code; `folder` is for its files, and "out" there is its console.
    pub fn vm(&self, host: &Host, folder: &Path, change: impl FnOnce(&mut VmConfig)) -> Vm {
        let kernel = folder.join("kernel");
        std::fs::write(&kernel, self.kernel()).unwrap();
        let mut config = VmConfig {
            console: Console::File(folder.join("out")),
            ..Default::default()
        };
        config.boot.kernel = Some(kernel);
        change(&mut config);
        build(host, &config, BuildOptions::default()).unwrap()
    }
}

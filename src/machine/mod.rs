//! A whole VM: built by one linear recipe, then run until it ends.
//!
//! ```text
//! VmConfig -> build() -> Vm -> run() -> Exit        Control: pauses, changes, ends it from anywhere
//!                              report() -> Report   where the boot time went
//! ```

mod attach;
mod beside;
mod builder;
mod command_line;
mod confined;
mod console;
mod control;
mod dax;
mod devices;
mod ending;
mod error;
mod halts;
mod hint;
mod idle;
mod kvm_stats;
mod lifecycle;
mod mapped_kernel;
mod metrics;
mod notify;
mod pause;
mod placement;
mod report;
mod timings;
mod until;
mod usage;
mod vhost_user;
mod virtio;
mod vm;

pub use crate::devices::Button;
pub use beside::{Beside, BootTimes, Reach};
pub use builder::{BuildOptions, build};
pub use console::ConsoleResizer;
pub use control::{Control, ControlError, Medium};
pub(crate) use devices::drive_name;
pub use ending::Exit;
pub use error::{BuildError, Fault};
pub use halts::Halts;
pub use idle::{IdleError, has_windows, set_window};
pub use kvm_stats::{KvmReport, Values};
pub use lifecycle::State;
pub use notify::Notify;
pub use report::Report;
pub use timings::{Counts, DeviceCount, Phase, Timeline};
pub use until::Until;
pub use usage::Usage;
pub use vm::{RunError, Stopper, Vm};

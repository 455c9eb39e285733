//! What requests and answers of Firecracker's v1 API have in them: one file per part. Fields that are not
//! known are refused by name. resources/api/openapi.yaml says the same to other programs.

mod balloon;
mod boot;
mod drive;
mod instance;
mod machine;
mod network;
mod others;
mod own;
mod rate;
mod whole;

pub use balloon::{Balloon, BalloonStats, BalloonUpdate, StatsUpdate};
pub use boot::BootSource;
pub use drive::{CacheType, Drive, IoEngine, PartialDrive};
pub use instance::{Action, ActionType, InstanceInfo, InstanceState, Version, VmState, VmUpdate};
pub use machine::{HugePages, MachineConfiguration, MachineUpdate};
pub use network::{NetworkInterface, PartialNetworkInterface};
pub use others::{Entropy, Logger, Metrics, PartialPmem, Pmem, Serial, Vsock};
pub use own::{Boot, Ended, LinkUpdate, Named, State};
pub use rate::{RateLimiter, TokenBucket};
pub use whole::Whole;

//! `api-client COMMAND SOCKET KERNEL DRIVE`: has COMMAND started, creates a VM, boots, pauses, resumes, changes and
//! stops it, all by the crate `firecracker`.

use std::num::NonZeroU64;
use std::time::Duration;

use firecracker::sdk::types::*;
use firecracker::sdk::FirecrackerProcessBuilder;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [command, socket, kernel, drive] = &arguments[..] else {
        return Err("usage: api-client COMMAND SOCKET KERNEL DRIVE".into());
    };
    let process = FirecrackerProcessBuilder::new(command, socket)
        .id("from-rust")
        .socket_timeout(Duration::from_secs(60))
        .spawn()
        .await?;
    let vm = process
        .vm_builder()
        .boot_source(BootSource {
            kernel_image_path: kernel.clone(),
            boot_args: Some("console=ttyS0 reboot=k panic=1".into()),
            initrd_path: None,
        })
        .machine_config(MachineConfiguration {
            vcpu_count: NonZeroU64::new(1).ok_or("one")?,
            mem_size_mib: 64,
            smt: false,
            track_dirty_pages: false,
            cpu_template: None,
            huge_pages: None,
        })
        .drive(Drive {
            drive_id: "data".into(),
            path_on_host: Some(drive.clone()),
            is_root_device: false,
            is_read_only: Some(true),
            cache_type: DriveCacheType::Unsafe,
            io_engine: DriveIoEngine::Sync,
            partuuid: None,
            rate_limiter: None,
            socket: None,
        })
        .balloon(Balloon {
            amount_mib: 0,
            deflate_on_oom: true,
            stats_polling_interval_s: Some(1),
            free_page_hinting: None,
            free_page_reporting: None,
        })
        .start()
        .await?;
    let info = vm.describe().await?;
    assert_eq!((info.id.as_str(), info.state), ("from-rust", InstanceInfoState::Running));
    println!("version {}", vm.version().await?.firecracker_version);
    vm.pause().await?;
    assert_eq!(vm.describe().await?.state, InstanceInfoState::Paused);
    vm.resume().await?;
    assert_eq!(vm.describe().await?.state, InstanceInfoState::Running);
    vm.update_balloon(8).await?;
    assert_eq!(vm.balloon_config().await?.amount_mib, 8);
    assert_eq!(vm.balloon_stats().await?.target_mib, 8);
    let update = PartialDrive {
        drive_id: "data".into(),
        path_on_host: Some(drive.clone()),
        rate_limiter: Some(RateLimiter {
            bandwidth: None,
            ops: Some(TokenBucket { size: 100, refill_time: 1000, one_time_burst: None }),
        }),
    };
    vm.update_drive("data", update).await?;
    let config = vm.config().await?;
    assert_eq!(config.drives.len(), 1);
    assert_eq!(vm.machine_configuration().await?.mem_size_mib, 64);
    // What mote hasn't is an error, by the client's own notion of one.
    let refused = vm.create_snapshot("/tmp/snapshot", "/tmp/memory").await;
    println!("snapshot: {}", refused.err().ok_or("a snapshot was made")?);
    drop(process); // which kills it
    println!("done");
    Ok(())
}

//! What the API shows of a VM that was described by options or a file. It has no words for some of it, such as
//! folders or the placement of threads: `GET /mote/v1/config` has all.

use super::limits::limiter;
use crate::api::model::{
    Balloon, BootSource, CacheType, Drive, Entropy, HugePages, IoEngine, MachineConfiguration,
    Metrics, NetworkInterface, Pmem, Serial, Vsock, Whole,
};
use crate::config::{self, Cache, Console, Disk, Engine, Net, RateLimit, Rng, VmConfig};

/// The same VM in the API's words. A drive is called by its `id=`, `rootfs`, or as the guest calls it.
pub fn whole(config: &VmConfig) -> Whole {
    let mut whole = Whole {
        boot_source: config.boot.kernel.clone().map(|kernel| BootSource {
            kernel_image_path: kernel,
            initrd_path: config.boot.initrd.clone(),
            boot_args: config.boot.cmdline.clone(),
        }),
        machine_config: machine(config),
        balloon: config.balloon.as_ref().map(balloon),
        entropy: (config.rng == Rng::On).then(Entropy::default),
        ..Whole::default()
    };
    for (index, disk) in config.drives().enumerate() {
        let is_root = index == 0 && config.rootfs.is_some();
        let root = || is_root.then(|| "rootfs".to_owned());
        if disk.dax {
            let name = || format!("pmem{}", whole.pmem.len());
            let id = root().unwrap_or_else(name);
            whole.pmem.push(pmem(disk, id, is_root));
        } else {
            let name = || crate::machine::drive_name(whole.drives.len());
            let id = disk.id.clone().or_else(root).unwrap_or_else(name);
            whole.drives.push(drive(disk, id, is_root));
        }
    }
    for (index, net) in config.nets.iter().enumerate() {
        whole.network_interfaces.push(network(net, index));
    }
    if let Some(vsock) = &config.vsock {
        whole.vsock = vsock.socket.clone().map(|socket| Vsock {
            guest_cid: vsock.cid,
            uds_path: socket,
            vsock_id: None,
        });
    }
    if let Console::File(path) = &config.console {
        whole.serial = Some(Serial {
            serial_out_path: Some(path.clone()),
            rate_limiter: None,
        });
    }
    let file = config
        .metrics
        .as_ref()
        .and_then(|metrics| metrics.file.clone());
    whole.metrics = file.map(|metrics_path| Metrics { metrics_path });
    whole
}

fn machine(config: &VmConfig) -> MachineConfiguration {
    MachineConfiguration {
        vcpu_count: config.cpus.0,
        mem_size_mib: config.memory.size.bytes() >> 20,
        huge_pages: match config.memory.hugepages {
            Some(config::HugePages::Size2M) => HugePages::Size2M,
            // There is no word for those of 1 GiB.
            Some(config::HugePages::Size1G) | None => HugePages::None,
        },
        ..MachineConfiguration::default()
    }
}

fn balloon(balloon: &config::Balloon) -> Balloon {
    Balloon {
        amount_mib: balloon.size.bytes() >> 20,
        deflate_on_oom: balloon.deflate_on_oom,
        stats_polling_interval_s: balloon.stats.unwrap_or_default(),
        free_page_hinting: false,
        free_page_reporting: balloon.free_page_reporting,
    }
}

fn drive(disk: &Disk, drive_id: String, is_root_device: bool) -> Drive {
    let own = disk.vhost_user.is_none();
    let limit = disk.rate_limit().unwrap_or_default();
    Drive {
        drive_id,
        is_root_device,
        partuuid: None,
        cache_type: match disk.cache {
            Cache::Unsafe => CacheType::Unsafe,
            Cache::Writeback | Cache::None => CacheType::Writeback,
        },
        is_read_only: own.then_some(disk.read_only),
        path_on_host: own.then(|| disk.path.clone()),
        rate_limiter: limiter(&limit),
        io_engine: own.then_some(match disk.engine {
            Engine::Threads => IoEngine::Sync,
            Engine::IoUring => IoEngine::Async,
        }),
        socket: disk.vhost_user.clone(),
    }
}

fn pmem(disk: &Disk, id: String, root_device: bool) -> Pmem {
    Pmem {
        id,
        path_on_host: disk.path.clone(),
        root_device,
        read_only: disk.read_only,
        rate_limiter: None,
    }
}

fn network(net: &Net, index: usize) -> NetworkInterface {
    let [rx, tx] = net.limits().unwrap_or([RateLimit::default(); 2]);
    let name = || match (&net.fd, &net.vhost_user) {
        (Some(fd), _) => format!("fd={fd}"),
        (None, Some(socket)) => socket.display().to_string(),
        (None, None) => "user".to_owned(),
    };
    NetworkInterface {
        iface_id: format!("net{index}"),
        host_dev_name: net.tap.clone().unwrap_or_else(name),
        guest_mac: net.mac.map(|mac| mac.to_string()),
        mtu: net.mtu,
        rx_rate_limiter: limiter(&rx),
        tx_rate_limiter: limiter(&tx),
    }
}

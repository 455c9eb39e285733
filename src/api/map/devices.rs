//! Devices of the API as those of a configuration.

use crate::api::fault::Fault;
use crate::api::map::rate_limit;
use crate::api::model::{self, CacheType, IoEngine, NetworkInterface};
use crate::config::{Balloon, Cache, Disk, Engine, Net, Rate, Size};

/// The most bytes of a serial number (virtio 1.3 §5.2.6).
const SERIAL_NUMBER: usize = 20;

pub(super) fn drive(drive: &model::Drive) -> Result<Disk, Fault> {
    if drive.partuuid.is_some() && !drive.is_root_device {
        let why = "is of the root file system; leave it out, or set is_root_device";
        return Err(Fault::field("partuuid", why));
    }
    if let Some(socket) = &drive.socket {
        let not_ours = [
            ("path_on_host", drive.path_on_host.is_some()),
            ("is_read_only", drive.is_read_only.is_some()),
            ("rate_limiter", drive.rate_limiter.is_some()),
            ("io_engine", drive.io_engine.is_some()),
        ];
        return match not_ours.iter().find(|(_, given)| *given) {
            Some((field, _)) => {
                let why = "is the back-end's to say, with socket; leave one of them out";
                Err(Fault::field(field, why))
            }
            None => Ok(Disk {
                vhost_user: Some(socket.clone()),
                ..Disk::default()
            }),
        };
    }
    let Some(path) = &drive.path_on_host else {
        return Err(Fault::field("path_on_host", "is missing; or give a socket"));
    };
    let (ops, bytes) = split(drive.rate_limiter.as_ref())?;
    Ok(Disk {
        read_only: drive.is_read_only.unwrap_or_default(),
        id: (drive.drive_id.len() <= SERIAL_NUMBER).then(|| drive.drive_id.clone()),
        cache: match drive.cache_type {
            CacheType::Unsafe => Cache::Unsafe,
            CacheType::Writeback => Cache::Writeback,
        },
        engine: match drive.io_engine {
            Some(IoEngine::Async) => Engine::IoUring,
            Some(IoEngine::Sync) | None => Engine::Threads,
        },
        iops: ops.map(|rate| rate.per_second),
        iops_burst: ops.map(|rate| rate.burst),
        bw: bytes.map(|rate| Size::new(rate.per_second)),
        bw_burst: bytes.map(|rate| Size::new(rate.burst)),
        ..Disk::at(path)
    })
}

pub(super) fn pmem(pmem: &model::Pmem) -> Result<Disk, Fault> {
    if pmem.rate_limiter.is_some() {
        let why = "what the guest maps has no requests that could be limited; leave it out";
        return Err(Fault::field("rate_limiter", why));
    }
    Ok(Disk {
        dax: true,
        read_only: pmem.read_only,
        ..Disk::at(&pmem.path_on_host)
    })
}

pub(super) fn network(net: &NetworkInterface) -> Result<Net, Fault> {
    let mac = net.guest_mac.as_deref().map(str::parse).transpose();
    let (rx_ops, rx_bytes) = split(net.rx_rate_limiter.as_ref())?;
    let (tx_ops, tx_bytes) = split(net.tx_rate_limiter.as_ref())?;
    let size = |bytes: u64| Size::new(bytes);
    Ok(Net {
        tap: Some(net.host_dev_name.clone()),
        mac: mac.map_err(|why| Fault::field("guest_mac", why))?,
        mtu: net.mtu,
        rx_bw: rx_bytes.map(|rate| size(rate.per_second)),
        rx_bw_burst: rx_bytes.map(|rate| size(rate.burst)),
        rx_pps: rx_ops.map(|rate| rate.per_second),
        rx_pps_burst: rx_ops.map(|rate| rate.burst),
        tx_bw: tx_bytes.map(|rate| size(rate.per_second)),
        tx_bw_burst: tx_bytes.map(|rate| size(rate.burst)),
        tx_pps: tx_ops.map(|rate| rate.per_second),
        tx_pps_burst: tx_ops.map(|rate| rate.burst),
        ..Net::default()
    })
}

fn split(limiter: Option<&model::RateLimiter>) -> Result<(Option<Rate>, Option<Rate>), Fault> {
    let limit = rate_limit(limiter)?;
    Ok((limit.ops, limit.bytes))
}

pub(super) fn balloon(balloon: &model::Balloon) -> Result<Balloon, Fault> {
    if balloon.free_page_hinting {
        let why = "mote doesn't ask for free pages; free_page_reporting has the guest tell of them";
        return Err(Fault::field("free_page_hinting", why));
    }
    let bytes = balloon.amount_mib.checked_mul(1 << 20);
    Ok(Balloon {
        size: Size::new(bytes.ok_or_else(|| Fault::field("amount_mib", "is too much"))?),
        deflate_on_oom: balloon.deflate_on_oom,
        stats: Some(balloon.stats_polling_interval_s).filter(|seconds| *seconds > 0),
        free_page_reporting: balloon.free_page_reporting,
    })
}

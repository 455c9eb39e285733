//! What is asked of a VM that runs.

use serde_json::{Map, Value};

use super::check_name;
use crate::api::desk::Papers;
use crate::api::fault::Fault;
use crate::api::http::Answer;
use crate::api::map::rate_limit;
use crate::api::model::{
    BalloonStats, BalloonUpdate, Named, PartialDrive, PartialNetworkInterface, PartialPmem,
    RateLimiter, StatsUpdate, VmState, VmUpdate,
};
use crate::config::Size;
use crate::devices::virtio::balloon::GuestStats;
use crate::machine::{Button, ControlError};

type Result<T = Answer> = std::result::Result<T, Fault>;

pub fn patch_vm(papers: &Papers, update: VmUpdate) -> Result {
    let control = &papers.vm("vm")?.control;
    match update.state {
        VmState::Paused => control.pause()?,
        VmState::Resumed => control.resume()?,
    }
    Ok(Answer::done())
}

pub fn press(papers: &Papers) -> Result {
    let control = &papers.vm("SendCtrlAltDel")?.control;
    control.press(Button::CtrlAltDel)?;
    Ok(Answer::done())
}

pub fn flush_metrics(papers: &Papers) -> Result {
    let vm = papers.vm("FlushMetrics")?;
    match vm.flush_metrics() {
        true => Ok(Answer::done()),
        false => Err(Fault::field(
            "action_type",
            "the VM has no metrics_path; PUT /metrics before its start",
        )),
    }
}

pub fn patch_drive(papers: &mut Papers, id: &str, update: PartialDrive) -> Result {
    check_name(id, &update.drive_id)?;
    let control = papers.vm("drives")?.control.clone();
    let device = find(papers.drives(&control), "drive", id)?;
    let all = &mut papers.whole.drives;
    let drive = all.iter_mut().find(|drive| drive.drive_id == id);
    let drive = drive.ok_or_else(|| no_device("drive", id))?;
    let limiter = updated(drive.rate_limiter.as_ref(), update.rate_limiter.as_ref());
    let limit = limiter.as_ref().map(|limiter| rate_limit(Some(limiter)));
    let limit = limit.transpose()?;
    if let Some(path) = update.path_on_host {
        control.replace_drive(&device, path.clone())?;
        drive.path_on_host = Some(path);
    }
    if let Some(limit) = limit {
        control.set_drive_limits(&device, limit)?;
        drive.rate_limiter = limiter;
    }
    Ok(Answer::done())
}

pub fn patch_pmem(papers: &Papers, id: &str, update: PartialPmem) -> Result {
    check_name(id, &update.id)?;
    papers.vm("pmem")?;
    let why = "what the guest maps has no requests that could be limited";
    Err(Fault::field("rate_limiter", why))
}

pub fn patch_network(papers: &mut Papers, id: &str, update: PartialNetworkInterface) -> Result {
    check_name(id, &update.iface_id)?;
    let control = papers.vm("network-interfaces")?.control.clone();
    let device = find(papers.networks(&control), "network interface", id)?;
    let all = &mut papers.whole.network_interfaces;
    let net = all.iter_mut().find(|net| net.iface_id == id);
    let net = net.ok_or_else(|| no_device("network interface", id))?;
    let rx = updated(
        net.rx_rate_limiter.as_ref(),
        update.rx_rate_limiter.as_ref(),
    );
    let tx = updated(
        net.tx_rate_limiter.as_ref(),
        update.tx_rate_limiter.as_ref(),
    );
    let limit = |limiter: &Option<RateLimiter>| {
        let limit = limiter.as_ref().map(|limiter| rate_limit(Some(limiter)));
        limit.transpose()
    };
    control.set_net_limits(&device, limit(&rx)?, limit(&tx)?)?;
    net.rx_rate_limiter = rx.or(net.rx_rate_limiter.take());
    net.tx_rate_limiter = tx.or(net.tx_rate_limiter.take());
    Ok(Answer::done())
}

/// What a limiter is to be, if anything is said of it.
fn updated(now: Option<&RateLimiter>, update: Option<&RateLimiter>) -> Option<RateLimiter> {
    let now = now.cloned().unwrap_or_default();
    update.map(|update| now.updated(update))
}

pub fn get_balloon(papers: &Papers) -> Result {
    let balloon = papers.whole.balloon.as_ref();
    balloon
        .map(Answer::of)
        .ok_or_else(|| no_device("balloon", "balloon"))
}

pub fn patch_balloon(papers: &mut Papers, update: BalloonUpdate) -> Result {
    let Some(mut balloon) = papers.whole.balloon.clone() else {
        return Err(no_device("balloon", "balloon"));
    };
    balloon.amount_mib = update.amount_mib;
    match papers.vm("balloon") {
        Ok(vm) => {
            let handle = vm.control.balloon();
            let handle = handle.ok_or_else(|| no_device("balloon", "balloon"))?;
            let bytes = update.amount_mib.checked_mul(1 << 20);
            let bytes = bytes.ok_or_else(|| Fault::field("amount_mib", "is too much"))?;
            handle
                .set_target(Size::new(bytes))
                .map_err(ControlError::from)?;
            papers.whole.balloon = Some(balloon);
            Ok(Answer::done())
        }
        Err(_) => super::before::put_balloon(papers, balloon),
    }
}

pub fn patch_statistics(papers: &mut Papers, update: StatsUpdate) -> Result {
    let Some(mut balloon) = papers.whole.balloon.clone() else {
        return Err(no_device("balloon", "balloon"));
    };
    if papers.vm("balloon").is_ok() {
        let why = "the interval of a VM that runs stays as it was at its start";
        return Err(Fault::field("stats_polling_interval_s", why));
    }
    balloon.stats_polling_interval_s = update.stats_polling_interval_s;
    super::before::put_balloon(papers, balloon)
}

pub fn get_statistics(papers: &Papers) -> Result {
    let vm = papers.vm("balloon/statistics")?;
    let asked = papers.whole.balloon.as_ref();
    let (Some(balloon), Some(asked)) = (vm.control.balloon(), asked) else {
        return Err(no_device("balloon", "balloon"));
    };
    if asked.stats_polling_interval_s == 0 {
        let why = "is 0: the guest doesn't tell; set it before the start";
        return Err(Fault::field("stats_polling_interval_s", why));
    }
    let (target, actual) = (balloon.target().bytes(), balloon.actual().bytes());
    Ok(Answer::of(&BalloonStats {
        target_pages: target >> 12,
        actual_pages: actual >> 12,
        target_mib: target >> 20,
        actual_mib: actual >> 20,
        told: told(&balloon.stats()),
    }))
}

/// By the order of their tags in virtio (1.3 §5.5.6.4).
const TOLD: [&str; 16] = [
    "swap_in",
    "swap_out",
    "major_faults",
    "minor_faults",
    "free_memory",
    "total_memory",
    "available_memory",
    "disk_caches",
    "hugetlb_allocations",
    "hugetlb_failures",
    "oom_kill",
    "alloc_stall",
    "async_scan",
    "direct_scan",
    "async_reclaim",
    "direct_reclaim",
];

fn told(stats: &GuestStats) -> Map<String, Value> {
    let named = TOLD.into_iter().zip(stats.values());
    let told = named.filter_map(|(name, value)| Some((name.to_owned(), (*value)?.into())));
    told.collect()
}

/// The device of that name.
pub fn find(all: Vec<Named>, what: &'static str, id: &str) -> Result<String> {
    let found = all.into_iter().find(|named| named.id == id);
    let found = found.ok_or_else(|| no_device(what, id))?;
    Ok(found.device)
}

fn no_device(what: &'static str, id: &str) -> Fault {
    let id = id.to_owned();
    Fault::NoDevice { what, id }
}

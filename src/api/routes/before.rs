//! What describes a VM, before it starts. Each part is checked when it comes; how they go together, at the start.

use std::path::Path;

use super::check_name;
use crate::api::desk::Papers;
use crate::api::fault::Fault;
use crate::api::http::Answer;
use crate::api::model::{
    Balloon, BootSource, Drive, Entropy, Logger, MachineConfiguration, MachineUpdate, Metrics,
    NetworkInterface, Pmem, Serial, Vsock, Whole,
};

type Result<T = Answer> = std::result::Result<T, Fault>;

pub fn put_machine(papers: &mut Papers, machine: MachineConfiguration) -> Result {
    change(papers, "machine-config", |whole| {
        whole.machine_config = machine;
        Ok(())
    })
}

pub fn patch_machine(papers: &mut Papers, update: MachineUpdate) -> Result {
    change(papers, "machine-config", |whole| {
        if update == MachineUpdate::default() {
            return Err(Fault::Empty);
        }
        whole.machine_config = whole.machine_config.updated(update);
        Ok(())
    })
}

pub fn put_boot_source(papers: &mut Papers, source: BootSource) -> Result {
    change(papers, "boot-source", |whole| {
        check_file("kernel_image_path", &source.kernel_image_path)?;
        if let Some(initrd) = &source.initrd_path {
            check_file("initrd_path", initrd)?;
        }
        whole.boot_source = Some(source);
        Ok(())
    })
}

pub fn put_drive(papers: &mut Papers, id: &str, drive: Drive) -> Result {
    check_name(id, &drive.drive_id)?;
    change(papers, "drives", |whole| {
        if let Some(path) = &drive.path_on_host {
            check_file("path_on_host", path)?;
        }
        put(&mut whole.drives, drive, |one| {
            (&one.drive_id, one.is_root_device)
        });
        check_one_root(whole)
    })
}

pub fn put_pmem(papers: &mut Papers, id: &str, pmem: Pmem) -> Result {
    check_name(id, &pmem.id)?;
    change(papers, "pmem", |whole| {
        check_file("path_on_host", &pmem.path_on_host)?;
        put(&mut whole.pmem, pmem, |one| (&one.id, one.root_device));
        check_one_root(whole)
    })
}

pub fn put_network(papers: &mut Papers, id: &str, net: NetworkInterface) -> Result {
    check_name(id, &net.iface_id)?;
    change(papers, "network-interfaces", |whole| {
        put(&mut whole.network_interfaces, net, |one| {
            (&one.iface_id, false)
        });
        Ok(())
    })
}

pub fn put_balloon(papers: &mut Papers, balloon: Balloon) -> Result {
    change(papers, "balloon", |whole| {
        whole.balloon = Some(balloon);
        Ok(())
    })
}

pub fn put_vsock(papers: &mut Papers, vsock: Vsock) -> Result {
    change(papers, "vsock", |whole| {
        whole.vsock = Some(vsock);
        Ok(())
    })
}

pub fn put_entropy(papers: &mut Papers, entropy: Entropy) -> Result {
    change(papers, "entropy", |whole| {
        whole.entropy = Some(entropy);
        Ok(())
    })
}

pub fn put_serial(papers: &mut Papers, serial: Serial) -> Result {
    change(papers, "serial", |whole| {
        whole.serial = Some(serial);
        Ok(())
    })
}

pub fn put_metrics(papers: &mut Papers, metrics: Metrics) -> Result {
    change(papers, "metrics", |whole| {
        whole.metrics = Some(metrics);
        Ok(())
    })
}

pub fn put_logger(papers: &mut Papers, logger: Logger) -> Result {
    papers.described("logger")?;
    if logger.show_log_origin == Some(true) {
        let why = "mote's log doesn't say where in the source a line is from; leave it out";
        return Err(Fault::field("show_log_origin", why));
    }
    let Some(set) = &mut papers.set_logger else {
        return Err(Fault::field("log_path", "the log isn't this API's to set"));
    };
    set(&logger).map_err(|why| Fault::field("logger", why))?;
    papers.whole.logger = Some(logger);
    Ok(Answer::done())
}

/// Changes what was said of a VM, if it can be so.
fn change(
    papers: &mut Papers,
    what: &'static str,
    change: impl FnOnce(&mut Whole) -> Result<()>,
) -> Result {
    let whole = papers.described(what)?;
    let mut changed = whole.clone();
    change(&mut changed)?;
    changed.config()?.validate_parts()?;
    *whole = changed;
    Ok(Answer::done())
}

/// In place of the one of that name, if there is one; that of the root file system first.
fn put<T>(all: &mut Vec<T>, new: T, key: impl Fn(&T) -> (&str, bool)) {
    let (id, is_root) = key(&new);
    let place = all.iter().position(|one| key(one).0 == id);
    match (place, is_root) {
        (Some(at), false) => all[at] = new,
        (None, false) => all.push(new),
        (place, true) => {
            place.map(|at| all.remove(at));
            all.insert(0, new);
        }
    }
}

fn check_one_root(whole: &Whole) -> Result<()> {
    let drives = whole.drives.iter().filter(|drive| drive.is_root_device);
    let pmem = whole.pmem.iter().filter(|pmem| pmem.root_device);
    match drives.count() + pmem.count() {
        0 | 1 => Ok(()),
        _ => Err(Fault::field(
            "is_root_device",
            "another one holds the root file system already",
        )),
    }
}

fn check_file(field: &'static str, path: &Path) -> Result<()> {
    match std::fs::metadata(path) {
        Ok(_) => Ok(()),
        Err(source) => Err(Fault::File {
            field,
            path: path.to_owned(),
            source,
        }),
    }
}

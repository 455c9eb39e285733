//! The guest's command line, put together from where it comes from.

use std::ffi::CString;

use super::dax::{DaxDrives, root_options};
use super::error::BuildError;
use super::idle;
use crate::arch::{MmioDevice, cmdline};
use crate::boot::Cmdline;
use crate::config::{self, VmConfig};

/// mote's fast defaults, the devices, and what the user says, which wins.
pub(super) fn command_line(
    config: &VmConfig,
    devices: &[MmioDevice],
    dax: &DaxDrives,
    acpi: bool,
) -> Result<CString, BuildError> {
    let root = config.rootfs.as_ref().and(config.drives().next());
    let root = root.map_or_else(Vec::new, |root| root_options(root, dax));
    let mut defaults = Vec::new();
    if !config.boot.cmdline_only {
        defaults.extend_from_slice(cmdline::DEFAULTS);
        defaults.extend_from_slice(match config.console.is_serial() {
            true => cmdline::WITH_SERIAL,
            false => cmdline::WITHOUT_SERIAL,
        });
        if config.cpus.0 == 1 {
            defaults.extend_from_slice(cmdline::WITH_ONE_CPU);
        }
        if let config::Console::Hvc(_) = config.console {
            defaults.extend_from_slice(cmdline::WITH_HVC);
        }
        if !acpi {
            defaults.extend_from_slice(cmdline::WITHOUT_ACPI);
        }
        defaults.extend(root.iter().map(String::as_str));
    }
    defaults.extend(idle::parameter(config.idle.mode));
    let mut line = Cmdline::with_defaults(&defaults);
    if !acpi {
        for parameter in devices.iter().filter_map(cmdline::virtio_mmio) {
            line.add_device(parameter);
        }
    }
    if let Some(text) = &config.boot.cmdline {
        line.add(text);
    }
    Ok(line.finish()?)
}

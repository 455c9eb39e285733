//! The recipe: from a configuration to a VM that is ready to run, read from top to bottom.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use vm_memory::{GuestAddress, GuestMemoryBackend};

use super::attach::{attach_boot_timer, attach_serial, event, marker};
use super::beside::Reach;
use super::command_line::command_line;
use super::confined;
use super::control::{self, Control};
use super::dax::DaxDrives;
use super::devices::{Placed, place_devices};
use super::ending::Endings;
use super::error::BuildError;
use super::idle;
use super::kvm_stats::KvmSource;
use super::lifecycle::{LastBreath, Lifecycle};
use super::mapped_kernel::MappedKernel;
use super::metrics::VmSource;
use super::notify::Notify;
use super::placement;
use super::timings::{BootClock, Phase, Timeline};
use super::until::Until;
use super::usage::{Smaps, cpu_time};
use super::virtio::{Registers, VirtioPlacer};
use super::vm::{Stopper, Vm};
use crate::arch::features::Feature;
use crate::arch::vcpus::{self, Cpus};
use crate::arch::{ARCHITECTURE, CpuOptions, Machine, board, cpu, irqchip, layout, reboot, tables};
use crate::boot::{self, EntryPreference, KernelFile, KernelOptions, LoadedKernel};
use crate::bus::Buses;
use crate::config::{ConfigError, KernelLoad, Protocol, VmConfig};
use crate::devices::OnEnding;
use crate::devices::console::Console;
use crate::devices::virtio::vsock::OwnPort;
use crate::kvm::Host;
use crate::memory::pages::{PAGE, Pages};
use crate::memory::places::{Kind, Told};
use crate::memory::prefault::Prefault;
use crate::memory::{Backing, GuestRam, MemoryError};
use crate::metrics::Registry;
use crate::metrics::export::Exporter;
use crate::placement::Plan;
use crate::sandbox::Confine;
use crate::threads;
use crate::vcpu::{ExitCounters, Parking, Surroundings};

/// What the embedding program decides, apart from the VM itself.
///
/// ```no_run
/// use std::{fs::File, io::pipe, os::fd::OwnedFd};
///
/// use motevm::machine::{Notify, Until};
/// use motevm::{BuildOptions, Host, VmConfig, build};
///
/// let (lines, writer) = pipe()?; // for another thread: `running 5120`, `init 60321`
/// let options = BuildOptions {
///     until: Until::Init, // run() returns Exit::Reached then
///     notify: Some(Notify::new(File::from(OwnedFd::from(writer)))),
///     kvm_statistics: true,
///     ..Default::default()
/// };
/// let mut vm = build(&Host::open()?, &VmConfig::default(), options)?;
/// let counts = vm.metrics().clone(); // KVM's too, while it runs
/// vm.run()?;
/// println!("{}", vm.report()); // and at its end
/// # drop((lines, counts));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct BuildOptions {
    /// Where the timeline starts; for a command, the moment of exec.
    pub timeline: Timeline,
    /// The folder that keeps kernels unpacked from a bzImage; `None` unpacks each time.
    pub kernel_cache: Option<PathBuf>,
    /// Whether the report says what the process's memory is used for when the guest's init has
    /// signalled, which takes some milliseconds then.
    pub tell_memory: bool,
    /// Who is told when the guest first runs, and when its init has signalled.
    pub notify: Option<Notify>,
    /// What the work beside the VM needs of the host, if there will be any ([`Vm::accompany`]).
    pub reach: Option<Reach>,
    /// What ends the VM although the guest goes on.
    pub until: Until,
    /// Have KVM's statistics in [`Vm::metrics`] also where the configuration sends metrics nowhere:
    /// a few system calls for each vCPU.
    pub kvm_statistics: bool,
    /// Whose threads are confined, once the guest runs.
    pub confine: Confine,
    /// The file that gets the guest's device tree, which AArch64 guests have.
    pub dump_fdt: Option<PathBuf>,
    /// The port of the host that this process serves, where the configuration's vsock device says so.
    pub own_port: Option<OwnPort>,
}

impl Default for BuildOptions {
    /// A timeline from now, and the user's cache folder.
    fn default() -> Self {
        BuildOptions {
            timeline: Timeline::starting_at(Instant::now()),
            kernel_cache: boot::default_cache_folder(),
            tell_memory: false,
            notify: None,
            reach: None,
            until: Until::default(),
            kvm_statistics: false,
            confine: Confine::default(),
            dump_fdt: None,
            own_port: None,
        }
    }
}

/// Builds a VM. Nothing runs yet: that is [`Vm::run`].
///
/// # Errors
///
/// See [`BuildError`]; [`BuildError::fault`] tells whose part it is to mend it.
pub fn build(host: &Host, config: &VmConfig, options: BuildOptions) -> Result<Vm, BuildError> {
    let BuildOptions {
        mut timeline,
        kernel_cache,
        tell_memory,
        notify,
        reach,
        until,
        kvm_statistics,
        confine,
        dump_fdt,
        own_port,
    } = options;
    config.validate()?;
    let mask = config.cpu_mask.iter().map(|name| Feature::named(name));
    let mask = mask.collect::<Result<Vec<_>, _>>()?;
    let kernel_path = config.boot.kernel.as_deref().ok_or(ConfigError::NoKernel)?;

    let plan = Plan::of(config)?;
    for warning in plan.iter().flat_map(|plan| &plan.warnings) {
        log::warn!("{warning}");
    }
    // Whatever is started from here on is where it should be; the caller's thread goes back.
    let _moved = placement::move_aside(plan.as_ref())?;

    let fd = Arc::new(host.create_vm()?);
    timeline.mark(Phase::CreateVm);

    let backing = match config.shares_memory() {
        true => Backing::Shared,
        false => Backing::Anonymous,
    };
    let ranges = layout::ram_ranges(config.memory.size.bytes());
    let end = ranges.iter().map(|(start, size)| start.0 + size).max();
    if let Some(end) = end.filter(|end| *end > layout::ALWAYS_ADDRESSABLE) {
        let limit = cpu::physical_end(host)?;
        if end > limit {
            return Err(ConfigError::MemoryBeyondHost(config.memory.size, end, limit).into());
        }
    }
    let ram = GuestRam::with(&ranges, backing, &config.memory)?;
    let memory = ram.memory().clone();
    if let Some(plan) = &plan {
        placement::bind_memory(plan, &memory)?;
        if let Some(pages) = config.memory.hugepages {
            placement::check_huge_pages(plan, pages)?;
        }
    }
    // Goes on beside all that follows.
    let prefault = match config.memory.prefault {
        true => Some(Prefault::start(&memory).map_err(MemoryError::Prefault)?),
        false => None,
    };
    // Before the irqchip: see kvm::Vm::set_memory.
    // SAFETY: `ram` moves into the Vm, which drops it after the KVM file descriptors. Where an error
    // below drops it before `fd`, no vCPU has run, and none can any more.
    unsafe { fd.set_memory(&memory)? };
    let registers = Registers::new(&fd)?;
    let dax = DaxDrives::open(config, host)?;
    // SAFETY: as for RAM.
    unsafe { dax.show(&fd)? };
    irqchip::prepare(&fd)?;
    let own_waits = idle::set_up(host, &fd, config)?;
    timeline.mark(Phase::Memory);

    let kernel_file = KernelFile::open(kernel_path, ARCHITECTURE)?;
    let acpi = tables::by_acpi(config, kernel_file.format())?;
    let prefer = match config.boot.protocol {
        Protocol::Auto => EntryPreference::Auto,
        Protocol::Linux64 => EntryPreference::Linux64,
    };
    let kernel = kernel_file.load(
        &memory,
        &KernelOptions {
            cache: kernel_cache,
            prefer,
            map: config.boot.load == KernelLoad::Map,
            base: layout::KERNEL_START,
        },
    )?;
    let initrd = match &config.boot.initrd {
        Some(path) => Some(boot::load_initrd(
            path,
            &memory,
            &kernel,
            layout::INITRD_END,
        )?),
        None => None,
    };
    let mapped_kernel = MappedKernel::of(&kernel, kernel_path, &memory);
    timeline.mark(Phase::KernelLoad);

    let irqchip = irqchip::create(host, &fd, config.cpus.0)?;
    timeline.mark(Phase::Irqchip);
    let cpu_options = CpuOptions {
        cpus: config.cpus.0,
        mask: &mask,
        own_waits,
        pmu: config.pmu,
    };
    let cpus = vcpus::create(host, &fd, &irqchip, &cpu_options)?;
    timeline.mark(Phase::Vcpus);

    let endings = Arc::new(Endings::new().map_err(BuildError::Event)?);
    let wake = Arc::new(event()?);
    let counters = cpus.vcpus.iter();
    let counters = counters.map(|_| Arc::new(ExitCounters::default()));
    let clock = Arc::new(BootClock::new(counters.collect()));
    let mut buses = Buses::default();

    let has_serial = config.console.is_serial();
    let (mut serial, mut hvc) = (None, None);
    let mut opened = Console::open(&config.console)?;
    if let (Some(opened), Until::Printed(text)) = (&mut opened, &until) {
        opened.marker = Some(marker(text, &clock, &wake, &endings));
    }
    match opened {
        Some(opened) if has_serial => serial = Some(attach_serial(opened, &fd, &mut buses)?),
        opened => hvc = opened,
    }
    let on_ending = || -> OnEnding {
        let endings = endings.clone();
        Box::new(move |ending| endings.device(ending))
    };
    // Weak: whoever controls the VM may outlive it, and its memory with it.
    let lines = Arc::downgrade(&fd);
    let raise = move |gsi| {
        let Some(fd) = lines.upgrade() else { return };
        if let Err(e) = fd.pulse_line(gsi) {
            log::debug!("{e}");
        }
    };
    let buttons = board::attach(&mut buses, on_ending, raise)?;
    let endings_at_init = (until == Until::Init).then(|| endings.clone());
    attach_boot_timer(&mut buses.mmio, &clock, &wake, endings_at_init)?;
    dax.attach(&mut buses.mmio)?;

    let exporter = config.metrics.as_ref().map(Exporter::open).transpose()?;
    let mut metrics = Registry::new();
    // SAFETY: the devices are the VM's, and dropped before `dax`.
    let for_devices = unsafe { dax.with_ram(&memory) };
    let mut placer = VirtioPlacer {
        fd: &fd,
        buses: &mut buses,
        memory: &for_devices,
        registers: &registers,
        placed: Vec::new(),
        transports: Vec::new(),
        metrics: &mut metrics,
    };
    let Placed {
        console,
        drives,
        nets,
        balloon,
    } = place_devices(&mut placer, config, &dax, hvc, own_port, &endings)?;
    let console = serial.or(console);
    let VirtioPlacer {
        placed, transports, ..
    } = placer;
    if let Some(console) = &console {
        metrics.add(console.drain.counts());
    }

    let text = command_line(config, &placed, &dax, acpi)?;
    let machine = Machine {
        cmdline: &text,
        entry: kernel.entry,
        initrd,
        memory: config.memory.size.bytes(),
        nodes: &config.numa,
        devices: &placed,
        serial: has_serial,
        acpi,
        plan: plan.as_ref(),
    };
    tables::write(&memory, &machine, &cpus, &irqchip)?;
    if let Some(path) = &dump_fdt {
        tables::dump(&memory, path)?;
    }
    reboot::arm(&memory)?;
    cpus.enter(kernel.entry, &memory)?;
    timeline.mark(Phase::Devices);
    if let Some(prefault) = prefault {
        prefault.finish()?;
        timeline.mark(Phase::Prefault);
    }

    let Cpus { vcpus, prepare, .. } = cpus;
    let (mmio, ports) = (Arc::new(buses.mmio), Arc::new(buses.ports));
    clock.watch(&mmio, &ports);
    let start_notify = notify.clone().zip(Some(timeline.clone()));
    let (start_clock, stop_endings) = (clock.clone(), endings.clone());
    let surroundings = Surroundings {
        mmio,
        ports,
        memory: for_devices,
        read_only_memory: dax.read_only_memory(),
        vm: None,
        parking: Arc::new(Parking::new(wake.clone())),
        prepare,
        on_start: Arc::new(move || {
            // The first vCPU's is kept.
            let now = Instant::now();
            let first = start_clock.first_run.set((now, cpu_time())).is_ok();
            if let (true, Some((notify, timeline))) = (first, start_notify.clone()) {
                threads::soon(move || notify.say("running", &timeline, now));
            }
        }),
        on_stop: Arc::new(move |stop| stop_endings.vcpu(stop)),
    };
    let smaps = Arc::new(Smaps::open());
    metrics.add(Arc::new(VmSource {
        smaps: smaps.clone(),
        clock: clock.clone(),
        timeline: timeline.clone(),
        memory: config.memory.size,
        cpus: config.cpus.0,
        ranges: ram.host_ranges(),
    }));
    let told = tell_places(&ram, &kernel, &dax, &registers.pages());
    if kvm_statistics || config.metrics.is_some() {
        match KvmSource::new(&fd, &vcpus) {
            Ok(source) => metrics.add(Arc::new(source)),
            Err(e) => log::warn!("there are no metrics of KVM's own: {e}"),
        }
    }
    let lifecycle = Arc::new(Lifecycle::new(wake.clone()));
    let last_breath = LastBreath(lifecycle.clone());
    let control = Control::new(control::Shared {
        lifecycle,
        stopper: Stopper::new(&endings),
        drives,
        nets,
        balloon,
        buttons,
        metrics,
    });
    let confinement = confined::confinement(confine, config, tell_memory, reach.as_ref())?;
    timeline.mark(Phase::Sandbox);
    let bytes_loaded = kernel.bytes_loaded + initrd.map_or(0, |initrd| initrd.size);
    Ok(Vm {
        vcpus,
        plan,
        confine,
        confinement,
        surroundings,
        transports,
        console,
        fd,
        endings,
        clock,
        wake,
        usage_at_init: None,
        tell_memory,
        smaps,
        footprint_at_init: None,
        notify,
        timeline,
        bytes_loaded,
        bytes_mapped: kernel.bytes_mapped,
        mapped_kernel,
        supported_cpuid_calls: host.supported_cpuid_calls(),
        acpi,
        drives: config.drives().count(),
        control,
        _last_breath: last_breath,
        ended: None,
        exporter,
        beside: None,
        _told: told,
        _registers: registers.pages(),
        dax,
        ram,
    })
}

/// Says where the guest's memory is, to whoever looks from outside (`mote mem`).
fn tell_places(ram: &GuestRam, kernel: &LoadedKernel, dax: &DaxDrives, registers: &Pages) -> Told {
    let mut told = Told::of_a_vm();
    for range in ram.host_ranges() {
        told.add(Kind::Ram, range);
    }
    let memory = ram.memory();
    let text = memory.get_host_address(kernel.start);
    let last = memory.get_host_address(GuestAddress(kernel.text_end.0.saturating_sub(1)));
    if let (Ok(start), Ok(last)) = (text, last) {
        told.add(Kind::KernelText, start as u64..last as u64 + 1);
    }
    for range in dax.host_ranges() {
        told.add(Kind::MappedDrive, range);
    }
    let start = registers.host_address();
    let end = start + (registers.count() * PAGE) as u64;
    told.add(Kind::Registers, start..end);
    told
}

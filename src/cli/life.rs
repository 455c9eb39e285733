//! A VM's life as a command of its own, from the first signal that is heard to what is said of its end.

use motevm::arch::cpu::virtualizes;
use motevm::config::{Console, Endpoint};
use motevm::{Exit, Vm, VmConfig};

use super::image::Session;
use super::sandbox::Sandbox;
use super::signals::{ResizeOnSignal, StopOnSignals};
use super::terminal::RawTerminal;
use super::{CliError, Status, say};

/// Runs the guest to its end: signals stop it, and a terminal is its console, or that of the program of a `session`.
pub fn live(
    vm: &mut Vm,
    config: &VmConfig,
    sandbox: Sandbox,
    session: Option<&Session>,
) -> Result<Exit, CliError> {
    let internal = |what| move |e| CliError::new(Status::Internal, format_args!("{what}: {e}"));
    let stop_on_signals = StopOnSignals::new(vm.stopper()).map_err(internal("handling signals"))?;
    let resize_on_signal = match vm.console_resizer() {
        Some(resizer) => Some(ResizeOnSignal::new(resizer).map_err(internal("handling signals"))?),
        None => None,
    };
    if let Some(pty) = vm.pty() {
        say(format_args!("the guest's console is {}", pty.display()));
    }
    let has_terminal = session.is_some_and(Session::has_terminal);
    let forwarding = session.map(|session| session.start(vm.stopper()));
    let terminal = match config.console {
        // Until the program runs, Ctrl-C is mote's: a guest may hang before that.
        _ if has_terminal => RawTerminal::prepare(),
        Console::Stdio | Console::Hvc(Endpoint::Stdio) => RawTerminal::enter(),
        _ => Ok(None),
    };
    let terminal = terminal.map_err(internal("setting the terminal's mode"))?;
    sandbox.forget_environment();
    let exit = vm.run().map_err(|e| CliError::new(Status::Host, e));
    drop(terminal);
    drop(forwarding);
    drop(resize_on_signal);
    drop(stop_on_signals);
    exit
}

/// Says how the VM ended where that isn't what one hopes for, with advice.
pub fn tell(exit: &Exit, vm: &Vm, is_jailed: bool) {
    tell_exit(exit);
    // In a jail nothing is seen of the host.
    let of_host = (!is_jailed).then(|| host_hint(exit)).flatten();
    if let Some(hint) = of_host.or_else(|| vm.hint()) {
        say(format_args!("hint: {hint}"));
    }
}

fn tell_exit(exit: &Exit) {
    match exit {
        Exit::PowerOff | Exit::Reset | Exit::Quit | Exit::Stopped | Exit::Reached => {}
        Exit::Failed => say("a vCPU thread failed: this is a defect of mote"),
        Exit::Panic => say("the guest's kernel panicked"),
        Exit::Disconnected => say("a device's back-end went away (on-disconnect=exit)"),
        Exit::Crash(report) => say(format_args!("the guest crashed: {report}")),
    }
}

/// Advice where a crash is the host's doing.
fn host_hint(exit: &Exit) -> Option<String> {
    let crashed = matches!(exit, Exit::Crash(_));
    (crashed && !virtualizes()).then(|| {
        "this host's KVM has no hardware behind it and can't run Linux (`mote check`); \
         resources/on-kvm.sh in mote's source tree runs a command in an emulated machine that can."
            .to_owned()
    })
}

//! When a VM ends by itself although its guest goes on: at init's signal, or at a word on the console.

/// How long a guest is to run. Whatever ends it before, ends it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Until {
    /// Until the guest ends it.
    #[default]
    End,
    /// Until the guest's init writes to the boot timer.
    Init,
    /// Until the guest's console has printed this.
    Printed(String),
}

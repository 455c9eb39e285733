//! What a process's memory is used for.

use serde::{Deserialize, Serialize};

use super::amounts::Amounts;

/// A use of memory, in the order in which they are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// The guest's kernel: its code and read-only data, as they were loaded.
    GuestKernelText,
    /// The rest of the guest's RAM, as far as the guest or the monitor has touched it.
    GuestMemory,
    /// A file that the guest maps (DAX).
    MappedDrive,
    /// Pages of device registers that the guest reads.
    Registers,
    /// The program's instructions.
    Code,
    /// The program's constants, and its pointers to them, which are written once at its start.
    ReadOnlyData,
    /// The program's variables.
    Data,
    /// What the allocator has.
    Heap,
    /// A thread's stack.
    Stack,
    /// What each vCPU shares with the host's kernel.
    Kvm,
    /// Rings of io_uring.
    IoUring,
    /// Memory that other processes can map too: a memfd.
    SharedMemory,
    /// Another file.
    MappedFile,
    /// What the host's kernel maps into each process.
    Vdso,
    /// Other memory of the process's own: large allocations, buffers.
    Anonymous,
}

impl What {
    /// All of them.
    pub const ALL: [What; 15] = [
        What::GuestKernelText,
        What::GuestMemory,
        What::MappedDrive,
        What::Registers,
        What::Code,
        What::ReadOnlyData,
        What::Data,
        What::Heap,
        What::Stack,
        What::Kvm,
        What::IoUring,
        What::SharedMemory,
        What::MappedFile,
        What::Vdso,
        What::Anonymous,
    ];

    /// For people.
    pub fn title(self) -> &'static str {
        match self {
            What::GuestKernelText => "guest: kernel text",
            What::GuestMemory => "guest: other memory",
            What::MappedDrive => "mapped drive",
            What::Registers => "register pages",
            What::Code => "code",
            What::ReadOnlyData => "read-only data",
            What::Data => "data",
            What::Heap => "heap",
            What::Stack => "stack",
            What::Kvm => "shared with KVM",
            What::IoUring => "io_uring",
            What::SharedMemory => "shared memory",
            What::MappedFile => "file",
            What::Vdso => "vdso",
            What::Anonymous => "other anonymous",
        }
    }

    /// Whether it is the guest's own, and not what the monitor needs besides.
    pub fn is_of_the_guest(self) -> bool {
        matches!(
            self,
            What::GuestKernelText | What::GuestMemory | What::MappedDrive
        )
    }
}

/// One use of memory, with all mappings of that use together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// What for.
    pub what: What,
    /// Which file or thread, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Which of the process's VMs, from 1; 0 where it is of none alone.
    pub vm: u32,
    /// Of the resident: pages of files, which are in the host's page cache whether this process runs or not.
    pub page_cache_kib: u64,
    /// How much.
    #[serde(flatten)]
    pub amounts: Amounts,
}

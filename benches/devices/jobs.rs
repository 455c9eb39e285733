//! What the guests do: commands of a shell in the guest, each with a number of requests.

use crate::monitors::{FILE_SIZE, NULL_SIZE};

/// One kind of work.
pub struct Job {
    pub name: &'static str,
    /// What one request is.
    pub unit: &'static str,
    /// A command of the guest; the number of requests is its last word.
    pub command: &'static str,
    /// The most that can be asked for.
    pub most: u64,
    pub network: bool,
}

/// Defined in each guest: `r DEVICE BS COUNT` and `w` are requests one at a time, `r8` and `w8`
/// eight at a time (COUNT is that of all of them); `p COUNT` pings, each when the last is answered;
/// `i OPTIONS COUNT` is iperf3. A line of the console has less than 256 characters.
pub const FUNCTIONS: [&str; 8] = [
    "dev() { ip link set eth0 up; ip addr add 10.9.0.2/24 dev eth0; }",
    "r() { dd if=$1 of=/dev/null bs=$2 count=$3 iflag=direct 2>/dev/null; }",
    "w() { dd if=/dev/zero of=$1 bs=$2 count=$3 oflag=direct conv=notrunc 2>/dev/null; }",
    "each8() { n=$(($4/8)); for i in 0 1 2 3 4 5 6 7; do $1 $2 $3 $n $((i*n)) & done; wait; }",
    "rs() { dd if=$1 of=/dev/null bs=$2 count=$3 skip=$4 iflag=direct 2>/dev/null; }",
    "ws() { dd if=/dev/zero of=$1 bs=$2 count=$3 seek=$4 oflag=direct conv=notrunc 2>/dev/null; }",
    "p() { ping -A -q -c $1 10.9.0.1 >/tmp/p || cat /tmp/p; }",
    "i() { iperf3 -c 10.9.0.1 $* >/tmp/i || cat /tmp/i; }",
];

const fn drive(name: &'static str, command: &'static str, most: u64) -> Job {
    Job {
        name,
        unit: "request",
        command,
        most,
        network: false,
    }
}

const fn net(name: &'static str, unit: &'static str, command: &'static str) -> Job {
    Job {
        name,
        unit,
        command,
        most: 1 << 20,
        network: true,
    }
}

/// All of them.
pub fn all() -> impl Iterator<Item = &'static Job> {
    const JOBS: [Job; 10] = [
        drive(
            "blk: read 4 KiB, null, one at a time",
            "r /dev/vdb 4k",
            NULL_SIZE >> 12,
        ),
        drive(
            "blk: read 4 KiB, null, eight at a time",
            "each8 rs /dev/vdb 4k",
            NULL_SIZE >> 12,
        ),
        drive(
            "blk: read 4 KiB, file, one at a time",
            "r /dev/vdc 4k",
            FILE_SIZE >> 12,
        ),
        drive(
            "blk: write 4 KiB, file, one at a time",
            "w /dev/vdc 4k",
            FILE_SIZE >> 12,
        ),
        drive(
            "blk: write 4 KiB, file, eight at a time",
            "each8 ws /dev/vdc 4k",
            FILE_SIZE >> 12,
        ),
        drive(
            "blk: read 64 KiB, file, one at a time",
            "r /dev/vdc 64k",
            FILE_SIZE >> 16,
        ),
        net("net: ping, one at a time", "round trip", "p"),
        net(
            "net: UDP, 64 bytes, guest to host",
            "packet",
            "i -u -b 0 -l 64 -k",
        ),
        net("net: TCP, guest to host", "64 KiB", "i -l 64K -k"),
        net("net: TCP, host to guest", "64 KiB", "i -R -l 64K -k"),
    ];
    JOBS.iter()
}

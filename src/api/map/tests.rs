//! What the API says of a VM, and the VM that comes of it.

use super::*;
use crate::config::{Cache, Engine, Mac, Rate, RateLimit};

fn config(text: &str) -> Result<VmConfig, Fault> {
    serde_json::from_str::<Whole>(text).unwrap().config()
}

const EVERYTHING: &str = r#"{
    "boot-source": { "kernel_image_path": "k", "initrd_path": "i", "boot_args": "quiet -- one" },
    "machine-config": { "vcpu_count": 4, "mem_size_mib": 512, "smt": false, "cpu_template": "None",
        "track_dirty_pages": false, "huge_pages": "2M" },
    "drives": [
        { "drive_id": "root", "is_root_device": true, "is_read_only": true, "path_on_host": "r" },
        { "drive_id": "data", "is_root_device": false, "path_on_host": "d", "cache_type": "Writeback",
            "io_engine": "Async", "rate_limiter": {
                "bandwidth": { "size": 1000, "refill_time": 100 },
                "ops": { "size": 0, "refill_time": 100 } } },
        { "drive_id": "a-name-too-long-for-a-serial-number", "is_root_device": false, "socket": "s" }
    ],
    "pmem": [{ "id": "p", "path_on_host": "p", "read_only": true }],
    "network-interfaces": [{ "iface_id": "eth0", "host_dev_name": "tap0", "mtu": 9000,
        "guest_mac": "02:00:00:00:00:01",
        "rx_rate_limiter": { "ops": { "size": 10, "refill_time": 1000, "one_time_burst": 0 } },
        "tx_rate_limiter": { "bandwidth": { "size": 4096, "refill_time": 1 } } }],
    "balloon": { "amount_mib": 64, "deflate_on_oom": true, "stats_polling_interval_s": 5,
        "free_page_reporting": true },
    "vsock": { "guest_cid": 3, "uds_path": "v", "vsock_id": "x" },
    "entropy": {},
    "serial": { "serial_out_path": "log" },
    "metrics": { "metrics_path": "m" }
}"#;

#[test]
fn everything_has_its_place() {
    let config = config(EVERYTHING).unwrap();
    let boot = &config.boot;
    assert_eq!(
        boot.cmdline.as_deref(),
        Some("root=/dev/vda ro quiet -- one")
    );
    assert!(boot.cmdline_only && boot.initrd.is_some());
    assert_eq!((config.cpus.0, config.memory.size), (4, Size::mib(512)));
    assert_eq!(config.memory.hugepages, Some(HugePages::Size2M));
    let drives: Vec<_> = config.drives().collect();
    assert!(drives[0].read_only && drives[0].cache == Cache::Unsafe);
    assert_eq!(drives[0].id.as_deref(), Some("root"));
    assert_eq!(
        (drives[1].cache, drives[1].engine),
        (Cache::Writeback, Engine::IoUring)
    );
    let limit = drives[1].rate_limit().unwrap();
    let rate = |per_second, burst| Some(Rate { per_second, burst });
    assert_eq!((limit.bytes, limit.ops), (rate(10_000, 1000), None));
    assert_eq!(
        (drives[2].id.as_deref(), drives[2].vhost_user.is_some()),
        (None, true)
    );
    assert!(drives[3].dax && drives[3].read_only);
    let [rx, tx] = config.nets[0].limits().unwrap();
    assert_eq!((rx.ops, tx.bytes), (rate(10, 10), rate(4_096_000, 4096)));
    assert_eq!(config.nets[0].mac, Some(Mac([2, 0, 0, 0, 0, 1])));
    let balloon = config.balloon.as_ref().unwrap();
    assert!(balloon.deflate_on_oom && balloon.free_page_reporting);
    assert_eq!((balloon.size, balloon.stats), (Size::mib(64), Some(5)));
    assert_eq!(config.vsock.as_ref().unwrap().cid, 3);
    assert_eq!(config.rng, Rng::On);
    assert_eq!(config.console, Console::File("log".into()));
    assert_eq!(config.metrics.as_ref().unwrap().file, Some("m".into()));
    // A balloon and pages of the host's pool exclude each other; all else goes together.
    let without = VmConfig {
        balloon: None,
        ..config
    };
    assert_eq!(without.validate(), Ok(()));
}

#[test]
fn what_is_left_out_is_as_in_the_api_that_this_follows() {
    let config = config("{}").unwrap();
    assert_eq!((config.cpus.0, config.memory), (1, Size::mib(128).into()));
    assert_eq!((config.rng, config.console), (Rng::Off, Console::Stdio));
    assert!(!config.boot.cmdline_only && config.boot.kernel.is_none());
    let drive =
        r#"{ "drives": [{ "drive_id": "r", "is_root_device": true, "path_on_host": "r" }] }"#;
    let config = self::config(drive).unwrap();
    assert!(
        config
            .rootfs
            .is_some_and(|disk| !disk.read_only && disk.engine == Engine::Threads)
    );
}

#[test]
fn the_root_is_told_to_the_kernel_as_what_it_is() {
    let cmdline = |devices: &str, args: &str| {
        let boot = format!(r#""boot-source": {{ "kernel_image_path": "k"{args} }}"#);
        config(&format!("{{ {boot}, {devices} }}"))
            .unwrap()
            .boot
            .cmdline
    };
    let given = r#", "boot_args": "quiet""#;
    let drive = |more| {
        format!(
            r#""drives": [{{ "drive_id": "r", "is_root_device": true, "path_on_host": "r"{more} }}]"#
        )
    };
    let pmem = r#""pmem": [{ "id": "r", "root_device": true, "path_on_host": "r" }]"#;
    let none = r#""drives": []"#;
    for (devices, expected) in [
        (drive(""), "root=/dev/vda rw quiet"),
        (
            drive(r#", "is_read_only": true, "partuuid": "1-2""#),
            "root=PARTUUID=1-2 ro quiet",
        ),
        (pmem.to_owned(), "root=/dev/pmem0 rw quiet"),
        (none.to_owned(), "quiet"),
    ] {
        assert_eq!(cmdline(&devices, given).as_deref(), Some(expected));
        // mote's own flags, and its own root=, where nothing is said.
        assert_eq!(cmdline(&devices, ""), None);
    }
}

#[test]
fn a_bucket_is_a_rate_and_back() {
    for (size, refill_time, expected) in [
        (1000, 1000, Some((1000, 1000))),
        (1, 1000, Some((1, 1))),
        (7, 1, Some((7000, 7))),
        (u64::MAX, 1000, Some((u64::MAX, u64::MAX))),
        (0, 5, None),
        (5, 0, None),
    ] {
        let text = format!(r#"{{ "ops": {{ "size": {size}, "refill_time": {refill_time} }} }}"#);
        let limiter: model::RateLimiter = serde_json::from_str(&text).unwrap();
        let limit = rate_limit(Some(&limiter)).unwrap();
        assert_eq!(
            limit.ops.map(|rate| (rate.per_second, rate.burst)),
            expected
        );
        let shown = limits::limiter(&limit);
        assert_eq!(rate_limit(shown.as_ref()).unwrap(), limit, "{shown:?}");
    }
    assert_eq!(rate_limit(None).unwrap(), RateLimit::default());
    for wrong in [
        r#""size": 1, "refill_time": 1001"#,
        r#""size": 18446744073709551615, "refill_time": 1"#,
    ] {
        let text = format!(r#"{{ "bandwidth": {{ {wrong} }} }}"#);
        let limiter: model::RateLimiter = serde_json::from_str(&text).unwrap();
        assert!(
            rate_limit(Some(&limiter))
                .unwrap_err()
                .to_string()
                .starts_with("refill_time: ")
        );
    }
}

#[test]
fn what_is_shown_of_a_vm_describes_it() {
    // Without what the API has no words for.
    let config = config(EVERYTHING).unwrap();
    let shown = whole(&config).config().unwrap();
    let expected = VmConfig {
        boot: Boot {
            cmdline: Some("root=/dev/vda ro root=/dev/vda ro quiet -- one".to_owned()),
            ..config.boot.clone()
        },
        ..config.clone()
    };
    let mut named = shown.clone();
    named.disks[1].id = None;
    assert_eq!(named, expected);
}

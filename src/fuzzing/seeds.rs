//! The first inputs of the targets, made of the fixtures and of the documentation: `resources/fuzz.sh seed`.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn fixture(name: &str) -> Vec<u8> {
    fs::read(root().join("tests/fixtures/boot").join(name)).unwrap()
}

const COMPRESSED: [&str; 6] = ["gz", "zst", "lz4", "xz", "lzma", "bz2"];

fn seed(target: &str, name: &str, bytes: &[u8]) {
    let folder: PathBuf = root().join("fuzz/corpus").join(target);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(name), bytes).unwrap();
}

/// A header with these fields: offset, bytes.
fn header(len: usize, fields: &[(usize, &[u8])]) -> Vec<u8> {
    let mut header = vec![0; len];
    for (at, bytes) in fields {
        header[*at..at + bytes.len()].copy_from_slice(bytes);
    }
    header
}

/// A request of the API.
fn put(path: &str, body: &str) -> String {
    let length = body.len();
    format!("PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// One boot sector, one of setup code, and the payload (boot.rst).
fn bzimage(payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u32).to_le_bytes();
    let fields: [(usize, &[u8]); 7] = [
        (0x1f1, &[1]),
        (0x1fe, &[0x55, 0xaa]),
        (0x202, b"HdrS\x0f\x02"),
        (0x211, &[1]),
        (0x236, &[0x7f]),
        (0x249, &[2]),
        (0x24c, &len),
    ];
    let mut image = header(1536, &fields);
    image.extend(payload);
    image.extend([0xcc; 700]);
    image
}

/// An arm64 Image, which says that it takes so many bytes (booting.rst).
fn arm64(size: u64) -> Vec<u8> {
    let size = size.to_le_bytes();
    header(
        256,
        &[
            (0, &[0x10, 0, 0, 0x14]),
            (16, &size),
            (24, &[10]),
            (56, b"ARMd"),
        ],
    )
}

/// EFI zboot (Linux drivers/firmware/efi/libstub/zboot-header.S).
fn zboot(kind: &[u8], payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u32).to_le_bytes();
    let fields: [(usize, &[u8]); 5] = [
        (0, b"MZ\0\0zimg\0\x12"),
        (12, &len),
        (24, kind),
        (0x38, &[0xcd, 0x23, 0x82, 0x81]),
        (0x3c, &[0x40]),
    ];
    let mut file = header(0x1200, &fields);
    file.extend(payload);
    file.extend([0xcc; 64]);
    file
}

/// What a back-end of a drive answers from its introduction until its rings are stopped: see
/// [`crate::devices::vhost_user::fuzzing`].
fn backend() -> Vec<u8> {
    const FEATURES: u64 = 1 << 32 | 1 << 30 | 1 << 29 | 1 << 28 | 1 << 12 | 1 << 9;
    const PROTOCOL: u64 = 1 | 1 << 3 | 1 << 5 | 1 << 9 | 1 << 12;
    let (mut config, mut inflight) = (vec![0; 72], [0; 24]);
    config[4] = 60;
    config[12 + 34] = 2; // queues
    inflight[1] = 0x10; // a page
    inflight[16] = 1;
    inflight[19] = 1;
    let (done, [.., base]) = ([0; 8], [[0; 8]; 2]);
    let (features, protocol) = (FEATURES.to_le_bytes(), PROTOCOL.to_le_bytes());
    let mut bytes = vec![0];
    let mut say = |request: u8, flags: u8, payload: &[u8]| {
        bytes.extend([request, flags, payload.len() as u8, 0]);
        bytes.extend(payload);
    };
    say(2, 2, &[]); // its own: the configuration has changed
    say(1, 1, &features);
    say(15, 1, &protocol);
    say(17, 1, &[2, 0, 0, 0, 0, 0, 0, 0]);
    for request in [3, 21] {
        say(request, 1, &done);
    }
    say(24, 1, &config);
    for request in [2, 5] {
        say(request, 1, &done);
    }
    say(31, 1 | 4, &inflight);
    for request in [32, 8, 10, 9, 13, 12, 18, 25] {
        say(request, 1, &done);
    }
    say(11, 1, &base);
    bytes
}

#[test]
#[ignore = "writes fuzz/corpus"]
fn write() {
    seed("elf", "vmlinux", &fixture("vmlinux"));
    for kind in COMPRESSED {
        let payload = fixture(&format!("vmlinux.{kind}"));
        seed("decompress", kind, &payload);
        seed("bzimage", kind, &bzimage(&payload));
    }
    seed("image_layer", "two", &crate::image::tests::seed());
    seed("image", "plain", &arm64(0x2_0000));
    seed(
        "image",
        "zboot-zstd",
        &zboot(b"zstd\0", &fixture("vmlinux.zst")),
    );
    seed(
        "image",
        "zboot-gzip",
        &zboot(b"gzip\0", &fixture("vmlinux.gz")),
    );
    seed("image", "gzip", &fixture("vmlinux.gz"));
    let line =
        "root=/dev/vda ro !quiet\0loglevel=7 a=\"b c\" -- x y\0@virtio_mmio.device=4K@0xd0001000:5";
    seed("cmdline", "line", line.as_bytes());

    let page = fs::read_to_string(root().join("docs/cli.md")).unwrap();
    let toml = page.split("```toml\n").nth(1).unwrap();
    let toml = toml.split("```").next().unwrap();
    seed("config", "toml", toml.as_bytes());
    for (at, part) in toml.split("\n\n").enumerate() {
        seed("config", &format!("toml-{at}"), part.as_bytes());
    }
    let config: crate::VmConfig = toml::from_str("[boot]\nkernel = 'x'").unwrap();
    seed(
        "config",
        "json",
        serde_json::to_string(&config).unwrap().as_bytes(),
    );
    for (kind, text) in [
        (
            0,
            "a.img,ro,id=X,cache=none,engine=io_uring,queues=2,bw=1M,bw-burst=2M",
        ),
        (0, "vhost-user=a.sock,server,on-disconnect=exit"),
        (
            1,
            "tap=t,mac=02:00:00:00:00:01,queues=2,mtu=1500,vhost,rx-bw=1M,link=off",
        ),
        (2, "512M,hugepages=2M,thp=off,prefault,mlock,ksm"),
        (3, "64M,deflate-on-oom,stats=1s,reporting"),
        (4, "pass-through,force"),
        (5, "file=a,interval=1s"),
        (6, "tag=t,socket=s"),
        (7, "cid=3,socket=v"),
        (8, "cpus=0-3,memory=1G,host=0,distance=10:20"),
        (9, "io-cpus=1"),
        (10, "0-3,8,10-31:2/4"),
        (11, "0:1,1:2-3"),
        (12, "0:fifo:10,1:batch"),
        (13, "512M"),
        (14, "02:00:00:00:00:01"),
        (15, "ff,ffffffff"),
    ] {
        let name = format!("{kind}-{}", text.len());
        seed("option", &name, &[&[kind], text.as_bytes()].concat());
    }

    seed("vhost_user", "blk", &backend());
    seed(
        "metrics",
        "http",
        b"\x40GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
    );
    for (name, request) in [
        (
            "get",
            "GET /vm/config HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
        ),
        (
            "machine",
            put("/machine-config", r#"{"vcpu_count":2,"mem_size_mib":128}"#),
        ),
        (
            "drive",
            put(
                "/drives/a",
                r#"{"drive_id":"a","is_root_device":true,"path_on_host":"/dev/null","rate_limiter":{"ops":{"size":1,"refill_time":9}}}"#,
            ),
        ),
        (
            "network",
            put(
                "/network-interfaces/a",
                r#"{"iface_id":"a","host_dev_name":"t"}"#,
            ),
        ),
        (
            "start",
            put("/boot-source", r#"{"kernel_image_path":"/dev/null"}"#)
                + &put("/actions", r#"{"action_type":"InstanceStart"}"#),
        ),
    ] {
        seed("api", name, format!("\x40{request}").as_bytes());
    }
    let ext4 = header(2048, &[(1024 + 0x18, &[2]), (1024 + 0x38, &[0x53, 0xef])]);
    seed("disk_image", "ext4", &ext4);
    for (name, start) in [
        ("qcow2", b"QFI\xfb\0\0\0\x03"),
        ("vhdx", b"vhdxfile"),
        ("vmdk", b"KDMV\x01\0\0\0"),
    ] {
        seed("disk_image", name, &header(512, &[(0, start)]));
    }
    let smaps = fs::read("/proc/self/smaps").unwrap();
    seed("sysfs", "smaps", &smaps[..smaps.len().min(2000)]);
    seed("sysfs", "cpus", b"0-3,8,10-31:2/4\n");

    // Of those that read steps, any bytes are some.
    let noise = fixture("vmlinux.zst");
    let noise: Vec<&[u8]> = noise[64..].chunks(256).take(4).collect();
    for (target, _) in super::TARGETS {
        let folder = root().join("fuzz/corpus").join(target);
        if fs::read_dir(&folder).map_or(0, Iterator::count) == 0 {
            for (at, bytes) in noise.iter().enumerate() {
                seed(target, &format!("noise-{at}"), bytes);
            }
        }
    }
}

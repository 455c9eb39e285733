//! What a VM shows of itself: right numbers, in a form that Prometheus reads.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;

use super::*;

/// A sample's name with its labels as written, and its value.
pub type Samples = BTreeMap<String, f64>;

fn is_name(text: &str, colon: bool) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || (colon && c == ':');
    !text.is_empty() && !text.starts_with(|c: char| c.is_ascii_digit()) && text.chars().all(fits)
}

/// The labels between braces, checked.
fn labels(mut text: &str) -> Vec<(String, String)> {
    let mut labels = Vec::new();
    while !text.is_empty() {
        let (name, rest) = text.split_once("=\"").unwrap();
        assert!(is_name(name, false), "{name}");
        let mut value = String::new();
        let mut rest = rest.chars();
        loop {
            match rest.next().unwrap() {
                '"' => break,
                '\\' => match rest.next().unwrap() {
                    'n' => value.push('\n'),
                    c @ ('\\' | '"') => value.push(c),
                    c => panic!("\\{c} in a label"),
                },
                c => value.push(c),
            }
        }
        labels.push((name.to_owned(), value));
        text = rest.as_str();
        if !text.is_empty() {
            text = text.strip_prefix(',').unwrap();
            assert!(!text.is_empty());
        }
    }
    labels
}

/// Reads text format 0.0.4, and is strict about it.
pub fn parse(text: &str) -> Samples {
    let mut samples = Samples::new();
    let mut seen: Vec<String> = Vec::new();
    let (mut current, mut kind) = (String::new(), String::new());
    let mut buckets: BTreeMap<Vec<(String, String)>, (f64, f64)> = BTreeMap::new();
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, words) = help.split_once(' ').unwrap();
            assert!(is_name(name, true) && words.ends_with('.'), "{line}");
            assert!(!seen.iter().any(|other| other == name), "{name} twice");
            seen.push(name.to_owned());
            (current, kind) = (name.to_owned(), String::new());
            buckets.clear();
            continue;
        }
        if let Some(words) = line.strip_prefix("# TYPE ") {
            let (name, what) = words.split_once(' ').unwrap();
            assert!(name == current && kind.is_empty(), "{line}");
            assert!(["counter", "gauge", "histogram"].contains(&what), "{line}");
            kind = what.to_owned();
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            continue;
        }
        let (id, value) = line.rsplit_once(' ').unwrap();
        let value: f64 = value.parse().unwrap();
        let (name, inner) = match id.split_once('{') {
            Some((name, rest)) => (name, rest.strip_suffix('}').unwrap()),
            None => (id, ""),
        };
        let mut labels = labels(inner);
        match kind.as_str() {
            "histogram" => match name.strip_prefix(&current).unwrap() {
                "_bucket" => {
                    let (le, bound) = labels.pop().unwrap();
                    assert_eq!(le, "le");
                    let bound: f64 = bound.parse().unwrap();
                    let before = buckets.insert(labels, (bound, value));
                    let (last, count) = before.unwrap_or((f64::NEG_INFINITY, 0.0));
                    assert!(bound > last && value >= count, "{line}");
                }
                "_count" => assert_eq!(buckets[&labels], (f64::INFINITY, value), "{line}"),
                suffix => assert!(suffix == "_sum" && value >= 0.0, "{line}"),
            },
            "counter" => assert!(
                name == current && value >= 0.0 && value.fract() == 0.0,
                "{line}"
            ),
            "gauge" => assert_eq!(name, current),
            _ => panic!("no type before {line}"),
        }
        assert_eq!(samples.insert(id.to_owned(), value), None, "{id} twice");
    }
    samples
}

/// Asks a socket as a program that speaks HTTP, or that says nothing. What is said too late is not
/// heard.
fn ask(socket: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    let _ = stream.write_all(request.as_bytes());
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8(bytes).unwrap()
}

#[test]
fn metrics_are_right_and_read_by_other_programs() {
    let Some(_) = guests() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (disk, out) = (
        image(folder.path(), "disk", 32 << 20),
        folder.path().join("out"),
    );
    let (file, socket) = (folder.path().join("file"), folder.path().join("socket"));
    let metrics = format!("file={},interval=1,unix={}", path(&file), path(&socket));
    let (console, disk) = (format!("file={}", path(&out)), path(&disk).to_owned());
    // Reads are of 64 KiB and nobody reads ahead: what is asked for is what is read.
    let script = "dd if=/dev/vdb of=/dev/null bs=64k count=100 iflag=direct 2>/dev/null; \
                  dd if=/dev/zero of=/dev/vdb bs=64k count=50 oflag=direct 2>/dev/null; \
                  sync; echo done; read forever";
    let cmdline = format!("mote.run=\"{script}\"");
    let mut arguments = vec![
        "--metrics",
        &metrics,
        "--console",
        &console,
        "--disk",
        &disk,
    ];
    arguments.extend(["--balloon", "32M,stats=1", "--cmdline", &cmdline]);
    let mut mote = mote(&arguments).spawn().unwrap();
    until("the guest", || {
        fs::read_to_string(&out).is_ok_and(|text| text.contains("done"))
    });
    let balloon = "mote_balloon_actual_bytes";
    until("the balloon", || {
        parse(&ask(&socket, ""))[balloon] == f64::from(32 << 20)
    });
    let total = "mote_guest_memory_total_bytes";
    // Of a guest that misses what the balloon holds: the first ones may be older.
    until("statistics", || {
        let bytes = parse(&ask(&socket, "")).get(total).copied();
        bytes.is_some_and(|bytes| bytes < f64::from(96 << 20))
    });

    // By HTTP, by silence, by programs, and in the file.
    // On a busy host a request may come so late that it passes for silence.
    let mut http = String::new();
    until("an answer by HTTP", || {
        http = ask(&socket, "GET /metrics HTTP/1.1\r\nHost: mote\r\n\r\n");
        http.starts_with("HTTP/")
    });
    let (head, text) = http.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.0 200 OK\r\n"), "{head}");
    assert!(
        head.contains("Content-Type: text/plain; version=0.0.4"),
        "{head}"
    );
    let samples = parse(text);
    let names: Vec<_> = samples.keys().collect();
    let address = format!("UNIX-CONNECT:{}", path(&socket));
    for (program, arguments) in [
        ("socat", ["-u", &address, "-"].as_slice()),
        (
            "curl",
            &["-sS", "--unix-socket", path(&socket), "http://mote/metrics"],
        ),
    ] {
        let mut output = Command::new(program).args(arguments).output();
        until("a program that is answered in kind", || {
            let late = output.as_ref().is_ok_and(|output| !output.status.success());
            if late {
                output = Command::new(program).args(arguments).output();
            }
            !late
        });
        match output {
            Ok(output) => {
                let text = String::from_utf8(output.stdout).unwrap();
                assert_eq!(parse(&text).keys().collect::<Vec<_>>(), names, "{program}");
            }
            Err(error) => _ = can_run("peers", Some(format!("{program}: {error}"))),
        }
    }
    assert!(!parse(&fs::read_to_string(&file).unwrap()).is_empty());

    // SAFETY: a child that was not waited for.
    unsafe { libc::kill(mote.id() as i32, libc::SIGTERM) };
    assert_eq!(mote.wait().unwrap().code(), Some(143));
    assert!(!socket.exists());
    let last = parse(&fs::read_to_string(&file).unwrap());
    for (name, value) in &samples {
        let family = name.split('{').next().unwrap();
        let grows = family.ends_with("_total") || family.ends_with("_bucket");
        assert!(
            !grows || last[name] >= *value,
            "{name}: {value}, then {}",
            last[name]
        );
    }
    for samples in [&samples, &last] {
        let blk = |op: &str, what: &str| {
            samples[&format!("mote_blk_{what}{{device=\"vdb\",op=\"{op}\"}}")]
        };
        assert_eq!(blk("write", "bytes_total"), f64::from(50 << 16));
        assert_eq!(blk("write", "requests_total"), 50.0);
        // The kernel looks for partitions besides: some KiB.
        let read = blk("read", "bytes_total") - f64::from(100 << 16);
        assert!((0.0..=f64::from(256 << 10)).contains(&read), "{read}");
        assert_eq!(blk("read", "errors_total"), 0.0);
        assert_eq!(samples["mote_memory_bytes"], f64::from(128 << 20));
        assert!(samples["mote_memory_resident_bytes{of=\"guest\"}"] > 0.0);
        assert!(samples["mote_boot_seconds{until=\"init\"}"] > 0.0);
        assert!(samples["mote_balloon_bytes_total{op=\"inflate\"}"] >= f64::from(32 << 20));
        assert!(samples["mote_vm_exits_total{reason=\"mmio_write\"}"] > 0.0);
        let kvm = samples["mote_kvm_exits_total{vcpu=\"0\"}"];
        let one = samples[native::SERIAL_EXITS];
        assert!(kvm > one && one > 0.0, "{kvm} and {one}");
        assert!(samples["mote_kvm_halt_sleep_seconds_count"] > 0.0);
        assert!(samples["mote_device_exits_total{device=\"serial\",op=\"write\"}"] > 0.0);
    }
}

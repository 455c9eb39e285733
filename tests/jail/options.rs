//! Options that need something special of the host, in a jail.

use super::*;

#[test]
fn options_that_look_at_the_host_work_inside_too() {
    if !can_jail() {
        return;
    }
    let place = Place::new(Code::new().print("ready").reset());
    let folder = place.folder.path();
    let file = |name: &str, size: usize| {
        let path = folder.join(name);
        fs::write(&path, vec![0; size]).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (disk, mapped) = (file("disk.img", 1 << 20), file("mapped.img", 1 << 20));
    let direct = format!("{disk},engine=io_uring,queues=2");
    let mapped = format!("{mapped},dax,cow");
    let json = folder.join("timings.json");
    let timings = format!("json={}", json.display());
    let cases: &[&[&str]] = &[
        &["--pin", "0=0", "--io-cpus", "0"],
        &["--disk", &direct, "--disk", &mapped],
        &["--console", "hvc"],
        &["--kernel-load", "map"],
        &["--memory", "64M,prefault=on"],
        &["--timings", &timings],
    ];
    for options in cases {
        let (code, said) = place.run("", options);
        assert_eq!((code, said.as_str()), (0, ""), "{options:?}");
        place.assert_clean();
    }
    let json: serde_json::Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    assert!(json["exec_to_first_run_us"].is_u64(), "{json}");
}

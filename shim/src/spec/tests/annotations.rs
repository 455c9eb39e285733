//! The size of a virtual machine, and whose it is.

use crate::spec::{sandbox_id, sizing};

use super::*;

fn size(resources: Value, annotations: Value) -> (Option<u64>, Option<u32>) {
    let mut asked = with("/linux/resources", resources);
    put(&mut asked, "/annotations", annotations);
    sizing(&spec(&asked)).unwrap()
}

#[test]
fn the_size_is_the_users_then_the_pods_then_the_containers() {
    let own =
        || json!({"memory": {"limit": 1 << 28}, "cpu": {"quota": 150_000, "period": 100_000}});
    assert_eq!(size(json!({}), json!({})), (None, None));
    assert_eq!(size(own(), json!({})), (Some(1 << 28), Some(2)));
    let pod = json!({
        "io.kubernetes.cri.sandbox-memory": "536870912",
        "io.kubernetes.cri.sandbox-cpu-quota": "300001",
        "io.kubernetes.cri.sandbox-cpu-period": "100000",
        "io.kubernetes.cri.sandbox-cpu-shares": "8192",
    });
    assert_eq!(size(own(), pod.clone()), (Some(1 << 29), Some(4)));
    let mut user = pod;
    user["io.mote.memory"] = json!("1G");
    user["io.mote.vcpus"] = json!("8");
    assert_eq!(size(own(), user), (Some(1 << 30), Some(8)));
}

#[test]
fn what_is_no_limit_says_nothing() {
    let none = json!({
        "io.kubernetes.cri.sandbox-memory": "0",
        "io.kubernetes.cri.sandbox-cpu-quota": "0",
        "io.kubernetes.cri.sandbox-cpu-period": "100000",
        "io.kubernetes.cri.sandbox-cpu-shares": "2",
    });
    assert_eq!(
        size(json!({"memory": {"limit": -1}, "cpu": {"quota": -1}}), none),
        (None, None)
    );
    let shares = json!({"io.kubernetes.cri.sandbox-cpu-shares": "2500"});
    assert_eq!(size(json!({}), shares).1, Some(3), "what is asked for");
}

#[test]
fn processors_are_counted() {
    assert_eq!(
        size(json!({"cpu": {"cpus": "8-11,20"}}), json!({})).1,
        Some(5)
    );
    assert_eq!(
        size(
            json!({"cpu": {"cpus": "8-11", "quota": 200_000}}),
            json!({})
        )
        .1,
        Some(2)
    );
    assert_eq!(
        size(
            json!({"cpu": {"cpus": "8-11", "quota": 900_000}}),
            json!({})
        )
        .1,
        Some(4)
    );
    assert_eq!(
        size(json!({"cpu": {"quota": i64::MAX, "period": 1}}), json!({})).1,
        Some(64)
    );
}

#[test]
fn a_wrong_wish_is_told() {
    for (name, value, start) in [
        (
            "io.mote.memory",
            "much",
            "annotations.io.mote.memory: `much` is not a size",
        ),
        (
            "io.mote.memory",
            "0",
            "annotations.io.mote.memory: must be more than 0",
        ),
        (
            "io.mote.vcpus",
            "0",
            "annotations.io.mote.vcpus: `0`: a VM has 1 to 64 vCPUs",
        ),
        ("io.mote.vcpus", "65", "annotations.io.mote.vcpus: `65`"),
        ("io.mote.vcpus", "two", "annotations.io.mote.vcpus: `two`"),
    ] {
        let mut asked = ctr();
        asked["annotations"][name] = json!(value);
        let text = sizing(&spec(&asked)).unwrap_err().to_string();
        assert!(text.starts_with(start), "{text}");
    }
}

#[test]
fn a_container_knows_its_pod() {
    let folder = tempfile::tempdir().unwrap();
    let container = spec(&cri(folder.path()));
    assert_eq!(sandbox_id(container.annotations()), Some("e2b4c1"));
    let mut pause = cri(folder.path());
    pause["annotations"]["io.kubernetes.cri.container-type"] = json!("sandbox");
    let lone = spec(&ctr());
    assert_eq!(sandbox_id(lone.annotations()), None);
}

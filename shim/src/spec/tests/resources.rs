//! Limits, and those that there is no way to set.

use mote_agent_protocol::container::Limits;

use super::*;

fn limits(name: &str, value: Value) -> Limits {
    let asked = with(&format!("/linux/resources/{name}"), value);
    container(&asked, None, &full()).unwrap().limits
}

#[test]
fn limits_are_those_of_version_2() {
    let memory = |memory| limits("memory", memory).memory;
    assert_eq!(memory(json!({"limit": 1 << 20})), Some(1 << 20));
    assert_eq!(memory(json!({"limit": -1, "swap": -1})), None);
    assert_eq!(memory(json!({"limit": 0, "swap": 0})), None);
    assert_eq!(memory(json!({"limit": 5, "swap": 9})), Some(5));
    let cpu = |cpu| limits("cpu", cpu);
    assert_eq!(cpu(json!({"quota": 50_000})).cpu, Some((50_000, 100_000)));
    assert_eq!(
        cpu(json!({"quota": 5_000, "period": 10_000})).cpu,
        Some((5_000, 10_000))
    );
    assert_eq!(cpu(json!({"quota": -1, "period": 7})).cpu, None);
    for (shares, weight) in [
        (2, 1),
        (1024, 39),
        (262_144, 10_000),
        (1, 1),
        (u64::MAX, 10_000),
    ] {
        assert_eq!(
            cpu(json!({"shares": shares})).cpu_weight,
            Some(weight),
            "{shares}"
        );
    }
    assert_eq!(cpu(json!({"shares": 0})).cpu_weight, None);
    assert_eq!(limits("pids", json!({"limit": 100})).pids, Some(100));
    assert_eq!(limits("pids", json!({"limit": -1})).pids, None);
    assert_eq!(limits("pids", json!({"limit": 0})).pids, None);
}

#[test]
fn numbers_of_the_hosts_mean_nothing_in_a_guest() {
    ignored();
    assert_eq!(
        limits("cpu", json!({"cpus": "8-11", "mems": "1"})),
        Limits::default()
    );
    assert_eq!(
        ignored(),
        ["linux.resources.cpu.cpus", "linux.resources.cpu.mems"]
    );
    let memory = json!({"reservation": 5, "kernel": 5, "kernelTCP": 5, "swappiness": 60, "disableOOMKiller": false});
    assert_eq!(limits("memory", memory), Limits::default());
    let fields = ["reservation", "kernel", "kernelTCP", "swappiness"];
    assert_eq!(
        ignored(),
        fields.map(|field| format!("linux.resources.memory.{field}"))
    );
}

#[test]
fn a_controller_that_is_not_there_matters_to_a_pod_only() {
    ignored();
    let mut kernel = full();
    kernel.controllers = vec!["memory".to_owned()];
    let mut asked = with("/linux/resources/cpu", json!({"quota": 1, "shares": 2}));
    put(&mut asked, "/linux/resources/memory", json!({"limit": 7}));
    let made = container(&asked, None, &kernel).unwrap().limits;
    let expected = Limits {
        memory: Some(7),
        ..Limits::default()
    };
    assert_eq!(made, expected);
    assert_eq!(
        ignored(),
        ["linux.resources.cpu.quota", "linux.resources.cpu.shares"]
    );
    let text = container(&asked, Some("pod"), &kernel)
        .unwrap_err()
        .to_string();
    assert!(
        text.starts_with("linux.resources.cpu.quota: the guest's kernel has no"),
        "{text}"
    );
}

#[test]
fn each_refusal_names_its_field() {
    let throttle = || json!([{"major": 8, "minor": 0, "rate": 1}]);
    for (name, value, start) in [
        ("memory", json!({"swap": 5}), "memory.swap: is together"),
        (
            "memory",
            json!({"limit": 9, "swap": 5}),
            "memory.swap: 5: is together",
        ),
        (
            "memory",
            json!({"disableOOMKiller": true}),
            "memory.disableOOMKiller: ",
        ),
        (
            "cpu",
            json!({"quota": 1, "period": 999}),
            "cpu.period: 999: ",
        ),
        (
            "cpu",
            json!({"quota": 1, "period": 1_000_001}),
            "cpu.period: 1000001: ",
        ),
        (
            "cpu",
            json!({"realtimeRuntime": 1}),
            "cpu.realtimeRuntime: ",
        ),
        ("cpu", json!({"realtimePeriod": 1}), "cpu.realtimePeriod: "),
        ("cpu", json!({"burst": 1}), "cpu.burst: "),
        ("cpu", json!({"idle": 1}), "cpu.idle: "),
        ("blockIO", json!({"weight": 10}), "blockIO.weight: "),
        ("blockIO", json!({"leafWeight": 10}), "blockIO.leafWeight: "),
        (
            "blockIO",
            json!({"weightDevice": [{"major": 8, "minor": 0}]}),
            "blockIO.weightDevice: ",
        ),
        (
            "blockIO",
            json!({"throttleReadBpsDevice": throttle()}),
            "blockIO.throttleReadBpsDevice: ",
        ),
        (
            "blockIO",
            json!({"throttleWriteIOPSDevice": throttle()}),
            "blockIO.throttleWriteIOPSDevice: ",
        ),
        (
            "hugepageLimits",
            json!([{"pageSize": "2MB", "limit": 1}]),
            "hugepageLimits: ",
        ),
        ("network", json!({"classID": 1}), "network.classID: "),
        (
            "network",
            json!({"priorities": [{"name": "eth0", "priority": 1}]}),
            "network.priorities: ",
        ),
        ("rdma", json!({"mlx5_1": {"hcaHandles": 3}}), "rdma: "),
        (
            "unified",
            json!({"memory.high": "5"}),
            "unified.memory.high: ",
        ),
    ] {
        let text = refusal(&with(&format!("/linux/resources/{name}"), value));
        assert!(
            text.starts_with(&format!("linux.resources.{start}")),
            "{name}: {text}"
        );
    }
}

#[test]
fn what_says_nothing_is_taken() {
    for (name, value) in [
        ("blockIO", json!({})),
        ("blockIO", json!({"weight": 0, "weightDevice": []})),
        (
            "cpu",
            json!({"idle": 0, "burst": 0, "realtimeRuntime": 0, "cpus": "", "mems": ""}),
        ),
        ("hugepageLimits", json!([{"pageSize": "2MB", "limit": 0}])),
        ("network", json!({"classID": 0, "priorities": []})),
        ("rdma", json!({})),
        ("unified", json!({})),
    ] {
        assert_eq!(limits(name, value), Limits::default(), "{name}");
    }
}

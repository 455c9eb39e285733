use super::super::HostNode;
use super::*;

fn list(text: &str) -> CpuList {
    CpuList::of_kernel(text).unwrap()
}

/// Four CPUs on two nodes, of which this process may use all but CPU 0, and a node of memory only.
fn host() -> HostCpus {
    let node = |id, cpus, has_memory| HostNode {
        id,
        cpus: list(cpus),
        has_memory,
    };
    HostCpus {
        online: list("0-3"),
        allowed: list("1-3"),
        nodes: vec![
            node(0, "0-1", true),
            node(1, "2-3", true),
            node(2, "", true),
            node(4, "", false),
        ],
        allowed_nodes: list("0-2,4"),
        rt_runtime: Some(950_000),
        ..HostCpus::default()
    }
}

fn plan(toml: &str) -> Result<Plan, String> {
    let text = format!("cpus = 2\nmemory = \"1G\"\n[boot]\nkernel = \"k\"\n{toml}");
    let config: VmConfig = toml::from_str(&text).unwrap();
    config.validate().unwrap();
    Plan::new(&config, &host()).map_err(|e| e.to_string())
}

fn cpus(plan: &Plan) -> Vec<Option<String>> {
    let text = |place: &VcpuPlace| place.cpus.as_ref().map(CpuList::to_string);
    plan.vcpus.iter().map(text).collect()
}

#[test]
fn nothing_asked_for_is_no_plan() {
    assert_eq!(Plan::of(&VmConfig::default()).unwrap(), None);
}

#[test]
fn pins_and_the_others_cpus_are_what_was_asked_for() {
    let plan = plan("[placement]\npin = \"1=2-3\"\nio-cpus = \"1\"\nsched = \"1=rr:3\"").unwrap();
    assert_eq!(cpus(&plan), [None, Some("2-3".to_owned())]);
    assert_eq!(plan.vcpus[1].policy, Policy::RoundRobin(3));
    assert_eq!(plan.io, Some(list("1")));
    assert!(plan.memory.is_empty() && plan.warnings.is_empty());
}

#[test]
fn cpus_that_are_not_there_or_not_ours_are_refused() {
    let error = |toml: &str| plan(&format!("[placement]\n{toml}")).unwrap_err();
    assert_eq!(
        error("pin = \"0=2,1=4\""),
        "--pin 0=2,1=4: CPU 4 is not online on this host; 0-3 are"
    );
    assert_eq!(
        error("pin = \"0=0-1\""),
        "--pin 0=0-1: CPU 0 is not among those that this process may use (1-3): choose of these, or \
         change its cpuset or taskset"
    );
    assert!(error("io-cpus = \"3-5\"").starts_with("--io-cpus 3-5: CPUs 4-5 are not online"));
    assert!(error("io-cpus = \"0\"").contains("may use (1-3)"));
}

#[test]
fn a_node_gives_its_memory_and_its_cpus() {
    let plan = |more: &str| plan(&format!("[placement]\nnuma-node = 1\n{more}")).unwrap();
    let whole = NodeMemory {
        bytes: 1 << 30,
        host_node: Some(1),
    };
    let all = plan("");
    assert_eq!(cpus(&all), [Some("2-3".to_owned()), Some("2-3".to_owned())]);
    assert_eq!((all.io, all.memory), (Some(list("2-3")), vec![whole]));
    let pinned = plan("pin = \"0=1\"\nio-cpus = \"1\"");
    assert_eq!(
        cpus(&pinned),
        [Some("1".to_owned()), Some("2-3".to_owned())]
    );
    assert_eq!(pinned.io, Some(list("1")));
}

#[test]
fn nodes_without_what_is_needed_are_refused_by_name() {
    let error = |toml: &str| plan(&format!("[placement]\n{toml}")).unwrap_err();
    assert_eq!(
        error("numa-node = 3"),
        "--numa-node=3: no such node is online; this host has 0-2,4"
    );
    assert_eq!(
        error("numa-node = 4"),
        "--numa-node=4: this node of the host has no memory; those with some: 0-2"
    );
    let error = error("numa-node = 2\npin = \"0=1\"");
    assert!(
        error.contains("none of this node's CPUs (it has none); give others by --pin"),
        "{error}"
    );
    assert!(plan("[placement]\nnuma-node = 2\npin = \"1-2\"\nio-cpus = \"3\"").is_ok());
    let mut host = host();
    host.allowed_nodes = list("0");
    let mut config = VmConfig::default();
    config.placement.numa_node = Some(1);
    let error = Plan::new(&config, &host).unwrap_err().to_string();
    assert!(
        error.contains("cpuset of this process, which has 0"),
        "{error}"
    );
    host.nodes.clear();
    let error = Plan::new(&config, &host).unwrap_err().to_string();
    assert!(error.contains("no NUMA nodes"), "{error}");
}

#[test]
fn each_guest_node_is_on_its_own_host_node() {
    let nodes = |first: &str, second: &str| {
        format!(
            "[[numa]]\nnode = 1\ncpus = \"0\"\nmemory = \"768M\"\n{first}\n[[numa]]\nnode = 0\ncpus = \
             \"1\"\nmemory = \"256M\"\n{second}\n"
        )
    };
    let both = plan(&nodes("host-node = 1", "host-node = 0")).unwrap();
    assert_eq!(cpus(&both), [Some("2-3".to_owned()), Some("1".to_owned())]);
    let part = |mib: u64, host_node| NodeMemory {
        bytes: mib << 20,
        host_node,
    };
    assert_eq!(both.memory, [part(256, Some(0)), part(768, Some(1))]);
    assert_eq!(both.io, None);
    let one = plan(&nodes("host-node = 1", "")).unwrap();
    assert_eq!(one.memory, [part(256, None), part(768, Some(1))]);
    assert_eq!(cpus(&one), [Some("2-3".to_owned()), None]);
    let none = plan(&nodes("", "")).unwrap();
    assert!(none.memory.is_empty());
    let error = plan(&nodes("host-node = 9", "")).unwrap_err();
    assert!(
        error.starts_with("--numa host-node=9: no such node"),
        "{error}"
    );
}

#[test]
fn a_real_time_vcpu_that_would_starve_the_rest_is_refused() {
    let error =
        plan("[placement]\npin = \"0=1\"\nio-cpus = \"1\"\nsched = \"0=fifo:1\"").unwrap_err();
    assert!(
        error.contains("mote's other threads (1)") && error.contains("--io-cpus 2-3"),
        "{error}"
    );
    let forced =
        plan("[placement]\npin = \"0=1\"\nio-cpus = \"1\"\nsched = \"0=fifo:1,force\"").unwrap();
    assert_eq!(forced.warnings.len(), 1);
}

use super::*;

fn valid() -> VmConfig {
    let mut config = VmConfig::default();
    config.boot.kernel = Some("vmlinux".into());
    config
}

#[test]
fn defaults_need_only_a_kernel() {
    assert_eq!(VmConfig::default().validate(), Err(ConfigError::NoKernel));
    assert_eq!(valid().validate(), Ok(()));
}

#[test]
fn a_path_too_long_for_a_socket_is_named() {
    let path = "x".repeat(MAX_SOCKET_PATH + 1);
    for (text, option) in [
        (
            format!("[[disks]]\nvhost-user = '{path}'"),
            "--disk vhost-user=x",
        ),
        (
            format!("[[nets]]\nvhost-user = '{path}'"),
            "--net vhost-user=x",
        ),
        (
            format!("[[fs]]\ntag = 'a'\nsocket = '{path}'"),
            "--fs socket=x",
        ),
        (format!("[metrics]\nunix = '{path}'"), "--metrics unix=x"),
    ] {
        let validate = |text: &str| {
            let config: VmConfig = toml::from_str(text).unwrap();
            VmConfig {
                boot: valid().boot,
                ..config
            }
            .validate()
        };
        let error = validate(&text).unwrap_err().to_string();
        assert!(
            error.starts_with(option) && error.contains("107"),
            "{error}"
        );
        assert_eq!(validate(&text.replacen("'x", "'", 1)), Ok(()), "{option}");
    }
}

#[test]
fn values_out_of_range_are_refused_by_name() {
    let mut config = valid();
    for cpus in [0, MAX_CPUS + 1] {
        config.cpus = Cpus(cpus);
        assert_eq!(config.validate(), Err(ConfigError::Cpus(cpus)));
    }
    config = valid();
    config.memory = Size::mib(2).into();
    assert!(
        config
            .validate()
            .unwrap_err()
            .to_string()
            .contains("--memory 2M")
    );
    config.memory = Size::new(MAX_MEMORY.bytes() + 1).into();
    assert_eq!(
        config.validate().unwrap_err().to_string(),
        "--memory 1099511627777: a VM has at most 1T"
    );
    config.memory = Size::new((128 << 20) + 4096).into();
    assert!(matches!(
        config.validate(),
        Err(ConfigError::MemoryUnaligned(_))
    ));
    config = valid();
    config.disks.push(Disk {
        id: Some("x".repeat(21)),
        ..Disk::default()
    });
    assert!(matches!(config.validate(), Err(ConfigError::DiskId(_))));
}

#[test]
fn a_file_says_the_same_as_it_prints() {
    let text = r#"
        cpus = 4
        memory = "2G"
        acpi = "on"
        console = { file = "out.log" }
        [boot]
        kernel = "vmlinux"
        cmdline = "quiet"
        [rootfs]
        path = "root.ext4"
        ro = true
        [[disks]]
        path = "data.img"
        cache = "none"
    "#;
    let config: VmConfig = toml::from_str(text).unwrap();
    assert_eq!(config.memory.size, Size::gib(2));
    assert_eq!(config.console, Console::File("out.log".into()));
    assert_eq!(config.drives().count(), 2);
    let printed = toml::to_string(&config).unwrap();
    assert_eq!(toml::from_str::<VmConfig>(&printed).unwrap(), config);
    let json = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<VmConfig>(&json).unwrap(), config);
}

#[test]
fn a_mapped_kernel_is_refused_where_its_pages_would_not_stay_the_files() {
    for (more, part) in [
        ("", None),
        ("memory = { prefault = true }", Some("prefault=on: ")),
        ("memory = { mlock = true }", Some("--mlock: ")),
        ("balloon = {}", Some("--balloon: ")),
        ("memory = { hugepages = '2M', size = '1G' }", None),
    ] {
        let text = format!("boot = {{ kernel = 'k', load = 'map' }}\n{more}");
        let config: VmConfig = toml::from_str(&text).unwrap();
        match (config.validate(), part) {
            (Ok(()), None) => {}
            (Err(error), Some(part)) => {
                let text = format!("--kernel-load map with {part}");
                assert!(
                    error
                        .to_string()
                        .replace("--memory ", "")
                        .starts_with(&text),
                    "{error}"
                );
            }
            (result, _) => panic!("{text}: {result:?}"),
        }
    }
}

#[test]
fn an_unknown_key_is_an_error() {
    assert!(toml::from_str::<VmConfig>("cpu = 4").is_err());
}

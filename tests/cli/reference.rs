//! docs/cli.md is what the help says, and its sample configuration is one.

use super::*;

/// A configuration with everything in it, for docs/cli.md.
const SAMPLE: &str = include_str!("sample.toml");

#[test]
fn the_sample_configuration_is_one() {
    let config: motevm::VmConfig = toml::from_str(SAMPLE).unwrap();
    assert_eq!(config.validate(), Ok(()));
    assert_eq!(config.drives().count(), 4);
    for console in [r#"{ hvc = "stdio" }"#, r#"{ hvc = { file = "PATH" } }"#] {
        let text = SAMPLE.replacen(r#""stdio""#, console, 1);
        let config: motevm::VmConfig = toml::from_str(&text).unwrap();
        assert!(!config.console.is_serial(), "{console}");
    }
}

#[test]
fn the_reference_is_what_the_help_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cli.md");
    let mut page = String::from(
        "# Command line\n\n\
         This page is what `mote help` prints, kept so by a test (tests/cli/reference.rs). After a change to an \
         option, `UPDATE_DOCS=1 cargo test --test cli` writes it anew.\n\n\
         A configuration file (`--config`) says the same in TOML, or in JSON where its name ends in \
         `.json`. What is left out has its default; an unknown key is an error; options on the \
         command line override the file, and `--disk`, `--net`, `--fs` and `--numa` options replace all that it has \
         of that sort. Keys are the options' names and keys, with hyphens; `cpu_mask`, `halt_poll` and \
         `cmdline_only` may be written either way:\n",
    );
    page += &format!("\n```toml\n{SAMPLE}```\n");
    let (_, main, _) = outcome(&["help"]);
    let commands = main.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands = commands.map_while(|line| line.split_whitespace().next());
    let names: Vec<_> = commands.filter(|name| *name != "help").collect();
    assert!(names.contains(&"run"), "{main}");
    let own = names.iter().map(|name| vec![*name]);
    let bench = names.iter().filter(|name| **name == "bench");
    let below = |name| ["boot", "launch", "idle"].map(|below| vec![name, below]);
    let helps = own.chain(bench.flat_map(|name| below(*name)));
    let helps = helps.map(|words| {
        let arguments = [&words[..], &["--help"]].concat();
        (format!("mote {}", words.join(" ")), arguments)
    });
    for (title, arguments) in std::iter::once(("mote".to_owned(), vec!["help"])).chain(helps) {
        let (code, help, err) = outcome(&arguments);
        assert_eq!(code, 0, "{err}");
        let help: Vec<_> = help.lines().map(str::trim_end).collect();
        page += &format!(
            "\n## {title}\n\n```text\n{}\n```\n",
            help.join("\n").trim_end()
        );
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == page,
        "docs/cli.md is out of date: UPDATE_DOCS=1 cargo test --test cli"
    );
}

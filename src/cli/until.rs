//! `--until`: what ends a VM whose guest goes on.

use motevm::config::Console;
use motevm::machine::Until;

use super::CliError;

/// The most bytes of a text that is waited for.
const MAX_TEXT: usize = 256;

/// Reads `init` or `serial:TEXT`.
pub fn parse(text: &str) -> Result<Until, String> {
    match text.split_once(':') {
        None if text == "init" => Ok(Until::Init),
        Some(("serial", marker)) if !marker.is_empty() && marker.len() <= MAX_TEXT => {
            Ok(Until::Printed(marker.to_owned()))
        }
        _ => Err(format!(
            "must be init, or serial:TEXT with a text of 1 to {MAX_TEXT} bytes"
        )),
    }
}

/// As it is written on a command line.
pub fn written(until: &Until) -> String {
    match until {
        Until::End => "end".to_owned(),
        Until::Init => "init".to_owned(),
        Until::Printed(text) => format!("serial:{text}"),
    }
}

/// Refuses to wait for a text on a console that isn't there.
pub fn check(until: &Until, console: &Console) -> Result<(), CliError> {
    if matches!(until, Until::Printed(_)) && *console == Console::None {
        return Err(CliError::usage(format!(
            "--until {}: there is no console to see it on; leave out --console none",
            written(until)
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_init_or_a_text() {
        for text in ["init", "serial:login:", "serial: "] {
            assert_eq!(
                parse(text).map(|until| written(&until)),
                Ok(text.to_owned())
            );
        }
        for text in [
            "",
            "serial",
            "serial:",
            "tty:x",
            "Init",
            &format!("serial:{:257}", ""),
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_text_needs_a_console() {
        let text = Until::Printed("x".to_owned());
        assert!(check(&text, &Console::Stdio).is_ok());
        assert!(check(&Until::Init, &Console::None).is_ok());
        let error = check(&text, &Console::None).unwrap_err().to_string();
        assert!(error.contains("--console none"), "{error}");
    }
}

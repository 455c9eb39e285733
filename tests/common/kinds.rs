//! Kinds of tests that not every host can run: what can't is said, and where it has to run, it fails. The agent's tests
//! use it too.

use std::io::Write;

/// Whether the tests of `kind` can run; if not, says why. Where `MOTE_REQUIRE` names the kind,
/// not being able to is a failure.
pub fn can_run(kind: &str, obstacle: Option<String>) -> bool {
    let Some(obstacle) = obstacle else {
        return true;
    };
    let required = std::env::var("MOTE_REQUIRE").unwrap_or_default();
    let required = required.split(',').any(|word| word == kind);
    assert!(!required, "MOTE_REQUIRE={kind}, but {obstacle}");
    // Straight to the stream: the test harness would swallow what a passing test prints.
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(
        std::io::stderr(),
        "NOT RUN (kind {kind}): {test}: {obstacle}"
    );
    false
}

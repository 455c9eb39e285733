//! Requests before there is a VM; tests/api.rs has the others.

use super::super::desk::Desk;
use super::super::http::Service;
use super::*;

fn ask(desk: &Desk, method: &str, path: &str, body: &str) -> Reply {
    desk.answer(Request {
        method: method.to_owned(),
        path: path.to_owned(),
        body: body.as_bytes().to_vec(),
    })
}

fn now(desk: &Desk, method: &str, path: &str, body: &str) -> (u16, String) {
    match ask(desk, method, path, body) {
        Reply::Now(answer) => (answer.status, String::from_utf8(answer.body).unwrap()),
        Reply::Later(_) => panic!("{path} isn't answered"),
    }
}

#[test]
fn a_start_waits_for_its_outcome_and_nothing_changes_meanwhile() {
    let desk = Desk::new("x", None);
    let source = r#"{ "kernel_image_path": "/dev/null" }"#;
    assert_eq!(
        now(&desk, "PUT", "/boot-source", source),
        (204, String::new())
    );
    assert!(!desk.is_decided() && desk.config().is_none());
    let start = r#"{ "action_type": "InstanceStart" }"#;
    let Reply::Later(later) = ask(&desk, "PUT", "/actions", start) else {
        panic!("answered before it is known");
    };
    assert!(desk.is_decided() && later.is_awaited());
    assert_eq!(desk.config().unwrap().boot.kernel, Some("/dev/null".into()));
    for (path, body) in [("/boot-source", source), ("/actions", start)] {
        let (status, text) = now(&desk, "PUT", path, body);
        assert!(
            status == 400 && text.contains("after the microVM has started"),
            "{text}"
        );
    }
    desk.refuse("it doesn't want to");
    assert!(!desk.is_decided());
    assert_eq!(now(&desk, "PUT", "/boot-source", source).0, 204);
}

#[test]
fn a_log_that_is_not_the_apis_is_not_set_by_it() {
    let desk = Desk::new("x", None);
    let (status, text) = now(&desk, "PUT", "/logger", r#"{ "level": "Info" }"#);
    assert!(status == 400 && text.contains("log"), "{text}");
}

#[test]
fn names_are_simple_and_the_same_in_path_and_body() {
    for name in ["a", "eth0", "A-b_c.9", &"x".repeat(64)] {
        assert!(check_name(name, name).is_ok(), "{name}");
    }
    for name in ["", "a/b", "a b", "ü", &"x".repeat(65)] {
        assert!(check_name(name, name).is_err(), "{name}");
    }
    assert!(check_name("a", "b").is_err());
}

#[test]
fn paths_are_taken_with_and_without_a_stroke_too_many() {
    let desk = Desk::new("x", None);
    for path in ["/version", "/version/", "//version"] {
        assert_eq!(now(&desk, "GET", path, "").0, 200, "{path}");
    }
    for (method, path) in [
        ("POST", "/version"),
        ("GET", "/drives/a"),
        ("GET", "/version/x"),
    ] {
        let (status, text) = now(&desk, method, path, "");
        assert!(status == 400 && text.contains("no such request"), "{text}");
    }
}

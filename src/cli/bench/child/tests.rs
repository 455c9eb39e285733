use super::*;
use vmm_sys_util::eventfd::EventFd;

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

fn wait<'a>(marker: Option<&'a str>, stop: &EventFd) -> Wait<'a> {
    Wait {
        marker,
        end_at_marker: marker.is_some(),
        limit: Duration::from_secs(60),
        stop: stop.as_raw_fd(),
    }
}

/// Whether a process is there and no zombie.
fn alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn what_it_says_and_how_it_ends_is_told() {
    let stop = EventFd::new(0).unwrap();
    let ended = run(shell("echo out; echo err >&2; exit 3"), wait(None, &stop)).unwrap();
    assert_eq!(ended.status.code(), Some(3));
    assert_eq!(
        (&ended.out[..], &ended.err[..]),
        (&b"out\n"[..], &b"err\n"[..])
    );
    assert_eq!(ended.last_words(), "; it said last: err");
    assert!(ended.marker.is_none());
}

#[test]
fn at_the_marker_it_ends_with_all_that_it_started() {
    let stop = EventFd::new(0).unwrap();
    // Neither of the two ends by itself, nor at the first asking.
    let script = "trap '' TERM; sleep 1000 & echo $!; printf 'log'; printf 'in: '; wait";
    let ended = run(shell(script), wait(Some("login:"), &stop)).unwrap();
    assert!(ended.marker.is_some() && !ended.status.success());
    let text = String::from_utf8(ended.out).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while alive(text.lines().next().unwrap()) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(!alive(text.lines().next().unwrap()), "{text}");
}

#[test]
fn without_a_marker_it_is_not_seen() {
    let stop = EventFd::new(0).unwrap();
    let ended = run(shell("echo logging"), wait(Some("login:"), &stop)).unwrap();
    assert!(ended.marker.is_none() && ended.status.success());
}

#[test]
fn a_limit_ends_it_with_its_last_words() {
    let stop = EventFd::new(0).unwrap();
    let mut wait = wait(None, &stop);
    wait.limit = Duration::from_millis(300);
    let error = run(shell("echo booting; exec sleep 1000"), wait)
        .unwrap_err()
        .to_string();
    assert!(error.contains("0.3 s"), "{error}");
}

#[test]
fn a_signal_to_this_process_ends_it() {
    let stop = EventFd::new(0).unwrap();
    stop.write(1).unwrap();
    let error = run(shell("exec sleep 1000"), wait(None, &stop)).unwrap_err();
    assert!(matches!(error, ChildError::Interrupted));
}

#[test]
fn a_program_that_does_not_exist_is_an_error() {
    let stop = EventFd::new(0).unwrap();
    let error = run(Command::new("/nonexistent/monitor"), wait(None, &stop)).unwrap_err();
    assert!(matches!(error, ChildError::Start(_)));
}

#[test]
fn a_marker_is_found_across_reads_and_in_much_output() {
    let mut stream = Stream::new(None, Some("login:"));
    let start = Instant::now();
    for _ in 0..1000 {
        stream.take(b"some output of a kernel\n", start);
    }
    assert!(stream.seen.is_none() && stream.kept.len() <= KEPT);
    stream.take(b"log", start);
    stream.take(b"in:", start);
    assert!(stream.seen.is_some());
}

#[test]
fn who_prints_without_end_is_ended_in_time() {
    let stop = EventFd::new(0).unwrap();
    let limit = Duration::from_millis(300);
    let result = run(
        Command::new("yes"),
        Wait {
            limit,
            ..wait(None, &stop)
        },
    );
    assert!(
        matches!(result, Err(ChildError::TimedOut { .. })),
        "{result:?}"
    );
    // What it leaves behind goes on printing into the same pipe.
    let ended = run(shell("yes & exit 3"), wait(None, &stop)).unwrap();
    assert_eq!(ended.status.code(), Some(3));
}

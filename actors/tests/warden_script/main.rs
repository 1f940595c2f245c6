//! The warden's script, run by the shells that instances have, against real processes. /proc is the witness.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper of a test may fail it"
)]

mod tunnel;

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::thread;

use tunnel::{Exec, LIMIT, SCRIPT, Shell, Tunnel, carrying, command_succeeds, is_alive, living, wait_until};

/// Trees of processes, and the signals that it takes to end each. Each says `up` when all of it runs.
const TREES: [(&str, &str, &str); 9] = [
    ("one program", "echo up; exec sleep 600", "TERM"),
    (
        "a shell with children",
        "sleep 600 & sleep 600 & echo up; wait",
        "TERM",
    ),
    (
        "ignores TERM",
        r#"trap "" TERM; echo up; sleep 600; sleep 600"#,
        "TERM,KILL",
    ),
    (
        "a grandchild that ignores TERM, its standard streams closed",
        r#"(trap "" TERM; exec sleep 600 <&- >&- 2>&-) & echo up; exit 0"#,
        "TERM,KILL",
    ),
    ("an escapee", "setsid sleep 600 <&- >&- 2>&- & echo up", "TERM"),
    ("stopped", "echo up; kill -STOP $$", "TERM"),
    (
        "two hundred children",
        "n=0; while [ $n -lt 200 ]; do sleep 600 & n=$((n + 1)); done; echo up; wait",
        "TERM",
    ),
    (
        "a storm of forks that ends by itself",
        r#"trap "" TERM; echo up; n=0; while [ $n -lt 100000 ]; do (exec sleep 0.1) & n=$((n + 1)); done; sleep 600"#,
        "TERM,KILL",
    ),
    (
        "an escapee in a dropped directory, with a name that looks like a stat line",
        r#"setsid sh -c "printf %s \") S 1 1 1 (\" >/proc/self/comm; read -r x </proc/self/comm; sleep 600" >&- 2>&- & echo up"#,
        "TERM",
    ),
];

fn with_each_shell(test: fn(Shell)) {
    let each = Shell::ALL.map(|shell| thread::spawn(move || test(shell)));
    for shell in each {
        shell.join().unwrap();
    }
}

#[test]
fn nothing_of_a_tree_is_left() {
    with_each_shell(|shell| {
        for (name, script, signals) in TREES {
            let mut tunnel = Tunnel::open(shell);
            let neighbour = tunnel.start("sleep 600 & echo up; wait");
            let exec = tunnel.start(script);
            assert_eq!(tunnel.end(&exec), format!("{signals} 0"), "{name} with {shell:?}");
            assert_eq!(living(&exec), [], "{name} with {shell:?}");
            assert_eq!(living(&neighbour).len(), 2, "{name} with {shell:?}");
            assert_eq!(
                tunnel.end(&exec),
                "- 0",
                "{name} with {shell:?}: nothing is left to end"
            );
        }
    });
}

/// Each process forks the next and ends, so that no list of processes is ever true.
#[test]
fn what_forks_faster_than_it_is_found_ends() {
    with_each_shell(|shell| {
        let mut tunnel = Tunnel::open(shell);
        let counted = tunnel.tools.path().join("generations");
        let exec = tunnel.start(&format!(
            "trap \"\" TERM; echo up; n=0; \
             next() {{ n=$((n + 1)); echo >>{}; [ $n -lt 200000 ] && (next &); exit; }}; next",
            counted.display()
        ));
        let answer = tunnel.end(&exec);
        let generations = fs::metadata(&counted).unwrap().len();
        assert!(answer.ends_with(" 0"), "{answer} with {shell:?}");
        wait_until("its group is gone", || {
            let group = format!("-{}", exec.session);
            !command_succeeds("kill", &["-0", "--", &group])
        });
        assert_eq!(fs::metadata(&counted).unwrap().len(), generations, "{shell:?}");
    });
}

#[test]
fn many_ends_go_on_at_once() {
    with_each_shell(|shell| {
        let mut tunnel = Tunnel::open(shell);
        let stubborn: Vec<Exec> = (0..20)
            .map(|_| tunnel.start("trap \"\" TERM; echo up; sleep 600; sleep 600"))
            .collect();
        let last = tunnel.start("echo up; exec sleep 600");
        let all: Vec<&Exec> = stubborn.iter().chain([&last]).collect();
        let asked: Vec<String> = all
            .iter()
            .map(|exec| format!("end {} {}\n", exec.id, exec.session))
            .collect();
        tunnel.ask(&asked.concat());
        let mut answers: Vec<String> = all.iter().map(|_| tunnel.line()).collect();
        let of_last = format!("ended {} TERM 0", last.id);
        assert!(
            answers.contains(&of_last) && answers.last() != Some(&of_last),
            "one after the other the one asked last would come last: {answers:?}"
        );
        let mut expected: Vec<String> = stubborn
            .iter()
            .map(|exec| format!("ended {} TERM,KILL 0", exec.id))
            .chain([of_last])
            .collect();
        answers.sort();
        expected.sort();
        assert_eq!(answers, expected, "{shell:?}");
        assert!(all.iter().all(|exec| living(exec).is_empty()));
        let children = format!("/proc/{0}/task/{0}/children", tunnel.warden.id());
        assert_eq!(
            fs::read_to_string(children).unwrap(),
            "",
            "idle, and it keeps no zombies"
        );
    });
}

#[test]
fn the_session_shows_what_the_environment_does_not() {
    with_each_shell(|shell| {
        let mut tunnel = Tunnel::open(shell);
        let scrubbed = "exec env -i sh -c \"echo up; exec sleep 600\"";
        let exec = tunnel.start(scrubbed);
        assert_eq!(tunnel.end(&exec), "TERM 0", "{shell:?}");
        assert!(!is_alive(exec.session));
        let exec = tunnel.start(scrubbed);
        let unknown = Exec {
            session: 0,
            ..exec.clone()
        };
        assert_eq!(
            tunnel.end(&unknown),
            "- 0",
            "a limit: no mark and no session, {shell:?}"
        );
        assert_eq!(tunnel.end(&exec), "TERM 0");
    });
}

/// As with sudo: the program is another user's, who may look at it and not end it.
#[test]
fn what_may_not_be_ended_is_left() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    with_each_shell(|shell| {
        let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
        let mut tunnel = Tunnel::open_as(shell, &nobody);
        let exec = tunnel.start("sleep 600 & echo up; exec sleep 600");
        assert_eq!(tunnel.end(&exec), "TERM,KILL 2", "{shell:?}");
        assert_eq!(living(&exec).len(), 2);
        let gone_leader = tunnel.start("sleep 600 & echo up");
        wait_until("its leader has ended", || !is_alive(gone_leader.session));
        assert_eq!(tunnel.end(&gone_leader), "TERM,KILL 1", "{shell:?}");
    });
}

#[test]
fn a_session_of_somebody_else_is_left_alone() {
    with_each_shell(|shell| {
        let mut tunnel = Tunnel::open(shell);
        let exec = tunnel.start("echo up; exec sleep 600");
        // A child of its own shell, so not one of sshd's.
        let shell_of_other = Command::new("sh")
            .args(["-c", "setsid sleep 600 >&- 2>&- & echo $!"])
            .output()
            .unwrap();
        let other: u32 = String::from_utf8(shell_of_other.stdout)
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        wait_until("it leads a session", || {
            fs::read_to_string(format!("/proc/{other}/stat"))
                .unwrap()
                .contains(&format!(" {other} {other} "))
        });
        let reused = Exec {
            session: other,
            ..exec.clone()
        };
        assert_eq!(tunnel.end(&reused), "TERM 0", "{shell:?}");
        assert!(is_alive(other), "{shell:?}");
        assert!(command_succeeds("kill", &[&other.to_string()]));
        // Nor is its own.
        let own = Exec {
            session: tunnel.warden.id(),
            ..tunnel.start("echo up; exec sleep 600")
        };
        assert_eq!(tunnel.end(&own), "TERM 0", "{shell:?}");
        assert_eq!(tunnel.end(&own), "- 0", "and it lives, {shell:?}");
    });
}

#[test]
fn the_end_of_the_tunnel_ends_all_that_carries_its_mark() {
    with_each_shell(|shell| {
        let mut tunnel = Tunnel::open(shell);
        let other = Tunnel::open(shell);
        let neighbour = other.start("echo up; exec sleep 600");
        let execs: Vec<Exec> = TREES.iter().map(|(_, script, _)| tunnel.start(script)).collect();
        // As with a login shell that is slow to read its own files: the mark is in no environment yet.
        let mark = &tunnel.mark;
        let late = format!("sleep 1; ADIT_TUNNEL={mark} exec sleep 600");
        let mut late = Command::new("setsid").args(["sh", "-c", &late]).spawn().unwrap();
        let late_is_gone = thread::spawn(move || late.wait());
        tunnel.ask(&format!("end {} {}\n", execs[2].id, execs[2].session));
        tunnel.lose();
        assert_eq!(carrying(&format!("ADIT_TUNNEL={}", tunnel.mark)), [], "{shell:?}");
        assert!(execs.iter().all(|exec| living(exec).is_empty()));
        late_is_gone.join().unwrap().unwrap();
        assert_eq!(living(&neighbour).len(), 1);
    });
}

#[test]
fn nobody_has_to_listen() {
    with_each_shell(|shell| {
        let mut tunnel = Tunnel::open(shell);
        let exec = tunnel.start("trap \"\" TERM; echo up; sleep 600; sleep 600");
        let mut listener = Command::new("head")
            .args(["-n", "1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut warden = shell
            .command(&tunnel.tools)
            .args(["-c", SCRIPT, "adit-warden", "nonce", &tunnel.mark])
            .stdin(Stdio::piped())
            .stdout(listener.stdin.take().unwrap())
            .spawn()
            .unwrap();
        listener.wait().unwrap();
        let mut input = warden.stdin.take().unwrap();
        input
            .write_all(format!("end {} 0\n", exec.id).as_bytes())
            .unwrap();
        drop(input);
        warden.wait().unwrap();
        assert_eq!(living(&exec), [], "{shell:?}");
        tunnel.lose();
    });
}

#[test]
fn what_is_no_order_is_passed_over() {
    with_each_shell(|shell| {
        let mut tunnel = Tunnel::open(shell);
        let exec = tunnel.start("echo up; exec sleep 600");
        tunnel.ask(&format!(
            "\nend\nend \nend .* 1\nend $(kill $$) 0\nending {0} 0\nend '{0}' 0\n  *  \nend {0}\n",
            exec.id
        ));
        assert_eq!(tunnel.answer(&exec), "TERM 0", "without a session, {shell:?}");
        tunnel.ask(&format!("end {} 1;2 rest of the line\n", exec.id));
        assert_eq!(tunnel.answer(&exec), "- 0", "{shell:?}");
    });
}

/// It must not take the silence of a `grep` that could not be started for a process table without the exec.
#[test]
fn without_grep_it_says_nothing() {
    let mut tunnel = Tunnel::open_as(Shell::Bash, &["env", "PATH=/nowhere"]);
    let exec = tunnel.start("echo up; exec sleep 600");
    tunnel.ask(&format!("end {} {}\n", exec.id, exec.session));
    tunnel.lose();
    assert!(
        tunnel.lines.recv_timeout(LIMIT).is_err(),
        "every process of the warden has ended"
    );
}

//! The one string that SSH carries to the instance's login shell.
//!
//! ```text
//! export ADIT_TUNNEL=TUNNEL ADIT_EXEC_ID=ID; cd -- DIR 2>/dev/null || { printf 'MARK-cwd\n' >&2; exit 1; }; printf 'MARK %s\n' "$$" >&2; exec WORDS
//! ```
//!
//! `exec` replaces the shell, so signals reach the program and its own end comes back as `exit-signal`. Only shell
//! builtins stand before it: nothing is forked. The marked line on standard error proves that a POSIX shell ran this
//! line and that the words are next; [`super::mark`] takes it out again.

use rand::RngExt as _;
use uuid::Uuid;

use super::request::{ExecRequest, InvalidRequest};
use crate::tunnel::TUNNEL_MARK_LENGTH;

/// Longest command line in bytes. The kernel takes 131,072 bytes for one argument, its NUL included
/// (MAX_ARG_STRLEN, 32 pages); sshd hands the line to the shell as one argument and reports a longer one like any
/// command that exits with 1.
pub const MAX_COMMAND_BYTES: usize = 131_071;

/// What stands at the beginning of the marked line of one exec. It is random and not in the program's environment, so
/// that a program can't write it.
pub(crate) fn new_mark() -> String {
    format!("adit-{:032x}", rand::rng().random::<u128>())
}

/// What follows the mark, in place of a process id, when `cwd` could not be entered.
pub(crate) const CWD_SUFFIX: &str = "-cwd";

/// The line for `request`, with a mark of [`new_mark`] and its tunnel's. What the program starts inherits both variables, by
/// which the warden knows it.
pub(crate) fn line(request: &ExecRequest, exec_id: Uuid, tunnel_mark: &str, mark: &str) -> String {
    let mut line = format!("export ADIT_TUNNEL={tunnel_mark} ADIT_EXEC_ID={exec_id}; ");
    if let Some(directory) = &request.cwd {
        line.push_str("cd -- ");
        push_quoted(&mut line, directory);
        line.push_str(&format!(
            " 2>/dev/null || {{ printf '{mark}{CWD_SUFFIX}\\n' >&2; exit 1; }}; "
        ));
    }
    line.push_str(&format!("printf '{mark} %s\\n' \"$$\" >&2; "));
    line.push_str("exec");
    if needs_env_program(request) {
        // The first assignment also keeps `env` from reading the program's name as an option, `-` among them.
        line.push_str(&format!(" /usr/bin/env ADIT_EXEC_ID={exec_id}"));
        for (name, value) in &request.env {
            line.push(' ');
            push_quoted(&mut line, &format!("{name}={value}"));
        }
        if first_word(request).contains('=') {
            // `env` would take the program's name for one more assignment.
            line.push_str(" /bin/sh -c 'exec \"$0\" \"$@\"'");
        }
    }
    for word in &request.cmd {
        line.push(' ');
        push_quoted(&mut line, word);
    }
    line
}

/// `exec -c program` loses a word in bash, `exec -- program` fails in dash, and `export UID=5` or `export OPTIND=x`
/// end the shell: in those cases the words and variables go through env(1), which knows neither.
fn needs_env_program(request: &ExecRequest) -> bool {
    !request.env.is_empty() || first_word(request).starts_with('-')
}

fn first_word(request: &ExecRequest) -> &str {
    request.cmd.first().map_or("", String::as_str)
}

/// POSIX quoting (XCU 2.2.2): inside single quotes every character but the quote itself is literal.
fn push_quoted(line: &mut String, word: &str) {
    line.push('\'');
    for (index, part) in word.split('\'').enumerate() {
        if index > 0 {
            line.push_str("'\\''");
        }
        line.push_str(part);
    }
    line.push('\'');
}

/// Whether the line fits, and whether the first word can be run at all.
///
/// # Errors
/// The length when it doesn't fit; the field when no shell can run the word.
pub(crate) fn check(request: &ExecRequest) -> Result<(), InvalidRequest> {
    let first = first_word(request);
    if first.starts_with('-') && first.contains('=') {
        return Err(InvalidRequest::Field {
            field: "cmd[0]".to_owned(),
            problem: "begins with `-` and contains `=`, which neither a shell nor env(1) can run by name; give its path",
        });
    }
    // Ids and marks have the same length each, so any will do.
    let tunnel_mark = "0".repeat(TUNNEL_MARK_LENGTH);
    let bytes = line(request, Uuid::nil(), &tunnel_mark, &new_mark()).len();
    if bytes > MAX_COMMAND_BYTES {
        return Err(InvalidRequest::CommandTooLong {
            bytes,
            limit: MAX_COMMAND_BYTES,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::process::Command;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::exec::request::ExecRequestParts;

    fn request(cmd: &[&str], env: &[(&str, &str)], cwd: Option<&str>) -> ExecRequest {
        ExecRequest::validate(parts(cmd, env, cwd)).unwrap()
    }

    fn parts(cmd: &[&str], env: &[(&str, &str)], cwd: Option<&str>) -> ExecRequestParts {
        ExecRequestParts {
            cmd: cmd.iter().map(|word| (*word).to_owned()).collect(),
            timeout_s: 0,
            cwd: cwd.map(str::to_owned),
            env: env
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect::<BTreeMap<_, _>>(),
            stdin: Bytes::new(),
        }
    }

    const ID: Uuid = Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
    const MARK: &str = "adit-0123456789abcdef0123456789abcdef";

    #[test]
    fn lines() {
        let export = "export ADIT_TUNNEL=t ADIT_EXEC_ID=01234567-89ab-cdef-0123-456789abcdef; ";
        let start = format!("printf '{MARK} %s\\n' \"$$\" >&2; exec");
        let env = "/usr/bin/env ADIT_EXEC_ID=01234567-89ab-cdef-0123-456789abcdef";
        let table = [
            (
                request(&["ls", "it's", ""], &[], None),
                format!("{start} 'ls' 'it'\\''s' ''"),
            ),
            (
                request(&["ls"], &[("A", "x y")], None),
                format!("{start} {env} 'A=x y' 'ls'"),
            ),
            (request(&["-"], &[], None), format!("{start} {env} '-'")),
            (
                request(&["a=b", "c"], &[("A", "1")], None),
                format!("{start} {env} 'A=1' /bin/sh -c 'exec \"$0\" \"$@\"' 'a=b' 'c'"),
            ),
            (request(&["a=b"], &[], None), format!("{start} 'a=b'")),
            (
                request(&["ls"], &[], Some("/a b")),
                format!(
                    "cd -- '/a b' 2>/dev/null || {{ printf '{MARK}-cwd\\n' >&2; exit 1; }}; {start} 'ls'"
                ),
            ),
        ];
        for (request, expected) in table {
            assert_eq!(line(&request, ID, "t", MARK), format!("{export}{expected}"));
        }
    }

    #[test]
    fn length_limit_is_exact() {
        let tunnel_mark = "0".repeat(TUNNEL_MARK_LENGTH);
        let fixed = line(&request(&["x", ""], &[], None), ID, &tunnel_mark, MARK).len();
        let fits = "a".repeat(MAX_COMMAND_BYTES - fixed);
        assert!(ExecRequest::validate(parts(&["x", &fits], &[], None)).is_ok());
        let over = format!("{fits}a");
        assert_eq!(
            ExecRequest::validate(parts(&["x", &over], &[], None)).unwrap_err(),
            InvalidRequest::CommandTooLong {
                bytes: MAX_COMMAND_BYTES + 1,
                limit: MAX_COMMAND_BYTES
            }
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        /// The words as the program sees them, through a real shell and its `exec`.
        #[test]
        fn words_arrive_unchanged(words in prop::collection::vec("[^\0]{0,24}", 0..6)) {
            let mut cmd = vec!["/usr/bin/printf", "%s\\0", "first"];
            cmd.extend(words.iter().map(String::as_str));
            let output = Command::new("/bin/sh").arg("-c").arg(line(&request(&cmd, &[], None), ID, "t", MARK)).output().unwrap();
            let mut expected = b"first\0".to_vec();
            for word in &words {
                expected.extend_from_slice(word.as_bytes());
                expected.push(0);
            }
            prop_assert_eq!(output.stdout, expected);
        }
    }
}

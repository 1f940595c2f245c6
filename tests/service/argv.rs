//! Words arrive as they were sent, whatever is in them and whatever the login shell is.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::api::{Answer, Api};
use crate::support::{Backend, TestApp};

#[actix_rt::test]
async fn any_words_arrive_unchanged_in_process() {
    any_words_arrive_unchanged(Backend::InProcess).await;
}

#[actix_rt::test]
async fn any_words_arrive_unchanged_with_openssh_and_bash() {
    any_words_arrive_unchanged(Backend::OpenSshBash).await;
}

#[actix_rt::test]
async fn any_words_arrive_unchanged_with_openssh_and_dash() {
    any_words_arrive_unchanged(Backend::OpenSshDash).await;
}

/// Each runs four execs.
const CASES: u32 = 64;

/// Any Unicode string without NUL, with a liking for what shells treat in a way of their own.
fn word() -> impl Strategy<Value = String> {
    let special = prop::sample::select(vec![
        "",
        "'",
        "''",
        "\\",
        "\"",
        "$HOME",
        "$(echo x)",
        "`echo x`",
        "!",
        "!!",
        "~",
        "*",
        "?",
        "[a-z]",
        "{a,b}",
        "#",
        ";",
        "&",
        "|",
        "<",
        ">",
        "(",
        ")",
        "\n",
        "\r",
        "\t",
        " ",
        "-n",
        "-e",
        "--",
        "-",
        "%s",
        "%",
        "\\0",
        "\\n",
        "\u{1b}",
        "\u{7f}",
        "A=1",
        "é",
        "\u{202e}",
        "\u{10ffff}",
        "\u{feff}",
        "#!",
        "exec",
        "-c",
    ])
    .prop_map(str::to_owned);
    let any_text = vec(
        any::<char>().prop_filter("NUL can't be in an argument", |c| *c != '\0'),
        0..24,
    )
    .prop_map(String::from_iter);
    let mixed =
        vec(prop_oneof![2 => special.clone(), 1 => any_text.clone()], 0..6).prop_map(|parts| parts.concat());
    prop_oneof![special, any_text, mixed]
}

struct Target {
    api: Api,
    workspace: Uuid,
    token: String,
}

impl Target {
    async fn check(&self, words: &[String]) -> Result<(), TestCaseError> {
        let expected: Vec<u8> = words
            .iter()
            .flat_map(|word| [word.as_bytes(), b"\0"].concat())
            .collect();
        // By the program itself, by a shell's positional parameters, and by way of `env`.
        let by_program = with(&["/usr/bin/printf", "%s\\0"], words);
        let by_shell = with(&["sh", "-c", "printf '%s\\0' \"$@\"", "sh"], words);
        for body in [
            json!({"cmd": by_program}),
            json!({"cmd": by_shell}),
            json!({"cmd": by_program, "env": {"ADIT_TEST": words[0]}, "cwd": "/"}),
        ] {
            prop_assert_eq!(self.printed(&body).await?, &expected[..], "{}", body);
        }
        let value = json!({"cmd": ["printenv", "-0", "ADIT_TEST"], "env": {"ADIT_TEST": words[0]}});
        prop_assert_eq!(
            self.printed(&value).await?,
            [words[0].as_bytes(), b"\0"].concat(),
            "{}",
            value
        );
        Ok(())
    }

    async fn printed(&self, body: &Value) -> Result<Vec<u8>, TestCaseError> {
        let answer: Answer = self.api.exec_stream(self.workspace, &self.token, body).await;
        prop_assert_eq!(answer.status, 200, "{:?}", answer);
        let frames = answer.frames();
        prop_assert_eq!(frames.exit().exit_code, Some(0), "{:?}", frames);
        Ok(frames.output("stdout"))
    }
}

fn with(start: &[&str], words: &[String]) -> Vec<String> {
    start
        .iter()
        .map(|word| (*word).to_owned())
        .chain(words.iter().cloned())
        .collect()
}

async fn any_words_arrive_unchanged(backend: Backend) {
    let app = TestApp::start(backend).await;
    let workspace = app.seed.workspace();
    let target = Target {
        api: app.api.clone(),
        workspace: workspace.id,
        token: workspace.token.clone(),
    };
    let runtime = tokio::runtime::Handle::current();
    // proptest's runner is not asynchronous; its cases are, and the service runs on this thread.
    let outcome = tokio::task::spawn_blocking(move || {
        let config = Config {
            cases: CASES,
            failure_persistence: None,
            ..Config::default()
        };
        TestRunner::new(config).run(&vec(word(), 1..8), |words| runtime.block_on(target.check(&words)))
    })
    .await
    .unwrap();
    match outcome {
        Ok(()) => app.finish().await,
        Err(TestError::Fail(reason, words)) => panic!("{reason}\nwords: {words:?}"),
        Err(TestError::Abort(reason)) => panic!("{reason}"),
    }
}

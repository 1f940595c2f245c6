use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::request_body::parse;

fn problem(body: &str) -> Value {
    let problem = parse(body.as_bytes()).expect_err(body);
    let (_, body) = problem.into_parts();
    serde_json::from_slice(&body).unwrap()
}

#[test]
fn good_bodies_pass() {
    let table = [
        (json!({ "cmd": ["true"] }), 30, false),
        (json!({ "cmd": ["true"], "timeout_s": 0 }), 30, false),
        (json!({ "cmd": ["true"], "timeout_s": 7 }), 7, false),
        (json!({ "cmd": ["true"], "timeout_s": 100_000 }), 120, false),
        (json!({ "cmd": ["true"], "timeout_s": u64::MAX }), 120, false),
        (
            json!({ "cmd": ["sh", "-c", "cat"], "stdin": "x", "announce": true }),
            30,
            true,
        ),
        (
            json!({ "cmd": ["cat"], "stdin_b64": "AAE=", "cwd": "/", "env": { "A": "b" } }),
            30,
            false,
        ),
        (
            json!({ "cmd": ["true"], "timeout_s": null, "cwd": null, "env": null, "stdin": null }),
            30,
            false,
        ),
    ];
    for (body, timeout_s, announce) in table {
        let parsed =
            parse(body.to_string().as_bytes()).unwrap_or_else(|problem| panic!("{body}: {problem:?}"));
        assert_eq!(
            (parsed.request.timeout_s(), parsed.announce),
            (timeout_s, announce),
            "{body}"
        );
    }
    assert!(parse(b" \n{\"cmd\":[\"true\"]}\n ").is_ok());
}

#[test]
fn bad_bodies_are_refused_and_the_detail_names_what_is_wrong() {
    let too_much = STANDARD.encode(vec![b'x'; 1_048_577]);
    let in_base64 = json!({ "cmd": ["a"], "stdin_b64": too_much }).to_string();
    let as_text = json!({ "cmd": ["a"], "stdin": "x".repeat(1_048_577) }).to_string();
    let many_words = json!({ "cmd": vec!["x"; 1_025] }).to_string();
    let table = [
        (r#"{"cmd":"ls -l"}"#, "`cmd`: must be an array of strings"),
        (r#"{"cmd":"ls -l"}"#, "no implicit shell"),
        (r#"{"cmd":"ls -l"}"#, r#"["sh", "-c", "LINE"]"#),
        (r#"{"cmd":[]}"#, "`cmd`"),
        (r#"{"cmd":[""]}"#, "`cmd`"),
        (r#"{"cmd":["a\u0000b"]}"#, "`cmd[0]`"),
        (r#"{"cmd":["a",7]}"#, "`cmd[1]`"),
        (r#"{"cmd":{"a":1}}"#, "`cmd`"),
        (many_words.as_str(), "`cmd`: has more than 1,024 words"),
        ("{}", "`cmd`"),
        (r#"{"cmd":["a"],"tty":true}"#, "`tty`"),
        (r#"{"cmd":["a"],"cmd":["b"]}"#, "duplicate field `cmd`"),
        (r#"{"cmd":["a"],"timeout_s":-1}"#, "`timeout_s`"),
        (r#"{"cmd":["a"],"timeout_s":1.5}"#, "`timeout_s`"),
        (r#"{"cmd":["a"],"timeout_s":"5"}"#, "`timeout_s`"),
        (r#"{"cmd":["a"],"timeout_s":true}"#, "`timeout_s`"),
        (r#"{"cmd":["a"],"cwd":"tmp"}"#, "`cwd`"),
        (r#"{"cmd":["a"],"cwd":5}"#, "`cwd`"),
        (r#"{"cmd":["a"],"env":{"1A":"x"}}"#, "`env.1A`"),
        (r#"{"cmd":["a"],"env":{"A":1}}"#, "`env.A`"),
        (
            r#"{"cmd":["a"],"env":{"A":"1","A":"2"}}"#,
            "`A` stands there twice",
        ),
        (r#"{"cmd":["a"],"env":["A"]}"#, "`env`"),
        (
            r#"{"cmd":["a"],"stdin":"x","stdin_b64":"eA=="}"#,
            "`stdin` and `stdin_b64`",
        ),
        (r#"{"cmd":["a"],"stdin_b64":"x"}"#, "`stdin_b64`"),
        (&in_base64, "`stdin_b64` is longer than 1,048,576 bytes"),
        (&as_text, "`stdin` is longer than 1,048,576 bytes"),
        (r#"{"cmd":["a"],"announce":"yes"}"#, "`announce`"),
        (r#"[["a"]]"#, "JSON object"),
        ("\"x\"", "JSON object"),
        ("", "JSON object"),
        (r#"{"cmd":["a"]"#, "not valid JSON"),
        (r#"{"cmd":["a"]} x"#, "not valid JSON"),
        (r#"{"cmd":["\ud800"]}"#, "not valid JSON"),
    ];
    for (body, expected) in table {
        let problem = problem(body);
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(expected), "{body} -> {detail}");
        assert_eq!(
            (&problem["code"], &problem["status"]),
            (&json!("invalid_request"), &json!(400)),
            "{body}"
        );
    }
}

#[test]
fn details_stay_short_and_say_why() {
    let long = "x".repeat(100_000);
    for (body, reasons) in [
        (
            json!({ "cmd": ["a"], "env": long }),
            ["`env`: invalid type: string", "expected"],
        ),
        (
            json!({ "cmd": ["a"], long.clone(): 1 }),
            ["unknown field `xxx", "expected one of `cmd`, `timeout_s`"],
        ),
        (
            json!({ "cmd": ["a"], "env": { format!("{long}-"): "1" } }),
            ["`env.xxx", "` is not a name of the form"],
        ),
        (
            json!({ "cmd": ["a"], "env": { long.clone(): 1 } }),
            ["`env.xxx", "`: invalid type: integer `1`, expected a string"],
        ),
    ] {
        let problem = problem(&body.to_string());
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.len() < 400, "{detail}");
        assert!(reasons.iter().all(|reason| detail.contains(reason)), "{detail}");
    }
    let twice = format!(r#"{{"cmd":["a"],"env":{{"{long}":"1","{long}":"2"}}}}"#);
    let problem = problem(&twice);
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("x` stands there twice"),
        "{problem}"
    );
}

proptest! {
    #[test]
    fn no_bytes_break_the_parser(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        parse(&body).ok();
    }

    /// The first word is a program's name; one that begins with `-` and has a `=` in it is the core's to refuse.
    #[test]
    fn any_words_without_nul_pass(
        program in "[^\0-][^\0]{0,20}",
        mut words in proptest::collection::vec("[^\0]{0,20}", 0..20),
    ) {
        words.insert(0, program);
        let parsed = parse(json!({ "cmd": words }).to_string().as_bytes());
        prop_assert!(parsed.is_ok());
    }
}

use proptest::prelude::*;

use super::patterns::{Found, Pattern, Shape};
use super::*;

const SECRETS: &str = include_str!("corpus/secrets.txt");
const INNOCENT: &str = include_str!("corpus/innocent.txt");

fn argvs(corpus: &str) -> Vec<Vec<String>> {
    corpus
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            serde_json::from_str(&line.replace('·', "")).unwrap_or_else(|error| panic!("{line}: {error}"))
        })
        .collect()
}

fn argv(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// So long that no machine is too busy for it.
const AT_LEISURE: Duration = Duration::from_secs(3_600);

fn redact_at_leisure(cmd: &[String]) -> Result<Vec<String>, Failure> {
    COMPILED.as_ref().unwrap().redact(cmd, AT_LEISURE)
}

/// A word of the corpus as it is run and as it must be redacted, and the secrets in it.
fn example(word: &str) -> (String, String, Vec<String>) {
    let (mut run, mut redacted, mut secrets) = (String::new(), String::new(), Vec::new());
    let mut rest = word;
    while let Some((before, found)) = rest.split_once('«') {
        let (found, after) = found.split_once('»').unwrap();
        let (label, secret) = found.split_once('|').unwrap();
        run += &format!("{before}{secret}");
        redacted += &format!("{before}[REDACTED:{label}]");
        secrets.push(secret.to_owned());
        rest = after;
    }
    (run + rest, redacted + rest, secrets)
}

#[test]
fn secrets_go_and_the_rest_stays() {
    let mut found = 0;
    let mut wrong = Vec::new();
    for words in argvs(SECRETS) {
        let mut run = Vec::new();
        let mut expected = Vec::new();
        let mut secrets = Vec::new();
        for word in &words {
            let (word, redacted, hidden) = example(word);
            run.push(word);
            expected.push(redacted);
            secrets.extend(hidden);
        }
        assert!(!secrets.is_empty(), "no secret: {words:?}");
        found += secrets.len();
        let redacted = redact_at_leisure(&run).unwrap();
        let shown = |secret: &String| !secret.starts_with('[') && redacted.join(" ").contains(secret);
        if redacted != expected || secrets.iter().any(shown) {
            wrong.push(format!("{run:?}\n  became {redacted:?}\n  not    {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(found >= 60, "{found} secrets");
}

#[test]
fn who_else_runs_a_command_changes_nothing_for_its_secrets() {
    let runners: [&[&str]; 5] = [
        &["sudo", "-u", "app"],
        &["timeout", "5"],
        &["docker", "exec", "c"],
        &["ssh", "host"],
        &["find", ".", "-exec"],
    ];
    let mut shown = Vec::new();
    for (words, runner) in argvs(SECRETS)
        .iter()
        .flat_map(|words| runners.map(|runner| (words, runner)))
    {
        let mut run = argv(runner);
        let mut secrets = Vec::new();
        for word in words {
            let (word, _, hidden) = example(word);
            run.push(word);
            secrets.extend(hidden);
        }
        let redacted = redact_at_leisure(&run).unwrap().join(" ");
        let mut shows = secrets
            .iter()
            .filter(|secret| secret.len() > 3 && !secret.starts_with('[') && redacted.contains(*secret));
        shown.extend(shows.next().map(|secret| format!("{secret} in {redacted}")));
    }
    assert!(shown.is_empty(), "{}", shown.join("\n"));
}

#[test]
fn look_alikes_stay() {
    let argvs = argvs(INNOCENT);
    assert!(argvs.len() >= 60, "{} look-alikes", argvs.len());
    let changed: Vec<_> = argvs
        .iter()
        .map(|cmd| (cmd, redact_at_leisure(cmd).unwrap()))
        .filter(|(cmd, redacted)| *cmd != redacted)
        .map(|(cmd, redacted)| format!("{cmd:?}\n  became {redacted:?}"))
        .collect();
    assert!(changed.is_empty(), "{}", changed.join("\n"));
}

/// A row without an example in the corpus could be wrong without anyone noticing.
#[test]
fn every_pattern_compiles_and_has_an_example() {
    let corpus: Vec<Vec<String>> = argvs(SECRETS)
        .iter()
        .map(|words| words.iter().map(|word| example(word).0).collect())
        .collect();
    let without_example: Vec<_> = PATTERNS
        .iter()
        .filter(|pattern| {
            let Pattern { label, shape, only } = **pattern;
            let alone = Compiled::new(&[Pattern { label, shape, only }]);
            let alone = alone.unwrap_or_else(|error| panic!("{label}, {shape:?}: {error}"));
            !corpus
                .iter()
                .any(|cmd| alone.redact(cmd, AT_LEISURE).unwrap() != *cmd)
        })
        .map(|pattern| pattern.shape)
        .collect();
    assert!(without_example.is_empty(), "{without_example:#?}");
}

const SECRET: &str = "hunter2-of-the-test";

fn attempt(pattern: Pattern, budget: Duration) -> Result<Vec<String>, Failure> {
    let cmd = argv(&["app", "--password", SECRET, "ä"]);
    let compiled = Compiled::new(&[pattern]).map_err(Failure::Pattern)?;
    compiled.redact(&cmd, budget)
}

fn text(pattern: &'static str, only: fn(Found<'_>) -> bool) -> Pattern {
    Pattern {
        label: "TEST",
        shape: Shape::Text(pattern),
        only,
    }
}

#[test]
fn what_fails_shows_no_word() {
    let found = attempt(text("(app)", |_| true), BUDGET).unwrap();
    assert_eq!(found, ["[REDACTED:TEST]", "--password", SECRET, "ä"]);
    let slow: fn(Found<'_>) -> bool = |_| {
        let begun = tokio::time::Instant::now();
        while begun.elapsed() < Duration::from_millis(2) {}
        true
    };
    let (short, long) = (Duration::from_millis(1), AT_LEISURE);
    let table = [
        (text("(app", |_| true), long, "does not compile"),
        (text("(app|d)", slow), short, "took longer"),
        (text(r"(\0--)", |_| true), long, "borders"),
        (text(r"(?-u:(\xC3))", |_| true), long, "inside a character"),
    ];
    for (pattern, budget, expected) in table {
        let failed = attempt(pattern, budget);
        let said = failed.as_ref().unwrap_err().to_string();
        assert!(said.contains(expected), "{said}: {expected}");
        assert_eq!(closed(|| failed), [FAILED]);
    }
    let panicking = text("(app)", |found| panic!("{}", found.secret));
    assert_eq!(closed(|| attempt(panicking, long)), [FAILED]);
    assert_eq!(redact(&argv(&["a NUL\0in a word"])), [FAILED]);
}

/// Run by the next test, in a process whose standard error it can read.
#[test]
#[ignore = "prints what another test reads"]
fn panicking_child() {
    let panicking = text("(.+)", |found| panic!("{}", found.secret));
    assert_eq!(closed(|| attempt(panicking, BUDGET)), [FAILED]);
    eprintln!("it failed closed");
    panic!("others are heard");
}

#[test]
fn a_panic_prints_no_word_and_others_are_heard() {
    let child = "exec::redact::tests::panicking_child";
    let output = std::process::Command::new("/proc/self/exe")
        .args([child, "--exact", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let printed = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        printed.contains("it failed closed") && printed.contains("others are heard"),
        "{printed}"
    );
    assert!(!printed.contains(SECRET), "{printed}");
}

#[test]
fn a_failure_says_where_it_panicked() {
    let place = quiet::catch(|| panic!("{SECRET}"))
        .map(|()| String::new())
        .unwrap_err();
    assert!(
        place.contains("redact/tests.rs") && !place.contains(SECRET),
        "{place}"
    );
    // Also one inside another.
    let inner = quiet::catch(|| {
        let inner = quiet::catch(|| panic!("{SECRET}")).map(|()| String::new());
        assert!(inner.is_err());
        panic!("{SECRET}")
    });
    assert!(
        inner
            .map(|()| String::new())
            .unwrap_err()
            .contains("redact/tests.rs")
    );
}

/// Pieces of which words are made that patterns, marks and shells care for.
fn words() -> impl Strategy<Value = Vec<String>> {
    let pieces = prop::sample::select(vec![
        "password",
        "PASSWORD=",
        "--token",
        "token=",
        "_secret",
        "api_key",
        "=",
        ": ",
        " ",
        "\n",
        "&",
        "&user=",
        "'",
        "\"",
        "\\",
        "\\'",
        "$",
        "$(",
        "{\"password\":",
        "[REDACTED:",
        "[REDACTED:TOKEN]",
        "[REDACTED:A",
        "]",
        "}",
        ",",
        "hunter2",
        "Authorization: ",
        "Bearer ",
        "Basic ",
        "dXNlcjpleGFtcGxl",
        "https://",
        "u:p@h",
        "@",
        "/",
        ":",
        "AKIAIOSFODNN7EXAMPLE",
        "-----BEGIN PRIVATE KEY-----",
        "-----END",
        "curl",
        " -u ",
        "mysql",
        "-p",
        "sshpass",
        "-c",
        "-pabc",
        "-p",
        "sk-",
        "0123456789abcdefABCDEF",
        "echo x | sudo -S",
        "ä",
        "✓",
        "\u{1F600}",
        "\u{2028}",
        "<",
        ">",
        "<password>",
        "xoxb-",
        "bash",
        "-ce",
        "ssh",
        "; ",
        " && x",
        "tokens=",
        "_PROD=",
        "x_pat=",
        "a:b",
        " -u\\\n",
        "printf %s",
        "sudo -S <<<",
        "chpasswd <<E\n",
        "sqlplus u/p",
        "vault login ",
        "eyJ",
        ".",
    ]);
    let piece = prop_oneof![8 => pieces.prop_map(str::to_owned), 1 => any::<String>()];
    let word = prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat());
    prop::collection::vec(word, 0..6)
}

/// `-pabc` reads as an option before a script until it is redacted, and then no longer.
#[test]
fn what_is_no_script_any_more_is_looked_at_again() {
    let once = redact_at_leisure(&argv(&["mysql", "-pabc", "PASSWORD=x y"])).unwrap();
    assert_eq!(
        once,
        argv(&["mysql", "-p[REDACTED:PASSWORD]", "PASSWORD=[REDACTED:PASSWORD]"])
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn redacting_what_is_redacted_changes_nothing(cmd in words()) {
        // No argv has a NUL.
        if cmd.iter().any(|word| word.contains('\0')) {
            prop_assert_eq!(redact(&cmd), [FAILED]);
        } else {
            let once = redact_at_leisure(&cmd).unwrap();
            prop_assert_eq!(once.len(), cmd.len());
            prop_assert_eq!(redact_at_leisure(&once).unwrap(), once);
        }
    }
}

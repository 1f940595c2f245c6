//! Layers, strictness, ranges, and that `config/adit.toml` tells the truth.

use std::error::Error;
use std::ffi::OsString;
use std::io::Write;
use std::time::Duration;

use secrecy::ExposeSecret;
use tempfile::NamedTempFile;

use super::Settings;

const REFERENCE: &str = include_str!("../../config/adit.toml");

fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn variables(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    pairs
        .iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect()
}

fn load(text: &str, pairs: &[(&str, &str)]) -> Result<Settings, String> {
    Settings::load(Some(file(text).path()), variables(pairs)).map_err(|error| {
        let cause = error
            .source()
            .map(|cause| format!(": {cause}"))
            .unwrap_or_default();
        format!("{error}{cause}")
    })
}

/// Everything but the secrets, which print the same whatever they are.
fn printed(settings: &Settings) -> String {
    format!("{settings:#?}")
}

#[test]
fn reference_file_holds_exactly_the_defaults() {
    let reference = load(REFERENCE, &[]).unwrap();
    let defaults = Settings::default();
    assert_eq!(printed(&reference), printed(&defaults));
    assert_eq!(
        reference.store.url.expose_secret(),
        defaults.store.url.expose_secret()
    );
    assert!(reference.admin.tokens.is_empty());
}

#[test]
fn reference_file_names_every_setting_and_its_examples_are_allowed() {
    let sections = REFERENCE
        .lines()
        .filter_map(|line| line.strip_prefix('[')?.strip_suffix(']'));
    let mut names = 0;
    for section in sections {
        let refusal = load(&format!("[{section}]\nno_such_key = 1"), &[]).unwrap_err();
        let (_, allowed) = refusal.split_once("expected ").unwrap();
        for name in allowed.split('`').skip(1).step_by(2) {
            let line = |line: &str| line.trim_start_matches("# ").starts_with(&format!("{name} = "));
            assert!(REFERENCE.lines().any(line), "`{section}.{name}` is missing");
            names += 1;
        }
    }
    assert!(names > 30, "the list of allowed names was read");

    // A commented example replaces what it is the alternative of.
    let with_examples: String = REFERENCE
        .lines()
        .filter(|line| !line.starts_with("tokens =") && !line.starts_with("url ="))
        .map(|line| match line.strip_prefix("# ") {
            Some(setting)
                if setting
                    .split_once(" = ")
                    .is_some_and(|(name, _)| !name.contains(' ')) =>
            {
                setting
            }
            _ => line,
        })
        .map(|line| format!("{line}\n"))
        .collect();
    toml::from_str::<Settings>(&with_examples).unwrap();
    assert!(with_examples.contains("\ntokens_file = "));
}

#[test]
fn a_variable_goes_over_the_file_and_the_file_over_the_default() {
    let text = "[http]\nhold_status_s = 7\nheartbeat_s = 8\n[limits]\nexecs_per_org = 9\n";
    let settings = load(
        text,
        &[
            ("ADIT__HTTP__HEARTBEAT_S", "3"),
            ("ADIT__HTTP__TRUSTED_PROXIES", "10.0.0.0/8, ::1"),
            ("ADIT__AWS__OS_USER", "1234"),
            ("ADIT__LOG__FORMAT", "json"),
            ("ADIT__TENANT__ORG_ID", "00000000-0000-4000-8000-000000000001"),
            ("ADIT_URL", "not a setting"),
            ("PATH", "/bin"),
        ],
    )
    .unwrap();
    assert_eq!(settings.http.hold_status, Duration::from_secs(7));
    assert_eq!(settings.http.heartbeat, Duration::from_secs(3));
    assert_eq!(settings.http.head_timeout, Duration::from_secs(5));
    assert_eq!(settings.http.trusted_proxies.len(), 2);
    assert_eq!(settings.limits.execs_per_org, 9);
    assert_eq!(
        settings.aws.os_user, "1234",
        "digits stay text where text is meant"
    );
    assert_eq!(settings.log.format, super::LogFormat::Json);
    assert!(settings.tenant.org_id.is_some());
    assert_eq!(
        printed(&Settings::load(None, []).unwrap()),
        printed(&Settings::default())
    );
}

#[test]
fn rows_are_kept_for_ever_unless_days_are_named() {
    for (text, retain) in [
        ("", None),
        ("[audit]\nretain_days = 0\n", None),
        (
            "[audit]\nretain_days = 90\n",
            Some(Duration::from_secs(90 * 24 * 60 * 60)),
        ),
    ] {
        assert_eq!(load(text, &[]).unwrap().engine().retain, retain, "{text:?}");
    }
}

#[test]
fn what_is_wrong_is_named_with_what_is_allowed() {
    struct Case {
        text: &'static str,
        variable: Option<(&'static str, &'static str)>,
        says: &'static [&'static str],
    }
    let in_file = |text, says| Case {
        text,
        variable: None,
        says,
    };
    let in_variable = |name, value, says| Case {
        text: "",
        variable: Some((name, value)),
        says,
    };
    for Case { text, variable, says } in [
        in_file(
            "[http]\n\nhold_status = 4\n",
            &["line 3", "`hold_status`", "`hold_status_s`"][..],
        ),
        in_file("[htp]\n", &["line 1", "`htp`", "`http`"]),
        in_file("listen = 1\n", &["line 1", "`listen`", "`http`"]),
        in_file("[http]\nheartbeat_s = -1\n", &["line 2", "-1"]),
        in_file("[http]\nheartbeat_s = \"3\"\n", &["line 2", "expected u64"]),
        in_file("[http\n", &["line 1"]),
        in_file("[http]\nworkers = 0\n", &["`http.workers`", "is 0", "1 to 256"]),
        in_file("[log]\nformat = \"xml\"\n", &["`xml`", "`text`", "`json`"]),
        in_file("[log]\nfilter = \"adit=loud\"\n", &["`log.filter`"]),
        in_file(
            "[http]\ntrusted_proxies = [\"all\"]\n",
            &["line 2", "`all`", "10.0.0.0/8"],
        ),
        in_file(
            "[http]\ntls_cert_file = \"c\"\n",
            &["`http.tls_key_file` must be set", "`http.tls_cert_file`"],
        ),
        in_file(
            "[http]\ntls_key_file = \"k\"\n",
            &["`http.tls_cert_file` must be set", "`http.tls_key_file`"],
        ),
        in_file("[tenant]\nheader = \"a b\"\n", &["`tenant.header`"]),
        in_file("[tenant]\norg_id = \"molecule\"\n", &["line 2", "UUID"]),
        in_file(
            "[aws]\nendpoint_id = \"eice-1\"\n",
            &["`aws.endpoint_id`", "`aws.endpoint_dns_name`"],
        ),
        in_file(
            "[aws]\ntunnel_endpoint_override = \"http://h\"\n",
            &["`aws.tunnel_endpoint_override`", "`ws://`"],
        ),
        in_file(
            "[aws]\nssh_port = 2222\n",
            &["`aws.ssh_port`", "2222", "22 and 3389"],
        ),
        in_file("[aws]\nconnect = \"proxy\"\n", &["`endpoint`", "`direct`"]),
        in_file(
            "[aws]\nconnect = \"direct\"\nendpoint_id = \"eice-1\"\nendpoint_dns_name = \"e\"\n",
            &["`aws.endpoint_id`", "direct"],
        ),
        in_file(
            "[aws]\ndiscovery_cache_s = 9\n",
            &["`aws.discovery_cache_s`", "10 to 86400"],
        ),
        in_file(
            "[aws]\nec2_endpoint_override = \"ws://h\"\n",
            &["`aws.ec2_endpoint_override`", "`https://`"],
        ),
        in_file(
            "[audit]\nsettle_after_s = 100\n",
            &["`audit.settle_after_s`", "172"],
        ),
        in_file(
            "[audit]\nretain_days = 40000\n",
            &["`audit.retain_days`", "0 to 36500"],
        ),
        in_file(
            "[store]\nurl = \"a\"\nurl_file = \"b\"\n",
            &["`store.url`", "`store.url_file`"],
        ),
        in_file(
            "[store]\nurl_file = \"/no/such\"\n",
            &["`store.url_file`", "`/no/such`", "No such file"],
        ),
        in_variable(
            "ADIT__HTTP__HOLD_STATUS",
            "4",
            &["`ADIT__HTTP__HOLD_STATUS`", "`hold_status_s`"],
        ),
        in_variable(
            "ADIT__HTP__LISTEN",
            "4",
            &["`ADIT__HTP__LISTEN`", "`htp`", "`http`"],
        ),
        in_variable("ADIT__LISTEN", "4", &["`ADIT__LISTEN`", "`ADIT__SECTION__KEY`"]),
        in_variable(
            "ADIT__HTTP__HEARTBEAT_S",
            "soon",
            &["`ADIT__HTTP__HEARTBEAT_S`", "\"soon\"", "u64"],
        ),
        in_variable(
            "ADIT__HTTP__HEARTBEAT_S",
            "-1",
            &["`ADIT__HTTP__HEARTBEAT_S`", "-1"],
        ),
        in_variable(
            "ADIT__AWS__SSH_PORT",
            "70000",
            &["`ADIT__AWS__SSH_PORT`", "70000", "u16"],
        ),
        in_variable(
            "ADIT__HTTP__LISTEN",
            "localhost",
            &["`ADIT__HTTP__LISTEN`", "socket address"],
        ),
        in_variable(
            "ADIT__TUNNEL__GRANT_MARGIN_S",
            "60",
            &["`tunnel.grant_margin_s`", "1 to 55"],
        ),
    ] {
        let refusal = load(text, variable.as_slice()).unwrap_err();
        for part in says {
            assert!(
                refusal.contains(part),
                "{text:?} {variable:?}: {refusal:?} does not say {part:?}"
            );
        }
    }
    let refusal = Settings::load(Some("/no/such".as_ref()), []).unwrap_err();
    assert!(refusal.to_string().contains("`/no/such`"));
}

#[test]
fn secrets_come_from_files_and_the_upper_layer_wins_either_way() {
    let token = "0123456789abcdef0123456789abcdef";
    let tokens = file(&format!("{token}\n\n  {}  \n", token.to_ascii_uppercase()));
    let url = file("sqlite:///from/file.db\n");
    let paths = [tokens.path().to_str().unwrap(), url.path().to_str().unwrap()];

    let text = format!(
        "[admin]\ntokens_file = {:?}\n[store]\nurl_file = {:?}\n",
        paths[0], paths[1]
    );
    let settings = load(&text, &[]).unwrap();
    let exposed: Vec<_> = settings
        .admin
        .tokens
        .iter()
        .map(ExposeSecret::expose_secret)
        .collect();
    assert_eq!(exposed, [token, &token.to_ascii_uppercase()]);
    assert_eq!(settings.store.url.expose_secret(), "sqlite:///from/file.db");

    let other = "fedcba9876543210fedcba9876543210";
    let over = [
        ("ADIT__ADMIN__TOKENS", other),
        ("ADIT__STORE__URL", "sqlite:///from/variable.db"),
    ];
    let settings = load(&text, &over).unwrap();
    let exposed: Vec<_> = settings
        .admin
        .tokens
        .iter()
        .map(ExposeSecret::expose_secret)
        .collect();
    assert_eq!(exposed, [other]);
    assert_eq!(settings.store.url.expose_secret(), "sqlite:///from/variable.db");

    let text = "[store]\nurl = \"sqlite:///below.db\"\n";
    let settings = load(text, &[("ADIT__STORE__URL_FILE", paths[1])]).unwrap();
    assert_eq!(settings.store.url.expose_secret(), "sqlite:///from/file.db");
    load(
        "",
        &[("ADIT__STORE__URL_FILE", paths[1]), ("ADIT__STORE__URL", "x")],
    )
    .unwrap_err();
}

#[test]
fn no_error_and_no_print_holds_a_secret() {
    let secret = "hunter2hunter2hunter2hunter2hunter2";
    let settings = load(
        &format!("[admin]\ntokens = [\"{secret}\"]\n[store]\nurl = \"{secret}\""),
        &[],
    )
    .unwrap();
    assert!(!printed(&settings).contains("hunter2"));
    for text in [
        format!("[admin]\ntokens = \"{secret}\"\n"),
        format!("[admin]\ntokens = [\"{secret}\", \"{secret}\", \"{secret}\"]\n"),
        "[admin]\ntokens = [\"hunter2\"]\n".to_owned(),
        format!("[admin]\ntokens = [\"{secret} \"]\n"),
        format!("[admin]\ntokens = [\"{secret}\", 5, \"\n"),
        format!("[admin]\ntokns = [\"{secret}\"]\n"),
        format!("[store]\nurl = [\"{secret}\"]\n"),
        format!("[store]\nurl = \"{secret}\n"),
    ] {
        let refusal = load(&text, &[]).unwrap_err();
        assert!(!refusal.contains("hunter2"), "{refusal}");
    }
    let refusal = load("", &[("ADIT__ADMIN__TOKENS", "hunter2")]).unwrap_err();
    assert!(!refusal.contains("hunter2"), "{refusal}");
    let refusal = load("[admin]\ntokens = [20231999]\n", &[]).unwrap_err();
    assert!(!refusal.contains("20231999"), "{refusal}");
}

#[test]
fn a_direct_connection_may_use_any_port() {
    let settings = load("[aws]\nconnect = \"direct\"\nssh_port = 2222\n", &[]).unwrap();
    assert_eq!(settings.aws.connect, super::Connect::Direct);
}

#[test]
fn proxies_are_read_under_either_name_and_never_printed() {
    let settings = load(
        "",
        &[
            ("https_proxy", "http://lower:1"),
            ("HTTPS_PROXY", " http://user:hunter2@upper:2 "),
            ("all_proxy", "http://all:3"),
            ("NO_PROXY", "localhost"),
        ],
    )
    .unwrap();
    let expected = super::ProxyVariables {
        http: String::new(),
        https: "http://user:hunter2@upper:2".to_owned(),
        all: "http://all:3".to_owned(),
        no: "localhost".to_owned(),
    };
    assert_eq!(settings.proxies, expected);
    assert!(!printed(&settings).contains("hunter2"));
    load("[proxies]\nhttp = \"x\"\n", &[]).unwrap_err();
}

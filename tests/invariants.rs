//! What must stay true of the repository as a whole: who may depend on whom, and how large a file may be.
//!
//! ARCHITECTURE.md states these as invariants; this test holds them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's helpers fail it by panicking; clippy.toml reaches only the test functions themselves"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Crates that would make the core know of HTTP serving, SQL, the command line or AWS. A trailing `*` stands for any rest.
const FORBIDDEN_IN_ACTORS: [&str; 22] = [
    "actix-http",
    "actix-web",
    "adit",
    "adit-emulator",
    "aws-*",
    "axum",
    "clap",
    "diesel",
    "hyper",
    "hyper-util",
    "libsqlite3-sys",
    "poem",
    "postgres",
    "reqwest",
    "rocket",
    "rusqlite",
    "salvo",
    "sqlx*",
    "tiny_http",
    "tokio-postgres",
    "tokio-tungstenite",
    "warp",
];

/// Under `aws-`, but AWS's cryptography library and not a client of its services: russh and rustls build on it.
const NO_AWS_CLIENT: [&str; 2] = ["aws-lc-rs", "aws-lc-sys"];

const MAX_LINES: usize = 500;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--offline", "--locked", "--format-version", "1"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// Every crate that ends up in `package`, with one way that leads there. Test-only dependencies do not count.
fn dependencies(metadata: &Value, package: &str) -> BTreeMap<String, String> {
    let names: BTreeMap<&str, &str> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| (text(&package["id"]), text(&package["name"])))
        .collect();
    let nodes: BTreeMap<&str, &Value> = metadata["resolve"]["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| (text(&node["id"]), node))
        .collect();
    let start = *names.iter().find(|(_, name)| **name == package).unwrap().0;
    let mut found = BTreeMap::new();
    let mut seen = BTreeSet::from([start]);
    let mut queue = vec![(start, package.to_owned())];
    while let Some((id, way)) = queue.pop() {
        for dependency in nodes[id]["deps"].as_array().unwrap() {
            let ships = dependency["dep_kinds"]
                .as_array()
                .unwrap()
                .iter()
                .any(|kind| kind["kind"] != "dev");
            let next = text(&dependency["pkg"]);
            if ships && seen.insert(next) {
                let way = format!("{way} -> {}", names[next]);
                found.insert(names[next].to_owned(), way.clone());
                queue.push((next, way));
            }
        }
    }
    found
}

fn is_forbidden(name: &str) -> bool {
    !NO_AWS_CLIENT.contains(&name)
        && FORBIDDEN_IN_ACTORS
            .iter()
            .any(|forbidden| match forbidden.strip_suffix('*') {
                Some(start) => name.starts_with(start),
                None => name == *forbidden,
            })
}

/// Files that git knows or would add, by suffix. Build output and other people's files do not count.
fn files(suffixes: &[&str]) -> Vec<PathBuf> {
    let output = Command::new("git")
        // Whoever owns the checkout: the tests may run as root.
        .args(["-c", "safe.directory=*"])
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let files: Vec<PathBuf> = String::from_utf8(output.stdout)
        .unwrap()
        .split('\0')
        .filter(|name| !name.is_empty() && suffixes.iter().any(|suffix| name.ends_with(suffix)))
        .map(|name| root().join(name))
        .filter(|path| path.is_file())
        .collect();
    assert!(!files.is_empty(), "no file ends in any of {suffixes:?}");
    files
}

#[test]
fn the_core_knows_no_http_server_no_sql_no_command_line_and_no_aws() {
    let ways: Vec<String> = dependencies(&metadata(), "adit-actors")
        .into_iter()
        .filter(|(name, _)| is_forbidden(name))
        .map(|(_, way)| way)
        .collect();
    assert!(
        ways.is_empty(),
        "adit-actors depends on what it must not know:\n{}",
        ways.join("\n")
    );
}

#[test]
fn the_emulator_knows_nothing_of_the_service_or_its_core() {
    let dependencies = dependencies(&metadata(), "adit-emulator");
    for name in ["adit", "adit-actors"] {
        assert!(!dependencies.contains_key(name), "{}", dependencies[name]);
    }
}

#[test]
fn the_list_of_forbidden_crates_bites() {
    // The service has them all in its tree in some form; if it had not, the test above could never fail.
    let service = dependencies(&metadata(), "adit");
    for name in ["actix-web", "sqlx", "clap", "aws-config", "hyper"] {
        assert!(service.contains_key(name) && is_forbidden(name), "{name}");
    }
    assert!(!is_forbidden("aws-lc-rs"));
}

#[test]
fn the_core_reads_no_environment() {
    for path in files(&[".rs"])
        .into_iter()
        .filter(|path| path.starts_with(root().join("actors")))
    {
        let source = fs::read_to_string(&path).unwrap();
        for forbidden in ["std::env", "env::var", "option_env!"] {
            assert!(
                !source.contains(forbidden),
                "{} mentions `{forbidden}`",
                path.display()
            );
        }
    }
}

#[test]
fn no_source_file_is_longer_than_the_limit() {
    for path in files(&[".rs"]) {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(
            lines <= MAX_LINES,
            "{} has {lines} lines; split it by what its parts own",
            path.display()
        );
    }
}

#[test]
fn no_file_points_outside_the_repository() {
    // Put together here so that this file does not hold it.
    let outside = ["..", "/", "shared"].concat();
    for path in files(&[".rs", ".md", ".toml", ".sql", "/run", "/test"]) {
        let source = fs::read_to_string(&path).unwrap();
        assert!(
            !source.contains(&outside),
            "{} mentions `{outside}`",
            path.display()
        );
    }
}

//! The commands that ask a running service: what they say where there is none, and what they refuse before they ask.

use std::fs;
use std::net::TcpListener;

use super::{adit, fails, succeeds, text};

#[test]
fn what_asks_the_service_says_what_it_lacks() {
    let directory = tempfile::tempdir().unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let instance = "i-0123456789abcdef0";
    let bare = |arguments: &[&str]| {
        let mut command = adit(directory.path(), arguments);
        command.env_remove("ADIT_URL").env_remove("ADIT_ADMIN_TOKEN");
        command
    };
    let run = |arguments: &[&str]| {
        let mut command = bare(arguments);
        command
            .env("ADIT_URL", format!("http://{free}"))
            .env("ADIT_ADMIN_TOKEN", "t");
        command
    };
    for arguments in [
        ["tunnels"].as_slice(),
        &["tunnels", "drain", instance],
        &["hostkey", "show"],
        &["hostkey", "forget", instance],
    ] {
        fails(&mut bare(arguments), 125, &["ADIT_URL is not set"]);
        fails(
            bare(arguments).env("ADIT_URL", "http://127.0.0.1:1"),
            125,
            &["ADIT_ADMIN_TOKEN is not set"],
        );
        fails(&mut run(arguments), 125, &["talking to the service failed"]);
    }

    fs::write(directory.path().join("large"), vec![b'a'; 1_048_577]).unwrap();
    fs::write(directory.path().join("empty"), "# nothing\n").unwrap();
    for (key, reason) in [
        ("nonsense", "the key is not a public key line"),
        ("ssh-ed25519 AAAA", "the key is not a public key"),
        ("@none", "can't read `none`"),
        ("@large", "`large` is too large"),
        ("@empty", "there is no host key"),
        ("-", "there is no host key"),
    ] {
        fails(&mut run(&["hostkey", "pin", instance, key]), 125, &[reason]);
    }

    for (arguments, part) in [
        (["hostkey"].as_slice(), "Usage: adit hostkey"),
        (&["hostkey", "pin", instance], "<KEY>"),
        (&["hostkey", "forget"], "<INSTANCE>"),
        (&["hostkey", "show", instance, "--regoin", "x"], "--region"),
        (
            &["hostkey", "pin", instance, "ssh-ed25519", "AAAA", "--regoin", "x"],
            "--region",
        ),
        (&["tunnels", "drain"], "<INSTANCE>"),
        (&["tunnels", "drian", instance], "drain"),
        (&["tunnels", "--watch", "evict", instance], "--watch"),
    ] {
        fails(&mut run(arguments), 2, &[part]);
    }
    for (arguments, part) in [
        (["tunnels", "--help"].as_slice(), "NEXT"),
        (&["hostkey", "--help"], "ssh-keyscan"),
        (&["hostkey", "pin", "--help"], "@FILE"),
    ] {
        assert!(succeeds(&mut run(arguments)).contains(part), "{arguments:?}");
    }
}

#[test]
fn a_private_key_that_was_taken_for_the_public_one_is_not_printed() {
    let directory = tempfile::tempdir().unwrap();
    let key = "-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n-----END OPENSSH PRIVATE KEY-----\n";
    fs::write(directory.path().join("id_ed25519"), key).unwrap();
    let instance = "i-0123456789abcdef0";
    let words: Vec<&str> = key.split_whitespace().collect();
    let unquoted = [["hostkey", "pin", instance].as_slice(), &words].concat();
    for (arguments, code) in [
        (["hostkey", "pin", instance, key].as_slice(), 125),
        (&["hostkey", "pin", instance, key, "--region", "us-west-2"], 125),
        (&["hostkey", "pin", "--region", "us-west-2", instance, key], 125),
        (&["hostkey", "pin", instance, "@id_ed25519"], 125),
        // Here it stands where clap finds no place for it.
        (&["hostkey", "pin", key], 2),
        (&unquoted, 2),
        (&["hostkey", "forget", instance, key], 2),
    ] {
        let output = adit(directory.path(), arguments)
            .env("ADIT_URL", "http://127.0.0.1:1")
            .env("ADIT_ADMIN_TOKEN", "t")
            .output()
            .unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(
            said.contains("private key") && !said.contains("c2VjcmV0"),
            "{arguments:?}: {said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

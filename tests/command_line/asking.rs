//! The commands that ask a running service: what they say where there is none, and what they refuse before they ask.

use std::fs;
use std::net::TcpListener;

use super::{adit, fails, succeeds};

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

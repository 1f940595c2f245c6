//! A host key as it is given on a command line: a line, or what `ssh-keyscan` printed.

use std::path::PathBuf;

use adit_actors::tunnel::HostKey;

/// Key types in the order in which one is taken of several: ssh's own order of preference (ssh_config(5),
/// HostKeyAlgorithms), by their beginning.
const PREFERENCE: [&str; 3] = ["ssh-ed25519", "ecdsa-", "ssh-rsa"];

/// The marks that a known_hosts line may begin with (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT).
const MARKS: [&str; 2] = ["@cert-authority", "@revoked"];

/// How PEM and what resembles it begin (RFC 7468, section 2): private keys, and public ones in forms other than OpenSSH's.
const ENCAPSULATION: &str = "-----BEGIN";

/// Where the key's text is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum KeyText {
    /// In the arguments.
    Line(String),
    /// In a file.
    File(PathBuf),
    /// On standard input.
    Stdin,
}

impl KeyText {
    /// A line may come as one argument or, unquoted, as several.
    pub(super) fn of(arguments: &[String]) -> Self {
        match arguments {
            [argument] if argument == "-" => Self::Stdin,
            [argument] => match argument.strip_prefix('@') {
                // Its mark is refused where lines are read.
                Some(_) if is_marked(argument) => Self::Line(argument.clone()),
                Some(path) => Self::File(path.into()),
                None => Self::Line(argument.clone()),
            },
            several => Self::Line(several.join(" ")),
        }
    }
}

/// The one key that the text names, as a public key line. Of several types the preferred one is taken; two keys of one type
/// are two hosts', and none of them can be picked.
///
/// # Errors
/// One line for people. It never quotes the text, which may be a secret that was given by mistake.
pub(super) fn key_of(text: &str) -> Result<String, String> {
    if is_private_key(text) {
        return Err(
            "that is a private key, which belongs to its host alone; give the public one, from the `.pub` file beside it"
                .to_owned(),
        );
    }
    let lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut keys = Vec::new();
    for line in lines {
        let key = key_of_line(line)?;
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    let preferred = PREFERENCE.iter().find_map(|kind| {
        let of_kind: Vec<&HostKey> = keys.iter().filter(|key| key.key_type.starts_with(kind)).collect();
        (!of_kind.is_empty()).then_some(of_kind)
    });
    match preferred.as_deref() {
        Some([key]) => Ok(key.line()),
        Some([first, ..]) => Err(format!(
            "there are several keys of type `{}`: give the line of one host",
            first.key_type
        )),
        Some([]) | None => Err("there is no host key in it".to_owned()),
    }
}

/// Whether the text is, or begins as, a private key in OpenSSH's form or in PEM. On a command line without quotes its
/// first line is several words, so the first of them has to do.
pub(in crate::cli) fn is_private_key(text: &str) -> bool {
    text.lines().any(|line| {
        line.trim_start()
            .strip_prefix(ENCAPSULATION)
            .is_some_and(|label| label.is_empty() || label.contains("PRIVATE KEY"))
    })
}

fn is_marked(line: &str) -> bool {
    let mut words = line.split_whitespace();
    words.next().is_some_and(|word| MARKS.contains(&word)) && words.next().is_some()
}

/// With or without the host names that begin a known_hosts line.
fn key_of_line(line: &str) -> Result<HostKey, String> {
    if line.starts_with('-') {
        return Err("the key begins with `-`, as no public key line does; nor is it an option".to_owned());
    }
    if is_marked(line) {
        return Err("a marked known_hosts line (`@cert-authority`, `@revoked`) is no host's key".to_owned());
    }
    HostKey::from_line(line).or_else(|error| match line.split_once(char::is_whitespace) {
        // What stands behind the host names is what went wrong, if they are host names.
        Some((_, rest)) => HostKey::from_line(rest).map_err(|of_rest| {
            let is_bare = line.starts_with("ssh-") || line.starts_with("ecdsa-") || line.starts_with("sk-");
            complaint(if is_bare { &error } else { &of_rest })
        }),
        None => Err(complaint(&error)),
    })
}

fn complaint(error: &adit_actors::host_key::InvalidHostKey) -> String {
    format!("the key {error}")
}

#[cfg(test)]
mod tests {
    use super::{KeyText, key_of};

    const ED25519: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPr9DaewY4HjcMGP3eZdvmdn6k6qz5033UZkO7YggZjR";
    const OTHER_ED25519: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB+CjLgtNfQ9gNDjRHgaQ+1bXzQqnOoQdBrmxUnxKCGC";
    const ECDSA: &str = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBBKWH/b5n6nUv9/8PWiMt6lB68i+1vFf9DHvarqraFeAP/K6v7IpVVPMs6IFTnMIidsF2UAQF/1W5D//ozE9gdo=";
    const RSA: &str = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQDhg/JyTR7cCWbAJ/Dm4WaWSNuyUyimvcYIrB5eK3yGnaIx0zCqsnEPis+zLnLaYwYsYOOTXPSEGPKq7loHZCrwBHaQOPNuw5dHYL8sDX7/12HWBckkHM+Sa6mKMeLwPV98yOoM6bO2i3fah1h9v6VVpqk9egibIDjJoVsdjLzccDr7TkK9F2uZUEvlWV3k8o3SEcpPGZLzIocpGtEuMFZ1j/LOLnOT+NxNyUmaP58f7QomhtyfmmpYnHUB17MEeWoGEi7NZVgR4mBogMCcda4IsdgFyrXK4pJLtenstBWvs1urq3N15ijEOqjJwLk489cAYUL/rDUJx/+KGsqmk9Fx";

    #[test]
    fn arguments_name_a_line_a_file_or_standard_input() {
        let words =
            |words: &[&str]| KeyText::of(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        assert_eq!(words(&["-"]), KeyText::Stdin);
        assert_eq!(words(&["@/tmp/key"]), KeyText::File("/tmp/key".into()));
        assert_eq!(words(&[ED25519]), KeyText::Line(ED25519.to_owned()));
        let split: Vec<&str> = ED25519.split(' ').collect();
        assert_eq!(words(&split), KeyText::Line(ED25519.to_owned()));
        let marked = format!("@revoked host {ED25519}");
        assert_eq!(words(&[&marked]), KeyText::Line(marked.clone()));
        let marked: Vec<&str> = marked.split(' ').collect();
        assert_eq!(words(&marked), KeyText::Line(marked.join(" ")));
        for file in ["two words.pub", "revoked", "revoked-by me.pub"] {
            assert_eq!(words(&[&format!("@{file}")]), KeyText::File(file.into()));
        }
    }

    #[test]
    fn a_private_key_is_called_one_and_not_quoted() {
        for text in [
            "-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n-----END OPENSSH PRIVATE KEY-----\n",
            "-----BEGIN RSA PRIVATE KEY-----\r\nc2VjcmV0\r\n-----END RSA PRIVATE KEY-----\r\n",
            "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----",
            // Without quotes, its words arrive as one line.
            "-----BEGIN OPENSSH PRIVATE KEY----- c2VjcmV0 -----END OPENSSH PRIVATE KEY-----",
            "\n  -----BEGIN EC PRIVATE KEY-----",
        ] {
            let refusal = key_of(text).unwrap_err();
            assert!(refusal.contains("private key"), "{text:?}: {refusal}");
            assert!(!refusal.contains("c2VjcmV0"), "{refusal}");
        }
        let refusal = key_of("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----").unwrap_err();
        assert!(!refusal.contains("private"), "{refusal}");
    }

    #[test]
    fn lines_of_every_origin_name_their_key() {
        for text in [
            ED25519.to_owned(),
            format!("{ED25519} root@host\n"),
            format!("10.0.0.7 {ED25519}\n"),
            format!("[10.0.0.7]:2222,host {ED25519} comment\n"),
            format!("|1|aGFzaA==|aGFzaA== {ED25519}\n"),
            format!(
                "# 10.0.0.7:22 SSH-2.0-OpenSSH_9.6\n10.0.0.7 {RSA}\n\n10.0.0.7 {ECDSA}\n10.0.0.7 {ED25519}\n"
            ),
            format!("10.0.0.7 {ED25519}\nalias {ED25519}\n"),
        ] {
            assert_eq!(key_of(&text).unwrap(), ED25519, "{text:?}");
        }
        assert_eq!(key_of(&format!("h {RSA}\nh {ECDSA}\n")).unwrap(), ECDSA);
        assert_eq!(key_of(&format!("h {RSA}\n")).unwrap(), RSA);
    }

    #[test]
    fn what_names_no_one_key_is_refused() {
        for (text, reason) in [
            (String::new(), "no host key"),
            ("# 10.0.0.7:22 SSH-2.0-OpenSSH_9.6\n".to_owned(), "no host key"),
            (
                format!("a {ED25519}\nb {OTHER_ED25519}\n"),
                "several keys of type `ssh-ed25519`",
            ),
            (format!("@cert-authority * {ED25519}"), "marked"),
            (format!("@revoked\t* {ED25519}"), "marked"),
            ("@two words.pub".to_owned(), "the key is not a public key line"),
            ("--regoin us-west-2".to_owned(), "begins with `-`"),
            ("ssh-ed25519 AAAA".to_owned(), "the key is not a public key"),
            ("host ssh-ed25519 AAAA".to_owned(), "the key is not a public key"),
            ("hello".to_owned(), "the key is not a public key line"),
            (
                "h ssh-ed25519-cert-v01@openssh.com AAAA".to_owned(),
                "the key is a certificate",
            ),
            (
                format!("h {ED25519}\nnonsense\n"),
                "the key is not a public key line",
            ),
        ] {
            let refusal = key_of(&text).unwrap_err();
            assert!(
                refusal.contains(reason) && !refusal.contains('\n'),
                "{text:?}: {refusal:?}"
            );
        }
    }
}

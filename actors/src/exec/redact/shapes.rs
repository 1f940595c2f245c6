//! How the shapes of `patterns.rs` look as regular expressions, and the pieces that these and its rows are made of.

/// A word of its own, all of whose rest is the value, blanks and quotes too: `NAME=x`, `-eNAME=x`, `--name=x`,
/// `--from-literal=name=x`, and `--name` with the next word.
pub(super) const NAMED_WORD: &str =
    r#"(?i)\0(?:[^\0\s"'?&;{]*?(?:\b|_)(?:NAMES)=|--?(?:[\w.-]*[_.-])?(?:NAMES)\0)<rest>"#;

/// Anywhere else: `NAME=x`, `name = x`, `"name": x`, `name: x`, ` --name x`, `-H name:x`.
pub(super) const NAMED_INSIDE: &str = concat!(
    r#"(?i)(?:(?:\b|_)(?:NAMES)(?:\\*["']?\]?(?:(?:=>|:=|=)|[ \t]+(?:=>|:=|==?)[ \t]+)(?:\\\n)?<value>|:(?:[ \t]+<value>|<quoted>)"#,
    r#"|\\*["']\s*:\s*(?:<quoted>|([^\s\0"',}\]\\]+)))"#,
    r#"|[\s"'(]--?(?:[\w.-]*[_.-])?(?:NAMES)<blanks><value>"#,
    r#"|(?:-H|--header)[\0 \t="']*(?:[\w-]*[_-])?(?:NAMES):<value>)"#,
);

/// `PROGRAM` as a word: the words behind it are its arguments.
pub(super) const PROGRAM_WORD: &str = r"\0\n?(?:[^\0\s]*bin/)?(?:PROGRAM)\0";

/// `PROGRAM` in a script, where [`Reach::Command`](super::reach::Reach) says how far its arguments go.
pub(super) const PROGRAM_INSIDE: &str = r"<command>(?:PROGRAM)";

/// The argument of `OPTION`: as words, and in a script.
pub(super) const OPTION: [&str; 2] = [r"\0OPTION<rest>", r"[ \t\n]OPTION<value>"];

/// What stands behind `FIRST` in the argument of `OPTION`: as words, and in a script.
pub(super) const PAIR: [&str; 2] = [
    r"\0OPTION\n?FIRST<rest>",
    r#"[ \t\n]OPTION(?:"FIRST([^"\0]+)|'FIRST([^'\0]+)|FIRST<value>)"#,
];

/// What stands for longer pieces, outer ones first.
pub(super) const PIECES: &[(&str, &str)] = &[
    // What prints a value that follows, and what does by a format.
    (
        "<printed>",
        r"\b(?:echo<blanks>(?:-\w+<blanks>)*|printf<blanks>|cat[ \t]*<<<[ \t]*)",
    ),
    (
        "<formatted>",
        r"\bprintf<blanks>(?:--<blanks>)?<format><blanks>([^|;&\n\0]*[^|;&\s\0])",
    ),
    (
        "<format>",
        r#"(?:'[^'\0]*%[^'\0]*'|"[^"\0]*%[^"\0]*"|[^\s\0'"|;&%]*%[^\s\0'"|;&]*)"#,
    ),
    // What reads a password from its standard input.
    (
        "<takes_password>",
        concat!(
            r"(?:sudo<blanks>)?(?:[\w/]*bin/)?(?:sudo[ \t](?:<arguments>[ \t])?(?:-[a-zA-Z]*S\b|--stdin\b)",
            r"|(?:passwd|kinit|cryptsetup)(?:[\s;)\x22'\0]|\z)",
            r"|[\w.-]+[ \t]<arguments>--(?:password-stdin|with-token|passphrase-fd)\b)",
        ),
    ),
    // Those of one command, redirections included.
    ("<arguments>", r"(?:[^|;&\n\0]|\\\r?\n)*"),
    // What stands before a command's name in a script.
    ("<command>", r"(?:[\0\s;|&(\x22'`]|bin/)"),
    (
        "<user_and_password>",
        r#"(?:"[\w.-]+:([^"\0]+)|'[\w.-]+:([^'\0]+)|[\w.-]+:<value>)"#,
    ),
    ("<here_document>", r#"<<-?[ \t]*\\?["']?\w+["']?[^\n\0]*\n"#),
    // What is as long as an AWS secret key.
    ("<forty>", r"[^\w/+.-]([A-Za-z0-9/+]{40})(?:[^\w/+=.-]|\z)"),
    // What may follow on a name: `PASSWORD1`, `TOKENS`, `DB_PASSWORD_PROD`. See [`is_about_a_secret`].
    ("<suffix>", r"(?:s|[_-]?[0-9]{1,3})?(?:_\w+)?"),
    // An argument of what stands before it, in the next word or after blanks.
    ("<argument>", r"(?:\0<rest>|<blanks><value>)"),
    // Between an option and its argument: of one letter, of a whole name, and where only another word can follow.
    ("<gap>", r"(?:\0|<blanks>)?"),
    ("<to>", r"(?:[\0=]|<blanks>)"),
    ("<next>", r"(?:\0|<blanks>)"),
    // Blanks in a script, which goes on behind a backslash.
    ("<blanks>", r"(?:[ \t]|\\\r?\n)+"),
    // Between a header's name and its value.
    ("<is>", r#"\\*["']?\s*[:=][\0\s]*\\*["']?"#),
    // To the end of the word, which may be a script.
    ("<rest>", r"\n?([^\0]+)"),
    // A value as shells and languages write it.
    ("<value>", r"(?:<quoted>|<bare>)"),
    // In quotes, as far as the quote that closes them or the end of the word: `'\''` and `'"'"'` are quotes inside
    // quotes, `\"` those of JSON in a script, `$'` those of bash. `"Password: "` is followed by no value, nor is
    // `"Password: ";`: what begins as that goes on is one only when it is closed and has no blanks.
    (
        "<quoted>",
        concat!(
            r#"(?:'\\''([^'\0<goes_on>][^'\0]*)|'"'"'([^'\0<goes_on>][^'\0]*)|\\+["']([^"'\\\0<goes_on>][^"'\\\0]*)"#,
            r#"|\$?"((?:[^"\\\0<goes_on>]|\\[^\0])(?:[^"\\\0]|\\[^\0])*)(?:"'([^'\s\0]+)'|"<more>)?"#,
            r#"|\$?'([^'\0<goes_on>](?:[^'\0]|'\\'')*)(?:'"([^"\s\0]+)"|'<more>)?"#,
            r#"|"([^"\s\0]{4,})"|'([^'\s\0]{4,})')"#,
        ),
    ),
    ("<goes_on>", r"\s;&|)>,+"),
    // What goes on behind a closing quote without a blank, as shells let it.
    ("<more>", r"([\w$!@#%^*+.-]+)"),
    // Without quotes, or with quotes that begin inside.
    (
        "<bare>",
        r#"((?:[^\s\0"'`;&|<>()\\]|\\[^\0"'\s])(?:[^\s\0"'`;&|<>()\\]|\\[^\0"']|"[^"\s\0]*"|'[^'\s\0]*')*)"#,
    ),
    (r"\0", r"\x00"),
];

/// What is no secret wherever it stands: a variable in its place, another option, a switch, asterisks, the rest of a
/// pattern of awk or sed (`/name=/{...}`, `s/name=//`), quotes alone (`"name":"'"$VALUE"'"`).
pub(super) const NEVER_A_SECRET: &str = concat!(
    r"^(?:\x22?\$(?:|[A-Z_][A-Z0-9_]*|[0-9@*#?]|\{\w+\})\x22?|-|-[A-Za-z]|--[a-z][a-z-]*(?:=(?s:.*))?",
    r"|(?i:true|false|yes|no|on|off|null|none|nil)|[0-9]|\*+|/(?:[ \t]*\{(?s:.*))?|//[a-z]{0,3}|[\x22']+)$",
);

/// What is no secret in a script: a command in its place. Elsewhere nobody runs it, and it is a text like any other.
pub(super) const A_COMMAND: &str = r"^\x22?(?:\$\(|`)";

//! What is taken for a secret: one row a pattern.
//!
//! A row has a label for the mark, a shape, and what else must be true of a find. **What stands in a capturing group
//! goes, the rest of the match stays.** Where finds overlap all of it goes, under the label of the upper row. To add a
//! pattern, add a row, an example to `corpus/secrets.txt`, and what looks like it to `corpus/innocent.txt`.
//!
//! Patterns see the argv as one text: each word after a NUL, which no argv can hold, and a word that a shell reads
//! (`sh -c WORD`) after a NUL and a line feed. So `--password\0x` are two words, and `--password x` a piece of a script.
//! They are ASCII patterns over bytes: `\w`, `\s`, `\b` and `(?i)` know ASCII only, and every other byte is an ordinary
//! character. No pattern may look far past the end of its match: each find would do so again, which is quadratic.

/// One kind of secret.
pub(super) struct Pattern {
    /// What the mark says: `[REDACTED:LABEL]`.
    pub(super) label: &'static str,
    /// How it looks.
    pub(super) shape: Shape,
    /// Whether a find is one, where the shape alone can't tell.
    pub(super) only: fn(Found<'_>) -> bool,
}

/// How a secret looks.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    /// A value under a telling name (a pattern, in any case), in all the ways in which a name gets a value:
    /// assignments, options, JSON, headers, query strings. See [`NAMED_WORD`] and [`NAMED_INSIDE`].
    Named(&'static str),
    /// The argument of a program's option, which has no telling name: (program, option). See [`OPTION`].
    Option(&'static str, &'static str),
    /// A pattern of its own.
    Text(&'static str),
}

/// A find.
#[derive(Clone, Copy)]
pub(super) struct Found<'a> {
    /// All that matched.
    pub(super) whole: &'a str,
    /// What stood in the group.
    pub(super) secret: &'a str,
}

const fn named(label: &'static str, names: &'static str, only: fn(Found<'_>) -> bool) -> Pattern {
    let shape = Shape::Named(names);
    Pattern { label, shape, only }
}

const fn option(
    label: &'static str,
    program: &'static str,
    option: &'static str,
    only: fn(Found<'_>) -> bool,
) -> Pattern {
    let shape = Shape::Option(program, option);
    Pattern { label, shape, only }
}

const fn text(label: &'static str, pattern: &'static str, only: fn(Found<'_>) -> bool) -> Pattern {
    let shape = Shape::Text(pattern);
    Pattern { label, shape, only }
}

/// The patterns. What a name or a neighbour says stands above what the text looks like, so that the host's labels
/// (API_KEY, TOKEN, SECRET, BEARER_TOKEN) are the ones that its readers expect.
#[rustfmt::skip] // A table.
pub(super) const PATTERNS: &[Pattern] = &[
    // PEM blocks, and those that were cut off before their END; a search for the first line has no key after it.
    text("PRIVATE_KEY", r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----(?:\s|\\[nrt])*((?:[A-Za-z0-9+/=]{16}|[A-Z][A-Za-z-]+: )[^\0]*?)(?:(?:\s|\\[nrt])*-----END|\0|\z)", always),
    named("PRIVATE_KEY", r"\w*private_?key", not_a_path),

    // Key ids are no secret by themselves, but they say whose account it is.
    text("AWS_ACCESS_KEY", r"((?:AKIA|ASIA)[A-Z0-9]{16})", always),
    named("AWS_SECRET_KEY", r"aws_?secret_?(?:access_?)?key|secret_?access_?key|aws-secret-(?:access-)?key|secret-access-key", always),
    // `aws configure set aws_secret_access_key X`.
    text("AWS_SECRET_KEY", r"(?i)\baws_secret_access_key<argument>", always),
    // A secret key right after its id: `ID:KEY`, `ID KEY`.
    text("AWS_SECRET_KEY", r#"(?:AKIA|ASIA)[A-Z0-9]{16}[\0\s:,;"'=/]{1,4}([A-Za-z0-9/+]{40})"#, always),
    named("AWS_SESSION_TOKEN", r"aws_?(?:session|security)_?token|x-amz-security-token", always),
    text("AWS_SESSION_TOKEN", r"(?i)\baws_session_token<argument>", always),

    // Schemes in a header may be followed by anything; in other text the word after them must look like a token.
    text("BEARER_TOKEN", r#"(?i)authorization<is>bearer[\0\s]+([^\s\0"'\\]+)"#, always),
    text("BEARER_TOKEN", r"(?i)\bbearer[\0\s]+([a-z0-9._~+/=-]{8,})", not_a_word),
    text("BASIC_CREDENTIALS", r#"(?i)authorization<is>basic[\0\s]+([^\s\0"'\\]+)"#, always),
    text("BASIC_CREDENTIALS", r"(?i)\bbasic\s+([a-z0-9+/]{8,}={0,2})", not_a_word),
    text("AUTHORIZATION", r#"(?i)authorization<is>(?:(?:token|api-?key|negotiate|ntlm|sso-key|key|splunk|aws4-hmac-sha256)\s+)?([^\s\0"'\\]+)"#, not_a_scheme),
    text("COOKIE", r#"(?i)\bcookie:\s*([\w.-]+=[^\0"']*)"#, always),

    // `scheme://user:password@host`. A `/` or `@` in the password is not valid there, and is met all the same.
    text("URL_CREDENTIALS", r#"(?i)\b[a-z][a-z0-9+.-]*://[^\s\0:/@\["'<>]*:(?:([^\s\0"'/<>]+)@|([0-9]*[^0-9\s\0"'/@<>][^\s\0"'?#<>]*)@)"#, always),
    // A token in the place of the user.
    text("URL_CREDENTIALS", r"(?i)\b[a-z][a-z0-9+.-]*://([a-z0-9_-]{20,})@", always),
    // Go's DSN for MySQL: `user:password@tcp(host)`.
    text("URL_CREDENTIALS", r#"[^\s\0"':/@]+:([^\s\0"']+)@(?:tcp|unix)\("#, always),
    // Incoming webhooks: the path is the credential.
    text("URL_CREDENTIALS", r"https://(?:hooks\.slack\.com/(?:services|workflows)|discord(?:app)?\.com/api/webhooks)/([\w/-]+)", always),
    text("URL_CREDENTIALS", r"https://api\.telegram\.org/bot([0-9]+:[\w-]+)", always),

    named("API_KEY", r"\w*api[_.-]?key|\w*(?:access|account|shared|storage|master|encryption)[_-]?key|auth[_-]?key", always),
    named("TOKEN", r"\w*token", always),
    // `npm config set //registry/:_authToken X`.
    text("TOKEN", r"(?i)\b_authToken<argument>", always),
    named("SECRET", r"\w*secret(?:[_-]?(?:key(?:[_-]?base)?|string|binary|value))?", not_a_build_secret),
    named("PASSWORD", r"\w*passw(?:or)?d|\w*pass(?:phrase|code)|(?:ssh|store|key|user|require|db|pg)?pass", not_a_source),
    named("PASSWORD", r"pwd", not_a_path), // `DB_PWD`, `Uid=sa;Pwd=x`; `PWD` and `OLDPWD` are directories.
    // The signatures that open presigned URLs.
    named("SIGNATURE", r"x-amz-signature|signature|sig", is_long),
    text("PASSWORD", r"(?i)\brequirepass<argument>", always), // Redis: `CONFIG SET requirepass X`.
    text("PASSWORD", r#"(?i)\b(?:identified\s+(?:with\s+\S+\s+)?by|password)\s+\\*['"]([^\s'"\\\0][^'"\\\0]*)"#, always), // SQL.
    text("PASSWORD", r"(?i)<[\w:]*(?:password|passwd|secret|token|api_?key)>\s*([^<\s\0][^<\0]*)", always), // XML.
    text("PASSWORD", r"(?:\0pass:([^\s\0][^\0]*)|\bpass:<value>)", always), // OpenSSL: `-passin pass:X`.
    // Into a standard input that takes passwords.
    text("PASSWORD", r#"\b(?:echo|printf)[ \t]+(?:-\w+[ \t]+)*<value>["'\\n]*[ \t]*\|[ \t]*(?:sudo[ \t]+)?(?:sudo[ \t][^|\0]*-\w*S|passwd[ \t][^|\0]*--stdin|\S+[ \t][^|\0]*--password-stdin)"#, always),
    text("PASSWORD", r#"\b(?:echo|printf)[ \t]+(?:-\w+[ \t]+)*["']?[\w.-]+:([^\s\0"'|]+)["'\\n]*[ \t]*\|[ \t]*(?:sudo[ \t]+)?chpasswd"#, always),

    // `-p` of MySQL has its value in the same word or none at all.
    option("PASSWORD", r"(?:mysql|mariadb)[\w-]*", r"-p", not_of_find),
    option("PASSWORD", r"(?:docker|podman|helm[\0\s]+registry|buildah|skopeo|oras|az|oc)[\0\s]+login", r"-p<gap>", always),
    option("PASSWORD", r"mongo(?:sh|dump|restore|export|import)?|useradd|usermod", r"-p<gap>", always),
    option("PASSWORD", r"redis-cli|valkey-cli", r"-a<gap>", always),
    option("PASSWORD", r"ldap\w+", r"-w<gap>", always),
    option("PASSWORD", r"zip|unzip|sqlcmd|ipmitool|bcp", r"-P<gap>", always),
    option("PASSWORD", r"7z[ar]?", r"-p", always),
    option("PASSWORD", r"openssl[\0\s]+enc", r"-k[\0\s]", always),
    option("PASSWORD", r"nmcli", r"password[\0\s]", always),
    option("PASSWORD", r"smbclient|rpcclient", r#"(?:-U<gap>|--user[\0=])["']?[^%\s\0]+%"#, always),
    // `user:password` of curl; numbers are a user and a group of something else.
    option("PASSWORD", r"curl", r#"(?:-[a-zA-Z]*u<gap>|--user[\0\s=])["']?[^:\s\0"']*[^:\s\0"'0-9][^:\s\0"']*:"#, always),
    option("PASSWORD", r"curl", r#"(?:-[a-zA-Z]*U<gap>|--proxy-user[\0\s=])["']?[^:\s\0"']*[^:\s\0"'0-9][^:\s\0"']*:"#, always),
    option("COOKIE", r"curl", r"(?:-b|--cookie)[\0\s=]", not_a_file), // `name=value`, or a file of them.
    option("SECRET", r"ssm[\0\s]+put-parameter", r"--value[\0\s=]", always),
    option("SECRET", r"gh[\0\s]+secret[\0\s]+set", r"(?:-b|--body)[\0\s=]", always),
    // After the command that `sshpass` runs, `-p` is that command's.
    text("PASSWORD", r"\bsshpass(?:[\0 \t]+-v)*(?:\0-p\0?<rest>|[ \t]+-p[ \t]*<value>)", always),
    // `htpasswd -b FILE USER PASSWORD`, `htpasswd -nb USER PASSWORD`.
    text("PASSWORD", r"\bhtpasswd(?:[\0\s]+-\w+)*[\0\s]+-\w*b\w*(?:[\0\s]+[^\s\0|&;<>]+){1,2}<argument>", always),

    // What says by its own beginning what it is.
    text("JWT", r"(eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?)", always),
    text("GITHUB_TOKEN", r"(gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,})", always),
    text("GITLAB_TOKEN", r"(gl(?:pat|dt|rt|cbt|ptt|ft|soat|agent|imt|oas)-[\w.-]{16,})", always),
    text("SLACK_TOKEN", r"(xox[abeoprs]-[\w-]{10,}|xapp-[\w-]{10,})", always),
    text("STRIPE_KEY", r"((?:sk|rk)_(?:live|test)_\w{10,}|whsec_[\w+/=]{16,})", always),
    text("NPM_TOKEN", r"(npm_[A-Za-z0-9]{30,})", always),
    text("GOOGLE_KEY", r"(AIza[\w-]{35}|ya29\.[\w-]{16,}|GOCSPX-[\w-]{16,})", always),
    text("SK_TOKEN", r"(?:\b|_)(sk-[\w-]{16,})", not_a_slug), // As of OpenAI and Anthropic.
    // Vault, Terraform, PyPI, Docker, Hugging Face, DigitalOcean, SendGrid, Shopify, Databricks.
    text("TOKEN", r"\b(hv[sbr]\.[\w-]{20,}|\w{14}\.atlasv1\.[\w-]{20,}|pypi-[\w-]{32,}|dckr_pat_[\w-]{16,}|hf_[A-Za-z0-9]{30,}|do[opr]_v1_[0-9a-f]{32,}|SG\.[\w-]{16,}\.[\w-]{16,}|shp(?:at|ss|ca|pa)_[0-9a-f]{32}|dapi[0-9a-f]{32})", always),
    text("PRIVATE_KEY", r"(AGE-SECRET-KEY-1[A-Z0-9]{16,})", always),

    // Base64 and base64url of 30 bytes and more; a digest or fingerprint that says so is none.
    text("BASE64_BLOB", r"(?:(?i:sha)(?:1|224|256|384|512)[-:])?([A-Za-z0-9+/_-]{40,}={0,2})", is_random),
];

/// A word of its own, all of whose rest is the value, blanks and quotes too: `NAME=x`, `-eNAME=x`, `--name=x`,
/// `--from-literal=name=x`, and `--name` with the next word.
pub(super) const NAMED_WORD: &str =
    r#"(?i)\0(?:[^\0\s"'?&;{]*?(?:\b|_)(?:NAMES)=|--?(?:[\w.-]*[_.-])?(?:NAMES)\0)<rest>"#;

/// Anywhere else: `NAME=x`, `name = x`, `"name": x`, `name: x`, ` --name x`, `-H name:x`.
pub(super) const NAMED_INSIDE: &str = concat!(
    r#"(?i)(?:(?:\b|_)(?:NAMES)(?:\\*["']?\]?(?:(?:=>|:=|=)|[ \t]+(?:=>|:=|==?)[ \t]+)<value>|:(?:[ \t]+<value>|<quoted>)"#,
    r#"|\\*["']\s*:\s*(?:<quoted>|([^\s\0"',}\]\\]+)))"#,
    r#"|[\s"'(]--?(?:[\w.-]*[_.-])?(?:NAMES)[ \t]+<value>"#,
    r#"|(?:-H|--header)[\0 \t="']*(?:[\w-]*[_-])?(?:NAMES):<value>)"#,
);

/// The argument of `OPTION` of `PROGRAM`: as words, or inside a script as far as that command goes.
pub(super) const OPTION: [&str; 2] = [
    r#"\0(?:[^\0\s]*bin/)?(?:PROGRAM)(?:\0[^\0]*)*?\0OPTION<rest>"#,
    r#"(?:[\s;|&("'`]|bin/)(?:PROGRAM)(?:"[^"\0]*"|'[^'\0]*'|\\\n|[^\0\n;|&"'])*?[ \t]OPTION<value>"#,
];

/// What stands for longer pieces, outer ones first.
pub(super) const PIECES: &[(&str, &str)] = &[
    // An argument of what stands before it, in the next word or after blanks.
    ("<argument>", r"(?:\0<rest>|[ \t]+<value>)"),
    // Between an option of one letter and its argument: nothing, or the border of the words.
    ("<gap>", r"(?:\0|[ \t]+)?"),
    // Between a header's name and its value.
    ("<is>", r#"\\*["']?\s*[:=][\0\s]*\\*["']?"#),
    ("<rest>", r"([^\0]+)"),
    // A value as shells and languages write it.
    ("<value>", r"(?:<quoted>|<bare>)"),
    // In quotes, as far as the quote that closes them or the end of the word: `'\''` and `'"'"'` are quotes inside
    // quotes, `\"` those of JSON in a script, `$'` those of bash. `"Password: "` is followed by no value.
    (
        "<quoted>",
        concat!(
            r#"(?:'\\''([^\s'\0][^'\0]*)|'"'"'([^\s'\0][^'\0]*)|\\+["']([^\s"'\\\0][^"'\\\0]*)"#,
            r#"|\$?"((?:[^"\\\s\0]|\\[^\0])(?:[^"\\\0]|\\[^\0])*)(?:"'([^'\s\0]+)'|"<more>)?"#,
            r#"|\$?'([^\s'\0](?:[^'\0]|'\\'')*)(?:'"([^"\s\0]+)"|'<more>)?)"#,
        ),
    ),
    // What goes on behind a closing quote without a blank, as shells let it.
    ("<more>", r"([\w$!@#%^*+.-]+)"),
    // Without quotes, or with quotes that begin inside.
    (
        "<bare>",
        r#"((?:[^\s\0"'`;&|<>()\\]|\\[^\0"'\s])(?:[^\s\0"'`;&|<>()\\]|\\[^\0"']|"[^"\s\0]*"|'[^'\s\0]*')*)"#,
    ),
    (r"\0", r"\x00"),
];

/// What is no secret wherever it stands: a variable or a command in its place, another option, a switch, asterisks, the
/// rest of a pattern of awk or sed (`/name=/{...}`, `s/name=//`), quotes alone (`"name":"'"$VALUE"'"`).
pub(super) const NEVER_A_SECRET: &str = concat!(
    r"^(?:\$(?:|[A-Z_][A-Z0-9_]*|[0-9@*#?]|\{\w+\}|\((?s:.*))|`(?s:.*)|-|-[A-Za-z]|--[a-z][a-z-]*(?:=(?s:.*))?",
    r"|(?i:true|false|yes|no|on|off|null|none|nil)|[01]|\*+|/(?:[ \t]*\{(?s:.*))?|//[a-z]{0,3}|[\x22']+)$",
);

fn always(_: Found<'_>) -> bool {
    true
}

/// `PRIVATE_KEY=/etc/ssl/x.key`, `PWD=/home`.
fn not_a_path(found: Found<'_>) -> bool {
    !found.secret.starts_with(['/', '~', '.'])
}

/// `Bearer certificates`, `Basic information`.
fn not_a_word(found: Found<'_>) -> bool {
    let mut letters = found.secret.chars().skip(1);
    !letters.all(|letter| letter.is_ascii_lowercase() || matches!(letter, '.' | '-'))
}

/// A scheme whose credential another pattern knows, or is yet to come.
fn not_a_scheme(found: Found<'_>) -> bool {
    !["bearer", "basic", "digest"].contains(&found.secret.to_ascii_lowercase().as_str())
}

/// `docker build --secret id=npm,src=.npmrc` names a secret and where it is.
fn not_a_build_secret(found: Found<'_>) -> bool {
    let sources = ["id=", "src=", "source=", "type=", "env="];
    !sources.iter().any(|source| found.secret.starts_with(source))
}

/// `--no-password`; OpenSSL's `-pass file:x`; `pass:x` has a row of its own.
fn not_a_source(found: Found<'_>) -> bool {
    let sources = ["pass:", "file:", "env:", "fd:", "stdin"];
    let switch = found.whole.to_ascii_lowercase().contains("-no-pass");
    !switch && !sources.iter().any(|source| found.secret.starts_with(source))
}

/// `-b cookies.txt`.
fn not_a_file(found: Found<'_>) -> bool {
    found.secret.contains('=')
}

/// `find -name mysql -print`: what reads as `-p` and a password.
fn not_of_find(found: Found<'_>) -> bool {
    !["rint", "rint0", "rintf", "erm", "ath", "rune"].contains(&found.secret)
}

/// Signatures are long; other things called `sig` are not.
fn is_long(found: Found<'_>) -> bool {
    found.secret.len() >= 16
}

/// `sk-learn-contrib-packages`.
fn not_a_slug(found: Found<'_>) -> bool {
    let mut words = found.secret.split('-').skip(1);
    found.secret.matches('-').count() == 1
        || !words.all(|word| word.chars().all(|letter| letter.is_ascii_lowercase()))
}

/// Whether a long text is random and no name, path or digest: it has letters of both cases and digits, and changes
/// between them often, in both of its halves (a name may end in an id). Random base64 changes at 45 % of its places. Of
/// 190,000 pieces of 40 characters and more in the paths of a machine none came to 22 %, and of 1,000 random texts of
/// 40 characters 8 stay below one of the limits; of longer ones fewer.
fn is_random(found: Found<'_>) -> bool {
    let says_digest = found.whole.len() > found.secret.len();
    let bytes = found.secret.as_bytes();
    let has = |wanted: fn(&u8) -> bool| bytes.iter().any(wanted);
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let often = |bytes: &[u8], percent| changes(bytes) * 100 >= bytes.len() * percent;
    !says_digest
        && has(u8::is_ascii_lowercase)
        && has(u8::is_ascii_uppercase)
        && has(u8::is_ascii_digit)
        && often(bytes, 22)
        && often(first, 13)
        && often(second, 13)
}

/// Changes between small letters, capitals and digits. A capital before a small letter is none, as it begins a word.
fn changes(bytes: &[u8]) -> usize {
    let neighbours = bytes.iter().zip(bytes.iter().skip(1));
    neighbours
        .filter(|(one, next)| {
            (one.is_ascii_lowercase() && (next.is_ascii_uppercase() || next.is_ascii_digit()))
                || (one.is_ascii_uppercase() && next.is_ascii_digit())
                || (one.is_ascii_digit() && next.is_ascii_alphabetic())
        })
        .count()
}

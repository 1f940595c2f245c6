//! What is taken for a secret: one row a pattern.
//!
//! A row has a label for the mark, a shape, and what else must be true of a find. **What stands in a capturing group
//! goes, the rest of the match stays.** Where finds overlap all of it goes, under the label of the upper row. To add a
//! pattern, add a row, an example to `corpus/secrets.txt`, and what looks like it to `corpus/innocent.txt`. Pieces like
//! `<value>` stand in `shapes.rs`, the conditions in `only.rs`.
//!
//! Patterns see the argv as one text: each word after a NUL, which no argv can hold, and a word that a shell reads
//! (`sh -c WORD`) after a NUL and a line feed. So `--password\0x` are two words, and `--password x` a piece of a script.
//! They are ASCII patterns over bytes: `\w`, `\s`, `\b` and `(?i)` know ASCII only, and every other byte is an ordinary
//! character. No pattern may look far past the end of its match: each find would do so again, which is quadratic.

use super::only::{
    always, is_code, is_long, is_long_token, is_mixed, is_opaque, is_random, is_random_key,
    not_a_build_secret, not_a_file, not_a_file_of_credentials, not_a_file_to_read, not_a_glob, not_a_path,
    not_a_scheme, not_a_slug, not_a_source, not_a_word, not_an_assignment, not_an_option, not_of_find,
};

/// One kind of secret.
pub(super) struct Pattern {
    /// What the mark says: `[REDACTED:LABEL]`.
    pub(super) label: &'static str,
    /// How it looks.
    pub(super) shape: Shape,
    /// Whether a find is one, where the shape alone can't tell.
    pub(super) only: fn(Found<'_>) -> bool,
}

/// How a secret looks. `shapes.rs` has each as regular expressions.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    /// A value under a telling name (a pattern, in any case), in all the ways in which a name gets a value:
    /// assignments, options, JSON, headers, query strings.
    Named(&'static str),
    /// The arguments of a program's option, which has no telling name: (program, option).
    Option(&'static str, &'static str),
    /// The same where the secret is the second half of an argument: (program, option, first half).
    Pair(&'static str, &'static str, &'static str),
    /// A pattern of its own, wherever it stands behind another: (that other, pattern).
    After(&'static str, &'static str),
    /// A pattern of its own.
    Text(&'static str),
}

/// A find.
#[derive(Clone, Copy)]
pub(super) struct Found<'a> {
    /// What matched before the first group.
    pub(super) before: &'a str,
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

const fn pair(
    label: &'static str,
    program: &'static str,
    option: &'static str,
    first: &'static str,
) -> Pattern {
    Pattern {
        label,
        shape: Shape::Pair(program, option, first),
        only: always,
    }
}

const fn after(
    label: &'static str,
    before: &'static str,
    pattern: &'static str,
    only: fn(Found<'_>) -> bool,
) -> Pattern {
    let shape = Shape::After(before, pattern);
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
    named("PRIVATE_KEY", r"\w*private_?key<suffix>", not_a_path),

    // Key ids are no secret by themselves, but they say whose account it is.
    text("AWS_ACCESS_KEY", r"((?:AKIA|ASIA)[A-Z0-9]{16})", always),
    named("AWS_SECRET_KEY", r"(?:aws_?secret_?(?:access_?)?key|secret_?access_?key|aws-secret-(?:access-)?key|secret-access-key)<suffix>", always),
    // `aws configure set aws_secret_access_key X`.
    text("AWS_SECRET_KEY", r"(?i)\baws_secret_access_key<argument>", always),
    // A secret key right after its id: `ID:KEY`, `ID KEY`.
    text("AWS_SECRET_KEY", r#"(?:AKIA|ASIA)[A-Z0-9]{16}[\0\s:,;"'=/]{1,4}([A-Za-z0-9/+]{40})"#, always),
    // Or anywhere behind it: exactly so long.
    after("AWS_SECRET_KEY", r"(?:AKIA|ASIA)[A-Z0-9]{16}|\[REDACTED:AWS_ACCESS_KEY\]", r"<forty>", is_mixed),
    named("AWS_SESSION_TOKEN", r"aws_?(?:session|security)_?token<suffix>|x-amz-security-token", always),
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
    text("URL_CREDENTIALS", r"(?i)\b[a-z][a-z0-9+.-]*://([\w.~=+-]{12,})@", is_opaque),
    text("URL_CREDENTIALS", r"(?i)_dsn<is>https?://([^\s\0/:@]+)@", always), // Sentry.
    // Go's DSN for MySQL: `user:password@tcp(host)`. With the user in front it takes thirty times as long.
    text("URL_CREDENTIALS", r#":([^\s\0"'/][^\s\0"']*)@(?:tcp|unix)\("#, always),
    // Incoming webhooks: the path is the credential.
    text("URL_CREDENTIALS", r"https://(?:hooks\.slack\.com/(?:services|workflows)|discord(?:app)?\.com/api/webhooks)/([\w/-]+)", always),
    text("URL_CREDENTIALS", r"https://api\.telegram\.org/bot([0-9]+:[\w-]+)", always),

    named("API_KEY", r"(?:\w*api[_.-]?key|\w*(?:access|account|shared|storage|master|encryption|subscription)[_-]?key|auth[_-]?key)<suffix>", always),
    named("TOKEN", r"\w*token<suffix>", always),
    // Personal access tokens; `pat` is a branch, a name, a glob too.
    named("TOKEN", r"\w+_pat<suffix>", not_a_glob),
    named("TOKEN", r"pat", is_long_token),
    text("TOKEN", r"(?i)[\0\s]--(?:[\w-]*-)?pat<to><value>", not_a_glob),
    // `npm config set //registry/:_authToken X`.
    text("TOKEN", r"(?i)\b_authToken<argument>", always),
    named("SECRET", r"\w*secret(?:[_-]?(?:key(?:[_-]?base)?|string|binary|value))?<suffix>", not_a_build_secret),
    named("PASSWORD", r"(?:\w*passw(?:or)?d|\w*pass(?:phrase|code)|(?:ssh|store|key|user|require|db|pg)?pass|(?:user|root|bind|admin)?pw)<suffix>", not_a_source),
    named("CREDENTIALS", r"\w*credentials|(?:\w+_)?creds", not_a_file_of_credentials),
    named("PASSWORD", r"\w*(?:redis|basic|http|proxy)_auth|_auth", not_a_scheme),
    named("PASSWORD", r"otp|(?-i:PIN)", is_code), // `pin` is a commit, a contact of a chip too.
    named("PASSWORD", r"pwd<suffix>", not_a_path), // `DB_PWD`, `Uid=sa;Pwd=x`; `PWD` and `OLDPWD` are directories.
    // The signatures that open presigned URLs.
    named("SIGNATURE", r"x-amz-signature|signature|sig", is_long),
    text("PASSWORD", r"(?i)\brequirepass<argument>", always), // Redis: `CONFIG SET requirepass X`.
    text("PASSWORD", r#"(?i)\b(?:identified\s+(?:with\s+\S+\s+)?by|password)\s+\\*['"]([^'"\\\0<goes_on>][^'"\\\0]*)"#, always), // SQL.
    text("PASSWORD", r"(?i)<[\w:]*(?:password|passwd|secret|token|api_?key)>\s*([^<\s\0][^<\0]*)", always), // XML.
    text("PASSWORD", r"(?:\0pass:([^\s\0][^\0]*)|\bpass:<value>)", always), // OpenSSL: `-passin pass:X`.
    // Into a standard input that takes passwords: by a pipe, a here-string or the first line of a here-document.
    text("PASSWORD", r#"<printed><value>["'\\n]*[ \t]*\|[ \t]*<takes_password>"#, always),
    text("PASSWORD", r"<formatted>[ \t]*\|[ \t]*<takes_password>", always),
    text("PASSWORD", r"<command><takes_password><arguments>?(?:<<<[ \t]*<value>|<here_document>([^\n\0]+))", always),
    text("PASSWORD", r#"<<<[ \t]*<value>["']?<blanks><takes_password>"#, always),
    text("PASSWORD", r#"(?:<printed><user_and_password>["'\\n]*|<formatted>)[ \t]*\|[ \t]*(?:sudo<blanks>)?chpasswd"#, always),
    text("PASSWORD", r"<command>chpasswd\b<arguments>?(?:<<<[ \t]*<user_and_password>|<here_document>([\w.-]+:[^\n\0]+(?:\n[\w.-]+:[^\n\0]+)*))", always),

    // `-p` of MySQL has its value in the same word or none at all.
    option("PASSWORD", r"(?:mysql|mariadb)[\w-]*", r"-p", not_of_find),
    option("PASSWORD", r"(?:docker|podman|helm[\0\s]+registry|buildah|skopeo|oras|az|oc)[\0\s]+login", r"-p<gap>", always),
    option("PASSWORD", r"mongo(?:sh|dump|restore|export|import)?|useradd|usermod|cqlsh", r"-p<gap>", always),
    option("PASSWORD", r"redis-cli|valkey-cli", r"-a<gap>", always),
    // `AUTH PASSWORD` and `AUTH USER PASSWORD`.
    option("PASSWORD", r"redis-cli|valkey-cli", r"(?i:auth)<next>", always),
    option("PASSWORD", r"redis-cli|valkey-cli", r"(?i:auth)<next>[^\s\0;|&<>]+<next>", always),
    option("PASSWORD", r"(?:mysql|mariadb-)admin", r"password<next>", always),
    option("PASSWORD", r"rabbitmqctl", r"(?:add_user|change_password|authenticate_user)<next>[^\s\0]+<next>", always),
    option("PASSWORD", r"slappasswd|ldappasswd", r"-s<gap>", always),
    option("PASSWORD", r"snmp(?:bulk)?(?:walk|get\w*|set|table|trap|inform|status|test)", r"-[cAX]<gap>", always),
    option("PASSWORD", r"ldap\w+", r"-w<gap>", always),
    option("PASSWORD", r"zip|unzip|sqlcmd|ipmitool|bcp|mosquitto_\w+", r"-P<gap>", always),
    option("PASSWORD", r"7z[ar]?", r"-p", always),
    option("PASSWORD", r"ssh-keygen", r"-[NP]<gap>", always),
    option("PASSWORD", r"openssl[\0\s]+enc", r"-k<next>", always),
    option("PASSWORD", r"nmcli", r"(?:[\w.-]*psk|[\w.-]*password)<next>", always),
    pair("PASSWORD", r"smbclient|rpcclient", r"(?:-U<gap>|--user<to>)", r"[^%\s\0]+%"),
    pair("PASSWORD", r"lftp", r"-u<gap>", r#"[^,\s\0"']+,"#),
    // `user:password` of curl; numbers are a user and a group of something else.
    pair("PASSWORD", r"curl|etcdctl", r"(?:-[a-zA-Z]*[uU]<gap>|--(?:proxy-)?user<to>)", r#"[^:\s\0"']*[^:\s\0"'0-9][^:\s\0"']*:"#),
    pair("PASSWORD", r"curl", r"(?:-[a-zA-Z]*E<gap>|--(?:proxy-)?cert<to>)", r#"[^:\s\0"']+:"#), // `certificate:password`.
    pair("PASSWORD", r"https?|xhs?", r"(?:-a<gap>|--auth<to>)", r#"[^:/\s\0"']+:"#), // HTTPie.
    option("BEARER_TOKEN", r"curl", r"--oauth2-bearer<to>", always),
    option("COOKIE", r"curl", r"(?:-b|--cookie)<to>", not_a_file), // `name=value`, or a file of them.
    option("SECRET", r"ssm[\0\s]+put-parameter", r"--value<to>", always),
    pair("SECRET", r"secret[\0\s]+generic", r"--from-literal<to>", r#"[^=\s\0"']+="#), // `kubectl create`.
    option("SECRET", r"vault[\0\s]+kv[\0\s]+(?:put|patch)", r"\w[\w.-]*=", not_a_file_to_read),
    option("SECRET", r"user-secrets", r"set<next>[^\s\0]+<next>", always), // `dotnet`.
    option("SECRET", r"gh[\0\s]+secret[\0\s]+set", r"(?:-b|--body)<to>", always),
    // Oracle: `sqlplus user/password@database`.
    text("PASSWORD", r#"\b(?:sqlplus|sqlldr|rman|expdp|impdp)(?:<next>(?:-\w+|target)){0,8}<next>["']?(?:userid=)?[\w$\#]+/(?:\\*"([^"\\\0]+)|([^\s\0"'@\\]+))"#, always),
    text("TOKEN", r"\bvault<next>(?:login|operator<next>unseal)(?:<next>-(?:method<next>)?[^\s\0]+){0,8}<argument>", not_an_assignment),
    text("PASSWORD", r"\bopenssl<next>passwd(?:<next>-(?:[156]|apr1|aixmd5|crypt|noverify|quiet|reverse|table|salt<next>[^\s\0]+))*<argument>", not_an_option),
    // After the command that `sshpass` runs, `-p` is that command's.
    text("PASSWORD", r"\bsshpass(?:[\0 \t]+-v)*(?:\0-p\0?<rest>|<blanks>-p(?:<blanks>)?<value>)", always),
    // `htpasswd -b FILE USER PASSWORD`, `htpasswd -nb USER PASSWORD`.
    text("PASSWORD", r"\b(?:htpasswd|mosquitto_passwd)(?:[\0\s]+-\w+)*[\0\s]+-\w*b\w*(?:[\0\s]+[^\s\0|&;<>]+){1,2}<argument>", always),

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
    text("BASE64_BLOB", r"<forty>", is_random_key),
];

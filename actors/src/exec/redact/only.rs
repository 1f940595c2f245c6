//! What must be true of a find, where its shape alone can't tell a secret from what looks like one.

use super::patterns::Found;

/// What a name says that ends in it: something about a secret, and not the secret.
#[rustfmt::skip] // A list.
const ABOUT_SECRETS: &[&str] = &[
    "age", "alg", "algorithm", "arn", "attempts", "audience", "bucket", "budget", "characters", "charset",
    "claim", "column", "command", "complexity", "context", "cost", "count", "day", "days", "dir", "directory",
    "duration", "enabled", "encoding", "encryption", "endpoint", "engine", "expiration", "expires", "expiry",
    "field", "file", "filenames", "files", "filter", "format", "header", "helper", "hint", "history", "host",
    "hour", "hours", "id", "ids", "in", "index", "iterations", "issuer", "label", "len", "length", "lifetime",
    "limit", "location", "manager", "max", "method", "min", "minute", "minutes", "mode", "mount", "name",
    "names", "namespace", "param", "parameter", "path", "paths", "pattern", "policy", "prefix", "prompt",
    "provider", "ref", "reference", "region", "required", "reset", "retries", "rotation", "rounds", "rules",
    "scope", "scopes", "second", "seconds", "server", "service", "size", "source", "status", "stdin", "store",
    "strength", "through", "timeout", "ttl", "type", "uri", "url", "usage", "used", "username", "variable",
    "version",
];

/// What makes a plural a number of them, or a list of where they are: `MAX_TOKENS`, `--update-secrets`.
const OF_MANY: &[&str] = &["max", "min", "num", "total", "set", "update", "remove"];

/// Whether a name that holds that of a secret (`PASSWORD_FILE`) is that of something else: by its last part, or as a
/// number of tokens.
pub(super) fn is_about_a_secret(found: Found<'_>) -> bool {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let name = found.before.trim_end_matches(|letter| !is_part(letter));
    let name = name.rsplit(|letter| !is_part(letter) && letter != '-').next();
    let name = name.unwrap_or_default().to_ascii_lowercase();
    let mut parts = name.split(['_', '-']);
    let last = parts.next_back().unwrap_or_default();
    let number = found.secret.starts_with(|letter: char| letter.is_ascii_digit())
        && found
            .secret
            .bytes()
            .all(|byte| b"0123456789.,_kKmM".contains(&byte));
    // `for token in tokens: print(token)`, "secrets: rotate them".
    let alone = name == last && found.before.trim_end().ends_with(':');
    let many = last.ends_with('s') && !last.ends_with("pass");
    let counted = number || alone || parts.any(|part| OF_MANY.contains(&part));
    ABOUT_SECRETS.contains(&last) || (many && counted)
}

pub(super) fn always(_: Found<'_>) -> bool {
    true
}

/// `PRIVATE_KEY=/etc/ssl/x.key`, `PWD=/home`.
pub(super) fn not_a_path(found: Found<'_>) -> bool {
    !found.secret.starts_with(['/', '~', '.'])
}

/// `Bearer certificates`, `Basic information`.
pub(super) fn not_a_word(found: Found<'_>) -> bool {
    let mut letters = found.secret.chars().skip(1);
    !letters.all(|letter| letter.is_ascii_lowercase() || matches!(letter, '.' | '-'))
}

/// A scheme whose credential another pattern knows, or is yet to come.
pub(super) fn not_a_scheme(found: Found<'_>) -> bool {
    !["bearer", "basic", "digest"].contains(&found.secret.to_ascii_lowercase().as_str())
}

/// `docker build --secret id=npm,src=.npmrc` names a secret and where it is.
pub(super) fn not_a_build_secret(found: Found<'_>) -> bool {
    let sources = ["id=", "src=", "source=", "type=", "env="];
    !sources.iter().any(|source| found.secret.starts_with(source))
}

/// `--no-password`; OpenSSL's `-pass file:x`; `pass:x` has a row of its own.
pub(super) fn not_a_source(found: Found<'_>) -> bool {
    let sources = ["pass:", "file:", "env:", "fd:", "stdin"];
    let switch = found.before.to_ascii_lowercase().contains("-no-pass");
    !switch && !sources.iter().any(|source| found.secret.starts_with(source))
}

/// `-b cookies.txt`.
pub(super) fn not_a_file(found: Found<'_>) -> bool {
    found.secret.contains('=')
}

/// `--credentials key.json`, JavaScript's `credentials: 'include'`.
pub(super) fn not_a_file_of_credentials(found: Found<'_>) -> bool {
    let is_name = [".json", ".yaml", ".yml", ".ini", ".conf", ".toml", ".txt"]
        .iter()
        .any(|extension| found.secret.ends_with(extension));
    not_a_path(found) && !is_name && !["include", "omit", "same-origin"].contains(&found.secret)
}

/// `NAME_PAT='*.log'`.
pub(super) fn not_a_glob(found: Found<'_>) -> bool {
    !found.secret.contains(['*', '?', '[', '^', '\\', '|'])
}

/// `PAT=0123456789abcdefghij`, and not `pat=name`.
pub(super) fn is_long_token(found: Found<'_>) -> bool {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    is_long(found)
        && found.secret.bytes().all(is_token)
        && found.secret.bytes().any(|byte| byte.is_ascii_digit())
}

/// `vault login username=bob`.
pub(super) fn not_an_assignment(found: Found<'_>) -> bool {
    !found.secret.contains('=')
}

/// `openssl passwd -6 -stdin`.
pub(super) fn not_an_option(found: Found<'_>) -> bool {
    !found.secret.starts_with('-')
}

/// `vault kv put kv/app key=@key.pem`.
pub(super) fn not_a_file_to_read(found: Found<'_>) -> bool {
    !found.secret.starts_with('@')
}

/// `https://TOKEN@host`, and no user's name: without dots and long, or with digits and letters in turn.
pub(super) fn is_opaque(found: Found<'_>) -> bool {
    let pieces = found.secret.split(['-', '_', '.']);
    let mixed = pieces.map(|piece| changes(piece.as_bytes())).max() >= Some(3);
    mixed || (found.secret.len() >= 20 && !found.secret.contains('.'))
}

/// `OTP=123456`, `PIN=1234`; not `OTP=26.2` of Erlang, nor `GPIO_PIN=17`.
pub(super) fn is_code(found: Found<'_>) -> bool {
    let bytes = found.secret.as_bytes();
    bytes.len() >= 4 && bytes.iter().all(u8::is_ascii_alphanumeric) && bytes.iter().any(u8::is_ascii_digit)
}

/// `find -name mysql -print`: what reads as `-p` and a password.
pub(super) fn not_of_find(found: Found<'_>) -> bool {
    !["rint", "rint0", "rintf", "erm", "ath", "rune"].contains(&found.secret)
}

/// Signatures are long; other things called `sig` are not.
pub(super) fn is_long(found: Found<'_>) -> bool {
    found.secret.len() >= 16
}

/// `sk-learn-contrib-packages`.
pub(super) fn not_a_slug(found: Found<'_>) -> bool {
    let mut words = found.secret.split('-').skip(1);
    found.secret.matches('-').count() == 1
        || !words.all(|word| word.chars().all(|letter| letter.is_ascii_lowercase()))
}

/// What stands behind an AWS key id and is as long as its key: no digest in hex, no path.
pub(super) fn is_mixed(found: Found<'_>) -> bool {
    let bytes = found.secret.as_bytes();
    has_all_kinds(bytes) && changes_often(bytes, 12)
}

/// Whether a long text is random and no name, path or digest: it has letters of both cases and digits, and changes
/// between them often, in both of its halves (a name may end in an id). Random base64 changes at 45 % of its places. Of
/// 190,000 pieces of 40 characters and more in the paths of a machine none came to 22 %, and of 1,000 random texts of
/// 40 characters 8 stay below one of the limits; of longer ones fewer.
pub(super) fn is_random(found: Found<'_>) -> bool {
    let says_digest = !found.before.is_empty();
    !says_digest && !is_path(found.secret) && changes_all_over(found.secret, 22)
}

/// The same for what is as long as an AWS secret key, and AWS's example of one is less random. Of the 463 pieces of
/// paths that are so long none came to 3 %.
pub(super) fn is_random_key(found: Found<'_>) -> bool {
    !is_path(found.secret) && changes_all_over(found.secret, 18)
}

/// Whether it begins as a path does, or as what stands behind a host's last dot or colon: `/srv/`, `//bucket/`, `com/`,
/// `8080/`. Random base64 does in 3 % of all cases.
fn is_path(text: &str) -> bool {
    let first = text.split_once('/').map(|(first, _)| first.as_bytes());
    first
        .is_some_and(|first| first.iter().all(u8::is_ascii_lowercase) || first.iter().all(u8::is_ascii_digit))
}

fn changes_all_over(text: &str, percent: usize) -> bool {
    let bytes = text.as_bytes();
    let (first, second) = bytes.split_at(bytes.len() / 2);
    has_all_kinds(bytes)
        && changes_often(bytes, percent)
        && changes_often(first, 13)
        && changes_often(second, 13)
}

/// Small letters, capitals and digits.
fn has_all_kinds(bytes: &[u8]) -> bool {
    let has = |wanted: fn(&u8) -> bool| bytes.iter().any(wanted);
    has(u8::is_ascii_lowercase) && has(u8::is_ascii_uppercase) && has(u8::is_ascii_digit)
}

fn changes_often(bytes: &[u8], percent: usize) -> bool {
    changes(bytes) * 100 >= bytes.len() * percent
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

//! The machine's process table, to see what an exec has left behind.

use std::fs;

use uuid::Uuid;

/// A `sleep` duration that no other process of this machine has as its argument: about a quarter of an hour.
pub(crate) fn unique_sleep() -> String {
    format!("987.{:09}", Uuid::new_v4().as_u128() % 1_000_000_000)
}

/// Ids of the processes that have `argument` among their arguments. Zombies have none left, and don't count.
pub(crate) fn with_argument(argument: &str) -> Vec<u32> {
    matching("cmdline", |content| content == argument.as_bytes())
}

/// Ids of the processes whose environment has `variable`, as in `NAME=value`.
pub(crate) fn with_variable(variable: &str) -> Vec<u32> {
    matching("environ", |content| content == variable.as_bytes())
}

/// A process may end while it is looked at, and others are not ours to read: both count as no match.
fn matching(file: &str, is_match: impl Fn(&[u8]) -> bool) -> Vec<u32> {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|process| {
            fs::read(format!("/proc/{process}/{file}"))
                .is_ok_and(|content| content.split(|byte| *byte == 0).any(&is_match))
        })
        .collect()
}

//! The machine's process table, to see what an exec has left behind.

use std::collections::HashSet;
use std::fs;

use uuid::Uuid;

/// A `sleep` duration that no other process of this machine has as its argument: about a quarter of an hour.
pub(crate) fn unique_sleep() -> String {
    format!("987.{:09}", Uuid::new_v4().as_u128() % 1_000_000_000)
}

/// Ids of the processes that have `argument` among their arguments. Zombies have none left, and don't count.
pub(crate) fn with_argument(argument: &str) -> Vec<u32> {
    let arguments = contents("cmdline").into_iter();
    let matching = arguments.filter(|(_, arguments)| {
        let mut arguments = arguments.split(|byte| *byte == 0);
        arguments.any(|content| content == argument.as_bytes())
    });
    matching.map(|(process, _)| process).collect()
}

/// What the processes of this machine have as the value of that environment variable. One look, however many it is asked for.
pub(crate) fn values_of(variable: &str) -> HashSet<String> {
    let start = format!("{variable}=");
    let environments = contents("environ");
    let values = environments.iter().flat_map(|(_, environment)| {
        let variables = environment.split(|byte| *byte == 0);
        variables.filter_map(|entry| entry.strip_prefix(start.as_bytes()))
    });
    values
        .map(|value| String::from_utf8_lossy(value).into_owned())
        .collect()
}

/// What that process has as the value of the environment variable.
pub(crate) fn value_in(process: u32, variable: &str) -> Option<String> {
    let environment = fs::read(format!("/proc/{process}/environ")).ok()?;
    let start = format!("{variable}=");
    let mut variables = environment.split(|byte| *byte == 0);
    let value = variables.find_map(|entry| entry.strip_prefix(start.as_bytes()))?;
    Some(String::from_utf8_lossy(value).into_owned())
}

/// Of every process: its id and the content of that file. A process may end while it is looked at, and others are not ours
/// to read: they are left out.
fn contents(file: &str) -> Vec<(u32, Vec<u8>)> {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter_map(|process| Some((process, fs::read(format!("/proc/{process}/{file}")).ok()?)))
        .collect()
}

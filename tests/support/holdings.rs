//! What a process holds of the system.

use std::fs;

/// One look at a process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holdings {
    /// Memory, in bytes.
    pub(crate) resident: u64,
    /// Open file descriptors.
    pub(crate) descriptors: usize,
    /// Threads.
    pub(crate) threads: usize,
}

impl Holdings {
    pub(crate) fn of(process: u32) -> Self {
        let entries = |directory| {
            let path = format!("/proc/{process}/{directory}");
            fs::read_dir(path).unwrap().count()
        };
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .unwrap();
        Self {
            resident: resident.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024,
            descriptors: entries("fd"),
            threads: entries("task"),
        }
    }
}

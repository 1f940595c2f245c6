//! When the next frames may leave: at once while there are few, gathered while there are many.

use std::time::Duration;

use tokio::time::Instant;

/// What is printed waits for this long at most for more to go with it. Below what a person or a program that answers line by
/// line would notice; long enough that a program which prints single bytes as fast as it can makes 200 frames a second
/// and not 3,000, which is as many as the SSH packets that sshd makes of it.
const GATHER: Duration = Duration::from_millis(5);

/// Frames in a row that wait for nothing, so that the few lines that most programs print are told one by one, stdout and
/// stderr in the order in which they came.
const AT_ONCE: u32 = 32;

/// One answer's pace.
#[derive(Debug)]
pub(super) struct Pace {
    /// Before this, what is to be sent waits for more.
    free_at: Instant,
}

impl Pace {
    /// Nothing has been sent yet.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            free_at: earliest(now),
        }
    }

    /// From when on the next frames may be sent.
    pub(super) fn free_at(&self) -> Instant {
        self.free_at
    }

    /// Some have been sent.
    pub(super) fn sent(&mut self, now: Instant) {
        self.free_at = self.free_at.max(earliest(now)) + GATHER;
    }
}

fn earliest(now: Instant) -> Instant {
    now.checked_sub(GATHER * (AT_ONCE - 1)).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{AT_ONCE, GATHER, Pace};

    #[test]
    fn a_few_leave_at_once_and_then_one_at_a_time() {
        // So far from the beginning of the clock that there is time before it.
        let begin = Instant::now() + Duration::from_secs(3_600);
        let mut pace = Pace::new(begin);
        for _ in 0..AT_ONCE {
            assert!(pace.free_at() <= begin);
            pace.sent(begin);
        }
        for count in 1..4 {
            assert_eq!(pace.free_at(), begin + GATHER * count);
            pace.sent(pace.free_at());
        }
        let after_a_rest = begin + Duration::from_secs(1);
        for _ in 0..AT_ONCE {
            assert!(pace.free_at() <= after_a_rest);
            pace.sent(after_a_rest);
        }
        assert_eq!(pace.free_at(), after_a_rest + GATHER);
    }
}

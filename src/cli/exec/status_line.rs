//! A line on the terminal that says that something is waited for.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Most waits are shorter than this, and need no line: a warm exec takes milliseconds.
const APPEARS_AFTER: Duration = Duration::from_millis(300);
const TURNS_EVERY: Duration = Duration::from_millis(100);
const TURNS: [char; 4] = ['|', '/', '-', '\\'];
/// Back to the beginning of the line, and all that stands there is taken out.
const ERASE: &str = "\r\x1b[K";

/// Waits for `work`, and says so on standard error once it takes a while. Nothing of it is left afterwards, nor when this
/// is dropped. Without a terminal there, or with one that can't take a line out again (`TERM=dumb`), nothing is said.
pub(super) async fn shown_while<T>(what: &str, work: impl Future<Output = T>) -> T {
    if !can_erase() {
        return work.await;
    }
    let begun = Instant::now();
    let mut line = Line { is_shown: false };
    let mut next = begun + APPEARS_AFTER;
    let mut turns = TURNS.iter().cycle();
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = sleep_until(next) => {
                let turn = turns.next().unwrap_or(&' ');
                line.show(&format!("{turn} {what}, {} s", begun.elapsed().as_secs()));
                next += TURNS_EVERY;
            }
        }
    }
}

fn can_erase() -> bool {
    let terminal = std::env::var("TERM").unwrap_or_default();
    std::io::stderr().is_terminal() && !terminal.is_empty() && terminal != "dumb"
}

struct Line {
    is_shown: bool,
}

impl Line {
    fn show(&mut self, text: &str) {
        self.is_shown = true;
        write(&format!("{ERASE}{text}"));
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.is_shown {
            write(ERASE);
        }
    }
}

/// A terminal that is gone can't be told.
fn write(text: &str) {
    let mut stderr = std::io::stderr();
    stderr
        .write_all(text.as_bytes())
        .and_then(|()| stderr.flush())
        .ok();
}

//! Whoever reads what this program prints: `head` in `adit exec ... | head -1`.

use std::io;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// A program whose reader has gone may have printed its last and be about to end, which is not to be cut off.
const PATIENCE: Duration = Duration::from_secs(1);

/// The reader of standard output.
pub(super) struct Reader {
    gone: CancellationToken,
}

impl Reader {
    /// Starts to watch it, on a thread that lives as long as the process.
    pub(super) fn watch() -> Self {
        let gone = CancellationToken::new();
        let tell = gone.clone();
        std::thread::spawn(move || {
            if is_gone() {
                tell.cancel();
            }
        });
        Self { gone }
    }

    /// Returns when it has been gone for a while.
    pub(super) async fn left(&self) {
        self.gone.cancelled().await;
        sleep(PATIENCE).await;
    }
}

/// Waits for the error that a pipe or a socket has when nobody reads it. A file never has it.
fn is_gone() -> bool {
    let stdout = io::stdout();
    let mut polled = [PollFd::new(&stdout, PollFlags::empty())];
    loop {
        match poll(&mut polled, None) {
            Ok(_) => {
                return polled
                    .iter()
                    .any(|polled| polled.revents().intersects(PollFlags::ERR | PollFlags::HUP));
            }
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

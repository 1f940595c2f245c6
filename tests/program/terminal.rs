//! A terminal for a child process to write on.

use std::process::Stdio;
use std::sync::{Arc, Mutex};

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};

use super::wait;

/// What was written on it so far, erased or not.
pub(crate) struct Terminal {
    written: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    /// A new one, and the stream that writes on it.
    pub(crate) fn open() -> (Self, Stdio) {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        let controller = openpt(flags).unwrap();
        grantpt(&controller).unwrap();
        unlockpt(&controller).unwrap();
        let user = ioctl_tiocgptpeer(&controller, flags).unwrap();
        let written = Arc::<Mutex<Vec<u8>>>::default();
        let kept = Arc::clone(&written);
        std::thread::spawn(move || {
            let mut piece = [0; 1_024];
            // Reading fails once nobody has the other side any more (pty(7)).
            while let Ok(length @ 1..) = rustix::io::read(&controller, &mut piece) {
                kept.lock().unwrap().extend_from_slice(&piece[..length]);
            }
        });
        (Self { written }, user.into())
    }

    /// Waits until this was written on it.
    pub(crate) async fn shows(&self, text: &str) {
        let is_shown = async || String::from_utf8_lossy(&self.written.lock().unwrap()).contains(text);
        wait::until_true(&format!("the terminal shows `{text}`"), is_shown).await;
    }
}

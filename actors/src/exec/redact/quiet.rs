//! Panics that say where they happened, and nothing of what they had in hand.
//!
//! A panic's message may quote the text that it was about (that of slicing a string does), and the process's hook
//! prints it before anyone can catch it. So the hook that was there is kept from what panics in [`catch`].

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    static WATCH: Cell<Watch> = const { Cell::new(Watch::Off) };
}

/// What this thread does with a panic.
#[derive(Default)]
enum Watch {
    /// Leaves it to the hook that was there.
    #[default]
    Off,
    On,
    Panicked {
        place: String,
    },
}

/// What `run` returns.
///
/// # Errors
/// The place in the code, when it panics. The message is dropped.
pub(super) fn catch<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(install_hook);
    let outer = WATCH.replace(Watch::On);
    // Nothing that `run` had in hand is used after a panic.
    let result = panic::catch_unwind(AssertUnwindSafe(run));
    let watched = WATCH.replace(outer);
    result.map_err(|_| match watched {
        Watch::Panicked { place } => place,
        Watch::Off | Watch::On => "an unknown place".to_owned(),
    })
}

fn install_hook() {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        // A thread that is ending has no watch any more.
        let watch = WATCH.try_with(Cell::take).unwrap_or_default();
        if matches!(watch, Watch::Off) {
            before(panic);
        } else {
            let place = panic.location().map_or_else(String::new, ToString::to_string);
            WATCH.set(Watch::Panicked { place });
        }
    }));
}

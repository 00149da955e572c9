//! Signals held back while something must be put in order first: a terminal's echo, a half-written file.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::flag;

/// While this lives the signals it was made for are only noted. Dropped, it lets them end the process again.
pub(crate) struct Caught {
    first: Arc<AtomicUsize>,
    armed: Arc<AtomicBool>,
}

impl Caught {
    /// Holds back `signals`. One that cannot be held back keeps its effect.
    pub fn new(signals: &[i32]) -> Caught {
        let caught = Caught { first: Arc::default(), armed: Arc::default() };
        for signal in signals {
            // The default has to be registered too: the handler stays installed when this value is gone.
            let _ = flag::register_conditional_default(*signal, Arc::clone(&caught.armed));
            let _ = flag::register_usize(*signal, Arc::clone(&caught.first), usize::try_from(*signal).unwrap_or(0));
        }
        caught
    }

    pub fn any(&self) -> bool {
        self.first.load(Ordering::SeqCst) != 0
    }

    /// Does what the signal would have done, if one came. To be called when all is in order.
    pub fn obey(self) {
        if let Ok(signal @ 1..) = i32::try_from(self.first.load(Ordering::SeqCst)) {
            let _ = signal_hook::low_level::emulate_default_handler(signal);
        }
    }
}

impl Drop for Caught {
    fn drop(&mut self) {
        self.armed.store(true, Ordering::SeqCst);
    }
}

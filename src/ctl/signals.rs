//! Defers signals while something must be cleaned up first, such as the terminal's echo or a half-written file.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::flag;

/// While this value exists, the signals that it was made for are only recorded. When it is dropped, they have their
/// default effect again.
pub(crate) struct DeferredSignals {
    /// The number of the last signal that came, or 0.
    last_signal: Arc<AtomicUsize>,
    /// Whether the signals have their default effect again.
    default_restored: Arc<AtomicBool>,
}

impl DeferredSignals {
    /// Defers `signals`. A signal for which that fails keeps its effect.
    pub fn new(signals: &[i32]) -> DeferredSignals {
        let deferred = DeferredSignals { last_signal: Arc::default(), default_restored: Arc::default() };
        for signal in signals {
            // The default effect has to be registered too, because the handler stays installed after this value is
            // dropped.
            let _ = flag::register_conditional_default(*signal, Arc::clone(&deferred.default_restored));
            let _ =
                flag::register_usize(*signal, Arc::clone(&deferred.last_signal), usize::try_from(*signal).unwrap_or(0));
        }
        deferred
    }

    /// Whether a signal came.
    pub fn is_pending(&self) -> bool {
        self.last_signal.load(Ordering::SeqCst) != 0
    }

    /// If a signal came, performs its default effect. Call this after cleaning up.
    pub fn raise(self) {
        if let Ok(signal @ 1..) = i32::try_from(self.last_signal.load(Ordering::SeqCst)) {
            let _ = signal_hook::low_level::emulate_default_handler(signal);
        }
    }
}

impl Drop for DeferredSignals {
    fn drop(&mut self) {
        self.default_restored.store(true, Ordering::SeqCst);
    }
}

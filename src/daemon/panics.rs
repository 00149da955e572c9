//! A daemon that had lost a thread would look alive without answering anybody: a panic anywhere ends it.

use super::exit::{ExitCode, Fatal};
use super::unserved;

/// Installs a panic hook: from now on a panic in any thread writes one line to stderr and ends the process with
/// [`ExitCode::Internal`].
pub fn exit_on_panic() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(|at| format!(" at {}:{}", at.file(), at.line())).unwrap_or_default();
        let cause = info.payload_as_str().unwrap_or("no cause given");
        let fatal = Fatal::new(ExitCode::Internal, format!("internal error{place}: {cause}"));
        let _ = fatal.report();
        unserved::report_to_manager(&fatal);
        std::process::exit(i32::from(ExitCode::Internal as u8));
    }));
}

//! cpd(8): the daemon.

fn main() -> std::process::ExitCode {
    cpd::daemon::main(std::env::args_os())
}

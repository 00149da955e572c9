//! Stands in for a cpd that cannot start, cpd(8).

fn main() -> std::process::ExitCode {
    cpd::daemon::stand_in::main()
}

//! The stand-in for a cpd that cannot start; see cpd(8).

fn main() -> std::process::ExitCode {
    cpd::daemon::stand_in::main()
}

//! cpctl(8): administers a running cpd.

fn main() -> std::process::ExitCode {
    cpd::ctl::main()
}

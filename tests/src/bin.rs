//! The `haltline` command under another name: cargo tells integration tests where the binaries of
//! their own package are, not where another package's are.

use std::process::ExitCode;

fn main() -> ExitCode {
    haltline_cli::main()
}

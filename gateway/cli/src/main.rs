//! The `haltline` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    haltline_cli::main()
}

//! The `adit` command. Everything it does is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    adit::cli::main()
}

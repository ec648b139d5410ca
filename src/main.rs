//! The program: see `data-patch --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    data_patch::cli::main()
}

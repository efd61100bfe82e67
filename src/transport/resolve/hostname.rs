//! The name of this machine.

use std::env;
use std::fs;

/// The name of this machine, as `hostname` prints it; `None` where nobody says it.
///
/// The kernel says it in a file, and a call of the system would take a dependency, as there is none
/// in the standard library and no `unsafe` here. Elsewhere than on Linux the environment has it.
pub(super) fn hostname() -> Option<String> {
    let of_kernel = fs::read_to_string(KERNEL_FILE).ok();
    let of_environment = || VARIABLES.iter().find_map(|name| env::var(name).ok());
    known(of_kernel).or_else(|| known(of_environment()))
}

fn known(text: Option<String>) -> Option<String> {
    let name = text?.trim().to_owned();
    // What the kernel says while nobody has given it a name.
    (!name.is_empty() && name != "(none)").then_some(name)
}

const KERNEL_FILE: &str = "/proc/sys/kernel/hostname";

/// Of shells that export it, and of Windows.
const VARIABLES: [&str; 2] = ["HOSTNAME", "COMPUTERNAME"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_line_with_something_on_it() {
        let rows = [
            (None, None),
            (Some(""), None),
            (Some("(none)\n"), None),
            (Some("a.b\n"), Some("a.b")),
        ];
        for (text, expected) in rows {
            assert_eq!(known(text.map(str::to_owned)).as_deref(), expected);
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_kernel_is_believed() {
        let said = fs::read_to_string(KERNEL_FILE).unwrap();
        assert_eq!(hostname(), Some(said.trim().to_owned()));
    }
}

//! What `dorian up` prints when it is ready: where it listens, what to type next, and where it says what goes wrong.
//!
//! Programs wait for the line that begins with `ready`; the other lines are for the person who has just started it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::data_dir;

/// The lines, each with its end.
pub fn greeting(address: &SocketAddr, data: &Path) -> String {
    let typed = std::env::args().next().unwrap_or_default();
    let program = program(&typed, std::env::current_exe().ok());
    let behind_sudo = std::env::var_os("SUDO_UID").is_some();
    let stderr = std::fs::read_link("/proc/self/fd/2").ok();
    let log = log_place(stderr.as_deref(), std::env::var("INVOCATION_ID").ok().as_deref());
    format!("ready http://{address}\nnext, in another shell: {}\nlog: {log}\n", next_line(&program, data, behind_sudo))
}

fn next_line(program: &str, data: &Path, behind_sudo: bool) -> String {
    let sudo = if behind_sudo { "sudo " } else { "" };
    let data = match data == Path::new(data_dir::DEFAULT) {
        true => String::new(),
        false => format!(" --data {}", for_a_shell(&data.to_string_lossy())),
    };
    format!("eval \"$({sudo}{program} env{data})\" && modal run hello.py")
}

/// As it was typed when the shell found it on PATH; otherwise whole, since the other shell may be in another folder.
fn program(typed: &str, executable: Option<PathBuf>) -> String {
    match executable {
        Some(executable) if typed.contains('/') => for_a_shell(&executable.to_string_lossy()),
        _ if typed.is_empty() => "dorian".to_owned(),
        _ => for_a_shell(typed),
    }
}

fn for_a_shell(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._/+@:".contains(&byte);
    if text.bytes().all(is_plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// Standard error is the log; `stderr` is what the system calls it, `invocation` what systemd calls this run of its unit.
fn log_place(stderr: Option<&Path>, invocation: Option<&str>) -> String {
    match stderr.map(Path::to_string_lossy) {
        Some(path) if path.starts_with("/dev/pts/") || path.starts_with("/dev/tty") => {
            "this terminal; DORIAN_LOG=debug says more".to_owned()
        }
        Some(path) if path == "/dev/null" => "nowhere, since standard error is /dev/null".to_owned(),
        Some(path) if path.starts_with('/') => path.into_owned(),
        Some(path) if path.starts_with("socket:") && invocation.is_some() => {
            format!("journalctl _SYSTEMD_INVOCATION_ID={}", invocation.unwrap_or_default())
        }
        _ => "standard error".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_line_works_in_another_shell() {
        let next = |data: &str, sudo| next_line("dorian", Path::new(data), sudo);
        assert_eq!(next(data_dir::DEFAULT, false), "eval \"$(dorian env)\" && modal run hello.py");
        assert_eq!(next("/srv/d", true), "eval \"$(sudo dorian env --data /srv/d)\" && modal run hello.py");
        assert!(next("/srv/my data", false).contains("--data '/srv/my data'"));
        assert_eq!(program("dorian", Some("/usr/bin/dorian".into())), "dorian");
        assert_eq!(
            program("target/release/dorian", Some("/x/target/release/dorian".into())),
            "/x/target/release/dorian"
        );
    }

    #[test]
    fn the_log_is_where_standard_error_goes() {
        let place = |stderr: &str, invocation| log_place(Some(Path::new(stderr)), invocation);
        assert!(place("/dev/pts/3", None).starts_with("this terminal"));
        assert_eq!(place("/var/log/dorian.log", None), "/var/log/dorian.log");
        assert_eq!(place("socket:[5]", Some("1f")), "journalctl _SYSTEMD_INVOCATION_ID=1f");
        assert_eq!(place("pipe:[5]", Some("1f")), "standard error");
    }
}

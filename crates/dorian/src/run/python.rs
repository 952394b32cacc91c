//! Which Python the client gets.
//!
//! A function's image has the Python of the program that defines it, unless it says otherwise. Where no registry can be
//! reached, images exist for two versions only: so those two are taken first.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, bail};
use sha2::{Digest, Sha256};

/// In order of preference; the first two have base images without a registry.
const VERSIONS: [(u32, u32); 5] = [(3, 11), (3, 13), (3, 12), (3, 10), (3, 14)];
/// Prints the version and the interpreter itself, or fails where an environment could not be made. Links, shims and
/// environments are looked through: an environment made by any of them is the interpreter's.
const PROBE: &str =
    "import os, sys, venv, ensurepip; print(*sys.version_info[:2], os.path.realpath(sys._base_executable))";

/// A Python that can make environments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Python {
    pub program: PathBuf,
    pub version: (u32, u32),
    /// Where `program` leads.
    interpreter: String,
}

impl Python {
    /// Tells this interpreter from every other, in the name of a folder.
    pub fn label(&self) -> String {
        let (major, minor) = self.version;
        let digest = Sha256::digest(&self.interpreter);
        format!("python{major}.{minor}-{}", hex::encode(&digest[..4]))
    }
}

/// The Python that was asked for, or the best on PATH.
pub fn choose(asked: Option<&Path>) -> Result<Python> {
    if let Some(program) = asked {
        let found = probe(program).and_then(|python| best(vec![python]));
        return match found {
            Some(python) => Ok(python),
            None => bail!("`{}` is not a Python from 3.10 to 3.14 with `venv` and `ensurepip`", program.display()),
        };
    }
    // `python3` may be any version. Where it is the very best, the others need not be asked.
    if let Some(python) = probe(Path::new("python3")).filter(|python| python.version == VERSIONS[0]) {
        return Ok(python);
    }
    let names = VERSIONS.iter().map(|(major, minor)| format!("python{major}.{minor}")).chain(["python3".to_owned()]);
    match best(names.filter_map(|name| probe(Path::new(&name))).collect()) {
        Some(python) => Ok(python),
        None => bail!(
            "the modal client needs a Python from 3.10 to 3.14 with `venv`, and there is none on PATH; on Debian: \
             `apt-get install python3 python3-venv`"
        ),
    }
}

fn best(found: Vec<Python>) -> Option<Python> {
    let rank = |python: &Python| VERSIONS.iter().position(|version| *version == python.version);
    found.into_iter().filter(|python| rank(python).is_some()).min_by_key(rank)
}

fn probe(program: &Path) -> Option<Python> {
    let mut command = Command::new(program);
    command.args(["-c", PROBE]).stdin(Stdio::null()).stderr(Stdio::null());
    let output = command.output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    let mut words = text.trim().splitn(3, ' ');
    let version = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    Some(Python { program: program.to_owned(), version, interpreter: words.next()?.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn python(major: u32, minor: u32) -> Python {
        let program = format!("python{major}.{minor}");
        Python { interpreter: format!("/usr/bin/{program}"), program: program.into(), version: (major, minor) }
    }

    #[test]
    fn a_version_with_a_base_image_of_our_own_comes_first() {
        assert_eq!(best(vec![python(3, 14), python(3, 13), python(3, 12)]), Some(python(3, 13)));
        assert_eq!(best(vec![python(3, 13), python(3, 11)]), Some(python(3, 11)));
    }

    #[test]
    fn interpreters_of_one_version_are_told_apart() {
        let usual = python(3, 12);
        let other = Python { interpreter: "/opt/python/bin/python3.12".to_owned(), ..usual.clone() };
        assert_ne!(usual.label(), other.label());
        let by_another_name = Python { program: "python3".into(), ..usual.clone() };
        assert_eq!(usual.label(), by_another_name.label());
        assert!(usual.label().starts_with("python3.12-"), "{}", usual.label());
    }

    #[test]
    fn versions_that_the_client_does_not_run_on_are_left_out() {
        assert_eq!(best(vec![python(3, 9), python(2, 7), python(3, 15)]), None);
    }
}

//! What an image says about how its containers run.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// The configuration that travels with an image's layers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// In the order of definition; names are unique.
    pub env: Vec<(String, String)>,
    /// Absolute. `None`: nobody said, so the one who starts the container chooses.
    pub workdir: Option<String>,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// As in the Dockerfile: a name or number, perhaps with `:group`.
    pub user: Option<String>,
    /// Words before a shell-form command; `None` means `/bin/sh -c`.
    pub shell: Option<Vec<String>>,
    pub labels: BTreeMap<String, String>,
    pub exposed_ports: BTreeSet<String>,
    pub volumes: BTreeSet<String>,
    pub stop_signal: Option<String>,
}

impl ImageConfig {
    pub fn env(&self, name: &str) -> Option<&str> {
        self.env.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Adds a variable, or changes it where it stands.
    pub fn set_env(&mut self, name: &str, value: &str) {
        match self.env.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value.to_owned(),
            None => self.env.push((name.to_owned(), value.to_owned())),
        }
    }

    /// The command line of a shell-form command.
    pub fn shell_argv(&self, script: &str) -> Vec<String> {
        let mut argv = self.shell.clone().unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned()]);
        argv.push(script.to_owned());
        argv
    }
}

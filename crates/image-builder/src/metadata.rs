//! What an image has inside, found out by asking its own Python once.
//!
//! Layers that cannot change the answer (a copied program, a step that wrote data) do not make Python start again: what
//! is known of the layers below then holds above. Most changes of an image are of this kind.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use image_plan::{ImageConfig, KeyHasher, LayerKey};
use parking_lot::Mutex;
use serde::Deserialize;
use std::sync::Arc;

use crate::builder::ImageBuilder;
use crate::container::{self, Program};
use crate::error::BuildError;
use crate::logs::LogSink;
use crate::request::{ImageMetadata, LogStream};

/// Prints one line of JSON. Isolated (`-I`), so that nothing in the image's own environment is imported.
const SCRIPT: &str = r#"
import json, os, sys
from importlib import metadata
packages = {}
for found in metadata.distributions():
    name = found.metadata["Name"]
    if name and name not in packages:
        packages[name] = found.version or ""
try:
    libc = os.confstr("CS_GNU_LIBC_VERSION") or ""
except (AttributeError, OSError, ValueError):
    libc = ""
print(json.dumps({"python": "Python " + sys.version, "packages": packages, "libc": libc}))
"#;

/// By what the answer follows from: the layers, and where a program is looked for.
fn record_of(layers: &[LayerKey], config: &ImageConfig) -> String {
    let key = KeyHasher::new("metadata 1")
        .list(layers.iter().map(LayerKey::as_str))
        .field(config.env("PATH").unwrap_or_default())
        .field(config.env("PYTHONHOME").unwrap_or_default())
        .finish();
    format!("metadata-{key}")
}

/// Looking at more files than this takes longer than asking Python.
const MOST_FILES: usize = 2000;
/// Folders that programs, libraries and packages are found in.
const TELLING_NAMES: [&str; 8] =
    ["bin", "sbin", "lib", "lib64", "site-packages", "dist-packages", "sitecustomize.py", "pyvenv.cfg"];
const TELLING_EXTENSIONS: [&str; 5] = ["dist-info", "egg-info", "egg-link", "egg", "pth"];

/// Whether a layer could change which Python is found or which packages that has. Anything out of the ordinary could:
/// a link may lead to another Python, a removed folder may have held one.
fn may_concern_python(layer: &Path) -> bool {
    let mut left = MOST_FILES;
    !is_plain(layer, &mut left).unwrap_or(false)
}

fn is_plain(folder: &Path, left: &mut usize) -> io::Result<bool> {
    if crate::stack::is_opaque(folder) {
        return Ok(false);
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (kind, name) = (entry.file_type()?, entry.file_name());
        let text = name.to_string_lossy();
        let extension = Path::new(&name).extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        let tells =
            TELLING_NAMES.contains(&&*text) || TELLING_EXTENSIONS.contains(&extension) || text.starts_with("python");
        *left = left.saturating_sub(1);
        if tells || *left == 0 || !(kind.is_dir() || kind.is_file()) {
            return Ok(false);
        }
        if kind.is_dir() && !is_plain(&entry.path(), left)? {
            return Ok(false);
        }
    }
    Ok(true)
}

#[derive(Deserialize)]
struct Answer {
    python: String,
    packages: BTreeMap<String, String>,
    libc: String,
}

impl ImageBuilder {
    /// Facts about the image; kept, since they follow from the layers and the search path.
    pub(crate) async fn metadata(
        &self,
        layers: &[LayerKey],
        config: &ImageConfig,
    ) -> Result<ImageMetadata, BuildError> {
        let mut metadata = match self.known_below(layers, config) {
            Some((known, count)) if count == layers.len() => known,
            known => {
                let found = match known {
                    Some((known, _)) => known,
                    None => self.ask_python(layers, config).await?,
                };
                self.inner.store.write_record(&record_of(layers, config), &found)?;
                found
            }
        };
        metadata.workdir = config.workdir.clone();
        Ok(metadata)
    }

    /// What is known of as many of the lowest layers as possible, if the others cannot change it; and how many these are.
    fn known_below(&self, layers: &[LayerKey], config: &ImageConfig) -> Option<(ImageMetadata, usize)> {
        let mut count = layers.len();
        loop {
            let known = self.inner.store.read_record(&record_of(&layers[..count], config));
            if let Some(known) = known {
                return Some((known, count));
            }
            count = count.checked_sub(1)?;
            if may_concern_python(&self.layer_path(&layers[count])) {
                return None;
            }
        }
    }

    async fn ask_python(&self, layers: &[LayerKey], config: &ImageConfig) -> Result<ImageMetadata, BuildError> {
        if layers.is_empty() {
            return Ok(ImageMetadata::default());
        }
        let workspace = self.inner.store.workspace()?;
        let printed = Arc::new(Mutex::new(String::new()));
        let kept = printed.clone();
        let sink = LogSink::new(move |log| {
            if log.stream == LogStream::Stdout {
                kept.lock().push_str(&log.text);
            }
        });
        let mut env = config.env.clone();
        let binds = self.host_settings(&mut env, layers)?;
        let program = Program {
            layers: self.with_mount_points(layers),
            argv: ["python", "-I", "-c", SCRIPT].map(str::to_owned).to_vec(),
            env,
            cwd: "/".to_owned(),
            network: false,
            tmpfs: Vec::new(),
            binds,
            scratch: workspace.path().to_owned(),
        };
        // No Python in the image is an answer too.
        let outcome = match container::run(&self.inner.runtime, program, &sink).await {
            Ok(outcome) => outcome,
            Err(BuildError::Container(error)) if matches!(*error, container_runtime::RuntimeError::Exec { .. }) => {
                return Ok(ImageMetadata::default());
            }
            Err(error) => return Err(error),
        };
        let answer = serde_json::from_str::<Answer>(printed.lock().trim());
        let Some(answer) = answer.ok().filter(|_| outcome.succeeded()) else {
            tracing::warn!(reason = outcome.reason(), tail = ?outcome.tail, "cannot ask an image's Python for its packages");
            return Ok(ImageMetadata::default());
        };
        Ok(ImageMetadata {
            python_version_info: Some(answer.python.replace('\n', " ")),
            python_packages: answer.packages,
            workdir: None,
            libc_version_info: answer.libc.strip_prefix("glibc ").map(str::to_owned),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copied_program_does_not_concern_python_and_what_could_change_its_packages_does() {
        let layer = |path: &str| {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
            folder
        };
        assert!(!may_concern_python(layer("root/app/main.py").path()));
        for path in
            ["usr/bin/python", "srv/a-1.dist-info/METADATA", "opt/x.pth", "etc/python3.11/x.py", "lib/libc.so.6"]
        {
            assert!(may_concern_python(layer(path).path()), "{path}");
        }
        let linked = layer("srv/file");
        std::os::unix::fs::symlink("/opt/other", linked.path().join("srv/link")).unwrap();
        assert!(may_concern_python(linked.path()));
        assert!(may_concern_python(&linked.path().join("missing")));
    }
}

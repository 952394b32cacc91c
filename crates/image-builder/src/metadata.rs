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
use std::sync::Arc;

use crate::builder::ImageBuilder;
use crate::container::{self, Program};
use crate::error::BuildError;
use crate::logs::LogSink;
use crate::request::{ImageMetadata, LogStream};

/// Prints what it finds, a fact a line, a package's name and version apart by a byte that neither has. Isolated (`-I`), so
/// that nothing in the image's own environment is imported. It looks where `importlib.metadata` looks and finds the same,
/// but reads the two headers itself: importing that module, and `json`, takes longer than all the rest, and this runs
/// in every build that installs something. What that module alone can read (eggs) is left to it.
const SCRIPT: &str = r#"
import os, sys
packages = {}

def add(name, version):
    if name and all(" " <= letter <= "~" for letter in name + version):
        packages.setdefault(name, version)

def headers(place):
    for path in (place + "/METADATA", place + "/PKG-INFO", place):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                found = {}
                for line in file:
                    name, colon, value = line.partition(":")
                    if line == "\n":
                        break
                    if colon and name in ("Name", "Version"):
                        found.setdefault(name, value.strip())
                return found
        except OSError:
            pass
    return {}

eggs = False
for folder in sys.path:
    try:
        entries = os.listdir(folder)
    except OSError:
        continue
    for entry in entries:
        eggs = eggs or entry.endswith(".egg")
        if entry.endswith((".dist-info", ".egg-info")):
            found = headers(folder + "/" + entry)
            add(found.get("Name", ""), found.get("Version", ""))
if eggs:
    from importlib import metadata
    for found in metadata.distributions():
        add(found.metadata["Name"], found.version or "")
try:
    libc = os.confstr("CS_GNU_LIBC_VERSION") or ""
except (AttributeError, OSError, ValueError):
    libc = ""
print("python", "Python " + " ".join(sys.version.splitlines()), sep="\x1f")
print("libc", libc, sep="\x1f")
for name, version in packages.items():
    print("package", name, version, sep="\x1f")
"#;

#[derive(Debug, Default, PartialEq, Eq)]
struct Answer {
    python: Option<String>,
    packages: BTreeMap<String, String>,
    libc: String,
}

impl Answer {
    fn of<'a>(lines: impl IntoIterator<Item = &'a str>) -> Self {
        let mut answer = Self::default();
        for line in lines {
            match line.split('\x1f').collect::<Vec<_>>()[..] {
                ["python", version] => answer.python = Some(version.to_owned()),
                ["libc", version] => answer.libc = version.to_owned(),
                ["package", name, version] => drop(answer.packages.insert(name.to_owned(), version.to_owned())),
                _ => {}
            }
        }
        answer
    }
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
        let printed = Arc::new(Mutex::new(Vec::new()));
        let kept = printed.clone();
        let sink = LogSink::new(move |log| {
            if log.stream == LogStream::Stdout {
                kept.lock().push(log.text);
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
            binds,
            scratch: workspace.path().to_owned(),
            ..Program::default()
        };
        // No Python in the image is an answer too.
        let outcome = match container::run(&self.inner.runtime, program, &sink).await {
            Ok(outcome) => outcome,
            Err(BuildError::Container(error)) if matches!(*error, container_runtime::RuntimeError::Exec { .. }) => {
                return Ok(ImageMetadata::default());
            }
            Err(error) => return Err(error),
        };
        let answer = Answer::of(printed.lock().iter().map(String::as_str));
        if answer.python.is_none() || !outcome.succeeded() {
            tracing::warn!(reason = outcome.reason(), tail = ?outcome.tail, "cannot ask an image's Python for its packages");
            return Ok(ImageMetadata::default());
        }
        Ok(ImageMetadata {
            python_version_info: answer.python,
            python_packages: answer.packages,
            workdir: None,
            libc_version_info: answer.libc.strip_prefix("glibc ").map(str::to_owned),
        })
    }
}

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
/// Far from what would overflow the stack.
const DEEPEST: usize = 100;
/// Folders that programs, libraries and packages are found in.
const TELLING_NAMES: [&str; 8] =
    ["bin", "sbin", "lib", "lib64", "site-packages", "dist-packages", "sitecustomize.py", "pyvenv.cfg"];
const TELLING_EXTENSIONS: [&str; 5] = ["dist-info", "egg-info", "egg-link", "egg", "pth"];

/// Whether a layer could change which Python is found or which packages that has. Anything out of the ordinary could:
/// a link may lead to another Python, a removed folder may have held one.
fn may_concern_python(layer: &Path) -> bool {
    let mut left = MOST_FILES;
    !is_plain(layer, 0, &mut left).unwrap_or(false)
}

fn is_plain(folder: &Path, depth: usize, left: &mut usize) -> io::Result<bool> {
    if depth > DEEPEST || crate::stack::is_opaque(folder) {
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
        if kind.is_dir() && !is_plain(&entry.path(), depth + 1, left)? {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_line_by_line_and_anything_else_is_passed_over() {
        let lines = ["a warning", "python\u{1f}Python 3.11.2", "package\u{1f}idna\u{1f}3.10", "package\u{1f}broken"];
        let answer = Answer::of(lines);
        assert_eq!(answer.python.as_deref(), Some("Python 3.11.2"));
        assert_eq!(answer.packages.into_iter().collect::<Vec<_>>(), [("idna".to_owned(), "3.10".to_owned())]);
    }

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
        assert!(may_concern_python(layer(&format!("{}x", "a/".repeat(1000))).path()));
    }
}

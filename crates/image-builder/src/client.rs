//! The client's own package, as a layer that is put above an image when a container starts.
//!
//! A container runs the client version of whoever deployed the function, not one that the image has. Its code goes to
//! `/pkg`, which comes first on the module path (the client recognises its own frames in a traceback by `/pkg/modal/`);
//! what it depends on goes to `/__modal/deps`, which `/pkg/sitecustomize.py` puts last, so that the user's own versions
//! of the same packages win. Both are compiled to bytecode here, since every cold start would pay for it otherwise.

use std::fs;
use std::path::Path;

use image_plan::{KeyHasher, LayerKey};

use crate::bases::well_known::DebianBase;
use crate::builder::ImageBuilder;
use crate::container::{self, Program};
use crate::error::BuildError;
use crate::logs::LogSink;

/// Top-level packages of the client itself; the rest are dependencies.
const OWN: [&str; 4] = ["modal", "modal_proto", "modal_version", "synchronicity"];

const SITECUSTOMIZE: &str = "\
import sys

# Packages that the client needs, after everything that the user installed.
sys.path.append(\"/__modal/deps\")

# Into a pipe Python keeps a page of output back; a line should be seen when it is printed.
if sys.stdout is not None:
    sys.stdout.reconfigure(line_buffering=True)
";

impl ImageBuilder {
    /// The layers with the client of that version for that Python (`3.11`), lowest first. Made once, then found.
    pub async fn ensure_client_layer(
        &self,
        modal_version: &str,
        python_minor: &str,
        logs: &LogSink,
    ) -> Result<Vec<LayerKey>, BuildError> {
        check_version(modal_version)?;
        check_version(python_minor)?;
        let key = KeyHasher::new("client 2").field(modal_version).field(python_minor).field(SITECUSTOMIZE);
        let key = of_its_day(modal_version).iter().fold(key, |key, limit| key.field(limit)).finish();
        if self.inner.store.has(&key) {
            return Ok(vec![key]);
        }
        let (this, wanted) = (self.clone(), key.clone());
        let (modal_version, python_minor) = (modal_version.to_owned(), python_minor.to_owned());
        let make =
            move |logs| async move { this.make_client_layer(&modal_version, &python_minor, &wanted, &logs).await };
        self.inner.layers.run(key.clone(), logs, make).await?;
        Ok(vec![key])
    }

    async fn make_client_layer(
        &self,
        modal_version: &str,
        python_minor: &str,
        key: &LayerKey,
        logs: &LogSink,
    ) -> Result<(), BuildError> {
        logs.say(format!("=> Preparing the client package modal {modal_version} for Python {python_minor}"));
        let (image, same_python) = self.python_base(python_minor, logs).await?;
        let workspace = self.inner.store.workspace()?;
        let out = workspace.path().join("out");
        fs::create_dir(&out).map_err(BuildError::on("create", &out))?;
        // Bytecode made by another Python would be useless.
        let script = if same_python { INSTALL_AND_COMPILE } else { INSTALL };
        let mut argv: Vec<String> = ["sh", "-c", script, "sh"].map(str::to_owned).to_vec();
        if !same_python {
            argv.extend(["--only-binary=:all:".to_owned(), format!("--python-version={python_minor}")]);
        }
        argv.push(format!("modal=={modal_version}"));
        argv.extend(of_its_day(modal_version).iter().map(|limit| (*limit).to_owned()));
        let mut env = image.config.env.clone();
        env.push(("HOME".to_owned(), "/root".to_owned()));
        let mut binds = self.host_settings(&mut env, &image.layers)?;
        let target = format!("{}/out", crate::host::PRIVATE);
        binds.push(container_runtime::Bind { source: out.clone(), target, read_only: false });
        let layers = self.with_mount_points(&image.layers);
        let scratch = workspace.path().join("scratch");
        fs::create_dir(&scratch).map_err(BuildError::on("create", &scratch))?;
        let program =
            Program { layers, argv, env, cwd: "/".to_owned(), network: true, binds, scratch, ..Program::default() };
        let outcome = container::run(&self.inner.runtime, program, logs).await?;
        if !outcome.succeeded() {
            let tail = outcome.tail.join("\n  ");
            let reason = outcome.reason();
            return Err(BuildError::Base(format!(
                "cannot install the client package `modal=={modal_version}` for Python {python_minor} ({reason}):\n  {tail}"
            )));
        }
        arrange(&out, &workspace.diff())?;
        self.inner.store.commit(&workspace, key, &format!("modal {modal_version} for Python {python_minor}"))
    }

    /// A base with pip, of the wanted Python where there is one.
    async fn python_base(
        &self,
        python_minor: &str,
        logs: &LogSink,
    ) -> Result<(crate::request::BuiltImage, bool), BuildError> {
        if let Some(base) = DebianBase::for_python(python_minor) {
            return Ok((self.debian_base(base, logs).await?, true));
        }
        let from_registry = self.base_image(&format!("python:{python_minor}-slim"), None, false, logs).await;
        match from_registry {
            Ok(image) => Ok((image, true)),
            Err(error) => {
                tracing::info!(%error, python_minor, "no base of this Python; installing the client with another");
                let other = [DebianBase::Python311, DebianBase::Python313];
                let there = other.into_iter().find(|base| self.inner.store.has(&base.layer_key()));
                Ok((self.debian_base(there.unwrap_or(DebianBase::Python311), logs).await?, false))
            }
        }
    }
}

const INSTALL: &str =
    r#"python -m pip install --no-warn-conflicts --progress-bar=off --no-compile --target=/__dorian/out "$@""#;
/// Unchecked bytecode is valid without a look at its source: a layer never changes, and hundreds of look-ups are saved
/// at every start. Files that do not compile (templates, old tests) are left as they are.
const INSTALL_AND_COMPILE: &str = r#"python -m pip install --no-warn-conflicts --progress-bar=off --no-compile --target=/__dorian/out "$@" &&
{ python -m compileall -q --invalidation-mode unchecked-hash /__dorian/out || true; }"#;

/// Old clients take any version of some packages, and do not know what changed in those years later.
fn of_its_day(modal_version: &str) -> &'static [&'static str] {
    match modal_version {
        version if version.starts_with("0.") => &["typer<0.16", "click<8.2", "aiohttp<3.12"],
        version if version.starts_with("1.0.") => &["typer<0.16", "click<8.2"],
        _ => &[],
    }
}

/// Versions come from clients and end up in a command line and in messages.
fn check_version(version: &str) -> Result<(), BuildError> {
    let plain = version.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'+' | b'!'));
    if !plain || version.is_empty() || version.len() > 40 {
        return Err(BuildError::Refused(format!("`{version}` is not a version")));
    }
    Ok(())
}

/// Moves what pip installed to where containers expect it.
fn arrange(installed: &Path, diff: &Path) -> Result<(), BuildError> {
    let (own, dependencies) = (diff.join("pkg"), diff.join("__modal/deps"));
    for folder in [&own, &dependencies] {
        fs::create_dir_all(folder).map_err(BuildError::on("create", folder))?;
    }
    for entry in fs::read_dir(installed).map_err(BuildError::on("read", installed))? {
        let entry = entry.map_err(BuildError::on("read", installed))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name == "bin" || name == "__pycache__" {
            continue;
        }
        let package = name.split(['.', '-']).next().unwrap_or_default();
        let folder = if OWN.contains(&package) { &own } else { &dependencies };
        let target = folder.join(&*name);
        fs::rename(entry.path(), &target).map_err(BuildError::on("move a package to", &target))?;
    }
    let path = own.join("sitecustomize.py");
    fs::write(&path, SITECUSTOMIZE).map_err(BuildError::on("write", &path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_and_its_dependencies_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let installed = folder.path().join("in");
        for name in
            ["modal", "modal-1.6.4.dist-info", "modal_proto", "synchronicity", "aiohttp", "bin", "_cffi_backend"]
        {
            fs::create_dir_all(installed.join(name)).unwrap();
        }
        fs::write(installed.join("typing_extensions.py"), "").unwrap();
        let diff = folder.path().join("diff");
        arrange(&installed, &diff).unwrap();
        let names = |path: &str| {
            let mut names: Vec<String> = fs::read_dir(diff.join(path))
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        assert_eq!(
            names("pkg"),
            ["modal", "modal-1.6.4.dist-info", "modal_proto", "sitecustomize.py", "synchronicity"]
        );
        assert_eq!(names("__modal/deps"), ["_cffi_backend", "aiohttp", "typing_extensions.py"]);
    }

    #[test]
    fn a_version_cannot_carry_anything_else() {
        assert!(check_version("1.6.4").is_ok());
        assert!(check_version("1.6.4 --index-url=x").is_err());
        assert!(check_version("../1").is_err());
    }
}

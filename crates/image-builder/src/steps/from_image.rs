//! `COPY --from=image`: files of another image's merged tree, copied without running anything.
//!
//! The uv image, which the client's own recipes use, is taken from uv's wheel where its registry cannot be reached.

use std::fs;
use std::path::Path;

use image_plan::{KeyHasher, LayerKey, Reference};

use crate::bases::well_known::DebianBase;
use crate::builder::ImageBuilder;
use crate::container::{self, Program};
use crate::error::BuildError;
use crate::logs::LogSink;
use crate::stack::{Found, LayerStack};
use crate::steps::copy::{LayerWriter, make_layer_root, resolve_owner};
use crate::store::Workspace;

pub(crate) struct CopyFromImage<'a> {
    pub image: &'a str,
    pub sources: &'a [String],
    pub dest: &'a str,
    pub dest_is_folder: bool,
    pub owner: Option<&'a str>,
    pub mode: Option<u32>,
}

impl ImageBuilder {
    pub(crate) async fn copy_from_image_step(
        &self,
        below: &[LayerKey],
        copy: CopyFromImage<'_>,
        workspace: &Workspace,
        logs: &LogSink,
    ) -> Result<(), BuildError> {
        let from = LayerStack::new(self.layer_paths(&self.image_to_copy_from(copy.image, logs).await?));
        let stack = LayerStack::new(self.layer_paths(below));
        let owner = resolve_owner(&stack, copy.owner)?;
        let (image, sources, dest) = (copy.image.to_owned(), copy.sources.to_vec(), copy.dest.to_owned());
        let (mode, dest_is_folder, diff) = (copy.mode, copy.dest_is_folder, workspace.diff());
        let work = move || {
            let mut copier =
                Copier { from: &from, writer: LayerWriter::new(&stack, diff, Some(owner.unwrap_or((0, 0))))?, mode };
            for source in &sources {
                let look = BuildError::io(format!("look at `{source}` in image `{image}`"));
                let resolved = from.resolve(source).map_err(look)?;
                let missing = || BuildError::Refused(format!("image `{image}` has no `{source}`"));
                let found = resolved.found.ok_or_else(missing)?;
                if found.meta.is_dir() {
                    copier.folder(&resolved.path, &dest)?;
                } else {
                    let name = Path::new(source).file_name().unwrap_or_default().to_string_lossy().into_owned();
                    let (dest, within) =
                        if dest_is_folder { (format!("{dest}/{name}"), None) } else { (dest.clone(), Some(name)) };
                    copier.file(&found, &dest, within.as_deref())?;
                }
            }
            Ok(())
        };
        tokio::task::spawn_blocking(work).await.unwrap_or(Err(BuildError::Abandoned))
    }

    async fn image_to_copy_from(&self, name: &str, logs: &LogSink) -> Result<Vec<LayerKey>, BuildError> {
        let reference = Reference::parse(name).map_err(|error| BuildError::Refused(error.to_string()))?;
        let Some(version) = uv_version(&reference) else {
            return Ok(self.base_image(name, None, false, logs).await?.layers);
        };
        let key = KeyHasher::new("uv 1").field(&version).finish();
        if self.inner.store.has(&key) {
            return Ok(vec![key]);
        }
        match self.pull(&reference, None, logs).await? {
            Ok(image) => return Ok(image.layers),
            Err(failure) if !failure.is_absence => {
                return Err(BuildError::Base(format!("cannot get image `{reference}`: {}", failure.tried.join("; "))));
            }
            Err(_) => {}
        }
        let (this, wanted) = (self.clone(), key.clone());
        let make = move |logs| async move { this.make_uv_layer(&version, &wanted, &logs).await };
        self.inner.layers.run(key.clone(), logs, make).await?;
        Ok(vec![key])
    }

    /// `/uv` and `/uvx`, as in uv's own image.
    async fn make_uv_layer(&self, version: &str, key: &LayerKey, logs: &LogSink) -> Result<(), BuildError> {
        let bases = [DebianBase::Python311, DebianBase::Python313];
        let there = bases.into_iter().find(|base| self.inner.store.has(&base.layer_key()));
        let image = self.debian_base(there.unwrap_or(DebianBase::Python311), logs).await?;
        let workspace = self.inner.store.workspace()?;
        let out = workspace.path().join("out");
        let scratch = workspace.path().join("scratch");
        for folder in [&out, &scratch] {
            fs::create_dir(folder).map_err(BuildError::on("create", folder))?;
        }
        let requirement = if version == "latest" { "uv".to_owned() } else { format!("uv=={version}") };
        logs.say(format!("   taking `{requirement}` from the package index"));
        let argv = ["python", "-m", "pip", "install", "--no-deps", "--progress-bar=off", "--target=/__dorian/out"];
        let mut argv: Vec<String> = argv.map(str::to_owned).to_vec();
        argv.push(requirement.clone());
        let mut env = image.config.env.clone();
        env.push(("HOME".to_owned(), "/root".to_owned()));
        let mut binds = self.host_settings(&mut env, &image.layers)?;
        let target = format!("{}/out", crate::host::PRIVATE);
        binds.push(container_runtime::Bind { source: out.clone(), target, read_only: false });
        let layers = self.with_mount_points(&image.layers);
        let program = Program { layers, argv, env, cwd: "/".to_owned(), network: true, binds, scratch };
        let outcome = container::run(&self.inner.runtime, program, logs).await?;
        if !outcome.succeeded() {
            let tail = outcome.tail.join("\n  ");
            return Err(BuildError::Base(format!("cannot get `{requirement}` ({}):\n  {tail}", outcome.reason())));
        }
        let diff = workspace.diff();
        make_layer_root(&diff)?;
        for name in ["uv", "uvx"] {
            let target = diff.join(name);
            fs::rename(out.join("bin").join(name), &target).map_err(BuildError::on("move uv to", &target))?;
        }
        self.inner.store.commit(&workspace, key, &requirement)
    }
}

/// The version of the plain uv image that a reference names: `latest` or a number.
fn uv_version(reference: &Reference) -> Option<String> {
    if reference.registry != "ghcr.io" || reference.repository != "astral-sh/uv" || reference.digest.is_some() {
        return None;
    }
    let tag = reference.tag.as_deref().unwrap_or("latest");
    let number = tag.bytes().all(|b| b.is_ascii_digit() || b == b'.') && tag.split('.').count() >= 2;
    match tag.split('.').count() {
        // `0.5` means the newest patch of it.
        2 if number => Some(format!("{tag}.*")),
        _ if number || tag == "latest" => Some(tag.to_owned()),
        _ => None,
    }
}

struct Copier<'a> {
    from: &'a LayerStack,
    writer: LayerWriter<'a>,
    mode: Option<u32>,
}

impl Copier<'_> {
    fn file(&mut self, found: &Found, dest: &str, within: Option<&str>) -> Result<(), BuildError> {
        use std::os::unix::fs::MetadataExt;
        let target = self.writer.place(dest, within)?;
        let copy = BuildError::on("copy a file of another image to", &target);
        if found.meta.is_symlink() {
            return fs::read_link(&found.path).and_then(|link| std::os::unix::fs::symlink(link, &target)).map_err(copy);
        }
        if !found.meta.is_file() {
            return Ok(());
        }
        fs::copy(&found.path, &target).map_err(copy)?;
        self.writer.finish(&target, self.mode.unwrap_or(found.meta.mode()))
    }

    /// The contents of `folder` (relative, without links) below `dest`.
    fn folder(&mut self, folder: &Path, dest: &str) -> Result<(), BuildError> {
        self.writer.folder(dest)?;
        for name in self.from.list(folder).map_err(BuildError::on("read the folder", folder))? {
            let path = folder.join(&name);
            let Some(found) = self.from.entry(&path).map_err(BuildError::on("look at", &path))? else { continue };
            let dest = format!("{}/{}", dest.trim_end_matches('/'), name.to_string_lossy());
            if found.meta.is_dir() {
                self.folder(&path, &dest)?;
            } else {
                self.file(&found, &dest, None)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_plain_uv_image_is_taken_from_a_wheel() {
        let version = |text: &str| uv_version(&Reference::parse(text).unwrap());
        assert_eq!(version("ghcr.io/astral-sh/uv:0.5.4").as_deref(), Some("0.5.4"));
        assert_eq!(version("ghcr.io/astral-sh/uv:0.5").as_deref(), Some("0.5.*"));
        assert_eq!(version("ghcr.io/astral-sh/uv").as_deref(), Some("latest"));
        assert_eq!(version("ghcr.io/astral-sh/uv:python3.11-alpine"), None);
        assert_eq!(version("ghcr.io/other/uv:0.5.4"), None);
    }
}

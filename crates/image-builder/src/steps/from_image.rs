//! `COPY --from=`: files of a stage's or another image's merged tree, copied without running anything.
//!
//! The uv image, which the client's own recipes use, is taken from uv's wheel where its registry cannot be reached.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use image_plan::{CopyFrom, KeyHasher, LayerKey, Origin, Reference, glob};

use crate::bases::well_known::DebianBase;
use crate::blocking::{Stop, blocking};
use crate::builder::{ImageBuilder, StepContext};
use crate::container::{self, Program};
use crate::error::BuildError;
use crate::logs::LogSink;
use crate::stack::{Found, LayerStack};
use crate::steps::copy::{Copier, LayerWriter, make_layer_root, resolve_owner};
use crate::store::Workspace;

impl ImageBuilder {
    pub(crate) async fn copy_from_step(
        &self,
        below: &[LayerKey],
        copy: &CopyFrom,
        context: &StepContext,
        workspace: &Workspace,
        logs: &LogSink,
    ) -> Result<(), BuildError> {
        let from = LayerStack::new(self.layer_paths(&self.origin_layers(&copy.origin, context, logs).await?));
        let stack = LayerStack::new(self.layer_paths(below));
        let owner = resolve_owner(&stack, copy.owner.as_deref())?;
        let (copy, diff) = (copy.clone(), workspace.diff());
        let workspace = workspace.clone();
        let work = move |stop: &Stop| {
            let _held = workspace;
            let mut writer = LayerWriter::new(&stack, diff, owner, stop.clone())?;
            let (exclude, mode) = (&copy.exclude, copy.mode.as_ref());
            let mut copier = Copier { from: &from, writer: &mut writer, exclude, mode };
            let mut sources = Vec::new();
            for source in &copy.sources {
                sources.extend(expand(&from, source, &copy.origin)?);
            }
            if sources.len() > 1 && !copy.dest_is_folder {
                let message = format!("several sources need a folder as destination: write `{}/`", copy.dest);
                return Err(BuildError::Refused(message));
            }
            let dest = Path::new(&copy.dest);
            for Source { name, path, found } in sources {
                if found.meta.is_dir() {
                    copier.folder_contents(&path, dest, Path::new(""))?;
                } else if copy.dest_is_folder {
                    copier.file(&found, &dest.join(&name), None, Path::new(&name))?;
                } else {
                    copier.file(&found, dest, Some(&name), Path::new(&name))?;
                }
            }
            Ok(())
        };
        blocking(work).await
    }

    pub(crate) async fn image_to_copy_from(&self, name: &str, logs: &LogSink) -> Result<Vec<LayerKey>, BuildError> {
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
        let program =
            Program { layers, argv, env, cwd: "/".to_owned(), network: true, binds, scratch, ..Program::default() };
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

/// Something in the origin that is to be copied.
struct Source {
    /// As it was asked for: what a link leads to may be called otherwise.
    name: OsString,
    /// Relative, without links.
    path: PathBuf,
    found: Found,
}

/// What a path or a pattern stands for.
fn expand(from: &LayerStack, source: &str, origin: &Origin) -> Result<Vec<Source>, BuildError> {
    let whose = match origin {
        Origin::Image(name) => format!("image `{name}`"),
        Origin::Stage(_) => "the stage".to_owned(),
    };
    let mut paths = vec![PathBuf::new()];
    for part in source.split('/').filter(|part| !part.is_empty()) {
        if !glob::has_wildcard(part) {
            paths.iter_mut().for_each(|path| path.push(part));
            continue;
        }
        let mut matched = Vec::new();
        for path in paths {
            let look = BuildError::io(format!("look at `/{}` in {whose}", path.display()));
            let resolved = from.resolve_path(&path).map_err(look)?;
            if resolved.found.is_none_or(|found| !found.meta.is_dir()) {
                continue;
            }
            let names = from.list(&resolved.path).map_err(BuildError::on("read the folder", &path))?;
            let names = names.into_iter().filter(|name| glob::matches_name(part, &name.to_string_lossy()));
            matched.extend(names.map(|name| path.join(name)));
        }
        paths = matched;
    }
    let mut sources = Vec::new();
    for path in paths {
        let look = BuildError::io(format!("look at `/{}` in {whose}", path.display()));
        let resolved = from.resolve_path(&path).map_err(look)?;
        if let Some(found) = resolved.found {
            let name = path.file_name().unwrap_or_default().to_owned();
            sources.push(Source { name, path: resolved.path, found });
        }
    }
    // As with files of the context, a pattern may match nothing.
    if sources.is_empty() && !glob::has_wildcard(source) {
        return Err(BuildError::Refused(format!("{whose} has no `{source}`")));
    }
    Ok(sources)
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

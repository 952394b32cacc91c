//! A Python that can be put into any image: `add_python=`.
//!
//! The client asks for a build of python-build-standalone by its release and copies its files to `/usr/local`. It is
//! downloaded once, from where `UV_PYTHON_INSTALL_MIRROR` says (the variable that uv has for the same archives) or from
//! GitHub, and kept as a layer like any other. Where neither can be reached, Debian's own Python of the same minor
//! version takes its place, with the libraries that it needs beside it; it asks for a newer C library than the original
//! does, so it serves fewer images, and says so.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use image_plan::{KeyHasher, LayerKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::bases::well_known::DebianBase;
use crate::blocking::{Stop, blocking};
use crate::builder::ImageBuilder;
use crate::container::{self, Program};
use crate::error::BuildError;
use crate::logs::LogSink;
use crate::registry::{LayerLimits, unpack_alone};
use crate::request::ContextEntry;
use crate::store::Workspace;

const DEFAULT_MIRROR: &str = "https://github.com/astral-sh/python-build-standalone/releases/download";
/// Earlier releases have `python3` only, and the client's recipes add `python` themselves, which must not be there then.
const FIRST_WITH_PYTHON_LINK: &str = "20241008";

/// One build of python-build-standalone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandalonePython {
    /// A date: `20230826`.
    release: String,
    /// `3.11.5`.
    version: String,
    free_threaded: bool,
}

/// A file of the tree, as written down beside its layer.
#[derive(Serialize, Deserialize)]
struct StandaloneFile {
    /// Absolute within the context, beginning with `/python/`.
    path: String,
    digest: String,
    mode: u32,
    /// Relative to the layer: where its bytes are, for a link another file's.
    source: PathBuf,
}

impl StandalonePython {
    /// From the name under which clients look up the mount: `python-build-standalone.20230826.3.11.5-gnu`.
    pub fn parse(name: &str) -> Option<Self> {
        let rest = name.strip_prefix("python-build-standalone.")?.strip_suffix("-gnu")?;
        let (release, version) = rest.split_once('.')?;
        let (version, free_threaded) = match version.strip_suffix('t') {
            Some(version) => (version, true),
            None => (version, false),
        };
        let is_number = |text: &str| !text.is_empty() && text.len() <= 8 && text.bytes().all(|b| b.is_ascii_digit());
        let plain = is_number(release) && version.split('.').count() == 3 && version.split('.').all(is_number);
        plain.then(|| Self { release: release.to_owned(), version: version.to_owned(), free_threaded })
    }

    fn minor(&self) -> String {
        self.version.split('.').take(2).collect::<Vec<_>>().join(".")
    }

    fn url(&self, mirror: &str) -> String {
        let Self { release, version, .. } = self;
        let kind = if self.free_threaded { "freethreaded-install_only" } else { "install_only" };
        let mirror = mirror.trim_end_matches('/');
        format!("{mirror}/{release}/cpython-{version}%2B{release}-x86_64-unknown-linux-gnu-{kind}.tar.gz")
    }

    /// Names the layer that holds its files.
    pub(crate) fn layer_key(&self) -> LayerKey {
        KeyHasher::new("standalone python 1")
            .field(&self.release)
            .field(&self.version)
            .field([u8::from(self.free_threaded)])
            .finish()
    }

    fn title(&self) -> String {
        let suffix = if self.free_threaded { "t" } else { "" };
        format!("standalone Python {}{suffix} ({})", self.version, self.release)
    }
}

impl ImageBuilder {
    /// The files of that Python, as a build context: `/python/bin/python3` and so on.
    pub(crate) async fn standalone_python(
        &self,
        python: &StandalonePython,
        logs: &LogSink,
    ) -> Result<Vec<ContextEntry>, BuildError> {
        let key = python.layer_key();
        let record = record_name(&key);
        if !self.inner.store.has(&key) {
            let (this, python, wanted) = (self.clone(), python.clone(), key.clone());
            let make = move |logs| async move { this.make_standalone_python(&python, &wanted, &logs).await };
            self.inner.layers.run(key.clone(), logs, make).await?;
        }
        let files: Option<Vec<StandaloneFile>> = self.inner.store.read_record(&record);
        let files = match files {
            Some(files) => files,
            None => self.write_down(&key).await?,
        };
        let layer = self.layer_path(&key);
        let entry = |file: StandaloneFile| ContextEntry {
            path: file.path,
            digest: file.digest,
            mode: file.mode,
            source: layer.join(file.source),
        };
        Ok(files.into_iter().map(entry).collect())
    }

    async fn make_standalone_python(
        &self,
        python: &StandalonePython,
        key: &LayerKey,
        logs: &LogSink,
    ) -> Result<(), BuildError> {
        let title = python.title();
        let workspace = self.inner.store.workspace()?;
        match self.archive_of(python, logs).await {
            Ok(archive) => {
                let diff = workspace.diff();
                let held = workspace.clone();
                let work = move |stop: &Stop| {
                    let _held = held;
                    unpack(&archive, &diff, stop)
                };
                blocking(work).await?;
            }
            Err(reason) => {
                let base = DebianBase::for_python(&python.version).filter(|_| !python.free_threaded);
                let Some(base) = base else { return Err(BuildError::Base(unreachable(&title, &reason))) };
                logs.say(format!("   {title}: {reason}"));
                logs.say(format!(
                    "   taking the Python {} of {} in its place: it needs an image with that system's C library or a newer one",
                    python.minor(),
                    base.title()
                ));
                self.take_from_debian(base, &workspace, logs).await?;
                if python.release.as_str() < FIRST_WITH_PYTHON_LINK {
                    let link = workspace.diff().join("python/bin/python");
                    fs::remove_file(&link).map_err(BuildError::on("remove", &link))?;
                }
            }
        }
        self.inner.store.commit(&workspace, key, &title)?;
        self.write_down(key).await.map(drop)
    }

    /// The error is a sentence.
    async fn archive_of(&self, python: &StandalonePython, logs: &LogSink) -> Result<PathBuf, String> {
        let mirror = self.inner.config.host_env.variables.get("UV_PYTHON_INSTALL_MIRROR");
        let url = python.url(mirror.map_or(DEFAULT_MIRROR, String::as_str));
        logs.say(format!("=> Downloading {} from {url}", python.title()));
        self.download(&url, None, logs).await.map(|found| found.path).map_err(|error| error.to_string())
    }

    /// Debian's Python moved to `/python`, with every library that it and its modules need.
    async fn take_from_debian(
        &self,
        base: DebianBase,
        workspace: &Workspace,
        logs: &LogSink,
    ) -> Result<(), BuildError> {
        let image = self.debian_base(base, logs).await?;
        let (out, scratch) = (workspace.diff(), workspace.path().join("scratch"));
        for folder in [&out, &scratch] {
            fs::create_dir(folder).map_err(BuildError::on("create", folder))?;
        }
        let mut env = image.config.env.clone();
        env.push(("HOME".to_owned(), "/root".to_owned()));
        let mut binds = self.host_settings(&mut env, &image.layers)?;
        let target = format!("{}/out", crate::host::PRIVATE);
        binds.push(container_runtime::Bind { source: out, target, read_only: false });
        binds.extend(self.mirror_bind(&image.layers, workspace)?);
        let argv = ["sh", "-ec", MOVE_DEBIANS_PYTHON].map(str::to_owned).to_vec();
        let layers = self.with_mount_points(&image.layers);
        let program =
            Program { layers, argv, env, cwd: "/".to_owned(), network: true, binds, scratch, ..Program::default() };
        let outcome = container::run(&self.inner.runtime, program, logs).await?;
        if !outcome.succeeded() {
            let tail = outcome.tail.join("\n  ");
            let (title, reason) = (base.title(), outcome.reason());
            return Err(BuildError::Base(format!("cannot take the Python of {title} ({reason}):\n  {tail}")));
        }
        Ok(())
    }

    /// Lists a layer's files with their digests; kept, since reading thousands of files takes a while.
    async fn write_down(&self, key: &LayerKey) -> Result<Vec<StandaloneFile>, BuildError> {
        let layer = self.layer_path(key);
        let work = move |stop: &Stop| {
            let mut files = Vec::new();
            list(&layer, Path::new("python"), &mut files, stop).map(|()| files)
        };
        let files = blocking(work).await?;
        self.inner.store.write_record(&record_name(key), &files)?;
        Ok(files)
    }
}

fn record_name(key: &LayerKey) -> String {
    format!("standalone-{key}")
}

fn unreachable(title: &str, reason: &str) -> String {
    format!(
        "{title} is not to be had: {reason}; set `UV_PYTHON_INSTALL_MIRROR` to a copy of python-build-standalone's releases where the server is started, or use `add_python=\"3.11\"` or `\"3.13\"`, for which Debian's Python can stand in"
    )
}

/// By the rules for layers of registries, though the archive comes from a mirror that the operator trusts.
fn unpack(archive: &Path, target: &Path, stop: &Stop) -> Result<(), BuildError> {
    let file = fs::File::open(archive).map_err(BuildError::on("read", archive))?;
    unpack_alone(Box::new(GzDecoder::new(file)), target, LayerLimits::default(), stop)
        .map_err(|error| BuildError::Base(format!("cannot unpack the downloaded Python: {error}")))
}

/// Adds every file below `folder` (relative to `layer`); a link stands for what it leads to.
fn list(layer: &Path, folder: &Path, files: &mut Vec<StandaloneFile>, stop: &Stop) -> Result<(), BuildError> {
    let full = layer.join(folder);
    let mut names = Vec::new();
    for entry in fs::read_dir(&full).map_err(BuildError::on("read", &full))? {
        names.push(entry.map_err(BuildError::on("read", &full))?.file_name());
    }
    names.sort();
    for name in names {
        let relative = folder.join(name);
        let path = layer.join(&relative);
        let real = fs::canonicalize(&path).ok().filter(|real| real.starts_with(layer));
        let Some(real) = real else { continue };
        let meta = fs::metadata(&real).map_err(BuildError::on("look at", &real))?;
        if meta.is_dir() {
            // A link to a folder could lead in circles, and Python's trees need none.
            if !path.is_symlink() {
                list(layer, &relative, files, stop)?;
            }
            continue;
        }
        let Some(text) = relative.to_str() else { continue };
        files.push(StandaloneFile {
            path: format!("/{text}"),
            digest: digest(&real, stop)?,
            mode: meta.permissions().mode() & 0o7777,
            source: real.strip_prefix(layer).unwrap_or(&relative).to_owned(),
        });
    }
    Ok(())
}

fn digest(path: &Path, stop: &Stop) -> Result<String, BuildError> {
    let file = fs::File::open(path).map_err(BuildError::on("read", path))?;
    let mut hasher = Sha256::new();
    std::io::copy(&mut stop.reader(file), &mut hasher).map_err(BuildError::on("read", path))?;
    Ok(hex::encode(hasher.finalize()))
}

/// Debian's Python looks for packages in `dist-packages` and installs below `local/`; moved to `/usr/local` it is to
/// behave like the original, with `site-packages`. Its `site` module is compiled into the program, so the way there is a
/// `.pth` file. Libraries are found by paths relative to those that need them.
const MOVE_DEBIANS_PYTHON: &str = r#"
apt-get update -q >/dev/null && apt-get install -y -q --no-install-recommends patchelf >/dev/null
out=/__dorian/out/python
real=$(readlink -f "$(command -v python3)"); name=$(basename "$real")
lib=$out/lib/$name
mkdir -p $out/bin $out/include $lib/site-packages $lib/libs
cp "$real" $out/bin/$name
ln -s $name $out/bin/python3; ln -s $name $out/bin/python
cp -a /usr/lib/$name/. $lib/
cp -a /usr/include/$name $out/include/
cp -a /usr/local/lib/$name/dist-packages/. $lib/site-packages/
rm -rf $lib/test $lib/config-* $lib/EXTERNALLY-MANAGED $lib/sitecustomize.py $lib/dist-packages
find $out -name __pycache__ -prune -exec rm -rf {} +
mkdir $lib/dist-packages
echo "import site; site.addsitedir(site.PREFIXES[0] + '/lib/$name/site-packages')" > $lib/dist-packages/site-packages.pth
for schemes in $lib/sysconfig.py $lib/sysconfig/__init__.py; do
  [ ! -f $schemes ] || sed -i "s/= 'posix_local'/= 'posix_prefix'/; s/LAYOUT', 'posix_local'/LAYOUT', 'posix_prefix'/" $schemes
done
for module in $out/bin/$name $lib/lib-dynload/*.so; do
  ldd "$module" | sed -n 's/.*=> \(\/[^ ]*\) .*/\1/p'
done | sort -u | while read -r library; do
  case $(basename "$library") in
    libc.so.*|libm.so.*|libpthread.so.*|libdl.so.*|librt.so.*|libutil.so.*|libresolv.so.*|ld-linux*) ;;
    *) cp -L "$library" $lib/libs/ ;;
  esac
done
for library in $lib/libs/*; do patchelf --set-rpath '$ORIGIN' "$library"; done
for module in $lib/lib-dynload/*.so; do patchelf --set-rpath '$ORIGIN/../libs' "$module"; done
patchelf --set-rpath "\$ORIGIN/../lib/$name/libs" $out/bin/$name
for command in pip pip3; do
  printf '#!/usr/local/bin/python3\nimport sys\nfrom pip._internal.cli.main import main\nsys.exit(main())\n' > $out/bin/$command
  chmod 755 $out/bin/$command
done
$out/bin/python3 -m compileall -q --invalidation-mode unchecked-hash $out/lib || true
$out/bin/python3 -m pip --version
$out/bin/python3 -c 'import ssl, sqlite3, ctypes, lzma, bz2, zlib, readline, venv'
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_name_names_an_archive() {
        let python = StandalonePython::parse("python-build-standalone.20230826.3.11.5-gnu").unwrap();
        assert_eq!(
            python.url("https://mirror/"),
            "https://mirror/20230826/cpython-3.11.5%2B20230826-x86_64-unknown-linux-gnu-install_only.tar.gz"
        );
        let free = StandalonePython::parse("python-build-standalone.20251209.3.14.2t-gnu").unwrap();
        assert!(free.url("m").ends_with("-freethreaded-install_only.tar.gz") && free.minor() == "3.14");
    }

    #[test]
    fn other_names_are_none() {
        for name in [
            "python-build-standalone.20230826.3.11.5-musl",
            "python-build-standalone.20230826.3.11-gnu",
            "python-build-standalone.../..3.11.5-gnu",
            "python-build-standalone.20230826.3.11.5/x-gnu",
            "modal-client-mount-1.6.4",
        ] {
            assert_eq!(StandalonePython::parse(name), None, "{name}");
        }
    }

    #[test]
    fn a_link_stands_for_the_file_it_leads_to_and_none_leads_out() {
        let folder = tempfile::tempdir().unwrap();
        let layer = fs::canonicalize(folder.path()).unwrap();
        fs::create_dir_all(layer.join("python/bin")).unwrap();
        fs::write(layer.join("python/bin/python3.11"), "x").unwrap();
        std::os::unix::fs::symlink("python3.11", layer.join("python/bin/python")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", layer.join("python/bin/out")).unwrap();
        std::os::unix::fs::symlink("..", layer.join("python/bin/up")).unwrap();
        let mut files = Vec::new();
        list(&layer, Path::new("python"), &mut files, &Stop::default()).unwrap();
        let found: Vec<_> = files.iter().map(|file| (file.path.as_str(), file.source.to_str().unwrap())).collect();
        let bytes = "python/bin/python3.11";
        assert_eq!(found, [("/python/bin/python", bytes), ("/python/bin/python3.11", bytes)]);
    }
}

//! Debian packages shared by builds, as pip's and uv's downloads are.
//!
//! Apt trusts whatever has the right name and size in its folder of archives, so that folder cannot be shared as it is: a
//! build could leave a package there that the next one installs. Instead:
//!
//! - a step that uses apt gets an archives folder of its own, in its workspace: nothing is locked by another build, and
//!   nothing of it lands in the layer;
//! - after `apt-get update` a hook reads the lists that apt has just verified, and links from the shared store, which
//!   the step can only read, those packages whose SHA-256 the lists name. So whoever stored a file, it serves only
//!   where apt would have downloaded the same bytes;
//! - before dpkg runs, a hook sets aside what was downloaded (the step's own `apt-get clean` would remove it); once the
//!   step has succeeded, the host hashes it and moves it to the store, behind the build's back.
//!
//! Rejected: a caching proxy, which cannot see into TLS, and would have to find its way through the host's own proxy.
//!
//! What is still possible: a step that installs with the lists of an earlier step downloads, since the hook runs after an
//! update only.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use container_runtime::Bind;
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedRwLockReadGuard, RwLock};

use crate::builder::ImageBuilder;
use crate::error::BuildError;
use crate::host::PRIVATE;
use crate::stack::LayerStack;
use crate::store::Workspace;

/// When the store is larger, the packages that came first go. Two large images' worth of compilers and libraries.
const MOST_BYTES: u64 = 8 << 30;
/// Every Debian archive begins with it.
const MAGIC: &[u8; 8] = b"!<arch>\n";

/// The shared store: `<sha256>/<name that apt gives the file>`.
pub(crate) struct Debs {
    folder: PathBuf,
    /// Read by steps that have links into it; packages are removed only while there are none.
    in_use: Arc<RwLock<()>>,
}

/// What one step was lent. While it is held, nothing is removed from the store.
pub(crate) struct Lent {
    own: PathBuf,
    _in_use: OwnedRwLockReadGuard<()>,
}

impl Debs {
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, in_use: Arc::default() }
    }

    /// One line for each package: hash and name.
    fn index(&self) -> io::Result<String> {
        let mut index = String::new();
        for (hash, name) in self.entries()? {
            index.push_str(&format!("{hash} {name}\n"));
        }
        Ok(index)
    }

    fn entries(&self) -> io::Result<Vec<(String, String)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let Ok(hash) = entry.file_name().into_string() else { continue };
            let names = fs::read_dir(entry.path())?.flatten().filter_map(|file| file.file_name().into_string().ok());
            found.extend(names.map(|name| (hash.clone(), name)));
        }
        Ok(found)
    }
}

impl ImageBuilder {
    /// Prepares a step that uses apt. `None` for the others, and where the step looks at the archives itself.
    pub(crate) fn lend_debs(
        &self,
        stack: &LayerStack,
        argv: &[String],
        env: &[(String, String)],
        workspace: &Workspace,
        binds: &mut Vec<Bind>,
    ) -> Result<Option<Lent>, BuildError> {
        let settings = format!("{PRIVATE}/apt.conf");
        let is_ours = env.iter().any(|(name, value)| name == "APT_CONFIG" && *value == settings);
        if !is_ours || !uses_apt(argv) || !has_apt(stack) {
            return Ok(None);
        }
        let debs = &self.inner.debs;
        // Just being made smaller, which takes no time worth waiting for.
        let Ok(in_use) = debs.in_use.clone().try_read_owned() else { return Ok(None) };
        // Asked for anew each time: a collection of garbage may have taken it, and must not take it now.
        self.inner.store.cache_dir("apt", "debs")?;
        let own = workspace.path().join("apt");
        for folder in ["archives/partial", "new"] {
            let folder = own.join(folder);
            fs::create_dir_all(&folder).map_err(BuildError::on("create", &folder))?;
        }
        let index = debs.index().map_err(BuildError::on("read", &debs.folder))?;
        let base = self.inner.apt_settings();
        let base = fs::read_to_string(&base).map_err(BuildError::on("read", &base))?;
        let files =
            [("apt.conf", base + SETTINGS), ("index", index), ("offer", OFFER.to_owned()), ("keep", KEEP.to_owned())];
        for (name, text) in files {
            let path = own.join(name);
            fs::write(&path, text).map_err(BuildError::on("write", &path))?;
        }
        binds.retain(|bind| bind.target != settings);
        let target = |name: &str| format!("{PRIVATE}/{name}");
        binds.push(Bind { source: own.join("apt.conf"), target: settings, read_only: true });
        binds.push(Bind { source: own.clone(), target: target("cache/apt"), read_only: false });
        binds.push(Bind { source: debs.folder.clone(), target: target("cache/debs"), read_only: true });
        Ok(Some(Lent { own, _in_use: in_use }))
    }

    /// Takes what a step that succeeded has downloaded into the store. Nobody waits for it.
    pub(crate) fn keep_debs(&self, lent: Lent) {
        let new = lent.own.join("new");
        let is_empty = fs::read_dir(&new).map_or(true, |mut entries| entries.next().is_none());
        if is_empty {
            return;
        }
        let moved = self.inner.store.workspace().and_then(|aside| {
            fs::rename(&new, aside.diff()).map_err(BuildError::on("move", &new))?;
            Ok(aside)
        });
        let aside = match moved {
            Ok(aside) => aside,
            Err(error) => return tracing::warn!(%error, "cannot keep downloaded Debian packages"),
        };
        let (folder, in_use) = (self.inner.debs.folder.clone(), self.inner.debs.in_use.clone());
        drop(lent);
        let work = move || {
            if let Err(error) = take_all(&aside.diff(), &folder) {
                tracing::warn!(%error, "cannot keep downloaded Debian packages");
            }
            if let Ok(_alone) = in_use.try_write()
                && let Err(error) = shrink(&folder, MOST_BYTES)
            {
                tracing::warn!(%error, "cannot remove old Debian packages");
            }
        };
        // Without a thread the packages are downloaded again next time.
        let _ = std::thread::Builder::new().name("keep-debs".to_owned()).spawn(work);
    }
}

/// A step that names the archives, or only downloads, wants to find apt's own folder filled.
fn uses_apt(argv: &[String]) -> bool {
    let own = ["/var/cache/apt", "download", " -d"];
    argv.iter().any(|word| word.contains("apt")) && !argv.iter().any(|word| own.iter().any(|sign| word.contains(sign)))
}

fn has_apt(stack: &LayerStack) -> bool {
    ["/usr/bin/apt-get", "/usr/lib/apt/apt-helper"]
        .iter()
        .all(|path| stack.resolve(path).is_ok_and(|resolved| resolved.found.is_some()))
}

const SETTINGS: &str = r#"Dir::Cache::archives "/__dorian/cache/apt/archives";
APT::Update::Post-Invoke { "sh /__dorian/cache/apt/offer 2>/dev/null || true"; };
DPkg::Pre-Invoke { "sh /__dorian/cache/apt/keep 2>/dev/null || true"; };
"#;

/// Links what the lists name. The name of apt's own file is made as apt makes it, and has to be the stored one.
const OFFER: &str = r#"cd /var/lib/apt/lists
index=/__dorian/cache/apt/index
[ -s $index ] || exit 0
for list in *_Packages *_Packages.*; do
    [ -f "$list" ] && /usr/lib/apt/apt-helper cat-file "$list" && echo
done | awk -v index_file=$index '
function offer() {
    gsub(/:/, "%3a", version)
    name = package "_" version "_" architecture ".deb"
    if (hash in stored && stored[hash] == name) print "/__dorian/cache/debs/" hash "/" name
    package = version = architecture = hash = ""
}
BEGIN { while ((getline line < index_file) > 0) { split(line, parts, " "); stored[parts[1]] = parts[2] } }
/^Package: / { package = $2 }
/^Version: / { version = $2 }
/^Architecture: / { architecture = $2 }
/^SHA256: / { hash = $2 }
/^$/ { offer() }
END { offer() }' | xargs -r ln -sf -t /__dorian/cache/apt/archives
"#;

const KEEP: &str = r#"cd /__dorian/cache/apt
for file in archives/*.deb; do
    [ -L "$file" ] || ln -f "$file" new/
done
"#;

/// Moves packages from `new` to the store, each under its content's hash.
fn take_all(new: &Path, store: &Path) -> io::Result<()> {
    for entry in fs::read_dir(new)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        // The build wrote this folder: a link, or a name that means something to a shell, has no business here.
        if !entry.file_type()?.is_file() || !is_package_name(&name) {
            continue;
        }
        take(&entry.path(), &name, store)?;
    }
    Ok(())
}

fn take(file: &Path, name: &str, store: &Path) -> io::Result<()> {
    let Some(hash) = hash_of(file)? else { return Ok(()) };
    let folder = store.join(&hash);
    if folder.exists() {
        return Ok(());
    }
    fs::set_permissions(file, fs::Permissions::from_mode(0o644))?;
    chown(file, Some(0), Some(0))?;
    // On the disk before it has its name: after a power loss a file of the right size could have no content.
    File::open(file)?.sync_all()?;
    let made = file.with_extension("folder");
    fs::create_dir(&made)?;
    fs::rename(file, made.join(name))?;
    match fs::rename(&made, &folder) {
        Err(_) if folder.exists() => Ok(()),
        other => other,
    }
}

/// None for what is no package.
fn hash_of(file: &Path) -> io::Result<Option<String>> {
    let mut file = File::open(file)?;
    let mut magic = [0; MAGIC.len()];
    if file.read_exact(&mut magic).is_err() || magic != *MAGIC {
        return Ok(None);
    }
    let mut hasher = Sha256::new_with_prefix(magic);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Some(hex::encode(hasher.finalize()))),
            count => hasher.update(&buffer[..count]),
        }
    }
}

fn is_package_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".+~%_-".contains(&byte);
    name.len() <= 200 && name.ends_with(".deb") && !name.starts_with(['.', '-']) && name.bytes().all(plain)
}

/// Removes the packages that came first until the rest has at most `most` bytes.
fn shrink(store: &Path, most: u64) -> io::Result<()> {
    let mut found = Vec::new();
    for entry in fs::read_dir(store)? {
        let folder = entry?;
        let mut bytes = 0;
        for file in fs::read_dir(folder.path())? {
            bytes += file?.metadata()?.len();
        }
        found.push((folder.metadata()?.modified().unwrap_or(SystemTime::UNIX_EPOCH), bytes, folder.path()));
    }
    let mut total: u64 = found.iter().map(|(_, bytes, _)| bytes).sum();
    found.sort();
    for (_, bytes, folder) in found {
        if total <= most {
            break;
        }
        trees::remove(&folder)?;
        total -= bytes;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        ["/bin/sh", "-c", text].map(str::to_owned).to_vec()
    }

    #[test]
    fn a_step_that_looks_at_the_archives_is_left_alone() {
        assert!(uses_apt(&words("apt-get update && apt-get install -y git && apt-get clean")));
        for other in ["echo hello", "apt-get install -y -d git", "apt install git && ls /var/cache/apt/archives"] {
            assert!(!uses_apt(&words(other)), "{other}");
        }
    }

    #[test]
    fn only_packages_with_plain_names_are_kept_by_their_hash() {
        let folder = tempfile::tempdir().unwrap();
        let (new, store) = (folder.path().join("new"), folder.path().join("store"));
        fs::create_dir_all(&new).unwrap();
        fs::create_dir_all(&store).unwrap();
        fs::write(new.join("a_1%3a2_amd64.deb"), "!<arch>\nx").unwrap();
        fs::write(new.join("b_1_all.deb"), "something else").unwrap();
        fs::write(new.join("c d.deb"), "!<arch>\nx").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", new.join("e_1_all.deb")).unwrap();
        take_all(&new, &store).unwrap();
        let debs = Debs::new(store);
        let hash = hex::encode(Sha256::digest("!<arch>\nx"));
        assert_eq!(debs.index().unwrap(), format!("{hash} a_1%3a2_amd64.deb\n"));
    }

    #[test]
    fn the_oldest_packages_make_room() {
        let folder = tempfile::tempdir().unwrap();
        for (age, name) in ["new", "old", "older"].iter().enumerate() {
            let path = folder.path().join(name);
            fs::create_dir(&path).unwrap();
            fs::write(path.join("a_1_all.deb"), [0; 10]).unwrap();
            let time = SystemTime::now() - std::time::Duration::from_secs(100 * age as u64);
            File::open(&path).unwrap().set_modified(time).unwrap();
        }
        shrink(folder.path(), 20).unwrap();
        assert!(folder.path().join("old").exists() && !folder.path().join("older").exists());
    }
}

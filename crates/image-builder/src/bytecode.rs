//! Bytecode for Python files that a step left without.
//!
//! A container's own writes vanish with it, so a module without bytecode is compiled again at every cold start.
//! Uv compiles what it installs only when told to, COPY never, and the official Python images have even their standard
//! library without. Pip compiles file after file on one core, so builds tell it not to (`PIP_COMPILE`, unless the step
//! says otherwise). Hence, after a step, what is new in its layer and still uncompiled is compiled by the image's own
//! Python on all cores, into the same layer.
//!
//! Rejected: a closing layer above the image. Images are built on images, so each link of the chain would get one, and
//! the change of one source file would compile every package below it again. Within the step's layer the work is cached
//! as the step is, and layers that are there already are not touched. A layer from a registry is what its digest says,
//! so only there the bytecode gets a layer of its own, once for each base ([`ImageBuilder::with_bytecode`]).
//!
//! Bytecode is made as Python's import makes it: checked against its source's time and size, so that a later step may
//! change the source. It never changes what a program does, and so does not fail a build: a file that does not compile
//! stays as it is, and an image without the right Python is left alone.
//!
//! What is still possible: modules that are neither below a `lib/python3.x` folder nor beside the record of an installed
//! package (`pip install --target`) are taken for the user's program, and stay as they are.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use container_runtime::Bind;
use image_plan::{Action, KeyHasher, LayerKey};
use parking_lot::Mutex;
use std::sync::Arc;

use crate::builder::ImageBuilder;
use crate::container::{self, Program};
use crate::error::BuildError;
use crate::logs::LogSink;
use crate::request::{BuiltImage, LogStream};
use crate::stack::LayerStack;
use crate::store::Workspace;

/// Enough for the largest installations on a slow machine; without it a hanging disk could hold a build for ever.
const LONGEST: Duration = Duration::from_secs(600);
/// The compiled program's view of `workspace/bytecode`; a folder that every build container has a place for.
const INSIDE: &str = "/__dorian/out";

/// Where one Python looks for modules: `usr/local/lib/python3.11`, relative to the root.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Library {
    folder: PathBuf,
    /// `3.11`; none for Debian's packages, which serve whatever `/usr/bin/python3` is, and for a folder of packages that
    /// is in no Python's own place.
    version: Option<String>,
}

type Uncompiled = BTreeMap<Library, Vec<PathBuf>>;

impl ImageBuilder {
    /// Compiles what the step in `workspace` left uncompiled, until `deadline` at the latest.
    pub(crate) async fn compile_new_python(
        &self,
        below: &[LayerKey],
        action: &Action,
        workspace: &Workspace,
        deadline: Option<Instant>,
        logs: &LogSink,
    ) {
        let diff = workspace.diff();
        let look = tokio::task::spawn_blocking(move || uncompiled(&diff));
        let found = match look.await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot look for uncompiled Python files in a layer");
                return;
            }
            Err(_) => return,
        };
        self.compile(below, &found, search_path(action), workspace, deadline, logs).await;
    }

    /// The image, with a layer of bytecode on top if its own layers lack some.
    pub(crate) async fn with_bytecode(&self, mut image: BuiltImage, logs: &LogSink) -> Result<BuiltImage, BuildError> {
        let key = KeyHasher::new("bytecode 1").list(image.layers.iter().map(LayerKey::as_str)).finish();
        let record = format!("bytecode-{key}");
        let is_complete: Option<bool> = self.inner.store.read_record(&record);
        if is_complete == Some(true) {
            return Ok(image);
        }
        if !self.inner.store.has(&key) {
            let (this, layers, wanted) = (self.clone(), image.layers.clone(), key.clone());
            let make = move |logs| async move { this.make_bytecode_layer(&layers, &wanted, &logs).await };
            self.inner.layers.run(key.clone(), logs, make).await?;
        }
        match self.inner.store.has(&key) {
            true => image.layers.push(key),
            false => self.inner.store.write_record(&record, &true)?,
        }
        Ok(image)
    }

    /// Makes no layer when there is nothing to compile.
    async fn make_bytecode_layer(&self, layers: &[LayerKey], key: &LayerKey, logs: &LogSink) -> Result<(), BuildError> {
        let paths = self.layer_paths(layers);
        let look = tokio::task::spawn_blocking(move || uncompiled_in_stack(&paths));
        let found = look.await.unwrap_or_else(|_| Ok(Uncompiled::new()));
        let found = found.map_err(BuildError::io("look for uncompiled Python files in an image"))?;
        if found.is_empty() {
            return Ok(());
        }
        let workspace = self.inner.store.workspace()?;
        crate::steps::copy::make_layer_root(&workspace.diff())?;
        self.compile(layers, &found, "", &workspace, None, logs).await;
        let diff = workspace.diff();
        let is_empty = fs::read_dir(&diff).map_err(BuildError::on("read", &diff))?.next().is_none();
        if is_empty {
            return Ok(());
        }
        self.inner.store.commit(&workspace, key, "bytecode for the Python files of a base")
    }

    async fn compile(
        &self,
        below: &[LayerKey],
        found: &Uncompiled,
        search_path: &str,
        workspace: &Workspace,
        deadline: Option<Instant>,
        logs: &LogSink,
    ) {
        let left = deadline.map_or(LONGEST, |deadline| deadline.saturating_duration_since(Instant::now()));
        let ends = Instant::now() + left.min(LONGEST);
        for (library, files) in found {
            let mut layers = self.layer_paths(below);
            layers.push(workspace.diff());
            let Some(python) = interpreter(&LayerStack::new(layers), library, search_path) else { continue };
            let work = self.compile_library(below, library, &python, files, workspace);
            let left = ends.saturating_duration_since(Instant::now());
            match tokio::time::timeout(left, work).await {
                Ok(Ok(0)) => {}
                Ok(Ok(count)) => {
                    let what = if count == 1 { "1 Python file".to_owned() } else { format!("{count} Python files") };
                    logs.say(format!("   compiled {what} in /{} for faster starts", library.folder.display()));
                }
                Ok(Err(error)) => tracing::info!(%error, library = ?library, "Python files stay uncompiled"),
                Err(_) => tracing::info!(library = ?library, "no time was left to compile Python files"),
            }
        }
    }

    /// How many files have bytecode now that had none.
    async fn compile_library(
        &self,
        below: &[LayerKey],
        library: &Library,
        python: &str,
        files: &[PathBuf],
        workspace: &Workspace,
    ) -> Result<usize, BuildError> {
        let shared = workspace.path().join("bytecode");
        fs::create_dir_all(&shared).map_err(BuildError::on("create", &shared))?;
        let list = shared.join("files");
        fs::write(&list, file_list(files)).map_err(BuildError::on("write", &list))?;
        let version = library.version.clone().unwrap_or_default();
        let printed = Arc::new(Mutex::new(String::new()));
        let kept = printed.clone();
        let sink = LogSink::new(move |log| {
            if log.stream == LogStream::Stdout {
                kept.lock().push_str(&log.text);
            }
        });
        let program = Program {
            layers: self.with_mount_points(below),
            argv: [python, "-I", "-S", "-B", "-W", "ignore", "-c", SCRIPT, INSIDE, &version]
                .map(str::to_owned)
                .to_vec(),
            env: vec![("LC_ALL".to_owned(), "C.UTF-8".to_owned())],
            cwd: "/".to_owned(),
            network: false,
            binds: vec![Bind { source: shared, target: INSIDE.to_owned(), read_only: true }],
            scratch: workspace.path().to_owned(),
            ..Program::default()
        };
        let outcome = container::run(&self.inner.runtime, program, &sink).await?;
        let count = printed.lock().trim().parse().unwrap_or(0);
        if !outcome.succeeded() {
            tracing::info!(reason = outcome.reason(), tail = ?outcome.tail, python, "cannot compile Python files");
        }
        Ok(count)
    }
}

/// Reads the list, and compiles each file that has no bytecode that fits it. The owner of a source owns its bytecode, too:
/// whoever may remove a package has to be able to remove all of it. Isolated and without `site`, so that nothing of what
/// is installed runs; without bytecode of its own imports (`-B`).
const SCRIPT: &str = r#"
import importlib.util, os, py_compile, sys
shared, version = sys.argv[1:3]
if sys.version_info < (3, 7) or version not in ("", "%d.%d" % sys.version_info[:2]):
    print(0)
    sys.exit()
with open(shared + "/files", "rb") as listed:
    names = [os.fsdecode(name) for name in listed.read().split(b"\0") if name]
mode = py_compile.PycInvalidationMode.TIMESTAMP

def number(value):
    return (int(value) & 0xFFFFFFFF).to_bytes(4, "little")

def fits(cached, source):
    try:
        with open(cached, "rb") as file:
            head = file.read(16)
    except OSError:
        return False
    return head == importlib.util.MAGIC_NUMBER + number(0) + number(source.st_mtime) + number(source.st_size)

def compiled(name):
    cached = importlib.util.cache_from_source(name, optimization="")
    folder = os.path.dirname(cached)
    source = os.stat(name)
    if fits(cached, source):
        return 0
    is_new = not os.path.isdir(folder)
    py_compile.compile(name, cached, doraise=True, invalidation_mode=mode)
    if is_new:
        parent = os.stat(os.path.dirname(folder))
        os.chown(folder, parent.st_uid, parent.st_gid)
    os.chown(cached, source.st_uid, source.st_gid, follow_symlinks=False)
    return 1

def compile_all(names):
    count = 0
    for name in names:
        try:
            count += compiled(name)
        except Exception:
            pass
    return count

# One process for each core, a folder always with one of them, and none for a handful of files.
folders = {}
for name in names:
    folders.setdefault(os.path.dirname(name), []).append(name)
workers = max(1, min(len(os.sched_getaffinity(0)), len(names) // 50))
parts = [[] for _ in range(workers)]
for folder in sorted(folders.values(), key=len, reverse=True):
    min(parts, key=len).extend(folder)
pipes = []
for part in parts[1:]:
    end, start = os.pipe()
    if os.fork() == 0:
        os.write(start, b"%d" % compile_all(part))
        os._exit(0)
    os.close(start)
    pipes.append(end)
count = compile_all(parts[0])
for end in pipes:
    count += int(os.read(end, 20) or 0)
print(count)
"#;

/// The absolute paths, each ended by a byte that no path has.
fn file_list(files: &[PathBuf]) -> Vec<u8> {
    let mut list = Vec::new();
    for file in files {
        list.push(b'/');
        list.extend_from_slice(std::os::unix::ffi::OsStrExt::as_bytes(file.as_os_str()));
        list.push(0);
    }
    list
}

/// Every source file of one layer that has no bytecode in it.
fn uncompiled(layer: &Path) -> io::Result<Uncompiled> {
    let mut found = Uncompiled::new();
    walk(layer, Path::new(""), None, &mut found)?;
    Ok(found)
}

/// The same for layers seen as one tree, the lowest first.
fn uncompiled_in_stack(layers: &[PathBuf]) -> io::Result<Uncompiled> {
    let stack = LayerStack::new(layers.iter().cloned());
    let mut all = Uncompiled::new();
    for layer in layers {
        for (library, files) in uncompiled(layer)? {
            for file in files {
                if is_visible(&stack, layer, &file)? && !has_bytecode(&stack, &file)? {
                    all.entry(library.clone()).or_default().push(file);
                }
            }
        }
    }
    Ok(all)
}

/// No higher layer removes or replaces it.
fn is_visible(stack: &LayerStack, layer: &Path, file: &Path) -> io::Result<bool> {
    Ok(stack.entry(file)?.is_some_and(|found| found.path == layer.join(file)))
}

fn has_bytecode(stack: &LayerStack, file: &Path) -> io::Result<bool> {
    let folder = file.parent().unwrap_or(Path::new("")).join("__pycache__");
    let names = stack.list(&folder)?;
    Ok(names
        .iter()
        .filter_map(|name| name.to_str())
        .any(|name| bytecode_of(name) == file.file_stem().and_then(|s| s.to_str())))
}

/// Deeper than any package goes, and far from what would overflow the stack.
const DEEPEST: usize = 100;

/// `within`: the library that a folder above belongs to.
fn walk(layer: &Path, folder: &Path, within: Option<&Library>, found: &mut Uncompiled) -> io::Result<()> {
    if folder.components().count() > DEEPEST {
        return Ok(());
    }
    let (mut folders, mut sources, mut has_packages) = (Vec::new(), Vec::new(), false);
    for entry in fs::read_dir(layer.join(folder))? {
        let entry = entry?;
        let (kind, name) = (entry.file_type()?, entry.file_name());
        let extension = Path::new(&name).extension().unwrap_or_default();
        if kind.is_dir() && name != "__pycache__" {
            has_packages |= extension == "dist-info";
            folders.push(folder.join(name));
        } else if kind.is_file() && extension == "py" {
            sources.push(folder.join(name));
        }
    }
    let place = place_of(folder);
    let library = match (&place, within) {
        (Place::Library(library), _) => Some(library),
        (Place::Ignored, _) => None,
        (Place::Elsewhere, Some(library)) => Some(library),
        (Place::Elsewhere, None) => None,
    };
    let packages = Library { folder: folder.to_owned(), version: None };
    let is_package_folder = has_packages && matches!(place, Place::Elsewhere);
    let library = library.or(is_package_folder.then_some(&packages));
    if let Some(library) = library.filter(|_| !sources.is_empty()) {
        let compiled = compiled_names(&layer.join(folder).join("__pycache__"))?;
        let stem = |file: &Path| file.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned);
        sources.retain(|file| stem(file).is_none_or(|stem| !compiled.contains(&stem)));
        sources.sort();
        if !sources.is_empty() {
            found.entry(library.clone()).or_default().extend(sources);
        }
    }
    folders.iter().try_for_each(|folder| walk(layer, folder, library, found))
}

fn compiled_names(folder: &Path) -> io::Result<HashSet<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        // Also for what is no folder: a link, a whiteout.
        Err(_) => return Ok(HashSet::new()),
    };
    let mut names = HashSet::new();
    for entry in entries {
        names.extend(entry?.file_name().to_str().and_then(bytecode_of).map(str::to_owned));
    }
    Ok(names)
}

/// `name` for `name.cpython-311.pyc`; what only serves `python -O` does not count.
fn bytecode_of(file: &str) -> Option<&str> {
    let (name, tag) = file.strip_suffix(".pyc")?.rsplit_once('.')?;
    (!tag.starts_with("opt-")).then_some(name)
}

enum Place {
    Library(Library),
    /// In a Python's own place, and not worth it.
    Ignored,
    Elsewhere,
}

/// Whose modules a folder holds, by its path.
fn place_of(folder: &Path) -> Place {
    let Some(parts) = folder.components().map(name_of).collect::<Option<Vec<&str>>>() else { return Place::Elsewhere };
    let mut pairs = parts.windows(2);
    let Some(place) = pairs.position(|pair| matches!(pair[0], "lib" | "lib64") && is_python(pair[1])) else {
        return Place::Elsewhere;
    };
    let (place, below) = (place + 1, parts.get(place + 2).copied());
    let version = parts[place].strip_prefix("python").filter(|version| version.contains('.')).map(str::to_owned);
    // Without a version only Debian's packages are meant. Python's own tests are large, and nobody imports them.
    let is_meant = if version.is_some() { below != Some("test") } else { below == Some("dist-packages") };
    match is_meant {
        true => Place::Library(Library { folder: parts[..=place].iter().collect(), version }),
        false => Place::Ignored,
    }
}

fn name_of(part: Component<'_>) -> Option<&str> {
    match part {
        Component::Normal(name) => name.to_str(),
        _ => None,
    }
}

fn is_python(name: &str) -> bool {
    let minor = name.strip_prefix("python3").map(|rest| rest.strip_prefix('.').unwrap_or(rest));
    minor.is_some_and(|minor| minor.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Where the step itself would have found its Python.
fn search_path(action: &Action) -> &str {
    let Action::Run { env, .. } = action else { return "" };
    env.iter().find(|(name, _)| name == "PATH").map_or("", |(_, value)| value.as_str())
}

/// The program that imports from `library`: the one beside it, as in a virtual environment, or the system's.
fn interpreter(stack: &LayerStack, library: &Library, search_path: &str) -> Option<String> {
    candidates(library, search_path).into_iter().find(|path| {
        let resolved = stack.resolve(path);
        resolved.is_ok_and(|resolved| resolved.found.is_some_and(|found| found.meta.is_file()))
    })
}

fn candidates(library: &Library, search_path: &str) -> Vec<String> {
    let is_a_pythons_own = matches!(place_of(&library.folder.join("dist-packages")), Place::Library(_));
    let home = library.folder.parent().and_then(Path::parent).filter(|_| is_a_pythons_own);
    let beside = home.map(|home| format!("/{}", home.join("bin").display()));
    let on_path = search_path.split(':').filter(|folder| folder.starts_with('/'));
    let folders: Vec<&str> =
        beside.as_deref().into_iter().chain(on_path).chain(["/usr/local/bin", "/usr/bin"]).collect();
    let exact = library.version.iter();
    let exact = exact.flat_map(|version| folders.iter().map(move |folder| format!("{folder}/python{version}")));
    // Of no version known by name; the script looks whether it is the right one.
    exact.chain(folders.iter().map(|folder| format!("{folder}/python3"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn library(folder: &str) -> Option<(String, Option<String>)> {
        match place_of(Path::new(folder)) {
            Place::Library(found) => Some((found.folder.to_string_lossy().into_owned(), found.version)),
            _ => None,
        }
    }

    #[test]
    fn a_folder_belongs_to_the_python_whose_library_it_is_in() {
        let of = |folder: &str, version: Option<&str>| Some((folder.to_owned(), version.map(str::to_owned)));
        assert_eq!(library("usr/local/lib/python3.11/site-packages/a/b"), of("usr/local/lib/python3.11", Some("3.11")));
        assert_eq!(library("opt/venv/lib/python3.13/encodings"), of("opt/venv/lib/python3.13", Some("3.13")));
        assert_eq!(library("usr/lib/python3/dist-packages/apt"), of("usr/lib/python3", None));
        for other in
            ["usr/lib/python3", "usr/lib/python3.11/test/support", "usr/lib/python2.7/a", "srv/app", "lib/pythonic"]
        {
            assert_eq!(library(other), None, "{other}");
        }
    }

    #[test]
    fn the_python_beside_a_library_comes_first() {
        let of = |folder: &str, version: Option<&str>| {
            candidates(
                &Library { folder: folder.into(), version: version.map(str::to_owned) },
                "/opt/conda/bin:/usr/bin",
            )
        };
        assert_eq!(
            of("opt/venv/lib/python3.12", Some("3.12"))[..2],
            ["/opt/venv/bin/python3.12", "/opt/conda/bin/python3.12"]
        );
        assert_eq!(of("usr/lib/python3", None)[0], "/usr/bin/python3");
        assert_eq!(of("srv/packages", None)[0], "/opt/conda/bin/python3");
    }

    #[test]
    fn bytecode_for_another_level_of_optimisation_does_not_count() {
        assert_eq!(bytecode_of("a.b.cpython-311.pyc"), Some("a.b"));
        assert_eq!(bytecode_of("a.cpython-311.opt-1.pyc"), None);
        assert_eq!(bytecode_of("a.cpython-311.pyc.140"), None);
    }

    #[test]
    fn a_very_deep_tree_is_no_harm() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("a/".repeat(1500))).unwrap();
        assert!(uncompiled(folder.path()).unwrap().is_empty());
    }

    #[test]
    fn only_sources_without_bytecode_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let write = |layer: &str, path: &str| {
            let path = folder.path().join(layer).join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        };
        for file in ["a.py", "b.py", "c.txt", "__pycache__/a.cpython-311.pyc"] {
            write("low", &format!("usr/lib/python3.11/{file}"));
        }
        write("low", "srv/app.py");
        write("low", "srv/packages/x/y.py");
        write("low", "srv/packages/x-1.dist-info/RECORD");
        write("high", "usr/lib/python3.11/__pycache__/b.cpython-311.pyc");
        write("high", "usr/lib/python3.11/d.py");
        let layers = ["low", "high"].map(|layer| folder.path().join(layer));
        let names = |found: Uncompiled| found.into_values().flatten().collect::<Vec<_>>();
        let installed = Path::new("srv/packages/x/y.py");
        assert_eq!(names(uncompiled(&layers[0]).unwrap()), [installed, Path::new("usr/lib/python3.11/b.py")]);
        assert_eq!(names(uncompiled_in_stack(&layers).unwrap()), [installed, Path::new("usr/lib/python3.11/d.py")]);
    }
}

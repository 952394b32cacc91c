//! Writing one layer.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File, FileType};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use manifest::content::ContentId;
use types::ids::random_base62;

use crate::content::ContentStore;
use crate::error::{Doing, VolumeError};
use crate::sys;
use crate::upper::UpperFolder;
use crate::view::{Kind, Node, View, content_of};

/// A file of up to so many bytes lies in its layer. A reference to a content costs an inode, and often a block for its
/// attributes, and overlayfs opens two files for one: small files are read a third slower that way, and share little.
pub const SMALL_BYTES: u64 = 64 << 10;
/// The longest file. One with holes may claim any length, and each 8 MiB of it take a digest and a URL.
pub const MAX_FILE_BYTES: u64 = 1 << 40;
/// So many entries are written to disk one by one; with more, everything on the file system is.
const FEW_ENTRIES: u64 = 64;

/// A layer that is whole and on disk, but not part of a volume yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltLayer {
    pub folder: PathBuf,
    pub entries: u64,
    /// Names that it deletes. See [`BuiltLayer::forget_needless`].
    pub removed: Vec<PathBuf>,
}

/// Owner, permission bits, time and the attributes that programs set.
#[derive(Debug, Clone, Default)]
pub struct Attributes {
    pub mode: u32,
    pub owner: (u32, u32),
    /// Seconds and nanoseconds.
    pub modified: (i64, i64),
    pub xattrs: Vec<(String, Vec<u8>)>,
}

impl Attributes {
    /// A plain file of root's, made at this moment.
    pub fn now() -> Self {
        Self { mode: 0o644, modified: now(), ..Self::default() }
    }

    pub(crate) fn of(path: &Path) -> Result<Self, VolumeError> {
        Self::of_kind(path, |_| true)
    }

    /// What has become something of another kind in the meantime is not found.
    pub(crate) fn of_kind(path: &Path, is_kind: impl Fn(&FileType) -> bool) -> Result<Self, VolumeError> {
        let metadata = fs::symlink_metadata(path).doing("look at", path)?;
        if !is_kind(&metadata.file_type()) {
            return Err(io::Error::from(io::ErrorKind::NotFound)).doing("look at", path);
        }
        Ok(Self {
            mode: metadata.permissions().mode() & 0o7777,
            owner: (metadata.uid(), metadata.gid()),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            xattrs: sys::user_xattrs(path).doing("read the attributes of", path)?,
        })
    }

    fn apply(&self, path: &Path, is_link: bool) -> Result<(), VolumeError> {
        std::os::unix::fs::lchown(path, Some(self.owner.0), Some(self.owner.1)).doing("set the owner of", path)?;
        if !is_link {
            // After the owner: a change of owner clears the set-user bit.
            let permissions = fs::Permissions::from_mode(self.mode & 0o7777);
            fs::set_permissions(path, permissions).doing("set the permissions of", path)?;
        }
        for (name, value) in &self.xattrs {
            sys::set_xattr(path, name, value).doing("set an attribute of", path)?;
        }
        sys::set_modified(path, self.modified.0, self.modified.1).doing("set the time of", path)
    }
}

/// Where a file's bytes come from.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// A file that may go on changing: what it holds now.
    Copy(&'a Path),
    /// A file that nobody uses any more; it may be taken away.
    Take(&'a Path),
    /// A file that will never change again, here or elsewhere: it is linked where possible.
    Share(&'a Path),
    /// A content, with the file's length.
    Content(&'a ContentId, u64),
    Empty,
}

/// Builds a layer over a view. Dropped without [`LayerBuilder::finish`], it leaves nothing behind.
pub struct LayerBuilder<'a> {
    contents: &'a ContentStore,
    /// For the folders that lead to an entry: they keep their attributes.
    view: &'a View,
    /// Looked at first for those attributes.
    upper: Option<&'a UpperFolder>,
    folder: PathBuf,
    shares: bool,
    entries: u64,
    removed: Vec<PathBuf>,
    /// Folders of the layer that exist.
    folders: BTreeSet<PathBuf>,
    /// Files with several names, by device and inode, and where the first one went.
    linked: HashMap<(u64, u64), PathBuf>,
    finished: bool,
}

impl<'a> LayerBuilder<'a> {
    /// `building` is a folder on the same file system as the contents.
    pub fn new(contents: &'a ContentStore, building: &Path, view: &'a View) -> Result<Self, VolumeError> {
        let folder = building.join(random_base62(16));
        for part in ["diff", "refs"] {
            let path = folder.join(part);
            fs::create_dir_all(&path).doing("make folder", &path)?;
        }
        // The root of a mounted volume shows this folder's permissions.
        let root = folder.join("diff");
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).doing("set the permissions of", &root)?;
        Ok(Self {
            contents,
            view,
            upper: None,
            folder,
            shares: sys::kernel_has_data_layers(),
            entries: 0,
            removed: Vec::new(),
            folders: BTreeSet::from([PathBuf::new()]),
            linked: HashMap::new(),
            finished: false,
        })
    }

    /// Folders on the way take their attributes from here, if they are there.
    pub(crate) fn over_upper(mut self, upper: &'a UpperFolder) -> Self {
        self.upper = Some(upper);
        self
    }

    fn place(&self, path: &Path) -> PathBuf {
        self.folder.join("diff").join(path)
    }

    /// Makes room for an entry: its folders exist, and its name is free.
    fn prepare(&mut self, path: &Path) -> Result<PathBuf, VolumeError> {
        if let Some(parent) = path.parent() {
            self.ensure_folder(parent)?;
        }
        let place = self.place(path);
        match fs::symlink_metadata(&place) {
            Ok(metadata) if metadata.is_dir() => {
                trees::remove(&place).doing("replace", &place)?;
                self.folders.retain(|folder| !folder.starts_with(path));
            }
            Ok(_) => fs::remove_file(&place).doing("replace", &place)?,
            Err(_) => {}
        }
        self.entries += 1;
        Ok(place)
    }

    fn ensure_folder(&mut self, path: &Path) -> Result<(), VolumeError> {
        if self.folders.contains(path) {
            return Ok(());
        }
        let attributes = self.folder_attributes(path)?;
        self.folder(path, &attributes)
    }

    fn folder_attributes(&self, path: &Path) -> Result<Attributes, VolumeError> {
        if let Some(in_upper) = self.upper.and_then(|upper| upper.folder(path).ok()) {
            return Attributes::of(&in_upper);
        }
        match self.view.find(path)?.filter(|node| node.kind == Kind::Folder) {
            Some(node) => Attributes::of(node.path()),
            None => Ok(Attributes { mode: 0o755, ..Attributes::now() }),
        }
    }

    pub fn folder(&mut self, path: &Path, attributes: &Attributes) -> Result<(), VolumeError> {
        if path.as_os_str().is_empty() {
            return Ok(());
        }
        if !self.folders.contains(path) {
            let was_removed = fs::symlink_metadata(self.place(path)).is_ok_and(|found| sys::is_whiteout(&found));
            let place = self.prepare(path)?;
            fs::create_dir(&place).doing("make folder", &place)?;
            self.folders.insert(path.to_owned());
            if was_removed {
                // What is below stays removed.
                self.make_opaque(path)?;
            }
        }
        attributes.apply(&self.place(path), false)
    }

    pub fn file(&mut self, path: &Path, source: Source<'_>, attributes: &Attributes) -> Result<(), VolumeError> {
        let place = self.prepare(path)?;
        match source {
            Source::Empty => drop(File::create(&place).doing("make", &place)?),
            Source::Content(id, size) if size <= SMALL_BYTES || !self.shares => {
                self.copy_content(id, &place)?;
            }
            Source::Content(id, size) => self.stub(&place, id, size)?,
            Source::Take(from) if self.may_move(from)? && linked(from, &place)? => {
                // What overlayfs noted for itself about a file that was below, and may have had another name there.
                let noted = [sys::ORIGIN, sys::REDIRECT];
                return noted.iter().try_for_each(|name| sys::remove_xattr(&place, name)).doing("unmark", &place);
            }
            Source::Copy(from) | Source::Take(from) | Source::Share(from) => {
                let metadata = fs::symlink_metadata(from).doing("look at", from)?;
                if metadata.len() > MAX_FILE_BYTES {
                    return Err(VolumeError::TooLarge(path.to_owned()));
                }
                let may_be_linked = metadata.nlink() > 1 && !matches!(source, Source::Share(_));
                let inode = (metadata.dev(), metadata.ino());
                if may_be_linked && let Some(first) = self.linked.get(&inode) {
                    return fs::hard_link(first, &place).doing("link", &place);
                }
                self.put_bytes(source, from, metadata.len(), &place)?;
                // Only now: a file that was gone before it was read has no first name.
                if may_be_linked {
                    self.linked.insert(inode, place.clone());
                }
            }
        }
        attributes.apply(&place, false)
    }

    /// A small file that nobody uses any more goes into the layer as it is, with its attributes and all its names.
    fn may_move(&self, from: &Path) -> Result<bool, VolumeError> {
        let metadata = fs::symlink_metadata(from).doing("look at", from)?;
        Ok(metadata.len() <= SMALL_BYTES || !self.shares)
    }

    fn put_bytes(&self, source: Source<'_>, from: &Path, size: u64, place: &Path) -> Result<(), VolumeError> {
        if size <= SMALL_BYTES || !self.shares {
            return copy_small(from, place);
        }
        // Named before it is known by its content: the link is renamed when that is.
        let reference = self.folder.join("refs").join(random_base62(16));
        let id = match source {
            Source::Take(_) => self.contents.adopt(from, size, &reference)?,
            Source::Share(_) => self.contents.share(from, size, &reference)?,
            _ => {
                let file = sys::open_file(from).doing("open", from)?;
                sys::settle_writes(&file).doing("write", from)?;
                self.contents.store(&file, size, &reference)?
            }
        };
        let named = self.folder.join("refs").join(id.as_str());
        fs::rename(&reference, &named).doing("name", &reference)?;
        // Renaming one link over another of the same file does nothing at all.
        let _ = fs::remove_file(&reference);
        make_stub(place, &id, size)
    }

    fn copy_content(&self, id: &ContentId, place: &Path) -> Result<(), VolumeError> {
        match copy_small(&self.contents.path(id), place) {
            Err(VolumeError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Err(VolumeError::UnknownBlock)
            }
            copied => copied,
        }
    }

    fn stub(&self, place: &Path, id: &ContentId, size: u64) -> Result<(), VolumeError> {
        if !self.contents.refer(id, &self.folder.join("refs").join(id.as_str()))? {
            return Err(VolumeError::UnknownBlock);
        }
        make_stub(place, id, size)
    }

    /// The bytes of a file in the view, under a new name with new attributes.
    pub fn file_like(&mut self, path: &Path, node: &Node, attributes: &Attributes) -> Result<(), VolumeError> {
        match node.content()? {
            Some(id) => self.file(path, Source::Content(&id, node.size), attributes),
            // Names of one file in a layer have become several files: each has attributes of its own.
            None => self.file(path, Source::Share(node.path()), attributes),
        }
    }

    pub fn remove(&mut self, path: &Path) -> Result<(), VolumeError> {
        let place = self.prepare(path)?;
        self.removed.push(path.to_owned());
        sys::make_whiteout(&place).doing("mark as deleted", &place)
    }

    /// A symbolic link or a named pipe, as it is at `from`.
    pub fn special(&mut self, path: &Path, from: &Path) -> Result<(), VolumeError> {
        let attributes = Attributes::of_kind(from, |kind| kind.is_symlink() || kind.is_fifo())?;
        let is_link = fs::symlink_metadata(from).doing("look at", from)?.is_symlink();
        // Read before anything is made: it may have become something else after the look.
        let target = if is_link { Some(sys::read_link(from).doing("read link", from)?) } else { None };
        let place = self.prepare(path)?;
        match &target {
            Some(target) => symlink(target, &place).doing("make link", &place)?,
            None => sys::make_fifo(&place).doing("make pipe", &place)?,
        }
        attributes.apply(&place, is_link)
    }

    /// Everything at a node of the view, under another name.
    pub fn graft(&mut self, view: &View, node: &Node, to: &Path) -> Result<(), VolumeError> {
        match node.kind {
            Kind::Folder => {
                self.folder(to, &Attributes::of(node.path())?)?;
                for (name, child) in view.list(node)? {
                    self.graft(view, &child, &to.join(name))?;
                }
                Ok(())
            }
            Kind::Socket => Ok(()),
            Kind::File | Kind::Symlink | Kind::Fifo => self.link(node.path(), to),
        }
    }

    /// The same entry as in another layer: layers never change, so they can share inodes.
    pub(crate) fn link(&mut self, from: &Path, to: &Path) -> Result<(), VolumeError> {
        let place = self.prepare(to)?;
        if let Some(id) = content_of(from).doing("read", from)?
            && !self.contents.refer(&id, &self.folder.join("refs").join(id.as_str()))?
        {
            return Err(VolumeError::UnknownBlock);
        }
        fs::hard_link(from, &place).doing("link", &place)
    }

    pub(crate) fn make_opaque(&mut self, path: &Path) -> Result<(), VolumeError> {
        let place = self.place(path);
        sys::set_xattr(&place, sys::OPAQUE, b"y").doing("mark", &place)
    }

    /// Waits for the disk. Without a single entry there is no layer.
    pub fn finish(mut self) -> Result<Option<BuiltLayer>, VolumeError> {
        if self.entries == 0 {
            return Ok(None);
        }
        let root = self.folder.join("diff");
        if self.entries <= FEW_ENTRIES {
            // The contents that it refers to as well: an upload does not wait for the disk.
            sync_tree(&self.folder)?;
        } else {
            sys::sync_file_system(&root).doing("write", &root)?;
        }
        self.finished = true;
        let removed = std::mem::take(&mut self.removed);
        Ok(Some(BuiltLayer { folder: self.folder.clone(), entries: self.entries, removed }))
    }
}

impl Drop for LayerBuilder<'_> {
    fn drop(&mut self) {
        if !self.finished {
            let _ = self.contents.remove_layer(&self.folder);
        }
    }
}

impl BuiltLayer {
    /// Takes out the marks of deleted names that are not below. Overlayfs lists a folder that lies in one layer only just as
    /// it is, marks included, so a mark may stand only where there is something to hide.
    pub(crate) fn forget_needless(&self, below: &View) -> Result<(), VolumeError> {
        for path in &self.removed {
            let mark = self.folder.join("diff").join(path);
            // Something else may have taken the name after it was removed.
            let is_mark = fs::symlink_metadata(&mark).is_ok_and(|metadata| sys::is_whiteout(&metadata));
            if is_mark && below.find(path)?.is_none() {
                fs::remove_file(&mark).doing("remove", &mark)?;
            }
        }
        Ok(())
    }

    /// Takes away a layer that will not be used.
    pub fn discard(&self, contents: &ContentStore) {
        let _ = contents.remove_layer(&self.folder);
    }
}

pub(crate) fn now() -> (i64, i64) {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    (now.as_secs() as i64, i64::from(now.subsec_nanos()))
}

/// False when the place is on another file system: volumes may have a disk of their own.
///
/// A link and no rename: until the layer is whole and published, what the container wrote must be there without it.
fn linked(from: &Path, place: &Path) -> Result<bool, VolumeError> {
    match fs::hard_link(from, place) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => Ok(false),
        linked => linked.doing("link", from).map(|()| true),
    }
}

fn copy_small(from: &Path, place: &Path) -> Result<(), VolumeError> {
    let source = sys::open_file(from).doing("open", from)?;
    sys::settle_writes(&source).doing("write", from)?;
    let mut copy = File::create(place).doing("make", place)?;
    // A file that grows meanwhile is taken up to where it ended.
    let size = source.metadata().doing("look at", from)?.len();
    io::copy(&mut source.take(size), &mut copy).doing("copy into", place).map(drop)
}

fn make_stub(place: &Path, id: &ContentId, size: u64) -> Result<(), VolumeError> {
    let file = File::create(place).doing("make", place)?;
    file.set_len(size).doing("size", place)?;
    let marked = sys::set_xattr(place, sys::METACOPY, b"")
        .and_then(|()| sys::set_xattr(place, sys::REDIRECT, format!("/{id}").as_bytes()));
    marked.doing("mark", place)
}

fn sync_tree(folder: &Path) -> Result<(), VolumeError> {
    for entry in fs::read_dir(folder).doing("list", folder)? {
        let entry = entry.doing("list", folder)?;
        let kind = entry.file_type().doing("look at", folder)?;
        if kind.is_dir() {
            sync_tree(&entry.path())?;
        } else if kind.is_file() {
            let path = entry.path();
            File::open(&path).and_then(|file: File| -> io::Result<()> { file.sync_all() }).doing("write", &path)?;
        }
    }
    sys::sync_folder(folder).doing("write", folder)
}

//! Bytes of large files, each content once.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use manifest::content::{
    BLOCK_BYTES, BlockDigest, ContentId, block_count, block_digest, block_length, digest_of_zeros,
};
use parking_lot::RwLock;
use types::ids::random_base62;

use crate::error::{Doing, VolumeError};
use crate::loose::Loose;
use crate::sys;

/// Zeros are left out of a copy in pieces of this size: holes stay holes.
const HOLE_BYTES: usize = 128 << 10;

/// Cheap to clone; all clones are one store.
#[derive(Debug, Clone)]
pub struct ContentStore {
    folder: PathBuf,
    /// On the same file system; what is in it is not whole.
    incoming: PathBuf,
    /// Held for writing for the moment in which an unused content gets out of reach, for reading by who needs one to be
    /// there. The disk does no more than a rename or a link meanwhile.
    gate: Arc<RwLock<()>>,
    loose: Arc<Loose>,
}

/// What became of a content that may be unused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Looked {
    /// With so many bytes.
    Gone(u64),
    /// Something refers to it, or it is gone already.
    NotUnused,
    Stays,
}

impl ContentStore {
    /// Makes the folders below the folder of volumes.
    pub fn open(volumes: &Path) -> Result<Self, VolumeError> {
        let (folder, incoming) = (volumes.join("content"), volumes.join("uploads"));
        let store = Self { folder, incoming, gate: Arc::default(), loose: Arc::default() };
        for folder in [&store.folder, &store.incoming] {
            fs::create_dir_all(folder).doing("make folder", folder)?;
        }
        Ok(store)
    }

    /// What overlayfs looks for contents in; none where it cannot, and no layer refers to a content.
    pub fn data_layer(&self) -> Option<&Path> {
        sys::kernel_has_data_layers().then_some(self.folder.as_path())
    }

    /// Where contents are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn incoming(&self) -> &Path {
        &self.incoming
    }

    pub fn path(&self, id: &ContentId) -> PathBuf {
        self.folder.join(id.as_str())
    }

    pub fn has(&self, id: &ContentId) -> bool {
        self.path(id).exists()
    }

    /// Whether it is there; if so, `note` is called before anybody can take it away.
    pub(crate) fn has_noting(&self, id: &ContentId, note: impl FnOnce()) -> bool {
        let _open = self.gate.read();
        let has = self.has(id);
        if has {
            note();
        }
        has
    }

    pub(crate) fn loose(&self) -> &Loose {
        &self.loose
    }

    /// Takes away a folder with layers, and notes the contents that they refer to.
    pub(crate) fn remove_layers<'a>(
        &self,
        layers: impl IntoIterator<Item = &'a Path>,
        folder: &Path,
    ) -> io::Result<()> {
        let names =
            layers.into_iter().flat_map(|layer| fs::read_dir(layer.join("refs")).into_iter().flatten().flatten());
        let referred: Vec<_> = names.filter_map(|entry| ContentId::parse(entry.file_name().to_str()?)).collect();
        let removed = trees::remove(folder);
        self.loose.note(referred);
        removed
    }

    pub(crate) fn remove_layer(&self, layer: &Path) -> io::Result<()> {
        self.remove_layers([layer], layer)
    }

    /// Copies a file's bytes as they are now and gives them their name, with one more link at `reference` so that nobody
    /// takes them for garbage.
    pub(crate) fn store(&self, source: &File, size: u64, reference: &Path) -> Result<ContentId, VolumeError> {
        let path = self.incoming.join(random_base62(16));
        let stored =
            File::options().read(true).write(true).create_new(true).open(&path).doing("make", &path).and_then(|copy| {
                let id = copy_and_name(source, &copy, size).doing("copy into", &path)?;
                copy.sync_all().doing("write", &path)?;
                self.name(&path, &id, reference)?;
                Ok(id)
            });
        // Linked under its name, or worth nothing.
        let _ = fs::remove_file(&path);
        stored
    }

    /// As [`Self::store`], for a file that nobody will ever write to again: its bytes stay where they are on disk.
    pub(crate) fn adopt(&self, file: &Path, size: u64, reference: &Path) -> Result<ContentId, VolumeError> {
        let opened = File::open(file).doing("open", file)?;
        let id = name_of(&opened, size).doing("read", file)?;
        if self.refer(&id, reference)? {
            return Ok(id);
        }
        opened.sync_all().doing("write", file)?;
        std::os::unix::fs::chown(file, Some(0), Some(0)).doing("change", file)?;
        opened.set_permissions(fs::Permissions::from_mode(0o400)).doing("change", file)?;
        self.name_or_store((file, &opened), size, id, reference)
    }

    /// As [`Self::store`], for a file that nobody will ever write to, and that goes on being somebody else's.
    pub(crate) fn share(&self, file: &Path, size: u64, reference: &Path) -> Result<ContentId, VolumeError> {
        let opened = File::open(file).doing("open", file)?;
        let id = name_of(&opened, size).doing("read", file)?;
        if self.refer(&id, reference)? {
            return Ok(id);
        }
        self.name_or_store((file, &opened), size, id, reference)
    }

    /// A file on another file system cannot have a second name here.
    fn name_or_store(
        &self,
        (file, opened): (&Path, &File),
        size: u64,
        id: ContentId,
        reference: &Path,
    ) -> Result<ContentId, VolumeError> {
        match self.name(file, &id, reference) {
            Err(VolumeError::Io { source, .. }) if source.kind() == io::ErrorKind::CrossesDevices => {
                self.store(opened, size, reference)
            }
            named => named.map(|()| id),
        }
    }

    /// One more link to a content; false when there is no such content.
    pub(crate) fn refer(&self, id: &ContentId, reference: &Path) -> Result<bool, VolumeError> {
        let _open = self.gate.read();
        match fs::hard_link(self.path(id), reference) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).doing("refer to", reference),
        }
    }

    /// Makes a reference that is a file of its own a link again.
    pub(crate) fn refer_again(&self, id: &ContentId, reference: &Path) -> Result<(), VolumeError> {
        let aside = self.incoming.join(random_base62(16));
        if !self.refer(id, &aside)? {
            return fs::hard_link(reference, self.path(id)).doing("name", reference);
        }
        fs::rename(&aside, reference).doing("refer to", reference)
    }

    fn name(&self, file: &Path, id: &ContentId, reference: &Path) -> Result<(), VolumeError> {
        if let Err(error) = fs::hard_link(file, self.path(id))
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(error).doing("name", file);
        }
        if self.refer(id, reference)? {
            return Ok(());
        }
        // Taken for garbage between the two links: it was there before, unused.
        fs::hard_link(file, self.path(id)).doing("name", file)?;
        self.refer(id, reference).map(drop)
    }

    /// Gives an uploaded file its name; `note` is called before anybody can take that away again. Where the same bytes have
    /// come another way meanwhile, those stay: layers may refer to them.
    pub(crate) fn take(&self, file: &Path, id: &ContentId, note: impl FnOnce()) -> Result<(), VolumeError> {
        let open = self.gate.read();
        match fs::hard_link(file, self.path(id)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error).doing("name", file),
            _ => note(),
        }
        drop(open);
        fs::remove_file(file).doing("remove", file)
    }

    /// The names of all that are there.
    pub(crate) fn all(&self) -> Result<Vec<ContentId>, VolumeError> {
        let listed = fs::read_dir(&self.folder).doing("list", &self.folder)?.flatten();
        Ok(listed.filter_map(|entry| ContentId::parse(entry.file_name().to_str()?)).collect())
    }

    /// Takes a content away if nothing refers to it and nothing else makes it stay.
    pub(crate) fn remove_unused(&self, id: &ContentId, stays: impl Fn(&Metadata) -> bool) -> io::Result<Looked> {
        let (path, aside) = (self.path(id), self.incoming.join(random_base62(16)));
        let look = || match fs::metadata(&path) {
            Ok(metadata) if metadata.nlink() > 1 => Err(Looked::NotUnused),
            Ok(metadata) if stays(&metadata) => Err(Looked::Stays),
            Ok(metadata) => Ok(metadata.blocks() * 512),
            Err(_) => Err(Looked::NotUnused),
        };
        if let Err(looked) = look() {
            return Ok(looked);
        }
        let shut = self.gate.write();
        // Somebody may have found it since.
        let bytes = match look() {
            Ok(bytes) => bytes,
            Err(looked) => return Ok(looked),
        };
        fs::rename(&path, &aside)?;
        drop(shut);
        fs::remove_file(&aside)?;
        Ok(Looked::Gone(bytes))
    }
}

/// A file's name by its bytes.
pub(crate) fn name_of(file: &File, size: u64) -> io::Result<ContentId> {
    name_blocks(file, size, |_, _| Ok(()))
}

fn copy_and_name(source: &File, copy: &File, size: u64) -> io::Result<ContentId> {
    if sys::clone_blocks(source, copy) {
        copy.set_len(size)?;
        return name_of(copy, size);
    }
    let id = name_blocks(source, size, |offset, block| {
        for (index, piece) in block.chunks(HOLE_BYTES).enumerate() {
            if piece.iter().any(|byte| *byte != 0) {
                copy.write_all_at(piece, offset + (index * HOLE_BYTES) as u64)?;
            }
        }
        Ok(())
    })?;
    copy.set_len(size)?;
    Ok(id)
}

fn name_blocks(file: &File, size: u64, mut take: impl FnMut(u64, &[u8]) -> io::Result<()>) -> io::Result<ContentId> {
    let mut buffer = vec![0; size.min(BLOCK_BYTES) as usize];
    let mut digests: Vec<BlockDigest> = Vec::new();
    for index in 0..block_count(size) {
        let (offset, length) = (index * BLOCK_BYTES, block_length(size, index) as usize);
        if sys::next_data(file, offset)?.is_none_or(|data| data >= offset + length as u64) {
            digests.push(digest_of_zeros());
            continue;
        }
        let block = &mut buffer[..length];
        read_up_to(file, block, offset)?;
        digests.push(block_digest(block));
        take(offset, block)?;
    }
    Ok(ContentId::of(size, &digests))
}

/// A file that was cut meanwhile ends in zeros.
fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64)? {
            0 => break,
            read => filled += read,
        }
    }
    buffer[filled..].fill(0);
    Ok(())
}

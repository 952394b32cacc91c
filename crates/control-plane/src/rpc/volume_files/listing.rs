//! What is in a volume, a batch at a time.

use std::path::Path;

use client_protocol::wire;
use volume_fs::{Kind, Node, View, VolumeError};

use crate::caller::ClientVersion;
use crate::rpc::listings::Outlet;

/// Entries in one message.
const BATCH: usize = 1000;
/// Clients before this one fail with all of a listing when it has a pipe or a socket; they do not see those.
const KNOWS_FIFOS: ClientVersion = ClientVersion(1, 0, 0);

pub struct Listing<'a> {
    pub view: &'a View,
    pub client: ClientVersion,
    pub recursive: bool,
    pub left: usize,
    pub batch: Vec<wire::FileEntry>,
    pub outlet: &'a mut Outlet<Vec<wire::FileEntry>>,
}

impl Listing<'_> {
    pub fn run(&mut self, path: &Path, node: &Node) -> Result<(), VolumeError> {
        if node.kind == Kind::Folder {
            self.folder(path, node)?;
        } else {
            self.add(path, node);
        }
        // An empty folder is one empty message: the answer is that there is nothing.
        self.flush();
        Ok(())
    }

    /// Ends early when the client has left.
    fn folder(&mut self, path: &Path, folder: &Node) -> Result<bool, VolumeError> {
        for (name, node) in self.view.list(folder)? {
            let path = path.join(&name);
            if !self.add(&path, &node) {
                return Ok(false);
            }
            if self.recursive && node.kind == Kind::Folder && !self.folder(&path, &node)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn add(&mut self, path: &Path, node: &Node) -> bool {
        if self.left == 0 {
            return false;
        }
        if matches!(node.kind, Kind::Fifo | Kind::Socket) && self.client < KNOWS_FIFOS {
            return true;
        }
        self.left -= 1;
        self.batch.push(wire::FileEntry {
            path: path.to_string_lossy().into_owned(),
            r#type: file_type(node.kind) as i32,
            mtime: node.modified_s,
            size: node.size,
        });
        self.batch.len() < BATCH || self.flush()
    }

    fn flush(&mut self) -> bool {
        self.outlet.send(std::mem::take(&mut self.batch))
    }
}

fn file_type(kind: Kind) -> wire::file_entry::FileType {
    use wire::file_entry::FileType;
    match kind {
        Kind::File => FileType::File,
        Kind::Folder => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::Fifo,
        Kind::Socket => FileType::Socket,
    }
}

//! Volumes on disk.
//!
//! ```text
//! volumes/content/<content id>            bytes of large files, once each; never written to again
//! volumes/uploads/                        what clients are sending
//! volumes/<volume>/head                   which layers are the volume now; replaced by rename, so a commit is or is not
//! volumes/<volume>/layers/<name>/diff     a layer, in overlayfs's format; never changes
//! volumes/<volume>/layers/<name>/refs     hard links to the contents that it refers to
//! volumes/<volume>/building/              layers that are not whole yet
//! ```
//!
//! A file of up to [`layer::SMALL_BYTES`] lies in its layer. A larger one is a stub there, with its own owner, mode and
//! times, that refers to its content (overlayfs's `metacopy` and `redirect` attributes, which only the machine's root can
//! set). So equal contents are kept once, and every name has its own attributes. The links in `refs` are the count of
//! references, kept by the file system: a content with one link is garbage (`store/space.rs`). A copy that loses the links is mended
//! when the volume is opened.
//!
//! [`store::Volumes`] owns it all. [`view::View`] reads a stack of layers as one tree, [`layer::LayerBuilder`] writes a
//! layer, [`commit`] turns what a container wrote into one, [`merge`] several into one, [`http`] is how clients send and
//! fetch bytes. Mounting is `container-runtime`'s.
//!
//! Mistakes still possible: everything here blocks; callers on an async runtime use a blocking thread. A layer's path is
//! valid as long as somebody holds the view that named it.

pub mod commit;
mod content;
mod error;
mod fetching;
mod hidden;
pub mod http;
pub mod layer;
mod loose;
mod merge;
pub mod store;
mod sys;
pub mod unsaved;
mod uploads;
mod upper;
pub mod view;

pub use content::ContentStore;
pub use error::VolumeError;
pub use fetching::Fetching;
pub use manifest::merging::Need;
pub use store::{Pinned, VolumeBytes, Volumes, VolumesBytes, bytes_on_disk};
pub use uploads::Asker;
pub use view::{Kind, Node, View};

//! Trees of files as data: how they are named, what makes two contents the same, what a container changed, and which
//! layers of a volume are worth merging, and when what no volume refers to may go.
//!
//! A volume is a stack of *layers* in overlayfs's own format, the newest on top; whoever mounts it sees them as one tree
//! at the speed of the file system below. A commit is one more layer. [`changes`] decides what goes into it, from a look at
//! what the container has written; [`merging`] decides when a stack has become too high or hides too much; [`keeping`] decides
//! when what lies under none goes, and [`waiting`] knows who was told of it; [`content`] names a file's bytes, so that the same
//! bytes are kept once; [`path`] says which names are allowed at all.
//!
//! Rejected: a database of entries (a second truth beside the tree that containers really see, and a mount through FUSE,
//! which costs a round trip for each file that is opened); one tree with hard links per version (a commit would cost as
//! much as there is, and two names with the same bytes would share owner, mode and time).
//!
//! Mistakes still possible: nothing here looks at a disk. A caller that scans an upper folder while it is written to gets
//! a plan for the moment of its look at each file, which is what a commit of a running container is.

pub mod changes;
pub mod content;
pub mod keeping;
pub mod merging;
pub mod path;
pub mod waiting;

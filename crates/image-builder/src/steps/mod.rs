//! The kinds of step, one file each.

pub(crate) mod copy;
pub(crate) mod from_image;
pub(crate) mod hints;
pub(crate) mod mounts;
pub(crate) mod run;

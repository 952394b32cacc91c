//! `COPY --from=image`. The uv image, which the client's own recipes use, is taken from uv's wheel, so that it works where
//! no registry can be reached.

use image_plan::{LayerKey, Reference};

use crate::builder::ImageBuilder;
use crate::error::BuildError;
use crate::logs::LogSink;
use crate::store::Workspace;

pub(crate) struct CopyFromImage<'a> {
    pub image: &'a str,
    pub sources: &'a [String],
    pub dest: &'a str,
    pub dest_is_folder: bool,
    pub owner: Option<&'a str>,
    pub mode: Option<u32>,
}

impl ImageBuilder {
    pub(crate) async fn copy_from_image_step(
        &self,
        _below: &[LayerKey],
        copy: CopyFromImage<'_>,
        _workspace: &Workspace,
        _logs: &LogSink,
    ) -> Result<(), BuildError> {
        let reference = Reference::parse(copy.image).map_err(|error| BuildError::Refused(error.to_string()))?;
        Err(BuildError::Refused(format!("`COPY --from={reference}` is not supported yet")))
    }
}

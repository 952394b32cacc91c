//! FROM's name to an image on disk.

use image_plan::{ImageConfig, KeyHasher, LayerKey, Reference};
use serde::{Deserialize, Serialize};

use super::debian;
use super::well_known::DebianBase;
use crate::builder::ImageBuilder;
use crate::error::BuildError;
use crate::logs::LogSink;
use crate::registry::RegistryAuth;
use crate::request::{BuiltImage, ImageMetadata};

/// What a reference was found to be. Kept, so that a registry that comes and goes, or a tag that moves, rebuilds nothing
/// by itself; a forced build looks again.
#[derive(Serialize, Deserialize)]
struct Resolved {
    reference: String,
    image: BuiltImage,
}

impl ImageBuilder {
    pub(crate) async fn base_image(
        &self,
        name: &str,
        auth: Option<&RegistryAuth>,
        force: bool,
        logs: &LogSink,
    ) -> Result<BuiltImage, BuildError> {
        let reference = Reference::parse(name).map_err(|error| BuildError::Refused(error.to_string()))?;
        // By who asks, too: a private image is not handed to somebody who gave no credentials for it.
        let mut hasher = KeyHasher::new("reference").field(reference.to_string());
        if let Some(auth) = auth {
            hasher = auth.identity().into_iter().fold(hasher, KeyHasher::field);
        }
        let record = format!("reference-{}", hasher.finish());
        let known: Option<Resolved> = self.inner.store.read_record(&record);
        if let Some(known) =
            known.filter(|known| !force && known.image.layers.iter().all(|key| self.inner.store.has(key)))
        {
            return Ok(known.image);
        }
        let image = self.find_image(&reference, auth, logs).await?;
        let resolved = Resolved { reference: reference.to_string(), image };
        self.inner.store.write_record(&record, &resolved)?;
        Ok(resolved.image)
    }

    async fn find_image(
        &self,
        reference: &Reference,
        auth: Option<&RegistryAuth>,
        logs: &LogSink,
    ) -> Result<BuiltImage, BuildError> {
        let failure = match self.pull(reference, auth, logs).await? {
            Ok(image) => return self.with_bytecode(image, logs).await,
            Err(failure) => failure,
        };
        let tried = failure.tried.join("; ");
        match DebianBase::for_reference(reference) {
            Some(base) if failure.is_absence => {
                tracing::debug!(%reference, tried, "making a base from a Debian mirror instead");
                self.debian_base(base, logs).await
            }
            _ if failure.is_absence => Err(BuildError::Base(format!(
                "cannot get image `{reference}`: {tried}; to use a mirror, set `registries.mirrors.\"{}\"` in `{}` and start the server again",
                reference.registry,
                self.inner.config.settings_file.display()
            ))),
            _ => Err(BuildError::Base(format!("cannot get image `{reference}`: {tried}"))),
        }
    }

    /// A base made from a Debian mirror; made once, then found.
    pub(crate) async fn debian_base(&self, base: DebianBase, logs: &LogSink) -> Result<BuiltImage, BuildError> {
        let key = base.layer_key();
        if !self.inner.store.has(&key) {
            logs.say(format!("   making {} from a Debian mirror; later builds find it made", base.title()));
            let (this, wanted) = (self.clone(), key.clone());
            let make = move |logs| async move { this.make_debian_base(base, &wanted, &logs).await };
            self.inner.layers.run(key.clone(), logs, make).await?;
        }
        Ok(BuiltImage { config: debian_config(base), layers: vec![key], metadata: ImageMetadata::default() })
    }

    async fn make_debian_base(&self, base: DebianBase, key: &LayerKey, logs: &LogSink) -> Result<(), BuildError> {
        let workspace = self.inner.store.workspace()?;
        debian::bootstrap(base, self.inner.config.debian_mirror.as_deref(), &workspace.diff(), logs).await?;
        self.inner.store.commit(&workspace, key, &base.title())
    }
}

/// As the official images say.
fn debian_config(base: DebianBase) -> ImageConfig {
    let mut config = ImageConfig::default();
    match base.python() {
        Some(python) => {
            config.set_env("PATH", "/usr/local/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
            config.set_env("LANG", "C.UTF-8");
            config.set_env("PYTHON_VERSION", python);
            config.cmd = vec!["python3".to_owned()];
        }
        None => {
            config.set_env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
            config.cmd = vec!["bash".to_owned()];
        }
    }
    config
}

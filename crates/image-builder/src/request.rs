//! What a build is asked for, and what comes out of it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use image_plan::{ImageConfig, KeyHasher, LayerKey, VolumeMount};
use serde::{Deserialize, Serialize};

use crate::registry::RegistryAuth;
use crate::standalone::StandalonePython;
use crate::volumes::BuildVolume;

/// One image to be built.
#[derive(Clone, Default)]
pub struct BuildRequest {
    /// Names that FROM may use for images built before, usually one, `base`.
    pub base_images: Vec<(String, BuiltImage)>,
    /// The Dockerfile; an entry may hold several lines.
    pub dockerfile_commands: Vec<String>,
    /// Small files sent with the request, at the context's root.
    pub context_files: Vec<(String, Bytes)>,
    /// Files of the context mount.
    pub context: Vec<ContextEntry>,
    /// Files of this Python join the context, below `/python`.
    pub standalone_python: Option<StandalonePython>,
    pub build_args: BTreeMap<String, String>,
    /// Variables that only RUN sees. Their names are part of the key, their values are not.
    pub secret_env: Vec<(String, String)>,
    /// Volumes that only RUN sees, each step as they are when it begins. Where they are mounted is part of the key, what they
    /// hold is not.
    pub volumes: Vec<Arc<dyn BuildVolume>>,
    /// For FROM's registry; none for one that anybody may read.
    pub registry_credentials: Option<RegistryAuth>,
    pub cache: CacheUse,
    pub timeout: Option<Duration>,
}

/// What layers that are there already mean to a build.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CacheUse {
    #[default]
    Use,
    /// Every layer is built again, and the new ones are used from now on.
    Replace,
    /// Every layer is built again for this build only.
    PassBy,
}

/// A file of the build context whose bytes are on disk already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextEntry {
    /// Absolute within the context.
    pub path: String,
    /// SHA-256 in hexadecimal, or any other text that equals for equal contents.
    pub digest: String,
    pub mode: u32,
    pub source: PathBuf,
}

/// A file of a tree that becomes a layer by itself, such as a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeEntry {
    /// Absolute in the container.
    pub path: String,
    pub mode: u32,
    /// As in [`ContextEntry::digest`].
    pub digest: String,
    pub source: PathBuf,
}

/// A finished image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuiltImage {
    /// Lowest first.
    pub layers: Vec<LayerKey>,
    pub config: ImageConfig,
    pub metadata: ImageMetadata,
}

/// What the client wants to know about an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageMetadata {
    /// Output of `python -VV`; none when the image has no Python.
    pub python_version_info: Option<String>,
    pub python_packages: BTreeMap<String, String>,
    pub workdir: Option<String>,
    /// Version of the GNU C library, like `2.36`.
    pub libc_version_info: Option<String>,
}

/// One line of a build's output, without its newline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildLog {
    pub text: String,
    pub stream: LogStream,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    /// The builder itself: progress.
    Builder,
    /// The builder's announcement of a step, out of so many.
    Step {
        number: usize,
        total: usize,
    },
    Stdout,
    Stderr,
}

impl BuildRequest {
    /// Equal for requests that are the same build. Secret values are not part of it. Who asks a registry is: an image that
    /// was built with somebody's credentials must not be handed, as built already, to those who have none.
    pub fn image_key(&self) -> LayerKey {
        let mut context: Vec<&ContextEntry> = self.context.iter().collect();
        context.sort_by(|a, b| a.path.cmp(&b.path));
        let mut secrets: Vec<&String> = self.secret_env.iter().map(|(name, _)| name).collect();
        secrets.sort();
        let mut hasher = KeyHasher::new("image").list(&self.dockerfile_commands).list(secrets);
        for (tag, image) in &self.base_images {
            hasher = hasher.field(tag).list(image.layers.iter().map(LayerKey::as_str));
            hasher = hasher.field(serde_json::to_vec(&image.config).unwrap_or_default());
        }
        for (name, data) in &self.context_files {
            hasher = hasher.field("file").field(name).field(data);
        }
        for entry in context {
            hasher = hasher.field(&entry.path).field(&entry.digest).field(format!("{:o}", entry.mode));
        }
        if let Some(python) = &self.standalone_python {
            hasher = hasher.field("python").field(python.layer_key().as_str());
        }
        for (name, value) in &self.build_args {
            hasher = hasher.field("argument").field(name).field(value);
        }
        hasher = self.volume_mounts().iter().fold(hasher, |hasher, volume| volume.add_to(hasher));
        if let Some(auth) = &self.registry_credentials {
            hasher = hasher.field("registry").list(auth.identity());
        }
        hasher.finish()
    }

    /// In the order of mounting, whatever order the volumes came in.
    pub(crate) fn volume_mounts(&self) -> Vec<VolumeMount> {
        let mut mounts: Vec<VolumeMount> = self.volumes.iter().map(|volume| volume.place().clone()).collect();
        mounts.sort();
        mounts
    }
}

impl fmt::Debug for BuildRequest {
    /// Without secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BuildRequest")
            .field("dockerfile_commands", &self.dockerfile_commands)
            .field("context_files", &self.context_files.len())
            .field("context", &self.context.len())
            .field("cache", &self.cache)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Credentials;

    fn key(login: Option<(&str, &str)>) -> LayerKey {
        let login = login.map(|(user, password)| (user.to_owned(), password.to_owned()));
        let auth = login.map(|(user, password)| RegistryAuth::Basic(Credentials { user, password }));
        BuildRequest { registry_credentials: auth, ..BuildRequest::default() }.image_key()
    }

    #[test]
    fn what_was_built_with_credentials_is_not_found_without_them() {
        let keys =
            [key(None), key(Some(("user", "right"))), key(Some(("user", "wrong"))), key(Some(("other", "right")))];
        for (at, one) in keys.iter().enumerate() {
            assert!(keys.iter().skip(at + 1).all(|other| other != one), "{at}");
        }
        assert_eq!(key(Some(("user", "right"))), key(Some(("user", "right"))));
    }
}

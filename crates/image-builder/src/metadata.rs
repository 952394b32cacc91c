//! What an image has inside, found out by asking its own Python once.

use std::collections::BTreeMap;

use image_plan::{ImageConfig, KeyHasher, LayerKey};
use parking_lot::Mutex;
use serde::Deserialize;
use std::sync::Arc;

use crate::builder::ImageBuilder;
use crate::container::{self, Program};
use crate::error::BuildError;
use crate::logs::LogSink;
use crate::request::{ImageMetadata, LogStream};

/// Prints one line of JSON. Isolated (`-I`), so that nothing in the image's own environment is imported.
const SCRIPT: &str = r#"
import json, os, sys
from importlib import metadata
packages = {}
for found in metadata.distributions():
    name = found.metadata["Name"]
    if name and name not in packages:
        packages[name] = found.version or ""
try:
    libc = os.confstr("CS_GNU_LIBC_VERSION") or ""
except (AttributeError, OSError, ValueError):
    libc = ""
print(json.dumps({"python": "Python " + sys.version, "packages": packages, "libc": libc}))
"#;

#[derive(Deserialize)]
struct Answer {
    python: String,
    packages: BTreeMap<String, String>,
    libc: String,
}

impl ImageBuilder {
    /// Facts about the image; kept, since they follow from the layers and the search path.
    pub(crate) async fn metadata(
        &self,
        layers: &[LayerKey],
        config: &ImageConfig,
    ) -> Result<ImageMetadata, BuildError> {
        let key = KeyHasher::new("metadata 1")
            .list(layers.iter().map(LayerKey::as_str))
            .field(config.env("PATH").unwrap_or_default())
            .field(config.env("PYTHONHOME").unwrap_or_default())
            .finish();
        let record = format!("metadata-{key}");
        let known: Option<ImageMetadata> = self.inner.store.read_record(&record);
        let mut metadata = match known {
            Some(known) => known,
            None => {
                let found = self.ask_python(layers, config).await?;
                self.inner.store.write_record(&record, &found)?;
                found
            }
        };
        metadata.workdir = config.workdir.clone();
        Ok(metadata)
    }

    async fn ask_python(&self, layers: &[LayerKey], config: &ImageConfig) -> Result<ImageMetadata, BuildError> {
        if layers.is_empty() {
            return Ok(ImageMetadata::default());
        }
        let workspace = self.inner.store.workspace()?;
        let printed = Arc::new(Mutex::new(String::new()));
        let kept = printed.clone();
        let sink = LogSink::new(move |log| {
            if log.stream == LogStream::Stdout {
                kept.lock().push_str(&log.text);
            }
        });
        let mut env = config.env.clone();
        let binds = self.host_settings(&mut env, layers)?;
        let program = Program {
            layers: self.with_mount_points(layers),
            argv: ["python", "-I", "-c", SCRIPT].map(str::to_owned).to_vec(),
            env,
            cwd: "/".to_owned(),
            network: false,
            tmpfs: Vec::new(),
            binds,
            scratch: workspace.path().to_owned(),
        };
        // No Python in the image is an answer too.
        let outcome = match container::run(&self.inner.runtime, program, &sink).await {
            Ok(outcome) => outcome,
            Err(BuildError::Container(error)) if matches!(*error, container_runtime::RuntimeError::Exec { .. }) => {
                return Ok(ImageMetadata::default());
            }
            Err(error) => return Err(error),
        };
        let answer = serde_json::from_str::<Answer>(printed.lock().trim());
        let Some(answer) = answer.ok().filter(|_| outcome.succeeded()) else {
            tracing::warn!(reason = outcome.reason(), tail = ?outcome.tail, "cannot ask an image's Python for its packages");
            return Ok(ImageMetadata::default());
        };
        Ok(ImageMetadata {
            python_version_info: Some(answer.python.replace('\n', " ")),
            python_packages: answer.packages,
            workdir: None,
            libc_version_info: answer.libc.strip_prefix("glibc ").map(str::to_owned),
        })
    }
}

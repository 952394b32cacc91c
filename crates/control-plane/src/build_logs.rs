//! What builds printed, kept in a file for each image.

use std::path::{Path, PathBuf};

use types::ids::ImageId;

use crate::images::{Image, LogLine};

pub struct BuildLogs {
    folder: PathBuf,
}

impl BuildLogs {
    pub fn new(data_dir: &Path) -> Self {
        Self { folder: data_dir.join("build-logs") }
    }

    /// A log that cannot be kept is no reason to lose the image.
    pub async fn write(&self, image: &ImageId, lines: &[LogLine]) {
        let mut text = Vec::new();
        for line in lines {
            // Numbers and text always have a JSON form.
            if serde_json::to_writer(&mut text, line).is_ok() {
                text.push(b'\n');
            }
        }
        let write = async {
            tokio::fs::create_dir_all(&self.folder).await?;
            tokio::fs::write(self.path(image), text).await
        };
        if let Err(error) = write.await {
            tracing::warn!(%image, %error, "the log of an image's build could not be kept");
        }
    }

    /// From memory while the server that built it lives, else from the disk.
    pub async fn read(&self, image: &Image) -> Vec<LogLine> {
        let lines = image.log();
        if !lines.is_empty() {
            return lines;
        }
        let text = tokio::fs::read_to_string(self.path(&image.id)).await.unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    pub async fn remove(&self, image: &ImageId) {
        let _ = tokio::fs::remove_file(self.path(image)).await;
    }

    fn path(&self, image: &ImageId) -> PathBuf {
        self.folder.join(format!("{image}.jsonl"))
    }
}

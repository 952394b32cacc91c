//! What a container wrote and nobody else has: it goes into its volume, or aside, and is thrown away only with the volume.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use types::errors::with_causes;
use types::ids::{TaskId, VolumeId};
use types::objects::ObjectKind;
use volume_fs::VolumeError;
use volume_fs::unsaved::Unsaved;
use worker_protocol::{Uncollected, VolumeLayer};

use crate::shared::Shared;
use crate::volumes::built;

/// What was moved aside, as a person sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnsavedRow {
    /// By which it is recovered.
    pub name: String,
    /// Of a volume that is still there.
    pub volume: Option<String>,
    pub volume_id: String,
    pub container: String,
    pub since_ms: u64,
    pub place: PathBuf,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnsavedList {
    /// Oldest first.
    pub unsaved: Vec<UnsavedRow>,
}

/// What recovering one brought.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveredFiles {
    /// Files that are in the volume now.
    pub files: u64,
    /// Those that stay aside, as the volume has something newer in their place.
    pub left: Vec<String>,
}

impl Shared {
    /// Makes what a container wrote part of its volume. What cannot be is moved aside, and its app's log says where it is.
    pub async fn take_written(
        self: &Arc<Self>,
        task: &TaskId,
        volume: &VolumeId,
        written: Result<VolumeLayer, Uncollected>,
    ) {
        let uncollected = match written {
            Err(uncollected) => uncollected,
            Ok(layer) => match self.publish_or_set_aside(task, volume, layer).await {
                Ok(()) => return,
                Err(uncollected) => uncollected,
            },
        };
        let Uncollected { why, place } = uncollected;
        tracing::error!(%task, %volume, why, ?place, "a container's last writes are not in their volume");
        let Some(task) = self.tasks.get(task) else { return };
        let path = task.mounts.lock().iter().find(|m| m.usage.volume == *volume).map(|m| m.usage.mount_path.clone());
        self.say(&task.owner, &task.id, &told(path.as_deref().unwrap_or(volume.as_str()), &why, place.as_ref()));
    }

    async fn publish_or_set_aside(
        self: &Arc<Self>,
        task: &TaskId,
        volume: &VolumeId,
        layer: VolumeLayer,
    ) -> Result<(), Uncollected> {
        let layer = Arc::new(built(layer));
        let publish = async || {
            let (shared, volume, layer) = (self.clone(), volume.clone(), layer.clone());
            self.volumes.with(move |_| shared.try_publish(&volume, &layer)).await
        };
        let mut published = publish().await;
        if matches!(published, Err(VolumeError::NoSpace(_))) && self.has_made_room_for_a_commit().await {
            published = publish().await;
        }
        let Err(error) = published else { return Ok(()) };
        if matches!(error, VolumeError::Deleted) {
            layer.discard(self.volumes.store.contents());
            return Ok(());
        }
        let moved = self.volumes.store.unsaved().set_aside(volume.as_str(), task.as_str(), &layer.folder);
        let place = moved.inspect_err(|error| tracing::error!(%error, "a layer could not be moved aside"));
        Err(Uncollected { why: with_causes(&error), place: place.ok() })
    }

    /// What containers could not commit.
    ///
    /// # Errors
    /// A sentence, when it cannot be listed.
    pub fn list_unsaved(&self) -> Result<UnsavedList, String> {
        let listed = self.volumes.store.unsaved().list().map_err(|error| with_causes(&error))?;
        let row = |unsaved: Unsaved| {
            let record = self.objects.get(ObjectKind::Volume, &unsaved.volume);
            let since = unsaved.since.duration_since(UNIX_EPOCH).unwrap_or_default();
            UnsavedRow {
                volume: record.map(|record| record.name.clone().unwrap_or_else(|| record.id.clone())),
                volume_id: unsaved.volume,
                container: unsaved.task,
                since_ms: since.as_millis() as u64,
                place: unsaved.place,
                name: unsaved.name,
            }
        };
        Ok(UnsavedList { unsaved: listed.into_iter().map(row).collect() })
    }

    /// Puts one of them into its volume.
    ///
    /// # Errors
    /// A sentence: it is not there, its volume is not, or the disk refuses.
    pub async fn recover_unsaved(self: &Arc<Self>, name: &str) -> Result<RecoveredFiles, String> {
        let listed = self.volumes.store.unsaved().list().map_err(|error| with_causes(&error))?;
        let unsaved = listed.into_iter().find(|unsaved| unsaved.name == name);
        let unsaved =
            unsaved.ok_or_else(|| format!("nothing of the name `{name}` was moved aside; see `dorian volumes`"))?;
        let volume = unsaved.volume.clone();
        if self.objects.get(ObjectKind::Volume, &volume).is_none() {
            let place = unsaved.place.display();
            return Err(format!("volume `{volume}` was deleted; what was written to it is in `{place}`"));
        }
        let recovered = self.volumes.with(move |store| store.recover(&unsaved)).await;
        let recovered = recovered.map_err(|error| with_causes(&error))?;
        self.tidy_volume(volume);
        let left = recovered.left.iter().map(|path| path.display().to_string()).collect();
        Ok(RecoveredFiles { files: recovered.files, left })
    }
}

fn told(path: &str, why: &str, place: Option<&PathBuf>) -> String {
    let what = format!("what the container wrote to volume `{path}` since its last commit");
    let Some(place) = place else { return format!("{what} is lost: {why}") };
    let name = place.file_name().unwrap_or_default().display();
    let place = place.display();
    format!(
        "{what} is not in it: {why}. It was moved to `{place}`; `dorian volumes recover {name}` puts it into the volume"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_moved_aside_is_told_with_its_place_and_the_cure() {
        let text = told("/data", "the disk is full", Some(&PathBuf::from("/d/volumes/unsaved/vo-1.ta-1")));
        assert!(text.contains("`/d/volumes/unsaved/vo-1.ta-1`"), "{text}");
        assert!(text.contains("`dorian volumes recover vo-1.ta-1`"), "{text}");
        assert!(told("/data", "the disk is full", None).ends_with("is lost: the disk is full"));
    }
}

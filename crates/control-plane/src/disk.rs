//! Where the space of a data directory is, and what of it could go.
//!
//! The layout of the directory is known here as far as it takes to name its parts; each part is measured, so that what is
//! missing from the table shows as a row of its own.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use trees::usage::Usage;
use types::objects::ObjectKind;
use volume_fs::VolumesBytes;

use crate::shared::Shared;

/// A part of the data directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskRow {
    pub what: String,
    pub bytes: u64,
    /// What of it a command would give back; without a server nobody knows what images are used for.
    pub could_go: Option<u64>,
    /// That command, or when it goes by itself.
    pub how: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskReport {
    pub rows: Vec<DiskRow>,
    /// Of the file system that the directory is on.
    pub free_bytes: u64,
    pub total_bytes: u64,
}

/// Names of volumes and network file systems, by id.
pub type ObjectNames = HashMap<String, String>;

const GC: &str = "dorian gc";

impl Shared {
    /// What a running server knows.
    ///
    /// # Errors
    /// A sentence, when the layers of images cannot be listed.
    pub async fn disk_report(self: &Arc<Self>, keep: Duration) -> Result<DiskReport, String> {
        let unused = self.list_layers(keep).await?.layers;
        let unused = unused.iter().filter(|layer| layer.kept.is_empty()).map(|layer| layer.bytes).sum();
        let is_folder = |kind| matches!(kind, ObjectKind::Volume | ObjectKind::SharedVolume);
        let named = self.objects.all(|record| is_folder(record.kind)).into_iter();
        let names = named.filter_map(|record| Some((record.id.clone(), record.name.clone()?))).collect();
        let (data, volumes) = (self.config.data_dir.clone(), self.volumes.store.clone());
        let measured = tokio::task::spawn_blocking(move || {
            let mut usage = Usage::default();
            let volumes = volumes.bytes(&mut usage);
            measure(&data, volumes, &names, Some(unused), usage)
        });
        measured.await.map_err(|error| format!("the look at the disk ended early: {error}"))
    }
}

/// What can be seen without a server.
pub fn disk_report_offline(data: &Path, names: &ObjectNames) -> DiskReport {
    let mut usage = Usage::default();
    let volumes = volume_fs::bytes_on_disk(&data.join("volumes"), &mut usage);
    measure(data, volumes, names, None, usage)
}

fn measure(
    data: &Path,
    volumes: VolumesBytes,
    names: &ObjectNames,
    unused_layers: Option<u64>,
    mut usage: Usage,
) -> DiskReport {
    let mut rows = volume_rows(&volumes, names);
    rows.extend(folder_rows(&data.join("nfs"), names, &mut usage));
    let layers = layers_bytes(&data.join("images/layers"), &mut usage);
    rows.push(DiskRow {
        what: "layers of images".to_owned(),
        bytes: layers,
        could_go: unused_layers,
        how: GC.to_owned(),
    });
    let downloads = usage.of(&data.join("images/cache"));
    let how = format!("{GC} --keep-days 0");
    rows.push(DiskRow { what: "downloads of packages".to_owned(), bytes: downloads, could_go: Some(downloads), how });
    let mut part = |what: &str, how: &str, folders: &[&str]| {
        let bytes = folders.iter().map(|folder| usage.of(&data.join(folder))).sum();
        rows.push(DiskRow { what: what.to_owned(), bytes, could_go: None, how: how.to_owned() });
    };
    part("arguments, results and uploads", "results go after 7 days", &["blobs"]);
    part("logs", "the oldest go first, see `[logs]` of the configuration", &["logs", "build-logs"]);
    let databases: Vec<String> = ["metadata", "contents"]
        .iter()
        .flat_map(|name| ["", "-wal", "-shm"].map(|end| format!("{name}.sqlite{end}")))
        .collect();
    let databases: Vec<&str> = databases.iter().map(String::as_str).collect();
    part("databases: apps, calls, dicts, queues", "", &databases);
    part(
        "running containers",
        "with the containers",
        &["tasks", "runtime", "mounts", "images/tmp", "images/mount-points"],
    );
    part("what containers could not commit", "dorian volumes", &["volumes/unsaved", "unsaved"]);
    // What was counted above is known by name; folders hold next to nothing by themselves.
    part("everything else", "", &[]);
    let known: u64 = rows.iter().map(|row| row.bytes).sum();
    let all = Usage::default().of(data).max(known);
    if let Some(rest) = rows.last_mut() {
        rest.bytes = all - known;
    }
    let (free_bytes, total_bytes) = trees::usage::disk_room(data);
    DiskReport { rows, free_bytes, total_bytes }
}

fn volume_rows(volumes: &VolumesBytes, names: &ObjectNames) -> Vec<DiskRow> {
    let row = |(id, bytes): (&String, &volume_fs::VolumeBytes)| DiskRow {
        what: format!("volume `{}`", names.get(id).unwrap_or(id)),
        bytes: bytes.all,
        could_go: Some(bytes.unused),
        how: GC.to_owned(),
    };
    let mut rows: Vec<DiskRow> = volumes.volumes.iter().map(row).collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.bytes));
    let what = "files on their way into or out of volumes".to_owned();
    rows.push(DiskRow {
        what,
        bytes: volumes.loose,
        could_go: None,
        how: "with their uploads and downloads".to_owned(),
    });
    rows
}

/// One row per network file system.
fn folder_rows(nfs: &Path, names: &ObjectNames, usage: &mut Usage) -> Vec<DiskRow> {
    let mut rows = Vec::new();
    for entry in fs::read_dir(nfs).into_iter().flatten().flatten() {
        let id = entry.file_name().to_string_lossy().into_owned();
        if id.starts_with("sv-") {
            let what = format!("network file system `{}`", names.get(&id).unwrap_or(&id));
            rows.push(DiskRow { what, bytes: usage.of(&entry.path()), could_go: None, how: String::new() });
        }
    }
    rows.sort_by_key(|row| std::cmp::Reverse(row.bytes));
    rows
}

/// A layer never changes, so that most have been measured before.
fn layers_bytes(layers: &Path, usage: &mut Usage) -> u64 {
    let listed = fs::read_dir(layers).into_iter().flatten().flatten();
    let size = |layer: &Path| fs::read_to_string(layer.join("size")).ok()?.trim().parse().ok();
    listed.map(|entry| size(&entry.path()).unwrap_or_else(|| usage.of(&entry.path()))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_of_the_data_directory_is_in_one_row() {
        let data = tempfile::tempdir_in("/var/tmp").unwrap();
        let put = |path: &str, bytes: usize| {
            let path = data.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, vec![1; bytes]).unwrap();
        };
        put("volumes/vo-1/layers/a/diff/small", 30_000);
        put("volumes/content/loose", 200_000);
        put("nfs/sv-1/file", 40_000);
        put("images/layers/k/diff/file", 300_000);
        put("images/cache/pip/x", 50_000);
        put("blobs/contents/ab/c", 60_000);
        put("metadata.sqlite", 70_000);
        put("elsewhere/file", 500_000);
        let names = HashMap::from([("vo-1".to_owned(), "mine".to_owned())]);
        let report = disk_report_offline(data.path(), &names);
        let bytes = |what: &str| report.rows.iter().find(|row| row.what.starts_with(what)).unwrap().bytes;
        assert!((30_000..60_000).contains(&bytes("volume `mine`")));
        assert!((200_000..250_000).contains(&bytes("files on their way")));
        assert!((40_000..80_000).contains(&bytes("network file system `sv-1`")));
        assert!((300_000..350_000).contains(&bytes("layers of images")));
        assert!((50_000..80_000).contains(&bytes("downloads of packages")));
        assert!((60_000..100_000).contains(&bytes("arguments, results")));
        assert!((70_000..90_000).contains(&bytes("databases")));
        assert!((500_000..650_000).contains(&bytes("everything else")));
        let sum: u64 = report.rows.iter().map(|row| row.bytes).sum();
        assert_eq!(sum, Usage::default().of(data.path()));
        assert!(report.total_bytes > report.free_bytes && report.free_bytes > 0);
    }
}

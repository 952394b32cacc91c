//! Which files are opened, and what is said about the others.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use dorian_metadata_store::{MetadataStore, StoreError};

fn open(path: &std::path::Path) -> StoreError {
    MetadataStore::open(path).err().unwrap()
}

#[tokio::test]
async fn a_database_of_a_newer_schema_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dorian.db");
    MetadataStore::open(&path).unwrap().close().await.unwrap();
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.execute("INSERT INTO schema_versions VALUES (7, 0)", []).unwrap();
    connection.close().unwrap();
    let before = std::fs::read(&path).unwrap();
    let error = open(&path);
    assert_eq!(
        error.to_string(),
        "the data directory was written by a newer dorian (schema 7, this one knows 4); use that version or another `--data`"
    );
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn a_file_that_is_no_database_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dorian.db");
    let text = "my diary\n".repeat(1_000);
    std::fs::write(&path, &text).unwrap();
    assert!(matches!(open(&path), StoreError::NotOurs(_)));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn a_folder_that_is_missing_is_named() {
    let error = open(std::path::Path::new("/nonexistent-folder/dorian.db"));
    assert!(error.to_string().contains("/nonexistent-folder/dorian.db"), "{error}");
}

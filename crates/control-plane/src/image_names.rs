//! Names of images: `name:tag` in an environment means the image that was published under it last.

use std::collections::BTreeMap;

use metadata_store::ImageRevisionRecord;
use parking_lot::RwLock;
use types::ids::{EnvironmentId, ImageId};

#[derive(Default)]
pub struct ImageNames {
    /// (environment, tag) to its revisions, oldest first, never empty.
    tags: RwLock<BTreeMap<(EnvironmentId, String), Vec<ImageRevisionRecord>>>,
}

impl ImageNames {
    pub fn insert(&self, revision: ImageRevisionRecord) {
        let key = (revision.environment.clone(), revision.tag.clone());
        self.tags.write().entry(key).or_default().push(revision);
    }

    /// Newest first; empty for a tag that was never published.
    pub fn revisions(&self, environment: &EnvironmentId, tag: &str) -> Vec<ImageRevisionRecord> {
        let tags = self.tags.read();
        let known = tags.get(&(environment.clone(), tag.to_owned()));
        known.into_iter().flatten().rev().cloned().collect()
    }

    pub fn remove(&self, environment: &EnvironmentId, tag: &str) -> bool {
        self.tags.write().remove(&(environment.clone(), tag.to_owned())).is_some()
    }

    /// Each tag of an environment with its first and its last revision, by name.
    pub fn of_environment(&self, environment: &EnvironmentId) -> Vec<(ImageRevisionRecord, ImageRevisionRecord)> {
        let tags = self.tags.read();
        let own = tags.iter().filter(|((of, _), _)| of == environment);
        own.filter_map(|(_, revisions)| Some((revisions.first()?.clone(), revisions.last()?.clone()))).collect()
    }

    /// Each `name:tag` with the image that it means now.
    pub fn named_images(&self) -> Vec<(String, ImageId)> {
        let tags = self.tags.read();
        let newest = |revisions: &Vec<ImageRevisionRecord>| Some(revisions.last()?.image.clone());
        tags.iter().filter_map(|((_, tag), revisions)| Some((tag.clone(), newest(revisions)?))).collect()
    }
}

/// The parts of `[environment/]name:tag`; `latest` where no tag is given.
pub fn parse_tag(text: &str) -> Result<(Option<&str>, String), String> {
    let (environment, name) = match text.split_once('/') {
        Some((environment, name)) => (Some(environment), name),
        None => (None, text),
    };
    let (name, tag) = name.split_once(':').unwrap_or((name, "latest"));
    let plain = |part: &str, most: usize| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        (1..=most).contains(&part.len()) && part.bytes().all(allowed)
    };
    if !plain(name, 64) || !plain(tag, 128) || name.starts_with("im-") {
        return Err(format!(
            "`{text}` cannot name an image: write `name`, `name:tag` or `environment/name:tag`, in letters, digits, `-`, `_` and `.`, and not beginning with `im-`"
        ));
    }
    Ok((environment, format!("{name}:{tag}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_an_environment_and_a_tag_where_it_says_so() {
        assert_eq!(parse_tag("base"), Ok((None, "base:latest".to_owned())));
        assert_eq!(parse_tag("prod/base:v1.2"), Ok((Some("prod"), "base:v1.2".to_owned())));
        for bad in ["", ":v1", "a:", "a/b/c", "im-123", "a b", "a:b:c", "ä"] {
            assert!(parse_tag(bad).is_err(), "{bad}");
        }
    }
}
